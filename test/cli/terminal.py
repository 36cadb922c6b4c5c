#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kage run and the keys of a terminal: interrupts, job control under a shell, --tty."""

import os
import pty
import re
import select
import signal
import struct
import fcntl
import sys
import termios
import time

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
KAGE = os.environ.get("KAGE") or os.path.abspath(os.environ.get("B", "build")) + "/kage"
results = []


def ok(passed, name, detail=""):
    results.append(passed)
    print(f"{'ok' if passed else 'not ok'} {len(results)} - {name}")
    if not passed:
        print("# " + repr(detail), flush=True)


class Terminal:
    """A program on a terminal, and what it has shown so far."""

    def __init__(self, *command):
        self.shown = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.environ.update(PS1="$ ", TERM="xterm", HISTFILE="")
            os.execvp(command[0], command)

    def expect(self, pattern, seconds=10):
        """Reads until PATTERN is shown, then forgets what stands before its end."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                return False
            try:
                self.shown += os.read(self.fd, 4096).decode("utf-8", "replace")
            except OSError:
                return bool(re.search(pattern, self.shown))
        self.shown = self.shown[re.search(pattern, self.shown).end():]
        return True

    def type(self, text):
        os.write(self.fd, text.encode())

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def drain(self):
        """Reads what was said last."""
        try:
            while select.select([self.fd], [], [], 0)[0]:
                self.shown += os.read(self.fd, 4096).decode("utf-8", "replace")
        except OSError:
            pass

    def end(self):
        """Returns the exit status, or minus the signal that ended it."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.drain()
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.02)[0]:
                try:
                    self.shown += os.read(self.fd, 4096).decode("utf-8", "replace")
                except OSError:
                    pass
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)
        return None


def test_interrupt():
    t = Terminal(KAGE, "run", "sh", "-c",
                 "n=0; trap 'n=$((n+1)); echo got $n' INT; echo ready; "
                 "while [ $n = 0 ]; do sleep 0.1; done; sleep 0.3; exit 8")
    seen = t.expect("ready")
    t.type("\x03")
    ok(seen and t.expect("got 1"), "^C reaches the program", t.shown)
    status = t.end()
    ok("got 2" not in t.shown and status == 8, "once, and kage stays for its end",
       (status, t.shown))
    t = Terminal(KAGE, "run", "sh", "-c", "echo ready; exec sleep 100")
    t.expect("ready")
    t.type("\x03")
    ok(t.end() == -signal.SIGINT, "a program that ^C ends ends kage by SIGINT")


def test_job_control():
    t = Terminal("bash", "--norc", "--noprofile", "-i")
    t.expect(r"\$ ")
    t.type(f"{KAGE} run sh -c 'echo ready; read x; echo read $x; exit 3'\n")
    t.expect("ready\r")
    t.type("\x1a")
    ok(t.expect(r"Stopped"), "^Z stops the program and kage: the shell has its job", t.shown)
    t.type("fg\n")
    t.expect("kage run")
    time.sleep(0.3)
    t.type("line\n")
    ok(t.expect("read line\r"), "fg continues it, and it reads the terminal", t.shown)
    t.type("echo status $?\n")
    ok(t.expect("status 3"), "the shell sees its exit status", t.shown)
    t.type(f"{KAGE} run sh -c 'read x; echo read $x' &\n")
    t.expect(r"\$ ")
    stopped = False
    for _ in range(40):
        t.type("jobs\n")
        stopped = stopped or t.expect("Stopped", 0.5)
        if stopped:
            break
    ok(stopped, "in the background it stops when it reads the terminal", t.shown)
    t.type("fg\n")
    t.expect("kage run")
    time.sleep(0.3)
    t.type("more\n")
    ok(t.expect("read more\r"), "and goes on in the foreground", t.shown)
    t.type(f"{KAGE} run seq 5 | tail -n 1; echo end\n")
    ok(t.expect("5\r\nend"), "in a pipeline", t.shown)
    t.type("exit\n")
    t.end()


