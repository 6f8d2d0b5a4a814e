"""A disk with blocks of 4096 bytes: the guest sees that size, and a file makes the round trip."""

from guestlab.lab import Lab
from guestlab.workloads import file_round_trip


def run(lab: Lab) -> None:
    disk = lab.nvme(block_size=4096)
    guest = lab.boot(lab.machine(disk))
    lab.check_equal("block size", int(guest.expect_ok("cat /sys/block/nvme0n1/queue/logical_block_size")), 4096)
    lab.check_equal("bytes", int(guest.expect_ok("blockdev --getsize64 /dev/nvme0n1")), disk.image.byte_count)
    guest.expect_failure("dd if=/dev/nvme0n1 of=/dev/null bs=512 count=1 iflag=direct 2>&1")
    file_round_trip(lab, guest, disk)
