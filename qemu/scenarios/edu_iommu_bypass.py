"""What the educational device reaches without a mapping: before the IOMMU's driver comes, and in each type of group."""

import dataclasses

from guestlab.guest import Guest
from guestlab.iommu import virtio_iommu
from guestlab.lab import Lab
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE, change_group, check_group, check_pages

DRIVER = "/sys/bus/pci/drivers/vfio-pci"


def run(lab: Lab) -> None:
    for boot_bypass in (True, False):
        device = lab.edu(dma_mask=64)
        # The driver is loaded later.
        iommu = dataclasses.replace(virtio_iommu(boot_bypass), modules=())
        name = "bypass" if boot_bypass else "closed"
        guest = lab.boot(lab.machine(device, iommu=iommu.strict, modules=IN_USER_SPACE), name=name)
        _expect_to_reach(guest, boot_bypass)
        guest.expect_ok("load virtio_iommu")
        # The kernel asks the IOMMU about a device when a driver is found for it.
        guest.expect_ok(f"! [ -e /sys/bus/pci/devices/{FIRST_DEVICE}/iommu_group ]")
        _expect_to_reach(guest, boot_bypass)
        guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
        check_group(lab, guest, "DMA")
        guest.expect_ok(f"echo {FIRST_DEVICE} >{DRIVER}/unbind")
        _expect_to_reach(guest, False)
        for wanted in ("DMA-FQ", "identity", "DMA", "identity"):
            change_group(lab, guest, wanted)
            _expect_to_reach(guest, wanted == "identity")
        # A program brings mappings of its own; when it has gone, the device is back where it was.
        guest.expect_ok(f"echo {FIRST_DEVICE} >{DRIVER}/bind")
        check_pages(lab, guest, FIRST_DEVICE, pages=64)
        guest.expect_ok(f"echo {FIRST_DEVICE} >{DRIVER}/unbind")
        _expect_to_reach(guest, True)
        guest.expect_quiet_kernel()
        guest.power_off()
        if device.served_by is not None:
            device.served_by.stop()


def _expect_to_reach(guest: Guest, reaches: bool) -> None:
    guest.expect_ok(f"bypass-test {FIRST_DEVICE} {'reaches' if reaches else 'does-not-reach'}")
