"""What guests do in more than one scenario."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guestlab.guest import Guest
from guestlab.iommu import IOMMU
from guestlab.lab import Disk, Lab
from guestlab.strays import Access, printed_strays, strays_in_backend_log, strays_in_kernel_log, told_of

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


def file_round_trip(
    lab: Lab, guest: Guest, disk: Disk, mebibytes: int = 16, allowed: tuple[str, ...] = ()
) -> None:
    """Makes a file system, writes a file, reads it back in another mount, switches off, and looks into the image.

    `allowed` are lines of the guest's kernel, as for `expect_quiet_kernel`.
    """
    guest.expect_ok("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt")
    guest.expect_ok(f"dd if=/dev/urandom of=/mnt/proof bs=1M count={mebibytes} 2>&1")
    written = guest.sha256("/mnt/proof")
    guest.expect_ok("umount /mnt && mount -o ro /dev/nvme0n1 /mnt")
    lab.check_equal("SHA-256 of /proof as read back", guest.sha256("/mnt/proof"), written)
    guest.expect_ok("umount /mnt")
    guest.expect_quiet_kernel(*allowed)
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
    if guest.machine.iommu_log is not None:
        # What came just before may have used up what the backend says in a second.
        guest.expect_ok("sleep 2", is_shown=False)
    before = _told(guest, address)
    output = guest.expect_ok(f"iommu-test {address} --pages {pages} {options}")
    strays = printed_strays(output)
    lab.check(len(strays) > 4, f"none of {len(strays)} stray accesses arrived")
    # Both hold back most of what comes at once: the backend within a second, the kernel over several, so that it may have
    # no word left for these.
    for who, told in _told(guest, address).items():
        new = told[len(before[who]) :]
        is_told = bool(new if who == _BACKEND_LOG else told)
        lab.check(is_told and set(new) <= strays, f"{who} tells of {len(new)} of them, and of nothing else")


_BACKEND_LOG = "the backend's log"


def _told(guest: Guest, address: str) -> dict[str, list[Access]]:
    """Who has told of which strays of a device, if they are to be told of."""
    log = guest.machine.iommu_log
    if log is None:
        return {}
    return {
        "the guest's kernel": strays_in_kernel_log(guest, address),
        _BACKEND_LOG: strays_in_backend_log(log, address),
    }


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
    file_round_trip(lab, guest, disk, mebibytes=8, allowed=(told_of(second),))


def types_of_group(lab: Lab, iommu: IOMMU) -> None:
    """A disk behind a lazy IOMMU; then its driver leaves, comes back to an identity mapping, and so on."""
    drivers = "/sys/bus/pci/drivers/nvme"
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, iommu=iommu))
    check_group(lab, guest, iommu.lazy_type)
    guest.expect_ok("dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=8 oflag=direct conv=fsync 2>&1")
    written = disk.image.sha256(0, 8 << 20)

    for wanted in ("identity", "DMA", "identity", iommu.lazy_type):
        guest.expect_ok(f"echo {FIRST_DEVICE} >{drivers}/unbind")
        change_group(lab, guest, wanted)
        guest.expect_ok(f"echo {FIRST_DEVICE} >{drivers}/bind")
        guest.wait_until("[ -b /dev/nvme0n1 ]")
        lab.check_equal("SHA-256 of what the guest reads", guest.sha256_of_area("/dev/nvme0n1", 0, 8), written)
    file_round_trip(lab, guest, disk, mebibytes=8)


def restarts(lab: Lab, iommu: IOMMU) -> None:
    """A disk behind an IOMMU: the guest restarts, then the machine is reset in mid-transfer, and mappings start anew."""
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, iommu=iommu, resets_allowed=True))
    guest.expect_ok("dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=8 seek=64 oflag=direct conv=fsync 2>&1")
    written = guest.sha256_of_area("/dev/nvme0n1", 64, 8)
    guest.reboot()
    check_group(lab, guest, "DMA")
    read = guest.sha256_of_area("/dev/nvme0n1", 64, 8)
    lab.check_equal("SHA-256 of what the guest reads after its restart", read, written)
    guest.expect_quiet_kernel()

    guest.start("while dd if=/dev/zero of=/dev/nvme0n1 bs=1M count=32 oflag=direct; do :; done")
    guest.expect_ok("sleep 0.5", is_shown=False)
    guest.check_started()
    guest.machine_reset()
    check_group(lab, guest, "DMA")
    read = guest.sha256_of_area("/dev/nvme0n1", 64, 8)
    lab.check_equal("SHA-256 of what it reads after the machine's reset", read, written)
    file_round_trip(lab, guest, disk, mebibytes=8)


def reach_without_mappings(lab: Lab, make_iommu: Callable[[bool], IOMMU]) -> None:
    """What the educational device reaches without a mapping: before the IOMMU's driver comes, and in each type of group.

    `make_iommu` makes one with bypass at boot, and one without.
    """
    driver = "/sys/bus/pci/drivers/vfio-pci"
    for boot_bypass in (True, False):
        device = lab.edu(dma_mask=64)
        # The driver is loaded later.
        iommu = dataclasses.replace(make_iommu(boot_bypass), modules=())
        name = "bypass" if boot_bypass else "closed"
        guest = lab.boot(lab.machine(device, iommu=iommu.strict, modules=IN_USER_SPACE), name=name)
        _expect_to_reach(guest, boot_bypass)
        guest.expect_ok("load virtio_iommu")
        # The kernel asks the IOMMU about a device when a driver is found for it.
        guest.expect_ok(f"! [ -e /sys/bus/pci/devices/{FIRST_DEVICE}/iommu_group ]")
        _expect_to_reach(guest, boot_bypass)
        guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
        check_group(lab, guest, "DMA")
        guest.expect_ok(f"echo {FIRST_DEVICE} >{driver}/unbind")
        _expect_to_reach(guest, False)
        for wanted in ("DMA-FQ", "identity", "DMA", "identity"):
            change_group(lab, guest, wanted)
            _expect_to_reach(guest, wanted == "identity")
        # A program brings mappings of its own; when it has gone, the device is back where it was.
        guest.expect_ok(f"echo {FIRST_DEVICE} >{driver}/bind")
        check_pages(lab, guest, FIRST_DEVICE, pages=64)
        guest.expect_ok(f"echo {FIRST_DEVICE} >{driver}/unbind")
        _expect_to_reach(guest, True)
        guest.expect_quiet_kernel(told_of(FIRST_DEVICE))
        guest.power_off()
        if device.served_by is not None:
            device.served_by.stop()


def _expect_to_reach(guest: Guest, reaches: bool) -> None:
    guest.expect_ok(f"bypass-test {FIRST_DEVICE} {'reaches' if reaches else 'does-not-reach'}")
