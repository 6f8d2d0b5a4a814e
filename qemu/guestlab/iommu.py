"""The IOMMUs that can stand between the guest's memory and the devices under test.

`qemu/run --iommu NAME` puts one into every scenario that does not insist on another.
"""

from collections.abc import Callable
from dataclasses import dataclass

from guestlab.kernel import CLOUD, COMPLETE, Flavour


@dataclass(frozen=True)
class IOMMU:
    """What a machine needs for one: QEMU's arguments, which come before the devices', and the kernel's part."""

    name: str
    qemu_arguments: tuple[str, ...] = ()
    kernel_words: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    flavour: Flavour = CLOUD


NONE = IOMMU("none")


def virtio_iommu(is_strict: bool | None = None, boot_bypass: bool = True, words: tuple[str, ...] = ()) -> IOMMU:
    """QEMU's virtio-iommu. With `boot_bypass` devices reach all memory until the guest's driver takes them over.

    An unmap that is strict has reached the device before the guest uses the memory otherwise; one that is lazy waits
    for company. None leaves the choice to the kernel, and so do the other functions here.
    """
    bypass = "on" if boot_bypass else "off"
    return IOMMU(
        "virtio-iommu",
        ("-device", f"virtio-iommu-pci,addr=2,boot-bypass={bypass}"),
        (*_strictness(is_strict), *words),
        ("virtio_iommu",),
    )


def intel_iommu(is_strict: bool | None = None, options: str = "caching-mode=on") -> IOMMU:
    """QEMU's VT-d. Only in caching mode does the guest's driver announce what it maps, so only then do devices that
    are not part of QEMU learn of it.
    """
    return IOMMU(
        "intel-iommu",
        ("-device", f"intel-iommu,{options}" if options else "intel-iommu"),
        ("intel_iommu=on", *_strictness(is_strict)),
    )


def amd_iommu(is_strict: bool | None = None) -> IOMMU:
    """QEMU's AMD-Vi, whose driver only a kernel with drivers for hardware has."""
    return IOMMU(
        "amd-iommu", ("-device", "amd-iommu,dma-remap=on"), ("amd_iommu=on", *_strictness(is_strict)), flavour=COMPLETE
    )


# By the names that `--iommu` takes.
CHOICES: dict[str, Callable[[], IOMMU]] = {
    "none": lambda: NONE,
    "qemu": virtio_iommu,
    "intel": intel_iommu,
    "amd": amd_iommu,
}


def _strictness(is_strict: bool | None) -> tuple[str, ...]:
    return () if is_strict is None else (f"iommu.strict={int(is_strict)}",)
