#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kage restore --lazy: the program runs before its memory is there, finds all of it, and does not differ in the end
from one that was restored whole.

  lazy.py [WORD …]        only the tests whose names contain one of the words
"""

import difflib
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (SOAK, Failed, Process, Sandbox, Tap, descriptors_of, helper, need, read, read_or, seeded,  # noqa: E402
                      status_of, wait_until)

random = seeded()
MIB = 64


def is_lazy(pid):
    """Whether a process is still being filled."""
    if any("userfaultfd" in where for where in descriptors_of(pid).values()):
        return True
    return any(line.startswith("VmFlags:") and " um" in line for line in read_or(f"/proc/{pid}/smaps").splitlines())


def kages(kage_pid):
    """The processes that bring pages: orphans, in a session of their own, with kage's executable."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != kage_pid and os.path.exists(f"/proc/{name}/fd"):
            try:
                if os.path.samefile(f"/proc/{name}/exe", f"/proc/{kage_pid}/exe"):
                    uffds = [w for w in descriptors_of(int(name)).values() if "userfaultfd" in w]
                    if uffds:
                        found.append(int(name))
            except OSError:
                pass
    return found


def subject(box, mode, mib=MIB):
    program = box.start([helper("restore/lazy_subject"), mode, str(mib)], log="subject")
    box.wait_log("ready", "subject", program)
    return program


def image_of(box, mode, mib=MIB):
    program = subject(box, mode, mib)
    image = box.snap(program.pid)
    program.kill()
    return image


def go(box):
    box.write("go", "")


def right(box, life):
    status = life.wait()
    if status != 0 or "right" not in box.log("subject").split("ready")[-1]:
        raise Failed(f"status {status}, {box.log('subject')[-500:]}, {read_errors(box)}")


def read_errors(box):
    return "".join(read_or(box.path(n)) for n in sorted(os.listdir(box.dir)) if n.endswith(".err"))[-1000:]


def runs(mode, mib=MIB, *options):
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, mode, mib)
        go(box)
        right(box, box.restore(image, "--lazy", *options))
        right(box, box.restore(image, "--lazy", *options))


def let_go(options):
    """In the end nobody traces it, and it takes signals."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "wait")
        life = box.restore(image, "--lazy", *options)
        wait_until("all pages to be in", lambda: not is_lazy(life.pid))
        wait_until("it to be let go", lambda: status_of(life.pid)["TracerPid"] == "0")
        if "--stopped" in options and status_of(life.pid)["State"].split()[0] != "T":
            raise Failed(status_of(life.pid)["State"])
        life.process.signal(signal.SIGTERM)
        life.process.signal(signal.SIGCONT)
        if life.wait() != -signal.SIGTERM:
            raise Failed(f"status {life.kage.popen.returncode}")


def forks():
    """Of children that have ended no descriptor is kept."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "forks", 256)
        go(box)
        life = box.restore(image, "--lazy")
        most = 0
        while life.process.alive() and (pagers := kages(life.kage.pid)):
            most = max(most, len(["" for where in descriptors_of(pagers[0]).values() if "userfaultfd" in where]))
        right(box, life)
        print(f"# {most} userfaultfds at most")
        if most > 80:  # were they kept, there would be hundreds
            raise Failed(f"{most} userfaultfds of children that have ended, one after the other")


def map_of(pid):
    lines = []
    for line in read(f"/proc/{pid}/smaps").splitlines():
        word = line.split()[0]
        if "-" in word or word in ("VmFlags:", "Anonymous:"):
            lines.append(line)
    return lines


def same_in_the_end():
    """Mappings, their flags, descriptors: as restored without --lazy."""
    seen = []
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "wait")
        for how in ([], ["--lazy"]):
            with box.restore(image, *how) as life:
                wait_until("all pages to be in", lambda life=life: not is_lazy(life.pid))
                seen.append((map_of(life.pid), descriptors_of(life.pid)))
        for a, b in zip(*seen):
            if a != b:
                raise Failed("\n".join(difflib.unified_diff(list(map(str, a)), list(map(str, b)), lineterm="", n=1)))


def stopped():
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "check")
        go(box)
        life = box.restore(image, "--lazy", "--stopped")
        wait_until("all pages to be in", lambda: not is_lazy(life.pid))
        life.process.signal(signal.SIGCONT)
        right(box, life)


