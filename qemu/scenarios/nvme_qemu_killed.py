"""kill -9 of QEMU in mid-write: the next guest repairs and mounts the file system, and what was synced is there."""

import time

from guestlab.lab import Lab


def run(lab: Lab) -> None:
    disk = lab.nvme()
    guest = lab.boot(lab.machine(disk), name="killed")
    guest.expect_ok("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt")
    guest.expect_ok("dd if=/dev/urandom of=/mnt/synced bs=1M count=16 conv=fsync 2>&1; sync")
    written = guest.sha256("/mnt/synced")
    guest.start("n=0; while :; do n=$((n+1)); dd if=/dev/zero of=/mnt/$((n%7)) bs=64k count=300 oflag=direct; done")
    time.sleep(1.5)  # so that writes are on their way
    guest.kill()

    survivor = lab.boot(lab.machine(disk), name="survivor")
    # Status 1 is "errors corrected": the journal's replay alone is already one.
    survivor.expect_ok("fsck.ext4 -p -f /dev/nvme0n1 || [ $? -eq 1 ]")
    survivor.expect_ok("mount /dev/nvme0n1 /mnt && ls -l /mnt")
    lab.check_equal("SHA-256 of /synced in the next guest", survivor.sha256("/mnt/synced"), written)
    survivor.expect_ok("umount /mnt")
    survivor.expect_quiet_kernel()
    survivor.power_off()
    disk.image.check_file_system()
    lab.check_equal("SHA-256 of /synced in the image", disk.image.sha256_of_file("/synced"), written)
