"""The guest's file system: busybox, the tools that scenarios use, the files of qemu/guest, all in memory."""

import hashlib
import subprocess
from pathlib import Path

from guestlab.cache import REPOSITORY, Cache, say
from guestlab.cpio import CPIOArchive
from guestlab.debian import LIBRARIES, RELEASE, PrivateArchive, shared_libraries
from guestlab.errors import SetupFailed
from guestlab.kernel import Flavour, Kernel

GUEST_FILES = REPOSITORY / "qemu/guest"

_PACKAGES = ["bash", "busybox-static", "coreutils", "e2fsprogs", "fio", "nvme-cli", "pciutils", "util-linux"]
_TOOLS = [
    "usr/bin/bash",
    "usr/bin/dd",
    "usr/bin/lspci",
    "usr/sbin/blkdiscard",
    "usr/sbin/e2fsck",
    "usr/sbin/mke2fs",
    "usr/sbin/nvme",
]
_LINKS = {
    # Not busybox's shell, which runs its own dd, blkdiscard and so on whatever lies in PATH.
    "usr/bin/sh": "bash",
    "usr/sbin/fsck.ext4": "e2fsck",
    "usr/sbin/mkfs.ext4": "mke2fs",
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": LIBRARIES,
}
_DATA = ["etc/mke2fs.conf", "usr/share/misc/pci.ids"]


class GuestSystem:
    """A kernel and two file systems for it: `base` is what most scenarios need, `with_fio` adds fio, whose libraries
    are four times as large.
    """

    def __init__(self, cache: Cache, flavour: Flavour) -> None:
        kernel = Kernel(cache, flavour)
        self.flavour = flavour
        self.kernel = kernel.image
        packages = hashlib.sha256(" ".join(_PACKAGES).encode()).hexdigest()[:8]
        tools = cache.entry(f"guest-tools-{RELEASE}-{packages}", _fetch_tools)
        sources = sorted(file for file in [*GUEST_FILES.iterdir(), Path(__file__)] if file.is_file())
        content = hashlib.sha256(b"".join(file.name.encode() + b"\0" + file.read_bytes() for file in sources))
        content.update(repr(flavour).encode())
        name = content.hexdigest()[:16]
        self.base = cache.entry(f"initramfs-{name}.cpio", lambda path: _build_base(path, tools, kernel))
        self.with_fio = cache.entry(f"initramfs-fio-{name}.cpio", lambda path: _build_fio(path, tools, self.base))


class GuestSystems:
    """The systems of a run, each fetched and built when it is first asked for."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._systems: dict[Flavour, GuestSystem] = {}

    def __getitem__(self, flavour: Flavour) -> GuestSystem:
        if flavour not in self._systems:
            self._systems[flavour] = GuestSystem(self._cache, flavour)
        return self._systems[flavour]


def _fetch_tools(path: Path) -> None:
    say(f"fetching the guest's programs, 70 MB (once, to {path.parent.parent})")
    PrivateArchive(path.parent / "apt").unpack_with_dependencies(_PACKAGES, path)


def _build_base(path: Path, tools: Path, kernel: Kernel) -> None:
    archive = CPIOArchive()
    for directory in ("dev", "proc", "sys", "tmp", "run", "mnt", "root", "modules", "usr/bin", "usr/sbin", LIBRARIES):
        archive.add_directory(directory)
    archive.add_character_device("dev/console", 5, 1)
    for name, target in _LINKS.items():
        archive.add_link(name, target)
    for tool in _TOOLS:
        _add_program(archive, tools, tools / tool)
    for data in _DATA:
        archive.add_file(data, (tools / data).read_bytes(), 0o644)
    for module in sorted(kernel.modules.iterdir()):
        archive.add_file(f"modules/{module.name}", module.read_bytes(), 0o644)
    for source in sorted(GUEST_FILES.iterdir()):
        if source.name.endswith("-test.c"):
            archive.add_file(f"usr/bin/{source.stem}", _compiled(source, path.parent))
        elif source.suffix in (".c", ".h"):
            continue  # what the programs share
        elif source.name == "init":
            archive.add_file("init", source.read_bytes())
        else:
            archive.add_file(f"usr/bin/{source.name}", source.read_bytes())
    busybox = tools / "usr/bin/busybox"
    archive.add_file("usr/bin/busybox", busybox.read_bytes())
    # Last, so that a tool of the lists above wins over busybox's smaller one of the same name.
    for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if not archive.contains(f"usr/sbin/{applet}"):
            archive.add_link(f"usr/bin/{applet}", "busybox")
    path.write_bytes(archive.finished())


def _build_fio(path: Path, tools: Path, base: Path) -> None:
    archive = CPIOArchive()
    _add_program(archive, tools, tools / "usr/bin/fio")
    path.write_bytes(base.read_bytes() + archive.finished())


def _add_program(archive: CPIOArchive, tools: Path, program: Path) -> None:
    archive.add_file(str(program.relative_to(tools)), program.read_bytes())
    for library in shared_libraries(tools, program):
        archive.add_file(f"{LIBRARIES}/{library.name}", library.read_bytes())


def _compiled(source: Path, directory: Path) -> bytes:
    """A C program of qemu/guest, linked statically: it runs on a kernel and nothing else."""
    program = directory / source.stem
    shared = [str(file) for file in sorted(GUEST_FILES.glob("*.c")) if not file.name.endswith("-test.c")]
    command = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(program)]
    command += [str(source), *shared]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupFailed(f"{source.name} does not compile:\n{done.stderr}")
    return program.read_bytes()
