"""A tour with nvme-cli: what the disk says about itself, and every I/O command, without a complaint in the log."""

import json

from guestlab.lab import Lab

BLOCK = 512


def run(lab: Lab) -> None:
    disk = lab.nvme("tour")
    guest = lab.boot(lab.machine(disk))

    guest.expect_ok("nvme list")
    for command in ("id-ctrl /dev/nvme0", "id-ns /dev/nvme0n1", "ns-descs /dev/nvme0n1", "list-ns /dev/nvme0"):
        guest.expect_ok(f"nvme {command}")
    for log in ("smart-log", "error-log", "fw-log"):
        guest.expect_ok(f"nvme {log} /dev/nvme0")
    # Arbitration, power management, temperature threshold, error recovery, write cache, number of queues, interrupt
    # coalescing, interrupt vector configuration, write atomicity, asynchronous event configuration
    for feature in (1, 2, 4, 5, 6, 7, 8, 9, 10, 11):
        guest.expect_ok(f"nvme get-feature /dev/nvme0 --feature-id={feature} --namespace-id=1")
    controller = json.loads(guest.expect_ok("nvme id-ctrl /dev/nvme0 --output-format=json", is_shown=False))
    namespace = json.loads(guest.expect_ok("nvme id-ns /dev/nvme0n1 --output-format=json", is_shown=False))
    lab.check_equal("serial number", controller["sn"].strip(), "tour")
    lab.check_equal("size in blocks", namespace["nsze"], disk.image.byte_count // BLOCK)

    guest.expect_ok("head -c 8192 /dev/urandom >/tmp/data; head -c 8192 /dev/urandom >/tmp/other")
    area = "--start-block=64 --block-count=15 --data-size=8192"
    blocks = "--start-block=64 --block-count=15"
    guest.expect_ok(f"nvme write /dev/nvme0n1 {area} --data=/tmp/data")
    guest.expect_ok(f"nvme read /dev/nvme0n1 {area} --data=/tmp/back && cmp /tmp/data /tmp/back")
    guest.expect_ok(f"nvme compare /dev/nvme0n1 {area} --data=/tmp/data")
    refusal = guest.expect_failure(f"nvme compare /dev/nvme0n1 {area} --data=/tmp/other 2>&1")
    lab.check("compare failure" in refusal.lower(), "comparing with other data is a Compare Failure")
    guest.expect_ok(f"nvme verify /dev/nvme0n1 {blocks}")
    guest.expect_ok("nvme flush /dev/nvme0n1")
    written = guest.sha256("/tmp/data")
    lab.check_equal("SHA-256 of those 16 blocks in the image", disk.image.sha256(64 * BLOCK, 8192), written)
    guest.expect_ok(f"nvme write-zeroes /dev/nvme0n1 {blocks}")
    guest.expect_ok("nvme flush /dev/nvme0n1")
    lab.check(disk.image.read(64 * BLOCK, 8192) == bytes(8192), "after Write Zeroes they are zero")
    guest.expect_ok(f"nvme write /dev/nvme0n1 {area} --data=/tmp/data")
    guest.expect_ok("nvme dsm /dev/nvme0n1 --ad --slbs=64 --blocks=16")
    guest.expect_ok("nvme flush /dev/nvme0n1")
    lab.check(disk.image.read(64 * BLOCK, 8192) == bytes(8192), "after a deallocation they are zero")
    past_the_end = f"--start-block={disk.image.byte_count // BLOCK} --block-count=0 --data-size=512"
    refusal = guest.expect_failure(f"nvme read /dev/nvme0n1 {past_the_end} 2>&1 >/dev/null")
    lab.check("range" in refusal.lower(), "reading past the end is LBA Out of Range")
    # Linux says this of every controller whose transfers are described by PRPs, once a program sends commands itself.
    guest.expect_quiet_kernel("using unchecked data buffer")
    guest.power_off()
