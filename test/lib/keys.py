# SPDX-License-Identifier: Apache-2.0
"""A program that takes keys one by one, as editors do, and tells what it gets: keys in <>, signals by
name, the size of its terminal after each. q ends it with status 7."""

import os
import select
import signal
import sys
import termios

told = []


def handler(number, _):
    told.append(signal.Signals(number).name)


def size():
    columns, rows = os.get_terminal_size(0)
    return f"{rows}x{columns}"


def say(text):
    os.write(1, f"{text}\n".encode())


def main():
    for number in (signal.SIGWINCH, signal.SIGCONT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, handler)
        signal.siginterrupt(number, True)
    before = termios.tcgetattr(0)
    modes = termios.tcgetattr(0)
    modes[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    modes[6][termios.VMIN] = 1
    termios.tcsetattr(0, termios.TCSANOW, modes)
    wakeup, sleepup = os.pipe()
    os.set_blocking(sleepup, False)
    signal.set_wakeup_fd(sleepup)
    say(f"ready {size()} {os.getpid()}")
    keys = b""
    while keys != b"q":
        ready = select.select([0, wakeup], [], [])[0]
        if wakeup in ready:
            os.read(wakeup, 100)
        while told:
            say(f"{told.pop(0)} {size()}")
        if 0 in ready:
            keys = os.read(0, 1)
            say(f"<{keys.hex()}>" if not keys.isalnum() else f"<{keys.decode()}>")
    termios.tcsetattr(0, termios.TCSANOW, before)
    sys.exit(7)


main()
