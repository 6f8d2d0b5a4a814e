"""The copy engine's page requests when all goes wrong: refused in part, never answered, unmapped meanwhile, reset."""

from guestlab.lab import Lab
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE


def run(lab: Lab) -> None:
    device = lab.copy_engine(page_timeout=1)
    guest = lab.boot(lab.machine(device, iommu=lab.any_iommu, modules=IN_USER_SPACE))
    guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
    guest.expect_ok(f"copy-test {FIRST_DEVICE} partly-refuse")
    guest.expect_ok(f"copy-test {FIRST_DEVICE} never-answer")
    guest.expect_ok(f"copy-storm-test {FIRST_DEVICE} unmap")
    guest.expect_ok(f"copy-storm-test {FIRST_DEVICE} reset")
    guest.expect_quiet_kernel()
    guest.power_off()
    lab.check_quiet_log(device)
