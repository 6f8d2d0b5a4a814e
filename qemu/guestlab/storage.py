"""What the host finds in a disk image."""

import hashlib
import os
import subprocess
from pathlib import Path

from guestlab.errors import ScenarioFailed

MIB = 1 << 20


class Image:
    """A raw disk image, looked at from the host's side with nothing of Outboard in between."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def byte_count(self) -> int:
        return self.path.stat().st_size

    @property
    def allocated_bytes(self) -> int:
        """How much of the image takes up space; holes do not. (st_blocks counts units of 512 bytes.)"""
        return self.path.stat().st_blocks * 512

    def create(self, byte_count: int) -> None:
        """An image of holes."""
        with open(self.path, "xb") as file:
            file.truncate(byte_count)

    def fill(self, byte_count: int, pattern: bytes) -> None:
        """An image whose every byte is written, by repeating a pattern."""
        with open(self.path, "xb") as file:
            chunk = (pattern * (MIB // len(pattern) + 1))[: MIB // len(pattern) * len(pattern)]
            remaining = byte_count
            while remaining > 0:
                remaining -= file.write(chunk[:remaining])
            file.flush()
            os.fsync(file.fileno())  # until then the host's file system has not decided what to allocate

    def read(self, offset: int, byte_count: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(byte_count)

    def sha256(self, offset: int = 0, byte_count: int | None = None) -> str:
        """The digest of an area, or of everything."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            file.seek(offset)
            remaining = self.byte_count - offset if byte_count is None else byte_count
            while remaining > 0 and (chunk := file.read(min(MIB, remaining))):
                digest.update(chunk)
                remaining -= len(chunk)
        return digest.hexdigest()

    def sha256_of_file(self, name: str) -> str:
        """The digest of a file in the ext4 file system that fills the image."""
        extracted = self.path.with_suffix(".extracted")
        done = subprocess.run(
            ["debugfs", "-R", f"dump {name} {extracted}", str(self.path)], capture_output=True, text=True
        )
        if not extracted.exists():
            raise ScenarioFailed(f"the image has no file {name}: {done.stderr.strip()}")
        digest = hashlib.sha256(extracted.read_bytes()).hexdigest()
        extracted.unlink()
        return digest

    def check_file_system(self) -> None:
        """Checks the ext4 file system without changing it; fails at the first inconsistency."""
        done = subprocess.run(["e2fsck", "-f", "-n", str(self.path)], capture_output=True, text=True)
        if done.returncode != 0:
            raise ScenarioFailed(f"e2fsck finds faults on the host:\n{done.stdout}{done.stderr}")
