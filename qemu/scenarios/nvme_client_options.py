"""QEMU's client waits for every write (x-no-posted-writes), or collects its messages (x-send-queued): no difference."""

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    for option in ("x-no-posted-writes", "x-send-queued"):
        disk = lab.nvme(option, client_options={option: True})
        assert disk.backend
        guest = lab.boot(lab.machine(disk), name=f"guest-{option}")
        guest.expect_ok("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt")
        guest.expect_ok("dd if=/dev/urandom of=/mnt/proof bs=1M count=16 2>&1")
        written = guest.sha256("/mnt/proof")
        guest.expect_ok("umount /mnt && nvme reset /dev/nvme0 && mount -o ro /dev/nvme0n1 /mnt")
        lab.check_equal("SHA-256 of /proof as read back", guest.sha256("/mnt/proof"), written)
        guest.expect_ok("umount /mnt")
        guest.expect_quiet_kernel()
        guest.power_off()
        disk.image.check_file_system()
        lab.check_equal(f"SHA-256 of /proof with {option}", disk.image.sha256_of_file("/proof"), written)
