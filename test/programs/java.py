#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Java: a loop that the compiler makes hot, garbage of many threads, files."""

import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import need
from sequence import test_program

PROGRAM = r'''
import java.io.*;
import java.util.*;
public class Main {
	static long step(long x) { return x * 16807 % 2147483647; }
	static void work(String name, long x) {
		Map<Long, byte[]> junk = new HashMap<>();
		try (FileOutputStream out = new FileOutputStream(name)) {
			for (long n = 1; !new File("go").exists(); n++) {
				x = step(x);
				out.write((n + " " + x + "\n").getBytes());
				long y = x, z = x;
				for (int i = 0; i < 3000; i++) y = step(y);
				for (int i = 0; i < 3000; i++) z = step(z);
				if (y != z) System.exit(9);
				junk.put(x % 500, new byte[(int) (x % 20000)]);
			}
		} catch (IOException e) { System.exit(8); }
	}
	public static void main(String[] args) throws Exception {
		Thread[] threads = new Thread[3];
		for (int i = 0; i < 3; i++) {
			final int k = i;
			threads[i] = new Thread(() -> work("out." + k, k + 19));
			threads[i].start();
		}
		for (Thread t : threads) t.join();
	}
}
'''


def prepare(box):
    need("java", "javac")
    subprocess.run(["javac", "-d", box.dir, box.write("Main.java", PROGRAM)], check=True,
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    test_program("java", ["java", "-Xmx128m", "-cp", ".", "Main"], {f"out.{i}": i + 19 for i in range(3)},
                 prepare)
