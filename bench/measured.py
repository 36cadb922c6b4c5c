# SPDX-License-Identifier: Apache-2.0
"""What the measuring scripts share: the program that is measured."""

import mmap
import os
import signal
import statistics
import struct
import subprocess
import sys
import time

B = os.environ.get("B", "build")
KAGE = os.path.realpath(f"{B}/kage")
TARGET = os.path.realpath(f"{B}/bench/target")
RUNS = int(os.environ.get("RUNS", "5"))
FIELDS = ("ready", "order", "done", "gap_ns", "gap_end_ns", "result_ns", "steps", "map_ns")


class Target:
    """The program that is measured, and what it sees of itself."""

    def __init__(self, folder, mib, permille=100, how=""):
        self.path = os.path.join(folder, f"seen-{mib}")
        with open(self.path, "wb") as f:
            f.truncate(4096)
        self.process = subprocess.Popen([TARGET, self.path, str(mib), str(permille), how], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, start_new_session=True)
        self.pid = self.process.pid
        self.reopen()
        self.wait(lambda: self.get("ready"))

    def reopen(self):
        with open(self.path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 4096)

    def get(self, field):
        return struct.unpack_from("<Q", self.map, 8 * FIELDS.index(field))[0]

    def order(self, number):
        struct.pack_into("<Q", self.map, 8 * FIELDS.index("done"), 0)
        struct.pack_into("<Q", self.map, 8 * FIELDS.index("order"), number)
        self.wait(lambda: self.get("done") == number)
        return self.get("result_ns") / 1e6

    @staticmethod
    def wait(condition):
        end = time.monotonic() + 120
        while not condition():
            if time.monotonic() > end:
                sys.exit("bench: the target does not answer")
            time.sleep(0.001)

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def median(values):
    return statistics.median(values)
