# SPDX-License-Identifier: Apache-2.0
"""What a file system may hold after a power failure.

Read from the log that test/shim/iolog.c writes. Only this is taken for granted (POSIX, and what Linux's file
systems promise beyond it):

- what was written to a file is there once fsync or fdatasync of that file has returned,
- what was done to names is there once fsync of their directory has returned (of a rename between two: of
  the one that it leads to), and each such operation is there whole or not at all,
- all else may be there or not, in any order; of a write, any of its sectors of 512 bytes.
"""

import os

SECTOR = 512


class Thing:
    """A file, a directory or a symbolic link. Two files are never the same Thing, though the file system
    may give both the same inode number, one after the other."""

    def __init__(self, kind, target=""):
        self.kind, self.target = kind, target
        self.ops = []       # operations on it or in it that no sync covers yet
        self.named = False  # whether it ever had a name: what had none does not outlive its last descriptor


class Op:
    """One operation: WHAT it is, the Thing that it changes (a directory for names), and the index of the
    operation that made it durable."""

    def __init__(self, what, where, **details):
        self.what, self.where, self.durable = what, where, None
        self.thing = self.name = self.to = self.to_name = self.data = None
        self.offset = 0
        self.__dict__.update(details)


class Log:
    """All operations in their order, with the marks that the test put between them."""

    def __init__(self, root):
        self.root = Thing("dir")
        self.root.named = True
        self.numbers = {os.stat(root).st_ino: self.root}
        self.names = {self.root: {}}  # as they are now: for who asks what an operation was about
        self.ops = []
        self.told = []       # indexes: what kage had printed by then was read by somebody
        self.at = 0          # bytes of the log that were read

    def read(self, path):
        """Goes on reading where it ended before."""
        with open(path, "rb") as f:
            f.seek(self.at)
            while True:
                line = f.readline()
                if not line:
                    break
                words = line.decode("utf-8", "surrogateescape").rstrip("\n").split(" ")
                getattr(self, "_" + words[0])(f, *words[1:])
            self.at = f.tell()

    def _add(self, op):
        op.index = len(self.ops)
        self.ops.append(op)
        op.where.ops.append(op)

    def _new(self, ino, kind):
        thing = self.numbers[int(ino)] = Thing(kind)
        if kind == "dir":
            self.names[thing] = {}
        return thing

    def _put(self, what, thing, where, name):
        self._add(Op(what, where, thing=thing, name=name))
        self.names[where][name] = thing
        thing.named = True

    def _create(self, _, ino, where, name):
        self._put("put", self._new(ino, "file"), self.numbers[int(where)], name)

    def _mkdir(self, _, ino, where, name):
        self._put("put", self._new(ino, "dir"), self.numbers[int(where)], name)

    def _nameless(self, _, ino):
        self._new(ino, "file")

    def _link(self, _, ino, where, name):
        self._put("link", self.numbers[int(ino)], self.numbers[int(where)], name)

    def _symlink(self, _, where, name, target):
        self._put("put", Thing("link", target), self.numbers[int(where)], name)

    def _take(self, _, where, name):
        where = self.numbers[int(where)]
        self._add(Op("take", where, thing=self.names[where].pop(name), name=name))

    _unlink = _rmdir = _take

    def _rename(self, _, where, name, to, to_name):
        where, to = self.numbers[int(where)], self.numbers[int(to)]
        thing = self.names[where].pop(name)
        self._add(Op("rename", where, thing=thing, name=name, to=to, to_name=to_name))
        if to is not where:
            where.ops.remove(self.ops[-1])
            to.ops.append(self.ops[-1])
        self.names[to][to_name] = thing

    def _write(self, f, ino, offset, length):
        data = f.read(int(length))
        f.read(1)
        self._add(Op("write", self.numbers[int(ino)], offset=int(offset), data=data))

    def _truncate(self, _, ino, length):
        self._add(Op("truncate", self.numbers[int(ino)], offset=int(length)))

    def _sync(self, _, ino):
        thing = self.numbers[int(ino)]
        now = len(self.ops)
        for op in thing.ops:
            op.durable = now
        thing.ops = []

    def _told(self, _):
        self.told.append(len(self.ops))


# --- states --------------------------------------------------------------------------------------

def torn(op, rng):
    """What is left of a write, as pieces (offset, bytes); what is in none was not written."""
    way = rng.randrange(4)
    end = op.offset + len(op.data)
    if way == 0:
        return [(op.offset, op.data)]
    if way == 1:  # a prefix of it, to the end of a sector
        cut = min(rng.randrange(op.offset, end + SECTOR) // SECTOR * SECTOR, end)
        return [(op.offset, op.data[:max(0, cut - op.offset)])]
    pieces, at = [], op.offset
    if way == 2:  # it was allocated, and is zeros
        pieces.append((op.offset, bytes(len(op.data))))
    while at < end:
        to = min((at // SECTOR + 1) * SECTOR, end)
        if rng.random() < 0.5:
            pieces.append((at, op.data[at - op.offset:to - op.offset]))
        at = to
    return pieces


def chooser(rng):
    """Which of the operations that need not be there are."""
    way = rng.randrange(5)
    if way == 0:
        return "none", lambda i, n: False
    if way == 1:
        return "all", lambda i, n: True
    if way == 2:
        part = rng.random()
        return f"the first {part:.2f}", lambda i, n: i < part * n
    part = rng.choice((0.1, 0.5, 0.9))
    return f"any {part:.2f}", lambda i, n: rng.random() < part


class State:
    """Names and contents after the operations before POINT, of which those that are not durable are there
    as CHOOSE says (None: all of them, whole)."""

    def __init__(self, log, point, choose=None, rng=None):
        self.names = {log.root: {}}
        self.data = {}
        loose = [op for op in log.ops[:point] if op.durable is None or op.durable > point]
        there = {op for i, op in enumerate(loose) if choose is None or choose(i, len(loose))}
        self.dropped = len(loose) - len(there)
        loose = set(loose)
        for op in log.ops[:point]:
            if (op in loose and op not in there) or not op.where.named:
                continue
            if op.what in ("write", "truncate"):
                whole = choose is None or op not in loose
                self.change(op, [(op.offset, op.data)] if whole else None, rng)
            else:
                self.rename(op)

    def change(self, op, pieces, rng):
        bytes_ = self.data.setdefault(op.where, bytearray())
        if op.what == "truncate":
            del bytes_[op.offset:]
            bytes_.extend(bytes(op.offset - len(bytes_)))
            return
        for offset, piece in torn(op, rng) if pieces is None else pieces:
            bytes_.extend(bytes(max(0, offset - len(bytes_))))
            bytes_[offset:offset + len(piece)] = piece

    def rename(self, op):
        names = self.names.setdefault(op.where, {})
        if op.what in ("take", "rename"):
            names.pop(op.name, None)
        if op.what == "rename":
            self.names.setdefault(op.to, {})[op.to_name] = op.thing
        elif op.what != "take":
            names[op.name] = op.thing

    def write(self, log, path):
        """Makes all of it in the folder PATH."""
        self._write(log.root, path, {log.root})

    def _write(self, where, path, above):
        os.makedirs(path, mode=0o700, exist_ok=True)
        for name, thing in self.names.get(where, {}).items():
            at = os.path.join(path, name)
            if thing.kind == "link":
                os.symlink(thing.target, at)
            elif thing.kind == "file":
                with open(at, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as f:
                    f.write(self.data.get(thing, b""))
            elif thing not in above:
                self._write(thing, at, above | {thing})
