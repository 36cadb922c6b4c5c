#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""--git: each image commits what the program writes; restore puts it back as of the image.

A python3 program appends to a log, writes a file without a name, and holds one that never changes.
"""

import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, KAGE, Sandbox, Skip, Tap, need, read

PROGRAM = """
import os, time
log, same, gone = open("log", "a"), open("same", "w"), open("gone", "w+")
os.unlink("gone")
same.write("constant " * 1000); same.flush()
gone.write("nameless"); gone.flush()
n = 0
while True:
    log.write(f"line {n}\\n"); log.flush()
    n += 1
    if n == 5:
        print("ready", flush=True)
    time.sleep(0.005)
"""


class World:
    def __init__(self, box):
        self.box = box
        self.repo = box.path("repo")
        self.program = self.begin()
        self.images = []

    def begin(self, log="log.program"):
        self.box.env["HOME"] = self.box.dir
        program = self.box.start(["python3", "-c", PROGRAM], log=log)
        self.box.wait_log("ready", log=log, process=program)
        return program

    def git(self, *args, repo=None, check=True):
        done = subprocess.run(["git", "-C", repo or self.repo, *args], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                              env=dict(self.box.env, GIT_CONFIG_NOSYSTEM="1"))
        if check and done.returncode:
            raise Failed(f"git {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def tree(self, name):
        """The path in the tree of the program's file NAME."""
        return os.path.realpath(self.box.path(name)).lstrip("/")

    def at(self, commit, name, repo=None):
        return self.git("show", f"{commit}:{self.tree(name)}", repo=repo)

    def record(self, *options, count=4, name="r", check=True, repo=None):
        done = self.box.kage("record", "--json", "-n", name, "-c", count, "-e", "20ms", *options,
                             "--git", repo or self.repo, self.program.pid, check=check)
        return [json.loads(line) for line in done.stdout.splitlines()], done


def refused(box, words, *args, status=1):
    """kage with ARGS fails with one line that has these WORDS."""
    done = box.kage(*args, check=False)
    lines = done.stderr.strip().splitlines()
    if done.returncode != status or not all(w in done.stderr for w in words) or \
            (status == 1 and len(lines) != 1):
        raise Failed(f"kage {' '.join(map(str, args))}: status {done.returncode}, {done.stderr}")


def one_commit_an_image(world):
    world.images, _ = world.record()
    log = world.git("log", "--format=%H %s", "--reverse", "kage/r").splitlines()
    if log != [f"{i['git_commit']} {i['image']}" for i in world.images]:
        raise Failed(f"{log} is not {world.images}")
    if world.git("log", "--format=%H").splitlines()[::-1] != [line.split()[0] for line in log]:
        raise Failed("HEAD is another branch")
    stat = world.git("log", "--stat", "-1")
    if f"{world.tree('log').split('/')[-1]} |" not in stat or "1 file changed" not in stat:
        raise Failed(f"only the log should have changed: {stat}")
    if world.git("fsck", "--full", "--strict"):
        raise Failed("git fsck has something to say")
    if oct(os.stat(world.repo).st_mode & 0o777) != "0o700":
        raise Failed("others may read the repository")


def contents(world):
    """What stands in a commit is what the file held at the image."""
    whole, before = read(world.box.path("log")), ""
    for image in world.images:
        now = world.at(image["git_commit"], "log")
        if not whole.startswith(now) or len(now) <= len(before) or not now.startswith(before):
            raise Failed(f"{image['image']}: not the log as it was")
        before = now
        shown = json.loads(world.box.kage("show", "--json", image["image"]).stdout)
        if shown["source"]["git_commit"] != image["git_commit"]:
            raise Failed(f"show tells {shown['source']}")
        size = [f["size_bytes"] for f in shown["files"] if f["path"].endswith("/log")]
        if int(size[0]) != len(now):
            raise Failed(f"{image['image']}: the log had {size} bytes, its commit has {len(now)}")
    last = world.images[-1]["git_commit"]
    if last not in world.box.kage("show", world.images[-1]["image"]).stdout:
        raise Failed("show does not tell the commit")
    names = world.git("ls-tree", "-r", "--name-only", last).splitlines()
    nameless = [n for n in names if n.startswith(f".unlinked/{world.tree('gone')}.")]
    if len(nameless) != 1 or world.git("show", f"{last}:{nameless[0]}") != "nameless":
        raise Failed(f"the file without a name: {names}")
    blobs = {world.git("rev-parse", f"{i['git_commit']}:{world.tree('same')}") for i in world.images}
    if len(blobs) != 1:
        raise Failed("a file that never changed has several contents")


