# SPDX-License-Identifier: Apache-2.0
"""Programs that write a sequence, and the judge of it.

Such a program writes lines "N X" to each of its files, where X(N) = 16807 * X(N-1) mod 2^31-1, as fast
as it can, each X made from the one in its memory; and ends with status 0 soon after the file "go" is
there. Three images are taken while it works; it is killed; each image lives again with its files put
back, in the order first, last, middle. In every life the file must begin where the image was, and be
the sequence to its end: a step that was lost, made twice or begun anew is seen.
"""

import os
import signal

from kagetest import (Failed, Sandbox, Tap, read_or, state_of, threads_of, wait_until)

MORE = 300  # lines between one image and the next


def lines_of(path):
    """The whole lines of a file."""
    text = read_or(path)
    return text[:text.rfind("\n") + 1].splitlines()


def judge_file(path, seed):
    """Every line is the right one. Returns how many there are."""
    x = seed
    lines = lines_of(path)
    for n, line in enumerate(lines, 1):
        x = x * 16807 % 2147483647
        if line != f"{n} {x}":
            raise Failed(f"{os.path.basename(path)}: line {n} is '{line}', must be '{n} {x}'")
    return len(lines)


class Sequence:
    """One such program. FILES: {name: seed}."""

    def __init__(self, box, command, files, env=None):
        self.box, self.command, self.files, self.env = box, command, files, env
        self.process = None
        self.images = []  # (image, {file: (fewest lines, most lines)})

    def counts(self):
        return {name: len(lines_of(self.box.path(name))) for name in self.files}

    def progress(self, process, than):
        def more():
            if not process.alive():
                raise Failed(f"the program ended: {self.box.log()[-3000:]}")
            now = self.counts()
            return all(now[name] >= than[name] + MORE for name in self.files)
        wait_until("the sequence to go on", more)

    def start(self):
        self.process = self.box.start(self.command, env=self.env)
        self.progress(self.process, {name: 0 for name in self.files})

    def take_images(self):
        for _ in range(3):
            before = self.counts()
            image = self.box.snap(self.process.pid)
            after = self.counts()
            self.images.append((image, {n: (before[n], after[n]) for n in self.files}))
            self.progress(self.process, after)
        self.process.kill()

    def live_again(self, number):
        image, bounds = self.images[number]
        # Stopped, so that what was put back can be looked at.
        life = self.box.restore(image, "--files", "restore", "--stopped")
        wait_until("it to stand", lambda: life.process.alive() and all(
            state_of(life.pid, t) == "T" for t in threads_of(life.pid)))
        for name, (fewest, most) in bounds.items():
            count = judge_file(self.box.path(name), self.files[name])
            if not fewest <= count <= most:
                raise Failed(f"{name} has {count} lines, had {fewest} to {most} at the image")
        here = self.counts()
        life.process.signal(signal.SIGCONT)
        self.progress(life.process, here)
        if number == 0:  # an image of a life from an image is as good as any
            self.box.snap(life.pid, name="again")
        self.box.write("go", "")
        status = life.wait()
        os.unlink(self.box.path("go"))
        if status != 0:
            raise Failed(f"it ended with {status}: {self.box.log()[-3000:]}")
        for name, seed in self.files.items():
            judge_file(self.box.path(name), seed)


def test_program(name, command, files, prepare=None, env=None):
    """The whole test file of one program. COMMAND and PREPARE are given the sandbox."""
    tap = Tap()
    with Sandbox() as box:
        state = {}

        def images():
            if prepare:
                prepare(box)
            state["s"] = Sequence(box, command(box) if callable(command) else command, files, env)
            state["s"].start()
            state["s"].take_images()
        tap.run(f"{name}: three images while it works", images)
        for number, what in ((0, "first"), (2, "last"), (1, "middle")):
            def again(number=number):
                if "s" not in state or len(state["s"].images) < 3:
                    raise Failed("there are no three images")
                state["s"].live_again(number)
            tap.run(f"{name}: lives again from the {what} image", again)
        tap.run(f"{name}: the store is well", box.fsck)
    tap.done()
