"""QEMU's intel-iommu without caching mode: QEMU gives up when the guest switches it on; the backend does not."""

from guestlab.errors import ScenarioFailed
from guestlab.iommu import NONE, intel_iommu
from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme()
    backend = disk.backend
    disk_behind_it = lab.machine(disk, iommu=intel_iommu(options=""))
    try:
        lab.boot(disk_behind_it, name="uncached")
    except ScenarioFailed as failure:
        said = (lab.directory / "uncached.qemu").read_text(errors="replace")
        lab.check("caching mode" in said, f"{failure}, and QEMU says why: {said[:200]!r}")
    else:
        lab.check(False, "QEMU does not stand an intel-iommu without caching mode")
    lab.check(backend.is_running, "the backend still runs")

    guest = lab.boot(lab.machine(disk, iommu=NONE), name="next")
    guest.expect_ok("dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=8 oflag=direct conv=fsync 2>&1")
    written = guest.sha256_of_area("/dev/nvme0n1", 0, 8)
    guest.expect_quiet_kernel()
    guest.power_off()
    lab.check_equal("SHA-256 of what the next guest wrote", disk.image.sha256(0, 8 << 20), written)
