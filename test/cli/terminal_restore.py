#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kage restore and terminals: as a job of an interactive shell, in scripts and pipelines, on another
terminal, on a new one, and without any.
"""

import json
import os
import re
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import KAGE, Failed, Process, Sandbox, Tap, need, read, read_or, state_of, wait_until
from terminals import KEYS, Terminal

# Reads lines: one process, so that an image has all of it.
LINES = ["sh", "-c", "echo ready $$; while read x; do echo \"got $x\"; done; exit 5"]
RESTORE = f"{KAGE} restore t"


def stat_of(pid):
    """Parent, group, session, terminal and the terminal's foreground group."""
    text = read(f"/proc/{pid}/stat")
    return [int(x) for x in text[text.rindex(")") + 4:].split()[:5]]


def killed_image(box, command, controlling=True, options=()):
    """An image t of COMMAND, which has ended, on a terminal that is gone. Returns its PID."""
    terminal = Terminal(rows=33, columns=99)
    process = terminal.start(box, ["bash", "--norc", "-c", 'set -m; "$@"; true', "-", *command]
                             if controlling else command, controlling=controlling)
    pid = int(terminal.expect(r"ready .*?(\d+)\r*$", process).group(1))
    wait_until("it to wait for input", lambda: state_of(pid) == "S")
    box.snap(pid, "--kill", *options)
    process.signal(signal.SIGKILL)
    process.gone()
    terminal.close()
    return pid


def need_equal(got, want, what):
    if got != want:
        raise Failed(f"{what}: {got!r}, must be {want!r}")


def until_in_front(terminal, pid):
    try:
        wait_until("the program", lambda: terminal.foreground() == pid)
    except Failed as why:
        raise Failed(f"{why}; shown: {terminal.text()!r}; states: "
                     f"{[(p, state_of(p)) for p in (pid, terminal.foreground())]}") from None


def in_the_background(terminal, shell, go_on=True):
    """Restores t in the background, where it stops."""
    terminal.run(f"{RESTORE} &")
    kage = int(terminal.expect(r"\[1\] (\d+)", shell).group(1))
    wait_until("it to stop", lambda: state_of(kage) == "T")
    if go_on:
        terminal.run("fg")


# --- as a job of a shell -------------------------------------------------------------------------

def lines_as_a_job(box):
    pid = killed_image(box, LINES)
    terminal = Terminal()
    shell = terminal.shell(box)
    before = terminal.modes()
    terminal.run(RESTORE)
    until_in_front(terminal, pid)
    need_equal(stat_of(pid)[1:3], [pid, shell.pid], "group and session")
    terminal.type("one\r")
    terminal.expect("got one", shell)
    need_equal(terminal.foreground(), pid, "the foreground")
    terminal.type("\x1a")
    terminal.expect("Stopped", shell)
    need_equal(state_of(pid), "T", "its state after ^Z")
    terminal.run("fg")
    wait_until("it to go on", lambda: state_of(pid) == "S")
    terminal.type("two\r")
    terminal.expect("got two", shell)
    terminal.type("\x04")
    terminal.run("echo status $?")
    terminal.expect("status 5", shell)
    need_equal(terminal.modes(), before, "settings of the terminal")
    in_the_background(terminal, shell)
    wait_until("it to go on", lambda: state_of(pid) == "S" and terminal.foreground() == pid)
    terminal.type("three\r")
    terminal.expect("got three", shell)
    terminal.type("\x03")
    terminal.run("echo status $?")
    terminal.expect("status 130", shell)


def keys_as_a_job(box):
    pid = killed_image(box, KEYS)
    terminal = Terminal(rows=20, columns=70)
    shell = terminal.shell(box)
    terminal.run("stty -a >before")
    terminal.run(RESTORE)
    terminal.expect("SIGCONT 20x70", shell)
    terminal.expect("SIGWINCH 20x70", shell)
    need_equal(terminal.takes_keys(), True, "keys one by one")
    terminal.type("\x03\x1a\x1c")
    terminal.expect(r"<03>\s*<1a>\s*<1c>", shell)
    terminal.resize(22, 71)
    terminal.expect("SIGWINCH 22x71", shell)
    os.kill(pid, signal.SIGTSTP)
    terminal.expect("Stopped", shell)
    terminal.run("fg")
    terminal.expect("SIGCONT", shell)
    os.kill(pid, signal.SIGKILL)
    terminal.expect("Killed", shell)
    terminal.run("echo status $?; stty -a | sed 's/rows.*columns [0-9]*//' >after")
    terminal.expect("status 137", shell)
    wait_until("the settings", lambda: read_or(box.path("after")))
    need_equal(read(box.path("after")), re.sub("rows.*columns [0-9]*", "", read(box.path("before"))),
               "settings after its death")
    # In the background nothing is made: the settings are the shell's.
    in_the_background(terminal, shell, go_on=False)
    if os.path.exists(f"/proc/{pid}"):
        raise Failed("it was restored in the background")
    terminal.run("fg")
    terminal.expect("SIGWINCH 22x71", shell)
    terminal.type("q")
    terminal.run("echo status $?")
    terminal.expect("status 7", shell)