def message(world):
    image = world.images[1]
    text = world.git("log", "-1", "--format=%B%n%at", image["git_commit"])
    for part in (f"Kage-Image: {image['image']}", f"Kage-Pid: {world.program.pid}", "Kage-Command: ", "python3 -c"):
        if part not in text:
            raise Failed(f"no '{part}' in {text}")
    entries = json.loads(world.box.kage("log", "--json", "r").stdout)["images"]
    entry, = (e for e in entries if e["image"] == image["image"])
    if int(entry["realtime_ns"]) // 10**9 != int(text.split()[-1]):
        raise Failed("the commit is of another time")


def goes_on(world):
    """The next recording adds to the branch, another history has one of its own."""
    more, _ = world.record("-m", "words of mine", count=2)
    if world.git("rev-parse", f"{more[0]['git_commit']}^").strip() != world.images[-1]["git_commit"]:
        raise Failed("the branch began anew")
    if "words of mine" not in world.git("log", "-1", "--format=%B"):
        raise Failed("the message is not in the commit")
    snap = json.loads(world.box.kage("snap", "--json", "-n", "s", "--git", world.repo,
                                     world.program.pid).stdout)
    if world.git("rev-parse", "kage/s").strip() != snap["git_commit"] or \
            world.git("rev-parse", "HEAD").strip() != more[-1]["git_commit"]:
        raise Failed("the branch of the other history")


def nothing_else(world):
    """No hook runs, the user's configuration stays as it is, a working tree and its index too."""
    config = world.box.write(".gitconfig", "[user]\n\tname = Somebody\n")
    repo = world.box.path("mine")
    os.mkdir(repo)
    world.git("init", "-q", "-b", "main", repo=repo)
    with open(os.path.join(repo, "file"), "w", encoding="ascii") as f:
        f.write("mine\n")
    world.git("add", "file", repo=repo)
    world.git("-c", "user.email=a@b", "commit", "-qm", "mine", repo=repo)
    for hook in ("post-commit", "reference-transaction", "pre-commit", "post-update"):
        path = os.path.join(repo, ".git/hooks", hook)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as f:
            f.write(f"#!/bin/sh\ntouch {world.box.path('hooked')}\n")
        os.chmod(path, 0o755)
    before = read(os.path.join(repo, ".git/config")), read(config), read(os.path.join(repo, ".git/index"), True)
    images, _ = world.record(count=2, repo=repo)
    after = read(os.path.join(repo, ".git/config")), read(config), read(os.path.join(repo, ".git/index"), True)
    if before != after:
        raise Failed("configuration or index changed")
    if os.path.exists(world.box.path("hooked")):
        raise Failed("a hook ran")
    if world.git("log", "--format=%s", "-1", repo=repo).strip() != "mine" or \
            world.git("status", "--porcelain", repo=repo):
        raise Failed("the user's branch or files changed")
    if world.git("rev-parse", "kage/r", repo=repo).strip() != images[-1]["git_commit"]:
        raise Failed("no commits in a repository with files")
    world.git("checkout", "-q", "kage/r", repo=repo)
    images, done = world.record(count=3, repo=repo)
    if len(images) != 3 or any("git_commit" in i for i in images) or \
            len(done.stderr.strip().splitlines()) != 1 or "checked out" not in done.stderr:
        raise Failed(f"a branch that is in use: {images} {done.stderr}")


