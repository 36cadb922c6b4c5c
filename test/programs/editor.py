#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An editor with text that was never saved, under a terminal that kage provides (kage run --tty).

Typed into, imaged, killed; and in its new life, on a new terminal, told to save: the file must hold what
had been typed by then. The driver's own side is a pipe or a terminal of its own, as a user's would be.
"""

import os
import pty
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import KAGE, Failed, Process, Sandbox, Tap, need, read, read_or, wait_until

LINES = ["the first line", "a second one, with ünïcode", "and the third"]


class Screen:
    """The user's end: keys go in, what is drawn comes out."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        self.drawn = b""
        self.thread = threading.Thread(target=self.collect, daemon=True)
        self.thread.start()

    def collect(self):
        while True:
            try:
                got = os.read(self.master, 65536)
            except OSError:
                return
            if not got:
                return
            self.drawn += got

    def type(self, keys):
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def wait_for(self, text, process):
        def seen():
            if not process.alive():
                raise Failed(f"it ended; drawn: {self.drawn[-1500:]!r}")
            return text.encode() in self.drawn
        try:
            wait_until(f"'{text}' on the screen", seen, 20)
        except Failed as why:
            raise Failed(f"{why}; drawn: {self.drawn[-1500:]!r}") from None


class Editor:
    def __init__(self, box, command, insert, save):
        self.box, self.command, self.insert, self.save = box, command, insert, save
        self.images = []

    def images_while_typing(self):
        need(self.command[0])
        screen = Screen()
        popen = subprocess.Popen([KAGE, "run", "--tty", "--", *self.command, self.box.path("file.txt")],
                                 stdin=screen.slave, stdout=screen.slave, stderr=screen.slave,
                                 env=dict(self.box.env, TERM="xterm"), cwd=self.box.dir,
                                 start_new_session=True)
        kage = self.box.hold(Process(popen.pid, popen))
        children = f"/proc/{popen.pid}/task/{popen.pid}/children"
        pid = int(wait_until("the editor", lambda: read_or(children).strip()).split()[0])
        program = self.box.hold(Process(pid))
        screen.wait_for("file.txt", kage)
        screen.type(self.insert)
        for line in LINES:
            screen.type(line)
            screen.wait_for(line, kage)
            screen.type("\r")
            self.images.append(self.box.snap(pid))
        if os.path.exists(self.box.path("file.txt")):
            raise Failed("it is saved, though nobody asked for that")
        program.kill()
        kage.wait()

    def live_again(self, number):
        if len(self.images) < 3:
            raise Failed("there are no three images")
        screen = Screen()
        out = self.box.path("restored")
        with open(out, "wb") as err:
            popen = subprocess.Popen([KAGE, "restore", "--tty", "new", self.images[number]],
                                     stdin=screen.slave, stdout=screen.slave, stderr=err,
                                     env=dict(self.box.env, TERM="xterm"), start_new_session=True)
        kage = self.box.hold(Process(popen.pid, popen))
        # It draws its screen anew, with all that was typed.
        for line in LINES[:number + 1]:
            screen.wait_for(line, kage)
        screen.type("one more")
        screen.wait_for("one more", kage)
        screen.type(self.save)
        status = kage.wait()
        if status != 0:
            raise Failed(f"it ended with {status}: {read(out)}")
        want = "\n".join(LINES[:number + 1] + ["one more"]) + "\n"
        got = read(self.box.path("file.txt"))
        os.unlink(self.box.path("file.txt"))
        if got.rstrip("\n") != want.rstrip("\n"):
            raise Failed(f"the file holds {got!r}, must hold {want!r}")


EDITORS = [
    ("vim", ["vim.tiny", "-u", "NONE", "-n", "--cmd", "set encoding=utf-8"], "i", "\x1b:wq\r"),
    ("nano", ["nano", "-I"], "", "\x0f\r\x18"),
]


def main():
    tap = Tap()
    for name, command, insert, save in EDITORS:
        with Sandbox() as box:
            editor = Editor(box, command, insert, save)
            tap.run(f"{name}: three images of unsaved text", editor.images_while_typing)
            for number, what in ((0, "first"), (2, "last"), (1, "middle")):
                tap.run(f"{name}: saves what it had at the {what} image", editor.live_again, number)
    tap.done()


if __name__ == "__main__":
    main()
