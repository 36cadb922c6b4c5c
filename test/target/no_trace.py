#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What `kage snap` leaves behind in its target: nothing.

Everything that can be seen of a process from outside is written down before and after images are
taken, and must be equal: maps and their flags, private pages of text and vDSO, the vDSO's bytes,
descriptors and what /proc tells of them, signal masks and queues of every thread, children, timers,
size of the page tables, where sleeping threads sleep. What changes by itself (in two looks before
the first image) is left out. The sentinel (sentinel.c) looks from inside.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (Failed, Sandbox, Skip, Tap, ROOT, need, read, read_or, state_of, status_of,
                      threads_of, wait_until)

SNAPS = 5
STATUS = ("Umask", "Uid", "Gid", "FDSize", "Groups", "Threads", "SigQ", "SigPnd", "ShdPnd", "SigBlk",
          "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
          "Seccomp", "Seccomp_filters", "TracerPid", "VmPTE", "VmLck", "VmPin", "VmSize", "VmSwap",
          "Cpus_allowed_list", "THP_enabled", "CoreDumping")


def smaps_of(pid):
    """Yields (first line, {field: value}) of each mapping."""
    head, fields = None, {}
    for line in read(f"/proc/{pid}/smaps").splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            if head:
                yield head, fields
            head, fields = line, {}
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    if head:
        yield head, fields


def memory(pid, head):
    start, end = (int(x, 16) for x in head.split()[0].split("-"))
    try:
        with open(f"/proc/{pid}/mem", "rb") as f:
            f.seek(start)
            return hashlib.sha256(f.read(end - start)).hexdigest()
    except OSError as error:
        return str(error)


def look(pid):
    """All that is compared: a dictionary of texts."""
    seen = {}
    for n, (head, fields) in enumerate(smaps_of(pid)):
        where = f"mapping {head}"
        seen[where] = f"#{n} {fields.get('VmFlags')}"
        if "[vdso]" in head or re.search(r" r-xp .* /", head):
            seen[where + " private"] = (fields.get("Private_Dirty"), fields.get("Anonymous"))
        if "[vdso]" in head:
            seen[where + " bytes"] = memory(pid, head)
    for fd in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        try:
            seen[f"fd {fd}"] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        info = read_or(f"/proc/{pid}/fdinfo/{fd}")
        seen[f"fdinfo {fd}"] = "\n".join(l for l in info.splitlines()
                                          if not l.startswith(("it_value", "ticks")))
    for tid in threads_of(pid):
        status = status_of(pid, tid)
        for field in STATUS + ("Name", "State"):
            if field in status and (field != "State" or status[field][0] in "tT"):
                seen[f"thread {tid} {field}"] = status[field]
        seen[f"thread {tid} children"] = read_or(f"/proc/{pid}/task/{tid}/children")
        call = read_or(f"/proc/{pid}/task/{tid}/syscall").split()
        if len(call) == 9:  # asleep: where; the number may have become restart_syscall's
            seen[f"thread {tid} sp and ip"] = call[-2:]
    seen["timers"] = read_or(f"/proc/{pid}/timers")
    seen["limits"] = read_or(f"/proc/{pid}/limits")
    for name in ("oom_score_adj", "personality", "coredump_filter", "environ", "cmdline", "comm",
                 "timerslack_ns"):
        seen[name] = read_or(f"/proc/{pid}/{name}")
    for name in ("cwd", "root", "exe"):
        seen[name] = os.readlink(f"/proc/{pid}/{name}")
    return seen


def differences(a, b, leave_out=()):
    return [f"{key}: {a.get(key, 'not there')} -> {b.get(key, 'not there')}"
            for key in sorted(set(a) | set(b)) if a.get(key) != b.get(key) and key not in leave_out]


def quiet_look(pid):
    """A first look, and the keys that change by themselves."""
    first = look(pid)
    changing = set()
    for _ in range(6):
        time.sleep(0.1)
        now = look(pid)
        changing |= {k for k in set(first) | set(now) if first.get(k) != now.get(k)}
    return now, changing


