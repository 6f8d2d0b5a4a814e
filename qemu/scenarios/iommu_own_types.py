"""The disk behind the backend's own IOMMU with lazy unmaps, and with each type that its group can have."""

from guestlab.iommu import own_iommu
from guestlab.lab import Lab
from guestlab.workloads import types_of_group


def run(lab: Lab) -> None:
    types_of_group(lab, own_iommu().lazy)
