#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 300
"""The examples: an rfork server that crashes on purpose, built from one file of ours and nothing else; and an interpreter
with undo."""

import os
import shutil
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, KAGE, Sandbox, Tap, state_of, wait_until

TREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def build(box):
    """With no other compiler flags than a user would need."""
    program = box.path("rfork-server")
    done = subprocess.run([os.environ.get("CC", "cc"), f"-I{TREE}/include", f"{TREE}/examples/rfork-server.c",
                           f"{TREE}/src/keeper/rfork.c", "-o", program], capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr:
        raise Failed(done.stderr)
    return program


def say(path, word):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(path)
        s.sendall(word.encode() + b"\n")
        try:
            return s.recv(1000).decode().strip()
        except ConnectionResetError:
            return ""


def server():
    with Sandbox() as box:
        path = box.path("socket")
        program = box.start([build(box), path])
        wait_until("the server", lambda: os.path.exists(path) and try_to_say(path))
        for life in range(5):
            first = 2 if life == 0 else 1
            for n in (first, first + 1):
                if say(path, "hello") != f"hello, number {n} in life {life}":
                    raise Failed(f"life {life}, request {n}: {say(path, 'hello')!r}")
            # Who comes while there is no server waits for the next.
            if say(path, "crash"):
                raise Failed("it answers though it crashed")
        say(path, "end")
        if program.wait() != 0 or "by itself after 5 restarts" not in box.log():
            raise Failed(f"the log: {box.log()}")


def try_to_say(path):
    try:
        return say(path, "hello")
    except ConnectionRefusedError:
        return ""


def killed():
    """Without its watcher the child ends; the child killed is an end, not an error."""
    with Sandbox() as box:
        path = box.path("socket")
        program = box.start([build(box), path])
        wait_until("the server", lambda: os.path.exists(path) and try_to_say(path))
        watcher = children_of(program.pid)[0]
        child = children_of(watcher)[0]
        os.kill(watcher, signal.SIGKILL)
        wait_until("the child to end", lambda: state_of(child) in (None, "", "Z", "X"))
        if program.wait() != 0 or "by a signal after 0 restarts" not in box.log():
            raise Failed(f"the log: {box.log()}")


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(child) for child in f.read().split()]


def undo():
    with Sandbox() as box:
        os.symlink(KAGE, box.path("kage"))
        env = dict(box.env, PATH=f"{box.dir}:{os.environ['PATH']}")
        lines = ["import os, random; x = random.random(); print(x)", "x", "del x; os.chdir('/')", "x", "undo", "undo",
                 "x", "os.getcwd()", *["undo"] * 20, "x"]
        done = subprocess.run([sys.executable, f"{TREE}/examples/undo.py"], input="\n".join(lines) + "\n", env=env,
                              cwd=box.dir, capture_output=True, text=True, timeout=120, check=False)
        said = done.stdout.split("\n")
        x = said[0]
        expected = [x, x, "NameError: name 'x' is not defined", x, repr(os.path.realpath(box.dir)),
                    *["nothing to undo"] * 16, "NameError: name 'x' is not defined", ""]
        if done.returncode != 0 or said != expected:
            raise Failed(f"status {done.returncode}, it said {said}, {done.stderr}")
        if os.listdir(box.path("run")) and any(name.endswith(".twins") for name in os.listdir(box.path("run"))):
            raise Failed("twins are left")


def main():
    tap = Tap()
    if shutil.which(os.environ.get("CC", "cc")):
        tap.run("a server that crashes on purpose", server)
        tap.run("its watcher is killed", killed)
    tap.run("an interpreter with undo", undo)
    tap.done()


if __name__ == "__main__":
    main()