def test_own_terminal():
    t = Terminal(KAGE, "run", "--tty", "sh", "-c",
                 "trap 'stty size' WINCH; stty size; echo ready; "
                 "while :; do sleep 0.05; done")
    t.resize(33, 99)
    ok(t.expect("ready"), "--tty: output", t.shown)
    t.resize(44, 111)
    ok(t.expect("44 111"), "--tty: a new size is passed on", t.shown)
    t.type("\x03")
    ok(t.end() == -signal.SIGINT, "--tty: ^C reaches the program", t.shown)
    t = Terminal("sh", "-c", f"stty -a >/tmp/kage-before.$$; {KAGE} run --tty sh -c "
                 "'stty raw -echo; echo ready; head -c 3 | od -An -tx1; stty sane'; "
                 "stty -a | cmp - /tmp/kage-before.$$ && echo same; rm /tmp/kage-before.$$")
    t.expect("ready")
    t.type("\x03\x1a\r")
    ok(t.expect("03 1a 0d"), "--tty: every key reaches a program in raw mode", t.shown)
    ok(t.expect("same"), "--tty: our own terminal is as before", t.shown)
    t.end()
    t = Terminal(KAGE, "run", "--tty", "sh", "-c", "echo ready; tty; sleep 100")
    t.expect("ready")
    os.kill(t.pid, signal.SIGTERM)
    ok(t.end() == -signal.SIGTERM, "--tty: signals to kage go on to the program", t.shown)


def same_after(command, name):
    """COMMAND leaves the terminal's settings as they were."""
    t = Terminal("sh", "-c", f"b=$(stty -a); {command}; [ \"$(stty -a)\" = \"$b\" ] && echo same; "
                 "echo end")
    ok(t.expect("same\r"), name, t.shown)
    t.expect("end")
    t.end()


def test_relay():
    same_after(f"{KAGE} run --tty sh -c 'echo a; sleep 0.2; echo b; sleep 0.2; echo c' | head -n 1",
               "--tty: our terminal is as before when nobody reads any more")
    same_after(f"{KAGE} run --tty sh -c 'kill -KILL $$'", "--tty: and when the program is killed")
    t = Terminal("bash", "--norc", "--noprofile", "-i")
    t.expect(r"\$ ")
    t.type("before=$(stty -a)\n")
    t.expect(r"\$ ")
    t.type(f"{KAGE} run --tty sh -c 'trap \"echo drawn\" WINCH; echo started; "
           "while :; do read x && echo got $x; done'\n")
    t.expect("started\r")
    t.type("one\n")
    ok(t.expect("got one"), "--tty: under a shell", t.shown)
    kage = os.tcgetpgrp(t.fd)
    os.kill(kage, signal.SIGTSTP)
    ok(t.expect("Stopped"), "--tty: SIGTSTP to kage stops both", t.shown)
    t.type("[ \"$before\" = \"$(stty -a)\" ] && echo sa''me\n")
    ok(t.expect("same"), "--tty: the shell has its terminal as it was", t.shown)
    t.type("fg\n")
    ok(t.expect("drawn"), "--tty: continued, it draws anew", t.shown)
    t.type("two\n")
    ok(t.expect("got two"), "--tty: and gets what is typed", t.shown)
    t.type("\x03")
    t.expect(r"\$ ")
    t.type(f"{KAGE} run --tty sh -c 'read x; echo got $x' & sleep 0.5; echo prom''pt\n")
    t.expect("prompt")
    t.type("fg\n")
    t.expect("kage run")
    time.sleep(0.7)
    t.type("three\n")
    ok(t.expect("got three"), "--tty: begun in the background, it comes to the foreground", t.shown)
    t.type("exit\n")
    t.end()


def test_width():
    t = Terminal("sh", "-c", f"stty cols 40; exec {KAGE} --help")
    t.expect("man kage")
    ok(t.end() == 0, "help on a terminal", t.shown)
    t = Terminal("env", "NO_COLOR=1", KAGE, "snap", "--help")
    status = t.end()
    ok(status == 0 and "man kage-snap" in t.shown and "\033" not in t.shown,
       "not with NO_COLOR", t.shown)
    plain = Terminal(KAGE, "snap", "--help")
    ok(plain.expect("\033\\[1mUsage"), "titles stand out on a terminal", plain.shown)
    plain.end()


test_interrupt()
test_job_control()
test_own_terminal()
test_relay()
test_width()
print(f"1..{len(results)}")
sys.exit(0 if all(results) else 1)
