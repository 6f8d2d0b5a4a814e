"""What a scenario sees: devices to serve, guests to boot, and checks on the host."""

import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from guestlab.backend import Backend
from guestlab.errors import ScenarioFailed, ScenarioSkipped
from guestlab.guest import PORT_NAME, Guest, Machine
from guestlab.initramfs import GuestSystems
from guestlab.iommu import IOMMU, NONE, virtio_iommu
from guestlab.service import IOMMU_SLOT, Service, Topology, serve_behind_own_iommu
from guestlab.storage import Image
from guestlab.transcript import Transcript

FIRST_SLOT = 3
TOOL_LIMIT = 120.0

# Far from the devices under test, whose slots the guest's kernel must say nothing bad about.
PORT_ADDRESS = "01:00.0"
PORT = f"pcie-root-port,id={PORT_NAME},chassis=1,slot=1,addr=1c"

# What the kernel says about QEMU's own nvme, by its PCI identity, and about what QEMU's IOMMUs tell it of the strays of
# QEMU's own devices. They know nothing of those of ours.
QUIRKS_OF_THE_REFERENCE = (
    "nvme nvme.*: Ignoring bogus Namespace Identifiers",
    r"(page|unknown) fault from EP|DMAR: DRHD: handling fault|DMAR: \[DMA|AMD-Vi: Event logged \[IO_PAGE_FAULT",
)


@dataclass(frozen=True)
class Provision:
    """What all scenarios of a run share: the programs and the guest's parts."""

    qemu: list[str]
    accelerator: str
    systems: GuestSystems
    backend: Path | None  # None: QEMU's own devices stand in for ours
    record: Path | None = None  # where the first backend writes down what it and QEMU say
    iommu: IOMMU | None = None  # for every scenario that does not insist on another; None: nothing was asked for


