"""`outboard serve` as a process beside the guest."""

import os
import select
import signal
import subprocess
import time
from pathlib import Path

from guestlab.errors import ScenarioFailed
from guestlab.processes import Child

START_LIMIT = 30.0
STOP_LIMIT = 20.0


class Backend:
    """One `outboard serve`. It listens once `start` has returned, and may be started again after its end.

    `command` is its command line, `sockets` are where it listens, and `log` is where its standard error goes.
    """

    def __init__(self, command: list[str], sockets: list[Path], log: Path) -> None:
        self.command = command
        self.sockets = sockets
        self.log = log
        self._child: Child | None = None

    def start(self) -> None:
        """Starts it and waits until it has said on standard output that it listens.

        That is a line for each socket, and one more for all where there are several.
        """
        self._child = Child(self.command, self.log, stdout=subprocess.PIPE)
        output = self._child.process.stdout
        assert output is not None
        deadline = time.monotonic() + START_LIMIT
        lines = 1 if len(self.sockets) == 1 else len(self.sockets) + 1
        said = b""
        while said.count(b"\n") < lines:
            if not select.select([output], [], [], max(0, deadline - time.monotonic()))[0]:
                raise ScenarioFailed(f"the backend did not say within {START_LIMIT:g} s that it listens")
            byte = os.read(output.fileno(), 1)
            if not byte:
                status = self._child.wait(STOP_LIMIT, "the backend")
                raise ScenarioFailed(f"the backend ended with status {status} before it listened")
            said += byte

    @property
    def is_started(self) -> bool:
        """Whether it was started and neither stopped nor killed by us since; it may have ended by itself."""
        return self._child is not None

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.is_running

    def stop(self) -> None:
        """SIGTERM; it must end with status 0, without a signal of its own, and leave no socket."""
        if self._child is None:
            return
        child, self._child = self._child, None
        if not child.is_running:
            raise ScenarioFailed(f"the backend had ended by itself with status {child.process.returncode}")
        child.process.send_signal(signal.SIGTERM)
        status = child.wait(STOP_LIMIT, "the backend after SIGTERM")
        child.kill()
        if status != 0:
            raise ScenarioFailed(f"the backend ended with status {status} after SIGTERM, not 0")
        for path in self.sockets:
            if path.exists():
                raise ScenarioFailed(f"the backend left its socket {path} behind")

    def kill(self) -> None:
        """`kill -9`, with whatever it is doing."""
        if self._child is not None:
            self._child.kill()
            self._child = None
