"""Function Level Resets under load: fio verifies every block while the guest resets the PCI function."""

from guestlab.lab import Lab

LOAD = (
    "fio --name=load --filename=/dev/nvme0n1 --rw=randwrite --bs=4k --size=32M --iodepth=16 --ioengine=libaio"
    " --direct=1 --verify=crc32c --do_verify=1 --randseed=9 --output-format=terse --loops=4"
)


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, with_fio=True, processors=2))
    function = "/sys/bus/pci/devices/0000:00:03.0"
    guest.expect_ok(f"cat {function}/reset_method")
    guest.expect_ok(f"echo flr >{function}/reset_method")
    guest.start(LOAD)
    for _ in range(6):
        guest.expect_ok(f"sleep 0.3; echo 1 >{function}/reset")
    guest.expect_still_running()
    guest.finish_started(limit=120)
    guest.expect_ok("[ $(cat /sys/class/nvme/nvme0/state) = live ]")
    seen = guest.expect_ok("dd if=/dev/nvme0n1 bs=1M count=32 iflag=direct 2>/dev/null | sha256sum").split()[0]
    guest.expect_quiet_kernel()
    guest.power_off()
    lab.check_equal("SHA-256 of the verified area", disk.image.sha256(0, 32 << 20), seen)
