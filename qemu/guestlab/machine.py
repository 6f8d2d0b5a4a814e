"""QEMU: the one on PATH if it is new enough, otherwise a private one; and how fast it can run guests here."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from guestlab.cache import Cache, say
from guestlab.debian import BACKPORTS, PrivateArchive, run_in_tree
from guestlab.errors import ScenarioFailed, Unavailable
from guestlab.guest import Guest, Machine
from guestlab.transcript import Transcript

FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
OLDEST = (10, 1, 1)  # vfio-user-pci came with 10.1.0, which has a regression in it
KVM_PROBE_LIMIT = 10.0


class QEMU:
    """How to start QEMU: `command` is what comes before its arguments, `version` for people."""

    def __init__(self, cache: Cache) -> None:
        if platform.machine() != "x86_64":
            raise Unavailable(f"the guest is an x86-64 machine, and this one is {platform.machine()}")
        installed = shutil.which("qemu-system-x86_64")
        if installed and _is_usable([installed]):
            self.command = [installed]
        else:
            root = cache.entry(f"qemu-{BACKPORTS}", _fetch)
            self.command = run_in_tree(root, "usr/bin/qemu-system-x86_64")
            for directory in FIRMWARE:
                self.command += ["-L", str(root / directory)]
            if not _is_usable(self.command):
                raise Unavailable(f"QEMU from {BACKPORTS} does not run or has no vfio-user-pci (see {root})")
        self.version = ".".join(map(str, _version(self.command) or ()))


def _fetch(path: Path) -> None:
    say(f"fetching QEMU, 38 MB (once, to {path.parent.parent})")
    archive = PrivateArchive(path.parent / "apt")
    archive.unpack_with_dependencies(["qemu-system-x86"], path, BACKPORTS)


def _is_usable(command: list[str]) -> bool:
    version = _version(command)
    if version is None or version < OLDEST:
        return False
    devices = subprocess.run([*command, "-device", "help"], capture_output=True, text=True).stdout
    return '"vfio-user-pci"' in devices


def _version(command: list[str]) -> tuple[int, ...] | None:
    try:
        text = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return None
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, match.groups())) if match else None


def kvm_works(cache: Cache, qemu: QEMU, kernel: Path, initramfs: Path) -> bool:
    """Whether the guest boots under KVM, which only a try tells: some hosts have a /dev/kvm that stock kernels hang on.

    The answer holds for one boot of this machine and is cached for it.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def probe(path: Path) -> None:
        machine = Machine(qemu.command, "kvm", kernel, initramfs)
        try:
            guest = Guest("probe", machine, path.parent, Transcript(is_shown=False), boot_limit=KVM_PROBE_LIMIT)
            guest.kill()
            path.write_text("yes")
        except ScenarioFailed as failure:
            say(f"no KVM here: {failure}")
            path.write_text("no")

    return cache.entry(f"kvm-{boot}", probe).read_text() == "yes"
