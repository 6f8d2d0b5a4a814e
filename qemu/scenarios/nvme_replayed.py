"""A session that is recorded and whose client's half is played again, to a backend that knows nothing of it."""

from guestlab.errors import ScenarioSkipped
from guestlab.lab import Lab


def run(lab: Lab) -> None:
    if lab.is_reference:
        raise ScenarioSkipped("only a device outside QEMU can be recorded")
    recording = lab.directory / "session.recording"
    disk = lab.nvme(size="16MiB", recording=recording)
    # Memory without a descriptor is reached by messages, so the recording has all that the device reads and writes. One
    # processor and one command at a time leave one order in which things can happen.
    guest = lab.boot(lab.machine(disk, processors=1, shares_memory=False))
    guest.expect_ok("dd if=/dev/urandom of=/tmp/proof bs=4k count=3 2>&1")
    guest.expect_ok("dd if=/tmp/proof of=/dev/nvme0n1 bs=4k count=3 seek=1 oflag=direct conv=fsync 2>&1")
    guest.expect_ok("dd if=/dev/nvme0n1 of=/tmp/read bs=4k count=3 skip=1 iflag=direct 2>&1 && cmp /tmp/proof /tmp/read")
    guest.expect_quiet_kernel()
    guest.power_off()
    disk.backend.stop()

    # The disk as it was, empty.
    disk.image.path.unlink()
    fresh = lab.nvme(size="16MiB")
    lab.tool("replay", str(recording), "--socket-path", str(fresh.socket_path))
