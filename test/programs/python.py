#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""python3: threads that compute, write, read, hand each other things and keep them; an interval timer,
timers of its own, signals that wait."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from sequence import test_program

PROGRAM = r'''
import collections, ctypes, mmap, os, queue, signal, struct, tempfile, threading

KEPT = 1500            # of the newest numbers, each with a row that follows from it
alarms = ticks = 0
beyond = threading.Event()  # "go" is there

def following(x):
    return x * 16807 % 2147483647

def wrong(what):
    print("wrong:", what, flush=True)
    os._exit(9)

def row_of(x):
    return [x + i for i in range(x % 300)]

def work(name, x, handed):
    kept = collections.deque(maxlen=KEPT)
    with open(name, "a", buffering=1) as out:
        n = 0
        while not beyond.is_set():
            n += 1
            x = following(x)
            out.write(f"{n} {x}\n")
            kept.append((x, row_of(x)))
            if n % 16 == 0:
                handed.put(x)
    handed.put(None)
    for (before, _), (x, row) in zip(kept, list(kept)[1:]):
        if x != following(before) or row != row_of(x):
            wrong(f"{name}: {x} after {before}")

def take(seed, handed):           # waits for the other thread again and again
    x = seed
    while (got := handed.get()) is not None:
        for _ in range(16):
            x = following(x)
        if got != x:
            wrong(f"handed {got}, must be {x}")

def read_numbers():               # an unlinked file, read where its descriptor stands
    with tempfile.TemporaryFile(dir=".") as f:
        f.write(struct.pack("5000I", *range(5000)))
        f.flush()
        shared = mmap.mmap(f.fileno(), 20000)
        at = 0
        os.lseek(f.fileno(), 0, os.SEEK_SET)
        while not beyond.is_set():
            got, = struct.unpack("I", os.read(f.fileno(), 4))
            if got != at or shared[at * 4:at * 4 + 4] != struct.pack("I", at):
                wrong(f"read {got}, must be {at}")
            at += 1
            if at == 5000:
                at = 0
                os.lseek(f.fileno(), 0, os.SEEK_SET)

def pass_around(pipe):            # 500 numbers are in the pipe at any time
    r, w = pipe
    os.write(w, struct.pack("500I", *range(500)))
    at = 0
    while not beyond.is_set():
        got, = struct.unpack("I", os.read(r, 4))
        if got != at % 1000000:
            wrong(f"the pipe gave {got}, must be {at}")
        os.write(w, struct.pack("I", (at + 500) % 1000000))
        at += 1

def tick():                       # a thread that ends and another that begins, again and again
    global ticks
    ticks += 1
    if not beyond.is_set():
        threading.Timer(0.005, tick).start()

def judge_processor():            # which the kernel tells the C library (rseq)
    getcpu, allowed = ctypes.CDLL(None).sched_getcpu, os.sched_getaffinity(0)
    for number in allowed:
        os.sched_setaffinity(0, {number})
        if getcpu() != number:
            wrong(f"on processor {getcpu()}, must be {number}")
    os.sched_setaffinity(0, allowed)

def on_alarm(*_):
    global alarms
    alarms += 1

# Two signals that wait, one for the process and one for this thread, and one that is let through.
waiting = {signal.SIGURG, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
os.kill(os.getpid(), signal.SIGURG)
signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
signal.signal(signal.SIGALRM, on_alarm)

threads = [threading.Thread(target=read_numbers), threading.Thread(target=pass_around, args=(os.pipe(),))]
for i in range(3):
    handed = queue.SimpleQueue()
    threads.append(threading.Thread(target=work, args=(f"out.{i}", i + 1, handed)))
    threads.append(threading.Thread(target=take, args=(i + 1, handed)))
for t in threads:
    t.start()
tick()
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
while not os.path.exists("go"):
    signal.pause()
a, t = alarms, ticks
while alarms < a + 3 or ticks < t + 3:
    signal.pause()
beyond.set()
for t in threads:
    t.join()
judge_processor()
signal.setitimer(signal.ITIMER_REAL, 0)
if signal.sigpending() & waiting != waiting or signal.pthread_sigmask(signal.SIG_BLOCK, ()) != waiting:
    wrong(f"waiting {signal.sigpending()}, blocked {signal.pthread_sigmask(signal.SIG_BLOCK, ())}")
for number in waiting:
    if signal.sigwaitinfo({number}).si_pid != os.getpid():
        wrong(f"who sent {number}")
'''

if __name__ == "__main__":
    test_program("python3", lambda box: ["/usr/bin/python3", box.write("program.py", PROGRAM)],
                 {f"out.{i}": i + 1 for i in range(3)}, landmarks=["Py_BytesMain"])
