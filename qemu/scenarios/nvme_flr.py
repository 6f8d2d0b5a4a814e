"""Function Level Resets under load: the guest resets the PCI function again and again, and no block is lost."""

from guestlab.lab import Lab
from guestlab.storage import MIB
from guestlab.workloads import LOADED_MIB, start_verified_load, stop_verified_load

FUNCTION = "/sys/bus/pci/devices/0000:00:03.0"


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, with_fio=True, processors=2))
    guest.expect_ok(f"cat {FUNCTION}/reset_method")
    guest.expect_ok(f"echo flr >{FUNCTION}/reset_method")
    start_verified_load(guest, "/dev/nvme0n1")
    for _ in range(6):
        guest.expect_ok(f"sleep 0.3; echo 1 >{FUNCTION}/reset")
    stop_verified_load(guest)
    guest.expect_ok("[ $(cat /sys/class/nvme/nvme0/state) = live ]")
    seen = guest.sha256_of_area("/dev/nvme0n1", 0, LOADED_MIB)
    guest.expect_quiet_kernel()
    guest.power_off()
    lab.check_equal("SHA-256 of the loaded area in the image", disk.image.sha256(0, LOADED_MIB * MIB), seen)