def in_a_script(box):
    pid = killed_image(box, LINES)
    terminal = Terminal()
    shell = terminal.shell(box)
    box.write("script", f"{RESTORE}\necho after it: $?\n")
    for script in ("bash script", f"{RESTORE} | cat", f"sleep 0.1 | {RESTORE}"):
        terminal.run(script)
        until_in_front(terminal, pid)
        terminal.type("one\r")
        if "cat" not in script:
            terminal.expect("got one", shell)
        terminal.type("\x1a")
        terminal.expect("Stopped", shell)
        terminal.run("fg")
        wait_until("it to go on", lambda: state_of(pid) == "S" and terminal.foreground() == pid)
        terminal.type("\x03")
        terminal.run("echo end")
        terminal.expect("end", shell)
        if re.search(r"[\r\n]after it", terminal.text(), re.M):
            raise Failed(f"{script}: the script went on after ^C")
        wait_until("its end", lambda: not os.path.exists(f"/proc/{pid}"))


def stopped_image(box):
    terminal = Terminal()
    shell = terminal.shell(box)
    terminal.run(" ".join(KEYS))
    pid = int(terminal.expect(r"ready 24x80 (\d+)", shell).group(1))
    os.kill(pid, signal.SIGTSTP)
    terminal.expect("Stopped", shell)
    box.snap(pid, "--kill")
    wait_until("its end", lambda: not os.path.exists(f"/proc/{pid}"))
    terminal.run(RESTORE)
    terminal.expect(r"Stopped +\S*kage restore", shell)
    need_equal(state_of(pid), "T", "its state")
    terminal.run("fg %+")
    terminal.expect("SIGCONT", shell)
    terminal.type("x\r") # its settings were the shell's then, and it does not renew them
    terminal.expect("<x>", shell)
    os.kill(pid, signal.SIGKILL)
    terminal.run("echo end")
    terminal.expect(r"[\r\n]end", shell)


def kage_dies(box):
    pid = killed_image(box, LINES)
    terminal = Terminal()
    shell = terminal.shell(box)
    terminal.run(RESTORE)
    until_in_front(terminal, pid)
    program = box.hold(Process(pid))
    os.kill(stat_of(pid)[0], signal.SIGKILL)
    terminal.expect("Killed", shell)
    program.kill() # it may still wait for a line, and would get the next one
    terminal.run("echo the shell goes on")
    terminal.expect(r"[\r\n]the shell goes on", shell)


def copies(box):
    killed_image(box, ["sh", "-c", "echo ready $$; exec sleep 1000"])
    terminal = Terminal()
    shell = terminal.shell(box)
    terminal.run(f"{KAGE} restore --json --copies 2 t | tee out")
    wait_until("the programs", lambda: "lives" in read_or(box.path("out")))
    pids = [life["pid"] for life in json.loads(read(box.path("out")))["lives"]]
    terminal.type("\x03")
    terminal.run("echo end")
    terminal.expect(r"[\r\n]end", shell)
    wait_until("their end", lambda: not any(os.path.exists(f"/proc/{p}") for p in pids))


def of_kage_run(box):
    terminal = Terminal()
    shell = terminal.shell(box)
    terminal.run(f"{KAGE} run {' '.join(KEYS)}")
    pid = int(terminal.expect(r"ready 24x80 (\d+)", shell).group(1))
    box.snap(pid, "--kill")
    terminal.run("")
    terminal.expect(r"\$ $", shell)
    terminal.run(RESTORE)
    terminal.expect("SIGWINCH 24x80", shell)
    terminal.type("k")
    terminal.expect("<k>", shell)
    terminal.type("q")
    terminal.run("echo status $?")
    terminal.expect("status 7", shell)


