#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""What can go wrong around kage: full disks, stores that cannot be written, targets that end or exec in
the middle, two kages on one target, SIGINT at any time. One clear line each, nothing lost, nothing
left behind: no stopped target, no temporary file, no stub.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (Failed, KAGE, Sandbox, Skip, Tap, helper, read, seeded, state_of, status_of,
                      threads_of, wait_until)

BIG_MIB = 96


def one_line(done, *words, status=(1,)):
    """Kage failed as it should: STATUS, one line that holds each of WORDS."""
    line = done.stderr.strip()
    if done.returncode not in status:
        raise Failed(f"status {done.returncode}, {done.stdout} {line}")
    if len(line.splitlines()) != 1:
        raise Failed(f"not one line: {line!r}")
    if not line.startswith("kage"):
        raise Failed(f"whose line is that? {line!r}")
    for word in words:
        if word.lower() not in line.lower():
            raise Failed(f"'{word}' is not told: {line}")


def at_ease(process):
    """The target is as if nothing had happened: alive, not stopped, not traced."""
    if not process.alive():
        raise Failed(f"the target ended: {process.popen.poll()}")
    for tid in threads_of(process.pid):
        if state_of(process.pid, tid) in "tT" or status_of(process.pid, tid).get("TracerPid") != "0":
            raise Failed(f"thread {tid}: {state_of(process.pid, tid)}, traced by "
                         f"{status_of(process.pid, tid).get('TracerPid')}")


def clean(box):
    if os.path.isdir(box.store):
        box.fsck()
        if box.leftovers():
            raise Failed(f"left in the store: {box.leftovers()}")


def passes(box, process):
    box.write("go", "")
    status = process.wait()
    if status != 0 or "PASS" not in box.log():
        raise Failed(f"status {status}: {box.log()}")


def big(box, mib=BIG_MIB):
    process = box.start([helper("fault/big"), str(mib)])
    box.wait_log("ready", process=process)
    return process


class Mounted:
    """A small tmpfs at the sandbox's store."""

    def __init__(self, box, options):
        self.at = box.store
        os.makedirs(self.at, mode=0o700, exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "kage-test", self.at], check=False,
                          stderr=subprocess.PIPE).returncode != 0:
            raise Skip("mounting needs root")
        os.chmod(self.at, 0o700)

    def __enter__(self):
        return self

    def remount(self, options):
        subprocess.run(["mount", "-o", "remount," + options, self.at], check=True)

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.at], check=False)


def full_disk():
    with Sandbox() as box, Mounted(box, "size=4m"):
        process = big(box, 24)
        for _ in range(3):
            one_line(box.kage("snap", "-n", "t", process.pid, check=False), "no space")
            at_ease(process)
        # --kill only once the image is safe.
        one_line(box.kage("snap", "-n", "t", "--kill", process.pid, check=False), "no space")
        at_ease(process)
        clean(box)
        if box.kage("log", "t", check=False).stdout.strip():
            raise Failed("an image that was not written is listed")
        small = box.start(["sleep", "1000"])
        box.snap(small.pid, name="small")  # there is still room for this one
        clean(box)
        passes(box, process)


def unwritable_store():
    with Sandbox() as box, Mounted(box, "size=4m"):
        process = box.start(["sleep", "1000"])
        box.snap(process.pid)
        here = os.listdir(box.store)
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            if box.store not in mounts.read():
                raise Skip("no mount of ours")
        mounted = Mounted.__new__(Mounted)
        mounted.at = box.store
        mounted.remount("ro")
        one_line(box.kage("snap", "-n", "t", process.pid, check=False), "read-only")
        at_ease(process)
        if os.listdir(box.store) != here:
            raise Failed("the store changed")
        clean(box)
        # What is in it can still be used.
        process.kill()
        life = box.restore("t@1")
        life.kill()


def store_is_a_file():
    with Sandbox() as box:
        process = box.start(["sleep", "1000"])
        box.write("store", "not a store")
        one_line(box.kage("snap", "-n", "t", process.pid, check=False), box.store)
        at_ease(process)
        if read(box.store) != "not a store":
            raise Failed("somebody wrote to it")


def ends_in_the_middle(rng):
    with Sandbox() as box:
        outcomes = {0: 0, 1: 0}
        for _ in range(8):
            process = big(box, 48)
            kage = box.start([KAGE, "snap", "-n", "t", str(process.pid)], log="kage.log")
            time.sleep(rng.uniform(0, 0.08))
            process.kill()
            status = kage.wait()
            if status not in outcomes:
                raise Failed(f"status {status}: {box.log('kage.log')}")
            outcomes[status] += 1
            os.unlink(box.path("log"))
        lines = [l for l in box.log("kage.log").splitlines() if l.startswith("kage")]
        if len(lines) != outcomes[1]:
            raise Failed(f"{outcomes[1]} failures, told as: {box.log('kage.log')}")
        clean(box)
        print(f"# {outcomes[0]} images, {outcomes[1]} came too late")


def execs_in_the_middle():
    with Sandbox() as box:
        process = box.start([helper("fault/execs")])
        box.wait_log("ready", process=process)
        good = 0
        for _ in range(40):
            done = box.kage("snap", "-n", "t", process.pid, check=False)
            if done.returncode == 0:
                good += 1
            else:
                one_line(done)
                if "executed another program" not in done.stderr:
                    raise Failed(f"an exec is told as: {done.stderr}")
            if not process.alive():
                raise Failed(f"it ended: {process.popen.poll()}; {done.stderr}")
        clean(box)
        if not good:
            raise Failed("not one image")
        passes(box, process)


