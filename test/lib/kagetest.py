# SPDX-License-Identifier: Apache-2.0
"""What tests that drive kage share: TAP lines, a sandbox with a store of its own, programs that are
started, imaged, killed and given back their life.

Nothing here sleeps in the hope that something has happened by then: wait_until() looks at a state
that can be observed, again and again, up to a deadline that only a broken program reaches. A process
is held by a pidfd from the moment it is known: nothing else is ever killed.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(os.environ.get("B", os.path.join(ROOT, "build")))
KAGE = os.environ.get("KAGE", os.path.join(BUILD, "kage"))
SOAK = os.environ.get("KAGE_SOAK") == "1"
PATIENCE = 60.0  # seconds after which something that must happen has not happened


class Failed(Exception):
    """What a test says when something is not as it must be."""


class Skip(Exception):
    """The test cannot be made here; the text names what is missing."""


# --- TAP -----------------------------------------------------------------------------------------

class Tap:
    """Counts and prints results; may be told of them by several threads."""

    def __init__(self):
        self.n = 0
        self.failed = 0
        self.lock = threading.Lock()

    def _line(self, good, name, after="", details=""):
        with self.lock:
            self.n += 1
            self.failed += not good
            print(f"{'ok' if good else 'not ok'} {self.n} - {name}{after}")
            for line in str(details).strip().splitlines():
                print(f"# {line}")
            sys.stdout.flush()

    def ok(self, name):
        self._line(True, name)

    def not_ok(self, name, details=""):
        self._line(False, name, details=details)

    def skip(self, name, why):
        self._line(True, name, f" # SKIP {why}")

    def check(self, condition, name, details=""):
        self._line(bool(condition), name, details="" if condition else details)

    def run(self, name, function, *args):
        """One test: FUNCTION raises Failed, Skip, or returns."""
        try:
            function(*args)
        except Skip as why:
            self.skip(name, why)
        except Failed as why:
            self.not_ok(name, why)
        except Exception:  # pylint: disable=broad-except
            self.not_ok(name, traceback.format_exc())
        else:
            self.ok(name)

    def done(self):
        print(f"1..{self.n}")
        sys.stdout.flush()
        sys.exit(1 if self.failed else 0)


def seeded():
    """A random number generator whose seed is $KAGE_SEED or new, and told."""
    seed = int(os.environ.get("KAGE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"# KAGE_SEED={seed}")
    sys.stdout.flush()
    return random.Random(seed)


def wait_until(what, condition, patience=PATIENCE, step=0.005):
    """Returns the first true value of CONDITION(); raises Failed when there is none in time."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed(f"waited {patience:.0f} s in vain for {what}")
        time.sleep(step)


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"no {program} here")


def helper(name):
    """Path of a program of the tests that the Makefile built: helper('kind/pipe')."""
    path = os.path.join(BUILD, "test", name)
    if not os.access(path, os.X_OK):
        raise Failed(f"{path} is not built: 'make tests-built' builds it")
    return path


def read(path, binary=False):
    with open(path, "rb" if binary else "r", **({} if binary else {"errors": "replace"})) as f:
        return f.read()


def read_or(path, otherwise=""):
    try:
        return read(path)
    except OSError:
        return otherwise


# --- processes -----------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """A process that may or may not be a child of ours, held by its pidfd."""

    def __init__(self, pid, popen=None):
        self.pid = pid
        self.popen = popen
        self.pidfd = os.pidfd_open(pid)

    def signal(self, number):
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def alive(self):
        return state_of(self.pid) not in ("", "Z", "X") and self._same()

    def _same(self):
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
            return True
        except ProcessLookupError:
            return False

    def kill(self):
        """SIGKILL, and only returns when nothing of the process is left."""
        self.signal(signal.SIGKILL)
        self.gone()

    def gone(self, patience=PATIENCE):
        if self.popen:
            try:
                self.popen.wait(patience)
            except subprocess.TimeoutExpired:
                raise Failed(f"process {self.pid} did not end in {patience:.0f} s") from None
        wait_until(f"process {self.pid} to be gone", lambda: not self._same(), patience)

    def wait(self, patience=PATIENCE):
        """The exit status, negative for a signal; only of children of ours."""
        try:
            return self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            raise Failed(f"process {self.pid} did not end in {patience:.0f} s; "
                         f"{where_it_is(self.pid)}") from None


def state_of(pid, tid=None):
    """The letter of /proc/PID/stat, or '' when there is none."""
    text = read_or(f"/proc/{pid}/task/{tid or pid}/stat")
    return text[text.rindex(")") + 2] if ")" in text else ""


