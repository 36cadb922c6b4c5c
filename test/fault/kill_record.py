#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""SIGKILL of `kage record` at any instant leaves the target running and correct, and the history whole.

kage is killed when it begins its k-th system call, for every k with KAGE_SOAK=1, else for every
STRIDE-th from a random first on; and at random instants. After each kill the target (busy.c) goes on with nothing
wrong, nothing of it is tracked any more, no twin of it is left, every image that was announced is there, and the next
recording goes on in the same history. Half of the recordings at random instants thin the history
meanwhile.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (Failed, KAGE, Sandbox, SOAK, Tap, helper, read, seeded, twins_of,
                      wait_until)
from kill_snap import Target, mappings, passes

KILLS = 40        # by system call, when not all
INSTANTS = 500 if SOAK else 40
IMAGES = 3        # of each recording
CHECKED = 20      # recordings between two checks of all bytes of the store
THIN = ["--keep-last", "6"]
RECORD = ["record", "--json", "-n", "r", "--every", "10ms"]


def tracked(pid):
    return [line for line in read(f"/proc/{pid}/smaps").splitlines()
            if line.startswith("VmFlags:") and {"um", "uw"} & set(line.split())]


class History:
    """What is known to be in the store."""

    def __init__(self, box, target):
        self.box, self.target = box, target
        self.known = 0  # the latest image that was announced

    def check(self, told, when):
        """TOLD: what a killed kage had printed; its last line may be a part of one."""
        for line in told.splitlines():
            if line.startswith('{"image"') and line.endswith("}"):
                number = json.loads(line)["number"]
                if number <= self.known:
                    raise Failed(f"{when}: image {number} after {self.known}")
                self.known = number
        self.target.unharmed(when)
        if tracked(self.target.pid):
            raise Failed(f"{when}: still tracked")
        # On Linux 6.18 a new process can stay runnable for many seconds before it runs (its schedstat tells so).
        wait_until(f"{when}: its twins to end", lambda: not twins_of(self.target.pid), 600, 0.02)
        packs = [n for n in os.listdir(os.path.join(self.box.store, "r")) if n.endswith(".kage")] \
            if self.known else []
        if self.known and f"{self.known:010d}.kage" not in packs:
            raise Failed(f"{when}: image {self.known} was announced, and is not there: {packs}")


def killat(box, k, pid):
    """The last line of killat, and what kage printed."""
    done = subprocess.run([helper("fault/killat"), str(k), KAGE, *RECORD, "-c", str(IMAGES),
                           str(pid)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, env=box.env, timeout=300, check=False)
    return done.stderr.strip().splitlines()[-1], done.stdout


def at_each_call(box, history, rng):
    line, told = killat(box, 0, history.target.pid)
    total = re.search(r"(\d+) calls, status 0", line)
    if not total:
        raise Failed(f"kage record under killat: {line}")
    history.check(told, "not killed")
    total = int(total.group(1))
    stride = 1 if SOAK else max(1, total // KILLS)
    first = 1 if SOAK else 1 + rng.randrange(stride)
    print(f"# {total} calls, every {stride} from {first} on")
    killed = 0
    for k in range(first, total + 1, stride):
        line, told = killat(box, k, history.target.pid)
        killed += "killed" in line
        history.check(told, f"k={k}: {line}")
    if killed < (total // stride) / 2:
        raise Failed(f"only {killed} kills")
    if history.known <= IMAGES:
        raise Failed("no image of those that were killed")
    box.fsck()


def whole(box, when):
    """Every byte of every image is as it was written, and every image can be reached."""
    try:
        box.fsck()
    except Failed as why:
        raise Failed(f"{when}: {why}") from None


def at_random(box, history, rng):
    for i in range(INSTANTS):
        after = rng.uniform(0, 0.5)
        thin = THIN if i % 2 else []
        kage = box.start([KAGE, *RECORD, *thin, str(history.target.pid)], log=f"told.{i}")
        time.sleep(after)
        kage.signal(signal.SIGKILL)
        kage.wait(300)  # it may be waiting for the kernel (RCU), which has been seen to take a minute
        history.check(box.log(f"told.{i}"), f"instant {i}, killed after {after * 1e3:.3f} ms {thin}")
        if i % CHECKED == CHECKED - 1:
            whole(box, f"instant {i}")
        box.started.remove(kage)
        os.close(kage.pidfd)
    box.fsck()


def goes_on(box, history, before):
    """The next recording adds to the same history, every image of which can be read."""
    done = box.kage(*RECORD, "-c", "4", "--verify", history.target.pid)
    history.check(done.stdout, "the last recording")
    box.fsck()
    if box.leftovers():
        raise Failed(f"temporary files: {box.leftovers()}")
    gone = [m for m in before if m not in mappings(history.target.pid)]
    new = [m for m in mappings(history.target.pid) if m not in before]
    if gone or new:
        raise Failed(f"mappings that went: {gone}, that came: {new}")
    for image in ("r@first", "r@latest"):
        box.kage("core", image, "-o", box.path(image))
        os.unlink(box.path(image))


def all_of(tap, rng, rung):
    with Sandbox(durable=False) as box:
        if rung:
            box.env["KAGE_TRACK"] = rung
        target = Target(box)
        before = mappings(target.pid)
        history = History(box, target)
        by = f"{rung}: " if rung else ""
        tap.run(by + "killed at its k-th system call", at_each_call, box, history, rng)
        tap.run(by + "killed at random instants", at_random, box, history, rng)
        tap.run(by + "the next recording goes on", goes_on, box, history, before)
        tap.run(by + "the target finds nothing wrong", passes, box, target)


def main():
    tap = Tap()
    rng = seeded()
    for rung in (None, "twin"):
        all_of(tap, rng, rung)
    tap.done()


if __name__ == "__main__":
    main()
