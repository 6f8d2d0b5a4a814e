"""The disk behind an IOMMU: the guest restarts, then the machine is reset in mid-transfer, and mappings start anew."""

from guestlab.lab import Lab
from guestlab.workloads import restarts


def run(lab: Lab) -> None:
    restarts(lab, lab.any_iommu.strict)
