"""The disk behind an IOMMU whose unmaps are strict: every transfer is mapped for the device."""

from guestlab.lab import Lab
from guestlab.storage import MIB
from guestlab.workloads import check_group, file_round_trip, recorded_mappings

FILE_MIB = 8


def run(lab: Lab) -> None:
    recording = lab.directory / "session.recording"
    disk = lab.nvme(recording=None if lab.is_reference else recording)
    guest = lab.boot(lab.machine(disk, iommu=lab.any_iommu.strict))
    check_group(lab, guest, "DMA")
    file_round_trip(lab, guest, disk, mebibytes=FILE_MIB)
    if lab.is_reference:
        return
    disk.backend.stop()
    # The firmware's are not among them: it has memory as it is, with offset and address the same.
    sizes = [one.byte_count for one in recorded_mappings(lab, recording) if one.offset != one.address]
    megabytes = sum(sizes) / MIB
    lab.check(megabytes >= 2 * FILE_MIB, f"{len(sizes)} mappings were made, of {megabytes:.0f} MiB in all")
