"""A file system on an NVMe disk: the guest makes it and writes, the host finds the bytes in the image."""

from guestlab.guest import Machine
from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk))
    guest.expect_ok("nvme list")
    guest.expect_ok("mkfs.ext4 -q /dev/nvme0n1")
    guest.expect_ok("mount /dev/nvme0n1 /mnt")
    guest.expect_ok("dd if=/dev/urandom of=/mnt/proof bs=1M count=32 2>&1")
    written = guest.sha256("/mnt/proof")
    guest.expect_ok("umount /mnt")
    guest.expect_ok("mount -o ro /dev/nvme0n1 /mnt")
    read_back = guest.sha256("/mnt/proof")
    guest.expect_ok("umount /mnt")
    guest.expect_quiet_kernel()
    guest.power_off()

    lab.check_equal("SHA-256 of /proof as read back", read_back, written)
    disk.image.check_file_system()
    lab.check_equal("SHA-256 of /proof in the image", disk.image.sha256_of_file("/proof"), written)


def shell(lab: Lab) -> Machine:
    return lab.machine(lab.nvme(), with_fio=True)
