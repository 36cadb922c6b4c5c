#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""python3 with threads that compute and write files."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from sequence import test_program

PROGRAM = '''
import os, threading, sys
def work(name, x):
    junk = []
    with open(name, "w", buffering=1) as out:
        n = 0
        while not os.path.exists("go"):
            n += 1
            x = x * 16807 % 2147483647
            out.write(f"{n} {x}\\n")
            junk.append([n] * (x % 1000))       # memory that comes and goes
            if len(junk) > 500:
                del junk[::2]
            if any(row[0] != row[-1] for row in junk[-20:] if row):
                os._exit(9)
threads = [threading.Thread(target=work, args=(f"out.{i}", i + 1)) for i in range(4)]
for t in threads:
    t.start()
for t in threads:
    t.join()
'''

if __name__ == "__main__":
    test_program("python3", lambda box: ["/usr/bin/python3", box.write("program.py", PROGRAM)],
                 {f"out.{i}": i + 1 for i in range(4)})
