"""The disk behind an IOMMU: the guest restarts, then the machine is reset in mid-transfer, and mappings start anew."""

from guestlab.lab import Lab
from guestlab.workloads import check_group, file_round_trip


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, iommu=lab.any_iommu.strict, resets_allowed=True))
    guest.expect_ok("dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=8 seek=64 oflag=direct conv=fsync 2>&1")
    written = guest.sha256_of_area("/dev/nvme0n1", 64, 8)
    guest.reboot()
    check_group(lab, guest, "DMA")
    read = guest.sha256_of_area("/dev/nvme0n1", 64, 8)
    lab.check_equal("SHA-256 of what the guest reads after its restart", read, written)
    guest.expect_quiet_kernel()

    guest.start("while :; do dd if=/dev/zero of=/dev/nvme0n1 bs=1M count=32 oflag=direct; done")
    guest.expect_ok("sleep 0.5", is_shown=False)
    guest.machine_reset()
    check_group(lab, guest, "DMA")
    read = guest.sha256_of_area("/dev/nvme0n1", 64, 8)
    lab.check_equal("SHA-256 of what it reads after the machine's reset", read, written)
    file_round_trip(lab, guest, disk, mebibytes=8)
