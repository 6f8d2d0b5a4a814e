"""The educational device: factorials, DMA both ways and interrupts, with INTx and with MSI."""

from guestlab.guest import Guest, Machine
from guestlab.lab import Lab

ADDRESS = "0000:00:03.0"
# The guest's program is a driver in user space. It needs an IOMMU for VFIO, and gives the device addresses that it
# chooses itself, so a transfer that ignores a map or an unmap does not go unseen.
IN_USER_SPACE = ["vfio_iommu_type1", "vfio_pci"]


def run(lab: Lab) -> None:
    guest = lab.guest(lab.edu(), iommu=True, modules=IN_USER_SPACE)
    guest.expect_ok(f"lspci -vv -s {ADDRESS}")
    guest.expect_ok(f"vfio-bind {ADDRESS}")
    for interrupt in ("intx", "msi", "intx"):
        _drive(lab, guest, interrupt)
    guest.expect_quiet_kernel()
    guest.power_off()


def _drive(lab: Lab, guest: Guest, interrupt: str) -> None:
    before = _interrupts(guest, interrupt)
    output = guest.expect_ok(f"edu-test {ADDRESS} {interrupt} & wait $!")
    lab.check(output.count("ok: interrupt") == 7, f"7 interrupts reached the program by {interrupt.upper()}")
    lab.check(before is not None, f"the guest's kernel knows of {interrupt.upper()}")


def _interrupts(guest: Guest, interrupt: str) -> str | None:
    return guest.expect_ok("grep -c vfio /proc/interrupts; true")


def shell(lab: Lab) -> Machine:
    return lab.machine_for_a_person(lab.edu(), iommu=True, modules=IN_USER_SPACE)
