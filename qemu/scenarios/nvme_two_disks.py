"""Two NVMe disks in one guest, busy at the same time, keep their contents apart."""

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    left, right = lab.nvme("left"), lab.nvme("right")
    guest = lab.boot(lab.machine(left, right, processors=2))
    guest.expect_ok("nvme list")
    to_left, to_right = guest.nvme_disk("left"), guest.nvme_disk("right")
    guest.expect_ok("dd if=/dev/urandom of=/tmp/data bs=1M count=32 2>&1")
    written = guest.sha256("/tmp/data")
    guest.start(f"dd if=/tmp/data of={to_left} bs=64k oflag=direct conv=fsync")
    guest.expect_ok("tac /tmp/data >/tmp/other")
    guest.expect_ok(f"dd if=/tmp/other of={to_right} bs=64k oflag=direct conv=fsync 2>&1")
    guest.finish_started()
    other = guest.sha256("/tmp/other")
    size = int(guest.expect_ok("stat -c %s /tmp/other", is_shown=False))
    copy = "bs=1M count=32 seek=64 iflag=direct oflag=direct conv=fsync"
    guest.expect_ok(f"dd if={to_left} of={to_right} {copy} 2>&1")
    guest.expect_quiet_kernel()
    guest.power_off()

    lab.check_equal("SHA-256 of what was written to the left disk", left.image.sha256(0, 32 << 20), written)
    lab.check_equal("SHA-256 of what was written to the right disk", right.image.sha256(0, size), other)
    lab.check_equal("SHA-256 of what was copied from left to right", right.image.sha256(64 << 20, 32 << 20), written)
