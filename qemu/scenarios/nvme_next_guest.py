"""One backend serves a second virtual machine after the first is gone."""

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme()
    backend = disk.backend
    first = lab.boot(lab.machine(disk), name="first")
    first.expect_ok("dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=32 conv=fsync 2>&1")
    written = first.sha256_of_area("/dev/nvme0n1", 0, 32)
    first.power_off()
    lab.check(backend.is_running, "the backend still runs after the first machine's end")

    second = lab.boot(lab.machine(disk), name="second")
    read = second.sha256_of_area("/dev/nvme0n1", 0, 32)
    second.expect_quiet_kernel()
    second.power_off()
    lab.check_equal("SHA-256 of what the second machine read", read, written)
    lab.check_equal("SHA-256 of the first 32 MiB of the image", disk.image.sha256(0, 32 << 20), written)
