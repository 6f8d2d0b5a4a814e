"""Controller resets under load: the guest resets the controller again and again, and no block is lost."""

from guestlab.lab import Lab
from guestlab.storage import MIB
from guestlab.workloads import LOADED_MIB, start_verified_load, stop_verified_load


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, with_fio=True, processors=2))
    start_verified_load(guest, "/dev/nvme0n1")
    for _ in range(8):
        guest.expect_ok("sleep 0.2; echo 1 >/sys/class/nvme/nvme0/reset_controller")
    guest.expect_ok("nvme reset /dev/nvme0")
    stop_verified_load(guest)
    guest.expect_ok("[ $(cat /sys/class/nvme/nvme0/state) = live ]")
    seen = guest.sha256_of_area("/dev/nvme0n1", 0, LOADED_MIB)
    guest.expect_quiet_kernel()
    guest.power_off()
    lab.check_equal("SHA-256 of the loaded area in the image", disk.image.sha256(0, LOADED_MIB * MIB), seen)
