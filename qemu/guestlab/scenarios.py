"""The scenarios: one file each in qemu/scenarios, found by looking there.

A scenario file has a docstring, whose first line is what `--list` shows, and a function `run(lab)`. Its name on the
command line is the file's, with hyphens. `shell(lab)`, if it has one, returns the machine of `--shell`.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from guestlab.cache import REPOSITORY
from guestlab.guest import Machine
from guestlab.lab import Lab

DIRECTORY = REPOSITORY / "qemu/scenarios"


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    run: Callable[[Lab], None]
    shell: Callable[[Lab], Machine] | None


def all_scenarios() -> dict[str, Scenario]:
    """By name, in the order in which `--all` runs them: those that show a device first."""
    scenarios = [_load(path) for path in sorted(DIRECTORY.glob("*.py"))]
    return {scenario.name: scenario for scenario in scenarios}


def _load(path: Path) -> Scenario:
    specification = importlib.util.spec_from_file_location(f"scenarios.{path.stem}", path)
    assert specification is not None and specification.loader is not None
    module: ModuleType = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    title = (module.__doc__ or path.stem).splitlines()[0]
    return Scenario(path.stem.replace("_", "-"), title, module.run, getattr(module, "shell", None))
