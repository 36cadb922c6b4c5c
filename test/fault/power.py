#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 3600
"""A power failure at any instant leaves a store in which all is there that kage said was.

What kage does to the files of a store is logged (test/shim/iolog.c) while it records, takes images, tags,
thins, removes and repairs. Then, for many instants, states are made in which what no fsync covers is
missing, torn or out of order (test/lib/powerloss.py). In each, the histories are sound for fsck, every image and
tag that was announced and not removed since is there and holds what it held, and the next image, the
next thinning and the next removal work.

KAGE_STATES sets how many states; with KAGE_SOAK=1 there are several rounds of many.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import BUILD, Failed, Sandbox, SOAK, Tap, helper, seeded
from powerloss import Log, State, chooser

STATES = int(os.environ.get("KAGE_STATES", "20000" if SOAK else "700"))
ROUNDS = 5 if SOAK else 1
PACK = re.compile(r"^(\d{10})\.kage$")
FAR = 1 << 60


class Image:
    """One that kage announced when TOLD operations had been done. GONE: when its removal began."""

    def __init__(self, history, number, told):
        self.history, self.number, self.told, self.gone = history, number, told, FAR


class World:
    """What was done in it, and what must hold at each instant."""

    def __init__(self, box, rng):
        self.box, self.rng = box, rng
        self.root = os.path.realpath(box.path("world"))
        os.mkdir(self.root, 0o700)
        box.store = box.env["KAGE_STORE"] = os.path.join(self.root, "some/where/store")
        self.iolog = box.path("iolog")
        box.env.update(IOLOG=self.iolog, IOLOG_ROOT=self.root, ASAN_OPTIONS="verify_asan_link_order=0",
                       LD_PRELOAD=os.path.join(BUILD, "test/shim/iolog.so"))
        self.log = Log(self.root)
        self.images = []
        self.tags = []        # (history, tag, number or None, from when it may be, from when it is)
        self.damaged = []     # (history, from, to): fsck may find what it wants
        self.program = box.start([helper("fault/drift")], env={"LD_PRELOAD": ""})
        box.wait_log("ready", process=self.program)

    # --- what is done ---------------------------------------------------------------------------

    def kage(self, *args, check=True):
        """Runs kage; returns what it printed, and the indexes of its first and last operation."""
        begin = len(self.log.ops)
        done = self.box.kage(*args, check=check)
        marks = len(self.log.told)
        self.log.read(self.iolog)
        self.find_removed(begin)
        return done.stdout, begin, self.log.told[marks:]

    def now(self):
        return len(self.log.ops)

    def find_removed(self, begin):
        """Images go by a note that says so, unlinking or moving their pack, or renaming their history."""
        for op in self.log.ops[begin:]:
            if op.what == "put" and op.name == ".removing":
                first, last = map(int, op.thing.target.split("-"))
                for number in range(first, last + 1):
                    self.remove(op, self.name_of(op.where, op.index), number)
            elif op.what == "take" or (op.what == "rename" and op.to is not op.where):
                pack = PACK.match(op.name)
                history = pack and self.name_of(op.where, op.index)
                self.remove(op, history, pack and int(pack.group(1)))
            elif op.what == "rename" and op.thing.kind == "dir":
                self.remove(op, op.name, None)

    def name_of(self, folder, before):
        """The name that a folder had when it still had one."""
        names = [op.name for op in self.log.ops[:before] if op.thing is folder and op.what == "put"]
        return names[-1] if names else None

    def remove(self, op, history, number):
        for image in self.images:
            if history and image.history == history and number in (None, image.number) and \
                    image.told <= op.index:
                image.gone = min(image.gone, op.index)
        if history and number is None:
            self.tags.append((history, None, None, op.index, op.index))

    def record(self, history, count, *options):
        out, _, told = self.kage("record", "--json", "-n", history, "-c", count, "-e", "5ms", *options,
                                 self.program.pid)
        numbers = [json.loads(line)["number"] for line in out.splitlines()]
        if len(told) < len(numbers):
            raise Failed(f"{len(numbers)} images, and {len(told)} times something was told")
        added = [Image(history, n, told[i]) for i, n in enumerate(numbers)]
        for image in added:  # the thinner may have removed some before all was told
            path = f"{history}/{image.number:010d}.kage"
            if not os.path.exists(os.path.join(self.box.store, path)):
                image.gone = image.told
        self.images += added

    def snap(self, history):
        out, _, _ = self.kage("snap", "--json", "-n", history, self.program.pid)
        self.images.append(Image(history, json.loads(out)["number"], self.now()))

    def tag(self, image, tag, *options):
        history, number = image.split("@")
        _, begin, _ = self.kage("tag", *options, image, tag)
        self.tags.append((history, tag, int(number), begin, self.now()))

    def untag(self, image):
        _, begin, _ = self.kage("tag", "-d", image)
        history, tag = image.split("@")
        self.tags.append((history, tag, None, begin, self.now()))

    def damage(self, history, number):
        """One byte of a pack, as a disk would do it: durable at once."""
        path = os.path.join(self.box.store, history, f"{number:010d}.kage")
        st = os.stat(path)
        at = self.rng.randrange(st.st_size // 4, st.st_size)
        with open(path, "r+b") as f, open(self.iolog, "ab") as log:
            f.seek(at)
            byte = bytes([f.read(1)[0] ^ 1])
            f.seek(at)
            f.write(byte)
            log.write(b"write %d %d 1\n%s\nsync %d\n" % (st.st_ino, at, byte, st.st_ino))
        begin = self.now()
        self.log.read(self.iolog)
        return begin

    def do_all(self):
        """All that changes a store, in an order that rng decides a little."""
        rng, many = self.rng, 4 if SOAK else 1
        self.record("r", 10 * many)
        self.tag("r@2", "good")
        self.snap("s")
        self.record("s", 8 * many)
        self.kage("prune", "r", "--keep-last", rng.randrange(2, 6))
        self.tag("r@latest".replace("latest", str(self.latest("r"))), "good", "--force")
        self.snap("r")
        self.record("r", 12 * many, "--keep-last", 3)
        first = rng.randrange(2, 5)
        self.kage("rm", "-y", f"s@{first}..{first + 2}")
        self.untag("r@good")
        begin = self.damage("s", rng.choice([i.number for i in self.images
                                             if i.history == "s" and i.gone == FAR]))
        self.kage("fsck", "--repair", "s", check=False)
        self.damaged.append(("s", begin, self.now()))
        self.record("s", 3)
        self.kage("rm", "-y", "s")
        self.snap("s")
        self.kage("prune", "r", "--keep-last", 1)
        self.record("r", 3)

    def latest(self, history):
        return max(i.number for i in self.images if i.history == history)

    # --- what must hold --------------------------------------------------------------------------

    def due(self, point):
        return [i for i in self.images if i.told <= point < i.gone + 1 and i.gone >= point]

    def tags_due(self, point):
        """{(history, tag): number} of those that are certain."""
        known = {}
        for history, tag, number, begin, end in self.tags:
            if begin >= point:
                continue
            for key in [k for k in known if k[0] == history and tag in (None, k[1])]:
                del known[key]
            if number is not None and end <= point:
                known[history, tag] = number
        return known


class Judge:
    """Looks at states as a user would, by the command."""

    def __init__(self, world):
        self.world, self.box = world, world.box
        self.store = os.path.relpath(self.box.store, world.root)
        self.folder = self.box.path("state")
        self.seen = {}  # what images hold: {Image: hash}
        self.plain = {k: v for k, v in self.box.env.items() if k not in ("LD_PRELOAD", "IOLOG")}

    def make(self, state):
        shutil.rmtree(self.folder, ignore_errors=True)
        state.write(self.world.log, self.folder)
        self.box.env = dict(self.plain, KAGE_STORE=os.path.join(self.folder, self.store))

    def content(self, image):
        """A hash of all that an image holds; None when it cannot be read."""
        label = f"{image.history}@{image.number}"
        core = self.box.path("core")
        shown = self.box.kage("show", "--json", label, check=False)
        if shown.returncode or self.box.kage("core", label, "-o", core, check=False).returncode:
            return None
        with open(core, "rb") as f:
            found = hashlib.sha1(f.read() + shown.stdout.encode()).hexdigest()
        os.unlink(core)
        return found

    def truth(self, image, point):
        """What IMAGE holds if the power does not fail; None where it is damaged."""
        if image.history in self.broken(point):
            self.make(State(self.world.log, point))
            return self.content(image)
        if image not in self.seen:
            state = State(self.world.log, max(point, image.told))
            self.make(state)
            self.seen[image] = self.content(image)
        return self.seen[image]

    def broken(self, point):
        """Histories that are damaged and not repaired yet."""
        return [h for h, begin, end in self.world.damaged if begin <= point <= end]

    def fsck(self, point):
        done = self.box.kage("fsck", "--json", check=False)
        broken = self.broken(point)
        if done.returncode == 0:
            return
        if not done.stdout.startswith("{\"packs"):
            if os.path.isdir(self.box.env["KAGE_STORE"]):
                raise Failed(f"fsck: {done.stdout} {done.stderr}")
            return
        for finding in json.loads(done.stdout)["findings"]:
            if not any(f"/{h}/" in json.dumps(finding) for h in broken):
                raise Failed(f"fsck finds {finding}")

    def images(self, due, truth):
        for image in due:
            found = self.content(image)
            if found != truth[image] and truth[image]:
                raise Failed(f"{image.history}@{image.number}, announced, "
                             f"{'holds something else' if found else 'is not there or cannot be read'}")

    def tags(self, point):
        for (history, tag), number in self.world.tags_due(point).items():
            images = json.loads(self.box.kage("log", "--json", history).stdout)["images"]
            if not any(i["number"] == number and tag in i["tags"] for i in images):
                raise Failed(f"the tag {history}@{tag} was announced on {number}: {images}")

    def goes_on(self, point):
        """Whatever is done next works."""
        pid = self.world.program.pid
        self.box.kage("record", "-q", "-n", "r", "-c", 2, "-e", "1ms", pid)
        self.box.kage("snap", "-n", "s", pid)
        if self.broken(point):
            self.box.kage("fsck", "--repair", check=False)
        self.box.kage("prune", "--keep-last", 2, "r")
        self.box.kage("prune", "--keep-last", 1, "s")
        self.box.kage("fsck")
        left = [f"{h}/{n}" for h in ("", "r", "s")
                for n in os.listdir(os.path.join(self.box.env["KAGE_STORE"], h))
                if n.startswith((".tmp", ".rm", ".shadow"))]
        if left and self.box.kage("rm", "-y", "s") and os.path.exists(
                os.path.join(self.box.env["KAGE_STORE"], left[0])):
            raise Failed(f"left for ever: {left}")

    def judge(self, point, rng, whole):
        """One state of the power failing after POINT operations."""
        due = self.world.due(point)
        if not whole:
            due = rng.sample(due, min(len(due), 3))
        truth = {image: self.truth(image, point) for image in due}
        way, choose = chooser(rng)
        state = State(self.world.log, point, choose, rng)
        self.make(state)
        try:
            self.fsck(point)
            self.images(due, truth)
            self.tags(point)
            if whole:
                self.goes_on(point)
        except Failed as why:
            raise Failed(f"after {point} of {len(self.world.log.ops)} operations, {way} of what was not "
                         f"synced, {state.dropped} dropped: {why}\n{self.around(point)}") from None
        return state.dropped > 0

    def around(self, point):
        """The operations before the failure, for who reads of it."""
        lines = []
        for op in self.world.log.ops[max(0, point - 12):point]:
            lines.append(f"{op.index}: {op.what} {op.name or ''} {op.to_name or ''}"
                         f"{len(op.data) if op.data else ''} at {op.offset}, durable from {op.durable}")
        return "\n".join(lines)


def fails(judge, rng, points):
    """Each at a random instant: those of changing names, which are few, as often as those of writing."""
    ops = judge.world.log.ops
    names = [op.index + 1 for op in ops if op.what not in ("write", "truncate")]
    incomplete = 0
    for i in range(points):
        point = rng.choice(names) if i % 2 else rng.randrange(len(ops) + 1)
        incomplete += judge.judge(point, rng, i % 8 == 0)
    print(f"# {points} states, of which {incomplete} lack something, of {len(ops)} operations")
    if incomplete < points / 4:
        raise Failed("hardly a state lacked anything")


def at_rest(judge, rng):
    """When all has ended, everything that was announced is durable, without luck."""
    world = judge.world
    point = world.now()
    due = world.due(point)
    truth = {image: judge.truth(image, point) for image in due}
    judge.make(State(world.log, point, lambda i, n: False, rng))
    judge.fsck(point)
    judge.images(due, truth)
    judge.tags(point)
    if not due:
        raise Failed("nothing was to be there at the end")


def main():
    tap, rng = Tap(), seeded()
    for n in range(ROUNDS):
        with Sandbox(durable=False) as box:
            world = World(box, rng)
            begin = time.monotonic()
            tap.run(f"round {n}: a store is made, filled, thinned, repaired", world.do_all)
            judge = Judge(world)
            tap.run(f"round {n}: at rest, all is durable", at_rest, judge, rng)
            tap.run(f"round {n}: power fails", fails, judge, rng, STATES // ROUNDS)
            print(f"# {time.monotonic() - begin:.1f} s")
    tap.done()


main()
