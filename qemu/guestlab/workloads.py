"""What guests do with a disk in more than one scenario."""

from guestlab.guest import Guest
from guestlab.lab import Disk, Lab

LOADED_MIB = 32

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
