"""The disk behind an IOMMU with lazy unmaps; then its driver leaves, comes back to an identity mapping, and so on."""

from guestlab.lab import Lab
from guestlab.workloads import types_of_group


def run(lab: Lab) -> None:
    types_of_group(lab, lab.any_iommu.lazy)
