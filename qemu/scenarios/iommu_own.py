"""The backend's own virtio-iommu: the stock driver takes it, a disk and edu work behind it, strays show in both logs."""

import base64
import re

from guestlab.guest import Guest, Machine
from guestlab.iommu import own_iommu
from guestlab.lab import Lab
from guestlab.strays import strays_in_kernel_log, told_of
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE, check_group, check_pages, file_round_trip

IOMMU = "0000:00:02.0"
EDU = "0000:00:04.0"
VFIO = "/sys/bus/pci/drivers/vfio-pci"

AFTER_UNMAP = re.compile(
    r"warning iommu: DMA after unmap: endpoint 00:04\.0 wrote 0x(?P<address>[\da-f]+),"
    r" mapped [\d.]+ ms before by request (?P<mapped>\d+)"
    r" \(0x(?P<first>[\da-f]+)-0x(?P<last>[\da-f]+) -> 0x[\da-f]+, rw\),"
    r" unmapped [\d.]+ ms before by request (?P<unmapped>\d+) device=edu"
)


def run(lab: Lab) -> None:
    disk, device = lab.nvme(), lab.edu()
    guest = lab.boot(lab.machine(disk, device, iommu=own_iommu().strict, modules=IN_USER_SPACE))
    guest.expect_ok(f"lspci -s {IOMMU}; dmesg | grep 'virtio_iommu virtio0: '")
    table = base64.b64decode(guest.expect_ok("base64 -w 0 /sys/firmware/acpi/tables/VIOT", is_shown=False))
    lab.check_equal("the guest's VIOT", table.hex(), (lab.directory / "viot.bin").read_bytes().hex())
    guest.expect_ok(f"! [ -e /sys/bus/pci/devices/{IOMMU}/iommu_group ]")
    check_group(lab, guest, "DMA")
    guest.expect_ok(f"vfio-bind {EDU}")
    check_group(lab, guest, "DMA", EDU)
    groups = {guest.expect_ok(f"readlink /sys/bus/pci/devices/{one}/iommu_group") for one in (FIRST_DEVICE, EDU)}
    lab.check(len(groups) == 2, "each device has a group for itself")

    guest.expect_ok(f"edu-test {EDU} intx")
    _check_history(lab, guest)
    check_pages(lab, guest, EDU)
    guest.expect_ok(f"echo {EDU} >{VFIO}/unbind && echo {EDU} >{VFIO}/bind")
    guest.expect_ok(f"edu-test {EDU} msi")
    guest.expect_ok(f"iommu-test {EDU} --pairs 1024")
    file_round_trip(lab, guest, disk, mebibytes=8, allowed=(told_of(EDU),))


def _check_history(lab: Lab, guest: Guest) -> None:
    """The program has had the device write to a page after its unmap: both logs say so, ours with the page's history."""
    log = guest.machine.iommu_log
    assert log is not None
    matches = list(AFTER_UNMAP.finditer(log.read_text()))
    lab.check(bool(matches), f"the backend's log: {matches[0][0] if matches else 'no DMA after unmap'}")
    address, first, last = (int(matches[0][name], 16) for name in ("address", "first", "last"))
    lab.check(first <= address <= last, "the page is the one that was written to")
    lab.check(int(matches[0]["mapped"]) < int(matches[0]["unmapped"]), "it was mapped before it was unmapped")
    in_kernel = strays_in_kernel_log(guest, EDU)
    lab.check(("write", address) in in_kernel, f"the guest's kernel tells of a write to 0x{address:x}, too")


def shell(lab: Lab) -> Machine:
    return lab.machine(lab.nvme(), lab.edu(), iommu=own_iommu(), modules=IN_USER_SPACE)
