"""`qemu/run measure`: our NVMe disk and QEMU's own, on the same image, in the same guest, in turn.

`qemu/run measure iommu`: our devices behind nothing and behind IOMMUs whose unmaps are strict, in turn.
"""

import dataclasses
import json
import re
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from guestlab.errors import SetupFailed
from guestlab.iommu import CHOICES, IOMMU, NONE
from guestlab.lab import Lab, Provision
from guestlab.storage import MIB, Image
from guestlab.transcript import Transcript
from guestlab.workloads import IN_USER_SPACE

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


DEPTH_1 = Load("random read, 4 KiB, depth 1", "randread", "4k", 1, "IOPS")
DEPTH_32 = Load("random read, 4 KiB, depth 32", "randread", "4k", 32, "IOPS")
LOADS = (
    Load("sequential read, 128 KiB, depth 8", "read", "128k", 8, "MB/s"),
    Load("sequential write, 128 KiB, depth 8", "write", "128k", 8, "MB/s"),
    DEPTH_1,
    Load("random write, 4 KiB, depth 1", "randwrite", "4k", 1, "IOPS"),
    DEPTH_32,
    Load("random write, 4 KiB, depth 32", "randwrite", "4k", 32, "IOPS"),
)
BOOT = "boot to prompt"
DIGITS = {"s": 1, "µs": 1}

PAIRS = 8192
BATCH = 64
SINGLE = "map and unmap a page, alone"
BATCHED = f"map and unmap a page, {BATCH} at a time"


@dataclass(frozen=True)
class Comparison:
    """What is measured of whom. A guest of a contestant gives some of the values, by their titles."""

    units: dict[str, str]
    contestants: dict[str, Callable[[Path], dict[str, float]]]
    ratios: tuple[tuple[str, str], ...]  # which contestant is divided by which other


def measure(provision: Provision, rounds: int) -> int:
    """Prints a table of medians; nothing passes or fails on a time."""
    _need_our_backend(provision)
    reference = dataclasses.replace(provision, backend=None)
    return _compare(
        Comparison(
            {BOOT: "s", **{load.title: load.unit for load in LOADS}},
            {"outboard": partial(_disk, provision), "QEMU's nvme": partial(_disk, reference)},
            (("outboard", "QEMU's nvme"),),
        ),
        rounds,
    )


def measure_iommu(provision: Provision, rounds: int) -> int:
    """The same for our devices behind different IOMMUs."""
    _need_our_backend(provision)
    iommus = {name: CHOICES[name]() for name in ("none", "qemu", "backend") if name in CHOICES}
    return _compare(
        Comparison(
            {SINGLE: "µs", BATCHED: "µs", DEPTH_1.title: DEPTH_1.unit, DEPTH_32.title: DEPTH_32.unit},
            {name: partial(_confined, provision, iommu) for name, iommu in iommus.items()},
            tuple((name, before) for before, name in pairwise(iommus)),
        ),
        rounds,
    )


def _need_our_backend(provision: Provision) -> None:
    if provision.backend is None:
        raise SetupFailed("measure compares our backend with something else; leave out --reference")


def _compare(comparison: Comparison, rounds: int) -> int:
    names = list(comparison.contestants)
    values: dict[str, dict[str, list[float]]] = {title: {name: [] for name in names} for title in comparison.units}
    with tempfile.TemporaryDirectory(prefix="outboard-") as directory:
        for number in range(rounds):
            # Who goes first changes, so that none always finds a warmer machine.
            for name in names if number % 2 == 0 else reversed(names):
                print(f"round {number + 1} of {rounds}: {name}", flush=True)
                for title, value in comparison.contestants[name](Path(directory)).items():
                    values[title][name].append(value)
    _print_table(comparison, values)
    return 0


def _disk(provision: Provision, directory: Path) -> dict[str, float]:
    """Boots a guest with the disk and puts each load on it once."""
    lab = Lab(provision, directory, Transcript(is_shown=False))
    try:
        _fill(lab.image())
        guest = lab.boot(lab.machine(lab.nvme(), with_fio=True))
        found = {BOOT: guest.boot_seconds}
        for load in LOADS:
            found[load.title] = load.value(guest.expect_ok(load.command(), limit=SECONDS * 4 + 30))
        guest.power_off()
        lab.finish()
        return found
    finally:
        lab.abandon()


def _confined(provision: Provision, iommu: IOMMU, directory: Path) -> dict[str, float]:
    """Boots a guest with both devices behind an IOMMU; reads from one and maps pages for the other."""
    lab = Lab(provision, directory, Transcript(is_shown=False))
    try:
        _fill(lab.image())
        machine = lab.machine(lab.nvme(), lab.edu(), with_fio=True, iommu=iommu.strict, modules=IN_USER_SPACE)
        guest = lab.boot(machine)
        found: dict[str, float] = {}
        for load in (DEPTH_1, DEPTH_32):
            found[load.title] = load.value(guest.expect_ok(load.command(), limit=SECONDS * 4 + 30))
        if iommu != NONE:
            guest.expect_ok("vfio-bind 0000:00:04.0")
            answer = guest.expect_ok(f"iommu-test 0000:00:04.0 --pairs {PAIRS} --batch {BATCH}", limit=120)
            nanoseconds = [int(value) for value in re.findall(r"^pair, .*: (\d+) ns$", answer, re.MULTILINE)]
            found[SINGLE], found[BATCHED] = (value / 1000 for value in nanoseconds)
        guest.power_off()
        lab.finish()
        return found
    finally:
        lab.abandon()


def _fill(image: Image) -> None:
    if not image.path.exists():
        image.fill(IMAGE_BYTES, b"measure!")


def _print_table(comparison: Comparison, values: dict[str, dict[str, list[float]]]) -> None:
    names = list(comparison.contestants)
    ratios = "".join(f" {f'{one} / {other}':>22}" for one, other in comparison.ratios)
    print(f"\n{'median (lowest to highest)':<40}" + "".join(f" {name:>24}" for name in names) + ratios)
    for title, by_name in values.items():
        unit = comparison.units[title]
        line = f"{title + ', ' + unit:<40}"
        for name in names:
            line += f" {_with_spread(by_name[name], DIGITS.get(unit, 0)):>24}"
        for one, other in comparison.ratios:
            line += f" {_ratio(by_name[one], by_name[other]):>22}"
        print(line)


def _with_spread(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _ratio(ones: list[float], others: list[float]) -> str:
    return f"{statistics.median(ones) / statistics.median(others):.2f}" if ones and others else "–"
