"""The cache: what was fetched or built once and is used by every later run.

Each entry is a directory or a file that appears under its name only when it is complete: it is made beside its place
and renamed. A run that is killed leaves at most a `partial-…` directory, which the next run removes.
"""

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT_SECONDS = 14 * 24 * 3600


class Cache:
    """A directory of complete entries, shared by runs at the same time through a lock."""

    def __init__(self) -> None:
        self.directory = Path(os.environ.get("OUTBOARD_CACHE") or REPOSITORY / ".cache").resolve()
        self.directory.mkdir(parents=True, exist_ok=True)

    def entry(self, name: str, make: Callable[[Path], None]) -> Path:
        """The path of an entry, made by `make(path)` if it is not there yet.

        `make` gets a path in an empty directory, and must create a file or a directory there.
        """
        path = self.directory / name
        if path.exists():
            os.utime(path)
            return path
        with open(self.directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path
            for leftover in self.directory.glob("partial-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            self._forget_unused()
            partial = Path(tempfile.mkdtemp(prefix="partial-", dir=self.directory))
            try:
                make(partial / name)
                (partial / name).rename(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return path

    def _forget_unused(self) -> None:
        """Removes files that no run has used for a while, such as an initramfs made of older sources."""
        for entry in self.directory.iterdir():
            if entry.is_file() and time.time() - entry.stat().st_mtime > KEPT_SECONDS:
                entry.unlink()


def say(text: str) -> None:
    """Tells the user what the preparation does, on standard error."""
    print(f"qemu/run: {text}", file=sys.stderr, flush=True)