def detached():
    """kage is gone at once; what brings the pages goes when they are in."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "wait")
        pid = int(box.kage("restore", "--lazy", "--detach", image).stdout)
        life = box.hold(Process(pid))
        wait_until("all pages to be in", lambda: not is_lazy(pid))
        box.write("go", "")
        box.write("end", "")
        life.gone()
        if "right" not in box.log("subject"):
            raise Failed(box.log("subject"))


def killed_pager(mode):
    """kill -9 of the pager at random instants: another one takes over; or of its watcher: the pager goes on."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, mode)
        go(box)
        kills = 0
        for _ in range(40 if SOAK else 8):
            life = box.restore(image, "--lazy")
            for _ in range(random.randrange(1, 4)):
                time.sleep(random.random() * 0.04)   # at a random instant
                pagers = kages(life.kage.pid)
                if len(pagers) < 2:
                    continue
                victim = random.choice(pagers)
                # Without its watcher nobody makes another pager.
                watches = any(status_of(p).get("PPid") == str(victim) for p in pagers)
                try:
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
                except ProcessLookupError:
                    pass
                if watches:
                    break
            right(box, life)
        print(f"# {kills} were killed")


def all_killed():
    """With nobody left to bring pages, the program waits; it does not go on with zeros."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "check", 512)
        life = box.restore(image, "--lazy")
        victims = kages(life.kage.pid)
        for victim in victims:
            os.kill(victim, signal.SIGSTOP)
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        go(box)
        wait_until("the program to wait for a page",
                   lambda: "userfault" in read_or(f"/proc/{life.pid}/wchan") or "userfault" in read_or(f"/proc/{life.pid}/stack"))
        if "FAIL" in box.log("subject"):
            raise Failed(box.log("subject"))
        life.kill()


def no_image_of_it():
    """While pages are missing there is no image of it."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "wait", 512)
        with box.restore(image, "--lazy") as life:
            for victim in kages(life.kage.pid):
                os.kill(victim, signal.SIGSTOP)
            done = box.kage("snap", "-n", "other", life.pid, check=False)
            if done.returncode != 1 or "userfaultfd" not in done.stderr:
                raise Failed(f"snap: status {done.returncode}: {done.stderr}")
            for victim in kages(life.kage.pid):
                os.kill(victim, signal.SIGCONT)
            wait_until("all pages to be in", lambda: not is_lazy(life.pid))
            second = box.snap(life.pid, name="second")
            life.kill()
        go(box)
        box.write("end", "")
        with box.restore(second) as life:
            right(box, life)


def damage(box, image, places):
    name, number = image.split("@")
    pack = os.path.join(box.store, name, f"{int(number):010}.kage")
    with open(pack, "r+b") as f:
        for at in places(os.path.getsize(pack)):
            f.seek(at)
            f.write(os.urandom(4096))


