#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""SIGKILL of a keeper at any instant, while it makes, holds and wakes twins: the program goes on, unharmed; twins end;
lives are whole or not there. While it takes the program back, that goes on whole, or ends: it is never half what it was.

The keeper is killed when it begins its k-th system call, for every k with KAGE_SOAK=1, else for some; and at random
instants. Twins are made of the program of kill_snap.py, which is busy and checks itself; woken are those of one with
many threads that wait (test/kind/threads.c).
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, descriptors_of, KAGE, Process, Sandbox, SOAK, Tap, helper, seeded, status_of, threads_of, twins_of, wait_until
from kill_snap import Target, mappings, passes

KILLS = 50        # by system call, when not all
TRIGGER_KILLS = 12  # of a keeper that traces, and is traced itself
INSTANTS = 500 if SOAK else 40
THREADS = 42      # of threads.c


class Keeper:
    """A keeper of NAME that stays below us, killed at its K-th call (0: never)."""

    def __init__(self, box, k=0):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection = ours

        def place():
            os.dup2(theirs.fileno(), 3)
        # Its only wish is that there is somebody to serve, so that it does not end.
        self.popen = subprocess.Popen([helper("fault/killat"), str(k), KAGE, "twins", "--be-keeper-of", "k", "--stay"],
                                      env=box.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.PIPE, text=True, pass_fds=(3,), preexec_fn=place)
        theirs.close()
        self.said = []
        self.reader = threading.Thread(target=lambda: self.said.extend(self.popen.stderr.read().splitlines()))
        self.reader.start()
        path = box.path("run/k.twins")
        wait_until("the keeper", lambda: self.popen.poll() is not None or os.path.exists(path))

    def end(self):
        """The last line of killat."""
        self.connection.close()
        self.popen.wait(120)
        self.reader.join()
        self.popen.stderr.close()
        return self.said[-1] if self.said else ""


def make(box, target):
    box.kage("clone", "-n", "k", target.pid, check=False)
    box.kage("drop", "k", check=False)


def wake(box, target):
    box.kage("clone", "-n", "k", target.pid, check=False)
    box.kage("wake", "-d", "k", check=False)
    box.kage("wake", "-d", "--pid", "own", "k", check=False)
    box.kage("drop", "k", check=False)


def whole_or_gone(target, when):
    """What is left of TARGET's copies are whole lives, which end here."""
    def settled():
        for pid in twins_of(target.pid):
            status = status_of(pid)
            if status and (status["Name"] == "kage-twin" or status["TracerPid"] != "0"):
                return False
        return True
    wait_until(f"{when}: twins and half lives to end", settled)
    for pid in twins_of(target.pid):
        try:
            life = Process(pid)
        except ProcessLookupError:
            continue
        n = len(threads_of(pid))
        life.signal(signal.SIGKILL)
        os.close(life.pidfd)
        if n < THREADS:
            raise Failed(f"{when}: a life with {n} threads")


