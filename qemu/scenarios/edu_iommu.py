"""64 MiB mapped page by page for the educational device: what is mapped it reaches, what is unmapped it does not."""

from guestlab.lab import Lab
from guestlab.strays import told_of
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE, check_pages


def run(lab: Lab) -> None:
    guest = lab.boot(lab.machine(lab.edu(), iommu=lab.any_iommu, modules=IN_USER_SPACE))
    guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
    check_pages(lab, guest, FIRST_DEVICE)
    guest.expect_ok(f"iommu-test {FIRST_DEVICE} --pairs 1024")
    guest.expect_quiet_kernel(told_of(FIRST_DEVICE))
    guest.power_off()
