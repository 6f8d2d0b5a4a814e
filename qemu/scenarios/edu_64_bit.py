"""The educational device with --dma-mask 64: DMA to addresses above 4 GiB."""

from guestlab.lab import Lab
from guestlab.strays import told_of
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE


def run(lab: Lab) -> None:
    guest = lab.boot(lab.machine(lab.edu(dma_mask=64), iommu=lab.any_iommu, modules=IN_USER_SPACE))
    guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
    guest.expect_ok(f"edu-test {FIRST_DEVICE} msi 0x1234560000")
    guest.expect_quiet_kernel(told_of(FIRST_DEVICE))
    guest.power_off()