# What a runtime does whenever it likes: a service thread sleeps elsewhere, the C library's heaps grow (private memory
# without a name, not executable).
SLEEPS = r"thread \d+ sp and ip:"
GROWS = SLEEPS + r"|mapping \S+ (rw-p|---p) 00000000 00:00 0 :"


def images_leave_no_trace(box, pid, refusable=False, own=None):
    before, changing = quiet_look(pid)
    for _ in range(SNAPS):
        done = box.kage("snap", "-n", "t", pid, check=False)
        if done.returncode != 0 and not refusable:
            raise Failed(f"kage snap: {done.stderr.strip()}")
    after = look(pid)
    found = differences(before, after, changing)
    if found:
        # A runtime may have done something of its own just then. What we left stays for ever, and
        # what comes and goes by itself does so again without us.
        again, changing2 = quiet_look(pid)
        found = [f for f in differences(before, again, changing | changing2)
                 if f in found and not (own and re.match(own, f))]
    if found:
        raise Failed("\n".join(found[:40]))


def sentinel(box, *build, args=()):
    program = box.path("sentinel")
    source = os.path.join(ROOT, "test/target/sentinel.c")
    subprocess.run([*build, "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-g", "-w",
                    "-I" + os.path.join(ROOT, "test"), source, "-o", program, "-pthread"], check=True)
    process = box.start([program, *args])
    box.wait_log("ready", process=process)
    return process


def end_sentinel(box, process):
    box.write("go", "")
    status = process.wait()
    if status != 0 or "PASS" not in box.log():
        raise Failed(f"status {status}: {box.log()}")


def of_build(*build, args=(), rung=None, track=None):
    def test():
        need(build[0])
        with Sandbox() as box:
            if rung is not None:
                box.env["KAGE_RUNG"] = str(rung)
            if track is not None:
                box.env["KAGE_TRACK"] = track
            process = sentinel(box, *build, args=args)
            images_leave_no_trace(box, process.pid)
            end_sentinel(box, process)
    return test


def stripped():
    with Sandbox() as box:
        process = sentinel(box, "gcc", "-s", "-O2", "-fomit-frame-pointer")
        images_leave_no_trace(box, process.pid)
        end_sentinel(box, process)


def stopped():
    with Sandbox() as box:
        process = sentinel(box, "gcc")
        process.signal(signal.SIGSTOP)
        wait_until("it to stop", lambda: all(state_of(process.pid, t) == "T"
                                             for t in threads_of(process.pid)))
        images_leave_no_trace(box, process.pid)
        if not all(state_of(process.pid, t) == "T" for t in threads_of(process.pid)):
            raise Failed("a stopped program does not stand any more")
        process.signal(signal.SIGCONT)
        end_sentinel(box, process)


GO = """
package main
import ("fmt"; "os"; "time")
func main() {
	f, _ := os.Create("go.data")
	defer f.Close()
	for i := 0; i < 10; i++ {
		go func(n int) { x := n; for { x = x*7 + 1; time.Sleep(time.Second) } }(i)
	}
	sum := 0
	fmt.Println("ready")
	for {
		if _, e := os.Stat("go"); e == nil { break }
		s := 0
		for i := 0; i < 1000; i++ { s += i }
		if s != 499500 { fmt.Println("FAIL", s); os.Exit(1) }
		sum += s
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Println("PASS")
}
"""


def go():
    need("go")
    with Sandbox() as box:
        box.write("main.go", GO)
        subprocess.run(["go", "build", "-o", box.path("program"), box.path("main.go")], check=True,
                       env=dict(os.environ, GOCACHE=os.environ.get("GOCACHE") or box.path("cache"),
                                GO111MODULE="off", HOME=box.dir), stderr=subprocess.PIPE)
        process = box.start([box.path("program")])
        box.wait_log("ready", process=process)
        images_leave_no_trace(box, process.pid, own=SLEEPS)
        end_sentinel(box, process)


