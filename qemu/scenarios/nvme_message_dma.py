"""Guest memory that no descriptor stands for: every byte is transferred by messages."""

from guestlab.errors import ScenarioSkipped
from guestlab.lab import Lab
from guestlab.workloads import file_round_trip


def run(lab: Lab) -> None:
    if lab.is_reference:
        raise ScenarioSkipped("only a device outside QEMU transfers by messages")
    disk = lab.nvme()
    file_round_trip(lab, lab.boot(lab.machine(disk, shares_memory=False)), disk, mebibytes=8)
