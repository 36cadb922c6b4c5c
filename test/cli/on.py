#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""kage on, kage off: what a program meets is seen each time, what is to be done is done before the program goes on, and
nothing else changes for it. On both rungs: by the kernel's table, and by ptrace, as without the rights for BPF.

The subject is mostly an interpreter that executes lines: tests know which calls it makes.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from interpreter import Interpreter, PYTHON
from kagetest import Failed, KAGE, Process, Sandbox, Skip, Tap, read, state_of, status_of, threads_of, wait_until

RUNGS = ["bpf", "ptrace"]


@contextlib.contextmanager
def world(rung="bpf", prepare=None):
    with Sandbox() as box:
        if rung == "ptrace":
            box.env["KAGE_TRIGGER_RUNG"] = "ptrace"
        python = Interpreter(box, prepare)
        python.do("import ctypes")
        yield box, python
        if python.popen.poll() is None:
            python.close()


def on(box, pid, *options):
    report = json.loads(box.kage("on", "--json", pid, *options).stdout)
    if report["keeper_pid"] not in box.keepers:
        box.keepers.add(report["keeper_pid"])
        box.hold(Process(report["keeper_pid"]))
    return report


def triggers(box, pid=None):
    return json.loads(box.kage("on", "--list", "--json", *([pid] if pid else [])).stdout)["triggers"]


def images(box):
    done = box.kage("log", "--json", "s", check=False)
    return json.loads(done.stdout)["images"] if done.returncode == 0 else []


def trigger(box, which):
    return next(t for t in triggers(box) if t["id"] == which)


def refused(box, why, *arguments):
    done = box.kage(*arguments, check=False)
    if done.returncode == 0 or why not in done.stderr:
        raise Failed(f"status {done.returncode}, {done.stderr!r}, must be refused because of {why!r}")


def is_let_go(pid):
    """Nobody traces it, and it does not stand."""
    wait_until(f"process {pid} to be let go", lambda: all(
        status_of(pid, t).get("TracerPid") == "0" and state_of(pid, t) in "RSD" for t in threads_of(pid)))


def counts(rung):
    """Each call is met, once, with its arguments and its result."""
    with world(rung) as (box, python):
        each = on(box, python.pid, "--call", "getppid", "--do", "count")
        if each["rung"] != rung:
            raise Failed(f"rung {each['rung']}")
        third = on(box, python.pid, "--call", "getppid", "--count", "3+2", "--do", "count")["id"]
        etc = on(box, python.pid, "--call", "openat", "--arg", "1~/etc/.*", "--do", "count")["id"]
        other = on(box, python.pid, "--call", "openat", "--arg", "1!~/etc/.*", "--arg", "2&O_CREAT", "--do", "count")["id"]
        failed = on(box, python.pid, "--call", "openat", "--result", "ENOENT", "--do", "count")["id"]
        cwd = on(box, python.pid, "--call", "openat", "--arg", "0=AT_FDCWD", "--result", ">=0", "--arg", "1~/etc/pass.*",
                 "--do", "count")["id"]
        nobody = on(box, python.pid, "--call", "getppid", "--thread", "1", "--do", "count")["id"]
        python.expect("for i in range(10): os.getppid()")
        python.expect("[os.close(os.open(f, 0)) for f in ('/etc/passwd', '/etc/hostname')]")
        python.do("os.open('/etc/nonsense', 0)")
        python.expect("os.close(os.open('made', os.O_CREAT | os.O_WRONLY))")
        python.expect("os.close(os.open('/dev/null', 0))")
        want = {each["id"]: (10, 10), third: (10, 4), etc: (3, 3), other: (1, 1), failed: (1, 1), cwd: (1, 1), nobody: (0, 0)}
        got = {t["id"]: (t["met"], t["done"]) for t in triggers(box)}
        if got != want:
            raise Failed(f"{got}, must be {want}")
        for t in triggers(box, python.pid):
            if rung == "bpf" and t["done"] and not t["delay_ns"]:
                raise Failed(f"{t}: without a delay")
        box.kage("off", etc, other)
        if len(triggers(box)) != 5:
            raise Failed("triggers are still there")
        box.kage("off", etc.split(":")[0])
        is_let_go(python.pid)
        python.expect("os.getppid()")