JAVA = """
public class Main {
	public static void main(String[] args) throws Exception {
		System.out.println("ready");
		long sum = 0;
		while (!new java.io.File("go").exists()) {
			for (int i = 0; i < 1000; i++) sum += i;
			if (sum % 499500 != 0) { System.out.println("FAIL " + sum); System.exit(1); }
			Thread.sleep(20);
		}
		System.out.println("PASS");
	}
}
"""


def java():
    need("java", "javac")
    with Sandbox() as box:
        subprocess.run(["javac", "-d", box.dir, box.write("Main.java", JAVA)], check=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process = box.start(["java", "-Xmx64m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "Main"])
        box.wait_log("ready", process=process)
        images_leave_no_trace(box, process.pid, own=GROWS)
        end_sentinel(box, process)


def with_filter():
    with Sandbox() as box:
        from kagetest import helper
        for words in ([], ["tight"]):
            for name in ("go", "log"):
                if os.path.exists(box.path(name)):
                    os.unlink(box.path(name))
            process = box.start([helper("kind/seccomp"), *words])
            box.wait_log("ready", process=process)
            images_leave_no_trace(box, process.pid, refusable=bool(words))
            end_sentinel(box, process)


def refused(box, pid, tracer):
    done = box.kage("snap", "-n", "t", pid, check=False)
    if done.returncode != 1:
        raise Failed(f"status {done.returncode} {done.stdout} {done.stderr}")
    for word in (tracer.split()[0], tracer.split()[1]):
        if word not in done.stderr:
            raise Failed(f"the refusal does not name {tracer}: {done.stderr.strip()}")
    if len(done.stderr.strip().splitlines()) != 1:
        raise Failed(f"more than one line: {done.stderr}")


def under_strace():
    need("strace")
    with Sandbox() as box:
        process = sentinel(box, "gcc", args=["quiet"])
        tracer = box.start(["strace", "-f", "-o", box.path("trace"), "-p", str(process.pid)],
                           log="strace.log")
        wait_until("strace", lambda: status_of(process.pid).get("TracerPid") == str(tracer.pid))
        refused(box, process.pid, f"strace {tracer.pid}")
        tracer.signal(signal.SIGINT)
        tracer.wait()
        box.write("go", "")
        process.wait()


def under_gdb():
    need("gdb")
    with Sandbox() as box:
        process = sentinel(box, "gcc", args=["quiet"])
        tracer = box.start(["gdb", "-nx", "--batch", "-p", str(process.pid), "-ex",
                            "shell touch attached; while [ ! -e leave ]; do sleep 0.05; done"],
                           log="gdb.log")
        wait_until("gdb", lambda: os.path.exists(box.path("attached")))
        refused(box, process.pid, f"gdb {tracer.pid}")
        if state_of(process.pid) != "t":
            raise Failed("gdb's program runs, though gdb holds it")
        box.write("leave", "")
        tracer.wait()
        box.write("go", "")
        process.wait()


def main():
    tap = Tap()
    tap.run("position-independent", of_build("gcc", "-pie", "-fPIE"))
    tap.run("not position-independent", of_build("gcc", "-no-pie", "-fno-pie"))
    tap.run("static", of_build("gcc", "-static"))
    tap.run("static, musl", of_build("musl-gcc", "-static"))
    tap.run("asleep in all threads", of_build("gcc", args=["quiet"]))
    for rung, how in ((1, "all threads stopped"), (2, "asked by system calls")):
        tap.run(f"position-independent, {how}", of_build("gcc", "-pie", "-fPIE", rung=rung))
        tap.run(f"asleep in all threads, {how}", of_build("gcc", args=["quiet"], rung=rung))
    tap.run("forked", of_build("gcc", "-pie", "-fPIE", track="twin"))
    tap.run("asleep in all threads, forked", of_build("gcc", args=["quiet"], track="twin"))
    tap.run("stripped", stripped)
    tap.run("stopped by SIGSTOP, and stays so", stopped)
    tap.run("Go", go)
    tap.run("Java", java)
    tap.run("under filters of its own", with_filter)
    tap.run("refused under strace, which is named", under_strace)
    tap.run("refused under gdb, which is named", under_gdb)
    tap.done()


if __name__ == "__main__":
    main()
