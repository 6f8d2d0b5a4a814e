"""The disk and the educational device behind QEMU's amd-iommu with dma-remap."""

from guestlab.iommu import amd_iommu
from guestlab.lab import Lab
from guestlab.workloads import disk_and_edu


def run(lab: Lab) -> None:
    disk_and_edu(lab, amd_iommu().strict)
