#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""System calls in progress, each in a process of its own (calls.c).

  survive   imaged five times a second while it blocks: exactly what it would have got, in exactly
            the time it would have taken
  restore   imaged in the middle, killed, some time lost, restored: the call goes on with what was
            left of its time
  chain     the same twice
  stopped   restored with --stopped, and continued later
  resumed   stopped and continued by signals before it is imaged, so that some of the calls are
            restart_syscall(2)
  signalled restored with --stopped; a signal with a handler is sent before it is continued, so that
            the handler runs before the call can be made again

A call with a relative timeout must end when what was left at the image has passed in the new life; one
with an absolute one when the clock says so. What is called early is wrong by any amount (but for
how finely the kernel itself tells what is left), what is called late by more than MOST_LATE. For a
restored one that is less than what it had waited before, so that the whole time again is too late.
Words as arguments choose calls and ways.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (Failed, Sandbox, Snapper, Tap, helper, in_parallel, SOAK, state_of, wait_until)

_libc = ctypes.CDLL(None, use_errno=True)
SYS_TGKILL = 234

SECONDS = 60 if SOAK else 2.5     # of a timeout, when it survives
RESTORED_SECONDS = 2.4            # of a timeout, when it is restored
LOST_SECONDS = 0.3                # between death and new life
EARLY_NS = 20_000_000             # the start of a sleep is known to a tick of the kernel
MOST_LATE_NS = 5_000_000_000
RESTORED_LATE_NS = 500_000_000
TRIES = 4                         # of what was late
SURVIVES_AT_ONCE = 12
# Those that a handler ends, or whose signal is taken by the call itself.
SIGNALLED = {
    "pause", "sigsuspend", "sigwaitinfo", "read_interrupted", "read_restarted",
    "nanosleep_interrupted", "futex_interrupted", "select_interrupted", "epoll_interrupted",
    "epoll_pwait2_interrupted", "recv_interrupted",
}
# The time of a socket can be shortened only for a call that begins while kage is there to see it.
WHOLE_TIME_AFTER_STOP = {"recv_timeout", "recvmsg_timeout", "accept_timeout"}
# Those that the kernel itself makes again after SIGSTOP and SIGCONT (signal(7) lists the others).
RESUMABLE = {
    "nanosleep", "clock_nanosleep", "clock_nanosleep_boot", "clock_nanosleep_abs",
    "clock_nanosleep_real", "poll", "poll_nothing", "ppoll", "select", "pselect", "futex",
    "futex_abs", "cond_timedwait", "futex_forever", "pipe_read", "eventfd_read", "poll_forever",
    "select_forever", "accept", "pause", "sigsuspend", "msgrcv", "flock", "ofd_lock", "join",
    "recvfrom", "read_interrupted", "read_restarted", "nanosleep_interrupted", "futex_interrupted",
    "select_interrupted",
}


class Late(Failed):
    """It ended too late, or the test was too slow for it, or its number was given to somebody else."""


