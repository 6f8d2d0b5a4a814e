"""QEMU's monitor: what a person would do to the machine itself, with QMP as in QEMU's docs/interop/qmp-spec.rst."""

import json
import socket
import time
from pathlib import Path

from guestlab.errors import ScenarioFailed

ANSWER_LIMIT = 20.0


class Monitor:
    """A connection to the monitor of a running QEMU. Events are kept until somebody waits for them."""

    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._received = b""
        self._events: list[dict[str, object]] = []
        try:
            self._connection.connect(str(path))
        except OSError as error:
            raise ScenarioFailed(f"QEMU's monitor cannot be reached: {error}") from error
        self._next_message("greet")
        self.execute("qmp_capabilities")

    def close(self) -> None:
        self._connection.close()

    def execute(self, command: str, **arguments: object) -> object:
        """Runs a command of the monitor, which must succeed; returns its answer."""
        request = {"execute": command, "arguments": arguments}
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise ScenarioFailed(f"QEMU's monitor takes no command: {error}") from error
        while "event" in (message := self._next_message(command)):
            self._events.append(message)
        if "error" in message:
            raise ScenarioFailed(f"QEMU refuses {command} {arguments}: {message['error']}")
        return message["return"]

    def wait_for_event(self, name: str, **data: object) -> None:
        """Waits for an event whose data contain these."""
        while True:
            for event in self._events:
                details = event.get("data")
                if event["event"] == name and isinstance(details, dict) and data.items() <= details.items():
                    self._events.remove(event)
                    return
            message = self._next_message(f"event {name}")
            if "event" in message:
                self._events.append(message)

    def _next_message(self, what: str) -> dict[str, object]:
        deadline = time.monotonic() + ANSWER_LIMIT
        while b"\n" not in self._received:
            self._connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                received = self._connection.recv(65536)
            except TimeoutError:
                raise ScenarioFailed(f"QEMU's monitor says nothing for {ANSWER_LIMIT:g} s: {what}") from None
            except OSError as error:
                raise ScenarioFailed(f"QEMU ended during: {what}") from error
            if not received:
                raise ScenarioFailed(f"QEMU ended during: {what}")
            self._received += received
        line, self._received = self._received.split(b"\n", 1)
        message = json.loads(line)
        assert isinstance(message, dict)
        return message
