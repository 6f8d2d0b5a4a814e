"""The disk and the educational device behind QEMU's intel-iommu in caching mode."""

from guestlab.iommu import intel_iommu
from guestlab.lab import Lab
from guestlab.workloads import disk_and_edu


def run(lab: Lab) -> None:
    disk_and_edu(lab, intel_iommu().strict)