def two_at_once(rng):
    with Sandbox() as box:
        process = box.start([helper("fault/busy")])
        box.wait_log("ready", process=process)
        good = 0
        for i in range(15):
            kages = []
            for _ in range(2):
                kages.append(subprocess.Popen([KAGE, "snap", "-n", "t", str(process.pid)], env=box.env,
                                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                              stderr=subprocess.PIPE, text=True))
                time.sleep(rng.uniform(0, 0.01))
            for kage in kages:
                _, err = kage.communicate(timeout=60)
                done = subprocess.CompletedProcess([], kage.returncode, "", err)
                if kage.returncode == 0:
                    good += 1
                else:
                    one_line(done)
            at_ease_eventually(process)
        if good < 15:
            raise Failed(f"only {good} images of 30")
        listed = box.kage("log", "--json", "t").stdout.count('"image"')
        if listed != good:
            raise Failed(f"{good} images were taken, {listed} are listed")
        clean(box)
        passes(box, process)


def at_ease_eventually(process):
    def good():
        try:
            at_ease(process)
            return True
        except Failed:
            return False
    wait_until("the target to be let go", good, 10)


def interrupted(rng, number):
    """SIGINT or SIGTERM while a large image is taken: undone, and kage ends by it (or was done)."""
    with Sandbox() as box:
        process = big(box)
        begin = time.monotonic()
        box.snap(process.pid)
        whole = time.monotonic() - begin
        done = interrupted_ones = 0
        for _ in range(12):
            kage = subprocess.Popen([KAGE, "snap", "-n", "t", str(process.pid)], env=box.env,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True)
            time.sleep(rng.uniform(0.01, whole))
            kage.send_signal(number)
            out, err = kage.communicate(timeout=60)
            if kage.returncode == 0:
                done += 1
            elif kage.returncode == -number:
                interrupted_ones += 1
                if len(err.strip().splitlines()) > 1:
                    raise Failed(f"more than one line: {err!r}")
            else:
                raise Failed(f"status {kage.returncode}: {out} {err}")
            at_ease(process)
        clean(box)
        listed = box.kage("log", "--json", "t").stdout.count('"image"')
        if listed != done + 1:
            raise Failed(f"{done + 1} images were taken, {listed} are listed")
        if not interrupted_ones:
            raise Failed("it was never interrupted")
        print(f"# {done} were done, {interrupted_ones} interrupted")
        passes(box, process)


def our_children():
    return {int(p) for t in threads_of(os.getpid())
            for p in read(f"/proc/self/task/{t}/children").split()}


def interrupted_restore(rng):
    """SIGINT while a large image is restored: no process is left, or the program gets the signal."""
    with Sandbox() as box:
        process = big(box)
        image = box.snap(process.pid)
        process.kill()
        known = our_children()
        for _ in range(10):
            kage = subprocess.Popen([KAGE, "restore", image], env=box.env, stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            time.sleep(rng.uniform(0, 0.15))
            kage.send_signal(signal.SIGINT)
            out, err = kage.communicate(timeout=60)
            # The program has the default action for SIGINT too, and kage ends as the program did.
            if kage.returncode != -signal.SIGINT:
                raise Failed(f"status {kage.returncode}: {out} {err}")
            wait_until("nothing to be left", lambda: not reap() - known, 10)
        clean(box)


def reap():
    left = our_children()
    for pid in list(left):
        state = state_of(pid)
        if state == "Z":
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
            left.discard(pid)
    return left


def wrong_targets():
    with Sandbox() as box:
        one_line(box.kage("snap", 2**22 - 3, check=False), str(2**22 - 3))
        if status_of(2).get("Name") == "kthreadd":
            one_line(box.kage("snap", 2, check=False), "kernel")
        zombie = subprocess.Popen(["true"])
        wait_until("a zombie", lambda: state_of(zombie.pid) == "Z")
        one_line(box.kage("snap", zombie.pid, check=False), str(zombie.pid))
        zombie.wait()
        parent = box.start(["sh", "-c", "sleep 1000 & sleep 1000; true"])
        wait_until("children", lambda: len(read(f"/proc/{parent.pid}/task/{parent.pid}/children").split())
                   == 2)
        children = [int(p) for p in
                    read(f"/proc/{parent.pid}/task/{parent.pid}/children").split()]
        one_line(box.kage("snap", "-n", "t", parent.pid, check=False), "child")
        at_ease(parent)
        report = box.kage("check", "--json", parent.pid, check=False)
        for child in children:
            if str(child) not in report.stdout:
                raise Failed(f"check does not name {child}: {report.stdout}")
        for child in children:
            os.kill(child, signal.SIGKILL)


def taken_pid():
    """The PID of the image is somebody else's now: refused with the ways out, nothing touched."""
    with Sandbox() as box:
        process = box.start(["sleep", "1000"])
        image = box.snap(process.pid)
        one_line(box.kage("restore", image, check=False), str(process.pid), "--pid new")
        at_ease(process)


def main():
    tap = Tap()
    rng = seeded()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what kage leaves becomes ours
    tap.run("full disk", full_disk)
    tap.run("a store that cannot be written", unwritable_store)
    tap.run("a store that is a file", store_is_a_file)
    tap.run("the target ends in the middle", ends_in_the_middle, rng)
    tap.run("the target execs in the middle", execs_in_the_middle)
    tap.run("two kages on one target", two_at_once, rng)
    tap.run("SIGINT during snap", interrupted, rng, signal.SIGINT)
    tap.run("SIGTERM during snap", interrupted, rng, signal.SIGTERM)
    tap.run("SIGINT during restore", interrupted_restore, rng)
    tap.run("what is no target", wrong_targets)
    tap.run("a PID that is taken", taken_pid)
    tap.done()


if __name__ == "__main__":
    main()
