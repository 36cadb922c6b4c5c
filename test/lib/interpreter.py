# SPDX-License-Identifier: Apache-2.0
"""A python3 as sandboxes drive it: it executes each line that it gets on a pipe and answers on another."""

import json
import subprocess

from kagetest import Failed, Process

PYTHON = "/usr/bin/python3"
INTERPRETER = """
import json, os, signal, socket, subprocess, sys, tempfile, threading, time, ctypes, decimal, email, sqlite3
state = {}
for line in sys.stdin:
    try:
        exec(line)
        print(json.dumps(state, sort_keys=True), flush=True)
    except Exception as e:
        print(json.dumps(repr(e)), flush=True)
"""


class Interpreter:
    def __init__(self, box, prepare=None):
        self.box = box
        self.popen = subprocess.Popen([PYTHON, "-c", INTERPRETER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True, cwd=box.dir, env=box.env, preexec_fn=prepare)
        self.process = box.hold(Process(self.popen.pid, self.popen))
        self.pid = self.popen.pid
        self.do("state['ready'] = 1")

    def do(self, line):
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()
        answer = self.popen.stdout.readline()
        if not answer:
            raise Failed(f"it ended: {self.popen.wait()}")
        return json.loads(answer)

    def expect(self, line, **state):
        got = self.do(line)
        if got != dict(ready=1, **state):
            raise Failed(f"after {line!r} it has {str(got)[:500]}, not {state}")

    def close(self):
        self.popen.stdin.close()
        if self.popen.wait(60) != 0:
            raise Failed(f"it ended with {self.popen.returncode}")
        self.popen.stdout.close()
