#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Encrypted histories as users have them: nothing of the program is on disk, not even in the recorder's file
without a name; the holder of the key restores any image; others get one clear line."""

import glob
import json
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, Tap, wait_until  # pylint: disable=wrong-import-position

SECRET = "the-sesame-of-all-sesames"
ARGUMENT = "an-argument-that-tells"

# Holds SECRET in memory many times, never in one piece in its text, and writes to all of its memory.
PROGRAM = """
import sys, time
word = bytes(reversed(b'%s'))
room = bytearray(word * (1 << 16))
out = open('progress', 'w+')
n = 0
while True:
    n += 1
    room[(n * 4099 * len(word)) %% len(room)] = word[0]
    room[-8:] = b'%%8d' %% n
    out.seek(0); out.write('%%d ' %% n); out.flush()
    time.sleep(0.002)
""" % SECRET[::-1]


def start(box):
    program = box.start([sys.executable, "-c", PROGRAM, ARGUMENT])
    wait_until("the program to work", lambda: os.path.exists(box.path("progress"))
               and open(box.path("progress"), encoding="ascii").read())
    return program


def make_key(box, name="key"):
    box.env["KAGE_KEY"] = box.path("none")
    return box.kage("key", "new", box.path(name)).stdout.strip()


def record(box, program, public, *options, count=8):
    return box.kage("record", program.pid, "-n", "h", "--recipient", public, "--every", "30ms", "-c", count,
                    *options)


def contents(paths):
    for path in paths:
        with open(path, "rb") as f:
            yield path, f.read()


def check_clear(pairs):
    for path, data in pairs:
        for secret in SECRET, ARGUMENT:
            if secret.encode() in data:
                raise Failed(f"'{secret}' stands in {path}")


def packs(box):
    return sorted(glob.glob(box.store + "/*/*.kage"))


def recorder_files(pid):
    """What the recorder has open without a name: the shadow."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        try:
            if "(deleted)" in os.readlink(path) and os.path.isfile(path):
                found.append(path)
        except OSError:
            pass
    return found


def test_restore():
    with Sandbox(durable=False) as box:
        public = make_key(box)
        program = start(box)
        record(box, program, public)
        record(box, program, public, "--verify", count=4)  # a new recorder begins with a keyframe
        images = json.loads(box.kage("log", "h", "--json").stdout)["images"]
        if [i["keyframe"] for i in images] != [True] + 7 * [False] + [True] + 3 * [False]:
            raise Failed(f"keyframes: {[i['keyframe'] for i in images]}")
        if any(i["recipient"] != public or i["command"] for i in images):
            raise Failed("the log tells another recipient, or a command line")
        box.snap(program.pid, "--recipient", public, name="h")
        done = box.kage("record", "-n", "h", "-c", "1", program.pid)
        if "was encrypted so far" not in done.stderr:
            raise Failed(f"recording in clear is not told: {done.stderr}")
        box.kage("rm", "-y", "h@latest")
        program.kill()
        check_clear(contents(packs(box)))
        for image in "h@first", "h@7", "h@10", "h@latest":
            done = box.kage("restore", image, "--detach", check=False)
            if done.returncode != 1 or public not in done.stderr or done.stderr.count("\n") != 1:
                raise Failed(f"without a key: {done.returncode}: {done.stderr}")
            before = open(box.path("progress"), encoding="ascii").read()
            with box.restore(image, "--key", box.path("key"), "--files=restore"):
                wait_until(f"{image} to go on", lambda b=before:
                           open(box.path("progress"), encoding="ascii").read() != b)


def test_shadow():
    with Sandbox(durable=False) as box:
        public = make_key(box)
        program = start(box)
        recorder = box.start([os.environ.get("KAGE", os.path.join(os.environ.get("B", "build"), "kage")), "record",
                              str(program.pid), "-n", "h", "--recipient", public, "--every", "20ms"],
                             log="recorder", cwd=os.getcwd())
        wait_until("five images", lambda: len(packs(box)) >= 5)
        files = recorder_files(recorder.pid)
        if not files:
            raise Failed("the recorder has no file without a name")
        total = sum(os.stat(path).st_size for path in files)
        if total < 1 << 20:
            raise Failed(f"its file has {total} bytes")
        check_clear(contents(files))
        recorder.signal(signal.SIGINT)
        if recorder.wait() != 0:
            raise Failed(box.log("recorder"))
        check_clear(contents(packs(box)))
        box.kage("show", "h@3", "--key", box.path("key"))