def threads(rung):
    """Several threads at a time, also such as are made later."""
    with world(rung) as (box, python):
        t = on(box, python.pid, "--call", "getppid", "--do", "count")["id"]
        python.expect("exec('def work():\\n for _ in range(300): os.getppid()')")
        python.expect("ts = [threading.Thread(target=work) for _ in range(6)]; [t.start() for t in ts]; [t.join() for t in ts]")
        got = trigger(box, t)
        if got["met"] != 1800:
            raise Failed(f"{got['met']} of 1800 were met")
        box.kage("off", t)
        is_let_go(python.pid)


def order(rung):
    """The call first, then the action, then the program sees what the call has returned."""
    with world(rung) as (box, python):
        python.expect("fd = os.open('log', os.O_CREAT | os.O_RDWR | os.O_APPEND)")
        fd = python.do("state['fd'] = fd")["fd"]
        on(box, python.pid, "--call", "write", "--arg", f"0={fd}", "--once", "--do", f'call:write {fd} "second " 7')
        python.do("os.write(fd, b'first '); state['size'] = os.fstat(fd).st_size; os.write(fd, b'third')")
        if read(os.path.join(box.dir, "log")) != "first second third" or python.do("pass")["size"] != 13:
            raise Failed(f"it is {read(os.path.join(box.dir, 'log'))!r}, {python.do('pass')}")
        is_let_go(python.pid)
        # In the thread that has met it.
        on(box, python.pid, "--call", "getppid", "--once", "--do", 'call:prctl PR_SET_NAME "met"')
        python.do("names = []; exec('def work():\\n os.getppid()\\n"
                  " names.append(open(\"/proc/thread-self/comm\").read())')")
        python.do("t = threading.Thread(target=work); t.start(); t.join(); state['names'] = names")
        if python.do("pass")["names"] != ["met\n"]:
            raise Failed(f"names {python.do('pass')['names']}")


def clones(rung):
    """A twin behind each call; each goes on from there."""
    with world(rung) as (box, python):
        python.do("log = os.open('lives', os.O_CREAT | os.O_RDWR | os.O_APPEND)")
        t = on(box, python.pid, "--call", "getppid", "--do", "clone", "--name", "t", "--max", "3")["id"]
        python.do("[(os.getppid(), os.write(log, b'%d\\n' % i)) for i in range(5)]")
        twins = json.loads(box.kage("twins", "--json").stdout)["twins"]
        if [t["number"] for t in twins] != [1, 2, 3]:
            raise Failed(f"twins {twins}")
        if any(t["pause_ns"] == 0 for t in twins):
            raise Failed("a pause of no time")
        if any(e["id"] == t for e in triggers(box)):
            raise Failed("it is used up, and there still")
        is_let_go(python.pid)
        with box.wake("t@2", "--log", box.path("out"), "--files", "restore") as life:
            wait_until("it to go on", lambda: read(os.path.join(box.dir, "lives")) == "0\n1\n2\n3\n4\n")
            life.kill()


def rolls_back(rung):
    """Whoever is about to die of a signal goes back to before."""
    with world(rung) as (box, python):
        python.do("state['n'] = 0")
        box.clone(python.pid)
        t = on(box, python.pid, "--signal", "SEGV", "--do", "rollback", "--name", "t", "--max", "20")["id"]
        for i in range(5):
            python.popen.stdin.write("ctypes.string_at(8)\n")
            python.popen.stdin.flush()
            wait_until("it to go back", lambda i=i: trigger(box, t)["done"] == i + 1)
            python.expect(f"state['n'] = {i}", n=i)
        got = trigger(box, t)
        if got["failed"] or got["met"] != 5:
            raise Failed(f"{got}")
        # A call of it is met behind going back, too.
        u = on(box, python.pid, "--call", "getppid", "--do", "count", "--name", "t")["id"]
        box.kage("rollback", "t")
        python.do("os.getppid()")
        if trigger(box, u)["met"] != 1:
            raise Failed(f"{trigger(box, u)}")