def failing(world):
    """A repository that goes away is told once, and the recording goes on; when it is back, commits are made."""
    away = world.repo + ".away"
    kage = subprocess.Popen([KAGE, "record", "--json", "-n", "f", "-e", "10ms", "--git", world.repo,
                             str(world.program.pid)], stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=world.box.env)

    def until(condition):
        for line in kage.stdout:
            if condition(json.loads(line)):
                return
        raise Failed(f"it ended: {kage.stderr.read()}")
    try:
        until(lambda image: "git_commit" in image)
        os.rename(world.repo, away)
        until(lambda image: "git_commit" not in image)
        until(lambda image: "git_commit" not in image)
        os.rename(away, world.repo)
        until(lambda image: "git_commit" in image)
    finally:
        kage.terminate()
        _, told = kage.communicate()
    if len(told.strip().splitlines()) != 1 or "images are stored all the same" not in told:
        raise Failed(f"not one line: {told}")
    world.git("fsck", "--full", "--strict")


def put_back(world):
    """The log grows, the program dies, the log is spoiled: restored with --git it is as of the image."""
    image = world.images[1]
    world.program.kill()
    world.box.write("log", "spoiled")
    refused(world.box, ["find the commit"], "restore", "--git", world.box.path("mine"),
            image["image"])
    refused(world.box, ["--files keep"], "restore", "--git", world.repo, "--files", "keep",
            image["image"], status=2)
    if read(world.box.path("log")) != "spoiled":
        raise Failed("a refused restore changed a file")
    wanted = world.at(image["git_commit"], "log")
    with world.box.restore(image["image"], "--git", world.repo, "--stopped"):
        if read(world.box.path("log")) != wanted:
            raise Failed("the log is not as of the image")
        if read(world.box.path("same")) != "constant " * 1000:
            raise Failed("another file changed")


def runs(world):
    """kage run passes it on."""
    repo = world.box.path("run")
    code = PROGRAM.replace("while True:", "for _ in range(60):")
    world.box.kage("run", "-n", "x", "--every", "20ms", "--git", repo, "--", "python3", "-c", code,
                   cwd=world.box.dir)
    if len(world.git("log", "--format=%H", "kage/x", repo=repo).split()) < 2:
        raise Failed("no commits")
    refused(world.box, ["--every"], "run", "--git", repo, "--", "true", status=2)


def mistakes(world):
    box = world.box
    program = box.start(["sleep", "1000"])
    box.kage("snap", "-n", "plain", program.pid)
    refused(box, ["without --git", "--files=restore"], "restore", "--git", world.repo, "plain")
    os.mkdir(box.path("full"))
    box.write("full/file", "")
    refused(box, [box.path("full")], "record", "--git", box.path("full"), program.pid)
    refused(box, [box.path("no/such")], "snap", "--git", box.path("no/such"), program.pid)
    shutil.rmtree(world.box.path("mine"))
    refused(box, [box.path("mine")], "restore", "--git", box.path("mine"), "r@1")
    box.fsck()


def main():
    tap = Tap()
    try:
        need("git", "python3")
    except Skip as why:
        print(f"1..0 # SKIP {why}")
        return
    with Sandbox(durable=False) as box:
        world = World(box)
        tap.run("one commit an image", one_commit_an_image, world)
        tap.run("a commit holds what the files held", contents, world)
        tap.run("its message and time", message, world)
        tap.run("recordings go on, histories have branches", goes_on, world)
        tap.run("nothing else of a repository changes", nothing_else, world)
        tap.run("a commit that fails", failing, world)
        tap.run("files are put back", put_back, world)
        tap.run("kage run --git", runs, world)
        tap.run("mistakes are told", mistakes, world)
    tap.done()


main()
