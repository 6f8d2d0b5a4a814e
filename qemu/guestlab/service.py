"""What our backend is told to serve: each device by a process of its own, or all of a machine behind one's own IOMMU."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from guestlab.backend import Backend
from guestlab.errors import ScenarioSkipped

IOMMU_SLOT = 2

# Starts a backend: what comes after `outboard serve`, its sockets, its log.
Start = Callable[[list[str], list[Path], Path], Backend]


@dataclass(frozen=True)
class Topology:
    """A backend that is an IOMMU and the devices behind it, and the file that says so."""

    path: Path
    backend: Backend
    iommu_socket: Path
    addresses: frozenset[str]

    @property
    def iommu_properties(self) -> dict[str, object]:
        """What QEMU is told of the IOMMU, which is a device like any other to it."""
        return client_properties(self.iommu_socket)


class Service:
    """A device that is to be served. `options` are those of a configuration file."""

    def __init__(
        self,
        device: str,
        name: str,
        options: Mapping[str, object],
        directory: Path,
        recording: Path | None,
        faults: str | None,
        start: Start,
    ) -> None:
        self.device = device
        self.name = name
        self.options = options
        self.recording = recording
        self.faults = faults
        self.socket_path = directory / f"{name}.sock"
        self.backend: Backend | None = None
        self.topology: Topology | None = None
        self._log = directory / f"{name}.log"
        self._start_backend = start

    def start(self) -> Backend:
        """The process that serves the device; one is started for it alone if there is none yet."""
        if self.backend is None:
            arguments = [self.device, "--socket-path", str(self.socket_path), *self._words()]
            self.backend = self._start_backend(arguments, [self.socket_path], self._log)
        return self.backend

    @property
    def qemu_properties(self) -> dict[str, object]:
        """What QEMU is told of the device."""
        return client_properties(self.socket_path)

    def _words(self) -> list[str]:
        """The options as words of a command line."""
        words = []
        for name, value in self.options.items():
            word = "--" + re.sub("([A-Z])", lambda match: "-" + match[1].lower(), name)
            words += [word] if value is True else [word, str(value)]
        return [*words, *run_options(self.faults, self.recording)]


def client_properties(socket_path: Path) -> dict[str, object]:
    """A device of QEMU's that is served at a socket."""
    return {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(socket_path)}}


def run_options(faults: str | None, recording: Path | None) -> list[str]:
    """What a run of the backend is told, whatever it serves."""
    return [
        *(["--inject", faults] if faults is not None else []),
        *(["--record", str(recording)] if recording is not None else []),
    ]


def serve_behind_own_iommu(
    options: Mapping[str, object], services: Mapping[str, Service], directory: Path, start: Start
) -> Topology:
    """Serves devices, by PCI address, behind an IOMMU in one process; one that does so already goes on."""
    first = next(iter(services.values()), None)
    if first is not None and first.topology is not None:
        topology = first.topology
        same = all(service.topology is topology for service in services.values())
        if same and topology.addresses == services.keys():
            return topology
    if any(service.backend is not None for service in services.values()):
        raise ScenarioSkipped("a backend that serves already cannot have an IOMMU put before it")

    socket = directory / "iommu.sock"
    members = [
        {
            "name": service.name,
            "device": service.device,
            "address": address,
            "socketPath": str(service.socket_path),
            "options": service.options,
        }
        for address, service in services.items()
    ]
    iommu = {"address": f"00:{IOMMU_SLOT:02x}.0", "socketPath": str(socket), "options": options}
    path = directory / "topology.json"
    path.write_text(json.dumps({"iommu": iommu, "devices": members}, indent=2) + "\n")
    recording = next((service.recording for service in services.values() if service.recording), None)
    faults = next((service.faults for service in services.values() if service.faults), None)
    sockets = [socket, *(service.socket_path for service in services.values())]
    arguments = ["--config", str(path), *run_options(faults, recording)]
    backend = start(arguments, sockets, directory / "topology.log")
    topology = Topology(path, backend, socket, frozenset(services))
    for service in services.values():
        service.backend, service.topology = backend, topology
        if recording is not None:
            service.recording = Path(f"{recording}.{service.name}")
    return topology
