"""One backend serves a second virtual machine after the first is gone."""

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme()
    served = disk.backend
    first = lab.boot(lab.machine(disk), name="first")
    first.expect_ok("dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=32 conv=fsync 2>&1")
    written = first.expect_ok("dd if=/dev/nvme0n1 bs=1M count=32 iflag=direct 2>/dev/null | sha256sum").split()[0]
    first.power_off()
    lab.check(served.is_running, "the backend still runs after the first machine's end")

    second = lab.boot(lab.machine(disk), name="second")
    read = second.expect_ok("dd if=/dev/nvme0n1 bs=1M count=32 2>/dev/null | sha256sum").split()[0]
    second.expect_quiet_kernel()
    second.power_off()
    lab.check_equal("SHA-256 of what the second machine read", read, written)
    lab.check_equal("SHA-256 of the first 32 MiB of the image", disk.image.sha256(0, 32 << 20), written)
