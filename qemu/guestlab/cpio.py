"""A writer of cpio archives in the "newc" format, which is what Linux unpacks as its first file system.

Written here because it can then name devices and owners without being root, and gives the same bytes for the same
content. Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from pathlib import Path


class CPIOArchive:
    """Files, directories, symbolic links and character devices, owned by root; parents are added as needed."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._names: set[str] = set()

    def add_directory(self, name: str) -> None:
        if name in ("", ".") or name in self._names:
            return
        self._add_parents(name)
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def add_file(self, name: str, content: bytes, mode: int = 0o755) -> None:
        if name in self._names:
            return
        self._add_parents(name)
        self._add(name, stat.S_IFREG | mode, content)

    def add_link(self, name: str, target: str) -> None:
        if name in self._names:
            return
        self._add_parents(name)
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def add_character_device(self, name: str, major: int, minor: int) -> None:
        self._add_parents(name)
        self._add(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def contains(self, name: str) -> bool:
        return name in self._names

    def finished(self) -> bytes:
        """The archive's bytes; more archives may follow them in one initramfs."""
        self._add("TRAILER!!!", 0, b"")
        self._bytes += bytes(-len(self._bytes) % 512)
        return bytes(self._bytes)

    def _add_parents(self, name: str) -> None:
        self.add_directory(str(Path(name).parent))

    def _add(self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._names.add(name)
        # inode, mode, uid, gid, links, mtime, size, device (2), device of a node (2), size of the name, checksum
        fields = (len(self._names), mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
        self._bytes += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        self._bytes += bytes(-len(self._bytes) % 4) + content
        self._bytes += bytes(-len(self._bytes) % 4)
