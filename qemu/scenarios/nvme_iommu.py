"""The disk behind QEMU's virtio-iommu: every transfer is mapped and unmapped."""

from guestlab.iommu import virtio_iommu
from guestlab.lab import Lab
from guestlab.workloads import file_round_trip


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, iommu=virtio_iommu()))
    guest.expect_ok("ls -l /sys/bus/pci/devices/0000:00:03.0/iommu_group")
    file_round_trip(lab, guest, disk, mebibytes=8)
