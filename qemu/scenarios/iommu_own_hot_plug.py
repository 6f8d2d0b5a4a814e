"""A device that is plugged in behind the backend's own IOMMU, taken out, and plugged in again, beside a busy disk."""

from guestlab.iommu import own_iommu
from guestlab.lab import Lab
from guestlab.strays import told_of
from guestlab.workloads import IN_USER_SPACE, check_group, check_pages, file_round_trip

ADDRESS = "0000:01:00.0"


def run(lab: Lab) -> None:
    disk, device = lab.nvme(), lab.edu()
    machine = lab.machine(disk, iommu=own_iommu().strict, modules=IN_USER_SPACE, has_port=True, for_port=device)
    guest = lab.boot(machine)
    guest.expect_ok("dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>&1")
    written = guest.sha256("/tmp/data")
    for number in (1, 2):
        name = f"edu{number}"
        guest.plug(name, device.properties)
        guest.expect_ok(f"vfio-bind {ADDRESS}")
        check_group(lab, guest, "DMA", ADDRESS)
        check_pages(lab, guest, ADDRESS, pages=1024)
        guest.start(f"dd if=/tmp/data of=/dev/nvme0n1 bs=64k seek={number * 128} oflag=direct conv=fsync")
        guest.unplug(name)
        guest.finish_started()
        lab.check(device.backend.is_running, "the backend still runs after the device was unplugged")
        read = guest.sha256_of_area("/dev/nvme0n1", number * 8, 8)
        lab.check_equal("SHA-256 of what went to the disk meanwhile", read, written)
    file_round_trip(lab, guest, disk, mebibytes=8, allowed=(told_of(ADDRESS),))
