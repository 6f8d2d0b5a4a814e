"""The educational device with --dma-mask 64: DMA to addresses above 4 GiB."""

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    guest = lab.boot(lab.machine(lab.edu(dma_mask=64), iommu=lab.any_iommu, modules=["vfio_iommu_type1", "vfio_pci"]))
    guest.expect_ok("vfio-bind 0000:00:03.0")
    guest.expect_ok("edu-test 0000:00:03.0 msi 0x1234560000")
    guest.expect_quiet_kernel()
    guest.power_off()
