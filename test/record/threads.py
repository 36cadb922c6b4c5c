#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Each image has all threads of the program, however they were stopped, or left asleep.

They sleep for a moment in a call that would feel a stop, so that many of them are met on their way out of it; some
compute.
"""

import json
import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, KAGE, Sandbox, Tap, need, threads_of, wait_until

THREADS = 12
PROGRAM = f"""
import select, threading
def sleep_on():
    poll = select.epoll()
    while True:
        poll.poll(0.003)
def compute():
    while True:
        sum(range(1000))
for i in range({THREADS}):
    threading.Thread(target=compute if i == 0 else sleep_on, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""


def all_there(box, program, threads):
    kage = box.start([KAGE, "record", "--json", "-n", "r", "--every", "20ms", "--count", "40",
                      str(program.pid)], log="images")
    wait_until("40 images", lambda: not kage.alive(), 120)
    images = [json.loads(line) for line in box.log("images").splitlines() if line.startswith('{"image"')]
    if len(images) != 40 or kage.wait() != 0:
        raise Failed(f"{len(images)} images: {box.log('images')[-500:]}")
    for image in images:
        if image["threads"] != threads:
            raise Failed(f"{image['image']} has {image['threads']} threads")


def python(rung):
    with Sandbox(durable=False) as box:
        box.env["KAGE_RUNG"] = rung
        program = box.start(["/usr/bin/python3", "-c", PROGRAM])
        box.wait_log("ready", process=program)
        all_there(box, program, THREADS + 1)


def redis():
    """Under load it sleeps and wakes all the time: its threads are met in every way."""
    need("redis-server", "redis-benchmark")
    with Sandbox(durable=False) as box:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = str(s.getsockname()[1])
        program = box.start(["/usr/bin/redis-server", "--port", port, "--save", ""])
        box.wait_log("Ready to accept connections", process=program)
        box.start(["/usr/bin/redis-benchmark", "-p", port, "-t", "set,lpush", "-l", "-r", "100000", "-q"], log="load")
        box.wait_log("rps", "load")
        all_there(box, program, len(threads_of(program.pid)))


def main():
    tap = Tap()
    for rung in "012":
        tap.run(f"rung {rung}", python, rung)
    tap.run("redis under load", redis)
    tap.done()


if __name__ == "__main__":
    main()
