"""The disk behind an IOMMU with lazy unmaps; then its driver leaves, comes back to an identity mapping, and so on."""

from guestlab.guest import Guest
from guestlab.lab import Lab
from guestlab.workloads import FIRST_DEVICE, change_group, check_group, file_round_trip

DRIVER = "/sys/bus/pci/drivers/nvme"


def run(lab: Lab) -> None:
    disk = lab.nvme()
    iommu = lab.any_iommu.lazy
    guest = lab.boot(lab.machine(disk, iommu=iommu))
    check_group(lab, guest, iommu.lazy_type)
    guest.expect_ok("dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=8 oflag=direct conv=fsync 2>&1")
    written = disk.image.sha256(0, 8 << 20)

    for wanted in ("identity", "DMA", "identity", iommu.lazy_type):
        guest.expect_ok(f"echo {FIRST_DEVICE} >{DRIVER}/unbind")
        change_group(lab, guest, wanted)
        guest.expect_ok(f"echo {FIRST_DEVICE} >{DRIVER}/bind")
        _expect_contents(lab, guest, written)
    file_round_trip(lab, guest, disk, mebibytes=8)


def _expect_contents(lab: Lab, guest: Guest, written: str) -> None:
    guest.wait_until("[ -b /dev/nvme0n1 ]")
    lab.check_equal("SHA-256 of what the guest reads", guest.sha256_of_area("/dev/nvme0n1", 0, 8), written)
