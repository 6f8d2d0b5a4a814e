"""kill -9 of the backend right after a completed Flush: every flushed byte is in the image, and it serves again."""

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme()
    backend = disk.backend
    guest = lab.boot(lab.machine(disk), name="orphan")
    guest.expect_ok("dd if=/dev/urandom of=/tmp/data bs=1M count=24 2>&1")
    written = guest.sha256("/tmp/data")
    guest.expect_ok("dd if=/tmp/data of=/dev/nvme0n1 bs=1M seek=32 oflag=direct conv=fsync 2>&1")
    backend.kill()
    lab.check_equal("SHA-256 of the flushed bytes in the image", disk.image.sha256(32 << 20, 24 << 20), written)
    guest.kill()

    backend.start()
    successor = lab.boot(lab.machine(disk), name="successor")
    read = successor.sha256_of_area("/dev/nvme0n1", 32, 24)
    lab.check_equal("SHA-256 of what a new guest reads from a new backend", read, written)
    successor.expect_quiet_kernel()
    successor.power_off()