def test_retention():
    """The recorder holds no secret key, and thins all the same."""
    for keep in ["--keep-last", "6"], ["--keep", "200ms"], ["--keep", "100ms,10s=500ms"]:
        with Sandbox(durable=False) as box:
            public = make_key(box)
            program = start(box)
            record(box, program, public, *keep, count=60)
            images = json.loads(box.kage("log", "h", "--json").stdout)["images"]
            if images[0]["number"] == 1 and len(images) == 60:
                raise Failed(f"{keep}: nothing was thinned")
            if keep[0] == "--keep-last" and len(images) > 20:
                raise Failed(f"{keep}: {len(images)} images")
            done = box.kage("fsck", "--json", "--key", box.path("key"))
            if json.loads(done.stdout)["locked"]:
                raise Failed(done.stdout)
            for image in images:
                box.kage("show", image["image"], "--key", box.path("key"))


def test_fsck():
    with Sandbox(durable=False) as box:
        public = make_key(box)
        program = start(box)
        record(box, program, public, count=4)
        told = json.loads(box.kage("fsck", "--json").stdout)
        if (told["encrypted"], told["locked"], told["encrypted_histories"]) != (4, 4, ["h"]):
            raise Failed(f"{told}")
        pack = packs(box)[1]
        with open(pack, "r+b") as f:
            f.seek(os.path.getsize(pack) // 2)
            byte = f.read(1)
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte[0] ^ 4]))
        done = box.kage("fsck", check=False)
        if done.returncode != 1 or pack not in done.stdout:
            raise Failed(f"a flipped bit without the key: {done.stdout}")


def test_words():
    with Sandbox(durable=False) as box:
        public = make_key(box)
        other = make_key(box, "other")
        program = start(box)
        record(box, program, public, count=2)
        cases = [
            (["show", "h"], "its secret key|there is no secret key"),
            (["show", "h", "--key", box.path("other")], other),
            (["show", "h", "--key", box.path("nowhere")], "No such file"),
            (["cat", "h", "0x1000+8"], public),
            (["diff", "h@1", "h@2"], public),
            (["when", "h", "0x1000+8"], public),
            (["core", "h", "-o", box.path("core")], public),
            (["check", "h"], public),
            (["try", "h", "--", "true"], public),
            (["key", "new", box.path("key")], "not overwritten"),
            (["record", program.pid, "--recipient", "kage-pub-nonsense"], "a character is wrong"),
            (["record", program.pid, "--recipient", box.path("key")], "is a secret key"),
            (["snap", program.pid, "--recipient", "nothing"], "neither a public key nor a file"),
            (["run", "--every", "1s", "--recipient", "nothing", "true"], "neither a public key"),
            (["snap", program.pid, "--recipient", public, "--git", box.path("git")], "in clear"),
        ]
        for args, text in cases:
            done = box.kage(*args, check=False)
            if done.returncode != 1 or not any(t in done.stderr for t in text.split("|")) \
                    or done.stderr.count("\n") != 1:
                raise Failed(f"kage {args}: {done.returncode}: {done.stderr}")
        box.env["KAGE_KEY"] = box.path("key")
        box.kage("show", "h")


def main():
    tap = Tap()
    tap.run("recorded, by two recorders; the first, middle and last image live again", test_restore)
    tap.run("nothing of the program is in the recorder's files", test_shadow)
    tap.run("the recorder thins what it cannot read", test_retention)
    tap.run("damage is found without the key", test_fsck)
    tap.run("one clear line", test_words)
    tap.done()


if __name__ == "__main__":
    main()
