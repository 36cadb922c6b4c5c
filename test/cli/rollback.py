#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""kage rollback: running programs go back to their twins, in place.

The subject is an interpreter as sandboxes drive it: a python3 that executes each line it gets on a pipe and answers on
another; and a redis with a client that stays connected.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from interpreter import INTERPRETER, Interpreter, PYTHON
from kagetest import (Failed, KAGE, Process, Sandbox, Skip, SOAK, Tap, descriptors_of, read, threads_of, state_of, wait_until)

ROUNDS = 1000 if SOAK else 60
def back(box, spec="t", *options):
    return json.loads(box.kage("rollback", "--json", *options, spec).stdout)


def refused(box, why, *arguments):
    done = box.kage("rollback", *arguments, check=False)
    if done.returncode != 1 or why not in done.stderr:
        raise Failed(f"status {done.returncode}, {done.stderr!r}, must be refused because of {why!r}")


def shape(pid):
    """What must not grow."""
    maps = [line.split()[0] for line in read(f"/proc/{pid}/maps").splitlines()]
    return maps, descriptors_of(pid), threads_of(pid)


CHANGES = [
    "state['a'] = list(range(10000))",
    "state.clear()",
    "state['file'] = open('new', 'w').write('x')",
    "held = [open('/dev/null') for _ in range(50)]",
    "os.close(3) if os.path.exists('/proc/self/fd/3') else None",
    "threads = [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(5)]; [t.start() for t in threads]",
    "block = bytearray(30 << 20)",
    "os.chdir('/'); os.umask(0)",
    "signal.signal(signal.SIGUSR1, lambda *a: None); signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001); signal.signal(signal.SIGALRM, lambda *a: None)",
    "pair = socket.socketpair(); pair[0].send(b'x' * 1000)",
    "import xml.dom.minidom, unittest, http.client, asyncio",
    "ctypes.memset(id(state) + 16, 0, 0); del sys.modules['json']",
    "sqlite3.connect('data').execute('create table if not exists t(a)')",
    "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); os.kill(os.getpid(), signal.SIGTERM)",
]


def interpreter():
    """Whatever it does, it has not been; and nothing is left of going back."""
    with Sandbox() as box:
        python = Interpreter(box)
        python.do("state['n'] = 1")
        box.clone(python.pid)
        before = shape(python.pid)
        status = read(f"/proc/{python.pid}/status")
        for i in range(ROUNDS):
            python.do(CHANGES[i % len(CHANGES)])
            python.do(CHANGES[(i * 7 + 3) % len(CHANGES)])
            report = back(box)
            if report["pid"] != python.pid:
                raise Failed(f"told of process {report['pid']}")
            python.expect("state['n'] += 1", n=2)
            if i % 10 == 9:
                back(box)
                python.expect("pass", n=1)
        back(box)
        if shape(python.pid) != before:
            raise Failed(f"it was {before}, and is {shape(python.pid)}")
        for name in ("SigBlk", "SigCgt", "SigIgn", "Umask", "VmSize", "Seccomp"):
            now, then = ([line for line in text.splitlines() if line.startswith(name)]
                         for text in (read(f"/proc/{python.pid}/status"), status))
            if now != then:
                raise Failed(f"{then} is {now}")
        python.close()


def levels():
    """To any of several twins, forward as well; from the middle of new ones."""
    with Sandbox() as box:
        python = Interpreter(box)
        for n in range(1, 6):
            python.do(f"state['level'] = {n}; state['junk'] = {n} * [{n}]; block{n} = bytes({n} << 20)")
            box.clone(python.pid)
        for n in (5, 1, 3, 2, 5, 4, 1, 1, 5):
            back(box, f"t@{n}") if n % 2 else back(box, python.pid, "--to", n)
            python.expect("pass", level=n, junk=n * [n])
        back(box, "t@2")
        python.expect("state['level'] = 20", level=20, junk=[2, 2])
        box.clone(python.pid)
        python.do("state.clear()")
        back(box, "t")
        python.expect("pass", level=20, junk=[2, 2])
        back(box, "t@-5")
        python.expect("pass", level=1, junk=[1])
        python.close()