def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def calls_and_abilities():
    text = subprocess.run([helper("kind/calls"), "--list"], stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    return [line.split() for line in text.splitlines()]


def wait_state(pid, letter):
    """Waits until the first thread of PID is in the state LETTER."""
    def reached():
        state = state_of(pid)
        if state in ("", "Z", "X"):
            raise Late(f"process {pid} ended before it was in state {letter}")
        return state == letter
    wait_until(f"process {pid} to be in state {letter}", reached)


class Call:
    """One such process."""

    def __init__(self, name, seconds):
        self.box = Sandbox()
        self.name = name
        self.program = self.box.start([helper("kind/calls"), name, str(seconds)])
        try:
            self.box.wait_log("ready", process=self.program)
            # Asleep in the call, and so are its other threads most of the time.
            wait_state(self.program.pid, "S")
        except Failed:
            self.close()
            raise

    def close(self):
        for line in self.box.log().splitlines():
            if line.startswith("ipc ") and "PASS" not in self.box.log():
                subprocess.run(["ipcrm", *line.split()[1:]], check=False, stderr=subprocess.DEVNULL)
        self.box.__exit__()

    def go(self):
        self.box.write("go", "")

    def judge(self, status):
        """Returns (begin, end, wanted, kind, calls)."""
        log = self.box.log()
        if status != 0 or "PASS" not in log or log.count("ready") != 1:
            raise Failed(f"status {status}, log: {log}")
        line = next(l for l in log.splitlines() if l.startswith("took "))
        _, begin, end, wanted, kind, calls = line.split()
        return int(begin), int(end), int(wanted), kind, int(calls)


def survive_group(tap, group):
    """All of GROUP at once: each only sleeps."""
    running = {}
    for name, ability in group:
        try:
            running[name] = (Call(name, SECONDS), ability)
        except Failed as why:
            tap.not_ok(f"{name}: survive", why)
    snappers = []
    for name, (call, ability) in running.items():
        snapper = Snapper(call.box, [call.program.pid], must_work=ability == "restore")
        snapper.start()
        snappers.append(snapper)
    end = time.monotonic() + SECONDS + 0.3
    while time.monotonic() < end:
        time.sleep(0.05)
    for (name, (call, _)), snapper in zip(running.items(), snappers):
        def test(call=call, snapper=snapper):
            try:
                snapper.stop()
                call.go()
                begin, ended, wanted, kind, calls = call.judge(call.program.wait())
                took = ended - begin
                # The image after the end of a call that timed out finds nobody: that is no problem.
                if snapper.problem and snapper.taken < 2:
                    raise Failed(snapper.problem)
                if calls != 1:
                    raise Failed(f"the transfer was cut into {calls} calls")
                # An absolute time was computed before `begin` was taken.
                early = EARLY_NS if kind == "absolute" else 0
                if kind != "event" and not wanted - early <= took <= wanted + MOST_LATE_NS:
                    raise Failed(f"took {took / 1e9:.3f} s instead of {wanted / 1e9:.3f} s")
                if kind == "event" and took < wanted:
                    raise Failed(f"ended after {took / 1e9:.3f} s, before what it waited for")
            finally:
                call.close()
        tap.run(f"{name}: survive", test)


def wait_some(begin, seconds):
    """Until SECONDS after BEGIN (of CLOCK_MONOTONIC): a part of the timeout that is to be lost."""
    while now() < begin + int(seconds * 1e9):
        time.sleep(0.01)


def image_of(call, process, life):
    """Returns (before, after, image) of a process that is in its call, and ends it."""
    before = now()
    try:
        image = call.box.snap(process.pid)
    except Failed as why:
        if "took" in call.box.log():
            raise Late(why) from None
        if not process.alive():
            why = f"{why}; it ended with {(life or process).wait()}; log: {call.box.log()}"
        raise Failed(why) from None
    after = now()
    process.kill()
    if "took" in call.box.log():
        raise Late("the call ended before the program was killed")
    return before, after, image


def life_of(call, image, options):
    try:
        return call.box.restore(image, *options)
    except Failed as why:
        raise Late(why) if "is taken" in str(why) else why


def live_again(call, rounds, options, resumed=False):
    """Image, death and new life, ROUNDS times. Returns the exit status and, for each life but the last,
    (when it began at the earliest, at the latest, was imaged at the earliest, at the latest), and
    of the last when it began."""
    box, process, lives = call.box, call.program, []
    lived_low = lived_high = now()
    life = None
    for _ in range(rounds):
        wait_some(lived_low, RESTORED_SECONDS / (2.0 * rounds))
        if resumed:
            process.signal(signal.SIGSTOP)
            wait_state(process.pid, "T")
            process.signal(signal.SIGCONT)
            wait_state(process.pid, "S")
        before, after, image = image_of(call, process, life)
        if life:
            life.kage.wait()
        lives.append((lived_low, lived_high, before, after))
        wait_some(after, LOST_SECONDS)
        lived_low = now()
        life = life_of(call, image, options)
        lived_high = now()
        process = life.process
        if not process:
            break
    if "--stopped" in options and process:
        wait_state(life.pid, "T")
        process.signal(signal.SIGCONT)
    call.go()
    return life.wait(), lives, lived_low, lived_high


def due(begin, wanted, lives):
    """What was left of WANTED at the latest image: at least, at most. The first life went on at BEGIN."""
    _, _, before, after = lives[0]
    low, high = before - begin, after - begin
    for lived_low, lived_high, before, after in lives[1:]:
        low += max(0, before - lived_high)
        high += after - lived_low
    return wanted - high, wanted - low


def restored(name, rounds, options, resumed=False):
    call = Call(name, RESTORED_SECONDS)
    try:
        status, lives, lived_low, lived_high = live_again(call, rounds, options, resumed)
        begin, ended, wanted, kind, _ = call.judge(status)
        if kind == "event":
            return
        if kind == "absolute":
            # It was computed before `begin` was taken.
            due_low, due_high = begin + wanted - EARLY_NS, max(begin + wanted, lived_high)
        else:
            least, most = due(begin, wanted, lives)
            due_low, due_high = lived_low + least - EARLY_NS, lived_high + max(0, most)
        if ended < due_low:
            raise Failed(f"{kind}: ended {(due_low - ended) / 1e9:.3f} s too early, after "
                         f"{(ended - lived_high) / 1e9:.3f} s of new life")
        late = RESTORED_LATE_NS
        if "--stopped" in options and name in WHOLE_TIME_AFTER_STOP:
            late += wanted
        if ended > due_high + late:
            raise Late(f"{kind}: ended {(ended - due_high) / 1e9:.3f} s too late")
    finally:
        call.close()


def in_time(test, *args):
    """A machine that has much to do makes a program late, but not each time."""
    for _ in range(TRIES - 1):
        try:
            test(*args)
            return
        except Late:
            pass
    test(*args)


def signal_thread(tid, number):
    """To the first thread, and no other."""
    if _libc.syscall(SYS_TGKILL, tid, tid, number) != 0:
        raise Failed("tgkill failed")


def signalled(name):
    call = Call(name, RESTORED_SECONDS)
    try:
        wait_some(now(), 0.2)
        image = call.box.snap(call.program.pid)
        call.program.kill()
        life = life_of(call, image, ["--stopped"])
        wait_state(life.pid, "T")
        signal_thread(life.pid, signal.SIGUSR1)
        life.process.signal(signal.SIGCONT)
        if name == "read_restarted":
            wait_state(life.pid, "S")
            call.go()
        call.judge(life.wait(15))
    finally:
        call.close()


WAYS = {
    "restore": (1, [], False), "chain": (2, [], False), "stopped": (1, ["--stopped"], False),
    "resumed": (1, [], True),
}


def possible(name, ability, way):
    if way == "signalled":
        return name in SIGNALLED
    return ability == "restore" and (way != "resumed" or name in RESUMABLE)


def main():
    tap = Tap()
    every = calls_and_abilities()
    words = sys.argv[1:]
    chosen = [c for c in every if c[0] in words] or every
    all_ways = ("survive", *WAYS, "signalled")
    ways = [w for w in all_ways if w in words] or all_ways
    if "survive" in ways:
        for i in range(0, len(chosen), SURVIVES_AT_ONCE):
            survive_group(tap, chosen[i:i + SURVIVES_AT_ONCE])
    jobs = []
    for way in ways:
        for name, ability in chosen:
            if way == "survive" or not possible(name, ability, way):
                continue
            test = (signalled, name) if way == "signalled" else (restored, name, *WAYS[way])
            jobs.append(lambda n=f"{name}: {way}", t=test: tap.run(n, in_time, *t))
    in_parallel(jobs, workers=6)
    tap.done()


if __name__ == "__main__":
    main()
