#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Images of programs on terminals whose other end somebody else holds: a user's window, script(1),
tmux. Neither the program nor the other end may feel it: every key arrives once, nothing is hung up
on, stopped, resized, or set otherwise, and no signal comes.
"""

import os
import random
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Process, Sandbox, Snapper, Tap, need, read_or, seeded, wait_until
from terminals import KEYS, Terminal

LETTERS = "abcdefghijklmnoprstuvwxyz"  # no q


def pid_told(terminal, process):
    return int(terminal.expect(r"ready \d+x\d+ (\d+)", process).group(1))


def type_while_images_are_taken(box, terminal, pid, rng, n=150):
    """Types N keys while images are taken, and compares what the program got."""
    snapper = Snapper(box, [pid], interval=0.02)
    terminal.forget()
    snapper.start()
    typed = [rng.choice(LETTERS) for _ in range(n)]
    for i, key in enumerate(typed):
        terminal.type(key)
        if rng.random() < 0.8: # else several wait in the terminal
            wait_until("the key", lambda: terminal.text().count("<") > i)
    wait_until("all keys", lambda: terminal.text().count(">") >= n)
    snapper.stop()
    if snapper.problem:
        raise Failed(snapper.problem)
    got = terminal.text().split()
    if got != [f"<{key}>" for key in typed]:
        raise Failed(f"typed {''.join(typed)}, seen {' '.join(got)}")
    if not snapper.taken:
        raise Failed("no image was taken")


def in_a_window(box, rng, command=KEYS):
    terminal = Terminal()
    program = terminal.start(box, command)
    pid_told(terminal, program)
    before = terminal.modes(), terminal.foreground(), os.get_terminal_size(terminal.slave)
    type_while_images_are_taken(box, terminal, program.pid, rng)
    if before != (terminal.modes(), terminal.foreground(), os.get_terminal_size(terminal.slave)):
        raise Failed("the terminal is not as before")
    terminal.type("q")
    status = program.wait()
    if status != 7:
        raise Failed(f"it ended with {status}")


def as_a_job(box, rng):
    terminal = Terminal()
    shell = terminal.shell(box)
    terminal.run(" ".join(KEYS))
    pid = pid_told(terminal, shell)
    type_while_images_are_taken(box, terminal, pid, rng)
    terminal.type("q")
    terminal.run("echo status $?")
    terminal.expect("status 7", shell)


def in_script(box, rng):
    need("script")
    terminal = Terminal()
    script = terminal.start(box, ["script", "-qec", " ".join(KEYS), box.path("typescript")])
    pid = pid_told(terminal, script)
    type_while_images_are_taken(box, terminal, pid, rng)
    done = box.kage("check", script.pid, check=False)
    if done.returncode != 1 or "the program on that terminal instead" not in done.stdout:
        raise Failed(f"kage check of script: {done.stdout}")
    terminal.type("q")
    if script.wait() != 7:
        raise Failed("script did not end like its program")
    if "<" not in read_or(box.path("typescript")):
        raise Failed("script has written nothing down")


class Tmux:
    """A server of its own; its pane looks like a Terminal."""

    def __init__(self, box):
        self.base = ["tmux", "-S", box.path("tmux"), "-f", "/dev/null"]
        self.box = box
        self.forgotten = 0

    def do(self, *args):
        return subprocess.run([*self.base, *args], env=self.box.env, check=True, text=True,
                              stdout=subprocess.PIPE).stdout

    def type(self, key):
        self.do("send-keys", "-l", key)

    def everything(self):
        return self.do("capture-pane", "-p", "-S", "-")

    def text(self):
        return self.everything().rstrip("\n")[self.forgotten:]

    def forget(self):
        self.forgotten = len(self.everything().rstrip("\n"))


def in_tmux(box, rng):
    need("tmux")
    tmux = Tmux(box)
    tmux.do("new-session", "-d", "-x", "80", "-y", "24", " ".join(KEYS))
    try:
        box.hold(Process(int(tmux.do("display-message", "-p", "#{pid}"))))
        told = wait_until("the program", lambda: re.search(r"ready 24x80 (\d+)", tmux.text()))
        type_while_images_are_taken(box, tmux, int(told.group(1)), rng, 40)
    finally:
        tmux.do("kill-server")


def much_output(box, rng):
    """No line is lost, doubled or cut, however often the writer is looked at."""
    del rng
    n = 30000
    terminal = Terminal()
    program = terminal.start(box, ["sh", "-c", f"echo ready; exec seq {n}"])
    terminal.expect("ready", program)
    snapper = Snapper(box, [program.pid], interval=0.01, must_work=False)
    snapper.start()
    program.wait()
    snapper.stop()
    wait_until("the last line", lambda: terminal.drawn.endswith(f"\n{n}\r\n".encode()))
    if terminal.drawn.split() != [b"ready"] + [str(i).encode() for i in range(1, n + 1)]:
        raise Failed("the lines are not as they were written")


def hung_up(box, rng):
    """Nothing of ours holds the terminal: when the program ends, the other end hears of it."""
    del rng
    terminal = Terminal()
    program = terminal.start(box, KEYS)
    pid_told(terminal, program)
    for _ in range(3):
        box.snap(program.pid)
    os.close(terminal.slave)
    terminal.slave = os.open("/dev/null", os.O_RDONLY)
    terminal.type("q")
    program.wait()
    terminal.thread.join(20)
    if terminal.thread.is_alive():
        raise Failed("the other end of the terminal was not told of the end")


TESTS = [
    ("in a window", in_a_window),
    ("as a job of a shell", as_a_job),
    ("in script", in_script),
    ("in tmux", in_tmux),
    ("much output", much_output),
    ("the end of the program", hung_up),
]


def main():
    tap, rng = Tap(), seeded()
    for rung in ("", "1"):
        for name, function in TESTS:
            if len(sys.argv) > 1 and not any(word in function.__name__ for word in sys.argv[1:]):
                continue
            with Sandbox() as box:
                box.env["KAGE_RUNG"] = rung
                tap.run(name + (f", rung {rung}" if rung else ""), function, box,
                        random.Random(rng.random()))
    tap.done()


if __name__ == "__main__":
    main()
