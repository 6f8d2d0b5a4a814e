"""The copy engine with nothing in front of it, by physical addresses and without interrupts."""

from guestlab.iommu import NONE
from guestlab.lab import Lab
from guestlab.workloads import FIRST_DEVICE


def run(lab: Lab) -> None:
    device = lab.copy_engine()
    guest = lab.boot(lab.machine(device, iommu=NONE))
    guest.expect_ok(f"copy-test {FIRST_DEVICE} copy 16")
    guest.expect_ok(f"copy-test {FIRST_DEVICE} refuse 2")
    guest.expect_ok(f"copy-storm-test {FIRST_DEVICE} unmap 2")
    guest.expect_ok(f"echo flr >/sys/bus/pci/devices/{FIRST_DEVICE}/reset_method")
    guest.expect_ok(f"copy-storm-test {FIRST_DEVICE} reset 2")
    guest.expect_quiet_kernel()
    guest.power_off()
    lab.check_quiet_log(device)