def unprivileged():
    """A program and a user without rights: frames cannot be seen, contents are compared."""
    if os.geteuid() != 0:
        raise Skip("machine: not root, who can become somebody else")
    with contextlib.ExitStack() as stack:
        box = stack.enter_context(Sandbox())
        # The box lies in a directory of ours, which others may not enter.
        home = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        os.chown(home, 65534, 65534)
        box.env["KAGE_RUN"] = box.env["HOME"] = home

        def become():
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        python = Interpreter(box, prepare=become)

        def run(*words):
            return subprocess.run([KAGE, *map(str, words)], env=box.env, text=True, capture_output=True,
                                  preexec_fn=become, stdin=subprocess.DEVNULL, check=False)

        def kage(*words):
            done = run(*words)
            if done.returncode != 0:
                raise Failed(f"{words}: {done.stderr}")
            return json.loads(done.stdout)
        python.do("state['n'] = 1; block = bytearray(20 << 20)")
        keeper = kage("clone", "--json", "-n", "t", python.pid)["keeper_pid"]
        box.keepers.add(keeper)
        box.hold(Process(keeper))
        for change in CHANGES[:6]:
            python.do(change)
            report = kage("rollback", "--json", "t")
            if report["pages"] > 3000:
                raise Failed(f"{report['pages']} pages were written back")
            python.expect("state['n'] += 1", n=2)
        # A thread that is gone cannot be made again without rights: a refusal, and no harm.
        python.do("t = threading.Thread(target=lambda: sys.stdin and time.sleep(0.2)); t.start()")
        kage("clone", "--json", "-n", "t", python.pid)
        python.do("t.join(); state['n'] = 3")
        done = run("rollback", "t")
        if done.returncode != 1 or "has ended since" not in done.stderr:
            raise Failed(f"of a thread that is gone: {done.stderr}")
        python.expect("pass", n=3)
        python.close()


def redis():
    if not shutil.which("redis-server"):
        raise Skip("package: redis-server")
    with Sandbox() as box:
        path = box.path("redis")
        program = box.start(["redis-server", "--port", "0", "--unixsocket", path, "--save", ""])
        client = wait_until("redis", lambda: connect(path))

        def do(line):
            client.sendall(line.encode() + b"\r\n")
            return client.recv(1000).decode().strip()
        do("set a 1")
        box.clone(program.pid)
        for i in range(10):
            do("set a 2")
            for k in range(100):
                do(f"set {i}.{k} {'x' * 1000}")
            back(box)
            if do("get a").split() != ["$1", "1"] or do("dbsize") != ":1":
                raise Failed(f"it has {do('get a')}, {do('dbsize')}")
        # Those who came later are not known to it any more.
        other = connect(path)
        other.sendall(b"ping\r\n")
        other.recv(100)
        back(box)
        other.settimeout(20)
        try:
            other.sendall(b"ping\r\n")
            said = other.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            said = b""
        if said:
            raise Failed("a connection that came later answers")
        if do("ping") != "+PONG":
            raise Failed("the one that was there does not")
        if not connect(path):
            raise Failed("nobody listens")


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(path)
    except OSError:
        s.close()
        return None
    return s


def files():
    """Written since: kept, or put back where the program has them open."""
    with Sandbox() as box:
        python = Interpreter(box)
        python.do("f = open('log', 'w+'); f.write('before\\n'); f.flush()")
        box.clone(python.pid)
        python.do("f.write('since\\n'); f.flush(); f.seek(0); f.write('B'); f.flush()")
        back(box)
        python.do("f.write('after\\n'); f.flush()")
        if box.log("log") != "Before\nafter\n":
            raise Failed(f"kept: {box.log('log')!r}")
        python.do("f.seek(0); f.truncate(); f.write('nonsense' * 1000); f.flush()")
        inode = os.stat(box.path("log")).st_ino
        back(box, "t", "--files", "restore")
        if box.log("log") != "before\n" or os.stat(box.path("log")).st_ino != inode:
            raise Failed(f"put back: {box.log('log')!r}")
        python.do("f.write('after\\n'); f.flush()")
        python.do("os.rename('log', 'other'); f.write('more'); f.flush()")
        back(box, "t", "--files", "restore")
        python.do("f.write('again\\n'); f.flush()")
        if box.log("log") != "before\nagain\n":
            raise Failed(f"put back after it was renamed: {box.log('log')!r}")
        python.close()