def where_it_is(pid):
    """For a failure: state and, for root, kernel stack of each thread."""
    return "; ".join(f"thread {t} {state_of(pid, t)}: "
                     + " < ".join(line.split()[-1] for line in read_or(f"/proc/{pid}/task/{t}/stack").splitlines())
                     for t in threads_of(pid))


def status_of(pid, tid=None):
    """/proc/PID/status as a dictionary."""
    fields = {}
    for line in read_or(f"/proc/{pid}/task/{tid or pid}/status").splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.strip()
    return fields


def threads_of(pid):
    try:
        return sorted(int(t) for t in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return []


def descriptors_of(pid):
    """{number: where it leads}, without those that are closed while we look."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            pass
    return found


# --- the sandbox ---------------------------------------------------------------------------------

class Life:
    """A restored program and the kage that stays with it. As a context it ends at the latest when the
    context does, so that its number is free for another life."""

    def __init__(self, kage, process, report, pid):
        self.kage = kage        # Process of `kage restore`
        self.process = process  # the program; None when it had ended before we could look
        self.pid = pid
        self.report = report

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def wait(self, patience=PATIENCE):
        return self.kage.wait(patience)

    def kill(self):
        if self.process:
            self.process.kill()
        self.kage.wait()


class Sandbox:
    """A folder with a store; all that was started in it ends with it.

        with Sandbox() as box:
            program = box.start(["sleep", "100"])
            image = box.snap(program.pid)
            program.kill()
            life = box.restore(image)
    """

    def __init__(self, name="kage", durable=True):
        """durable False: kept in memory. For tests that store thousands of images: a disk that has to
        sync so often lets a killed process wait for a minute."""
        where = None if durable or not os.access("/dev/shm", os.W_OK) else "/dev/shm"
        self.dir = tempfile.mkdtemp(prefix=f"{name}.", dir=where)
        os.chmod(self.dir, 0o755)
        self.store = os.path.join(self.dir, "store")
        self.env = dict(os.environ, KAGE_STORE=self.store, KAGE_RUN=os.path.join(self.dir, "run"), LC_ALL="C.UTF-8")
        self.keepers = set()
        self.started = []
        self.lock = threading.Lock()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.signal(signal.SIGKILL)
        for process in reversed(self.started):
            try:
                process.gone(10)
            except Failed:
                pass
            os.close(process.pidfd)
        if os.environ.get("KAGE_KEEP") != "1":
            shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "wb" if isinstance(text, bytes) else "w") as f:
            f.write(text)
        return self.path(name)

    def hold(self, process):
        with self.lock:
            self.started.append(process)
        return process

    def start(self, command, log="log", cwd=None, env=None, **how):
        """Starts a program with its output appended to the file LOG and /dev/null as input."""
        with open(self.path(log), "ab") as out:
            popen = subprocess.Popen(command, stdin=how.pop("stdin", subprocess.DEVNULL),
                                     stdout=out, stderr=out, cwd=cwd or self.dir,
                                     env=dict(self.env, **(env or {})), **how)
        return self.hold(Process(popen.pid, popen))

    def log(self, name="log"):
        return read_or(self.path(name))

    def wait_log(self, text, log="log", process=None, patience=PATIENCE):
        """Waits for TEXT in the log; fails at once when the program ends before."""
        def seen():
            ended = process is not None and not process.alive()
            if text in self.log(log):
                return True
            if ended:
                raise Failed(f"it ended before '{text}'; its log: {self.log(log)[-2000:]}")
            return False
        return wait_until(f"'{text}' in the log", seen, patience)

    # --- kage ------------------------------------------------------------------------------------

    def kage(self, *args, check=True, patience=120, **how):
        """Runs kage to its end. With CHECK, another status than 0 fails the test."""
        done = subprocess.run([KAGE, *map(str, args)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              errors="replace", env=self.env, timeout=patience, check=False, **how)
        if check and done.returncode != 0:
            raise Failed(f"kage {' '.join(map(str, args))}: status {done.returncode}: "
                         f"{done.stderr.strip() or done.stdout.strip()}")
        return done

    def snap(self, pid, *options, name="t"):
        """Takes an image and returns NAME@N. As a user would, it tries again when kage advises to: a
        thread that waits for a slow disk cannot be stopped."""
        def taken():
            done = self.kage("snap", "--json", "-n", name, *options, pid, check=False)
            if done.returncode == 0:
                return json.loads(done.stdout)["image"]
            if "try again later" not in done.stderr:
                raise Failed(f"kage snap: status {done.returncode}: {done.stderr.strip()}")
            print(f"# {done.stderr.strip()}", flush=True)
            return None
        return wait_until(f"an image of process {pid}", taken)

    def clone(self, pid, *options, name="t"):
        """Makes a twin and returns NAME@N."""
        def made():
            done = self.kage("clone", "--json", "-n", name, *options, pid, check=False)
            if done.returncode == 0:
                return json.loads(done.stdout)
            if "try again later" not in done.stderr:
                raise Failed(f"kage clone: status {done.returncode}: {done.stderr.strip()}")
            return None
        report = wait_until(f"a twin of process {pid}", made)
        if report["keeper_pid"] not in self.keepers:
            self.keepers.add(report["keeper_pid"])
            self.hold(Process(report["keeper_pid"]))
        return report["twin"]

    def wake(self, twin, *options, **how):
        """As restore(), from a twin."""
        return self.restore(twin, *options, command="wake", **how)

    def restore(self, image, *options, env=None, command="restore", **how):
        """Restores in the foreground, with kage in the background. Returns when the program runs
        (or, with --stopped, stands)."""
        with self.lock:
            number = len(self.started)
        out, err = self.path(f"restore.{number}.out"), self.path(f"restore.{number}.err")
        with open(out, "wb") as o, open(err, "wb") as e:
            popen = subprocess.Popen([KAGE, command, "--json", *options, image],
                                     stdin=how.pop("stdin", subprocess.DEVNULL), stdout=o, stderr=e,
                                     env=dict(self.env, **(env or {})), **how)
        kage = self.hold(Process(popen.pid, popen))

        def told():
            ended = popen.poll() is not None
            try:
                report = json.loads(read(out))
                if "lives" in report:
                    return report
            except ValueError:
                pass
            if ended:
                raise Failed(f"kage {command} {' '.join(options)} {image}: status "
                             f"{popen.returncode}: {read(err).strip()}")
            return None
        report = wait_until(f"kage {command} {image}", told)
        pid = report["lives"][0]["pid"]
        try:
            process = self.hold(Process(pid))
        except ProcessLookupError:  # it lived, and has ended already
            process = None
        return Life(kage, process, report, pid)

    def fsck(self):
        done = self.kage("fsck", "--json", check=False)
        if done.returncode != 0:
            raise Failed(f"fsck: {done.stdout.strip()} {done.stderr.strip()}")
        return json.loads(done.stdout)

    def leftovers(self):
        """Files in the store that are neither packs nor what a store has anyway."""
        left = []
        for folder, _, names in os.walk(self.store):
            left += [os.path.join(folder, n) for n in names
                     if n.startswith((".tmp", "tmp.")) or ".tmp" in n or n.endswith("~")]
        return left


def twins_of(pid):
    """Other processes that run the same file, but for those that have ended: of a program that nobody else runs."""
    found = []
    for other in os.listdir("/proc"):
        if not other.isdigit() or int(other) == pid:
            continue
        try:
            if os.path.samefile(f"/proc/{other}/exe", f"/proc/{pid}/exe"):
                found.append(int(other))
        except OSError:
            pass
    return found


class Snapper(threading.Thread):
    """Takes an image of each of the processes every INTERVAL seconds until told to stop."""

    def __init__(self, box, pids, interval=0.2, must_work=True, name="survive"):
        super().__init__(daemon=True)
        self.box, self.pids, self.interval = box, list(pids), interval
        self.must_work, self.history = must_work, name
        self.enough = threading.Event()
        self.taken = 0
        self.problem = None

    def run(self):
        due = time.monotonic()
        while not self.enough.is_set():
            for pid in self.pids:
                done = self.box.kage("snap", "-n", f"{self.history}{pid}", pid, check=False)
                if done.returncode != 0 and self.must_work:
                    self.problem = f"kage snap {pid}: {done.returncode}: {done.stderr.strip()}"
                    return
                self.taken += done.returncode == 0
            # Only the newest is of interest to anybody; the disk is not.
            for pid in self.pids:
                folder = os.path.join(self.box.store, f"{self.history}{pid}")
                if os.path.isdir(folder) and len(os.listdir(folder)) > 20:
                    shutil.rmtree(folder, ignore_errors=True)
            due += self.interval
            self.enough.wait(max(0.0, due - time.monotonic()))

    def stop(self):
        """Returns when no image is being taken any more. See .taken and .problem."""
        self.enough.set()
        self.join()


def in_parallel(jobs, workers=2):
    """Runs functions in WORKERS threads; each handles its own failures."""
    queue, lock = list(jobs), threading.Lock()

    def work():
        while True:
            with lock:
                if not queue:
                    return
                job = queue.pop(0)
            job()
    crew = [threading.Thread(target=work) for _ in range(workers)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
