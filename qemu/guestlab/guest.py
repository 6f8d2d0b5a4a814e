"""A Linux guest under QEMU, commanded from the host."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from guestlab.channel import CommandChannel
from guestlab.errors import ScenarioFailed
from guestlab.monitor import Monitor
from guestlab.processes import Child
from guestlab.transcript import Transcript

BOOT_LIMIT = 120.0
COMMAND_LIMIT = 60.0
POWER_OFF_LIMIT = 60.0
PORT_NAME = "socket0"  # QEMU's name for the port of a machine that has one; devices in it are at 01:00.0


@dataclass
class Machine:
    """The virtual machine of a guest, before any device under test."""

    qemu: list[str]
    accelerator: str
    kernel: Path
    initramfs: Path
    memory: str = "512M"
    processors: int = 1
    shares_memory: bool = True
    modules: list[str] = field(default_factory=list)
    kernel_words: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    resets_allowed: bool = False
    iommu_log: Path | None = None  # where the backend logs what its own IOMMU keeps from devices

    def command(self, console: list[str], more_words: list[str]) -> list[str]:
        """QEMU's whole command line, given how its serial ports are connected."""
        words = ["console=ttyS0", "panic=-1", *self.kernel_words, *more_words]
        if self.modules:
            words.append("outboard.modules=" + ",".join(self.modules))
        command = [*self.qemu, "-nodefaults", "-display", "none", "-vga", "none", "-net", "none"]
        command += ["-accel", self.accelerator, "-cpu", "host" if self.accelerator == "kvm" else "max"]
        command += ["-smp", str(self.processors), "-m", self.memory]
        if self.shares_memory:
            command += ["-object", f"memory-backend-memfd,id=mem,size={self.memory},share=on"]
            command += ["-machine", "q35,memory-backend=mem"]
        else:
            # Plain memory has no descriptor to hand over. A memfd with share=off has one, and QEMU does hand it over,
            # but what the guest writes is not in it.
            command += ["-machine", "q35"]
        command += ["-kernel", str(self.kernel), "-initrd", str(self.initramfs), "-append", " ".join(words)]
        if not self.resets_allowed:
            command.append("-no-reboot")  # a kernel that panics ends QEMU at once
        return [*command, *console, *self.devices]

    def command_for_a_person(self) -> list[str]:
        """The same machine with its console on the terminal and a shell on it."""
        return self.command(["-serial", "mon:stdio"], ["quiet", "outboard.shell"])


