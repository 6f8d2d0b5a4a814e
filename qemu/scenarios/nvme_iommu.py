"""The disk behind QEMU's virtio-iommu: every transfer is mapped and unmapped, and data still arrives whole."""

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, iommu=True))
    guest.expect_ok("ls -l /sys/bus/pci/devices/0000:00:03.0/iommu_group")
    guest.expect_ok("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt", limit=120)
    guest.expect_ok("dd if=/dev/urandom of=/mnt/proof bs=1M count=8 2>&1", limit=120)
    written = guest.sha256("/mnt/proof")
    guest.expect_ok("umount /mnt && mount -o ro /dev/nvme0n1 /mnt")
    lab.check_equal("SHA-256 of /proof as read back", guest.sha256("/mnt/proof"), written)
    guest.expect_ok("umount /mnt")
    guest.expect_quiet_kernel()
    guest.power_off()
    disk.image.check_file_system()
    lab.check_equal("SHA-256 of /proof in the image", disk.image.sha256_of_file("/proof"), written)
