"""What the educational device reaches behind the backend's own IOMMU without a mapping: at boot, in each type of group."""

from guestlab.iommu import own_iommu
from guestlab.lab import Lab
from guestlab.workloads import reach_without_mappings


def run(lab: Lab) -> None:
    reach_without_mappings(lab, own_iommu)
