"""Debian packages of another release, fetched and unpacked without touching this machine's own packages.

A private apt state asks the mirror that this machine's own apt configuration names; apt verifies the archive's
signatures and every package's checksum as usual. Nothing is installed: packages are unpacked into a directory, and
their programs run through that directory's own loader.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from guestlab.errors import Unavailable
from guestlab.processes import die_with_the_runner

RELEASE = "trixie"
BACKPORTS = f"{RELEASE}-backports"
LIBRARIES = "usr/lib/x86_64-linux-gnu"

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class PrivateArchive:
    """An apt of our own under `directory`, which knows the release, its security updates and its backports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._configuration = directory / "apt.conf"
        for part in ("lists/partial", "cache/archives/partial", "none"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        (directory / "sources.list").write_text(_sources())
        # An empty status file makes apt believe that nothing is installed, so it fetches every dependency. The #clear
        # lines keep this machine's own hooks (appstream and the like) out of it.
        self._configuration.write_text(
            f"""\
Dir::State "{directory}";
Dir::State::lists "{directory}/lists";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "{directory}/none";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{directory}/none";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
        )
        self._apt("apt-get", "update", "--error-on=any")

    def unpack_with_dependencies(self, packages: list[str], root: Path, preferred: str | None = None) -> None:
        """Unpacks packages and all they depend on into `root`, from a preferred suite such as the backports if any."""
        preference = ["-t", preferred] if preferred else []
        self._apt("apt-get", "install", "--yes", "--download-only", *preference, *packages)
        self._unpack(sorted((self.directory / "cache/archives").glob("*.deb")), root)

    def unpack_alone(self, package: str, root: Path) -> None:
        """Unpacks one package of the release into `root`, without what it depends on."""
        downloads = Path(tempfile.mkdtemp(prefix="downloads-", dir=self.directory))
        self._apt("apt-get", "download", package, directory=downloads)
        self._unpack(sorted(downloads.glob("*.deb")), root)

    def dependency(self, package: str, pattern: str) -> str:
        """The name of the dependency of a metapackage that matches a pattern."""
        for line in self._apt("apt-cache", "depends", package).splitlines():
            match = re.fullmatch(rf"\s*Depends: ({pattern})", line)
            if match:
                return match.group(1)
        raise Unavailable(f"the package {package} depends on nothing like {pattern}")

    def _unpack(self, files: list[Path], root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        for file in files:
            subprocess.run(["dpkg-deb", "--extract", file, root], check=True)
            file.unlink()

    def _apt(self, program: str, *arguments: str, directory: Path | None = None) -> str:
        done = subprocess.run(
            [program, "-q", "-c", str(self._configuration), *arguments],
            cwd=directory, preexec_fn=die_with_the_runner, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        if done.returncode != 0:
            reasons = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
            raise Unavailable(f"{program} {arguments[0]} failed: " + (" ".join(reasons) or done.stderr.strip()))
        return done.stdout


def _sources() -> str:
    """The sources of the private archive, on the sites that this machine's own apt uses for Debian.

    `OUTBOARD_DEBIAN_MIRROR` names a site instead, for a machine whose distribution is not Debian.
    """
    main, security = os.environ.get("OUTBOARD_DEBIAN_MIRROR"), None
    if main is None:
        main, security = _configured_sites()
    options = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    suites = [(main, RELEASE), (main, BACKPORTS)]
    if security is not None:
        suites.append((security, f"{RELEASE}-security"))
    return "".join(f"deb {options}{site} {suite} main\n" for site, suite in suites)


def _configured_sites() -> tuple[str, str | None]:
    """Where this machine's apt gets Debian and, if it has them, Debian's security updates from."""
    # Only where `apt-get update` has been run does apt know whose archive is whose. On a machine that never ran it, as
    # in most containers, the sites that its sources name are all there is, so look for Debian's usual address.
    known = [(site, release) for site, release, origin in _index_targets("--release-info") if origin == "Debian"]
    named = [(site, release) for site, release, _ in _index_targets("--no-release-info")]
    usual = [target for target in named if target[0].rstrip("/").endswith("/debian")]
    security = next((site for site, release in [*known, *named] if release.endswith("-security")), None)
    for site, release in [*known, *usual, *named]:
        if "-" not in release:
            return site, security
    raise Unavailable("apt's configuration on this machine names no Debian mirror (set OUTBOARD_DEBIAN_MIRROR)")


def _index_targets(option: str) -> list[tuple[str, str, str]]:
    """Site, release and origin of the package lists of a component `main`; with `--release-info`, of those fetched."""
    try:
        listing = subprocess.run(
            ["apt-get", "indextargets", option, "--format", "$(SITE)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)",
             "Created-By: Packages"],
            check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable("this machine has no apt to fetch Debian's packages with") from error
    targets = []
    for line in listing.splitlines():
        site, release, component, origin = line.split("|")
        if component == "main" and not site.startswith("cdrom:"):
            targets.append((site, release, origin))
    return targets


def run_in_tree(root: Path, program: str) -> list[str]:
    """The command that runs a program of an unpacked tree with the tree's own loader and libraries."""
    libraries = root / LIBRARIES
    search = f"{libraries}:{libraries / 'ceph'}"  # fio's libraries keep one of theirs in a directory of its own
    return [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", search, str(root / program)]


def shared_libraries(root: Path, program: Path) -> list[Path]:
    """The shared libraries of the tree that a program of the tree loads, its loader among them."""
    command = run_in_tree(root, str(program.relative_to(root)))
    listing = subprocess.run([*command[:3], "--list", command[3]], capture_output=True, text=True)
    libraries = []
    for line in listing.stdout.splitlines():
        if "not found" in line:
            raise Unavailable(f"{program.name}: {line.strip()}")
        match = re.search(r"(/\S+) \(0x", line)
        if match and Path(match.group(1)).is_relative_to(root):
            libraries.append(Path(match.group(1)))
    return [*libraries, root / LIBRARIES / "ld-linux-x86-64.so.2"] if libraries else []
