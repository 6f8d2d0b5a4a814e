"""What the educational device reaches without a mapping: before the IOMMU's driver comes, and in each type of group."""

from guestlab.iommu import virtio_iommu
from guestlab.lab import Lab
from guestlab.workloads import reach_without_mappings


def run(lab: Lab) -> None:
    reach_without_mappings(lab, virtio_iommu)
