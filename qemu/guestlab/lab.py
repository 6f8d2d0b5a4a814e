"""What a scenario sees: devices to serve, guests to boot, and checks on the host."""

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from guestlab.backend import Backend
from guestlab.errors import ScenarioFailed, ScenarioSkipped
from guestlab.guest import Guest, Machine
from guestlab.storage import Image
from guestlab.transcript import Transcript

FIRST_SLOT = 3
TOOL_LIMIT = 120.0

# What the kernel says about QEMU's own nvme, by its PCI identity, and must not have reason to say about ours.
QUIRKS_OF_THE_REFERENCE = ("nvme nvme.*: Ignoring bogus Namespace Identifiers",)


@dataclass(frozen=True)
class Provision:
    """What all scenarios of a run share: the programs and the guest's parts."""

    qemu: list[str]
    accelerator: str
    kernel: Path
    initramfs: Path
    initramfs_with_fio: Path
    backend: Path | None  # None: QEMU's own devices stand in for ours
    record: Path | None = None  # where the first backend writes down what it and QEMU say


class Device:
    """A device under test: served by our backend over vfio-user, or QEMU's own of the same kind."""

    def __init__(
        self, backend: Backend | None, reference: list[str], client_options: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        self._backend = backend
        self._reference = reference
        self._client_options = client_options

    @property
    def backend(self) -> Backend:
        """The process that serves it; a scenario that touches it cannot run on QEMU's own device."""
        if self._backend is None:
            raise ScenarioSkipped("needs a backend that is a process of its own")
        return self._backend

    @property
    def served_by(self) -> Backend | None:
        return self._backend

    def qemu_arguments(self, slot: int) -> list[str]:
        """Puts the device at 00:`slot`.0 of the guest."""
        if self._backend is None:
            *before, device = self._reference
            return [*before, f"{device},addr={slot}"]
        description = {
            "driver": "vfio-user-pci",
            "addr": str(slot),
            "socket": {"type": "unix", "path": str(self._backend.socket_path)},
            **self._client_options,
        }
        return ["-device", json.dumps(description)]


class Disk(Device):
    """An NVMe disk and the image behind it."""

    def __init__(
        self, image: Image, backend: Backend | None, reference: list[str], client_options: Mapping[str, object]
    ) -> None:
        super().__init__(backend, reference, client_options)
        self.image = image


class Lab:
    """One run of one scenario, in a directory of its own. Leaving it ends every program it started."""

    def __init__(self, provision: Provision, directory: Path, transcript: Transcript) -> None:
        self.directory = directory
        self._provision = provision
        self._transcript = transcript
        self._backends: list[Backend] = []
        self._guests: list[Guest] = []

    @property
    def is_reference(self) -> bool:
        """Whether QEMU's own devices stand in for ours."""
        return self._provision.backend is None

    def image(self, name: str = "disk") -> Image:
        return Image(self.directory / f"{name}.img")

    def nvme(
        self,
        name: str = "disk",
        size: str = "256MiB",
        read_only: bool = False,
        block_size: int = 512,
        client_options: Mapping[str, object] = MappingProxyType({}),
        recording: Path | None = None,
        faults: str | None = None,
    ) -> Disk:
        """Serves `name`.img as an NVMe disk with the serial number `name`; the image is created if it is absent.

        `client_options` are properties of QEMU's vfio-user client, for example `{"x-no-posted-writes": True}`.
        `faults` are made on purpose between the client and the device, as `outboard serve --inject` takes them.
        """
        image = self.image(name)
        options = ["--image", str(image.path), "--serial", name]
        if not image.path.exists():
            options += ["--size", size]
        if read_only:
            options.append("--read-only")
        if block_size != 512:
            options += ["--block-size", str(block_size)]
        if faults is not None:
            options += ["--inject", faults]
        if self.is_reference and not image.path.exists():
            image.create(int(size.removesuffix("MiB")) << 20)
        drive = f"if=none,id={name},file={image.path},format=raw,discard=unmap"
        drive += ",read-only=on" if read_only else ""
        blocks = f"logical_block_size={block_size},physical_block_size={block_size}"
        reference = ["-drive", drive, "-device", f"nvme,drive={name},serial={name},{blocks}"]
        return Disk(image, self._serve("nvme", name, options, recording), reference, client_options)

    def edu(self, dma_mask: int | None = None) -> Device:
        """Serves the educational device; `dma_mask` is the number of address bits its DMA engine has."""
        options = [] if dma_mask is None else ["--dma-mask", str(dma_mask)]
        mask = "" if dma_mask is None else f",dma_mask={(1 << dma_mask) - 1:#x}"
        return Device(self._serve("edu", "edu", options), ["-device", f"edu{mask}"])

    def virtio_rng(self) -> Device:
        """Serves the virtio entropy device."""
        return Device(self._serve("virtio-rng", "rng", []), ["-device", "virtio-rng-pci"])

    def machine(
        self,
        *devices: Device,
        processors: int = 1,
        modules: Sequence[str] = (),
        with_fio: bool = False,
        iommu: bool = False,
        shares_memory: bool = True,
        resets_allowed: bool = False,
    ) -> Machine:
        """A machine with the devices at 00:03.0, 00:04.0 and so on, not started.

        `modules` are loaded in the guest; `with_fio` adds fio; `iommu` puts virtio-iommu in front of the devices;
        without `shares_memory` the backend has no descriptor of guest memory; `resets_allowed` lets it restart.
        """
        provision = self._provision
        arguments = ["-device", "virtio-iommu-pci,addr=2"] if iommu else []
        for slot, device in enumerate(devices, start=FIRST_SLOT):
            arguments += device.qemu_arguments(slot)
        return Machine(
            qemu=provision.qemu,
            accelerator=provision.accelerator,
            kernel=provision.kernel,
            initramfs=provision.initramfs_with_fio if with_fio else provision.initramfs,
            memory="768M" if with_fio else "512M",
            processors=processors,
            shares_memory=shares_memory,
            modules=[*(["virtio_iommu"] if iommu else []), *modules],
            devices=arguments,
            resets_allowed=resets_allowed,
        )

    def boot(self, machine: Machine, name: str = "guest") -> Guest:
        """Starts a machine; returns once its guest obeys commands."""
        self._transcript.note(f"QEMU, for a shell in this guest: {shlex.join(machine.command_for_a_person())}")
        guest = Guest(name, machine, self.directory, self._transcript)
        if self.is_reference:
            guest.tolerated = QUIRKS_OF_THE_REFERENCE
        self._guests.append(guest)
        return guest

    def tool(self, *arguments: str) -> None:
        """Runs another command of the program that serves, which must succeed; tells the last line it prints."""
        assert self._provision.backend is not None
        command = [str(self._provision.backend), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_LIMIT)
        lines = done.stdout.splitlines() or [""]
        self.check(done.returncode == 0, f"outboard {arguments[0]}: {lines[-1]}{done.stderr}")

    def check(self, is_true: bool, text: str) -> None:
        """Tells what the host found, which must be true."""
        self._transcript.host(text if is_true else f"NOT TRUE: {text}")
        if not is_true:
            raise ScenarioFailed(f"not true: {text}")

    def check_equal(self, what: str, found: object, expected: object) -> None:
        """Tells what the host found, which must be what the guest did."""
        if found != expected:
            self._transcript.host(f"{what}: {found}, NOT {expected}")
            raise ScenarioFailed(f"{what}: found {found}, expected {expected}")
        self._transcript.host(f"{what}: {found}, as expected")

    def finish(self) -> None:
        """The orderly end: guests still running are powered off, backends must end with status 0 and no socket."""
        for guest in self._guests:
            if guest.is_running:
                guest.power_off()
        for backend in self._backends:
            # Also one that does not run any more: nobody told it to end, so it fails the scenario.
            if backend.is_started:
                backend.stop()
                self._transcript.host("the backend ended with status 0 and left no socket")

    def abandon(self) -> None:
        """Ends everything at once; nothing is checked."""
        for guest in self._guests:
            guest.kill()
        for backend in self._backends:
            backend.kill()

    def logs(self) -> list[tuple[str, Path]]:
        """What a person wants to see after a failure, with titles."""
        titles = {"*.console": "the guest's console", "*.log": "the backend's log", "*.qemu": "QEMU's standard error"}
        return [
            (f"{title} ({path.name})", path)
            for pattern, title in titles.items()
            for path in sorted(self.directory.glob(pattern))
        ]

    def _serve(self, device: str, name: str, options: list[str], recording: Path | None = None) -> Backend | None:
        program = self._provision.backend
        if program is None:
            return None
        if recording is None and self._provision.record is not None:
            count = len(self._backends)
            recording = Path(f"{self._provision.record}.{count + 1}") if count else self._provision.record
        if recording is not None:
            options = [*options, "--record", str(recording)]
        # A device may be served again under its name, with other options, once its backend has been stopped.
        backend = Backend(program, device, options, self.directory / f"{name}.sock", self.directory / f"{name}.log")
        self._transcript.note(f"backend: {shlex.join(backend.command)}")
        self._backends.append(backend)
        backend.start()
        return backend
