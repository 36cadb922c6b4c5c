# SPDX-License-Identifier: Apache-2.0
"""Portraits of a program that stands still: what the kernel shows of it in /proc, every byte of its
memory, and what gdb sees. Portraits of the same instant must be equal, one made before the program was
killed, the other in its new life; and gdb must see in the image's core what it saw in the process.
None of the three judges is ours.
"""

import ctypes
import json
import os
import re
import signal
import struct
import subprocess
import zlib

from kagetest import (HERE, Failed, descriptors_of, need, read, read_or, state_of, status_of, threads_of,
                      wait_until)

PAGE = 4096
SHOWN = 12  # differences that are told

# --- standing still ------------------------------------------------------------------------------


def stands(process):
    """Waits until every thread stands stopped."""
    wait_until(f"process {process.pid} to stand", lambda: process.alive() and all(
        state_of(process.pid, t) == "T" for t in threads_of(process.pid)))


def goes_on(process):
    process.signal(signal.SIGCONT)


# --- what /proc shows ----------------------------------------------------------------------------

STATUS = ("Umask", "Tgid", "Uid", "Gid", "Groups", "ShdPnd", "SigIgn", "SigCgt", "Threads",
          "THP_enabled")
THREAD_STATUS = ("SigBlk", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
                 "NoNewPrivs", "Seccomp", "Cpus_allowed_list")
FILES = ("cmdline", "environ", "auxv", "limits", "coredump_filter", "personality",
         "oom_score_adj", "timers", "timerslack_ns")
# New memory is soft-dirty; memory that was once writable goes on being accounted for.
FLAGS_OF_NO_MEANING = {"sd", "ac"}
# Of descriptors, what fcntl(2) or the kernel goes by later; the rest has had its meaning when it was opened.
OPEN_FLAGS = (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC | os.O_DIRECT | os.O_ASYNC |
              os.O_NOATIME | os.O_CLOEXEC | os.O_PATH)


def without_number(path):
    """A file that has no name any more is made without one, and shown by its inode."""
    return re.sub(r"/[^/]* \(deleted\)$", "/# (deleted)", path)


def signals_of_timers(pid):
    """As a mask of /proc: they come whenever they like, even while the program stands."""
    numbers = [signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF]
    numbers += map(int, re.findall(r"^signal: (\d+)/", read_or(f"/proc/{pid}/timers"), re.M))
    return sum({1 << number - 1 for number in numbers})


def of_descriptor(pid, fd, link, names):
    """Where it leads, and the lines of fdinfo that do not change by themselves. NAMES gives objects
    without a name the number under which they were seen first."""
    link = without_number(link)
    if re.match(r"^[a-z]+:\[\d+\]$", link):
        link = link.partition(":")[0] + " of " + str(names.setdefault(link, fd))
    lines, watched = [link], []
    for line in read(f"/proc/{pid}/fdinfo/{fd}").splitlines():
        key = line.partition(":")[0]
        if key in ("pos", "eventfd-count", "sigmask", "clockid"):
            lines.append(line)
        elif key == "flags":
            lines.append(f"flags {int(line.split()[1], 8) & OPEN_FLAGS:o}")
        elif key == "tfd":
            watched.append(" ".join(line.split()[:6]))
        elif line.startswith("inotify"):
            watched.append(re.sub(r" (ino|sdev|fhandle[^ ]*|f_handle):\S+", "", line))
    return "; ".join(lines + sorted(watched))


