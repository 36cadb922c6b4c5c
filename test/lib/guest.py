# SPDX-License-Identifier: Apache-2.0
"""Other kernels: a guest in QEMU, by software emulation, with a kernel of Debian's and files of this machine.

The guest has no disk and no network. Its root is an archive of the programs that are named, with the libraries that they
need; what it says on its serial line is the result.
"""

import glob
import os
import re
import shutil
import stat
import subprocess
import tempfile

from kagetest import Failed, Skip

QEMU = "qemu-system-x86_64"
META = "linux-image-cloud-amd64"


def cache():
    """Where kernels are kept, so that each is fetched once."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(base, "kage-test")
    os.makedirs(folder, exist_ok=True)
    return folder


def newest_package():
    """The package that META stands for, None when apt knows no such thing."""
    done = subprocess.run(["apt-cache", "depends", META], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", done.stdout)
    return found.group(1) if found else None


def download(folder):
    package = newest_package()
    if package is None:
        return "apt knows no " + META
    done = subprocess.run(["apt-get", "download", "-q", package], cwd=folder, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    return None if done.returncode == 0 else done.stdout.strip().splitlines()[-1]


def fetch(folder):
    """Into FOLDER; why not, where that does not work."""
    if not shutil.which("apt-get"):
        return "there is no apt here"
    trouble = download(folder)
    if trouble:
        subprocess.run(["apt-get", "update", "-qq"], stdin=subprocess.DEVNULL, check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        trouble = download(folder)
    return trouble


def kernel():
    """Path of a kernel, older than the one that runs here. Nothing is installed."""
    if not shutil.which(QEMU):
        raise Skip(f"machine: there is no {QEMU}")
    kept = sorted(glob.glob(os.path.join(cache(), "vmlinuz-6.1.*")))
    if kept:
        return kept[-1]
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        trouble = fetch(folder)
        if trouble:
            raise Skip(f"machine: the package of a kernel cannot be had: {trouble}")
        package = glob.glob(os.path.join(folder, "*.deb"))[0]
        subprocess.run(["dpkg", "-x", package, os.path.join(folder, "x")], check=True)
        found = glob.glob(os.path.join(folder, "x/boot/vmlinuz-*"))[0]
        path = os.path.join(cache(), os.path.basename(found))
        os.rename(found, path)
    return path


# --- the archive ---------------------------------------------------------------------------------

def libraries(program):
    done = subprocess.run(["ldd", program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=False)
    return re.findall(r"(/\S+) \(0x", done.stdout)


class Archive:
    """A cpio archive as the kernel unpacks it ("newc": Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self):
        self.parts, self.seen, self.n = [], set(), 0

    def entry(self, name, mode, data=b""):
        name = name.lstrip("/")
        if name in self.seen:
            return
        self.seen.add(name)
        if os.path.dirname(name):
            self.folder(os.path.dirname(name))
        self.n += 1
        fields = (self.n, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        self.parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def folder(self, name):
        self.entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, path, mode=0o755):
        with open(path, "rb") as f:
            self.entry(name, stat.S_IFREG | mode, f.read())

    def program(self, path, name=None):
        """PATH with its libraries, all at their own places; PATH at NAME."""
        self.file(name or path, path)
        for library in libraries(path):
            self.file(library, library)

    def write(self, path):
        self.entry("TRAILER!!!", 0)
        with open(path, "wb") as f:
            f.write(b"".join(self.parts))


# --- running -------------------------------------------------------------------------------------

def run(image, archive, seconds, words=""):
    """Boots kernel IMAGE with ARCHIVE until it ends by itself; what it said."""
    command = [QEMU, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
               "-m", "1536", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
               "-serial", "stdio", "-kernel", image, "-initrd", archive, "-append",
               f"console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init {words}"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as e:
        said = (e.stdout or b"").decode(errors="replace")
        raise Failed(f"the guest did not end within {seconds} s; it said: {said[-3000:]}") from None
    return done.stdout.decode(errors="replace").replace("\r", "")
