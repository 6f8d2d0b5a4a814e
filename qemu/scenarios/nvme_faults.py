"""Messages that come in pieces, late and after interruptions, with shared memory and with memory by messages."""

from guestlab.errors import ScenarioSkipped
from guestlab.lab import Lab
from guestlab.workloads import file_round_trip


def run(lab: Lab) -> None:
    if lab.is_reference:
        raise ScenarioSkipped("only what passes between QEMU and a device outside of it can be disturbed")
    # QEMU waits five seconds for an answer, so no delay comes near that.
    faults = "short-reads=30%,short-writes=20%,interruptions=5%,refusals=5%,delays=1%,delay=200us"
    for seed, shares_memory in ((7, True), (8, False)):
        name = f"seed{seed}"
        disk = lab.nvme(name, size="64MiB", faults=f"seed={seed},{faults}")
        guest = lab.boot(lab.machine(disk, shares_memory=shares_memory), name=name)
        guest.expect_ok("nvme reset /dev/nvme0")
        file_round_trip(lab, guest, disk)
