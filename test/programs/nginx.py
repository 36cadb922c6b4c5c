#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""nginx in one process: its own counter of requests, its access log and what it serves."""

import http.client
import os
import re
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, Tap, need, read, wait_until

CONFIG = """
daemon off;
master_process off;
user root;
pid {dir}/nginx.pid;
error_log {dir}/error.log info;
events {{ worker_connections 64; }}
http {{
	access_log {dir}/access.log;
	keepalive_timeout 0;
	client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
	uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
	server {{
		listen 127.0.0.1:{port};
		location / {{ root {dir}/www; }}
		location = /status {{ stub_status; access_log off; }}
	}}
}}
"""
REQUESTS = 200


class Nginx:
    def __init__(self, box):
        self.box = box
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        os.makedirs(box.path("www"))
        box.write("www/big", "0123456789abcdef" * 20000)
        box.write("www/small", "hello\n")
        box.write("nginx.conf", CONFIG.format(dir=box.dir, port=self.port))
        self.images = []  # (image, requests it has counted, lines in the log)

    def get(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        c.request("GET", path)
        answer = c.getresponse()
        body = answer.read()
        c.close()
        return answer.status, body

    def counted(self):
        """Requests, this one included, as nginx counts them."""
        status, body = self.get("/status")
        found = re.search(rb"\n\s*(\d+) (\d+) (\d+)", body)
        if status != 200 or not found:
            raise Failed(f"status page: {status} {body}")
        return int(found.group(3))

    def load(self):
        for i in range(REQUESTS):
            name = "big" if i % 3 else "small"
            if self.get("/" + name) != (200, read(self.box.path("www/" + name), True)):
                raise Failed(f"/{name} is not what it should be")
        if self.get("/not-there")[0] != 404:
            raise Failed("404 is not told")

    def lines(self):
        return len(read(self.box.path("access.log")).splitlines())

    def images_between(self):
        need("nginx")
        process = self.box.start(["nginx", "-p", self.box.dir, "-c", self.box.path("nginx.conf")])

        def up():
            if not process.alive():
                raise Failed(f"nginx ended: {self.box.log()}")
            try:
                return self.get("/small")[0] == 200
            except OSError:
                return False
        wait_until("nginx", up)
        for _ in range(3):
            self.load()
            counted = self.counted()
            self.images.append((self.box.snap(process.pid), counted, self.lines()))
        self.load()
        process.kill()

    def live_again(self, number):
        if len(self.images) < 3:
            raise Failed("there are no three images")
        image, counted, lines = self.images[number]
        life = self.box.restore(image, "--files", "restore")
        if self.lines() != lines:
            raise Failed(f"{self.lines()} lines of access log, were {lines}")
        now = self.counted()
        if now != counted + 1:
            raise Failed(f"{now} requests counted, must be {counted + 1}")
        self.load()
        wait_until("the access log", lambda: self.lines() == lines + REQUESTS + 1)
        life.kage.signal(3)  # SIGQUIT ends nginx gracefully, and kage passes it on
        status = life.wait()
        if status != 0:
            raise Failed(f"it ended with {status}: {self.box.log()} {read(self.box.path('error.log'))[-2000:]}")


def main():
    tap = Tap()
    with Sandbox() as box:
        nginx = Nginx(box)
        tap.run("nginx: three images between requests", nginx.images_between)
        for number, what in ((0, "first"), (2, "last"), (1, "middle")):
            tap.run(f"nginx: lives again from the {what} image", nginx.live_again, number)
        tap.run("nginx: the store is well", box.fsck)
    tap.done()


if __name__ == "__main__":
    main()
