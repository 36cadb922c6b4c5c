#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An image of a program with much memory is taken while it runs, and is of one instant all the same.

The program writes a running number to one page after the other; at its end it looks whether every page
holds the number that it must.
"""

import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, Tap, descriptors_of, read

PROGRAM = """
import os, signal, struct, sys
PAGES, STEP = 25600, 7919
memory = bytearray(PAGES << 12)
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
n = PAGES
for page in range(PAGES):
    struct.pack_into("<Q", memory, page << 12, page)
print("ready", flush=True)
while not ended:
    n += 1
    struct.pack_into("<Q", memory, n * STEP % PAGES << 12, n)
back = pow(STEP, -1, PAGES)
for page in range(PAGES):
    # The newest number up to N that falls on this page; none did before the first round was over.
    k = n - (n - page * back) % PAGES
    found = struct.unpack_from("<Q", memory, page << 12)[0]
    if found != (k if k > PAGES else page):
        print("page", page, "holds", found, "not", k, "of", n)
        sys.exit(1)
print("PASS", n, flush=True)
"""


def tracked(pid):
    return [line for line in read(f"/proc/{pid}/smaps").splitlines()
            if line.startswith("VmFlags:") and {"um", "uw"} & set(line.split())]


def snap(box, _name):
    program = box.start(["/usr/bin/python3", "-c", PROGRAM])
    box.wait_log("ready", process=program)
    descriptors = descriptors_of(program.pid)
    images = []
    for _ in range(3):
        time.sleep(0.1)
        images.append(box.snap(program.pid))
    if tracked(program.pid) or descriptors_of(program.pid) != descriptors:
        raise Failed(f"left behind: {tracked(program.pid)[:2]} {descriptors_of(program.pid)}")
    program.signal(signal.SIGTERM)
    if program.wait(120) != 0 or "PASS" not in box.log():
        raise Failed(f"the program found: {box.log()}")
    for image in images:
        with box.restore(image) as life:
            time.sleep(0.2)
            life.process.signal(signal.SIGTERM)
            status = life.wait(120)
        if status != 0:
            raise Failed(f"the life of {image}: status {status}, {box.log()[-500:]}")


def main():
    tap = Tap()
    with Sandbox(durable=False) as box:
        tap.run("a large program, three images and lives", snap, box, None)
    tap.done()


if __name__ == "__main__":
    main()
