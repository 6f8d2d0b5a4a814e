"""The command line of `qemu/run`."""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

from guestlab.cache import REPOSITORY, Cache, say
from guestlab.errors import ScenarioFailed, ScenarioSkipped, SetupFailed, Unavailable
from guestlab.initramfs import GuestSystems
from guestlab.iommu import CHOICES
from guestlab.kernel import CLOUD
from guestlab.lab import Lab, Provision
from guestlab.machine import QEMU, kvm_works
from guestlab.measure import measure, measure_iommu
from guestlab.processes import die_with_the_runner
from guestlab.scenarios import Scenario, all_scenarios
from guestlab.transcript import Transcript

EXIT_USAGE = 64
EXIT_SKIPPED = 77
LOG_LINES_SHOWN = 200

_DESCRIPTION = "Boots a Linux guest under QEMU with a device that Outboard serves, and checks what they do together."
_EPILOGUE = """\
`qemu/run measure` compares our NVMe disk with QEMU's own, `qemu/run measure iommu` what IOMMUs cost. Fetched things are
kept in .cache at the repository's top, or where OUTBOARD_CACHE says. OUTBOARD_DEBIAN_MIRROR names a Debian mirror on a
machine whose apt configuration has none.
Status: 0 the guest and the host agree, 1 they do not or something broke, 64 wrong usage, 77 QEMU or the guest cannot be
had here.
"""


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    scenarios = all_scenarios()
    if options.list:
        for scenario in scenarios.values():
            print(f"{scenario.name:<24} {scenario.title}")
        return 0
    if options.scenario != "measure" and options.scenario not in scenarios:
        print(f"qemu/run: no scenario {options.scenario}; --list lists them", file=sys.stderr)
        return EXIT_USAGE
    if options.subject is not None and options.scenario != "measure":
        print("qemu/run: one scenario at a time; only measure takes another word", file=sys.stderr)
        return EXIT_USAGE
    # SIGINT too: a shell starts what runs in its background with that one ignored.
    for ending in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(ending, _interrupt)
    try:
        provision = _provide(options)
        if options.scenario == "measure" and not options.all:
            return (measure if options.subject is None else measure_iommu)(provision, options.rounds)
        if options.shell:
            return _shell(scenarios[options.scenario], provision, options.keep)
        if options.all:
            return _run_all(list(scenarios.values()), provision, options.keep)
        return _run_one(scenarios[options.scenario], provision, options.keep)
    except Unavailable as reason:
        print(f"qemu/run: skipped: {reason}", file=sys.stderr)
        return EXIT_SKIPPED
    except SetupFailed as reason:
        print(f"qemu/run: {reason}", file=sys.stderr)
        return 1
    except (OSError, subprocess.CalledProcessError) as reason:
        # A cache that cannot be written to, a disk that is full.
        print(f"qemu/run: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("qemu/run: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; --help says what there is\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="qemu/run", description=_DESCRIPTION, epilog=_EPILOGUE, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenario", nargs="?", default="nvme", metavar="SCENARIO", help="what to do (default: nvme)")
    parser.add_argument(
        "subject", nargs="?", choices=("iommu",), metavar="SUBJECT", help="of measure: iommu, for what IOMMUs cost"
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--all", action="store_true", help="run all scenarios, one line each")
    # Answered by qemu/run itself, before there need be a Python.
    parser.add_argument("--packages", action="store_true", help="name the Debian packages that this machine lacks")
    parser.add_argument(
        "--shell", action="store_true", help="a shell in the scenario's guest instead (nvme, edu, copy-engine)"
    )
    parser.add_argument("--backend", type=Path, metavar="PATH", help="use this outboard instead of building one")
    parser.add_argument(
        "--reference", action="store_true", help="the same scenario on QEMU's own device, for comparison"
    )
    parser.add_argument(
        "--iommu", choices=tuple(CHOICES), help="put this IOMMU in front, unless the scenario insists on another"
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="record what QEMU and the backend say (a second one: FILE.2)"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave logs and images in DIR")
    parser.add_argument(
        "--accel", choices=("auto", "tcg", "kvm"), default="auto", help="how QEMU runs the guest (default: auto)"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of measure (default: 3)")
    return parser


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _provide(options: argparse.Namespace) -> Provision:
    """Builds and fetches what the run needs. What needs no network comes first, so that its faults show early."""
    backend = None if options.reference else _backend(options.backend)
    cache = Cache()
    qemu = QEMU(cache)
    systems = GuestSystems(cache)
    ordinary = systems[CLOUD]
    accelerator = options.accel
    if accelerator == "auto":
        works = kvm_works(cache, qemu, ordinary.kernel, ordinary.base)
        accelerator = "kvm" if works else "tcg"
    say(f"QEMU {qemu.version} with {accelerator.upper()}")
    accelerator = {"tcg": "tcg,thread=multi"}.get(accelerator, accelerator)
    record = options.record.resolve() if options.record else None
    iommu = CHOICES[options.iommu]() if options.iommu else None
    return Provision(qemu.command, accelerator, systems, backend, record, iommu)


def _backend(existing: Path | None) -> Path:
    if existing is not None:
        if not os.access(existing, os.X_OK):
            raise SetupFailed(f"{existing} cannot be executed")
        return existing.resolve()
    build = ["swift", "build", "-c", "release", "--static-swift-stdlib", "--product", "outboard"]
    if shutil.which("swift") is None:
        raise SetupFailed("swift is not on PATH: a Swift 6.3 toolchain builds the backend")
    say(shlex.join(build))
    done = subprocess.run(
        build, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=die_with_the_runner
    )
    if done.returncode != 0:
        raise SetupFailed("the backend does not build")
    where = subprocess.run([*build, "--show-bin-path"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return Path(where.stdout.strip()) / "outboard"


def _run_one(scenario: Scenario, provision: Provision, keep: Path | None) -> int:
    transcript = Transcript(is_shown=True)
    try:
        seconds = _run(scenario, provision, keep, transcript)
    except ScenarioSkipped as reason:
        print(f"{scenario.name}: skipped: {reason}")
        return EXIT_SKIPPED
    except ScenarioFailed as failure:
        print(f"{scenario.name}: FAILED: {failure}")
        return 1
    print(f"{scenario.name}: the guest and the host agree ({seconds:.1f} s)")
    return 0


def _run_all(scenarios: list[Scenario], provision: Provision, keep: Path | None) -> int:
    passed = failed = skipped = 0
    for scenario in scenarios:
        transcript = Transcript(is_shown=False)
        start = time.monotonic()
        directory = keep / scenario.name if keep else None
        try:
            _run(scenario, provision, directory, transcript)
            verdict, passed = "passed", passed + 1
        except ScenarioSkipped as reason:
            verdict, skipped = f"skipped ({reason})", skipped + 1
        except ScenarioFailed as failure:
            verdict, failed = "FAILED", failed + 1
            print("\n".join(transcript.lines))
            print(f"{scenario.name}: {failure}")
        print(f"{scenario.name:<24} {time.monotonic() - start:5.1f} s  {verdict}", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if failed == 0 else 1


def _run(scenario: Scenario, provision: Provision, keep: Path | None, transcript: Transcript) -> float:
    """Runs one scenario; returns how long it took. On a failure the logs are printed before the error goes on."""
    start = time.monotonic()
    with _WorkDirectory(keep) as directory:
        lab = Lab(provision, directory, transcript)
        try:
            scenario.run(lab)
            lab.finish()
        except ScenarioSkipped:
            raise
        except Exception as failure:
            lab.abandon()
            _print_logs(lab)
            if isinstance(failure, ScenarioFailed):
                raise
            # A fault of the scenario itself, such as an answer that it cannot take apart.
            raise ScenarioFailed("".join(traceback.format_exception(failure))) from failure
        finally:
            lab.abandon()
    return time.monotonic() - start


def _shell(scenario: Scenario, provision: Provision, keep: Path | None) -> int:
    if scenario.shell is None:
        print(f"qemu/run: {scenario.name} has no shell; nvme, edu and copy-engine have", file=sys.stderr)
        return EXIT_USAGE
    with _WorkDirectory(keep) as directory:
        lab = Lab(provision, directory, Transcript(is_shown=True))
        try:
            command = scenario.shell(lab).command_for_a_person()
            print(f"QEMU: {shlex.join(command)}", flush=True)
            status = subprocess.run(command).returncode
            lab.finish()
            return status
        except ScenarioFailed as failure:
            _print_logs(lab)
            print(f"{scenario.name}: {failure}")
            return 1
        finally:
            lab.abandon()


def _print_logs(lab: Lab) -> None:
    for title, path in lab.logs():
        lines = path.read_text(errors="replace").splitlines()
        print(f"----- {title}" + (f", the last {LOG_LINES_SHOWN} lines" if len(lines) > LOG_LINES_SHOWN else ""))
        print("\n".join(lines[-LOG_LINES_SHOWN:]))
    print("-----", flush=True)


class _WorkDirectory:
    """Where a run keeps its images, sockets and logs: a temporary directory, or the one that the user keeps."""

    def __init__(self, keep: Path | None) -> None:
        self._keep = keep.resolve() if keep else None
        self._path: Path | None = None

    def __enter__(self) -> Path:
        if self._keep is not None:
            if self._keep.exists() and any(self._keep.iterdir()):
                raise SetupFailed(f"{self._keep} is not empty")
            self._keep.mkdir(parents=True, exist_ok=True)
            return self._keep
        self._path = Path(tempfile.mkdtemp(prefix="outboard-"))
        return self._path

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