def at_each_call(box, target, rng, what, kills=KILLS):
    keeper = Keeper(box)
    what(box, target)
    line = keeper.end()
    whole_or_gone(target, "without a kill")
    total = re.search(r"(\d+) calls, status 0", line)
    if not total:
        raise Failed(f"the keeper under killat: {line}")
    total = int(total.group(1))
    stride = 1 if SOAK else max(1, total // kills)
    first = 1 if SOAK else 1 + rng.randrange(stride)
    print(f"# {total} calls, every {stride} from {first} on")
    killed = 0
    for k in range(first, total + 1, stride):
        keeper = Keeper(box, k)
        what(box, target)
        line = keeper.end()
        killed += "killed" in line
        box.kage("drop", "k", check=False)  # of a keeper that has come in its place
        target.unharmed(f"k={k}: {line}")
        whole_or_gone(target, f"k={k}: {line}")
    if killed < (total // stride) / 2:
        raise Failed(f"only {killed} kills")


def at_random(box, target, rng, what):
    begin = time.monotonic()
    what(box, target)
    whole = time.monotonic() - begin
    for i in range(INSTANTS):
        after = rng.uniform(0, whole)
        worker = threading.Thread(target=what, args=(box, target))
        worker.start()
        time.sleep(after)
        for pid in keepers(box):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        worker.join()
        box.kage("drop", "k", check=False)
        when = f"instant {i}, killed after {after * 1e3:.3f} ms of {whole * 1e3:.1f}"
        target.unharmed(when)
        whole_or_gone(target, when)


def keepers(box):
    """Of this box: who holds the lock of the name."""
    found = []
    lock = box.path("run/.k.lock")
    for pid in os.listdir("/proc"):
        try:
            if pid.isdigit() and b"--be-keeper-of" in open(f"/proc/{pid}/cmdline", "rb").read() and any(
                    os.readlink(f"/proc/{pid}/fd/{fd}") == lock for fd in os.listdir(f"/proc/{pid}/fd")):
                found.append(int(pid))
        except OSError:
            pass
    return found


def held(box, target):
    """Killed while it holds twins, the target ends first or last."""
    for _ in range(10):
        box.clone(target.pid, name="k")
        box.clone(target.pid, name="k")
        for pid in keepers(box):
            os.kill(pid, signal.SIGKILL)
        target.unharmed("its keeper was killed")
        whole_or_gone(target, "its keeper was killed")


def nothing_left(box, target, before):
    gone = [m for m in before if m not in mappings(target.pid)]
    new = [m for m in mappings(target.pid) if m not in before]
    if gone or new:
        raise Failed(f"mappings that went: {gone}, that came: {new}")


class Waiting:
    """It checks itself when it is told to go on."""

    def __init__(self, box):
        self.box = box
        self.process = box.start([helper("kind/threads")])
        box.wait_log("ready", process=self.process)
        self.pid = self.process.pid

    def unharmed(self, when):
        if not self.process.alive():
            raise Failed(f"{when}: it ended: {self.box.log()}")
        if status_of(self.pid).get("TracerPid") != "0":
            raise Failed(f"{when}: still traced")


class Undone:
    """A program that is taken back: it may end with its keeper. Then there is another one."""

    def __init__(self, box):
        self.box = box
        self.n_ended = 0
        self.begin()

    def begin(self):
        self.process = self.box.start([helper("kind/threads")], log=f"log{self.n_ended}")
        self.box.wait_log("ready", log=f"log{self.n_ended}", process=self.process)
        self.pid = self.process.pid
        self.before = (mappings(self.pid), descriptors_of(self.pid), sorted(threads_of(self.pid)))

    def unharmed(self, when):
        if self.process.alive():
            if status_of(self.pid).get("TracerPid") != "0":
                raise Failed(f"{when}: still traced")
            now = (mappings(self.pid), descriptors_of(self.pid), sorted(threads_of(self.pid)))
            if now != self.before:
                raise Failed(f"{when}: it was {self.before}, and is {now}")
            return
        if self.process.wait() != -signal.SIGKILL:
            raise Failed(f"{when}: it ended with {self.process.wait()}")
        self.n_ended += 1
        self.begin()


def roll_back(box, target):
    box.kage("clone", "-n", "k", target.pid, check=False)
    box.kage("rollback", "k", check=False)
    box.kage("rollback", "k", check=False)
    box.kage("drop", "k", check=False)


def trigger(box, target):
    """Its threads meet the first all the time; the others do something to it."""
    for when in (["write", "--max", "20", "--do", "count"], ["read", "--count", "20", "--do", "clone"],
                 ["clock_nanosleep", "--max", "2", "--do", "call:getpid"]):
        box.kage("on", "-n", "k", target.pid, "--call", *when, check=False)
    time.sleep(0.1)  # it works; nobody can tell when something is met
    box.kage("off", "k", check=False)
    box.kage("drop", "k", check=False)


def last_judgement(box, target):
    print(f"# {target.n_ended} programs ended with their keeper")
    if not target.n_ended:
        raise Failed("no keeper was killed in the middle")
    box.write("go", "")
    if target.process.wait() != 0 or "PASS" not in box.log(f"log{target.n_ended}"):
        raise Failed(f"the log: {box.log(f'log{target.n_ended}')}")


def last_life(box, target):
    name = box.clone(target.pid, name="k")
    life = box.wake(name)
    box.kage("drop", "k")
    box.write("go", "")
    if life.wait() != 0 or target.process.wait() != 0 or box.log().count("PASS") != 2:
        raise Failed(f"the log: {box.log()}")


def main():
    tap = Tap()
    rng = seeded()
    with Sandbox(durable=False) as box:
        target = Target(box)
        before = mappings(target.pid)
        tap.run("making: killed at its k-th system call", at_each_call, box, target, rng, make)
        tap.run("making: killed at random instants", at_random, box, target, rng, make)
        tap.run("triggers: killed at its k-th system call", at_each_call, box, target, rng, trigger,
                TRIGGER_KILLS)
        tap.run("triggers: killed at random instants", at_random, box, target, rng, trigger)
        tap.run("holding", held, box, target)
        tap.run("nothing is left in the target", nothing_left, box, target, before)
        tap.run("the target finds nothing wrong", passes, box, target)
    with Sandbox(durable=False) as box:
        target = Waiting(box)
        tap.run("waking: killed at its k-th system call", at_each_call, box, target, rng, wake)
        tap.run("waking: killed at random instants", at_random, box, target, rng, wake)
        tap.run("a last life and the target find nothing wrong", last_life, box, target)
    with Sandbox(durable=False) as box:
        target = Undone(box)
        tap.run("taking back: killed at its k-th system call", at_each_call, box, target, rng, roll_back)
        tap.run("taking back: killed at random instants", at_random, box, target, rng, roll_back)
        tap.run("the last one finds nothing wrong", last_judgement, box, target)
    tap.done()


if __name__ == "__main__":
    main()
