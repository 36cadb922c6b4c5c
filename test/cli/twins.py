#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
"""kage clone, twins, wake, drop and snap --twin, as a user has them."""

import json
import os
import pwd
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import (Failed, KAGE, Process, Sandbox, Skip, Tap, descriptors_of, read, read_or, state_of, status_of,
                      threads_of, wait_until)

# Counts in a file of its own; says how it was told that it is a copy; ends as told by the file "end".
COUNTER = """
import os, signal, sys, time
told = []
signal.signal(signal.SIGUSR1, lambda *a: None)
efd = os.eventfd(0, os.EFD_NONBLOCK)
def usr2(number, frame): told.append("signal")
signal.signal(signal.SIGUSR2, usr2)
print("ready", efd, flush=True)
n, pid = 0, os.getpid()
while not os.path.exists("end"):
    n += 1
    if os.getpid() != pid:
        pid = os.getpid()
        with open(f"first.{pid}.new", "w") as f:
            f.write(str(n))
        os.rename(f"first.{pid}.new", f"first.{pid}")
    try:
        os.eventfd_read(efd)
        told.append("fd")
    except BlockingIOError:
        pass
    with open(f"count.{os.getpid()}", "w") as f:
        f.write(f"{n} {' '.join(told)}\\n")
    time.sleep(0.01)
print("end", n, flush=True)
sys.exit(int(open("end").read() or 0))
"""

# Has children and signals told: what a twin must not be to it.
PARENT = """
import os, signal, time
seen = []
signal.signal(signal.SIGCHLD, lambda *a: seen.append("SIGCHLD"))
print("ready", flush=True)
while not os.path.exists("end"):
    try:
        os.waitpid(-1, os.WNOHANG | 0x40000000)
        seen.append("child")
    except ChildProcessError:
        pass
    time.sleep(0.002)
print("seen", seen, flush=True)
"""


def counter(box, env=None):
    program = box.start([sys.executable, "-c", COUNTER], env=env)
    box.wait_log("ready", process=program)
    count(box, program.pid, 3)
    return program


def count(box, pid, least=1):
    """What the counter says, once it has come so far."""
    def there():
        words = read_or(box.path(f"count.{pid}")).split()
        return words if words and int(words[0]) >= least else None
    return wait_until(f"{pid} to count to {least}", there)


def first(box, pid):
    """What a life counted first."""
    return int(wait_until(f"{pid} to count", lambda: read_or(box.path(f"first.{pid}"))))


def twins(box, *names):
    return json.loads(box.kage("twins", "--json", *names).stdout)["twins"]


def lives(box, twin, *options):
    out = json.loads(box.kage("wake", "--json", "-d", *options, twin).stdout)
    return [box.hold(Process(life["pid"])) for life in out["lives"]]


def whole_path():
    with Sandbox() as box:
        program = counter(box)
        name = box.clone(program.pid)
        before = int(count(box, program.pid)[0])
        count(box, program.pid, before + 20)
        three = lives(box, name, "--copies", "3")
        if len({p.pid for p in three} | {program.pid}) != 4:
            raise Failed("the copies have no numbers of their own")
        for life in three:
            begun = first(box, life.pid)
            count(box, life.pid, begun + 5)
            if begun > before + 1:
                raise Failed(f"a life begins with {begun}, the twin is from before {before}")
            life.kill()
        program.kill()
        again = lives(box, name)[0]
        if first(box, again.pid) > before + 1:
            raise Failed("the twin went on after the program's end")
        again.kill()
        entry = twins(box)[0]
        if (entry["lives"], entry["alive"], entry["pid"]) != (4, False, program.pid):
            raise Failed(f"told of the twin: {entry}")
        box.kage("drop", name)
        if twins(box):
            raise Failed("it is there still")


