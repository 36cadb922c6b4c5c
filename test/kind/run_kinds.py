#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""Every kind of kernel object through every way of living on.

  survive   imaged five times a second while it waits; must not notice
  restore   imaged, killed with SIGKILL, restored from the image
  chain     restored, imaged again, killed, restored from that
  stopped   restored with --stopped, then continued
  wake      a twin is made, the program killed, the twin woken twice with its number, once stopped at first
    back      a twin is made; when the program has judged itself it is taken back, in place, and does so again, twice
  copy      a twin is made, the program must not notice; when it has ended, the twin is woken with another number

Each program of this folder builds its state, says "ready", waits for the file "go", checks itself and
says PASS. Words as arguments choose among kinds: run_kinds.py fd_pipe timers.
"""

import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (Failed, Sandbox, Skip, Snapper, Tap, helper, in_parallel, read_or, SOAK,
                      state_of, threads_of, wait_until)

# name, program and arguments
KINDS = [
    ("mem_anon", ["mem_anon"]), ("mem_file", ["mem_file"]), ("mem_shared", ["mem_shared"]),
    ("mem_huge", ["mem_huge"]), ("mem_thp", ["mem_thp"]), ("mem_lock", ["mem_lock"]),
    ("mem_lock future", ["mem_lock", "future"]), ("mem_lock fault", ["mem_lock", "fault"]),
    ("mem_pkey", ["mem_pkey"]),
    ("threads", ["threads"]), ("regs", ["regs"]), ("rseq", ["rseq"]), ("signals", ["signals"]),
    ("timers", ["timers"]), ("creds plain", ["creds", "plain"]), ("creds caps", ["creds", "caps"]),
    ("creds bits", ["creds", "bits"]), ("creds thread", ["creds", "thread"]),
    ("ring_closed", ["ring_closed"]),
    ("attributes", ["attributes"]), ("seccomp", ["seccomp"]),
    ("seccomp tight", ["seccomp", "tight"]), ("fd_files", ["fd_files"]), ("fd_pipe", ["fd_pipe"]),
    ("fd_event", ["fd_event"]), ("fd_inotify", ["fd_inotify"]), ("fd_sockets", ["fd_sockets"]),
    ("fd_locks", ["fd_locks"]),
    # Images for which threads are made to run system calls, as without the rights for BPF (rung 2).
    *((f"{kind} asked", [kind, "asked"]) for kind in ("threads", "rseq", "signals", "timers", "ring_closed")),
]
SURVIVE_SECONDS = 60 if SOAK else 3
HUGE_PAGES = "/proc/sys/vm/nr_hugepages"


def sandbox(command):
    box = Sandbox()
    if "asked" in command:
        box.env["KAGE_RUNG"] = "2"
    return box


def start(box, command):
    program = box.start([helper("kind/" + command[0]), *command[1:]])

    def up():
        alive = program.alive()
        log = box.log()
        if "SKIP" in log:
            raise Skip(log.split("SKIP", 1)[1].strip())
        if "FAIL" in log:
            raise Failed(log)
        if not alive and "ready" not in log:
            raise Failed(f"it ended before it was ready: {log}")
        return "ready" in log
    wait_until("ready", up)
    return program


def judge(box, status):
    log = box.log()
    if status != 0 or "PASS" not in log or log.count("ready") != 1:
        raise Failed(f"status {status}, log: {log}")


def tell(box):
    box.write("go", "")


def survive(command):
    with sandbox(command) as box:
        program = start(box, command)
        # A program whose own filters forbid what an image needs must be left alone, not imaged.
        snapper = Snapper(box, [program.pid], must_work=command != ["seccomp", "tight"])
        snapper.start()
        try:
            end = time.monotonic() + SURVIVE_SECONDS
            while time.monotonic() < end and program.alive() and snapper.is_alive():
                time.sleep(0.05)
            snapper.stop()
            tell(box)
            status = program.wait()
        finally:
            snapper.stop()
        judge(box, status)
        if snapper.problem:
            raise Failed(snapper.problem)
        if snapper.must_work and snapper.taken < SURVIVE_SECONDS:
            raise Failed(f"only {snapper.taken} images in {SURVIVE_SECONDS} s")


def image(box, program, command):
    if command == ["seccomp", "tight"]:
        done = box.kage("snap", "--json", "-n", "t", program.pid, check=False)
        if done.returncode != 0:
            tell(box)
            judge(box, program.wait())
            raise Skip(f"its own filter forbids an image: {done.stderr.strip()}")
        return "t@latest"
    return box.snap(program.pid)


def restore(command):
    with sandbox(command) as box:
        program = start(box, command)
        name = image(box, program, command)
        program.kill()
        life = box.restore(name)
        if life.pid != program.pid:
            raise Failed(f"PID {life.pid} was {program.pid}")
        tell(box)
        judge(box, life.wait())


def chain(command):
    with sandbox(command) as box:
        program = start(box, command)
        name = image(box, program, command)
        program.kill()
        for _ in range(2):
            life = box.restore(name)
            name = box.snap(life.pid)
            life.kill()
        life = box.restore(name)
        tell(box)
        judge(box, life.wait())


def stopped(command):
    with sandbox(command) as box:
        program = start(box, command)
        name = image(box, program, command)
        program.kill()
        life = box.restore(name, "--stopped")
        wait_until("all threads to be stopped", lambda: all(
            state_of(life.pid, tid) == "T" for tid in threads_of(life.pid)) and life.process.alive())
        tell(box)
        life.process.signal(signal.SIGCONT)
        judge(box, life.wait())


# Programs that must be left alone, and why.
NO_TWIN = {"seccomp tight": "seccomp filter", "attributes": "adopts orphans"}


def twin(box, program, command):
    why = NO_TWIN.get(" ".join(command))
    if not why:
        return box.clone(program.pid)
    done = box.kage("clone", "-n", "t", program.pid, check=False)
    if done.returncode == 0 or why not in done.stderr:
        raise Failed(f"status {done.returncode}, {done.stderr}: must be refused, because of {why}")
    tell(box)
    judge(box, program.wait())
    return None


def wake_alone(command):
    """In a PID namespace: a program without rights gets its number by a place in the order of numbers,
    which a process that another test starts just then may get instead, or the number of that other test."""
    done = subprocess.run(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
                           '"$@"; exit $?', "sh", sys.executable, __file__, "wake", " ".join(command)],
                          env=dict(os.environ, KAGE_TEST_ALONE="1"), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stdout + done.stderr)


def wake(command):
    if command[0] == "creds" and not os.environ.get("KAGE_TEST_ALONE"):
        return wake_alone(command)
    with sandbox(command) as box:
        program = start(box, command)
        name = twin(box, program, command)
        if not name:
            return
        program.kill()
        life = box.wake(name, "--pid", "same", "--stopped")
        if life.pid != program.pid:
            raise Failed(f"PID {life.pid} was {program.pid}")
        wait_until("all threads to be stopped", lambda: all(
            state_of(life.pid, tid) == "T" for tid in threads_of(life.pid)) and life.process.alive())
        life.kill()
        life = box.wake(name, "--pid", "same")
        tell(box)
        judge(box, life.wait())


def copy(command):
    with sandbox(command) as box:
        program = start(box, command)
        name = twin(box, program, command)
        if not name:
            return
        tell(box)
        judge(box, program.wait())
        os.unlink(box.path("go"))
        # What it has written, and what it knows itself by, is as of the twin only if that is asked for.
        life = box.wake(name, "--files", "restore", *(["--pid", "new"] if command[0] == "timers" else []))
        tell(box)
        judge(box, life.wait())


# Programs that change what cannot be given back, and why.
NO_WAY_BACK = {"creds caps": "credentials", "creds thread": "credentials"}


def refused(box, program, name, why):
    """A refusal leaves the program as it was."""
    done = box.kage("rollback", name, check=False)
    if done.returncode == 0 or why not in done.stderr:
        raise Failed(f"status {done.returncode}, {done.stderr}: must be refused, because of {why}")
    os.unlink(box.path("stay"))
    judge(box, program.wait())


def back(command):
    with sandbox(command) as box:
        program = start(box, command)
        name = twin(box, program, command)
        if not name:
            return
        box.write("stay", "")
        for i in (1, 2):
            tell(box)
            wait_until("its judgement", lambda: not program.alive() or "FAIL" in box.log() or "PASS" in box.log())
            if not program.alive() or "FAIL" in box.log():
                raise Failed(f"life {i}: {box.log()}")
            os.unlink(box.path("go"))
            if " ".join(command) in NO_WAY_BACK:
                return refused(box, program, name, NO_WAY_BACK[" ".join(command)])
            box.kage("rollback", name, "--files", "restore")
        os.unlink(box.path("stay"))
        tell(box)
        judge(box, program.wait())


WAYS = [("survive", survive), ("restore", restore), ("chain", chain), ("stopped", stopped), ("wake", wake),
        ("back", back), ("copy", copy)]


def main():
    tap = Tap()
    words = sys.argv[1:]
    kinds = [k for k in KINDS if not words or k[0] in words or k[1][0] in words]
    ways = [w for w in WAYS if w[0] in words] or WAYS
    if words and not kinds:
        kinds = KINDS
    had = read_or(HUGE_PAGES).strip()
    if any(k[0] == "mem_huge" for k in kinds) and had:
        try:
            with open(HUGE_PAGES, "w", encoding="ascii") as f:
                f.write(str(int(had) + 16))
        except OSError:
            pass
    try:
        for way, function in ways:
            def job(name, command, way=way, function=function):
                tap.run(f"{name}: {way}", function, command)
            in_parallel([lambda n=n, c=c, job=job: job(n, c) for n, c in kinds],
                        workers=6 if way == "survive" else 3)
    finally:
        if had:
            try:
                with open(HUGE_PAGES, "w", encoding="ascii") as f:
                    f.write(had)
            except OSError:
                pass
    tap.done()


if __name__ == "__main__":
    main()