class Device:
    """A device under test: served by our backend over vfio-user, or QEMU's own of the same kind."""

    def __init__(
        self, service: Service | None, reference: list[str], client_options: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        self.service = service
        self._reference = reference
        self._client_options = client_options

    @property
    def backend(self) -> Backend:
        """The process that serves it; a scenario that touches it cannot run on QEMU's own device.

        One that is asked for before there is a machine serves nothing else.
        """
        return self._started_service.start()

    @property
    def served_by(self) -> Backend | None:
        return self.service and self.service.backend

    @property
    def socket_path(self) -> Path:
        """Where it is served."""
        return self._started_service.socket_path

    @property
    def recording(self) -> Path:
        """What its session is written down in, once it is served."""
        recording = self.service and self.service.recording
        if recording is None:
            raise ScenarioSkipped("needs a session that is written down")
        return recording

    def qemu_arguments(self, slot: int) -> list[str]:
        """Puts the device at 00:`slot`.0 of the guest."""
        if self.service is None:
            *before, device = self._reference
            return [*before, f"{device},addr={slot}"]
        return ["-device", json.dumps({**self.properties, "addr": str(slot)})]

    @property
    def properties(self) -> dict[str, object]:
        """What QEMU is told of a device that our backend serves; also what `Guest.plug` takes."""
        return {**self._started_service.qemu_properties, **self._client_options}

    @property
    def _started_service(self) -> Service:
        if self.service is None:
            raise ScenarioSkipped("needs a backend that is a process of its own")
        self.service.start()
        return self.service


class Disk(Device):
    """An NVMe disk and the image behind it."""

    def __init__(
        self, image: Image, service: Service | None, reference: list[str], client_options: Mapping[str, object]
    ) -> None:
        super().__init__(service, reference, client_options)
        self.image = image


class Lab:
    """One run of one scenario, in a directory of its own. Leaving it ends every program it started."""

    def __init__(self, provision: Provision, directory: Path, transcript: Transcript) -> None:
        self.directory = directory
        self._provision = provision
        self._transcript = transcript
        self._services: list[Service] = []
        self._backends: list[Backend] = []
        self._guests: list[Guest] = []

    @property
    def is_reference(self) -> bool:
        """Whether QEMU's own devices stand in for ours."""
        return self._provision.backend is None

    @property
    def any_iommu(self) -> IOMMU:
        """The IOMMU that the run asks for, QEMU's virtio-iommu if it asks for none; some driver needs one at all."""
        if self._provision.iommu == NONE:
            raise ScenarioSkipped("needs an IOMMU")
        return self._provision.iommu or virtio_iommu()

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
        options: dict[str, object] = {"image": str(image.path), "serial": name}
        if not image.path.exists():
            options["size"] = size
        if read_only:
            options["readOnly"] = True
        if block_size != 512:
            options["blockSize"] = block_size
        if self.is_reference and not image.path.exists():
            image.create(int(size.removesuffix("MiB")) << 20)
        drive = f"if=none,id={name},file={image.path},format=raw,discard=unmap"
        drive += ",read-only=on" if read_only else ""
        blocks = f"logical_block_size={block_size},physical_block_size={block_size}"
        reference = ["-drive", drive, "-device", f"nvme,drive={name},serial={name},{blocks}"]
        return Disk(image, self._service("nvme", name, options, recording, faults), reference, client_options)

    def edu(self, dma_mask: int | None = None) -> Device:
        """Serves the educational device; `dma_mask` is the number of address bits its DMA engine has."""
        options: dict[str, object] = {} if dma_mask is None else {"dmaMask": dma_mask}
        mask = "" if dma_mask is None else f",dma_mask={(1 << dma_mask) - 1:#x}"
        return Device(self._service("edu", "edu", options), ["-device", f"edu{mask}"])

    def copy_engine(self, page_timeout: int | None = None) -> Device:
        """Serves the copy engine; page requests that are not answered within `page_timeout` seconds count as refused."""
        if self.is_reference:
            raise ScenarioSkipped("QEMU has no copy engine of its own")
        options: dict[str, object] = {} if page_timeout is None else {"pageTimeout": page_timeout}
        return Device(self._service("copy-engine", "copy", options), [])

    def virtio_rng(self) -> Device:
        """Serves the virtio entropy device."""
        return Device(self._service("virtio-rng", "rng", {}), ["-device", "virtio-rng-pci"])

    def machine(
        self,
        *devices: Device,
        processors: int = 1,
        modules: Sequence[str] = (),
        with_fio: bool = False,
        iommu: IOMMU | None = None,
        shares_memory: bool = True,
        resets_allowed: bool = False,
        has_port: bool = False,
        for_port: Device | None = None,
    ) -> Machine:
        """A machine with the devices at 00:03.0, 00:04.0 and so on, not started.

        `modules` are loaded in the guest; `with_fio` adds fio; `iommu` is what the scenario insists on, otherwise there
        is what the run asks for, or nothing; without `shares_memory` the backend has no descriptor of guest memory;
        `resets_allowed` lets it restart; `has_port` gives it a port where `Guest.plug` puts a device in, and `for_port`
        says which, for an IOMMU that has to know.
        """
        provision = self._provision
        iommu = iommu or provision.iommu or NONE
        system = provision.systems[iommu.flavour]
        self._transcript.note(f"in front of the devices: {iommu.title}")
        arguments = list(iommu.qemu_arguments)
        iommu_log = None
        if iommu.is_own:
            if has_port and for_port is None:
                raise ScenarioSkipped("an IOMMU of the backend's has to know which device will be in the port")
            places = {f"00:{slot:02x}.0": device for slot, device in enumerate(devices, start=FIRST_SLOT)}
            if for_port is not None:
                places[PORT_ADDRESS] = for_port
            topology = self._topology(iommu, places)
            arguments += self._own_iommu_arguments(topology)
            iommu_log = topology.backend.log
        for slot, device in enumerate(devices, start=FIRST_SLOT):
            arguments += device.qemu_arguments(slot)
        return Machine(
            qemu=provision.qemu,
            accelerator=provision.accelerator,
            kernel=system.kernel,
            initramfs=system.with_fio if with_fio else system.base,
            memory="768M" if with_fio else "512M",
            processors=processors,
            shares_memory=shares_memory,
            modules=[*iommu.modules, *system.flavour.always, *modules],
            kernel_words=list(iommu.kernel_words),
            devices=[*arguments, *(["-device", PORT] if has_port or for_port else [])],
            resets_allowed=resets_allowed,
            iommu_log=iommu_log,
        )

    def boot(self, machine: Machine, name: str = "guest") -> Guest:
        """Starts a machine; returns once its guest obeys commands."""
        self._transcript.note(f"QEMU, for a shell in this guest: {shlex.join(machine.command_for_a_person())}")
        guest = Guest(name, machine, self.directory, self._transcript)
        if self.is_reference:
            guest.tolerated = QUIRKS_OF_THE_REFERENCE
        self._guests.append(guest)
        return guest

    def tool(self, *arguments: str) -> list[str]:
        """Runs another command of the program that serves, which must succeed; tells the last line it prints."""
        assert self._provision.backend is not None
        command = [str(self._provision.backend), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_LIMIT)
        lines = done.stdout.splitlines() or [""]
        self.check(done.returncode == 0, f"outboard {arguments[0]}: {lines[-1]}{done.stderr}")
        return lines

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

    def check_quiet_log(self, device: Device, *allowed: str) -> None:
        """The log of a device's backend holds no warning and nothing worse but lines of the patterns `allowed`."""
        assert device.served_by is not None
        lines = device.served_by.log.read_text(errors="replace").splitlines()
        loud = [line for line in lines if re.match(r"\S+ (warning|error|critical) ", line)]
        complaints = [line for line in loud if not any(re.search(pattern, line) for pattern in allowed)]
        self.check(not complaints, f"the backend's log holds {complaints[0] if complaints else 'no warning'}")

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
        for log in {log for guest in self._guests if (log := guest.machine.iommu_log) is not None}:
            # The stock driver does not look at the answers to most requests.
            refused = [line for line in log.read_text(errors="replace").splitlines() if " refused with " in line]
            self.check(not refused, f"the IOMMU refused {refused[0] if refused else 'no request'}")

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

    def _service(
        self,
        device: str,
        name: str,
        options: Mapping[str, object],
        recording: Path | None = None,
        faults: str | None = None,
    ) -> Service | None:
        """What is to serve a device. It starts when a machine has the device, or when somebody asks for it."""
        if self._provision.backend is None:
            return None
        if recording is None and self._provision.record is not None:
            count = len(self._services)
            recording = Path(f"{self._provision.record}.{count + 1}") if count else self._provision.record
        # A device may be served again under its name, with other options, once its backend has been stopped.
        service = Service(device, name, options, self.directory, recording, faults, self._start)
        self._services.append(service)
        return service

    def _topology(self, iommu: IOMMU, places: Mapping[str, Device]) -> Topology:
        """Serves devices, by their PCI addresses, and an IOMMU of ours before them."""
        services = {address: device.service for address, device in places.items() if device.service is not None}
        if len(services) != len(places):
            raise ScenarioSkipped("QEMU's own devices cannot be behind an IOMMU of the backend's")
        assert iommu.own_options is not None
        return serve_behind_own_iommu(iommu.own_options, services, self.directory, self._start)

    def _own_iommu_arguments(self, topology: Topology) -> list[str]:
        """What QEMU has to be told of the IOMMU: a device, and a table for the guest that says who is behind it."""
        table = self.directory / "viot.bin"
        self.tool("viot", "--config", str(topology.path), "--output", str(table))
        device = {**topology.iommu_properties, "addr": str(IOMMU_SLOT)}
        return ["-acpitable", f"file={table}", "-device", json.dumps(device)]

    def _start(self, arguments: list[str], sockets: list[Path], log: Path) -> Backend:
        assert self._provision.backend is not None
        backend = Backend([str(self._provision.backend), "serve", *arguments], sockets, log)
        self._transcript.note(f"backend: {shlex.join(backend.command)}")
        self._backends.append(backend)
        backend.start()
        return backend
