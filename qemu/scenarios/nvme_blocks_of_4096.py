"""A disk with blocks of 4096 bytes: the guest sees that size, and a file makes the round trip."""

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme(block_size=4096)
    guest = lab.boot(lab.machine(disk))
    lab.check_equal("block size", 4096, int(guest.expect_ok("cat /sys/block/nvme0n1/queue/logical_block_size")))
    lab.check_equal("bytes", disk.image.byte_count, int(guest.expect_ok("blockdev --getsize64 /dev/nvme0n1")))
    guest.expect_ok("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt")
    guest.expect_ok("dd if=/dev/urandom of=/mnt/proof bs=1M count=16 2>&1")
    written = guest.sha256("/mnt/proof")
    guest.expect_ok("umount /mnt")
    guest.expect_failure("dd if=/dev/nvme0n1 of=/dev/null bs=512 count=1 iflag=direct 2>&1")
    guest.expect_quiet_kernel()
    guest.power_off()
    disk.image.check_file_system()
    lab.check_equal("SHA-256 of /proof in the image", disk.image.sha256_of_file("/proof"), written)
