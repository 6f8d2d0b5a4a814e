"""The guest's kernel: Debian's small one for virtual machines, as an ELF file, and the modules that scenarios load."""

import re
import struct
import subprocess
import zlib
from pathlib import Path

from guestlab.cache import Cache, say
from guestlab.debian import RELEASE, PrivateArchive
from guestlab.errors import Unavailable

# Loaded by name in the guest, with what they depend on. The nvme driver and ext4 are built into this kernel.
MODULES = ("virtio_iommu", "vfio_iommu_type1", "vfio_pci", "virtio_rng")


class Kernel:
    """`vmlinux`, and `modules/`: for each of MODULES a list of files to insert, in order, and the files."""

    def __init__(self, cache: Cache) -> None:
        # Modules are taken from the package only when it is unpacked, so another list of them is another entry.
        modules = zlib.crc32(" ".join(MODULES).encode())
        self.directory = cache.entry(f"kernel-{RELEASE}-{modules:08x}", _fetch)
        self.image = self.directory / "vmlinux"
        self.modules = self.directory / "modules"


def _fetch(path: Path) -> None:
    say(f"fetching the guest's kernel, 35 MB (once, to {path.parent.parent})")
    archive = PrivateArchive(path.parent / "apt")
    package = archive.dependency("linux-image-cloud-amd64", r"linux-image-\S+-cloud-amd64")
    root = path.parent / "root"
    archive.unpack_alone(package, root)
    path.mkdir()
    [compressed] = (root / "boot").glob("vmlinuz-*")
    (path / "vmlinux").write_bytes(_elf_image(compressed.read_bytes()))
    [tree] = [*root.glob("usr/lib/modules/*"), *root.glob("lib/modules/*")]
    _collect_modules(tree, path / "modules")


def _elf_image(image: bytes) -> bytes:
    """The ELF file in a bzImage. QEMU enters it directly (PVH), so no code in the guest decompresses anything.

    The setup header (Documentation/arch/x86/boot.rst) has the number of setup sectors at 0x1f1, the payload's offset
    behind them and its length at 0x248. Four bytes at the payload's end are the uncompressed length.
    """
    setup_size = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup_size + offset : setup_size + offset + length]
    decompressors = {
        b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"],
        b"\xfd7zXZ": ["xz", "-dcq", "--single-stream"],
    }
    for magic, command in decompressors.items():
        if payload.startswith(magic):
            # The length behind the stream makes the decompressors complain after they have written everything.
            elf = subprocess.run(command, input=payload, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            if len(elf) == struct.unpack("<I", payload[-4:])[0]:
                return elf
    raise Unavailable("the guest's kernel is compressed in a way that is not known here")


def _collect_modules(tree: Path, target: Path) -> None:
    """Unpacks MODULES and what they depend on, and writes for each the list that `load` in the guest follows."""
    target.mkdir()
    files = {file.name.split(".")[0].replace("-", "_"): file for file in tree.rglob("*.ko*")}

    def insertion_order(name: str) -> list[str]:
        unpacked = target / f"{name}.ko"
        if not unpacked.exists():
            source = files[name]
            if source.suffix == ".xz":
                with open(unpacked, "wb") as output:
                    subprocess.run(["xz", "-dc", source], check=True, stdout=output)
            else:
                unpacked.write_bytes(source.read_bytes())
        depends = re.search(rb"\0depends=([^\0]*)\0", unpacked.read_bytes())
        names = depends.group(1).decode().split(",") if depends and depends.group(1) else []
        order: list[str] = []
        for needed in names:
            order += [one for one in insertion_order(needed.replace("-", "_")) if one not in order]
        return [*order, name]

    for name in MODULES:
        (target / name).write_text("".join(f"/modules/{one}.ko\n" for one in insertion_order(name)))