def new_pid(box):
    killed_image(box, KEYS)
    terminal = Terminal()
    shell = terminal.shell(box)
    terminal.run(f"{RESTORE} --pid new")
    terminal.expect("SIGWINCH 24x80", shell)
    terminal.type("k")
    terminal.expect("<k>", shell)
    terminal.type("q")
    terminal.run("echo status $?")
    terminal.expect("status 7", shell)


def group_of_others(box):
    """The number of a group whose leader has ended cannot be had."""
    terminal = Terminal()
    shell = terminal.shell(box)
    terminal.run("sh -c 'echo ready $$ >out; exec sleep 1000' >/dev/null | sleep 1000 &")
    pid = int(wait_until("the program", lambda: read_or(box.path("out"))).split()[1])
    wait_until("it to sleep", lambda: read(f"/proc/{pid}/comm") == "sleep\n")
    box.snap(pid, "--kill")
    wait_until("its end", lambda: not os.path.exists(f"/proc/{pid}"))
    done = box.kage("check", "t", check=False)
    if done.returncode != 1 or "process group that has other members" not in done.stdout:
        raise Failed(f"kage check: {done.stdout}")
    box.kage("check", "--pid", "new", "t")
    os.killpg(pid, signal.SIGKILL)
    wait_until("its end", lambda: box.kage("check", "t", check=False).returncode == 0)


# --- on other terminals --------------------------------------------------------------------------

def on_a_named_one(box):
    """A free terminal becomes the controlling one, --detach or not."""
    pid = killed_image(box, LINES)
    for options in (["--detach"], []):
        terminal = Terminal()
        if options:
            box.kage("restore", "--tty", terminal.path, *options, "t")
        else:
            life = box.restore("t", "--tty", terminal.path)
        program = box.hold(Process(pid))
        need_equal(stat_of(pid)[1:3], [pid, pid], "group and session")
        need_equal(stat_of(pid)[4], pid, "the foreground of its terminal")
        terminal.type("one\r")
        terminal.expect("got one", program)
        terminal.type("\x03")
        if not options:
            need_equal(life.wait(), -signal.SIGINT, "how kage ends")
        program.gone()


def on_one_of_others(box):
    """A terminal that controls another session stays its."""
    pid = killed_image(box, LINES)
    terminal = Terminal()
    shell = terminal.shell(box)
    box.restore("t", "--tty", terminal.path)
    program = box.hold(Process(pid))
    need_equal(stat_of(pid)[1:3], [pid, pid], "group and session")
    need_equal(terminal.foreground(), shell.pid, "the foreground of the other session's terminal")
    need_equal(os.readlink(f"/proc/{pid}/fd/0"), terminal.path, "its standard input")
    program.kill()


def on_a_plain_one(box):
    """Our standard descriptors are a terminal that controls nobody."""
    pid = killed_image(box, KEYS)
    for options in ([], ["--tty", "new"]):
        terminal = Terminal(rows=30, columns=90)
        before = terminal.modes()
        kage = terminal.start(box, [KAGE, "restore", *options, "t"], controlling=False)
        terminal.expect("SIGWINCH 30x90", kage)
        terminal.type("\x03")
        terminal.expect("<03>", kage)
        terminal.type("k")
        terminal.expect("<k>", kage)
        need_equal(stat_of(pid)[2], pid, "its session")
        terminal.type("q")
        need_equal(kage.wait(), 7, "how it ends")
        if options:
            need_equal(terminal.modes(), before, "settings of our terminal")


def on_a_new_one(box):
    """The new terminal of a script has the size of the old one."""
    killed_image(box, KEYS)
    with open(box.path("out"), "wb") as out:
        kage = subprocess.Popen([KAGE, "restore", "--tty", "new", "t"], stdin=subprocess.PIPE,
                                stdout=out, stderr=out, env=box.env, start_new_session=True)
    box.hold(Process(kage.pid, kage))
    box.wait_log("SIGWINCH 33x99", "out")
    kage.stdin.write(b"k")
    kage.stdin.flush()
    box.wait_log("<k>", "out")
    kage.stdin.write(b"q")
    kage.stdin.close()
    need_equal(kage.wait(20), 7, "how it ends")


