#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, fails, is made read-only or goes away while kage records: it goes on or ends with one clear
line, and all that it announced stays readable. Many readers and recorders in one store. What --max-size allows.

The disks are small file systems in memory, in a mount namespace of this test.
"""

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import BUILD, Failed, KAGE, SOAK, Sandbox, Skip, Tap, helper, wait_until

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18
MNT_DETACH = 2


def own_mounts():
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        return f"no mount namespace ({os.strerror(ctypes.get_errno())})"
    return None


def mount(what, where, kind, flags=0, data=None):
    if libc.mount(what.encode(), where.encode(), kind and kind.encode(), flags, data and data.encode()):
        raise Skip(f"machine: mount {kind} {where}: {os.strerror(ctypes.get_errno())}")


class Disk:
    """A tmpfs at PATH, of which PEEK is another view that nobody takes away."""

    def __init__(self, box, name, size="64m"):
        self.path, self.peek = box.path(name), box.path(name + ".peek")
        os.mkdir(self.path)
        os.mkdir(self.peek)
        mount("tmpfs", self.path, "tmpfs", data=f"size={size},mode=700")
        mount(self.path, self.peek, None, MS_BIND)
        self.store = os.path.join(self.path, "store")

    def fill(self):
        with open(os.path.join(self.path, "filler"), "wb", buffering=0) as f:
            try:
                while f.write(bytes(1 << 16)):
                    pass
            except OSError:
                pass

    def gone(self):
        if libc.umount2(self.path.encode(), MNT_DETACH):
            raise Failed("umount")

    def end(self):
        for path in (self.path, self.peek):
            libc.umount2(path.encode(), MNT_DETACH)


class Recorder:
    """kage record in the background."""

    def __init__(self, box, store, pid, name, *options, env=None):
        self.box, self.name, self.images = box, name, []
        self.kage = subprocess.Popen([KAGE, "record", "--json", "--store", store, "-n", name, "-e", "5ms",
                                      *options, str(pid)], stdin=subprocess.DEVNULL, text=True,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env or box.env)

        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        """All the time: who cannot print waits."""
        for line in self.kage.stdout:
            if '"number"' in line:
                self.images.append(json.loads(line)["number"])

    def take(self, n):
        """Waits for N more images."""
        wanted = len(self.images) + n

        def there():
            if self.kage.poll() is not None:
                raise Failed(f"it ended: {self.kage.stderr.read()}")
            return len(self.images) >= wanted
        wait_until(f"{n} images of {self.name}", there)

    def end(self, patience=60):
        """Its status and what it said."""
        try:
            status = self.kage.wait(patience)
        except subprocess.TimeoutExpired:
            self.kage.kill()
            raise Failed("it did not end") from None
        self.reader.join()
        return status, self.kage.stderr.read().strip()

    def stop(self):
        self.kage.send_signal(signal.SIGINT)
        return self.end()


def target(box):
    program = box.start([helper("fault/drift")])
    box.wait_log("ready", process=program)
    return program


def all_there(box, store, recorder):
    """Every image that was announced can be read, and nothing is damaged."""
    done = box.kage("fsck", "--store", store, check=False)
    if done.returncode:
        raise Failed(f"fsck: {done.stdout} {done.stderr}")
    there = [i["number"] for i in json.loads(
        box.kage("log", "--json", "--store", store, recorder.name).stdout)["images"]]
    if not set(recorder.images) <= set(there):
        raise Failed(f"announced {recorder.images}, there are {there}")
    for number in {recorder.images[0], recorder.images[-1]}:
        core = box.path("core")
        box.kage("core", "--store", store, f"{recorder.name}@{number}", "-o", core)
        os.unlink(core)


def one_line(status, said, *words):
    lines = said.splitlines()
    if status != 1 or len(lines) != 1 or not all(w in said for w in words):
        raise Failed(f"status {status}, not one line with {words}: {said}")


def goes_on(box, disk, program, name):
    recorder = Recorder(box, disk.store, program.pid, name, "-c", "3")
    status, said = recorder.end()
    if status or len(recorder.images) != 3:
        raise Failed(f"afterwards: status {status}, {said}")
    all_there(box, disk.store, recorder)


def full(box):
    disk, program = Disk(box, "full", "24m"), target(box)
    recorder = Recorder(box, disk.store, program.pid, "r")
    recorder.take(3)
    disk.fill()
    status, said = recorder.end()
    one_line(status, said, "No space left", disk.path)
    all_there(box, disk.store, recorder)
    # The newest image can go even though nothing can be written, and makes room for another.
    os.unlink(os.path.join(disk.path, "filler"))
    goes_on(box, disk, program, "r")
    disk.end()


def full_from_the_beginning(box):
    disk, program = Disk(box, "small", "2m"), target(box)
    disk.fill()
    recorder = Recorder(box, disk.store, program.pid, "r")
    status, said = recorder.end()
    one_line(status, said, "No space left")
    os.unlink(os.path.join(disk.path, "filler"))
    goes_on(box, disk, program, "r")
    disk.end()


def bad(box):
    """A disk on which something fails from some instant on: made read-only by its file system, or with errors."""
    program = target(box)
    for n, (number, calls) in enumerate(((errno.EROFS, "own"), (errno.EIO, "w"), (errno.EIO, "s"),
                                         (errno.EIO, "own"), (errno.EIO, "n"))):
        store, when = box.path(f"bad{n}"), box.path(f"bad{n}.when")
        env = dict(box.env, BADDISK=when, BADDISK_ROOT=store, ASAN_OPTIONS="verify_asan_link_order=0",
                   LD_PRELOAD=os.path.join(BUILD, "test/shim/baddisk.so"))
        recorder = Recorder(box, store, program.pid, "r", "--keep-last", "4", env=env)
        recorder.take(8)
        with open(when + ".new", "w", encoding="ascii") as f:
            f.write(f"{number} {calls}")
        os.rename(when + ".new", when)
        status, said = recorder.end()
        one_line(status, said, os.strerror(number), store)
        recorder.images = recorder.images[-4:]
        all_there(box, store, recorder)
        after = Recorder(box, store, program.pid, "r", "-c", "3")
        if after.end()[0]:
            raise Failed(f"{calls}: the next recording")
        all_there(box, store, after)


def unmounted(box):
    disk, program = Disk(box, "away"), target(box)
    recorder = Recorder(box, disk.store, program.pid, "r")
    recorder.take(3)
    disk.gone()
    status, said = recorder.end()
    one_line(status, said, disk.store, "unmounted")
    all_there(box, os.path.join(disk.peek, "store"), recorder)
    disk.end()


def two_of_one(box):
    """The second recorder of a history is told who the first is; after its end, or death, another one may."""
    store, programs = box.path("claims"), [target(box), target(box)]
    first = Recorder(box, store, programs[0].pid, "r")
    first.take(2)
    second = Recorder(box, store, programs[1].pid, "r")
    one_line(*second.end(), f"kage {first.kage.pid} ", f"process {programs[0].pid} ", "--name")
    third = Recorder(box, store, programs[1].pid, "other", "-c", "2")
    if third.end()[0]:
        raise Failed("another history of the same store")
    first.kage.kill()
    first.end()
    fourth = Recorder(box, store, programs[1].pid, "r", "-c", "2")
    status, said = fourth.end()
    if status:
        raise Failed(f"after the death of the first: {said}")
    all_there(box, store, fourth)
    if [n for n in os.listdir(store) if n.startswith(".")]:
        raise Failed(f"left: {os.listdir(store)}")


def many(box):
    """Several recorders in one store, which thin, and readers of all kinds: nobody disturbs anybody."""
    store = box.path("many")
    programs = [target(box) for _ in range(3)]
    recorders = [Recorder(box, store, p.pid, f"r{i}", "--keep-last", "5") for i, p in enumerate(programs)]
    for recorder in recorders:
        recorder.take(2)
    enough, problems, reads = threading.Event(), [], [0]

    def reader(i):
        while not enough.is_set():
            for args in (["log"], ["log", f"r{i}"], ["show", f"r{i}"], ["du"], ["fsck"],
                         ["core", f"r{i}@latest", "-o", box.path(f"core{i}")], ["show", f"r{i}@first"],
                         ["diff", f"r{i}@-1", f"r{i}@latest"]):
                done = box.kage("--store", store, *args, check=False)
                reads[0] += 1
                gone = "no image" in done.stderr
                if done.returncode and not gone:
                    problems.append(f"{args}: {done.returncode} {done.stdout[-300:]} {done.stderr}")
    readers = [threading.Thread(target=reader, args=(i,)) for i in range(3)]
    for thread in readers:
        thread.start()
    for recorder in recorders:
        recorder.take(400 if SOAK else 60)
    enough.set()
    for thread in readers:
        thread.join()
    for recorder in recorders:
        status, said = recorder.stop()
        if status not in (0, -signal.SIGINT) or said:
            raise Failed(f"{recorder.name}: status {status}, {said}")
    if problems:
        raise Failed("\n".join(problems[:5]))
    box.kage("fsck", "--store", store)
    print(f"# {reads[0]} reads")


def max_size(box):
    """At no instant the history takes more than its limit and one image."""
    store, program = box.path("sized"), target(box)
    limit = 600 << 10
    recorder = Recorder(box, store, program.pid, "r", "--max-size", str(limit))
    most, largest, folder = 0, 0, os.path.join(store, "r")
    enough = threading.Event()

    def watch():
        nonlocal most, largest
        while not enough.is_set():
            sizes = []
            try:
                for name in os.listdir(folder):
                    sizes.append(os.lstat(os.path.join(folder, name)).st_size)
            except FileNotFoundError:
                continue
            most, largest = max(most, sum(sizes)), max([largest, *sizes])
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        recorder.take(2000 if SOAK else 300)
    finally:
        enough.set()
        thread.join()
    status, said = recorder.stop()
    print(f"# at most {most} bytes of {limit}, the largest image has {largest}")
    if said:
        raise Failed(f"status {status}: {said}")
    if most > limit + largest:
        raise Failed(f"{most} bytes, {limit} were allowed, and one image of {largest}")
    if most < limit / 2:
        raise Failed("it never came near the limit")
    box.kage("fsck", "--store", store)


def main():
    tap, why = Tap(), own_mounts()
    with Sandbox(durable=False) as box:
        for name, test in (("full", full), ("full from the beginning", full_from_the_beginning),
                           ("unmounted", unmounted)):
            if why:
                tap.skip(f"a disk that is {name}", f"machine: {why}")
            else:
                tap.run(f"a disk that is {name}", test, box)
        tap.run("a disk that fails", bad, box)
        tap.run("two recorders of one history", two_of_one, box)
        tap.run("several recorders and many readers", many, box)
        tap.run("--max-size", max_size, box)
    tap.done()


main()
