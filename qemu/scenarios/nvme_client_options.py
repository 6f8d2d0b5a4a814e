"""QEMU's client waits for every write (x-no-posted-writes), or collects its messages (x-send-queued)."""

from guestlab.lab import Lab
from guestlab.workloads import file_round_trip


def run(lab: Lab) -> None:
    for option in ("x-no-posted-writes", "x-send-queued"):
        disk = lab.nvme(option, client_options={option: True})
        lab.check(disk.backend.is_running, f"the backend serves a client with {option}=on")
        guest = lab.boot(lab.machine(disk), name=option)
        guest.expect_ok("nvme reset /dev/nvme0")
        file_round_trip(lab, guest, disk)
