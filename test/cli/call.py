#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kage call: system calls that other programs are made to perform, as a user writes them."""

import json
import os
import re
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, KAGE, Sandbox, Tap, descriptors_of, need, read, status_of, threads_of, wait_until

# One after the other, in one program: what to write, and what kage tells of it.
CALLS = [
    (["getpid"], r"getpid\(\) = {pid}"),
    (["39"], r"getpid\(\) = {pid}"),
    (["getcwd"], r'getcwd\("{cwd}\\0", 4096\) = \d+'),
    (["getcwd", "_", "2"], r"getcwd\(_, 2\) = -1 ERANGE \(.*\)"),
    (["uname"], r'uname\({{sysname="Linux", nodename=.*}}\) = 0'),
    (["openat", "AT_FDCWD", '"notes.txt"', "O_RDWR|O_CREAT", "0600"],
     r'openat\(AT_FDCWD, "notes.txt", O_RDWR\|O_CREAT, 0600\) = 3'),
    (["write", "3", r'"a\tb\n"'], r'write\(3, "a\\tb\\n", 4\) = 4'),
    (["write", "3", 'x"00 ff 41"'], r'write\(3, x"00 ff 41", 3\) = 3'),
    (["pread64", "3", "_", "100", "0"], r'pread64\(3, "a\\tb\\n\\0\\xffA", 100, 0\) = 7'),
    (["pread64", "3", "[3]"], r'pread64\(3, "a\\tb", 3, 0\) = 3'),
    (["writev", "3", '{{"abc", 3}, {iov_len=2, iov_base="de"}}'], r"writev\(3, .*, 2\) = 5"),
    (["lseek", "3", "-5", "SEEK_END"], r"lseek\(3, -5, SEEK_END\) = 7"),
    (["read", "3"], r'read\(3, "abcde", 4096\) = 5'),
    (["fstat", "3"], r"fstat\(3, {{st_dev=.*, st_mode=0100600, .*st_size=12, .*}}\) = 0"),
    (["fcntl", "3", "F_GETFL"], r"fcntl\(3, F_GETFL, 0\) = \d+"),
    (["dup2", "3", "17"], r"dup2\(3, 17\) = 17"),
    (["close", "17"], r"close\(17\) = 0"),
    (["close", "17"], r"close\(17\) = -1 EBADF \(Bad file descriptor\)"),
    (["close", "3"], r"close\(3\) = 0"),
    (["unlink", '"notes.txt"'], r'unlink\("notes.txt"\) = 0'),
    (["pipe2"], r"pipe2\({{3, 4}}, 0\) = 0"),
    (["poll", "{{fd=3, events=POLLIN}, {4, POLLOUT}}", "_", "0"],
     r"poll\({{{{fd=3, events=POLLIN, revents=0}}, {{fd=4, events=POLLOUT, revents=POLLOUT}}}}, 2, 0\) = 1"),
    (["close", "3"], r"close\(3\) = 0"),
    (["close", "4"], r"close\(4\) = 0"),
    (["socket", "AF_UNIX", "SOCK_STREAM"], r"socket\(AF_UNIX, SOCK_STREAM, IPPROTO_IP\) = 3"),
    (["bind", "3", "unix:@kage-test-{pid}"], r"bind\(3, unix:@kage-test-{pid}, \d+\) = 0"),
    (["getsockname", "3"], r"getsockname\(3, unix:@kage-test-{pid}, \d+\) = 0"),
    (["close", "3"], r"close\(3\) = 0"),
    (["socket", "AF_INET", "SOCK_DGRAM|SOCK_CLOEXEC"], r"socket\(AF_INET, SOCK_DGRAM\|SOCK_CLOEXEC, IPPROTO_IP\) = 3"),
    (["bind", "3", "inet:127.0.0.1:0"], r"bind\(3, inet:127.0.0.1:0, 16\) = 0"),
    (["getsockname", "3"], r"getsockname\(3, inet:127.0.0.1:\d+, 16\) = 0"),
    (["close", "3"], r"close\(3\) = 0"),
    (["clock_gettime", "CLOCK_MONOTONIC"], r"clock_gettime\(CLOCK_MONOTONIC, {{tv_sec=\d+, tv_nsec=\d+}}\) = 0"),
    (["prlimit64", "0", "RLIMIT_NOFILE", "NULL"], r"prlimit64\(0, RLIMIT_NOFILE, NULL, {{rlim_cur=.*}}\) = 0"),
    (["nanosleep", "{0, 1000000}"], r"nanosleep\({{0, 1000000}}, .*\) = 0"),
    (["rt_sigprocmask", "SIG_BLOCK", "{SIGUSR1_BIT}"], r"rt_sigprocmask\(SIG_BLOCK, .*, {{signals=0}}, 8\) = 0"),
    (["rt_sigprocmask", "SIG_UNBLOCK", "{SIGUSR1_BIT}"],
     r"rt_sigprocmask\(SIG_UNBLOCK, .*, {{signals=SIGUSR1_BIT}}, 8\) = 0"),
    (["mmap", "NULL", "8192", "PROT_READ|PROT_WRITE", "MAP_PRIVATE|MAP_ANONYMOUS", "-1", "0"],
     r"mmap\(NULL, 8192, PROT_READ\|PROT_WRITE, MAP_PRIVATE\|MAP_ANONYMOUS, -1, 0\) = 0x[0-9a-f]+"),
    (["getsockname", "0"], r"getsockname\(0, _, .*\) = -1 ENOTSOCK \(.*\)"),
]