def not_noticed():
    with Sandbox() as box:
        program = box.start([sys.executable, "-c", PARENT])
        box.wait_log("ready", process=program)
        maps, fds = read(f"/proc/{program.pid}/maps"), descriptors_of(program.pid)
        for _ in range(5):
            box.clone(program.pid)
        for entry in twins(box):
            status = status_of(entry["twin_pid"])
            if status["Name"] != "kage-twin" or state_of(entry["twin_pid"]) != "t":
                raise Failed(f"a twin is {status['Name']}, {state_of(entry['twin_pid'])}")
            if list(descriptors_of(entry["twin_pid"])) != ["0"] and list(descriptors_of(entry["twin_pid"])) != [0]:
                raise Failed(f"a twin has descriptors {descriptors_of(entry['twin_pid'])}")
        if read(f"/proc/{program.pid}/task/{program.pid}/children").strip():
            raise Failed("the program has children")
        if (maps, fds) != (read(f"/proc/{program.pid}/maps"), descriptors_of(program.pid)):
            raise Failed("its mappings or descriptors are others")
        box.kage("drop", "t")
        box.write("end", "")
        if program.wait() != 0 or "seen []" not in box.log():
            raise Failed(f"it has noticed: {box.log()}")


def foreground():
    with Sandbox() as box:
        program = counter(box)
        name = box.clone(program.pid)
        program.kill()
        life = box.wake(name)
        life.process.signal(signal.SIGSTOP)
        life.process.signal(signal.SIGCONT)
        box.write("end", "7")
        status = life.wait()
        if status != 7:
            raise Failed(f"the program ended with 7, kage wake with {status}")
        os.unlink(box.path("end"))
        life = box.wake(name)
        life.kage.signal(signal.SIGTERM)
        if life.wait() != 128 + signal.SIGTERM or life.process.alive():
            raise Failed("SIGTERM did not pass through")


def stopped_and_log():
    with Sandbox() as box:
        program = counter(box)
        name = box.clone(program.pid)
        program.kill()
        life = box.wake(name, "--stopped", "--log", box.path("other.log"))
        wait_until("it to stand", lambda: all(state_of(life.pid, t) == "T" for t in threads_of(life.pid)))
        if descriptors_of(life.pid).get(1, descriptors_of(life.pid).get("1")) != box.path("other.log"):
            raise Failed(f"its output goes to {descriptors_of(life.pid)}")
        life.process.signal(signal.SIGCONT)
        box.write("end", "0")
        if life.wait() != 0 or "end" not in read(box.path("other.log")) or "end" in box.log():
            raise Failed("its output went elsewhere")


def chain():
    with Sandbox() as box:
        program = counter(box)
        marks = []
        for number in range(1, 6):
            name = box.clone(program.pid, "--keep", "3")
            if name != f"t@{number}":
                raise Failed(f"twin {number} is {name}")
            marks.append(int(count(box, program.pid)[0]))
            count(box, program.pid, marks[-1] + 20)
        program.kill()
        if [t["number"] for t in twins(box, "t")] != [3, 4, 5]:
            raise Failed(f"there are {twins(box, 't')}")
        for spec, index in (("t@3", 2), ("t@first", 2), ("t@-1", 3), ("t", 4), ("t@latest", 4)):
            life = lives(box, spec)[0]
            begun = first(box, life.pid)
            life.kill()
            if not (marks[index - 1] if index else 0) <= begun <= marks[index] + 1:
                raise Failed(f"{spec} begins with {begun}, must be between marks {index - 1} and {index} of {marks}")
        failed = box.kage("wake", "-d", "t@1", check=False)
        if failed.returncode != 1 or "there are 3 to 5" not in failed.stderr:
            raise Failed(f"of a twin that is gone: {failed.stderr}")
        box.kage("drop", "t@4")
        if [t["number"] for t in twins(box)] != [3, 5]:
            raise Failed("the wrong one was dropped")


