"""The disk behind an IOMMU whose unmaps are strict: every transfer is mapped for the device, and nothing else is."""

import re

from guestlab.lab import Lab
from guestlab.storage import MIB
from guestlab.workloads import check_group, file_round_trip

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
    # Until the kernel's driver takes over, the firmware has memory as it is: there offset and address are the same.
    mapped = [
        int(size, 16)
        for offset, address, size in re.findall(
            r"C>S DMA_MAP command .* map\.offset=(0x[\da-f]+) map\.address=(0x[\da-f]+) map\.size=(0x[\da-f]+)",
            "\n".join(lab.tool("decode", str(recording))),
        )
        if offset != address
    ]
    megabytes = sum(mapped) / MIB
    lab.check(megabytes >= 2 * FILE_MIB, f"{len(mapped)} mappings were made, of {megabytes:.0f} MiB in all")
