"""The disk behind QEMU's virtio-iommu without bypass at boot: the firmware cannot read from it, the kernel can."""

from guestlab.iommu import virtio_iommu
from guestlab.lab import Lab
from guestlab.workloads import check_group, file_round_trip, recorded_mappings


def run(lab: Lab) -> None:
    recording = lab.directory / "session.recording"
    disk = lab.nvme(recording=None if lab.is_reference else recording)
    guest = lab.boot(lab.machine(disk, iommu=virtio_iommu(boot_bypass=False).strict))
    check_group(lab, guest, "DMA")
    file_round_trip(lab, guest, disk, mebibytes=8)
    if lab.is_reference:
        return
    disk.backend.stop()
    mappings = recorded_mappings(lab, recording)
    lab.check(len(mappings) > 0, f"the guest's driver made {len(mappings)} mappings")
    is_closed = all(one.offset != one.address for one in mappings)
    lab.check(is_closed, "none was of memory as it is, neither before nor after the driver came")
