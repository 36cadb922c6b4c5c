#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""redis-server with AOF and RDB: imaged right after bursts of writes, no client connected at the instant.

The oracle is redis: DEBUG DIGEST of all its data as of each image; that a fresh server which replays the
AOF, as it was put back and as the restored one goes on with it, comes to the same digest, and so does
one that reads its RDB; and redis-check-aof and redis-check-rdb.
"""

import os
import shutil
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, Tap, descriptors_of, need, wait_until
from portrait import Standing, goes_on

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
            self.ask("PEXPIREAT", f"key:{(i * 7 + generation) % 60000}", 4102444800000 + i)
            self.ask("HSET", f"hash:{i % 20}", f"field {generation}", i)
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
        self.images = []  # (image, digest, number of keys)
        self.standing = None

    def start(self, log="log", port=None, folder="data", *more):
        process = self.box.start(
            ["redis-server", "--port", str(port or self.port), "--bind", "127.0.0.1", "--dir",
             self.box.path(folder), "--appendonly", "yes", "--appendfsync", "everysec",
             "--auto-aof-rewrite-percentage", "0", "--save", "3600 1", "--enable-debug-command", "yes",
             *more], log=log)
        self.box.wait_log("Ready to accept connections", log=log, process=process)
        return process

    def info(self, what):
        with Client(self.port) as c:
            text = c.ask("INFO", "everything").decode()
        return next(l.partition(":")[2] for l in text.splitlines() if l.startswith(what + ":"))

    def digest(self, port=None):
        with Client(port or self.port) as c:
            return c.ask("DEBUG", "DIGEST").decode(), int(c.ask("DBSIZE"))

    def alone(self, process):
        """Nobody is connected, nothing is being saved by a child."""
        def quiet():
            inodes = {l[8:-1] for l in descriptors_of(process.pid).values() if l.startswith("socket:")}
            with open("/proc/net/tcp", encoding="ascii") as f:
                rows = [l.split() for l in f.readlines()[1:]]
            with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as f:
                children = f.read().strip()
            return not children and not [r for r in rows if r[9] in inodes and r[3] != "0A"]
        wait_until("redis to be alone", quiet)

    # --- other servers, which know nothing of images ----------------------------------------------

    def fresh(self, want, what, folder, *more):
        """A fresh server that loads what stands in FOLDER comes to the digest WANT."""
        port = free_port()
        process = self.start(f"{what}.{len(self.box.started)}", port, folder, *more)
        try:
            got = self.digest(port)
        finally:
            process.kill()
        if got != want:
            raise Failed(f"a fresh server loads {got} from the {what}, must be {want}")

    def check(self, program, path):
        done = subprocess.run([program, path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise Failed(f"{program} {path}: {done.stdout[-1000:]}")

    def judge_aof(self, want):
        """A copy of the AOF replays to WANT."""
        copy = self.box.path("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.box.path("data"), copy)
        manifest = os.path.join(copy, "appendonlydir", "appendonly.aof.manifest")
        self.check("redis-check-aof", manifest)
        self.fresh(want, "AOF", "copy")

    def judge_rdb(self, want):
        """The RDB alone loads to WANT."""
        folder = self.box.path("rdb")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        shutil.copy(self.box.path("data/dump.rdb"), folder)
        self.check("redis-check-rdb", os.path.join(folder, "dump.rdb"))
        self.fresh(want, "RDB", "rdb", "--appendonly", "no")

    # --- the tests ----------------------------------------------------------------------------------

    def burst(self, generation, process):
        with Client(self.port) as c:
            c.burst(generation)
            digest = c.ask("DEBUG", "DIGEST").decode()
            size = int(c.ask("DBSIZE"))
        self.alone(process)
        return digest, size

    def save(self):
        with Client(self.port) as c:
            c.ask("BGSAVE")
        wait_until("the RDB", lambda: self.info("rdb_bgsave_in_progress") == "0")
        if self.info("rdb_last_bgsave_status") != "ok":
            raise Failed("BGSAVE failed")

    def images_under_load(self):
        need("redis-server", "redis-check-aof", "redis-check-rdb")
        process = self.start()
        self.burst(0, process)
        self.save()
        for generation in range(1, 4):
            seen = self.burst(generation, process)
            self.images.append((self.box.snap(process.pid), *seen))
        seen = self.burst(4, process)
        self.standing = Standing(self.box, process)
        self.images.append((self.standing.image, *seen))
        goes_on(process)
        self.burst(9, process)  # what no image has
        process.kill()

    def go_on(self, life, number):
        """It works, and its AOF and its RDB with it."""
        after = self.burst(20 + number, life.process)
        if after == self.images[number][1:]:
            raise Failed("what was set is not there")
        self.save()
        with Client(self.port) as c:
            c.send("SHUTDOWN", "NOSAVE")
        if life.wait() != 0:
            raise Failed("SHUTDOWN did not end it with status 0")
        self.judge_aof(after)
        self.judge_rdb(after)

    def live_again(self, number):
        if len(self.images) < 4:
            raise Failed("there are no images")
        image, *want = self.images[number]
        with self.box.restore(image, "--files", "restore", "--stopped") as life:
            self.judge_aof(tuple(want))
            goes_on(life.process)
            if self.digest() != tuple(want):
                raise Failed(f"the digest is {self.digest()}, was {want}")
            self.go_on(life, number)

    def judge_core(self):
        if not self.standing:
            raise Failed("there is no image")
        self.standing.judge_core()

    def stand_again(self):
        if not self.standing:
            raise Failed("there is no image")
        with self.box.restore(self.standing.image, "--files", "restore") as life:
            self.standing.judge_life(life)
            goes_on(life.process)
            if self.digest() != self.images[3][1:]:
                raise Failed(f"the digest is {self.digest()}, was {self.images[3][1:]}")
            self.go_on(life, 3)


def main():
    tap = Tap()
    with Sandbox() as box:
        redis = Redis(box)
        tap.run("redis: three images between bursts, one while it stands", redis.images_under_load)
        for number, what in ((0, "first"), (2, "last"), (1, "middle")):
            tap.run(f"redis: lives again from the {what} image", redis.live_again, number)
        tap.run("redis: gdb sees in a core what it saw in the program", redis.judge_core)
        tap.run("redis: is to the last byte what it was", redis.stand_again)
        tap.run("redis: the store is well", box.fsck)
    tap.done()


if __name__ == "__main__":
    main()
