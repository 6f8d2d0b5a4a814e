"""The virtio entropy device: the stock driver reads random bytes, through every kind of reset."""

from guestlab.guest import Guest, Machine
from guestlab.lab import Lab

ADDRESS = "0000:00:03.0"
FUNCTION = f"/sys/bus/pci/devices/{ADDRESS}"
DRIVER = "/sys/bus/pci/drivers/virtio-pci"
# As lspci names what a driver looks for; it has no name for the way through configuration space.
STRUCTURES = ("CommonCfg", "ISR", "DeviceCfg", "Notify", "<unknown>")


def run(lab: Lab) -> None:
    guest = lab.boot(lab.machine(lab.virtio_rng(), modules=["virtio_rng"], resets_allowed=True))
    shown = guest.expect_ok(f"lspci -vv -s {ADDRESS} 2>/dev/null")
    for structure in STRUCTURES:
        is_shown = any("VirtIO" in line and structure in line for line in shown.splitlines())
        lab.check(is_shown, f"lspci shows the virtio structure {structure}")
    _use(lab, guest)
    guest.expect_ok("grep virtio /proc/interrupts")

    guest.expect_ok("cd /sys/bus/virtio/drivers/virtio_rng && echo virtio0 >unbind && echo virtio0 >bind")
    _use(lab, guest)
    for _ in range(3):
        guest.expect_ok(f"echo {ADDRESS} >{DRIVER}/unbind")
        guest.expect_ok(f"echo flr >{FUNCTION}/reset_method; echo 1 >{FUNCTION}/reset")
        guest.expect_ok(f"echo {ADDRESS} >{DRIVER}/bind")
        _use(lab, guest)
    # Whether or not somebody is reading at the time.
    guest.start("dd if=/dev/hwrng of=/dev/null bs=4k || true")
    guest.reboot()
    _use(lab, guest)
    guest.start("dd if=/dev/hwrng of=/dev/null bs=4k || true")
    guest.reset_button()
    _use(lab, guest)
    guest.expect_quiet_kernel()
    guest.power_off()


def _use(lab: Lab, guest: Guest) -> None:
    guest.expect_ok("until [ -e /sys/bus/virtio/drivers/virtio_rng/virtio* ]; do sleep 0.1; done", is_shown=False)
    guest.expect_ok("grep -q ^virtio_rng /sys/class/misc/hw_random/rng_current")
    read = "dd if=/dev/hwrng bs=4096 count=16 iflag=fullblock 2>/dev/null | sha256sum"
    digests = {guest.expect_ok(read).split()[0] for _ in range(3)}
    lab.check(len(digests) == 3, "three times 64 KiB of /dev/hwrng are not the same")
    zeroes = guest.expect_ok("dd if=/dev/hwrng bs=4096 count=16 iflag=fullblock 2>/dev/null | tr -d '\\000' | wc -c")
    lab.check(int(zeroes) > 65_000, f"{zeroes} of 65536 bytes are not zero")


def shell(lab: Lab) -> Machine:
    return lab.machine(lab.virtio_rng(), modules=["virtio_rng"])
