#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Java: loops that the compiler made hot and must take back, garbage that is collected, timers, files."""

import subprocess
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, need
from sequence import test_program

PROGRAM = r'''
import java.io.*;
import java.lang.management.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicLong;

public class Main {
	static final int KEPT = 2000;
	static final AtomicLong ticks = new AtomicLong();
	static volatile boolean over, another;

	// As long as there is one kind of step, the compiler need not ask which.
	static class Step {
		long following(long x) { return x * 16807 % 2147483647; }
	}
	static class OtherStep extends Step {
		long following(long x) { return (x * 16807L) % ((1L << 31) - 1); }
	}

	static byte[] textOf(long x) {
		byte[] text = new byte[(int) (x % 5000)];
		Arrays.fill(text, (byte) x);
		return text;
	}

	static void wrong(String what) {
		System.out.println("wrong: " + what);
		Runtime.getRuntime().halt(9);
	}

	static void check(Map<Long, byte[]> kept, long[] numbers, long n) {
		for (long i = Math.max(1, n - KEPT + 1); i <= n; i++) {
			long x = numbers[(int) (i % KEPT)];
			if (!Arrays.equals(kept.get(x), textOf(x))) wrong("text of " + x);
			if (i > Math.max(1, n - KEPT + 1) && x != new Step().following(numbers[(int) ((i - 1) % KEPT)]))
				wrong("number " + i);
		}
		if (kept.size() != Math.min(n, KEPT)) wrong("it keeps " + kept.size());
	}

	static void work(String name, long x) {
		Map<Long, byte[]> kept = new HashMap<>();
		long[] numbers = new long[KEPT];
		Step step = new Step();
		long n = 0;
		try (FileOutputStream out = new FileOutputStream(name, true)) {
			while (!over) {
				if (another && step.getClass() == Step.class) step = new OtherStep();
				x = step.following(x);
				n++;
				out.write((n + " " + x + "\n").getBytes());
				long y = x, z = x;
				for (int i = 0; i < 2000; i++) y = step.following(y);
				for (int i = 0; i < 2000; i++) z = step.following(z);
				if (y != z) wrong("the same twice: " + y + " " + z);
				kept.remove(numbers[(int) (n % KEPT)]);
				numbers[(int) (n % KEPT)] = x;
				kept.put(x, textOf(x));
			}
		} catch (IOException e) { wrong(e.toString()); }
		check(kept, numbers, n);
	}

	// Loops that the compiler makes vector instructions of; what they come to is known.
	static int[] mix(int[] a, int[] b, int k) {
		for (int i = 0; i < a.length; i++) a[i] = b[i] * k + (b[i] ^ i);
		for (int i = 0; i < a.length; i++) a[i] = (a[i] << 3) - b[i];
		return a;
	}

	static void vectors() {
		int[] a = new int[2048], b = new int[2048], first = new int[2048];
		for (int i = 0; i < b.length; i++) b[i] = i * 7919;
		mix(first, b, 31);
		while (!over)
			if (!Arrays.equals(mix(a, b, 31), first)) wrong("vectors");
	}

	static long collections() {
		return ManagementFactory.getGarbageCollectorMXBeans().stream()
			.mapToLong(GarbageCollectorMXBean::getCollectionCount).sum();
	}

	public static void main(String[] args) throws Exception {
		ScheduledExecutorService timer = Executors.newScheduledThreadPool(2);
		timer.scheduleAtFixedRate(ticks::incrementAndGet, 0, 3, TimeUnit.MILLISECONDS);
		new Thread(Main::vectors).start();
		Thread[] threads = new Thread[3];
		for (int i = 0; i < 3; i++) {
			final int k = i;
			threads[i] = new Thread(() -> work("out." + k, k + 19));
			threads[i].start();
		}
		while (!new File("go").exists()) Thread.sleep(5);
		another = true;  // another class: what is compiled is no longer right
		long enough = ticks.get() + 3, full = collections() + 3;
		while (ticks.get() < enough || collections() < full) Thread.sleep(5);
		System.gc();
		over = true;
		for (Thread t : threads) t.join();
		timer.shutdown();
		System.out.println("ended well");
	}
}
'''
# Lines of -XX:+PrintCompilation: level 4 is the optimising compiler.
COMPILED = re.compile(r"^ *\d+ +\d+ .{5} +4 +Main::work ", re.M)
TAKEN_BACK = re.compile(COMPILED.pattern + ".*made not entrant", re.M)


def prepare(box):
    need("java", "javac")
    subprocess.run(["javac", "-d", box.dir, box.write("Main.java", PROGRAM)], check=True,
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def judge(before, after):
    """The loops were compiled before the image, and had to be compiled anew in the life from it."""
    if len(TAKEN_BACK.findall(after)) <= len(TAKEN_BACK.findall(before)):
        raise Failed(f"no compiled code was taken back: {after[-2000:]}")
    if "ended well" not in after[len(before):]:
        raise Failed(f"it did not end well: {after[-2000:]}")


if __name__ == "__main__":
    test_program("java", ["java", "-Xmx64m", "-XX:+PrintCompilation", "-cp", ".", "Main"],
                 {f"out.{i}": i + 19 for i in range(3)}, prepare, warm=COMPILED.search, judge=judge)