# What cannot be: the message names the way out.
WRONG = [
    (["nosuch"], "no system call 'nosuch' is known; write its number"),
    (["openat", "AT_FDCWD", '"x'], "closing \" is missing"),
    (["openat", "AT_FDCWT", '"x"'], "no constant 'AT_FDCWT' is known; write its value"),
    (["read", "0", "[10]", "11"], "has 10 bytes, and the call is told of 11"),
    (["close", "1", "2"], "has 1 arguments, not 2"),
    (["nanosleep", "{1, 2, 3}"], "has fewer fields"),
    (["nanosleep", "{tv_min=1}"], "no field of that name"),
    (["fork"], "cannot be made from outside"),
    (["rt_sigreturn"], "cannot be made from outside"),
]


def shape(pid):
    """What a call must leave as it was."""
    status = status_of(pid)
    maps = [re.sub(r" +", " ", line) for line in read(f"/proc/{pid}/maps").splitlines()]
    return maps, descriptors_of(pid), [status[k] for k in ("SigBlk", "SigIgn", "SigCgt", "TracerPid", "Threads")]


def sleeps(p):
    """In clock_nanosleep(2), or going on with it."""
    return read(f"/proc/{p.pid}/syscall").split()[0] in ("230", "219")


def calls():
    with Sandbox("call") as box:
        p = box.start(["sleep", "1000"], cwd=box.path("."))
        wait_until("it to sleep", lambda: sleeps(p))
        before = shape(p.pid)
        for words, wanted in CALLS:
            words = [word.replace("{pid}", str(p.pid)) for word in words]
            said = box.kage("call", p.pid, *words, check=False).stdout.strip()
            wanted = wanted.format(pid=p.pid, cwd=re.escape(os.path.realpath(box.path("."))))
            if not re.fullmatch(wanted, said):
                raise Failed(f"{words}: {said}, not {wanted}")
            mapped = re.search(r"mmap.* = (0x[0-9a-f]+)", said)
            if mapped:
                box.kage("call", p.pid, "munmap", mapped.group(1), "8192")
        if shape(p.pid) != before:
            raise Failed(f"left behind: {before} -> {shape(p.pid)}")
        wait_until("it to sleep on", lambda: sleeps(p))


def wrong():
    with Sandbox("call") as box:
        p = box.start(["sleep", "1000"])
        for words, wanted in WRONG:
            done = box.kage("call", p.pid, *words, check=False)
            if done.returncode == 0 or wanted not in done.stderr or done.stderr.count("\n") != 1:
                raise Failed(f"{words}: status {done.returncode}, {done.stderr}")
        done = box.kage("call", "--thread", "1", p.pid, "getpid", check=False)
        if "has no thread 1" not in done.stderr:
            raise Failed(done.stderr)


def as_json():
    with Sandbox("call") as box:
        p = box.start(["sleep", "1000"])
        o = json.loads(box.kage("call", "--json", p.pid, "readlink", '"/proc/self/comm"', check=False).stdout)
        if (o["call"], o["result"], o["errno"], o["pid"]) != ("readlink", -1, "EINVAL", p.pid):
            raise Failed(o)
        o = json.loads(box.kage("call", "--json", p.pid, "getcwd").stdout)
        if bytes.fromhex(o["arguments"][0]["bytes"]).rstrip(b"\0").decode() != os.readlink(f"/proc/{p.pid}/cwd"):
            raise Failed(o)


