"""The disk behind an IOMMU whose unmaps are strict: every transfer is mapped for the device."""

from guestlab.lab import Lab
from guestlab.storage import MIB
from guestlab.workloads import check_group, file_round_trip, recorded_mappings

FILE_MIB = 8


def run(lab: Lab) -> None:
    disk = lab.nvme(recording=None if lab.is_reference else lab.directory / "session.recording")
    iommu = lab.any_iommu.strict
    guest = lab.boot(lab.machine(disk, iommu=iommu))
    check_group(lab, guest, "DMA")
    file_round_trip(lab, guest, disk, mebibytes=FILE_MIB)
    if lab.is_reference:
        return
    disk.backend.stop()
    # The firmware's are not among them: it has memory as it is, with offset and address the same.
    sizes = [one.byte_count for one in recorded_mappings(lab, disk.recording) if one.offset != one.address]
    megabytes = sum(sizes) / MIB
    # One of the backend's own is told of mappings by the guest itself, and by no message.
    is_right = megabytes < FILE_MIB if iommu.is_own else megabytes >= 2 * FILE_MIB
    lab.check(is_right, f"{len(sizes)} mappings came by messages, of {megabytes:.0f} MiB in all")
