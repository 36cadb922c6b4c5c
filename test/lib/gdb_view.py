# SPDX-License-Identifier: Apache-2.0
"""Runs inside gdb (gdb -x): writes what gdb sees of a process or a core, all threads, their frames and
their registers, as JSON to the file $GDB_VIEW."""

import json
import os

import gdb  # pylint: disable=import-error

FRAMES = 60


def frames_of(frame):
    frames = []
    while frame and len(frames) < FRAMES:
        frames.append([frame.pc(), frame.name() or ""])
        try:
            frame = frame.older()
        except gdb.error as why:  # where it stopped is told as well
            frames.append([0, str(why)])
            break
    return frames


def number(value):
    """A register as one number, however many numbers gdb sees in it."""
    if value.type.strip_typedefs().code == gdb.TYPE_CODE_UNION:
        widest = next(f.name for f in value.type.fields() if f.name.endswith(("_int64", "_int32")))
        lanes = value[widest]
        first, last = lanes.type.range()
        bits = 8 * lanes[first].type.sizeof
        return sum(number(lanes[i]) << bits * i for i in range(first, last + 1))
    if value.type.strip_typedefs().code == gdb.TYPE_CODE_FLT:
        return str(value)
    return int(value) & (1 << 8 * value.type.sizeof) - 1


def registers_of(frame):
    names = [r.name for r in frame.architecture().registers()] + ["orig_rax"]
    return {name: number(frame.read_register(name)) for name in names}


def view():
    threads = {}
    for thread in gdb.selected_inferior().threads():
        thread.switch()
        frame = gdb.newest_frame()
        threads[thread.ptid[1]] = {"frames": frames_of(frame), "registers": registers_of(frame)}
    return threads


with open(os.environ["GDB_VIEW"], "w", encoding="utf-8") as out:
    json.dump(view(), out)
