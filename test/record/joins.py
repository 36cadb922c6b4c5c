#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What is written where mremap has joined two mappings is not missed (joins.c)."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, Tap, helper


def joined():
    with Sandbox(durable=False) as box:
        program = box.start([helper("record/joins")])
        box.wait_log("ready", process=program)
        done = box.kage("record", "-n", "r", "--every", "10ms", "--verify", program.pid, check=False)
        if done.returncode != 0 or done.stdout.count("changed") < 20:
            raise Failed(f"kage record: status {done.returncode}: {done.stdout[-300:]} {done.stderr}")
        if program.wait() != 0:
            raise Failed("the program could not move its memory")


def main():
    tap = Tap()
    tap.run("written after mappings were joined", joined)
    tap.done()


main()
