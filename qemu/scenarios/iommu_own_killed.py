"""kill -9 of QEMU in the middle of maps, then of the backend that is its IOMMU: nothing of before is left for the next."""

import dataclasses

from guestlab.guest import Guest
from guestlab.iommu import own_iommu
from guestlab.lab import Lab
from guestlab.workloads import IN_USER_SPACE, check_group

EDU = "0000:00:04.0"
DISK = "/dev/nvme0n1"


def run(lab: Lab) -> None:
    disk, device = lab.nvme(), lab.edu(dma_mask=64)
    # The driver is loaded later: until then the IOMMU is as it was when it was made.
    iommu = dataclasses.replace(own_iommu().strict, modules=())

    def boot(name: str) -> Guest:
        guest = lab.boot(lab.machine(disk, device, iommu=iommu, modules=IN_USER_SPACE), name=name)
        guest.expect_ok(f"bypass-test {EDU} reaches")
        guest.expect_ok("load virtio_iommu")
        guest.wait_until(f"[ -b {DISK} ]")
        check_group(lab, guest, "DMA")
        return guest

    first = boot("first")
    backend = device.backend
    first.expect_ok(f"dd if=/dev/urandom of={DISK} bs=1M count=8 oflag=direct conv=fsync 2>&1")
    written = first.sha256_of_area(DISK, 0, 8)
    first.expect_ok(f"vfio-bind {EDU}")
    first.start(f"iommu-test {EDU} --pairs 10000000")
    first.expect_ok("sleep 1", is_shown=False)
    first.check_started()
    first.kill()
    lab.check(backend.is_running, "the backend still runs after QEMU was killed")

    second = boot("second")
    lab.check_equal("SHA-256 of what the next guest reads", second.sha256_of_area(DISK, 0, 8), written)
    second.expect_ok(f"vfio-bind {EDU}")
    second.expect_ok(f"iommu-test {EDU} --pairs 16")
    second.start(f"while dd if=/dev/zero of={DISK} bs=1M seek=64 count=32 oflag=direct; do :; done")
    second.expect_ok("sleep 0.5", is_shown=False)
    second.check_started()
    # The guest's driver waits for its IOMMU without end, so of this guest nothing more is asked.
    backend.kill()
    second.kill()

    backend.start()
    third = boot("third")
    lab.check_equal("SHA-256 of what a guest of a new backend reads", third.sha256_of_area(DISK, 0, 8), written)
    third.expect_quiet_kernel()
    third.power_off()
