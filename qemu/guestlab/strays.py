"""Accesses of a device to what is not mapped for it, and who tells of them: the guest's kernel, and the backend's log."""

import re
from pathlib import Path

from guestlab.guest import Guest

# What a device did, and at which address.
Access = tuple[str, int]


def told_of(address: str) -> str:
    """The pattern of the lines by which the guest's kernel tells of what a virtio-iommu keeps from a device.

    QEMU's tells of QEMU's own devices only, ours of all that are behind it.
    """
    return rf"virtio_iommu virtio\d+: \w+ fault from EP {endpoint_number(address)} at "


def endpoint_number(address: str) -> int:
    """The number of a PCI function for an IOMMU."""
    _, bus, device, function = (int(part, 16) for part in re.split("[:.]", address))
    return bus << 8 | device << 3 | function


def printed_strays(output: str) -> set[Access]:
    """What `iommu-test` has a device do that must not arrive."""
    found = re.findall(r"^stray (write|read) (?:to|from) 0x([\da-f]+)$", output, re.MULTILINE)
    return {(what, int(place, 16)) for what, place in found}


def strays_in_kernel_log(guest: Guest, address: str) -> list[Access]:
    """What the guest's kernel has told of a device since it booted; it holds back most of what comes at once."""
    pattern = told_of(address) + r"0x([\da-f]+) \[(R|W)\]"
    found = re.findall(pattern, guest.expect_ok("dmesg", is_shown=False))
    return [("read" if what == "R" else "write", int(place, 16)) for place, what in found]


def strays_in_backend_log(log: Path, address: str, kind: str = "") -> list[Access]:
    """What the backend's log says of a device behind its IOMMU: of all kinds, or of one such as `DMA after unmap`."""
    function = re.escape(address.removeprefix("0000:"))
    pattern = rf" {kind}[^:]*: endpoint {function} (wrote|read) 0x([\da-f]+)"
    verbs = {"wrote": "write", "read": "read"}
    return [(verbs[verb], int(place, 16)) for verb, place in re.findall(pattern, log.read_text(errors="replace"))]
