#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A pack that is cut anywhere, or has any bit flipped, is told with its name and the offset, and nothing
comes of it: no process, not even half a one. What is cut and flipped is chosen at random and around
the borders of records; test/unit/test_pack reads a pack with each of its bytes and bits in turn.
"""

import ctypes
import json
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, SOAK, Tap, read, seeded, state_of

HEADER, RECORD = 64, 48
TIMES = 2000 if SOAK else 60


def borders(pack):
    """Where records, their payloads and the pack begin and end (kage-pack(5))."""
    found, at = [0, HEADER], HEADER
    while at < len(pack):
        stored, = struct.unpack_from("<Q", pack, at + 8)
        found += [at + RECORD, at + RECORD + stored]
        at += RECORD + stored
    return found


def near(places, end):
    """These and their neighbours, as far as they are within END bytes."""
    return sorted({p + d for p in places for d in (-1, 0, 1) if 0 <= p + d < end})


class Damaged:
    """A program that is only an image any more, and its pack, which is damaged again and again."""

    def __init__(self, box):
        self.box = box
        program = box.start(["sleep", "1000"])
        box.snap(program.pid)
        program.kill()
        self.pid = program.pid
        self.path = os.path.join(box.store, "t", "0000000001.kage")
        self.whole = read(self.path, binary=True)

    def put(self, data):
        """In place of the pack, as a whole: nobody sees a pack change."""
        with open(self.path + ".new", "wb") as new:
            new.write(data)
        os.rename(self.path + ".new", self.path)

    def refused(self, data, what):
        self.put(data)
        done = self.box.kage("restore", "--json", "--detach", "t@1", check=False)
        error = json.loads(done.stdout).get("error", {}) if done.stdout else {}
        if done.returncode != 1 or error.get("code") != "corrupt":
            raise Failed(f"{what}: status {done.returncode}, {done.stdout} {done.stderr}")
        if self.path not in error["message"] or "offset" not in error["message"]:
            raise Failed(f"{what}: pack and offset are not told: {error['message']}")
        self.nobody(what)

    def nobody(self, what):
        """What kage left behind would be a child of ours (PR_SET_CHILD_SUBREAPER)."""
        if state_of(self.pid) not in ("", "Z", "X"):
            raise Failed(f"{what}: process {self.pid} is there, state {state_of(self.pid)}")
        for child in read("/proc/thread-self/children").split():
            if state_of(child) not in ("", "Z", "X"):
                raise Failed(f"{what}: process {child} was left, state {state_of(child)}")

    def flip(self, bit):
        data = bytearray(self.whole)
        data[bit // 8] ^= 1 << bit % 8
        self.refused(bytes(data), f"bit {bit % 8} of byte {bit // 8} flipped")


def cut(image, rng):
    end = len(image.whole)
    for n in near(borders(image.whole), end) + [rng.randrange(end) for _ in range(TIMES)]:
        image.refused(image.whole[:n], f"cut to {n} bytes")


def flipped(image, rng):
    end = len(image.whole)
    for byte in near(borders(image.whole), end) + [rng.randrange(end) for _ in range(2 * TIMES)]:
        image.flip(byte * 8 + rng.randrange(8))


def lives_again(image):
    """The same pack without damage: what was refused before was refused for the damage."""
    image.put(image.whole)
    life = image.box.restore("t@1")
    if life.pid != image.pid:
        raise Failed(f"process {life.pid}, not {image.pid}")
    life.kill()


def main():
    tap, rng = Tap(), seeded()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    with Sandbox() as box:
        image = Damaged(box)
        tap.run("a pack that is cut", cut, image, rng)
        tap.run("a pack with a flipped bit", flipped, image, rng)
        tap.run("a pack that is whole", lives_again, image)
    tap.done()


main()
