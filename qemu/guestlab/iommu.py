"""The IOMMUs that can stand between the guest's memory and the devices under test.

`qemu/run --iommu NAME` puts one into every scenario that does not insist on another.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guestlab.kernel import CLOUD, COMPLETE, Flavour


@dataclass(frozen=True)
class IOMMU:
    """What a machine needs for one: QEMU's arguments, which come before the devices', and the kernel's part."""

    title: str
    qemu_arguments: tuple[str, ...] = ()
    kernel_words: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    flavour: Flavour = CLOUD
    # What the kernel calls lazily undone mappings behind it. Where an IOMMU says that it must hear of every mapping, as
    # those do whose tables QEMU shadows, the kernel undoes them strictly whatever it was told.
    lazy_type: str = "DMA-FQ"
    # Of one that is in the backend's process: how a topology describes it. QEMU knows nothing of it.
    own_options: Mapping[str, object] | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is ours, in the process that serves the devices behind it."""
        return self.own_options is not None

    @property
    def strict(self) -> "IOMMU":
        """The same with a kernel whose unmaps have reached the device before the memory is used otherwise."""
        return dataclasses.replace(self, kernel_words=(*self.kernel_words, "iommu.strict=1"))

    @property
    def lazy(self) -> "IOMMU":
        """The same with a kernel that lets unmaps wait for company. This is what Debian's kernels do unasked."""
        return dataclasses.replace(self, kernel_words=(*self.kernel_words, "iommu.strict=0"))


NONE = IOMMU("no IOMMU")


def virtio_iommu(boot_bypass: bool = True) -> IOMMU:
    """QEMU's virtio-iommu. With `boot_bypass` devices reach all memory until the guest's driver takes them over."""
    bypass = "on" if boot_bypass else "off"
    device = f"virtio-iommu-pci,addr=2,boot-bypass={bypass}"
    return IOMMU("QEMU's virtio-iommu", ("-device", device), modules=("virtio_iommu",))


def intel_iommu(options: str = "caching-mode=on") -> IOMMU:
    """QEMU's VT-d. Only in caching mode does the guest's driver announce what it maps, so only then do devices that
    are not part of QEMU learn of it.
    """
    device = ",".join(["intel-iommu", *([options] if options else [])])
    return IOMMU("QEMU's intel-iommu", ("-device", device), kernel_words=("intel_iommu=on",), lazy_type="DMA")


def amd_iommu() -> IOMMU:
    """QEMU's AMD-Vi. Debian's small kernel has no driver for it."""
    arguments = ("-device", "amd-iommu,dma-remap=on")
    return IOMMU("QEMU's amd-iommu", arguments, kernel_words=("amd_iommu=on",), flavour=COMPLETE, lazy_type="DMA")


def own_iommu(boot_bypass: bool = True, **options: object) -> IOMMU:
    """The backend's virtio-iommu. `options` are those of a topology's `iommu`."""
    return IOMMU(
        "the backend's own virtio-iommu", modules=("virtio_iommu",), own_options={"bootBypass": boot_bypass, **options}
    )


# By the names that `--iommu` takes.
CHOICES: dict[str, Callable[[], IOMMU]] = {
    "none": lambda: NONE,
    "qemu": virtio_iommu,
    "intel": intel_iommu,
    "amd": amd_iommu,
    "backend": own_iommu,
}
