"""The host's side of the commands that a guest obeys over its second serial port; qemu/guest/commands is the other."""

import base64
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from guestlab.errors import ScenarioFailed


class CommandChannel:
    """A UNIX socket that QEMU connects the guest's serial port to. Bytes arrive in order; every wait has a limit.

    `is_alive` says whether QEMU still runs, so that its end is noticed at once and not when the limit is over.
    """

    def __init__(self, path: Path, is_alive: Callable[[], bool]) -> None:
        self._is_alive = is_alive
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._connection: socket.socket | None = None
        self._received = b""
        self._commands = 0

    def close(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def wait_until_ready(self, limit: float) -> None:
        """Waits until the guest has booted: until it says that it obeys commands, which it does once per boot."""
        deadline = time.monotonic() + limit
        while self._connection is None:
            self._listener.settimeout(0.1)
            try:
                self._connection = self._listener.accept()[0]
            except TimeoutError:
                self._check(deadline, "connect its serial port")
        self._receive_until(re.compile(rb"ready [\d.]+\n"), deadline, "boot")

    def run(self, command: str, limit: float) -> tuple[int, str]:
        """Runs a shell command in the guest; returns its exit status and all it printed."""
        self._commands += 1
        token = f"done-{self._commands}"
        self.send(f"{token} {base64.b64encode(command.encode()).decode()}\n")
        end = re.compile(rb"\n%s (\d+)\n" % token.encode())
        output, match = self._receive_until(end, time.monotonic() + limit, f"finish: {command}")
        return int(match.group(1)), output.decode(errors="replace")

    def send_without_answer(self, command: str) -> None:
        """Starts a shell command that the guest will not live to answer."""
        self.send(f"- {base64.b64encode(command.encode()).decode()}\n")

    def send(self, line: str) -> None:
        if self._connection is None:
            raise ScenarioFailed("the guest has not booted")
        try:
            self._connection.settimeout(10)
            self._connection.sendall(line.encode())
        except OSError as error:
            raise ScenarioFailed(f"the guest takes no command: {error}") from error

    def _receive_until(self, pattern: re.Pattern[bytes], deadline: float, what: str) -> tuple[bytes, re.Match[bytes]]:
        """What arrives before the pattern, and its match; what follows stays for the next time."""
        assert self._connection is not None
        while (match := pattern.search(self._received)) is None:
            self._connection.settimeout(0.1)
            try:
                received = self._connection.recv(65536)
            except TimeoutError:
                received = None
            except OSError as error:
                raise ScenarioFailed(f"QEMU ended; the guest did not {what}") from error
            if received == b"":
                raise ScenarioFailed(f"QEMU ended; the guest did not {what}")
            self._received += received or b""
            self._check(deadline, what)
        before, self._received = self._received[: match.start()], self._received[match.end() :]
        return before, match

    def _check(self, deadline: float, what: str) -> None:
        if not self._is_alive():
            raise ScenarioFailed(f"QEMU ended; the guest did not {what}")
        if time.monotonic() > deadline:
            said = self._received[-2000:].decode(errors="replace").strip()
            raise ScenarioFailed(f"the guest did not {what} in time" + (f"; it said: {said}" if said else ""))
