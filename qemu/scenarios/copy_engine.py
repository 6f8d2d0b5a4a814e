"""The copy engine: 64 MiB from one address space to another, each page mapped as it asks for it; and pages refused."""

from guestlab.guest import Machine
from guestlab.lab import Lab
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE


def run(lab: Lab) -> None:
    device = lab.copy_engine()
    guest = lab.boot(lab.machine(device, iommu=lab.any_iommu, modules=IN_USER_SPACE))
    guest.expect_ok(f"lspci -nn -s {FIRST_DEVICE}")
    guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
    guest.expect_ok(f"copy-test {FIRST_DEVICE} copy 64")
    guest.expect_ok(f"copy-test {FIRST_DEVICE} refuse 64")
    guest.expect_quiet_kernel()
    guest.power_off()
    lab.check_quiet_log(device)


def shell(lab: Lab) -> Machine:
    return lab.machine(lab.copy_engine(), iommu=lab.any_iommu, modules=IN_USER_SPACE)
