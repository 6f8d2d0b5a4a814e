"""The copy engine behind the backend's own IOMMU: its address spaces are in front of another one."""

from guestlab.iommu import own_iommu
from guestlab.lab import Lab
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE, check_group


def run(lab: Lab) -> None:
    device = lab.copy_engine()
    guest = lab.boot(lab.machine(device, iommu=own_iommu().strict, modules=IN_USER_SPACE))
    guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
    check_group(lab, guest, "DMA")
    guest.expect_ok(f"copy-test {FIRST_DEVICE} copy 16")
    guest.expect_ok(f"copy-test {FIRST_DEVICE} refuse 2")
    guest.expect_ok(f"copy-storm-test {FIRST_DEVICE} unmap 2")
    guest.expect_ok(f"copy-storm-test {FIRST_DEVICE} reset 2")
    guest.expect_quiet_kernel()
    guest.power_off()
    lab.check_quiet_log(device)
