#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""sqlite3 in the middle of transactions, its database and journal written since the image; and between
two, killed in a later one whose journal is no part of the image.

The oracle is sqlite: integrity_check, and exactly the rows that its script commits, each once.
"""

import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import Failed, Sandbox, Tap, need, read_or, state_of, wait_until

TRANSACTIONS = 60
ROWS = 4000


def script(mode, rest_after=None):
    """Long transactions that spill into the file before they are committed. With REST_AFTER, work of
    half a second without a transaction after that one."""
    lines = [f"PRAGMA journal_mode={mode};", "PRAGMA cache_size=20;",
             "CREATE TABLE t(n INTEGER PRIMARY KEY, batch INTEGER, text TEXT);",
             "CREATE TABLE sums(batch INTEGER PRIMARY KEY, sum INTEGER);"]
    for b in range(TRANSACTIONS):
        lines += ["BEGIN;",
                  f"WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM c WHERE i<{ROWS - 1}) "
                  f"INSERT INTO t SELECT {b * ROWS}+i, {b}, hex(i*2654435761)||'{'x' * 60}' FROM c;",
                  f"UPDATE t SET text=lower(text) WHERE batch={b - 1};",
                  f"INSERT INTO sums SELECT {b}, sum(n) FROM t WHERE batch={b};", "COMMIT;",
                  f".print committed {b}"]
        if b == rest_after:
            lines += ["WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM c WHERE i<4000000) "
                      "SELECT 'rested' FROM c WHERE i=4000000;"]
    return "\n".join(lines) + "\n.exit\n"


def question(box, sql):
    done = subprocess.run(["sqlite3", box.path("db"), sql], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise Failed(f"{sql}: {done.stderr}")
    return done.stdout.strip()


def judge(box):
    if question(box, "PRAGMA integrity_check") != "ok":
        raise Failed(question(box, "PRAGMA integrity_check"))
    n = TRANSACTIONS * ROWS
    if question(box, "SELECT count(*), min(n), max(n), sum(n) FROM t") != f"{n}|0|{n - 1}|{n * (n - 1) // 2}":
        raise Failed("rows: " + question(box, "SELECT count(*), min(n), max(n), sum(n) FROM t"))
    wrong = question(box, "SELECT count(*) FROM sums s WHERE sum != (SELECT sum(n) FROM t WHERE "
                          "batch=s.batch)")
    if wrong != "0" or question(box, "SELECT count(*) FROM sums") != str(TRANSACTIONS):
        raise Failed(f"{wrong} batches have wrong sums")
    said = [l for l in box.log().splitlines() if l.startswith("committed")]
    if said != [f"committed {b}" for b in range(TRANSACTIONS)]:
        raise Failed(f"it said {said}")


def images(box, taken, mode):
    need("sqlite3")
    box.write("script", script(mode))
    with open(box.path("script"), "rb") as commands:
        process = box.start(["sqlite3", box.path("db")], stdin=commands)
    side = box.path("db-journal" if mode == "delete" else "db-wal")
    inside = 0
    for at in (5, 15, 25):
        box.wait_log(f"committed {at}\n", process=process)
        wait_until("a transaction", lambda: os.path.exists(side) and os.path.getsize(side) > 0, step=0.0005)
        taken.append(box.snap(process.pid))
        inside += os.path.exists(side)
    print(f"# {inside} of 3 with a {os.path.basename(side)} right after")
    box.wait_log("committed 30\n", process=process)
    process.kill()


def image_at_rest(box, taken):
    """Of a database without a journal. The program is killed with a journal that SQLite would play
    back: it has begun to change the database."""
    need("sqlite3")
    box.write("script", script("delete", rest_after=5))
    with open(box.path("script"), "rb") as commands:
        process = box.start(["sqlite3", box.path("db")], stdin=commands)
    box.wait_log("committed 5\n", process=process)
    image = box.snap(process.pid)
    if "rested" in box.log() or os.path.exists(box.path("db-journal")):
        raise Failed("the image was not taken at rest")

    def in_transaction():
        process.signal(signal.SIGSTOP)
        wait_until("it to stop", lambda: state_of(process.pid) == "T", step=0)
        # The header is zero until all of what is changed is in the journal, and on disk.
        if read_or(box.path("db-journal"), "\0")[:1] not in ("", "\0"):
            return True
        process.signal(signal.SIGCONT)
        return False
    box.wait_log("committed 8\n", process=process)
    wait_until("a transaction that has changed the database", in_transaction, step=0.001)
    process.kill()
    if f"committed {TRANSACTIONS - 1}" in box.log():
        raise Failed("it was killed too late")
    refused = box.kage("restore", image, check=False)
    if refused.returncode != 1 or "--files=restore" not in refused.stderr or \
            len(refused.stderr.splitlines()) != 1:
        raise Failed(f"with the files as they are: {refused.returncode}, {refused.stderr}")
    told = box.kage("check", "--files", "restore", image, check=False).stdout
    if "begun since the image" not in told:
        raise Failed(f"nothing is said of the journal: {told}")
    taken.append(image)


def live_from_rest(box, taken):
    if not taken:
        raise Failed("there is no image")
    life = box.restore(taken[0], "--files", "restore")
    status = life.wait()
    if status != 0:
        raise Failed(f"it ended with {status}: {box.log()[-2000:]}")
    judge(box)


def live_again(box, taken, number):
    if len(taken) < 3:
        raise Failed("there are no three images")
    life = box.restore(taken[number], "--files", "restore")
    status = life.wait()
    if status != 0:
        raise Failed(f"it ended with {status}: {box.log()[-2000:]}")
    judge(box)


def main():
    tap = Tap()
    for mode in ("delete", "wal"):
        with Sandbox() as box:
            taken = []
            tap.run(f"sqlite3, journal_mode={mode}: three images in transactions", images, box, taken, mode)
            for number, what in ((0, "first"), (2, "last"), (1, "middle")):
                tap.run(f"sqlite3, journal_mode={mode}: goes on from the {what} image and commits the rest",
                        live_again, box, taken, number)
    with Sandbox() as box:
        taken = []
        tap.run("sqlite3: an image between transactions", image_at_rest, box, taken)
        tap.run("sqlite3: goes on from there though a later journal was left", live_from_rest, box, taken)
    tap.done()


if __name__ == "__main__":
    main()