def memory():
    """Twins that together have more of their own than they may: the oldest goes."""
    with Sandbox() as box:
        program = box.start([sys.executable, "-c", """
import os, time
block = bytearray(40 << 20)
n = 0
print("ready", flush=True)
while True:
    if os.path.exists("write"):
        n += 1
        block[::4096] = bytes([n % 256]) * len(block[::4096])
        os.rename("write", "written")
    time.sleep(0.005)
"""])
        box.wait_log("ready", process=program)

        def rewrite():
            box.write("write", "")
            wait_until("it to write", lambda: os.path.exists(box.path("written")))
            os.unlink(box.path("written"))
        box.clone(program.pid, "--max-memory", "100M")
        rewrite()
        own = twins(box)[0]["own_bytes"]
        if not 35 << 20 <= own <= 60 << 20:
            raise Failed(f"the twin's own memory is {own}")
        box.clone(program.pid)
        rewrite()
        box.clone(program.pid)
        rewrite()
        wait_until("the oldest to go", lambda: [t["number"] for t in twins(box)] == [2, 3])
        log = read(box.path("run/t.log"))
        if "t@1 is dropped: twins have more memory than they may" not in log:
            raise Failed(f"the log: {log}")
        if not program.alive():
            raise Failed("the program has ended")


def event_by_environment():
    with Sandbox() as box:
        program = counter(box, env={"KAGE_TWIN": "SIGUSR2"})
        life = lives(box, box.clone(program.pid))[0]
        wait_until("the signal", lambda: "signal" in count(box, life.pid))
        if len(count(box, program.pid)) > 1:
            raise Failed("the program itself was told")
        other = lives(box, "t", "--event", "none")[0]
        if len(count(box, other.pid, first(box, other.pid) + 5)) > 1:
            raise Failed("told, though it was not to be")


def event_by_descriptor():
    with Sandbox() as box:
        program = counter(box)
        fd = box.log().split()[1]
        life = lives(box, box.clone(program.pid), "--event", f"fd:{fd}")[0]
        wait_until("the descriptor", lambda: "fd" in count(box, life.pid))
        if len(count(box, program.pid)) > 1:
            raise Failed("the program itself was told")
        wrong = box.kage("wake", "-d", "--event", "SIGKILL", "t", check=False)
        if wrong.returncode != 1 or "no way to tell" not in wrong.stderr:
            raise Failed(f"of SIGKILL: {wrong.stderr}")


def image_of_twin():
    with Sandbox() as box:
        program = counter(box)
        name = box.clone(program.pid)
        before = int(count(box, program.pid)[0])
        count(box, program.pid, before + 20)
        program.kill()
        out = json.loads(box.kage("snap", "--json", "--twin", "-n", "stored", name).stdout)
        box.kage("drop", name)
        box.fsck()
        os.unlink(box.path(f"count.{program.pid}"))
        # It may have had the file open.
        life = box.restore(out["image"], "--pid", "new", "--stopped", "--files", "restore")
        life.process.signal(signal.SIGCONT)
        first_seen = wait_until("it to count", lambda: read_or(box.path(f"count.{program.pid}")).split())
        life.kill()
        if int(first_seen[0]) > before + 15:
            raise Failed("the image is not of the twin's instant")


def keeper_killed():
    with Sandbox() as box:
        program = counter(box)
        box.clone(program.pid)
        box.clone(program.pid)
        life = lives(box, "t")[0]
        entries = twins(box)
        os.kill(entries[0]["keeper_pid"], signal.SIGKILL)
        for entry in entries:
            wait_until("the twins to end", lambda e=entry: state_of(e["twin_pid"]) in (None, "", "Z", "X"))
        if twins(box) or box.kage("wake", "t", check=False).returncode != 1:
            raise Failed("twins without a keeper")
        for process in (program, life):
            count(box, process.pid, int(count(box, process.pid)[0]) + 5)
        if box.clone(program.pid) != "t@1":
            raise Failed("the next keeper goes on counting")