def snaps(rung):
    """An image of the instant behind the call, which goes on from there."""
    with Sandbox() as box:
        if rung == "ptrace":
            box.env["KAGE_TRIGGER_RUNG"] = "ptrace"
        code = ("import os, time\n"
                "while not os.path.exists('go'): time.sleep(0.01)\n"
                "for i in range(6):\n os.getppid()\n open('log', 'a').write(str(i))\n"
                "time.sleep(1000)\n")
        program = box.start([PYTHON, "-c", code], cwd=box.dir)
        t = on(box, program.pid, "--call", "getppid", "--do", "snap", "--name", "s", "--count", "3+2")["id"]
        box.write("go", "")
        wait_until("two images", lambda: len(images(box)) == 2)
        if trigger(box, t)["failed"]:
            raise Failed(f"{trigger(box, t)}")
        wait_until("its end", lambda: read(os.path.join(box.dir, "log")) == "012345")
        program.kill()
        with box.restore("s@1", "--files", "restore"):
            wait_until("it to go on", lambda: read(os.path.join(box.dir, "log")) == "012345")
        if [i["reason"] for i in images(box)] != ["trigger"] * 2:
            raise Failed(f"{images(box)}")


def stops(rung):
    with world(rung) as (box, python):
        t = on(box, python.pid, "--call", "getppid", "--do", "stop")["id"]
        for i in range(3):
            python.popen.stdin.write(f"os.getppid(); state['n'] = {i}\n")
            python.popen.stdin.flush()
            wait_until("it to stand", lambda: state_of(python.pid) in "Tt" and trigger(box, t)["done"])
            python.process.signal(signal.SIGCONT)
            if json.loads(python.popen.stdout.readline())["n"] != i:
                raise Failed("it has not gone on right")
        box.kage("off", t)
        is_let_go(python.pid)


def commands(rung):
    """The program stands until the command has ended; the command may ask the keeper for things."""
    with world(rung) as (box, python):
        out = box.path("told")
        t = on(box, python.pid, "--call", "openat", "--arg", "1~/etc/hostname", "--name", "t", "--do",
               f"exec:grep State /proc/$KAGE_PID/status >{out}; echo $KAGE_PID $KAGE_TID $KAGE_RESULT $KAGE_ARG2 $KAGE_TRIGGER "
               f">>{out}; {KAGE} clone --name t $KAGE_PID >>{out}; {KAGE} on --list >/dev/null")["id"]
        fd = python.do("state['fd'] = os.open('/etc/hostname', os.O_CLOEXEC)")["fd"]
        told = read(out).splitlines()
        if not told[0].endswith("(tracing stop)") or told[1] != f"{python.pid} {python.pid} {fd} {os.O_CLOEXEC} {t}":
            raise Failed(f"{told}")
        if not told[2].startswith("t@1"):
            raise Failed(f"{told}")
        box.kage("off", t)
        bad = on(box, python.pid, "--call", "getppid", "--name", "t", "--do", "exec:exit 3")["id"]
        python.do("os.getppid()")
        wait_until("the failure", lambda: trigger(box, bad)["last_error"])
        if "status 3" not in trigger(box, bad)["last_error"]:
            raise Failed(trigger(box, bad)["last_error"])


def births(rung):
    """Calls that make processes, behind which the C library blocks signals; children are nobody's but if followed."""
    with world(rung) as (box, python):
        t = on(box, python.pid, "--call", "clone", "--result", ">0", "--do", "count")["id"]
        python.expect("pid = os.fork() or os._exit(0)")
        python.expect("os.waitpid(pid, 0) and None")
        if trigger(box, t)["met"] != 1:
            raise Failed(f"{trigger(box, t)}")
        python.do("p = subprocess.Popen(['sleep', '1000'])")
        child = python.do("state['child'] = p.pid")["child"]
        is_let_go(child)
        python.do("p.kill(); p.wait(); del state['child']")
        f = on(box, python.pid, "--call", "getppid", "--follow", "--do", "count")["id"]
        e = on(box, python.pid, "--exec", "--follow", "--do", "count")["id"]
        x = on(box, python.pid, "--exit", "--follow", "--do", "count")["id"]
        python.do("pid = os.fork() or (os.getppid(), os._exit(0))")
        python.do("os.waitpid(pid, 0)")
        python.do(f"subprocess.run(['{PYTHON}', '-c', 'import os; os.getppid(); os.getppid()'])")
        got = [trigger(box, i)["met"] for i in (f, e, x)]
        if got != [3, 1, 2]:
            raise Failed(f"{got} were met of 3, 1, 2")
        python.do("p = subprocess.Popen(['sleep', '1000'])")
        child = python.do("state['child'] = p.pid")["child"]
        box.kage("off", t.split(":")[0])
        is_let_go(child)
        is_let_go(python.pid)
        python.do("p.kill(); p.wait()")