def of_mappings(pid):
    """[start, end, offset, all else in words]; neighbours that could as well be one are one."""
    found = []
    for line in read(f"/proc/{pid}/smaps").splitlines():
        fields = line.split(None, 5)
        if re.match(r"^[0-9a-f]+-[0-9a-f]+$", fields[0]):
            start, end = (int(a, 16) for a in fields[0].split("-"))
            found.append([start, end, int(fields[2], 16),
                          without_number(" ".join(fields[1:2] + fields[5:]))])
        elif fields[0] == "VmFlags:":
            flags = set(line.split()[1:]) - FLAGS_OF_NO_MEANING
            found[-1][3] += " [" + " ".join(sorted(flags)) + "]"
        elif fields[0] in ("ProtectionKey:", "KernelPageSize:"):
            found[-1][3] += f" {line}"
    joined = found[:1]
    for start, end, offset, what in found[1:]:
        last = joined[-1]
        goes_on = offset == last[2] + start - last[0] if "/" in what else offset == 0
        if start == last[1] and what == last[3] and goes_on:
            last[1] = end
        else:
            joined.append([start, end, offset, what])
    return {f"mapping {start:x}-{end:x}": f"{offset:x} {what}" for start, end, offset, what in joined}


def robust_list(tid):
    """The list of mutexes that the kernel gives free when the thread ends: head and size."""
    head, size = ctypes.c_uint64(), ctypes.c_uint64()
    ctypes.CDLL(None).syscall(274, tid, ctypes.byref(head), ctypes.byref(size))
    return head.value, size.value


def of_threads(pid):
    seen = {}
    for tid in threads_of(pid):
        status = status_of(pid, tid)
        for key in THREAD_STATUS:
            seen[f"thread {tid} {key}"] = status.get(key)
        seen[f"thread {tid} SigPnd"] = int(status["SigPnd"], 16) & ~signals_of_timers(pid)
        seen[f"thread {tid} name"] = read(f"/proc/{pid}/task/{tid}/comm")
        seen[f"thread {tid} robust list"] = robust_list(tid)
        seen[f"thread {tid} scheduling"] = (os.sched_getscheduler(tid), os.getpriority(
            os.PRIO_PROCESS, tid), os.sched_getparam(tid).sched_priority)
    return seen


def shown_by_kernel(pid):
    status = status_of(pid)
    seen = {key: status.get(key) for key in STATUS}
    seen["ShdPnd"] = int(seen["ShdPnd"], 16) & ~signals_of_timers(pid)
    for key in ("cwd", "root", "exe"):
        seen[key] = os.readlink(f"/proc/{pid}/{key}")
    for key in FILES:
        seen[key] = read_or(f"/proc/{pid}/{key}", None)
    names = {}
    for fd, link in sorted(descriptors_of(pid).items()):
        seen[f"descriptor {fd}"] = of_descriptor(pid, fd, link, names)
    seen.update(of_mappings(pid))
    seen.update(of_threads(pid))
    return seen


# --- memory --------------------------------------------------------------------------------------

PRESENT = 3 << 62  # or swapped (Documentation/admin-guide/mm/pagemap.rst)
KERNELS = ("[vvar", "[vdso]", "[vsyscall]")


