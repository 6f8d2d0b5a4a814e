"""Devices that are put into a running machine behind its IOMMU, and taken out again."""

from guestlab.lab import Lab
from guestlab.workloads import IN_USER_SPACE, check_group, check_pages, file_round_trip

ADDRESS = "0000:01:00.0"


def run(lab: Lab) -> None:
    device, disk = lab.edu(), lab.nvme()
    lab.check(device.backend.is_running and disk.backend.is_running, "the backends wait for a guest")
    guest = lab.boot(lab.machine(iommu=lab.any_iommu.strict, modules=IN_USER_SPACE, has_port=True))
    for round_number in (1, 2):
        name = f"edu{round_number}"
        guest.plug(name, device.properties)
        guest.expect_ok(f"vfio-bind {ADDRESS}")
        check_group(lab, guest, "DMA", ADDRESS)
        check_pages(lab, guest, ADDRESS, pages=1024)
        guest.unplug(name)
        lab.check(device.backend.is_running, "the backend still runs after the device was unplugged")
    # The disk stays in: with MSI-X in use QEMU 11.1 cannot take a device out without ending.
    guest.plug("disk", disk.properties)
    guest.wait_until("[ -b /dev/nvme0n1 ]")
    check_group(lab, guest, "DMA", ADDRESS)
    file_round_trip(lab, guest, disk, mebibytes=8)