THREADS = """
import threading, time
count = 0
def work():
    global count
    while True:
        count += 1
        open("count", "w").write(str(count))
        time.sleep(0.001)
threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""


def busy(box):
    p = box.start(["python3", "-c", THREADS], cwd=box.path("."))
    box.wait_log("ready", process=p)
    return p


def grows(box, what):
    def count():
        return int(read(box.path("count")) or 0)
    before = count()
    wait_until(what, lambda: count() > before + 20)


def blocked(p, tid):
    """In the call pause(2)."""
    return read(f"/proc/{p.pid}/task/{tid}/syscall").split()[0] == "34"


def blocks():
    """While a call blocks, the other threads go on; it can be given up by time and by a signal."""
    with Sandbox("call") as box:
        p = busy(box)
        done = box.kage("call", "--timeout", "200ms", "--thread", p.pid, p.pid, "pause", check=False)
        if "EINTR" not in done.stdout or "given up" not in done.stdout or done.returncode != 1:
            raise Failed(done)
        for number in (signal.SIGTERM, signal.SIGKILL):
            kage = box.start([KAGE, "call", "--thread", str(p.pid), str(p.pid), "pause"], log="kage.log")
            wait_until("the call to block", lambda: blocked(p, p.pid))
            grows(box, "the other thread to go on beside it")
            kage.signal(number)
            if kage.wait() != -number:
                raise Failed(f"status {kage.popen.returncode}")
            wait_until("the call to be given up", lambda: not blocked(p, p.pid))
            grows(box, "the other thread to go on")
        if status_of(p.pid)["TracerPid"] != "0" or status_of(p.pid)["SigBlk"] != "0" * 16:
            raise Failed(status_of(p.pid))
        box.kage("call", p.pid, "getpid")


def by_thread():
    with Sandbox("call") as box:
        p = busy(box)
        for tid in threads_of(p.pid):
            said = box.kage("call", "--thread", tid, p.pid, "gettid").stdout.strip()
            if said != f"gettid() = {tid}":
                raise Failed(f"thread {tid}: {said}")
        grows(box, "both threads to go on")


def in_namespace():
    """Of a process that is number 1 of its own PID namespace."""
    with Sandbox("call") as box:
        need("unshare")
        outer = box.start(["unshare", "--pid", "--fork", "--kill-child", "python3", "-c", THREADS], cwd=box.path("."))
        box.wait_log("ready", process=outer)
        pid = int(read(f"/proc/{outer.pid}/task/{outer.pid}/children"))
        for tid in threads_of(pid):
            said = box.kage("call", "--thread", tid, pid, "gettid", patience=20).stdout.strip()
            number = status_of(pid, tid)["NSpid"].split()[-1]
            if said != f"gettid() = {number}" or number == str(tid):
                raise Failed(f"thread {tid}: {said}")
        grows(box, "both threads to go on")
        if status_of(pid)["TracerPid"] != "0":
            raise Failed(status_of(pid))


def ends():
    with Sandbox("call") as box:
        p = box.start(["sleep", "1000"])
        said = box.kage("call", p.pid, "exit_group", "7").stdout
        if p.wait() != 7 or "it has ended" not in said:
            raise Failed(f"{p.popen.returncode}: {said}")


def executes():
    """It becomes another program, with its threads, mask and descriptors as execve(2) has it."""
    with Sandbox("call") as box:
        p = busy(box)
        done = box.kage("call", p.pid, "execve", '"/nonexistent"', check=False)
        if "ENOENT" not in done.stdout:
            raise Failed(done)
        grows(box, "it to go on after one that failed")
        said = box.kage("call", p.pid, "execve", '"/bin/sleep"', '{"sleep", "1000"}', '{"A=b"}').stdout
        if not said.endswith(") = 0\n"):
            raise Failed(said)
        wait_until("it to sleep", lambda: sleeps(p))
        status = status_of(p.pid)
        if (status["Name"], status["Threads"], status["TracerPid"], status["SigBlk"]) != ("sleep", "1", "0", "0" * 16):
            raise Failed(status)
        if read(f"/proc/{p.pid}/environ") != "A=b\0":
            raise Failed(read(f"/proc/{p.pid}/environ"))
        box.kage("call", p.pid, "getpid")


HANDLES_ALL = """
import signal
for n in range(1, 65):
    try:
        signal.signal(n, lambda *_: print("handled", _, flush=True))
    except (OSError, ValueError):
        pass
print("ready", flush=True)
while True:
    signal.pause()
"""


def handles_all():
    """A program that would notice every signal."""
    with Sandbox("call") as box:
        p = box.start(["python3", "-c", HANDLES_ALL])
        box.wait_log("ready", process=p)
        for _ in range(3):
            if box.kage("call", p.pid, "getpid").stdout != f"getpid() = {p.pid}\n":
                raise Failed("no")
        done = box.kage("call", "--timeout", "100ms", p.pid, "nanosleep", "{3600, 0}", check=False)
        if "given up" not in done.stdout or not blocked(p, p.pid):
            raise Failed(f"{done}, then in {read(f'/proc/{p.pid}/syscall')}")
        if "handled" in box.log():
            raise Failed(box.log())


FILTERED = """
import ctypes, struct, time
libc = ctypes.CDLL(None, use_errno=True)
# Everything but mkdir(2) is allowed.
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 83), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in code))
fprog = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(program))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, fprog, 0, 0) == 0
print("ready", flush=True)
while True:
    time.sleep(1)
"""


def filtered():
    with Sandbox("call") as box:
        p = box.start(["python3", "-c", FILTERED], cwd=box.path("."))
        box.wait_log("ready", process=p)
        box.kage("call", p.pid, "getpid")
        done = box.kage("call", p.pid, "mkdir", '"d"', check=False)
        if done.returncode == 0 or "mkdir" not in done.stderr or not p.alive() or os.path.exists(box.path("d")):
            raise Failed(done)


def main():
    tap = Tap()
    tap.run("calls as they are written, and nothing left behind", calls)
    tap.run("what is wrong is said in a line", wrong)
    tap.run("as JSON", as_json)
    tap.run("a call that blocks", blocks)
    tap.run("in each thread", by_thread)
    tap.run("in a PID namespace", in_namespace)
    tap.run("a call that ends the process", ends)
    tap.run("another program", executes)
    tap.run("a program that handles every signal", handles_all)
    tap.run("a program whose filter forbids it", filtered)
    tap.done()


if __name__ == "__main__":
    main()
