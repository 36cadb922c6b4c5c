#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
"""Putting files back is never half: kills at any system call, full disks, failures of what comes after.

After a kill, all that stood in a file is either still there or kept beside it, and restoring again makes
every file as it was at the image and leaves nothing beside it. After an error, all is as it was before.
"""

import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, KAGE, Process, SOAK, Sandbox, Skip, Tap, helper, read, seeded, wait_until

COARSE = 40
FINE = 10 ** 6 if SOAK else 60
MIB = 1 << 20
PAGE = 4096


class Files:
    """A program that has seven files open for writing, its image, and what became of them since. In
    "holes" and "zeros" something stands now where nothing or zeros were then; one page alone differs, and
    the last byte."""

    def __init__(self, box, rng, prefix=(), folder=None, size=3 * MIB):
        self.box, self.folder = box, folder or box.path("files")
        os.makedirs(self.folder, exist_ok=True)
        block = rng.randbytes(size)
        patched = bytearray(block)
        for at in range(0, size - 5000, size // 7):
            patched[at:at + 5000] = rng.randbytes(5000)
        patched[-1] ^= 1
        ends, middle = rng.randbytes(4 * PAGE), 60 * PAGE
        sparse = ends + bytes(middle) + ends
        filled = ends + bytes(middle - PAGE) + rng.randbytes(PAGE) + ends
        self.then = {"patched": block, "cut": block[::-1], "log": b"line 1\n", "gone": b"journal" * 999,
                     "other": b"the file of then", "holes": sparse, "zeros": sparse}
        self.now = {"patched": bytes(patched), "cut": b"short", "log": b"LINE 1\nline 2\n", "gone": None,
                    "other": b"another file", "holes": filled, "zeros": filled}
        for name, text in self.then.items():
            self.put(name, text)
        opened = " ".join(f"{n}<>{name}" for n, name in enumerate(self.then, 3))
        self.program = box.start([*prefix, "sh", "-c", f"exec {opened}; exec sleep 1000"], cwd=self.folder)
        wait_until("it to sleep", lambda: read(f"/proc/{self.program.pid}/comm") == "sleep\n")
        self.image = box.snap(self.program.pid)
        self.program.kill()

    def path(self, name):
        return os.path.join(self.folder, name)

    def put(self, name, text):
        """In place, as a program writes; pages of zeros of "holes" are not written."""
        with open(self.path(name), "r+b" if os.path.exists(self.path(name)) else "wb") as f:
            f.truncate(0 if name == "holes" else len(text))
            f.truncate(len(text))
            if name != "holes":
                f.write(text)
            for at in range(0, len(text) if name == "holes" else 0, PAGE):
                if any(text[at:at + PAGE]):
                    f.seek(at)
                    f.write(text[at:at + PAGE])

    def change(self):
        """What comes after the image."""
        for name, text in self.now.items():
            if name == "other" or text is None:
                try:
                    os.unlink(self.path(name))
                except FileNotFoundError:
                    pass
            if text is not None:
                self.put(name, text)
        self.inodes = {n: os.stat(self.path(n)).st_ino for n in ("patched", "cut", "log", "holes",
                                                                   "zeros")}

    def are(self, texts):
        """Names of files that are not what they are in TEXTS, and of those that are in the way."""
        wrong = []
        for name, text in texts.items():
            try:
                if read(self.path(name), binary=True) != text:
                    wrong.append(name)
            except FileNotFoundError:
                if text is not None:
                    wrong.append(name)
        return wrong + [n for n in os.listdir(self.folder) if n not in texts]

    def mixed(self):
        """Whether it cannot be said that all are as then."""
        return [name for name in self.are(self.then) if name in self.then]

    def lost(self):
        """Names of files of now that are not to be found any more."""
        kept = [read(self.path(n), binary=True) for n in os.listdir(self.folder)]
        return [n for n, text in self.now.items() if text is not None and text not in kept]

    def restore(self):
        done = self.box.kage("restore", "--detach", "--files", "restore", self.image)
        Process(int(done.stdout)).kill()
        if self.are(self.then):
            raise Failed(f"after restoring: {self.are(self.then)}")
        for name, inode in self.inodes.items():
            if os.stat(self.path(name)).st_ino != inode:
                raise Failed(f"{name} has another inode")


def killed(files, k):
    """Kage killed at call K. Returns the line of killat, and whether files were neither as then nor as
    now, or were but for what is kept beside them."""
    files.change()
    done = subprocess.run([helper("fault/killat"), str(k), KAGE, "restore", "--detach", "--files", "restore",
                           files.image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, env=files.box.env, timeout=120, check=False)
    line = done.stderr.strip().splitlines()[-1]
    try:
        Process(files.program.pid).kill()  # it was that late
    except ProcessLookupError:
        pass
    if files.mixed() and files.lost():
        raise Failed(f"{line}: lost {files.lost()}")
    return line, bool(files.mixed() and files.are(files.now))


def again(files, line):
    try:
        files.restore()
    except Failed as why:
        raise Failed(f"{line}: {why}") from None


def at_each_call(box, rng):
    files = Files(box, rng)
    line, _ = killed(files, 0)
    found = re.search(r"(\d+) calls, status 0", line)
    if not found:
        raise Failed(f"kage restore under killat: {line}")
    total = int(found.group(1))
    stride = max(1, total // COARSE)
    touched = []
    for k in range(1, total + 1, stride):
        line, between = killed(files, k)
        again(files, line)
        if between:
            touched.append(k)
    if not touched:
        raise Failed(f"no kill in {total} calls came while files were put back")
    first, last = max(1, touched[0] - stride), min(total, touched[-1] + stride)
    step = -(-(last - first) // FINE)
    print(f"# {total} calls; from {first} to {last} every {step}")
    mixtures = 0
    for k in range(first, last + 1, step):
        line, between = killed(files, k)
        mixtures += between and any(n in files.now for n in files.are(files.now))
        again(files, line)
    print(f"# {mixtures} kills left some files of then and some of now")
    if not mixtures:
        raise Failed("no kill was in the middle")


def no_room(box, rng):
    """What is to be kept does not fit: nothing is touched."""
    at = box.path("small")
    os.makedirs(at)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "kage-test", at], check=False,
                      stderr=subprocess.PIPE).returncode != 0:
        raise Skip("mounting needs root")
    try:
        files = Files(box, rng, folder=at, size=2 * MIB)
        files.change()
        with open(box.path("small/filler"), "wb") as f:
            free = os.statvfs(at)
            f.write(bytes(free.f_bavail * free.f_bsize - MIB))
        files.now["filler"] = files.then["filler"] = read(files.path("filler"), binary=True)
        done = box.kage("restore", "--detach", "--files", "restore", files.image, check=False)
        if done.returncode != 1 or "No space" not in done.stderr or len(done.stderr.splitlines()) != 1:
            raise Failed(f"status {done.returncode}: {done.stderr}")
        if files.are(files.now):
            raise Failed(f"changed: {files.are(files.now)}")
        del files.now["filler"], files.then["filler"]
        os.unlink(files.path("filler"))
        files.restore()
    finally:
        subprocess.run(["umount", "-l", at], check=False)


def no_life(box, rng):
    """Restoring fails once the files are put back, and they are as before."""
    weak = ["setpriv", "--bounding-set=-sys_admin,-checkpoint_restore"]  # cannot choose a PID
    files = Files(box, rng, weak)
    files.change()
    done = subprocess.run(weak + [KAGE, "restore", "--detach", "--files", "restore", files.image],
                          env=box.env, text=True, check=False, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 1 or len(done.stderr.splitlines()) != 1:
        raise Failed(f"status {done.returncode}: {done.stdout} {done.stderr}")
    print(f"# {done.stderr.strip()}")
    if files.are(files.now):
        raise Failed(f"changed: {files.are(files.now)}")
    for name, inode in files.inodes.items():
        if os.stat(files.path(name)).st_ino != inode:
            raise Failed(f"{name} has another inode")
    files.restore()


def main():
    tap = Tap()
    rng = seeded()
    if os.path.isdir("/dev/shm"):  # hundreds of restores, each waits for the disk
        tempfile.tempdir = "/dev/shm"
    with Sandbox() as box:
        tap.run("killed at its k-th system call", at_each_call, box, rng)
    with Sandbox() as box:
        tap.run("no room for what is to be kept", no_room, box, rng)
    with Sandbox() as box:
        tap.run("no life comes of it", no_life, box, rng)
    tap.done()


if __name__ == "__main__":
    main()
