"""A queue pair and an MSI-X vector for each processor: both processors' queues carry I/O and raise interrupts."""

import re

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, processors=2))
    for processor in (0, 1):
        guest.expect_ok(
            f"taskset -c {processor} dd if=/dev/urandom of=/dev/nvme0n1 bs=64k count=64 seek={processor * 64}"
            " oflag=direct 2>&1"
        )
    table = guest.expect_ok("grep nvme /proc/interrupts")
    seen = guest.sha256_of_area("/dev/nvme0n1", 0, 8)
    guest.expect_ok("lspci -vv -s 00:03.0 2>/dev/null | grep MSI-X:")
    guest.expect_quiet_kernel()
    guest.power_off()
    for queue in ("nvme0q0", "nvme0q1", "nvme0q2"):
        counts = [re.findall(r"\d+", line.split(":")[1])[:2] for line in table.splitlines() if line.endswith(queue)]
        lab.check(len(counts) == 1 and sum(map(int, counts[0])) > 0, f"{queue} raised interrupts: {counts}")
    lab.check_equal("SHA-256 of what both wrote", disk.image.sha256(0, 8 << 20), seen)