def keeper_told_to_end():
    with Sandbox() as box:
        program = counter(box)
        box.clone(program.pid)
        entry = twins(box)[0]
        os.kill(entry["keeper_pid"], signal.SIGTERM)
        wait_until("the keeper to end", lambda: state_of(entry["keeper_pid"]) in (None, "", "Z", "X"))
        if os.path.exists(box.path("run/t.twins")) or not program.alive():
            raise Failed("something is left, or the program is not")


def same_command():
    """Two programs with one name, without names for their twins."""
    with Sandbox() as box:
        one, two = counter(box), counter(box)
        labels = []
        for program in (one, two, one, two):
            report = json.loads(box.kage("clone", "--json", program.pid).stdout)
            if report["keeper_pid"] not in box.keepers:
                box.keepers.add(report["keeper_pid"])
                box.hold(Process(report["keeper_pid"]))
            labels.append(report["twin"])
        base = labels[0].split("@")[0]
        if labels != [f"{base}@1", f"{base}-{two.pid}@1", f"{base}@2", f"{base}-{two.pid}@2"]:
            raise Failed(f"they are called {labels}")
        refused = box.kage("clone", "-n", base, two.pid, check=False)
        if refused.returncode != 1 or f"these are twins of process {one.pid}" not in refused.stderr:
            raise Failed(f"another program's name: {refused.stderr}")


