"""A read-only image: the guest reads its file system and cannot change a byte of it."""

from guestlab.errors import ScenarioSkipped
from guestlab.lab import Lab


def run(lab: Lab) -> None:
    if lab.is_reference:
        raise ScenarioSkipped("QEMU's own nvme does not tell the guest that a disk is read-only")
    writable = lab.nvme()
    author = lab.boot(lab.machine(writable), name="author")
    author.expect_ok("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt")
    author.expect_ok("dd if=/dev/urandom of=/mnt/proof bs=1M count=8 2>&1")
    written = author.sha256("/mnt/proof")
    author.expect_ok("umount /mnt")
    author.power_off()
    if writable.served_by is not None:
        writable.served_by.stop()

    writable.image.path.chmod(0o444)
    before = writable.image.sha256()
    disk = lab.nvme(read_only=True)
    reader = lab.boot(lab.machine(disk), name="reader")
    reader.expect_ok("[ $(cat /sys/block/nvme0n1/ro) = 1 ]")
    reader.expect_ok("mount -o ro /dev/nvme0n1 /mnt")
    lab.check_equal("SHA-256 of /proof through the read-only disk", reader.sha256("/mnt/proof"), written)
    reader.expect_ok("umount /mnt")
    reader.expect_failure("dd if=/dev/zero of=/dev/nvme0n1 bs=4k count=1 oflag=direct 2>&1")
    # Past the block layer, which would refuse it: the device itself must say no.
    reader.expect_failure(
        "head -c 512 /dev/zero | nvme write /dev/nvme0 --namespace-id=1 --start-block=0 --block-count=0"
        " --data-size=512 2>&1"
    )
    reader.power_off()
    lab.check_equal("SHA-256 of the whole image", disk.image.sha256(), before)