class Guest:
    """A running guest. `boot_seconds` is the time from QEMU's start until the guest obeyed commands."""

    def __init__(
        self, name: str, machine: Machine, directory: Path, transcript: Transcript, boot_limit: float = BOOT_LIMIT
    ) -> None:
        self.name = name
        self.machine = machine
        self.console = directory / f"{name}.console"
        self.errors = directory / f"{name}.qemu"
        self.tolerated: tuple[str, ...] = ()
        self._transcript = transcript
        self._started = ""
        socket_path = directory / f"{name}.commands"
        socket_path.unlink(missing_ok=True)
        self._monitor: Monitor | None = None
        self._channel = CommandChannel(socket_path, lambda: self._child.is_running)
        self._monitor_path = directory / f"{name}.monitor"
        ports = ["-serial", f"file:{self.console}", "-chardev", f"socket,id=commands,path={socket_path}"]
        ports += ["-qmp", f"unix:{self._monitor_path},server=on,wait=off"]
        start = time.monotonic()
        self._child = Child(machine.command([*ports, "-serial", "chardev:commands"], []), self.errors)
        try:
            self._channel.wait_until_ready(boot_limit)
        except ScenarioFailed:
            self.kill()
            raise
        self.boot_seconds = time.monotonic() - start
        transcript.note(f"{name} booted in {self.boot_seconds:.1f} s")

    @property
    def is_running(self) -> bool:
        return self._child.is_running

    def run(self, command: str, limit: float = COMMAND_LIMIT, is_shown: bool = True) -> tuple[int, str]:
        """Runs a shell command; returns its exit status and what it printed."""
        if is_shown:
            self._transcript.guest_command(self.name, command)
        status, output = self._channel.run(command, limit)
        if is_shown:
            self._transcript.guest_output(output)
        return status, output

    def expect_ok(self, command: str, limit: float = COMMAND_LIMIT, is_shown: bool = True) -> str:
        """Runs a shell command that must succeed; returns what it printed, without the last line's end."""
        status, output = self.run(command, limit, is_shown)
        if status != 0:
            shown = "" if is_shown else f"; it printed:\n{output}"
            raise ScenarioFailed(f"in the guest, status {status}, not 0: {command}{shown}")
        return output.rstrip("\n")

    def expect_failure(self, command: str, limit: float = COMMAND_LIMIT) -> str:
        """Runs a shell command that must not succeed; returns what it printed."""
        status, output = self.run(command, limit)
        if status == 0:
            raise ScenarioFailed(f"in the guest, this should have failed: {command}")
        return output.rstrip("\n")

    def sha256(self, path: str, limit: float = COMMAND_LIMIT) -> str:
        """The digest of a file or device as the guest reads it."""
        return self.expect_ok(f"sha256sum {path}", limit).split()[0]

    def sha256_of_area(self, disk: str, first_mebibyte: int, mebibytes: int) -> str:
        """The digest of an area of a disk, read from the device and not from the guest's cache."""
        area = f"bs=1M skip={first_mebibyte} count={mebibytes}"
        return self.expect_ok(f"dd if={disk} {area} iflag=direct 2>/dev/null | sha256sum").split()[0]

    def nvme_disk(self, serial: str) -> str:
        """The block device with a serial number: disks found at the same time get their names in any order."""
        find = f"grep -l '^{serial} *$' /sys/class/nvme/*/serial"
        controller = self.expect_ok(find, is_shown=False).removesuffix("/serial").rpartition("/")[2]
        return f"/dev/{controller}n1"

    def start(self, command: str) -> None:
        """Starts a shell command in the background; its output and status are kept for `finish_started`."""
        self._transcript.guest_command(self.name, f"{command} &")
        self._started = command
        script = f"( {command}\n) </dev/null >/tmp/started 2>&1; echo $? >/tmp/started.status"
        self.expect_ok(f"rm -f /tmp/started*; ( {script} ) >/dev/null 2>&1 &", is_shown=False)

    def check_started(self) -> None:
        """The command that `start` started must still be at work."""
        self.expect_ok("! [ -e /tmp/started.status ] || { cat /tmp/started; exit 1; }", is_shown=False)

    def finish_started(self, limit: float = COMMAND_LIMIT) -> str:
        """Waits for the command that `start` started, which must succeed; returns what it printed."""
        rounds = int(limit * 10)
        wait = f"n=0; until [ -s /tmp/started.status ]; do n=$((n+1)); [ $n -lt {rounds} ] || exit 1; sleep 0.1; done"
        status, _ = self.run(wait, limit + 60, is_shown=False)
        output = self.expect_ok("cat /tmp/started", is_shown=False)
        self._transcript.note(f"{self.name}: in the background:")
        self._transcript.guest_output(output)
        if status != 0:
            raise ScenarioFailed(f"in the guest, not finished after {limit:g} s: {self._started}")
        status = int(self.expect_ok("cat /tmp/started.status", is_shown=False))
        if status != 0:
            raise ScenarioFailed(f"in the guest, status {status}, not 0: {self._started}")
        return output

    def expect_quiet_kernel(self, *allowed: str) -> None:
        """Fails if the kernel's log holds a line about a device under test that is not known to be harmless.

        `allowed` are the patterns of lines that the scenario provokes.
        """
        harmless = [*_HARMLESS, *self.tolerated, *allowed]
        complaints = [
            line
            for line in self.expect_ok("dmesg", is_shown=False).splitlines()
            if re.search(_SUSPICIOUS, line) and not any(re.search(pattern, line) for pattern in harmless)
        ]
        if complaints:
            raise ScenarioFailed("the guest's kernel complains:\n" + "\n".join(complaints))
        self._transcript.host("the guest's kernel log holds no complaint")

    def reboot(self) -> None:
        """Restarts the guest within the same QEMU: the machine is reset, the kernel starts anew."""
        if not self.machine.resets_allowed:
            raise ScenarioFailed("this guest was started with -no-reboot")
        self._transcript.guest_command(self.name, "reboot -f")
        start = time.monotonic()
        self._channel.send_without_answer("sync; reboot -f")
        self._channel.wait_until_ready(BOOT_LIMIT)
        self._transcript.note(f"{self.name} booted again in {time.monotonic() - start:.1f} s")

    def reset_button(self) -> None:
        """Restarts the guest as a machine's reset button does: at once, whatever it is doing."""
        self._transcript.guest_command(self.name, "echo b >/proc/sysrq-trigger")
        self._channel.send_without_answer("echo b >/proc/sysrq-trigger")
        self._channel.wait_until_ready(BOOT_LIMIT)
        self._transcript.note(f"{self.name} booted again")

    def machine_reset(self) -> None:
        """Restarts the guest as the reset button of the case does; its kernel has no part in it."""
        if not self.machine.resets_allowed:
            raise ScenarioFailed("this guest was started with -no-reboot")
        self._transcript.note(f"{self.name}: system_reset")
        self.monitor.execute("system_reset")
        self._channel.wait_until_ready(BOOT_LIMIT)
        self._transcript.note(f"{self.name} booted again")

    def plug(self, name: str, properties: dict[str, object]) -> None:
        """Puts a device into the machine's port and waits until the kernel has found it."""
        self._transcript.note(f"{self.name}: plug in {name}")
        self.monitor.execute("device_add", id=name, bus=PORT_NAME, **properties)
        self.wait_until("[ -d /sys/bus/pci/devices/0000:01:00.0 ]")

    def unplug(self, name: str) -> None:
        """Asks the guest to let go of a device; returns when QEMU has taken it out."""
        self._transcript.note(f"{self.name}: unplug {name}")
        self.monitor.execute("device_del", id=name)
        self.monitor.wait_for_event("DEVICE_DELETED", device=name)
        self.wait_until("! [ -d /sys/bus/pci/devices/0000:01:00.0 ]")

    def wait_until(self, condition: str, limit: float = 20.0) -> None:
        """Waits until a shell command succeeds."""
        rounds = int(limit * 20)
        loop = f"n=0; until {condition}; do n=$((n+1)); [ $n -lt {rounds} ] || exit 1; sleep 0.05; done"
        self.expect_ok(loop, limit=limit + 60, is_shown=False)

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor, connected to when it is first asked for."""
        if self._monitor is None:
            self._monitor = Monitor(self._monitor_path)
        return self._monitor

    def power_off(self) -> None:
        """Shuts the guest down; QEMU must then end with status 0."""
        self._transcript.guest_command(self.name, "poweroff -f")
        self._channel.send_without_answer("sync; poweroff -f")
        status = self._child.wait(POWER_OFF_LIMIT, "QEMU after the guest's power-off")
        self._close()
        if status != 0:
            raise ScenarioFailed(f"QEMU ended with status {status}, not 0")

    def kill(self) -> None:
        """`kill -9` of QEMU: the machine loses its power."""
        self._child.kill()
        self._close()

    def _close(self) -> None:
        self._channel.close()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None


# Lines that are looked at: those that name a disk or a device under test, and the kernel's own alarms. Slow hosts make
# kernels complain of clocks and processors, which is none of a device's business. An IOMMU's faults are.
_SUSPICIOUS = (
    r"nvme|blk_|I/O error|EXT4-fs|JBD2|vfio|[\da-f]{4}:(00:0[3-9a-f]|01:00)\.\d"
    r"|fault from EP|DMAR: \[|handling fault status|AMD-Vi: Event|(?i:iommu.*(fail|error|timed out))"
    r"|nobody cared|spurious|blocked for more than|\bBUG:|WARNING:|Oops|Call Trace"
)

# Of those, the lines that the kernel prints when everything is right.
_HARMLESS = (
    r"ommand line: ",
    r"pci [\da-f:.]+: (\[[\da-f]{4}:[\da-f]{4}\] type|BAR \d+ \[|enabling Extended Tags)",
    r"(pci|nvme|vfio-pci) [\da-f:.]+: (Adding to iommu group \d+|enabling device|resetting|reset done)",
    r"nvme nvme\d+: pci function ",
    r"nvme nvme\d+: \d+/\d+/\d+ default/read/poll queues",
    r"nvme nvme\d+: (resetting controller|Shutdown timeout set to \d+ seconds)",
    r"EXT4-fs \(nvme\d+n\d+\): ((un)?mount(ed|ing) filesystem|recovery complete|orphan cleanup on readonly fs)",
)
