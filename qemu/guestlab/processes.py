"""Child processes that cannot outlive the run, whichever way it ends."""

import ctypes
import signal
import subprocess
from pathlib import Path

from guestlab.errors import ScenarioFailed

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def die_with_the_runner() -> None:
    """Called in a child before its program starts: the kernel kills it when the runner is gone, even by kill -9."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A program with its standard error in a file, and that file's directory to itself, for a core dump if it comes to
    that. It is started from the runner's only thread.
    """

    def __init__(self, command: list[str], errors: Path, stdout: int = subprocess.DEVNULL) -> None:
        self.command = command
        self.errors = errors
        with open(errors, "ab") as error_output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=error_output,
                cwd=errors.parent, start_new_session=True, preexec_fn=die_with_the_runner,
            )  # fmt: skip

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait(self, limit: float, what: str) -> int:
        """The exit status; a program that does not end within the limit is killed and the scenario fails."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ScenarioFailed(f"{what} did not end within {limit:g} s") from None

    def kill(self) -> None:
        """`kill -9`; nothing happens if it has ended already."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
