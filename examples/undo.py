#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A Python interpreter with undo: whatever a line does, "undo" takes it back, up to ten lines.

    $ examples/undo.py
    >>> import os, random; x = random.random()
    >>> x
    0.26433771592597743
    >>> del x; os.chdir("/")
    >>> undo
    >>> x, os.getcwd()
    (0.26433771592597743, '/home/me')

The interpreter is another process, and knows nothing of kage: before each line a twin of it is made (kage clone), and
"undo" takes it back to that, in place (kage rollback). What it has printed stays printed.
"""

import subprocess
import sys

LEVELS = 10
INTERPRETER = """
import sys
names = {}
for line in sys.stdin:
    try:
        code = compile(line, "<line>", "single")
        exec(code, names)
    except BaseException as e:
        print(f"{type(e).__name__}: {e}")
    print("\\x04", flush=True)
"""


def kage(*words):
    done = subprocess.run(["kage", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.strip())


def run(python, line):
    python.stdin.write(line + "\n")
    python.stdin.flush()
    for answer in python.stdout:
        if answer == "\x04\n":
            return
        print(answer, end="", flush=True)


def lines():
    while True:
        try:
            yield input(">>> " if sys.stdin.isatty() else "")
        except EOFError:
            return


def main():
    python = subprocess.Popen([sys.executable, "-c", INTERPRETER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    name, newest = f"undo-{python.pid}", 0
    levels = []  # numbers of twins
    for line in lines():
        if line != "undo":
            kage("clone", "--name", name, "--keep", LEVELS + 1, python.pid)
            newest += 1
            levels = (levels + [newest])[-LEVELS:]
            run(python, line)
        elif levels:
            kage("rollback", name, "--to", levels.pop())
        else:
            print("nothing to undo")
    python.stdin.close()
    python.wait()
    if newest:
        kage("drop", name)


if __name__ == "__main__":
    main()
