#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""redis-server with AOF and RDB: imaged between bursts of writes, no client connected at the instant.

The oracle is redis: DEBUG DIGEST of all its data as of each image, and that a fresh server which
replays the AOF that the restored one leaves comes to the same digest.
"""

import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, Tap, need, wait_until

KEYS = 20000


class Client:
    """One connection, as short as possible."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, *words):
        out = b"*%d\r\n" % len(words)
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            out += b"$%d\r\n%s\r\n" % (len(word), word)
        self.socket.sendall(out)

    def answer(self):
        line = self.file.readline().rstrip(b"\r\n")
        if line[:1] == b"$":
            n = int(line[1:])
            return None if n < 0 else self.file.read(n + 2)[:-2]
        if line[:1] == b"-":
            raise Failed(f"redis: {line.decode()}")
        return line[1:]

    def ask(self, *words):
        self.send(*words)
        return self.answer()

    def burst(self, generation):
        for start in range(0, KEYS, 500):
            for i in range(start, start + 500):
                self.send("SET", f"key:{(i * 7 + generation) % 60000}", f"{generation}:{i}" * (i % 30 + 1))
            for i in range(start, start + 500):
                self.answer()
        for i in range(200):
            self.ask("LPUSH", f"list:{i % 10}", generation * i)
            self.ask("ZADD", "scores", i, f"member {generation} {i}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Redis:
    def __init__(self, box):
        self.box, self.port = box, free_port()
        os.makedirs(box.path("data"), exist_ok=True)
        self.process = None
        self.images = []  # (image, digest, number of keys)

    def start(self, log="log"):
        process = self.box.start(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir",
             self.box.path("data"), "--appendonly", "yes", "--appendfsync", "everysec",
             "--auto-aof-rewrite-percentage", "0", "--save", "3600 1", "--enable-debug-command", "yes"],
            log=log)
        self.box.wait_log("Ready to accept connections", log=log, process=process)
        return process

    def info(self, what):
        with Client(self.port) as c:
            text = c.ask("INFO", "everything").decode()
        return next(l.partition(":")[2] for l in text.splitlines() if l.startswith(what + ":"))

    def digest(self):
        with Client(self.port) as c:
            return c.ask("DEBUG", "DIGEST").decode(), int(c.ask("DBSIZE"))

    def alone(self, process):
        """Nobody is connected, nothing is being saved by a child."""
        def quiet():
            sockets = [os.readlink(f"/proc/{process.pid}/fd/{fd}")
                       for fd in os.listdir(f"/proc/{process.pid}/fd")]
            inodes = {s[8:-1] for s in sockets if s.startswith("socket:")}
            with open("/proc/net/tcp", encoding="ascii") as f:
                rows = [l.split() for l in f.readlines()[1:]]
            with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as f:
                children = f.read().strip()
            return not children and not [r for r in rows if r[9] in inodes and r[3] != "0A"]
        wait_until("redis to be alone", quiet)

    def images_under_load(self):
        self.process = self.start()
        with Client(self.port) as c:
            c.burst(0)
            c.ask("BGSAVE")
        wait_until("the RDB", lambda: self.info("rdb_bgsave_in_progress") == "0")
        for generation in range(1, 4):
            with Client(self.port) as c:
                c.burst(generation)
                digest = c.ask("DEBUG", "DIGEST").decode()
                size = int(c.ask("DBSIZE"))
            self.alone(self.process)
            self.images.append((self.box.snap(self.process.pid), digest, size))
        with Client(self.port) as c:
            c.burst(9)  # what no image has
        self.process.kill()

    def live_again(self, number):
        image, digest, size = self.images[number]
        life = self.box.restore(image, "--files", "restore")
        if self.digest() != (digest, size):
            raise Failed(f"the digest is {self.digest()}, was {digest, size}")
        with Client(self.port) as c:  # it works, and its AOF with it
            c.burst(20 + number)
            c.ask("SET", "after", number)
            if c.ask("GET", "after") != str(number).encode():
                raise Failed("what was set is not there")
            c.ask("BGSAVE")
        wait_until("the RDB", lambda: self.info("rdb_bgsave_in_progress") == "0")
        if self.info("rdb_last_bgsave_status") != "ok":
            raise Failed("BGSAVE failed")
        after = self.digest()
        with Client(self.port) as c:
            c.send("SHUTDOWN", "NOSAVE")
        if life.wait() != 0:
            raise Failed("SHUTDOWN did not end it with status 0")
        fresh = self.start(f"replay.{number}")  # replays the AOF
        replayed = self.digest()
        fresh.kill()
        if replayed != after:
            raise Failed(f"the AOF replays to {replayed}, must be {after}")


def main():
    tap = Tap()
    with Sandbox() as box:
        redis = Redis(box)

        def images():
            need("redis-server")
            redis.images_under_load()
        tap.run("redis: three images between bursts", images)
        for number, what in ((0, "first"), (2, "last"), (1, "middle")):
            tap.run(f"redis: lives again from the {what} image", redis.live_again, number)
        tap.run("redis: the store is well", box.fsck)
    tap.done()


if __name__ == "__main__":
    main()
