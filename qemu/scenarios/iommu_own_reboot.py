"""The disk behind the backend's own IOMMU: the guest restarts, and the machine is reset in mid-transfer."""

from guestlab.iommu import own_iommu
from guestlab.lab import Lab
from guestlab.workloads import restarts


def run(lab: Lab) -> None:
    restarts(lab, own_iommu().strict)