# --- without one ---------------------------------------------------------------------------------

def keys_without(box):
    pid = killed_image(box, KEYS)
    for options, cure in (([], "restore it on a terminal, or name one with --tty"),
                          (["--detach"], "without --detach, or name a terminal with --tty")):
        done = box.kage("restore", *options, "t", check=False, start_new_session=True)
        need_equal(done.returncode, 1, "status")
        need_equal(done.stderr.count("\n"), 1, f"lines of {done.stderr!r}")
        if "takes keys from its terminal" not in done.stderr or cure not in done.stderr:
            raise Failed(f"it says {done.stderr!r}")
    if os.path.exists(f"/proc/{pid}"):
        raise Failed("something was restored")
    done = box.kage("check", "--json", "t", check=False, start_new_session=True)
    need_equal(done.returncode, 1, "status of kage check")
    need_equal([o["fatal"] for o in json.loads(done.stdout)["obstacles"]], [True], "obstacles")
    box.kage("check", "--tty", "new", "t", start_new_session=True)
    terminal = Terminal()
    shell = terminal.shell(box)
    terminal.run(f"{KAGE} check t")
    terminal.expect("restoring t can be done", shell)
    terminal.run(f"{KAGE} check --detach t")
    terminal.expect("restoring t cannot be done", shell)


def lines_without(box):
    pid = killed_image(box, ["sh", "-c", "echo ready $$; exec sleep 1000"])
    done = box.kage("check", "--json", "t", start_new_session=True)
    need_equal([o["fatal"] for o in json.loads(done.stdout)["obstacles"]], [False], "obstacles")
    box.kage("restore", "--detach", "t", start_new_session=True)
    program = box.hold(Process(pid))
    need_equal(os.readlink(f"/proc/{pid}/fd/0"), "/dev/null", "its standard input")
    program.kill()
    kage = box.start([KAGE, "restore", "t"], start_new_session=True)
    box.wait_log("note: there is no terminal for the program", process=kage)
    need_equal(box.log().count("\n"), 1, "lines of its output")
    wait_until("the program", lambda: os.path.exists(f"/proc/{pid}"))
    box.hold(Process(pid)).kill()


def what_is_no_terminal(box):
    killed_image(box, LINES)
    for path, why in (("/dev/null", "it is none"), ("/nowhere", "No such file")):
        done = box.kage("restore", "--tty", path, "t", check=False)
        need_equal(done.returncode, 1, "status")
        if path not in done.stderr or why not in done.stderr:
            raise Failed(f"it says {done.stderr!r}")


def typed_and_not_read(box):
    terminal = Terminal()
    shell = terminal.start(box, ["sh", "-c", "stty raw; echo ready $$; exec sleep 1000"])
    pid = int(terminal.expect(r"ready (\d+)", shell).group(1))
    terminal.type("abc")
    said = lambda: "3 bytes that were typed" in box.kage("check", pid).stdout
    wait_until("the notice", said)
    box.snap(pid)
    if "3 bytes typed and not read" not in box.kage("show", "t").stdout:
        raise Failed("kage show does not tell")


TESTS = [
    ("a program that reads lines, as a job of a shell", lines_as_a_job),
    ("one that takes keys", keys_as_a_job),
    ("in a script and in pipelines", in_a_script),
    ("one that was stopped is a stopped job", stopped_image),
    ("when kage dies, the shell has its terminal", kage_dies),
    ("several copies", copies),
    ("an image of a program of kage run", of_kage_run),
    ("with a new PID", new_pid),
    ("a process group that goes on", group_of_others),
    ("--tty: a free terminal", on_a_named_one),
    ("--tty: a terminal of others", on_one_of_others),
    ("on a terminal that controls nobody", on_a_plain_one),
    ("--tty new in a script", on_a_new_one),
    ("one that takes keys, without a terminal", keys_without),
    ("one that reads lines, without a terminal", lines_without),
    ("--tty: what is no terminal", what_is_no_terminal),
    ("typed and not read", typed_and_not_read),
]


def main():
    tap = Tap()
    need("setsid", "bash")
    for name, function in TESTS:
        if len(sys.argv) > 1 and not any(word in function.__name__ for word in sys.argv[1:]):
            continue
        with Sandbox() as box:
            tap.run(name, function, box)
    tap.done()


if __name__ == "__main__":
    main()
