"""`qemu/run measure`: our NVMe disk and QEMU's own, on the same image, in the same guest, in turn."""

import dataclasses
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from guestlab.errors import SetupFailed
from guestlab.lab import Lab, Provision
from guestlab.storage import MIB
from guestlab.transcript import Transcript

IMAGE_BYTES = 256 * MIB
SECONDS = 5


@dataclass(frozen=True)
class Load:
    """One fio run: `unit` is what `value` takes out of fio's answer."""

    title: str
    pattern: str
    block_size: str
    depth: int
    unit: str

    def command(self) -> str:
        return (
            f"fio --name=load --filename=/dev/nvme0n1 --rw={self.pattern} --bs={self.block_size}"
            f" --iodepth={self.depth} --ioengine=libaio --direct=1 --time_based --runtime={SECONDS} --ramp_time=1"
            " --norandommap --randrepeat=1 --output-format=json"
        )

    def value(self, answer: str) -> float:
        job = json.loads(answer[answer.index("{") :])["jobs"][0]
        side = job["write" if "write" in self.pattern else "read"]
        return float(side["bw_bytes"] / 1e6 if self.unit == "MB/s" else side["iops"])


LOADS = (
    Load("sequential read, 128 KiB, depth 8", "read", "128k", 8, "MB/s"),
    Load("sequential write, 128 KiB, depth 8", "write", "128k", 8, "MB/s"),
    Load("random read, 4 KiB, depth 1", "randread", "4k", 1, "IOPS"),
    Load("random write, 4 KiB, depth 1", "randwrite", "4k", 1, "IOPS"),
    Load("random read, 4 KiB, depth 32", "randread", "4k", 32, "IOPS"),
    Load("random write, 4 KiB, depth 32", "randwrite", "4k", 32, "IOPS"),
)
BOOT = "boot to prompt"
UNITS = {BOOT: "s", **{load.title: load.unit for load in LOADS}}


def measure(provision: Provision, rounds: int) -> int:
    """Prints a table of medians; nothing passes or fails on a time."""
    if provision.backend is None:
        raise SetupFailed("measure compares our backend with QEMU's own device; leave out --reference")
    contestants = {"outboard": provision, "QEMU's nvme": dataclasses.replace(provision, backend=None)}
    values: dict[str, dict[str, list[float]]] = {title: {name: [] for name in contestants} for title in UNITS}
    with tempfile.TemporaryDirectory(prefix="outboard-") as directory:
        for number in range(rounds):
            # Who goes first changes, so that neither always finds a warmer machine.
            order = list(contestants) if number % 2 == 0 else list(reversed(contestants))
            for name in order:
                print(f"round {number + 1} of {rounds}: {name}", flush=True)
                for title, value in _one_guest(contestants[name], Path(directory)).items():
                    values[title][name].append(value)
    _print_table(list(contestants), values)
    return 0


def _one_guest(provision: Provision, directory: Path) -> dict[str, float]:
    """Boots a guest with the disk and puts each load on it once."""
    lab = Lab(provision, directory, Transcript(is_shown=False))
    try:
        image = lab.image()
        if not image.path.exists():
            image.fill(IMAGE_BYTES, b"measure!")
        guest = lab.boot(lab.machine(lab.nvme(), with_fio=True))
        found = {BOOT: guest.boot_seconds}
        for load in LOADS:
            found[load.title] = load.value(guest.expect_ok(load.command(), limit=SECONDS * 4 + 30))
        guest.power_off()
        lab.finish()
        return found
    finally:
        lab.abandon()


def _print_table(names: list[str], values: dict[str, dict[str, list[float]]]) -> None:
    ours, theirs = names
    print(f"\n{'median (lowest to highest)':<36} {ours:>26} {theirs:>26} {'ratio':>7}")
    for title, by_name in values.items():
        unit = UNITS[title]
        cells = [f"{_with_spread(by_name[name], unit):>26}" for name in names]
        ratio = statistics.median(by_name[ours]) / statistics.median(by_name[theirs])
        print(f"{title + ', ' + unit:<36} {cells[0]} {cells[1]} {ratio:>7.2f}")


def _with_spread(values: list[float], unit: str) -> str:
    digits = 1 if unit == "s" else 0
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