def children():
    with Sandbox() as box:
        python = Interpreter(box)
        box.clone(python.pid)
        python.do("child = subprocess.Popen(['sleep', '1000']); state['child'] = child.pid")
        child = python.do("pass")["child"]
        held = box.hold(Process(child))
        refused(box, f"process {child}", "t")
        python.expect("pass", child=child)
        back(box, "t", "--end-children")
        python.expect("pass")
        if held.alive():
            raise Failed("the child lives")
        if read(f"/proc/{python.pid}/task/{python.pid}/children").strip():
            raise Failed("a zombie is left")
        # One that ended by itself is no obstacle, one that was there before stays.
        python.do("subprocess.Popen(['true'])")
        wait_until("it to end", lambda: all(state_of(int(p)) == "Z" for p in read(
            f"/proc/{python.pid}/task/{python.pid}/children").split()))
        back(box)
        python.expect("pass")
        python.do("child = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE); state['child'] = 1")
        box.clone(python.pid)
        python.do("child.stdin.write(b'lost\\n'); state['x'] = 1")
        back(box)
        python.expect("child.stdin.write(b'kept\\n'); child.stdin.flush(); state['said'] = child.stdout.readline().decode()",
                      child=1, said="kept\n")
        python.do("child.stdin.close(); child.wait()")
        python.close()


