"""The educational device: factorials, DMA both ways and interrupts, with INTx and with MSI."""

import re

from guestlab.guest import Guest, Machine
from guestlab.lab import Lab
from guestlab.strays import told_of
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE


def run(lab: Lab) -> None:
    guest = lab.boot(lab.machine(lab.edu(), iommu=lab.any_iommu, modules=IN_USER_SPACE))
    guest.expect_ok(f"lspci -vv -s {FIRST_DEVICE} 2>/dev/null")
    guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
    for kind in ("intx", "msi", "intx"):
        _drive(lab, guest, kind)
    guest.expect_quiet_kernel(told_of(FIRST_DEVICE))
    guest.power_off()


def _drive(lab: Lab, guest: Guest, kind: str) -> None:
    output = guest.expect_ok(f"edu-test {FIRST_DEVICE} {kind}")
    counted = re.search(rf"/proc/interrupts:\s+\d+:\s+(\d+) .*vfio-{kind}", output)
    lab.check(counted is not None, f"the guest's kernel has an interrupt of the kind {kind.upper()}")
    by_kernel, by_program = int(counted.group(1)) if counted else 0, output.count("ok: interrupt")
    # A line that goes down late may be counted by the kernel once more; a message cannot.
    is_right = by_kernel >= by_program if kind == "intx" else by_kernel == by_program
    lab.check(is_right, f"the kernel counted {by_kernel} interrupts by {kind.upper()}, the program {by_program}")


def shell(lab: Lab) -> Machine:
    return lab.machine(lab.edu(), iommu=lab.any_iommu, modules=IN_USER_SPACE)