def leaves(rung):
    """A program that makes processes all the time is let go, again and again, by a keeper that stays; so are they."""
    with world(rung) as (box, python):
        box.clone(python.pid)
        python.do("n = [0]; stop = []; exec('def work():\\n while not stop:\\n  pid = os.fork() or os._exit(0)\\n"
                  "  os.waitpid(pid, 0)\\n  n[0] += 1')")
        python.do("t = threading.Thread(target=work); t.start()")
        for _ in range(25):
            before = python.do("state['n'] = n[0]")["n"]
            box.kage("off", on(box, python.pid, "--call", "getppid", "--do", "count", "--name", "t")["id"])
            wait_until("it to go on", lambda before=before: python.do("state['n'] = n[0]")["n"] > before + 2)
        python.do("stop.append(1); t.join()")
        is_let_go(python.pid)


def executes(rung):
    """A program that executes another one keeps its triggers."""
    with Sandbox() as box:
        if rung == "ptrace":
            box.env["KAGE_TRIGGER_RUNG"] = "ptrace"
        code = ("import os, sys, threading, time\n"
                "n = int(sys.argv[1])\n"
                "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
                "while not os.path.exists('go'): time.sleep(0.01)\n"
                "os.getppid()\n"
                "if n: os.execv(sys.executable, [sys.executable, 'code.py', str(n - 1)])\n")
        box.write("code.py", code)
        program = box.start([PYTHON, "code.py", "5"], cwd=box.dir)
        t = on(box, program.pid, "--call", "getppid", "--do", "count")["id"]
        e = on(box, program.pid, "--exec", "--do", "clone", "--name", t.split(":")[0])["id"]
        done = [trigger(box, t), trigger(box, e)]
        box.write("go", "")

        def ended():
            nonlocal done
            found = {x["id"]: x for x in triggers(box)}
            if t in found:
                done = [found[t], found[e]]
            return program.popen.poll() is not None
        wait_until("its end", ended)
        if program.popen.returncode != 0:
            raise Failed(f"it ended with {program.popen.returncode}")
        if done[1]["failed"] or done[1]["met"] < 4 or done[0]["met"] < 4:
            raise Failed(f"{done}")
        if triggers(box):
            raise Failed("its triggers are there still")


def killed(rung):
    """The keeper ends at some instant: the program goes on, whole and at once."""
    with world(rung) as (box, python):
        python.do("exec('def work():\\n for i in range(20000):\\n  if os.getppid() != os.getppid(): return -1\\n return i')")
        for i in range(6):
            on(box, python.pid, "--call", "getppid", "--do", ["count", "clone", "call:getpid"][i % 3], "--name", f"t{i}")
            keeper = triggers(box)[0]["keeper_pid"]
            python.popen.stdin.write("state['last'] = work()\n")
            python.popen.stdin.flush()
            time.sleep(0.02 + 0.03 * i)
            os.kill(keeper, signal.SIGKILL)
            if json.loads(python.popen.stdout.readline())["last"] != 19999:
                raise Failed("it has not gone on right")
            is_let_go(python.pid)


