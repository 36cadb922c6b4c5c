#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""SIGKILL of `kage restore` at any instant leaves a whole process or none.

What was restored finds the file "go", checks itself, and ends with PASS and status 0: that is whole.
Ended without a word of its own, is none. Everything else is half alive: other endings, one that
hangs, a stub that stays.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (Failed, KAGE, Sandbox, SOAK, Tap, helper, read, seeded, state_of, status_of,
                      threads_of, wait_until)

KILLS = 80
LAST_CALLS = 50
INSTANTS = 500 if SOAK else 60
PR_SET_CHILD_SUBREAPER = 36


def children():
    return {int(p) for t in threads_of(os.getpid())
            for p in read(f"/proc/self/task/{t}/children").split()}


class Restores:
    def __init__(self, box, *command):
        self.box = box
        process = box.start(command)
        box.wait_log("ready", process=process)
        self.image = box.snap(process.pid)
        self.pid = process.pid
        process.kill()
        box.write("go", "")
        self.known = children()
        self.whole = self.none = 0

    def settle(self, when):
        """What has become of the processes that the killed kage left, which are ours now."""
        ended = {}

        def over():
            left = children() - self.known
            for pid in left:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            return not children() - self.known
        try:
            wait_until("what is left to end", over, 20, 0.001)
        except Failed:
            left = children() - self.known
            states = {p: [(t, state_of(p, t), status_of(p, t).get("TracerPid"))
                          for t in threads_of(p)] for p in left}
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise Failed(f"{when}: half alive: {states}") from None
        log = self.box.log()
        said = log.count("PASS")
        if "FAIL" in log or said > 1:
            raise Failed(f"{when}: {log}")
        for pid, status in ended.items():
            if status == 0 and said == 1 and pid == self.pid:
                continue
            # A stub that finds itself alone ends, by a signal or with a status of its own, and so do
            # helpers of kage. The program would have said something.
            if status != 0 and (not said or pid != self.pid):
                continue
            raise Failed(f"{when}: process {pid} (the program's is {self.pid}) ended with {status}; "
                         f"log: {log}")
        self.whole += said
        self.none += not said
        # Only appended since: cut it back for the next life.
        with open(self.box.path("log"), "r+", encoding="ascii") as f:
            f.truncate(log.index("ready\n") + len("ready\n"))

    def killat(self, k):
        done = subprocess.run([helper("fault/killat"), str(k), KAGE, "restore", "--detach", self.image],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, env=self.box.env, timeout=120,
                              check=False)
        return done.stderr.strip().splitlines()[-1]


def count_calls(restores):
    line = restores.killat(0)
    restores.settle(line)
    found = re.search(r"(\d+) calls, status 0", line)
    if not found or restores.whole != 1:
        raise Failed(f"kage restore under killat: {line}")
    return int(found.group(1))


def at_each_call(restores, rng):
    total = count_calls(restores)
    stride = 1 if SOAK else max(1, total // KILLS)
    first = 1 if SOAK else 1 + rng.randrange(stride)
    print(f"# {total} calls, every {stride} from {first} on")
    # All of the last ones too: that is where a process comes to life.
    for k in sorted(set(range(first, total + 1, stride)) | set(range(max(1, total - 25), total + 1))):
        line = restores.killat(k)
        restores.settle(f"k={k}: {line}")
    print(f"# {restores.whole} whole, {restores.none} none")
    if not restores.none:
        raise Failed("no kill was early enough to matter")


def at_last_calls(box):
    """One thread, which sleeps in a call on a socket: it runs already when kage puts the socket's timeout
    back, and looks at it when its call has ended."""
    restores = Restores(box, helper("kind/calls"), "recv_timeout", "0.5")
    total = count_calls(restores)
    for k in range(total - LAST_CALLS, total + 1):
        restores.settle(f"k={k}: {restores.killat(k)}")
    print(f"# {restores.whole} whole, {restores.none} none")
    if not restores.none or restores.whole < 2:
        raise Failed("all kills were early, or all late")


def at_random(restores, rng):
    begin = time.monotonic()
    restores.killat(0)
    restores.settle("first")
    begin = time.monotonic()
    done = subprocess.run([KAGE, "restore", "--detach", restores.image], env=restores.box.env,
                          stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
    whole = time.monotonic() - begin
    restores.settle("second")
    if done.returncode != 0:
        raise Failed(f"kage restore: status {done.returncode}")
    for i in range(INSTANTS):
        after = rng.uniform(0, whole * 1.1)
        kage = subprocess.Popen([KAGE, "restore", "--detach", restores.image], env=restores.box.env,
                                stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        time.sleep(after)
        kage.kill()
        kage.wait()
        restores.settle(f"instant {i}, killed after {after * 1e3:.3f} ms of {whole * 1e3:.1f}")


def main():
    tap = Tap()
    rng = seeded()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with Sandbox(durable=False) as box:
        restores = Restores(box, helper("fault/busy"))
        tap.run("killed at its k-th system call", at_each_call, restores, rng)
        tap.run("killed at random instants", at_random, restores, rng)
        tap.run("the store is as it was", box.fsck)
    with Sandbox(durable=False) as box:
        tap.run("killed while a socket's timeout is another", at_last_calls, box)
    tap.done()


if __name__ == "__main__":
    main()
