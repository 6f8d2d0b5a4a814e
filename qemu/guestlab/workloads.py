"""What guests do in more than one scenario."""

import re
from dataclasses import dataclass
from pathlib import Path

from guestlab.guest import Guest
from guestlab.iommu import IOMMU
from guestlab.lab import Disk, Lab

LOADED_MIB = 32

FIRST_DEVICE = "0000:00:03.0"
# For a driver that is a program in the guest. It gives the device addresses that it chooses itself, so a transfer that
# ignores a map or an unmap does not go unseen.
IN_USER_SPACE = ("vfio_iommu_type1", "vfio_pci")

_VERIFIED = (
    f"fio --name=load --rw=randwrite --bs=4k --size={LOADED_MIB}M --iodepth=16 --ioengine=libaio --direct=1"
    " --verify=crc32c --do_verify=1 --randrepeat=0 --loops=2 --minimal"
)


def start_verified_load(guest: Guest, disk: str) -> None:
    """Writes at random to the first LOADED_MIB of a disk and reads every block back, over and over, until stopped."""
    guest.start(f"until [ -e /tmp/enough ]; do {_VERIFIED} --filename={disk} || exit 1; done")
    guest.expect_ok("sleep 1", is_shown=False)


def stop_verified_load(guest: Guest) -> None:
    """Lets the load end after its current round; every block must have been read back as it was written."""
    guest.expect_ok("touch /tmp/enough", is_shown=False)
    guest.finish_started(limit=120)


def file_round_trip(lab: Lab, guest: Guest, disk: Disk, mebibytes: int = 16) -> None:
    """Makes a file system, writes a file, reads it back in another mount, switches off, and looks into the image."""
    guest.expect_ok("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt")
    guest.expect_ok(f"dd if=/dev/urandom of=/mnt/proof bs=1M count={mebibytes} 2>&1")
    written = guest.sha256("/mnt/proof")
    guest.expect_ok("umount /mnt && mount -o ro /dev/nvme0n1 /mnt")
    lab.check_equal("SHA-256 of /proof as read back", guest.sha256("/mnt/proof"), written)
    guest.expect_ok("umount /mnt")
    guest.expect_quiet_kernel()
    guest.power_off()
    disk.image.check_file_system()
    lab.check_equal("SHA-256 of /proof in the image", disk.image.sha256_of_file("/proof"), written)


@dataclass(frozen=True)
class Mapping:
    """A mapping that a client asked for: `offset` is where it lies in the file that is the guest's memory."""

    offset: int
    address: int
    byte_count: int


def recorded_mappings(lab: Lab, recording: Path) -> list[Mapping]:
    """All mappings of a recorded session, in order."""
    line = r"C>S DMA_MAP command .* map\.offset=(0x[\da-f]+) map\.address=(0x[\da-f]+) map\.size=(0x[\da-f]+)"
    found = re.findall(line, "\n".join(lab.tool("decode", str(recording))))
    return [Mapping(*(int(field, 16) for field in fields)) for fields in found]


def check_group(lab: Lab, guest: Guest, expected: str, address: str = FIRST_DEVICE) -> None:
    """Holds what the guest's kernel does with a device's addresses against one of its words for it.

    `DMA` are mappings that are strictly undone, `DMA-FQ` lazily, with a flush queue; `identity` is memory as it is.
    """
    group = guest.expect_ok(f"cat /sys/bus/pci/devices/{address}/iommu_group/type", is_shown=False)
    lab.check_equal(f"the kernel's type for the addresses of {address}", group, expected)


def change_group(lab: Lab, guest: Guest, wanted: str, address: str = FIRST_DEVICE, becomes: str | None = None) -> None:
    """Gives a device's addresses another type, which the kernel does when no driver has the device."""
    guest.expect_ok(f"echo {wanted} >/sys/bus/pci/devices/{address}/iommu_group/type")
    check_group(lab, guest, becomes or wanted, address)


def check_pages(lab: Lab, guest: Guest, address: str, pages: int = 16384) -> None:
    """Holds that the educational device reaches what is mapped for it, and nothing of what has been unmapped."""
    # QEMU's own device takes a tenth of a second for each transfer.
    options = f"--every {pages // 8} --strays 2 --clears" if lab.is_reference else ""
    output = guest.expect_ok(f"iommu-test {address} --pages {pages} {options}")
    count = len(re.findall("^stray", output, re.MULTILINE))
    lab.check(count > 4, f"none of {count} stray accesses arrived")


def disk_and_edu(lab: Lab, iommu: IOMMU) -> None:
    """A disk with the kernel's driver and the educational device with one in user space, both behind an IOMMU."""
    disk, device = lab.nvme(), lab.edu()
    guest = lab.boot(lab.machine(disk, device, iommu=iommu, modules=IN_USER_SPACE))
    check_group(lab, guest, "DMA")
    second = "0000:00:04.0"
    guest.expect_ok(f"vfio-bind {second}")
    check_group(lab, guest, "DMA", second)
    for kind in ("intx", "msi"):
        guest.expect_ok(f"edu-test {second} {kind}")
    check_pages(lab, guest, second)
    file_round_trip(lab, guest, disk, mebibytes=8)
