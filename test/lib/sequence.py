# SPDX-License-Identifier: Apache-2.0
"""Programs that write a sequence, and the judge of it.

Such a program writes lines "N X" to each of its files, where X(N) = 16807 * X(N-1) mod 2^31-1, as fast
as it can, each X made from the one in its memory. When the file "go" is there it makes sure that all
else it does goes on (timers, garbage collection …), checks what it remembers, and ends with status 0.

Three images are taken while it works, and one while it stands (SIGSTOP); it goes on and is killed. Each
image lives again with its files put back, in the order first, last, middle. In every life the
files must begin where the image was, and be the sequence to their ends: a step that was lost,
made twice or begun anew is seen. The life from the fourth must equal its portraits (portrait.py).
"""

import os

from kagetest import Failed, Sandbox, Tap, read_or, threads_of, wait_until
from portrait import Standing, goes_on, stands

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


class Seen:
    """What was seen of the program right before an image or right after it."""

    def __init__(self, sequence):
        self.lines = sequence.counts()
        self.threads = set(threads_of(sequence.process.pid))


class Sequence:
    """One such program. FILES: {name: seed}. WARM tells by the program's log whether images may be taken, JUDGE
    raises Failed by the logs of a life's beginning and end."""

    def __init__(self, box, command, files, warm=None, judge=None):
        self.box, self.command, self.files = box, command, files
        self.warm, self.judge = warm, judge
        self.process = None
        self.images = []  # (image, Seen before, Seen after)
        self.standing = None
        self.written = None  # the files' bytes then

    def counts(self):
        return {name: len(lines_of(self.box.path(name))) for name in self.files}

    def contents(self):
        return {name: read_or(self.box.path(name)) for name in self.files}

    def progress(self, process, than):
        def more():
            if not process.alive():
                raise Failed(f"the program ended: {self.box.log()[-3000:]}")
            now = self.counts()
            return all(now[name] >= than[name] + MORE for name in self.files)
        wait_until("the sequence to go on", more)

    def start(self):
        self.process = self.box.start(self.command)
        self.progress(self.process, {name: 0 for name in self.files})
        if self.warm:
            wait_until("the program to be warm", lambda: self.warm(self.box.log()))

    def take_images(self):
        for _ in range(3):
            before = Seen(self)
            image = self.box.snap(self.process.pid)
            after = Seen(self)
            self.images.append((image, before, after))
            self.progress(self.process, after.lines)
        self.standing = Standing(self.box, self.process)
        self.written = self.contents()
        goes_on(self.process)
        self.progress(self.process, self.counts())
        self.process.kill()

    def judge_beginning(self, life, before, after):
        for name, seed in self.files.items():
            count = judge_file(self.box.path(name), seed)
            if not before.lines[name] <= count <= after.lines[name]:
                raise Failed(f"{name} has {count} lines, had {before.lines[name]} to "
                             f"{after.lines[name]} at the image")
        missing = before.threads & after.threads - set(threads_of(life.pid))
        if missing:
            raise Failed(f"threads {sorted(missing)} are missing")

    def live_on(self, life, snap_again=False):
        """From where it stands to its end."""
        here, said = self.counts(), self.box.log()
        goes_on(life.process)
        self.progress(life.process, here)
        if snap_again:  # an image of a life from an image is as good as any
            self.box.snap(life.pid, name="again")
        self.box.write("go", "")
        status = life.wait()
        os.unlink(self.box.path("go"))
        if status != 0:
            raise Failed(f"it ended with {status}: {self.box.log()[-3000:]}")
        for name, seed in self.files.items():
            judge_file(self.box.path(name), seed)
        if self.judge:
            self.judge(said, self.box.log())

    def live_again(self, number):
        if len(self.images) < 3:
            raise Failed("there are no three images")
        image, before, after = self.images[number]
        # Stopped, so that what was put back can be looked at.
        with self.box.restore(image, "--files", "restore", "--stopped") as life:
            stands(life.process)
            self.judge_beginning(life, before, after)
            self.live_on(life, snap_again=number == 0)

    def judge_core(self, landmarks):
        if not self.standing:
            raise Failed("there is no image")
        self.standing.judge_core(landmarks)

    def stand_again(self):
        if not self.standing:
            raise Failed("there is no image")
        with self.box.restore(self.standing.image, "--files", "restore") as life:
            self.standing.judge_life(life)
            if self.contents() != self.written:
                raise Failed("the files are not what they were")
            self.live_on(life)


def test_program(name, command, files, prepare=None, landmarks=(), **judges):
    """The whole test file of one program. COMMAND and PREPARE are given the sandbox; LANDMARKS are parts of
    functions' names that its backtraces always have; JUDGES are Sequence's."""
    tap = Tap()
    with Sandbox() as box:
        s = Sequence(box, command, files, **judges)

        def images():
            if prepare:
                prepare(box)
            if callable(command):
                s.command = command(box)
            s.start()
            s.take_images()
        tap.run(f"{name}: three images while it works, one while it stands", images)
        for number, what in ((0, "first"), (2, "last"), (1, "middle")):
            tap.run(f"{name}: lives again from the {what} image", s.live_again, number)
        tap.run(f"{name}: gdb sees in a core what it saw in the program", s.judge_core, landmarks)
        tap.run(f"{name}: is to the last byte what it was", s.stand_again)
        tap.run(f"{name}: the store is well", box.fsck)
    tap.done()
