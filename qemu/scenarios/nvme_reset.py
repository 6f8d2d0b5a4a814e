"""Controller resets under load: fio verifies every block while the guest resets the controller again and again."""

from guestlab.lab import Lab

LOAD = (
    "fio --name=load --filename=/dev/nvme0n1 --rw=randwrite --bs=4k --size=32M --iodepth=16 --ioengine=libaio"
    " --direct=1 --verify=crc32c --do_verify=1 --randseed=7 --output-format=terse --loops=4"
)


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, with_fio=True, processors=2))
    guest.start(LOAD)
    for _ in range(8):
        guest.expect_ok("sleep 0.2; echo 1 >/sys/class/nvme/nvme0/reset_controller")
    guest.expect_ok("nvme reset /dev/nvme0")
    guest.expect_still_running()
    guest.finish_started(limit=120)
    guest.expect_ok("[ $(cat /sys/class/nvme/nvme0/state) = live ]")
    seen = guest.expect_ok("dd if=/dev/nvme0n1 bs=1M count=32 iflag=direct 2>/dev/null | sha256sum").split()[0]
    guest.expect_quiet_kernel()
    guest.power_off()
    lab.check_equal("SHA-256 of the verified area", disk.image.sha256(0, 32 << 20), seen)
