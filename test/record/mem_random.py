#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""Recording a program that does to its memory all that can be done (mem_random.c).

Every image is compared with a plain copy of all memory, taken in the same stop. The program must find nothing wrong,
nothing may be left in it when the recording is over, and lives made of the first, a middle and the last
image must find nothing wrong either. With KAGE_SOAK=1 each goes on for minutes.
"""

import json
import os
import re
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (Failed, KAGE, Sandbox, SOAK, Tap, descriptors_of, helper, in_parallel, read,
                      read_or, seeded, status_of, wait_until)

SECONDS = 120 if SOAK else 4
HUGE_PAGES = "/proc/sys/vm/nr_hugepages"

# name, threads and words for the program, options of kage record and, where not the best one is meant, KAGE_TRACK
VARIANTS = [
    ("one thread, 5/s", ["1"], ["--every", "200ms", "--verify"]),
    ("one thread, as fast as can be", ["1"], ["--every", "1ms", "--verify"]),
    ("four threads, past the page cache, 5/s", ["4", "direct"], ["--every", "200ms", "--verify"]),
    ("four threads, as fast as can be", ["4"], ["--every", "1ms", "--verify"]),
    ("io_uring, as fast as can be", ["2", "nofork", "uring"], ["--every", "1ms", "--verify"]),
    ("own userfaultfd, 5/s", ["2", "nofork", "uffd"], ["--every", "200ms", "--verify"]),
    ("exec, as fast as can be", ["2", "nofork", "exec"], ["--every", "1ms", "--verify"]),
    # Who writes into it from outside does so in the stop as well: then two copies differ.
    ("written by others, 5/s", ["2", "writers"], ["--every", "200ms"]),
    ("from twins, 5/s", ["1"], ["--every", "200ms", "--verify"], "twin"),
    ("from twins, four threads, as fast as can be", ["4", "nofork"], ["--every", "1ms", "--verify"], "twin"),
    ("from twins, io_uring", ["2", "nofork", "uring"], ["--every", "1ms", "--verify"], "twin"),
    ("copied, 5/s", ["2"], ["--every", "200ms", "--verify"], "copy"),
]


def smaps_of(pid):
    """[(first line, flags)] of all mappings."""
    found = []
    for line in read(f"/proc/{pid}/smaps").splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            found.append([line, ""])
        elif line.startswith("VmFlags:"):
            found[-1][1] = line.split(":")[1].strip()
    return [tuple(one) for one in found]


def joined(maps):
    """Neighbours of one kind as one mapping: the kernel joins those whenever it handles one of them, also when it ends
    our tracking, and the program cannot tell."""
    found = []
    for line, flags in maps:
        ends, rest = line.split(" ", 1)
        start, end = ends.split("-")
        if found and found[-1][1:] == [start, rest, flags] and rest.endswith("00000000 00:00 0 "):
            found[-1][1] = end
        else:
            found.append([start, end, rest, flags])
    return found


def page_tables(pid):
    return int(status_of(pid)["VmPTE"].split()[0])


def hush(box, pid):
    """Until the file "quiet" goes the program changes nothing."""
    box.write("quiet", "")
    before = []

    def settled():
        seen = [smaps_of(pid)]
        same = seen == before and not any("anon_inode" in f for f in descriptors_of(pid).values())
        before[:] = seen
        return same
    wait_until("the program to be quiet", settled, step=0.2)


def start(box, words, seed):
    program = box.start([helper("record/mem_random"), str(seed), *words])
    box.wait_log("ready", process=program)
    return program


def record(box, program, options, seconds):
    """Records for SECONDS, on a slow machine longer, and returns what kage said of each image."""
    kage = box.start([KAGE, "record", "--json", "-n", "r", *options, str(program.pid)], log="images")
    end = time.monotonic() + seconds

    def enough():
        return (time.monotonic() > end and box.log("images").count('"image"') > 3) or \
            not program.alive() or not kage.alive()
    wait_until("some images", enough, 120, 0.02)
    kage.signal(signal.SIGINT)
    status = kage.wait()
    told = box.log("images")
    if not program.alive():
        raise Failed(f"the program ended: {program.popen.poll()} {box.log()[-2000:]}")
    if status not in (0, -signal.SIGINT):
        raise Failed(f"kage record: status {status}: {told[-2000:]}")
    return [json.loads(line) for line in told.splitlines() if line.startswith('{"image"')]


def no_trace(program, descriptors, tables):
    tracked = [s for s in smaps_of(program.pid) if {"um", "uw"} & set(s[1].split())]
    if tracked:
        raise Failed(f"still tracked: {tracked[:3]}")
    if descriptors_of(program.pid) != descriptors:
        raise Failed(f"descriptors were {descriptors}, are {descriptors_of(program.pid)}")
    if page_tables(program.pid) > 2 * tables + 2048:
        raise Failed(f"page tables grew from {tables} to {page_tables(program.pid)} kB")


def passes(box, status, when):
    last = box.log().strip().splitlines()[-1]
    print(f"# {when}: {last}", flush=True)
    if status != 0 or not last.startswith("PASS"):
        raise Failed(f"{when}: status {status}, log: {box.log()[-2000:]}")


def near(box, images, i):
    """The first image from the I-th on that can be restored: children and rings cannot. None if each has them."""
    for one in images[i:] + images[:i][::-1]:
        check = box.kage("check", one["image"], check=False)
        if check.returncode == 0:
            return one["image"]
    if "io_uring" in check.stdout or "child process" in check.stdout:
        print("# none of the images can be restored", flush=True)
        return None
    raise Failed(f"no image can be restored: {check.stdout} {check.stderr}")


def live_again(box, image):
    os.unlink(box.path("go"))
    with box.restore(image) as life:
        time.sleep(0.3)
        box.write("go", "")
        passes(box, life.wait(), f"life of {image}")


def variant(words, options, seed, rung=None):
    with Sandbox(durable=False) as box:
        if rung:
            box.env["KAGE_TRACK"] = rung
        program = start(box, words, seed)
        hush(box, program.pid)
        descriptors, tables = descriptors_of(program.pid), page_tables(program.pid)
        os.unlink(box.path("quiet"))
        images = record(box, program, options, SECONDS)
        how = {one["tracking"] for one in images}
        # What may be written behind the tracker's back, or must not be forked, is copied meanwhile.
        meanwhile = {"copy", "twin"} if {"direct", "uring", "uffd"} & set(words) else set()
        if not how <= {rung or "wp"} | meanwhile:
            raise Failed(f"tracked by {how}")
        hush(box, program.pid)
        if "exec" not in words:
            no_trace(program, descriptors, tables)
        # One more while it has no child: this one can be restored, whatever the others have.
        images += record(box, program, ["--count", "1"], 0)
        os.unlink(box.path("quiet"))
        box.write("go", "")
        passes(box, program.wait(), f"after {len(images)} images")
        box.fsck()
        for i in (0, len(images) // 2, len(images) - 1):
            image = near(box, images, i)
            if image:
                live_again(box, image)


def quiet(seed):
    """What does not change is the same to the last flag afterwards, page tables included."""
    with Sandbox(durable=False) as box:
        program = start(box, ["2", "nofork"], seed)
        time.sleep(0.3)
        hush(box, program.pid)
        maps, tables = smaps_of(program.pid), page_tables(program.pid)
        record(box, program, ["--every", "50ms", "--verify"], 2)
        maps, now = joined(maps), joined(smaps_of(program.pid))
        if now != maps:
            raise Failed(f"went: {[m for m in maps if m not in now][:5]}, "
                         f"came: {[m for m in now if m not in maps][:5]}")
        if page_tables(program.pid) > tables + 64:
            raise Failed(f"page tables grew from {tables} to {page_tables(program.pid)} kB")
        box.write("go", "")
        passes(box, program.wait(), "quiet")


def direct_reads(words):
    """The disk writes to memory without a fault: it does so in nearly every instant."""
    with Sandbox() as box:
        box.write("data", os.urandom(64 << 20))
        program = box.start([helper("record/direct_reads"), "data", *words])
        box.wait_log("ready", process=program)
        record(box, program, ["--every", "5ms", "--verify"], SECONDS)


def main():
    tap = Tap()
    rng = seeded()
    had = read_or(HUGE_PAGES).strip()
    if had:
        try:
            with open(HUGE_PAGES, "w", encoding="ascii") as f:
                f.write(str(int(had) + 32))
        except OSError:
            pass
    jobs = [lambda: tap.run("quiet", quiet, rng.randrange(1 << 31))]
    for name, words, options, *rung in VARIANTS:
        jobs.append(lambda n=name, w=words, o=options, s=rng.randrange(1 << 31), r=rung:
                    tap.run(n, variant, w, o, s, *r))
    for name, words in (("reads past the page cache", []),
                        ("reads past the page cache, by many descriptors", ["anew"])):
        jobs.append(lambda n=name, w=words: tap.run(n, direct_reads, w))
    try:
        in_parallel(jobs)
    finally:
        if had:
            try:
                with open(HUGE_PAGES, "w", encoding="ascii") as f:
                    f.write(had)
            except OSError:
                pass
    tap.done()


if __name__ == "__main__":
    main()
