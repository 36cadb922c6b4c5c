# SPDX-License-Identifier: Apache-2.0
"""What tests on terminals share: a pseudo-terminal with somebody who looks at it and types."""

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import threading

from kagetest import PATIENCE, Failed, Process, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
KEYS = [sys.executable, os.path.join(HERE, "keys.py")]

PROMPT = r"\$ \Z"

# Sequences that say where and how text is shown, not what.
CONTROL = re.compile(rb"\x1b\[[0-9;:?>!]*[ -/]*[@-~]|\x1b[()][0-9A-Z]|\x1b[=>78M]|\x1b\][^\x07]*\x07")


class Terminal:
    """The user's end: keys go in, what is shown comes out."""

    def __init__(self, rows=24, columns=80):
        self.master, self.slave = os.openpty()
        self.path = os.ttyname(self.slave)
        self.drawn = b""
        if rows or columns:
            self.resize(rows, columns)
        self.enough, self.stop = os.pipe()
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def _collect(self):
        while self.enough not in select.select([self.master, self.enough], [], [])[0]:
            try:
                self.drawn += os.read(self.master, 65536)
            except OSError:
                return

    def start(self, box, command, env=None, controlling=True, stderr=None, **how):
        """Starts COMMAND on this terminal, in a session of its own; CONTROLLING or just as a file.
        Job control needs a group that is not orphaned: start a shell for that."""
        if controlling:
            command = ["setsid", "--ctty", *command]
        popen = subprocess.Popen(command, stdin=self.slave, stdout=self.slave,
                                 stderr=stderr or self.slave, cwd=how.pop("cwd", box.dir),
                                 env=dict(box.env, TERM="xterm", **(env or {})),
                                 start_new_session=not controlling, **how)
        return box.hold(Process(popen.pid, popen))

    def shell(self, box, **how):
        """An interactive shell, at its prompt."""
        shell = self.start(box, ["bash", "--norc", "--noprofile", "-i"],
                           env={"PS1": "$ ", "HISTFILE": "", "PS0": ""}, **how)
        self.expect(PROMPT, shell)
        return shell

    def text(self):
        return CONTROL.sub(b"", self.drawn).decode("utf-8", "replace")

    def forget(self):
        """What was shown until now is of no interest any more."""
        self.drawn = b""

    def type(self, keys):
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def run(self, line):
        """Types a command when the shell asks for one."""
        self.expect(PROMPT)
        self.forget()
        self.type(line + "\r")

    def expect(self, pattern, process=None, patience=PATIENCE):
        """Waits until PATTERN is shown, and returns the match; fails when PROCESS ends before."""
        def seen():
            ended = process is not None and not process.alive()
            found = re.search(pattern, self.text(), re.M)
            if not found and ended:
                raise Failed(f"it ended before {pattern!r}; shown: {self.text()[-1500:]!r}")
            return found
        try:
            return wait_until(f"{pattern!r} on the screen", seen, patience)
        except Failed as why:
            if "shown:" in str(why):
                raise
            if os.environ.get("KAGE_DEBUG"):
                subprocess.run(["ps","-eo","pid,ppid,pgid,sid,tpgid,stat,tty,wchan:20,args"]); print(self.foreground(), termios.tcgetattr(self.slave))
            raise Failed(f"{why}; shown: {self.text()[-1500:]!r}") from None

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def modes(self):
        """Settings, without what only says how fast it is."""
        return termios.tcgetattr(self.slave)[:4] + termios.tcgetattr(self.slave)[6:]

    def takes_keys(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def foreground(self):
        """The process group that is in the foreground, as its owner sees it."""
        return os.tcgetpgrp(self.master)

    def close(self):
        """The window is closed: who is on the terminal is hung up on."""
        os.close(self.stop)
        self.thread.join()
        for fd in (self.enough, self.slave, self.master):
            os.close(fd)
