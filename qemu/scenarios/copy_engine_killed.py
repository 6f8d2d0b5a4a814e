"""A machine is reset, and QEMU killed, while the copy engine asks for pages: the next guest finds nothing of before."""

from guestlab.guest import Guest
from guestlab.lab import Lab
from guestlab.workloads import FIRST_DEVICE, IN_USER_SPACE


def run(lab: Lab) -> None:
    device = lab.copy_engine()
    machine = lab.machine(device, iommu=lab.any_iommu, modules=IN_USER_SPACE, resets_allowed=True)
    first = lab.boot(machine, name="first")
    _begin_storm(first)
    first.machine_reset()
    _copy(first)
    _begin_storm(first)
    first.kill()
    lab.check(device.backend.is_running, "the backend still runs after QEMU was killed")

    second = lab.boot(machine, name="second")
    _copy(second)
    second.power_off()
    lab.check_quiet_log(device, "client dropped: its socket failed")  # when QEMU was killed; it depends on the moment


def _begin_storm(guest: Guest) -> None:
    guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
    guest.start(f"copy-storm-test {FIRST_DEVICE} unmap 1000000")
    guest.expect_ok("sleep 1", is_shown=False)
    guest.check_started()


def _copy(guest: Guest) -> None:
    guest.expect_ok(f"vfio-bind {FIRST_DEVICE}")
    guest.expect_ok(f"copy-test {FIRST_DEVICE} copy 8")
    guest.expect_quiet_kernel()
