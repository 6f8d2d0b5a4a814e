"""What a scenario tells its reader: what the guest did, what the host found."""

import sys


class Transcript:
    """Lines for a person. Shown as they come, or kept until something fails."""

    def __init__(self, is_shown: bool) -> None:
        self.is_shown = is_shown
        self.lines: list[str] = []

    def guest_command(self, guest: str, command: str) -> None:
        first, *more = command.strip().splitlines()
        self._add(f"{guest + '$':<7} {first}")
        for line in more:
            self._add(f"{'':<7} {line}")

    def guest_output(self, output: str) -> None:
        for line in output.splitlines():
            self._add(f"{'':<7} | {line}")

    def host(self, text: str) -> None:
        self._add(f"host:   {text}")

    def note(self, text: str) -> None:
        self._add(text)

    def _add(self, line: str) -> None:
        self.lines.append(line)
        if self.is_shown:
            print(line, file=sys.stdout, flush=True)
