"""64 MiB mapped page by page for the educational device: what is mapped it reaches, what is unmapped it does not."""

import re

from guestlab.guest import Machine
from guestlab.lab import Lab
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE


def run(lab: Lab) -> None:
    guest = lab.boot(_machine(lab))
    guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
    # QEMU's own device takes a tenth of a second for each transfer.
    few = "--every 2048 --strays 4" if lab.is_reference else ""
    output = guest.expect_ok(f"iommu-test {FIRST_DEVICE} {few}")
    count = len(re.findall("stray", output))
    lab.check(count > 16, f"none of {count} stray accesses arrived")
    guest.expect_ok(f"iommu-test {FIRST_DEVICE} --pairs 1024")
    guest.expect_quiet_kernel()
    guest.power_off()


def shell(lab: Lab) -> Machine:
    return _machine(lab)


def _machine(lab: Lab) -> Machine:
    return lab.machine(lab.edu(), iommu=lab.any_iommu, modules=IN_USER_SPACE)