def damaged():
    """A page that cannot be read ends the program, with a line that says why."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "check", 64)
        damage(box, image, lambda size: [size // 2])
        go(box)
        life = box.restore(image, "--lazy")
        status = life.wait()
        said = read_errors(box)
        if status == 0 or "FAIL" in box.log("subject") or "memory is lost" not in said or "offset" not in said:
            raise Failed(f"status {status}, {box.log('subject')}, {said}")


def damaged_at_first():
    """A page that restoring itself waits for."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "ends", 256)
        damage(box, image, lambda size: range(size // 2, size - (1 << 20), 1 << 16))
        done = box.kage("restore", "--lazy", image, check=False)
        if done.returncode == 0 or "memory is lost" not in done.stderr:
            raise Failed(f"status {done.returncode}, {done.stderr}")


def waits(pid):
    return any("userfault" in read_or(f"/proc/{pid}/{name}") for name in ("wchan", "stack"))


def damaged_daemon():
    """A child that has closed the descriptor waits for what cannot be had; it finds no zeros."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "daemon", 256)
        name, number = image.split("@")
        pack = os.path.join(box.store, name, f"{int(number):010}.kage")
        with open(pack, "r+b") as f:
            f.seek(os.path.getsize(pack) * 7 // 8)
            f.write(os.urandom(4096))
        go(box)
        life = box.restore(image, "--lazy")
        children = []

        def closed():
            children[:] = [int(w) for w in read_or(f"/proc/{life.pid}/task/{life.pid}/children").split()] or children
            return os.path.exists(box.path("closed")) and children
        wait_until("the daemon", closed)
        daemon = box.hold(Process(children[0]))
        pagers = kages(life.kage.pid)
        if life.wait() == 0 or "memory is lost" not in read_errors(box):
            raise Failed(f"{box.log('subject')}, {read_errors(box)}")
        wait_until("the daemon to wait for a page", lambda: waits(daemon.pid))
        if "FAIL" in box.log("subject"):
            raise Failed(box.log("subject"))
        daemon.kill()
        wait_until("the pager to end", lambda: not any(os.path.exists(f"/proc/{p}") for p in pagers))


def leader_ended():
    """The first thread has ended, so nobody can be asked for the descriptor: who brings pages stays."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "leader")
        go(box)
        life = box.restore(image, "--lazy")
        pagers = kages(life.kage.pid)

        def filled():
            threads = [t for t in os.listdir(f"/proc/{life.pid}/task") if t != str(life.pid)]
            return threads and int(status_of(life.pid, threads[0]).get("VmRSS", "0 kB").split()[0]) >= MIB // 4 * 1024
        wait_until("its pages to be in", filled)
        box.write("end", "")
        right(box, life)
        wait_until("the pager to end", lambda: not any(os.path.exists(f"/proc/{p}") for p in pagers))


def removed_meanwhile():
    """The pack is held open: the image may be removed as soon as the program runs."""
    with Sandbox("lazy", durable=False) as box:
        image = image_of(box, "check", 256)
        life = box.restore(image, "--lazy")
        box.kage("rm", image)
        go(box)
        right(box, life)


def difference():
    """An image that stands in the store as a difference."""
    with Sandbox("lazy", durable=False) as box:
        program = subject(box, "check")
        recorder = box.start(["true"])
        recorder.wait()
        box.kage("record", "--every", "100ms", "--count", "4", "-n", "h", program.pid)
        program.kill()
        go(box)
        right(box, box.restore("h@latest", "--lazy"))


def debugger():
    """What reads another process's memory finds it: the reader waits, too."""
    with Sandbox("lazy", durable=False) as box:
        need("gdb")
        image = image_of(box, "wait", 256)
        gdb = ["gdb", "-nx", "-batch", "-ex", "p memory[0]", "-ex", "p memory[512]", "-ex", "p memory[512*256*200]", "-p"]
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True,
               "check": False}
        with box.restore(image, "--lazy") as life:
            done = subprocess.run([*gdb, str(life.pid)], **how)
            # When all is in, the program is traced for a moment, to take the descriptor out of it: gdb may meet that.
            if "already traced by" in done.stdout:
                wait_until("all pages to be in", lambda: not is_lazy(life.pid))
                done = subprocess.run([*gdb, str(life.pid)], **how)
            values = [line.split("=")[1].strip() for line in done.stdout.splitlines() if line.startswith("$")]
            if values[:2] != ["0", "3"] or values[2:] != [str(256 * 200 * 3)]:
                raise Failed(done.stdout[-1500:])
            wait_until("all pages to be in", lambda: not is_lazy(life.pid))


def redis():
    """redis with 200,000 keys, asked from the beginning."""
    need("redis-server", "redis-cli")
    with Sandbox("lazy", durable=False) as box:
        sock = box.path("redis.sock")
        server = box.start(["redis-server", "--port", "0", "--unixsocket", sock, "--save", ""])

        def cli(*words, text=None):
            return subprocess.run(["redis-cli", "-s", sock, *words], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  check=False).stdout.strip()
        wait_until("redis", lambda: cli("ping") == "PONG")
        cli("debug", "populate", "200000", "key", "200")
        cli("set", "here", "yes")
        if cli("dbsize") != "200001":
            cli("--pipe", text="".join(f"SET key:{i} value:{i}{'x' * 150}\r\n" for i in range(200000)))
        size = cli("dbsize")
        digest = cli("debug", "digest")
        image = box.snap(server.pid, name="redis")
        server.kill()
        with box.restore(image, "--lazy") as life:
            answers = [cli("get", "here"), cli("dbsize"), cli("debug", "digest")]
            if answers[:2] != ["yes", size] or answers[2] != digest:
                raise Failed(f"{answers} against {size} {digest}")
            cli("save")   # a child of it
            wait_until("all pages to be in", lambda: not is_lazy(life.pid))
            if cli("dbsize") != size:
                raise Failed("keys are missing")


TESTS = [(f"{m}", lambda m=m: runs(m)) for m in ("check", "write", "fork", "moves", "lone", "exec")] + [
    ("--pid new: fork", lambda: runs("fork", MIB, "--pid", "new")), ("let go", lambda: let_go([])),
    ("--pid new: let go", lambda: let_go(["--pid", "new"])),
    ("--pid new --stopped: let go", lambda: let_go(["--pid", "new", "--stopped"])),
    ("ends of threads", lambda: runs("ends", 256)),
    ("many forks", forks), ("the same in the end", same_in_the_end), ("--stopped", stopped), ("--detach", detached),
    ("pager killed: check", lambda: killed_pager("check")), ("pager killed: fork", lambda: killed_pager("fork")),
    ("pager killed: moves", lambda: killed_pager("moves")), ("pager killed: lone", lambda: killed_pager("lone")),
    ("all killed", all_killed),
    ("no image of it meanwhile", no_image_of_it), ("damaged", damaged), ("damaged where it is needed first", damaged_at_first), ("removed meanwhile", removed_meanwhile),
    ("a daemon, and damage", damaged_daemon), ("its leader has ended", leader_ended),
    ("difference", difference), ("debugger", debugger), ("redis", redis)]


def main():
    tap = Tap()
    words = sys.argv[1:]
    for name, function in TESTS:
        if not words or any(w in name for w in words):
            tap.run(f"lazy: {name}", function)
    tap.done()


main()