def blocked_calls(rung):
    """Calls that wait are not disturbed by other triggers; signals of its own reach the program."""
    with world(rung) as (box, python):
        on(box, python.pid, "--call", "getppid", "--do", "call:getpid")
        python.do("got = []; signal.signal(signal.SIGUSR1, lambda *a: got.append(1)); signal.signal(signal.SIGURG, lambda *a: got.append(2))")
        python.do("exec('def noise():\\n while not stop: os.getppid()')")
        python.do("stop = []; t = threading.Thread(target=noise); t.start()")
        python.popen.stdin.write("b = time.monotonic(); time.sleep(0.5); state['slept'] = time.monotonic() - b\n")
        python.popen.stdin.flush()
        for _ in range(5):
            time.sleep(0.03)
            python.process.signal(signal.SIGUSR1)
            python.process.signal(signal.SIGURG)
        slept = json.loads(python.popen.stdout.readline())["slept"]
        if slept < 0.5:
            raise Failed(f"it slept {slept} s")
        got = python.do("stop.append(1); t.join(); state['got'] = got")["got"]
        if sorted(set(got)) != [1, 2]:
            raise Failed(f"signals {got}")


def wrong():
    """What cannot be is said, and nothing is left of it."""
    with world() as (box, python):
        pid = python.pid
        for why, arguments in [
                ("when?", ["--do", "count"]), ("--do says", ["--call", "getppid"]),
                ("one of --call", ["--call", "getppid", "--exit", "--do", "count"]),
                ("no system call 'opn'", ["--call", "opn", "--do", "count"]),
                ("no signal", ["--signal", "NOPE", "--do", "count"]), ("SIGKILL", ["--signal", "KILL", "--do", "count"]),
                ("it is one of snap", ["--call", "getppid", "--do", "dance"]),
                ("no result", ["--call", "getppid", "--result", "ENOPE", "--do", "count"]),
                ("number of an argument", ["--call", "openat", "--arg", "x=1", "--do", "count"]),
                ("is to stand before", ["--call", "openat", "--arg", "1", "--do", "count"]),
                ("regular expression", ["--call", "openat", "--arg", "1~(", "--do", "count"]),
                ("no count", ["--call", "openat", "--count", "x", "--do", "count"]),
                ("no system call 'nope'", ["--call", "openat", "--do", "call:nope"]),
                ("goes with snap, exec and count", ["--exit", "--do", "clone"]),
                ("there is no process", None)]:
            refused(box, why, "on", *([pid] + arguments if arguments else [2 ** 22 - 1, "--call", "getppid", "--do", "count"]))
        if triggers(box) or status_of(pid)["TracerPid"] != "0":
            raise Failed("something is left")
        refused(box, "no triggers called", "off", "nobody:1")
        t = on(box, pid, "--call", "getppid", "--do", "count")["id"]
        refused(box, "no trigger", "off", t + "7")
        refused(box, "'kage on --do'", "snap", pid)
        python.expect("os.getppid()")


def other_user():
    """Without any rights, on one's own program."""
    if os.geteuid() != 0:
        raise Skip("machine: only root can become another user")
    with Sandbox() as box, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.chown(folder, 65534, 65534)
        kage = shutil.copy(KAGE, folder)

        def become():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        box.env["KAGE_RUN"] = os.path.join(folder, "run")
        python = Interpreter(box, become)
        done = subprocess.run([kage, "on", "--json", str(python.pid), "--call", "getppid", "--do", "count"], env=box.env,
                              preexec_fn=become, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(done.stderr)
        report = json.loads(done.stdout)
        box.hold(Process(report["keeper_pid"]))
        if report["rung"] != "ptrace":
            raise Failed(f"rung {report['rung']}")
        python.do("os.getppid()")
        listed = subprocess.run([kage, "on", "-l", "--json"], env=box.env, preexec_fn=become, capture_output=True, text=True,
                                check=True).stdout
        if json.loads(listed)["triggers"][0]["met"] != 1:
            raise Failed(listed)
        python.close()


def main():
    tap = Tap()
    for function in (counts, threads, order, clones, rolls_back, snaps, stops, commands, births, leaves, executes, killed,
                     blocked_calls):
        for rung in RUNGS:
            tap.run(f"{function.__name__}: {rung}", function, rung)
    tap.run("wrong", wrong)
    tap.run("other user", other_user)
    tap.done()


if __name__ == "__main__":
    main()
