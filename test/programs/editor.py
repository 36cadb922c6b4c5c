#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An editor with text that was never saved, on a terminal of kage's or on the user's own.

Typed into, imaged, killed; and in its new life, on a terminal of another size, told to save: the file
must hold what had been typed by then.
"""

import fcntl
import os
import struct
import sys
import termios

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import KAGE, Failed, Process, Sandbox, Tap, need, read, read_or, state_of, wait_until
from terminals import Terminal

LINES = ["the first line", "a second one, with ünïcode", "and the third"]

# What the editor's screen is switched to (terminfo: smcup), and keys of its own (smkx).
OTHER_SCREEN, OTHER_KEYS = b"\x1b[?1049h", b"\x1b[?1h"


class Editor:
    def __init__(self, box, command, insert, save):
        self.box, self.command, self.insert, self.save = box, command, insert, save
        self.images = []

    def start(self, screen, tty):
        """Returns the process on the terminal and the editor itself."""
        command = [*self.command, self.box.path("file.txt")]
        if not tty:
            editor = screen.start(self.box, command)
            return editor, editor
        kage = screen.start(self.box, [KAGE, "run", "--tty", "--", *command])
        children = f"/proc/{kage.pid}/task/{kage.pid}/children"
        pid = int(wait_until("the editor", lambda: read_or(children).strip()).split()[0])
        return kage, self.box.hold(Process(pid))

    @staticmethod
    def has_read_all(pid):
        with open(f"/proc/{pid}/fd/0", "rb", buffering=0,
                  opener=lambda path, flags: os.open(path, flags | os.O_NOCTTY)) as f:
            waiting = struct.unpack("i", fcntl.ioctl(f, termios.FIONREAD, bytes(4)))[0]
        return waiting == 0 and state_of(pid) == "S"

    def images_while_typing(self, tty):
        need(self.command[0], "setsid")
        screen = Terminal(*(0, 0) if tty else (24, 80))
        outer, editor = self.start(screen, tty)
        screen.expect("file.txt", outer)
        screen.type(self.insert)
        for line in LINES:
            screen.type(line)
            screen.expect(line, outer)
            screen.forget()
            screen.type("\r")
            wait_until("the next line", lambda: screen.drawn and self.has_read_all(editor.pid))
            self.images.append(self.box.snap(editor.pid))
        if os.path.exists(self.box.path("file.txt")):
            raise Failed("it is saved, though nobody asked for that")
        editor.kill()
        outer.wait()

    def live_again(self, number, tty):
        if len(self.images) < 3:
            raise Failed("there are no three images")
        screen = Terminal(rows=30, columns=100)
        before = screen.modes()
        errors = self.box.path("errors")
        with open(errors, "wb") as err:
            options = ["--tty", "new"] if tty else []
            kage = screen.start(self.box, [KAGE, "restore", *options, self.images[number]],
                                stderr=err)
        # It sets up its screen and draws it anew, with all that was typed.
        try:
            for line in LINES[:number + 1]:
                screen.expect(line, kage)
            wait_until("its screen", lambda: OTHER_SCREEN in screen.drawn and
                       OTHER_KEYS in screen.drawn)
        except Failed as why:
            raise Failed(f"{why}; {read(errors)}") from None
        screen.type("one more")
        screen.expect("one more", kage)
        screen.type(self.save)
        status = kage.wait()
        if status != 0:
            raise Failed(f"it ended with {status}: {read(errors)}")
        if screen.modes() != before:
            raise Failed("the settings of the terminal are not as before")
        self.compare(LINES[:number + 1] + ["one more"])

    def compare(self, lines):
        got = read(self.box.path("file.txt"))
        os.unlink(self.box.path("file.txt"))
        if got.rstrip("\n") != "\n".join(lines):
            raise Failed(f"the file holds {got!r}, must hold {lines!r}")


EDITORS = [
    ("vim", ["vim.tiny", "-u", "NONE", "-n", "--cmd", "set encoding=utf-8"], "i", "\x1b:wq\r"),
    ("nano", ["nano", "-I"], "", "\x0f\r\x18"),
]


def main():
    tap = Tap()
    for name, command, insert, save in EDITORS:
        for tty, where in ((True, "kage run --tty"), (False, "the user's terminal")):
            with Sandbox() as box:
                editor = Editor(box, command, insert, save)
                tap.run(f"{name}, {where}: three images of unsaved text",
                        editor.images_while_typing, tty)
                for number, what in ((0, "first"), (2, "last"), (1, "middle")):
                    tap.run(f"{name}, {where}: saves what it had at the {what} image",
                            editor.live_again, number, tty)
    tap.done()


if __name__ == "__main__":
    main()
