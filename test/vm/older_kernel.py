#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
"""On an older kernel (Linux 6.1 of Debian, in QEMU) images are taken by the rungs that it has, and live again.

What runs there is init.sh.
"""

import os
import re
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import guest
from kagetest import KAGE, Failed, Skip, Tap, helper

PROGRAMS = ["bash", "mount", "mkdir", "cat", "sleep", "grep", "tail", "sort", "tr", "stty"]
KINDS = ["mem_anon", "mem_file", "mem_shared", "threads", "signals", "timers", "fd_files", "fd_pipe",
         "fd_event"]
SECONDS = 600


def archive(folder):
    a = guest.Archive()
    for name in ("proc", "sys", "dev", "tmp", "work", "bin"):
        a.folder(name)
    for name in PROGRAMS:
        a.program(os.path.realpath(shutil.which(name)), "/bin/" + name)
    a.program(KAGE, "/bin/kage")
    for name in KINDS:
        a.program(helper("kind/" + name), "/test/kind/" + name)
    for name in ("record/mem_random", "record/mem_moves", "unit/test_blind"):
        a.program(helper(name), "/test/" + name)
    a.file("init", os.path.join(HERE, "init.sh"))
    path = os.path.join(folder, "initrd")
    a.write(path)
    return path


def results(said):
    """[(result, name, details)]"""
    found = []
    for line in said.splitlines():
        line = re.search(r"TEST (.*)", line)
        if not line:
            continue
        kind = re.match(r"(ok|not ok|skip) (.*)", line.group(1))
        if kind:
            found.append([kind.group(1), kind.group(2), ""])
        elif line.group(1).startswith("# "):
            if found:
                found[-1][2] += line.group(1)[2:] + "\n"
            else:
                print(line.group(1), flush=True)
    if "TEST done" not in said:
        raise Failed(f"the guest ended early; it said: {said[-3000:]}")
    return found


def main():
    tap = Tap()
    try:
        image = guest.kernel()
    except Skip as why:
        tap.skip("an older kernel", why)
        tap.done()
    with tempfile.TemporaryDirectory() as folder:
        said = guest.run(image, archive(folder), SECONDS)
    if os.environ.get("KAGE_VM_LOG"):
        print(said)
    try:
        for result, name, details in results(said):
            if result == "skip":
                tap.skip(name.split(":")[0], f"machine: that kernel: {name}")
            else:
                tap.check(result == "ok", name, details)
    except Failed as why:
        tap.not_ok("the guest runs to its end", why)
    tap.done()


if __name__ == "__main__":
    main()