def pages_with_content(pagemap, start, end, is_file):
    """Addresses of pages that may hold something: of files all, else those that are there."""
    if is_file:
        return list(range(start, end, PAGE))
    n = (end - start) // PAGE
    found = []
    for first in range(0, n, 1 << 16):
        raw = os.pread(pagemap, 8 * min(1 << 16, n - first), (start // PAGE + first) * 8)
        if raw.count(0) == len(raw):
            continue
        found += [start + (first + i) * PAGE for i, (entry,) in enumerate(struct.iter_unpack("Q", raw))
                  if entry & PRESENT]
    return found


def memory(pid):
    """{address of a page: its bytes} of all that is not zero; pages of files, which are many and equal,
    as checksums."""
    content = {}
    mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    for line in read(f"/proc/{pid}/maps").splitlines():
        fields = line.split(None, 5)
        path = fields[5] if len(fields) > 5 else ""
        if path.startswith(KERNELS):
            continue
        start, end = (int(a, 16) for a in fields[0].split("-"))
        is_file = path.startswith("/")
        for at in pages_with_content(pagemap, start, end, is_file):
            try:
                page = os.pread(mem, PAGE, at)
            except OSError:  # behind the end of a file, a guard
                page = b""
            if page.count(0) != len(page):
                content[at] = page if "w" in fields[1] else zlib.crc32(page)
    os.close(mem)
    os.close(pagemap)
    return content


def only_processor_number(a, b):
    """Whether two pages differ only in areas where the kernel notes on which processor a thread runs
    (struct rseq: cpu_id_start, cpu_id, …, node_id, mm_cid), which are 32 bytes, aligned."""
    for at in range(0, PAGE, 32):
        x, y = a[at:at + 32], b[at:at + 32]
        if x == y:
            continue
        for area in (x, y):
            start, cpu, _, _, node, number = struct.unpack("IIQIII", area[:28])
            if start != cpu or max(cpu, node, number) >= os.cpu_count() + 64:
                return False
        if x[8:20] != y[8:20] or x[28:] != y[28:]:
            return False
    return True


def without(page, at, ranges):
    """The page at address AT, zero in those ranges of addresses that lie in it."""
    page = bytearray(page)
    for start, end in ranges:
        for i in range(max(start, at), min(end, at + PAGE)):
            page[i - at] = 0
    return bytes(page)


def compare_memory(before, after, but):
    """What differs, in words; BUT for some ranges of addresses."""
    zero = bytes(PAGE)
    told = []
    for at in sorted(before.keys() | after.keys()):
        a, b = before.get(at, zero), after.get(at, zero)
        if a == b:
            continue
        if isinstance(a, bytes) and isinstance(b, bytes):
            a, b = without(a, at, but), without(b, at, but)
            if only_processor_number(a, b):
                continue
        told.append(f"page {at:x} differs")
    return told


# --- what gdb sees -------------------------------------------------------------------------------

# What an interrupted call returns: ERESTARTSYS and its kin, EINTR.
RESTARTS = {-n % (1 << 64) for n in (512, 513, 514, 516, 4)}
# gdb 13 misreads the other ones in live processes on some processors.
GENERAL = ("rax", "rbx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r12", "r13", "r14",
           "r15", "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base", "mxcsr",
           "fctrl", "fstat", *(f"st{i}" for i in range(8)), *(f"ymm{i}" for i in range(16)))
# restart_syscall stands for one of poll, nanosleep, futex and clock_nanosleep.
RESTART_SYSCALL, RESTARTED = 219, (7, 35, 202, 230)
TIMED_OUT = (0, -110 % (1 << 64))
# Calls whose time is up to a register when they are made again: select, pselect6, ppoll, sigtimedwait,
# semtimedop, epoll_wait, epoll_pwait, epoll_pwait2.
TIME_IN = {23: "r8", 270: "r8", 271: "rdx", 128: "rdx", 220: "r10", 232: "r10", 281: "r10", 441: "r10"}
# System calls that write the time which is left when they are interrupted, and where the argument is.
TIME_LEFT = {35: "rsi", 230: "r10", 23: "r8", 270: "r8", 271: "rdx"}


def settle(thread):
    """A call that was interrupted and will be made again looks as if it was about to be made."""
    registers = thread["registers"]
    call, ip = registers.pop("orig_rax"), registers["rip"]
    if call < 1 << 63 and registers["rax"] in RESTARTS:
        registers["rax"] = call
        registers["rip"] = ip - 2
        for frame in thread["frames"]:  # those that were inlined have the same
            frame[0] -= 2 * (frame[0] == ip)


def seen_by_gdb(box, *what):
    need("gdb")
    out = box.path("gdb.json")
    done = subprocess.run(["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off",
                           "-iex", "set auto-load off", *map(str, what), "-x",
                           os.path.join(HERE, "gdb_view.py")], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", env=dict(box.env, GDB_VIEW=out), check=False)
    try:
        view = json.loads(read(out))
    except (OSError, ValueError):
        raise Failed(f"gdb {' '.join(map(str, what))}: {done.stdout[-2000:]}") from None
    os.unlink(out)
    for thread in view.values():
        settle(thread)
    return view


def written_when_interrupted(view):
    """Addresses at which threads are told how much of their sleep was left, which is never the same."""
    ranges = []
    for thread in view.values():
        registers = thread["registers"]
        at = registers.get(TIME_LEFT.get(registers["rax"]), 0)
        if at:
            ranges.append((at, at + 16))
    return ranges


def allow_time_out(a, b):
    """What is left of a thread's time is less in another life. If it was over before the thread stood
    again, that has returned from its call. And the call that restart_syscall stands for may be named."""
    x, y = a["registers"], b["registers"]
    if x["rax"] in TIME_IN and y["rax"] == x["rax"]:
        y[TIME_IN[x["rax"]]] = x[TIME_IN[x["rax"]]]
    if x["rax"] not in (RESTART_SYSCALL, *RESTARTED):
        return
    if y["rip"] == x["rip"] + 2 and y["rax"] in TIMED_OUT:
        for frame in b["frames"]:
            frame[0] -= 2 * (frame[0] == y["rip"])
        y["rip"] -= 2
        y["rax"] = x["rax"]
    if x["rax"] == RESTART_SYSCALL and y["rax"] in RESTARTED:
        y["rax"] = RESTART_SYSCALL


def compare_views(before, after, registers=None):
    """What differs, in words; in all REGISTERS of BEFORE or in some."""
    told = []
    if before.keys() != after.keys():
        told.append(f"threads {sorted(before)} are {sorted(after)}")
    for tid in sorted(before.keys() & after.keys()):
        a, b = before[tid], after[tid]
        allow_time_out(a, b)
        if a["frames"] != b["frames"]:
            told.append(f"thread {tid}: frames {a['frames']} are {b['frames']}")
        for name in registers or a["registers"]:
            x, y = a["registers"].get(name), b["registers"].get(name)
            if x != y:
                told.append(f"thread {tid}: {name} was {x}, is {y}")
    return told


# --- a program and its image -----------------------------------------------------------------------

def same(what, told):
    if told:
        more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
        raise Failed("\n".join([f"{what}:", *(t[:600] for t in told[:SHOWN]), *more]))


class Standing:
    """A program made to stand still by SIGSTOP, its image, and its portraits."""

    def __init__(self, box, process):
        self.box, self.pid = box, process.pid
        self.exe = os.readlink(f"/proc/{process.pid}/exe")
        process.signal(signal.SIGSTOP)
        stands(process)
        self.shown = shown_by_kernel(process.pid)
        self.memory = memory(process.pid)
        self.image = box.snap(process.pid, name="standing")
        self.seen = seen_by_gdb(box, "-p", process.pid)
        stands(process)

    def judge_life(self, life):
        """LIFE came from the image, and has not run yet: it stands as the program did."""
        stands(life.process)
        now = shown_by_kernel(life.pid)
        same("/proc shows", [f"{key}: {self.shown.get(key)!r} is {now.get(key)!r}" for key in sorted(
            self.shown.keys() | now.keys()) if self.shown.get(key) != now.get(key)])
        content = memory(life.pid)
        seen = seen_by_gdb(self.box, "-p", life.pid)
        told = written_when_interrupted(seen)
        same("gdb sees", compare_views(self.seen, seen))
        same("memory", compare_memory(self.memory, content, told))
        stands(life.process)

    def judge_core(self, landmarks=()):
        """The image's core: gdb finds every thread, backtrace and register as it was, and functions that
        the program is always in."""
        core = self.box.path("core")
        self.box.kage("core", self.image, "-o", core)
        seen = seen_by_gdb(self.box, self.exe, core)
        os.unlink(core)
        same("in the core gdb sees", compare_views(self.seen, seen, GENERAL))
        functions = {frame[1] for thread in seen.values() for frame in thread["frames"]}
        for name in landmarks:
            if not any(name in function for function in functions):
                raise Failed(f"{name} is in no backtrace: {sorted(functions)}")