def coming_and_going():
    """Threads that end and begin all the time."""
    with Sandbox() as box:
        python = Interpreter(box)
        python.do("""exec("def churn():\\n while True:\\n  t = threading.Thread(target=time.sleep, args=(0.001,)); t.start(); t.join()\\n")""")
        python.do("ts = [threading.Thread(target=churn, daemon=True) for _ in range(3)]; [t.start() for t in ts]; state['n'] = 1")
        box.clone(python.pid)
        for i in range(ROUNDS // 2):
            python.do(f"state['n'] = {i + 5}; time.sleep(0.003)")
            back(box)
            python.expect("state['alive'] = sum(t.is_alive() for t in ts)", n=1, alive=3)
        python.close()


def many_mappings():
    with Sandbox() as box:
        python = Interpreter(box)
        python.do("import mmap; m = mmap.mmap(-1, 4096 * 6000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); "
                  "base = ctypes.addressof(ctypes.c_char.from_buffer(m)); libc = ctypes.CDLL(None)")
        protect = "[libc.mprotect(ctypes.c_void_p(base + 8192 * i), 4096, {}) for i in range(3000)]"
        python.do(protect.format(1))
        box.clone(python.pid)
        before = shape(python.pid)
        if len(before[0]) < 6000:
            raise Failed(f"only {len(before[0])} mappings")
        for _ in range(3):
            python.do(protect.format(3) + "; m[::4096] = bytes(6000)")
            back(box)
            if shape(python.pid) != before:
                raise Failed("its mappings are others")
        python.expect("state['x'] = m[4096]", x=0)
        python.close()


def small_things():
    """What a descriptor has besides an offset, and ends of pairs."""
    with Sandbox() as box:
        python = Interpreter(box)
        python.do("import fcntl, select; a, b = socket.socketpair(); e = os.eventfd(1); p = select.epoll(); "
                  "p.register(e, select.EPOLLIN | select.EPOLLET); r, w = os.pipe(); os.write(w, b'kept')")
        box.clone(python.pid)
        for _ in range(3):
            python.expect("state['n'] = len(p.poll(0))", n=1)
            python.do("p.poll(0); a.shutdown(socket.SHUT_WR); os.read(r, 4); os.write(w, b'no')")
            python.do("fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid()); fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)")
            back(box)
            python.expect("pass")
            python.expect("a.send(b'x'); state['said'] = [b.recv(1).decode(), os.read(r, 9).decode()]", said=["x", "kept"])
            back(box)
        python.close()


def in_the_way():
    """What others have taken since; nothing is changed then."""
    with Sandbox() as box:
        python = Interpreter(box)
        python.do("import fcntl; os.mkdir('home'); os.chdir('home'); f = open('../locked', 'w'); fcntl.flock(f, fcntl.LOCK_EX)")
        box.clone(python.pid)
        python.do("fcntl.flock(f, fcntl.LOCK_UN); os.chdir('..'); state['since'] = 1")
        with open(box.path("locked"), "w", encoding="ascii") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            refused(box, "lock", "t")
            python.expect("pass", since=1)
        os.rename(box.path("home"), box.path("away"))
        refused(box, "working directory", "t")
        python.expect("pass", since=1)
        os.rename(box.path("away"), box.path("home"))
        back(box)
        python.expect("state['cwd'] = os.path.basename(os.getcwd())", cwd="home")
        python.close()


def stopped_in_the_middle():
    """SIGSTOP cannot be blocked: it waits for the end, or refuses."""
    with Sandbox() as box:
        python = Interpreter(box)
        box.clone(python.pid)
        done = threading.Event()

        def stop_and_go():
            while not done.is_set():
                python.process.signal(signal.SIGSTOP)
                time.sleep(0.002)
                python.process.signal(signal.SIGCONT)
                time.sleep(0.004)
        other = threading.Thread(target=stop_and_go)
        other.start()
        try:
            for i in range(ROUNDS // 2):
                python.do(f"state['i'] = {i}")
                failed = box.kage("rollback", "t", check=False)
                if failed.returncode == 0:
                    python.expect("pass")
                elif "let it go on" not in failed.stderr:
                    raise Failed(failed.stderr)
                else:
                    back_at_last(box)
        finally:
            done.set()
            other.join()
            python.process.signal(signal.SIGCONT)
        python.expect("pass")
        python.close()


def back_at_last(box):
    wait_until("a moment at which it runs", lambda: box.kage("rollback", "t", check=False).returncode == 0)


def refusals():
    with Sandbox() as box:
        python = Interpreter(box)
        refused(box, "no twin", python.pid)
        refused(box, "there are no twins", "nobody")
        box.clone(python.pid)
        refused(box, "there is no twin t@7", "t", "--to", 7)
        python.process.signal(signal.SIGSTOP)
        wait_until("it to stand", lambda: state_of(python.pid) == "T")
        refused(box, "let it go on", "t")
        python.process.signal(signal.SIGCONT)
        python.expect("pass")
        usage = box.kage("rollback", "t@1", "--to", 1, check=False)
        if usage.returncode != 2:
            raise Failed(f"a twin named twice: {usage.stderr}")
        if os.geteuid() == 0:
            python.do("os.setgroups([1234])")
            refused(box, "credentials", "t")
            python.expect("pass")
        python.process.kill()
        refused(box, "has ended", "t")
        refused(box, "no twin", python.pid)


def main():
    tap = Tap()
    tap.run("an interpreter, whatever it does", interpreter)
    tap.run("any of several twins", levels)
    tap.run("without rights", unprivileged)
    tap.run("redis and its clients", redis)
    tap.run("files that it wrote", files)
    tap.run("children", children)
    tap.run("threads that come and go", coming_and_going)
    tap.run("thousands of mappings", many_mappings)
    tap.run("owners, edges, shut ends", small_things)
    tap.run("what others have taken since", in_the_way)
    tap.run("stopped in the middle", stopped_in_the_middle)
    tap.run("refusals", refusals)
    tap.done()


if __name__ == "__main__":
    main()
