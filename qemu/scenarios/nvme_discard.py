"""blkdiscard and Write Zeroes: the guest gives blocks back, the image on the host shrinks and reads zeros there."""

from guestlab.lab import Lab
from guestlab.storage import MIB

PATTERN = b"Outboard writes this everywhere!"
DISCARDED = (16 * MIB, 32 * MIB)  # offset, length
ZEROED = (80 * MIB, 16 * MIB)


def run(lab: Lab) -> None:
    image = lab.image()
    image.fill(128 * MIB, PATTERN)
    allocated = image.allocated_bytes
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk))
    guest.expect_ok(f"blkdiscard {_area(DISCARDED)} /dev/nvme0n1")
    guest.expect_ok(f"blkdiscard --zeroout {_area(ZEROED)} /dev/nvme0n1")
    guest.expect_ok("blockdev --flushbufs /dev/nvme0n1")
    seen = guest.sha256("/dev/nvme0n1")
    guest.expect_quiet_kernel()
    guest.power_off()

    for what, (offset, length) in (("discarded", DISCARDED), ("zeroed", ZEROED)):
        lab.check(image.read(offset, length) == bytes(length), f"all {length // MIB} MiB {what} read zero in the image")
    for offset, length in ((0, 16 * MIB), (48 * MIB, 32 * MIB), (96 * MIB, 32 * MIB)):
        expected = PATTERN * (length // len(PATTERN))
        lab.check(
            image.read(offset, length) == expected, f"the {length // MIB} MiB at {offset // MIB} MiB are untouched"
        )
    freed = allocated - image.allocated_bytes
    # The host's file system may spend a few blocks of its own on describing the holes.
    lab.check(freed >= DISCARDED[1] - MIB, f"the image takes {freed / MIB:.0f} MiB less of the host's disk")
    lab.check_equal("SHA-256 of the whole disk", image.sha256(), seen)


def _area(area: tuple[int, int]) -> str:
    return f"--offset {area[0]} --length {area[1]}"
