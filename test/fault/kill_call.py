#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""SIGKILL of `kage call` at any instant leaves the target running and correct, also while a call of it blocks that
would never end: the same target, kills and proofs as in kill_snap.py.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, Tap, seeded
from kill_snap import Target, at_each_call, at_random, mappings, passes

FAILED = 1  # the status of kage when the call has failed


def nothing_left(box, target, before):
    box.kage("call", target.pid, "getpid")
    target.unharmed("after the last call")
    gone = [m for m in before if m not in mappings(target.pid)]
    new = [m for m in mappings(target.pid) if m not in before]
    if gone or new:
        raise Failed(f"mappings that went: {gone}, that came: {new}")


def main():
    tap = Tap()
    rng = seeded()
    with Sandbox(durable=False) as box:
        target = Target(box)
        before = mappings(target.pid)
        short = ["call", str(target.pid), "getpid"]
        endless = ["call", "--timeout", "20ms", str(target.pid), "pause"]
        for name, command, status in (("short", short, 0), ("endless", endless, FAILED)):
            tap.run(f"{name} call: killed at its k-th system call", at_each_call, box, target, rng, command, status)
            tap.run(f"{name} call: killed at random instants", at_random, box, target, rng, command, status)
        tap.run("the next call works, and nothing is left", nothing_left, box, target, before)
        tap.run("the target finds nothing wrong", passes, box, target)
    tap.done()


if __name__ == "__main__":
    main()
