#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A static program of musl with many threads (many_threads.c)."""

import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import ROOT, need
from sequence import test_program

TEAMS = 12  # of five threads each


def prepare(box):
    need("musl-gcc")
    subprocess.run(["musl-gcc", "-static", "-O2", "-pthread", "-o", box.path("program"),
                    os.path.join(ROOT, "test/programs/many_threads.c")], check=True)


if __name__ == "__main__":
    test_program("musl", lambda box: [box.path("program"), str(TEAMS)],
                 {f"out.{i}": i + 1 for i in range(TEAMS)}, prepare, landmarks=["__timedwait_cp"])
