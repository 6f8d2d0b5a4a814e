"""The guest restarts within the same QEMU and finds its file again; the backend goes on."""

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk, resets_allowed=True))
    guest.expect_ok("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt")
    guest.expect_ok("dd if=/dev/urandom of=/mnt/before bs=1M count=8 2>&1")
    before = guest.sha256("/mnt/before")
    guest.expect_ok("umount /mnt")
    guest.reboot()

    guest.expect_ok("mount /dev/nvme0n1 /mnt")
    lab.check_equal("SHA-256 of /before after the restart", guest.sha256("/mnt/before"), before)
    guest.expect_ok("dd if=/dev/urandom of=/mnt/after bs=1M count=8 2>&1")
    after = guest.sha256("/mnt/after")
    guest.expect_ok("umount /mnt")
    guest.expect_quiet_kernel()
    # Pulls the rug: this time the disk is mounted and in use while the machine is reset.
    guest.expect_ok("mount /dev/nvme0n1 /mnt")
    guest.start("while :; do dd if=/dev/urandom of=/mnt/busy bs=1M count=8 conv=fsync; done")
    guest.expect_ok("sleep 1", is_shown=False)
    guest.reset_button()
    guest.expect_ok("fsck.ext4 -p /dev/nvme0n1 || [ $? -eq 1 ]")
    guest.expect_quiet_kernel()
    guest.power_off()

    disk.image.check_file_system()
    lab.check_equal("SHA-256 of /before in the image", disk.image.sha256_of_file("/before"), before)
    lab.check_equal("SHA-256 of /after in the image", disk.image.sha256_of_file("/after"), after)
