#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""SIGKILL of `kage snap` at any instant leaves the target running and correct.

kage is killed when it begins its k-th system call, for every k with KAGE_SOAK=1, else for every
STRIDE-th from a random first on; and at random instants. The target (busy.c) has a dozen threads that
check themselves; after each kill every one of them must go on, with nothing wrong.
"""

import os
import re
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (Failed, KAGE, Sandbox, SOAK, Tap, helper, read, seeded, state_of, status_of,
                      threads_of, wait_until)

WORKERS = 11
KILLS = 60        # by system call, when not all
INSTANTS = 500 if SOAK else 80


class Target:
    """The busy program and what it tells of itself."""

    def __init__(self, box):
        self.box = box
        self.process = box.start([helper("fault/busy"), "shared"])
        box.wait_log("ready", process=self.process)
        self.pid = self.process.pid
        self.known = (0,) * WORKERS  # what was wrong has been told already

    def counters(self):
        numbers = struct.unpack(f"{WORKERS * 2}Q", read(self.box.path("progress"), True)[:WORKERS * 16])
        return numbers[::2], numbers[1::2]

    def unharmed(self, when):
        """Everything goes on: every worker's count grows from now on, and nothing is wrong."""
        before, _ = self.counters()

        def goes_on():
            now, wrong = self.counters()
            if wrong != self.known:
                was, self.known = self.known, wrong
                raise Failed(f"wrong: {was} -> {wrong}")
            if not self.process.alive():
                raise Failed(f"the target ended; {self.process.popen.poll()} {self.box.log()}")
            return all(n > b for n, b in zip(now, before))
        try:
            wait_until("every thread to go on", goes_on, 20, 0.001)
        except Failed as why:
            states = {t: (state_of(self.pid, t), status_of(self.pid, t).get("TracerPid"))
                      for t in threads_of(self.pid)}
            raise Failed(f"{when}: {why}; counts {before} -> {self.counters()[0]}; {states}") from None
        if status_of(self.pid).get("TracerPid") != "0":
            raise Failed(f"{when}: still traced")


def mappings(pid):
    return sorted(line.split()[0] + line[line.index(" "):] for line in read(f"/proc/{pid}/maps").splitlines()
                  if "/" in line or "[" in line)


SNAP = ["snap", "-n", "k"]


def killat(box, k, command):
    done = subprocess.run([helper("fault/killat"), str(k), KAGE, *command],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=box.env, timeout=120, check=False)
    return done.stderr.strip().splitlines()[-1]


def at_each_call(box, target, rng, command, status=0):
    """COMMAND is one of kage's that ends with STATUS."""
    line = killat(box, 0, command)
    total = re.search(rf"(\d+) calls, status {status}", line)
    if not total:
        raise Failed(f"kage {command} under killat: {line}")
    total = int(total.group(1))
    stride = 1 if SOAK else max(1, total // KILLS)
    first = 1 if SOAK else 1 + rng.randrange(stride)
    print(f"# {total} calls, every {stride} from {first} on")
    killed = 0
    for k in range(first, total + 1, stride):
        line = killat(box, k, command)
        killed += "killed" in line
        target.unharmed(f"k={k}: {line}")
    if killed < (total // stride) / 2:
        raise Failed(f"only {killed} kills")


def at_random(box, target, rng, command, status=0):
    took = []
    for _ in range(5):
        begin = time.monotonic()
        done = box.kage(*command, check=False)
        if done.returncode != status:
            raise Failed(f"status {done.returncode}: {done.stderr}")
        took.append(time.monotonic() - begin)
    whole = sorted(took)[2]
    for i in range(INSTANTS):
        after = rng.uniform(0, whole * 1.1)
        kage = box.start([KAGE, *command], log="kage.log")
        time.sleep(after)
        kage.signal(signal.SIGKILL)
        kage.wait()
        target.unharmed(f"instant {i}, killed after {after * 1e3:.3f} ms of {whole * 1e3:.1f}")
        box.started.remove(kage)
        os.close(kage.pidfd)


def nothing_left(box, target, before):
    box.kage("snap", "-n", "last", target.pid)
    target.unharmed("after the last image")
    box.fsck()
    if box.leftovers():
        raise Failed(f"temporary files: {box.leftovers()}")
    gone = [m for m in before if m not in mappings(target.pid)]
    new = [m for m in mappings(target.pid) if m not in before]
    if gone or new:
        raise Failed(f"mappings that went: {gone}, that came: {new}")


def passes(box, target):
    box.write("go", "")
    status = target.process.wait()
    if status != 0 or "PASS" not in box.log():
        raise Failed(f"status {status}: {box.log()}")


def main():
    tap = Tap()
    rng = seeded()
    with Sandbox(durable=False) as box:
        target = Target(box)
        before = mappings(target.pid)
        tap.run("killed at its k-th system call", at_each_call, box, target, rng,
                [*SNAP, str(target.pid)])
        tap.run("killed at random instants", at_random, box, target, rng, [*SNAP, str(target.pid)])
        tap.run("the next image works, and nothing is left", nothing_left, box, target, before)
        tap.run("the target finds nothing wrong", passes, box, target)
    tap.done()


if __name__ == "__main__":
    main()
