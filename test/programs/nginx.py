#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""nginx in one process, asked by curl: its own counter of requests, its logs and what it serves."""

import os
import re
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, Tap, descriptors_of, need, read, read_or, wait_until
from portrait import Standing, goes_on

CONFIG = """
daemon off;
master_process off;
user root;
pid {dir}/nginx.pid;
error_log {dir}/error.log info;
events {{ worker_connections 64; }}
http {{
	log_format short "$request_uri $status $body_bytes_sent";
	access_log {dir}/access.log short;
	access_log {dir}/buffered.log short buffer=64k flush=1h;
	access_log {dir}/flushed.log short buffer=64k flush=50ms;
	open_file_cache max=20;
	open_file_cache_errors on;
	client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
	uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
	server {{
		listen 127.0.0.1:{port};
		location / {{ root {dir}/www; }}
		location = /status {{ stub_status; access_log off; }}
	}}
}}
"""
FILES = {"small": "hello\n", "middle": "0123456789abcdef" * 500, "big": "fedcba9876543210" * 20000}
TIMES = 20  # each of the files is asked for, at a time


class Nginx:
    def __init__(self, box):
        self.box = box
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{s.getsockname()[1]}"
            port = s.getsockname()[1]
        os.makedirs(box.path("www"))
        for name, text in FILES.items():
            box.write("www/" + name, text)
        box.write("nginx.conf", CONFIG.format(dir=box.dir, port=port))
        self.asked = []   # what the access log must hold
        self.images = []  # (image, requests it has counted, what was asked until then)
        self.standing = None

    def curl(self, *options):
        done = subprocess.run(["curl", "-sS", "--noproxy", "*", "--max-time", "60", *options],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise Failed(f"curl {options}: {done.returncode}: {done.stderr.decode()}")
        return done.stdout

    def counted(self):
        """Requests, this one included, as nginx counts them."""
        found = re.search(rb"\n\s*(\d+) (\d+) (\d+)", self.curl(self.url + "/status"))
        return int(found.group(3))

    def load(self):
        """curl fetches all files many times, several at once and some over one connection; and one that
        is not there, and a part of one."""
        urls, want = [], []
        for i in range(TIMES):
            for name, text in FILES.items():
                urls += ["-o", self.box.path(f"got.{name}.{i}"), f"{self.url}/{name}"]
                want.append(f"/{name} 200 {len(text)}")
        self.curl("--parallel", "--parallel-max", "8", *urls)
        for i in range(TIMES):
            for name, text in FILES.items():
                path = self.box.path(f"got.{name}.{i}")
                if read(path) != text:
                    raise Failed(f"/{name} is not what it should be")
                os.unlink(path)
        got = self.curl("-o", "/dev/null", "-w", "%{http_code}", self.url + "/not-there",
                        "--next", "-sS", "--noproxy", "*", "-r", "5-9", self.url + "/middle")
        if got != b"40456789":
            raise Failed(f"not 404 and then a part: {got}")
        self.asked += sorted(want) + ["/not-there 404", "/middle 206 5"]

    def judge_log(self, name, asked):
        """Exactly the requests that were made, each once, the order of parallel ones aside."""
        got = [re.sub(r"404 \d+$", "404", l) for l in read_or(self.box.path(name)).splitlines()]
        chunk = len(FILES) * TIMES + 2
        got = [l for at in range(0, len(got), chunk)
               for l in sorted(got[at:at + chunk - 2]) + got[at + chunk - 2:at + chunk]]
        if got != asked:
            raise Failed(f"{name} has {len(got)} lines and must have {len(asked)}; "
                         f"last {got[-3:]} and {asked[-3:]}")

    def flushed(self):
        """By a timer of nginx."""
        wait_until("the log to be flushed", lambda: len(read_or(
            self.box.path("flushed.log")).splitlines()) == len(self.asked))

    def up(self, process):
        if not process.alive():
            raise Failed(f"nginx ended: {self.box.log()}")
        return subprocess.run(["curl", "-s", "-o", "/dev/null", self.url + "/status"],
                              check=False).returncode == 0

    def alone(self, process):
        """No connection of curl's is left on its side."""
        def only_listens():
            held = descriptors_of(process.pid).values()
            return len([link for link in held if link.startswith("socket:")]) == 1
        wait_until("nginx to be alone", only_listens)

    def images_between(self):
        need("nginx", "curl")
        process = self.box.start(["nginx", "-p", self.box.dir, "-c", self.box.path("nginx.conf")])
        wait_until("nginx", lambda: self.up(process))
        for _ in range(3):
            self.load()
            counted = self.counted()
            self.alone(process)
            self.images.append((self.box.snap(process.pid), counted, list(self.asked)))
        self.flushed()  # no timer is left that could go off while it stands
        counted = self.counted()
        self.alone(process)
        self.standing = Standing(self.box, process)
        self.images.append((self.standing.image, counted, list(self.asked)))
        goes_on(process)
        self.load()
        process.kill()

    def go_on(self, life, counted):
        now = self.counted()
        if now != counted + 1:
            raise Failed(f"{now} requests counted, must be {counted + 1}")
        self.load()
        self.flushed()
        life.kage.signal(signal.SIGQUIT)  # ends nginx gracefully, and kage passes it on
        status = life.wait()
        if status != 0:
            raise Failed(f"it ended with {status}: {self.box.log()} "
                         f"{read(self.box.path('error.log'))[-2000:]}")
        for name in ("access.log", "buffered.log", "flushed.log"):
            self.judge_log(name, self.asked)

    def live_again(self, number):
        if len(self.images) < 4:
            raise Failed("there are no images")
        image, counted, self.asked = self.images[number][0], self.images[number][1], list(
            self.images[number][2])
        with self.box.restore(image, "--files", "restore") as life:
            self.judge_log("access.log", self.asked)
            self.go_on(life, counted)

    def judge_core(self):
        if not self.standing:
            raise Failed("there is no image")
        self.standing.judge_core()

    def stand_again(self):
        if not self.standing:
            raise Failed("there is no image")
        _, counted, asked = self.images[3]
        self.asked = list(asked)
        with self.box.restore(self.standing.image, "--files", "restore") as life:
            self.standing.judge_life(life)
            self.judge_log("access.log", self.asked)
            goes_on(life.process)
            self.go_on(life, counted)


def main():
    tap = Tap()
    with Sandbox() as box:
        nginx = Nginx(box)
        tap.run("nginx: three images between requests, one while it stands", nginx.images_between)
        for number, what in ((0, "first"), (2, "last"), (1, "middle")):
            tap.run(f"nginx: lives again from the {what} image", nginx.live_again, number)
        tap.run("nginx: gdb sees in a core what it saw in the program", nginx.judge_core)
        tap.run("nginx: is to the last byte what it was", nginx.stand_again)
        tap.run("nginx: the store is well", box.fsck)
    tap.done()


if __name__ == "__main__":
    main()