def many_at_once():
    with Sandbox() as box:
        program = counter(box)
        clones = [subprocess.Popen([KAGE, "clone", "--json", "-n", "t", str(program.pid)], env=box.env,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                  for _ in range(6)]
        results = [c.communicate(timeout=60) + (c.returncode,) for c in clones]
        bad = [r for r in results if r[2] != 0]
        if bad:
            raise Failed(f"{bad}")
        keepers = {json.loads(out)["keeper_pid"] for out, _, _ in results}
        for pid in keepers:
            box.hold(Process(pid))
        if len(keepers) != 1 or len(twins(box)) != 6:
            raise Failed(f"keepers {keepers}, twins {twins(box)}")


def refused(box, words, *args):
    done = box.kage(*args, check=False)
    if done.returncode == 0 or words not in done.stderr or done.stderr.count("\n") != 1:
        raise Failed(f"kage {' '.join(map(str, args))}: status {done.returncode}, {done.stderr!r}; must say '{words}'")


def refusals():
    with Sandbox() as box:
        program = counter(box)
        refused(box, "there are no twins called nobody", "wake", "nobody")
        refused(box, "there are no twins called nobody", "drop", "nobody")
        refused(box, "there are no twins called nobody", "twins", "nobody")
        refused(box, "there is no process 4194304", "clone", 4194304)
        refused(box, "'a/b' ", "clone", "-n", "a/b", program.pid)
        reaper = box.start([sys.executable, "-c", """
import ctypes, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
print("reaper", flush=True)
time.sleep(1000)
"""])
        box.wait_log("reaper", process=reaper)
        refused(box, "adopts orphans", "clone", reaper.pid)
        if twins(box) or os.listdir(box.path("run")) != [] and any(n.endswith(".twins") for n in os.listdir(box.path("run"))):
            raise Failed("a refusal has left a keeper")
        os.chmod(box.path("run"), 0o777)
        refused(box, "other users may write", "clone", program.pid)


def limits():
    """RLIMIT_NPROC reached: it says so, and the program goes on."""
    if os.geteuid() != 0:
        raise Skip("soak: only root becomes another user")
    nobody = pwd.getpwnam("nobody").pw_uid
    with Sandbox() as box:
        os.chmod(box.dir, 0o777)

        def become():
            import resource
            os.setgid(nobody)
            os.setuid(nobody)
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        program = box.start([sys.executable, "-c", COUNTER], preexec_fn=become)
        box.wait_log("ready", process=program)
        done = box.kage("clone", "-n", "t", program.pid, check=False)
        if done.returncode != 1 or "Resource temporarily unavailable" not in done.stderr:
            raise Failed(f"status {done.returncode}: {done.stderr}")
        count(box, program.pid, int(count(box, program.pid)[0]) + 5)


def other_user():
    """Nobody reaches the twins of somebody else, nor puts some in his way."""
    if os.geteuid() != 0:
        raise Skip("soak: only root becomes another user")
    nobody = pwd.getpwnam("nobody")
    with Sandbox() as box:
        os.chmod(box.dir, 0o777)
        program = counter(box)
        box.clone(program.pid)

        def as_nobody(*args, run):
            env = dict(box.env, KAGE_RUN=run)
            return subprocess.run([KAGE, *map(str, args)], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, check=False, timeout=60, user=nobody.pw_uid,
                                  group=nobody.pw_gid, extra_groups=[])
        if as_nobody("twins", run=box.path("run")).returncode == 0:
            raise Failed("the directory is open to others")
        # Even through an open way to the socket the keeper looks who asks.
        os.chmod(box.path("run"), 0o711)
        os.chmod(box.path("run/t.twins"), 0o666)
        probe = subprocess.run([sys.executable, "-c", f"""
import os, socket
os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect({box.path('run/t.twins')!r})
s.settimeout(20)
s.send(b"k\\x12\\x00")
print(repr(s.recv(1000)))
"""], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        if probe.stdout.strip() not in ("b''", "") or "kage" in probe.stdout:
            raise Failed(f"the keeper has answered: {probe.stdout} {probe.stderr}")
        os.chmod(box.path("run"), 0o700)
        if len(twins(box)) != 1:
            raise Failed("the twin is gone")
        # A program of root is not to be cloned by others.
        os.mkdir(box.path("theirs"), 0o700)
        os.chown(box.path("theirs"), nobody.pw_uid, nobody.pw_gid)
        done = as_nobody("clone", program.pid, run=box.path("theirs"))
        if done.returncode != 1 or "Permission denied" not in done.stderr:
            raise Failed(f"of root's program: {done.stderr}")


def nonsense():
    """What is no message is answered by the end of the connection, and others are served."""
    import socket
    with Sandbox() as box:
        program = counter(box)
        box.clone(program.pid)
        for bytes_ in (b"", b"k", b"k\xff\xff\xff\xff", b"x" * 60000, b"k" + bytes(range(256)) * 200):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect(box.path("run/t.twins"))
            s.settimeout(20)
            if bytes_:
                s.send(bytes_)
            s.shutdown(socket.SHUT_WR)
            try:
                s.recv(100000)
            except ConnectionResetError:
                pass
            s.close()
        idle = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(30)]
        for s in idle:
            s.connect(box.path("run/t.twins"))
        lives(box, "t")[0].kill()
        for s in idle:
            s.close()


def main():
    tap = Tap()
    for name, test in (("a twin is made, woken, woken again after the program's end, dropped", whole_path),
                       ("the program notices nothing of its twins", not_noticed),
                       ("in the foreground: exit status, signals", foreground),
                       ("stopped; output to another file", stopped_and_log),
                       ("a chain of twins, by number, from the end; so many are kept", chain),
                       ("memory: counted; the oldest goes", memory),
                       ("it is told by the signal of its environment", event_by_environment),
                       ("it is told by an eventfd of its own", event_by_descriptor),
                       ("an image of a twin is of its instant", image_of_twin),
                       ("the keeper is killed", keeper_killed),
                       ("the keeper is told to end", keeper_told_to_end),
                       ("two programs with the same command", same_command),
                       ("several clones at once make one keeper", many_at_once),
                       ("refusals say why", refusals),
                       ("no process may be made", limits),
                       ("other users", other_user),
                       ("nonsense on the socket", nonsense)):
        tap.run(name, test)
    tap.done()


if __name__ == "__main__":
    main()
