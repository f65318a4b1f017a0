"""Packages of Debian's, for any architecture and release, by apt: with the host's sources and keys, beside what is installed."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from tests.kernels.catalog import LEFT_OUT, Emulator

_SOURCES: Final = Path("/etc/apt")
_PATIENCE: Final = 600.0
"""Seconds for one command of apt's."""


class UnavailableError(Exception):
    """There is no machine to be had on this host: no emulator, no network, no apt. A reason to skip, not a failure."""


class Package(NamedTuple):
    """A downloaded package: where it came from and what it is, for the record."""

    name: str
    version: str
    url: str
    sha256: str
    path: Path


def checked(command: list[str], cwd: Path | None = None) -> str:
    """Run a command and return what it printed. Raises UnavailableError when it fails, is missing, or does not end."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd, timeout=_PATIENCE, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(str(error)) from error
    if done.returncode:
        said = f"{done.stdout}{done.stderr}".strip()[-2000:]
        raise UnavailableError(f"{shlex.join(command[:1])} … {command[-1]} failed ({done.returncode}):\n{said}")
    return done.stdout


def require_emulator(emulator: Emulator) -> None:
    """Install an emulator with apt, unless it is here. Raises UnavailableError."""
    if shutil.which(emulator.program):
        return
    if os.geteuid():
        raise UnavailableError(
            f"{emulator.program} is missing (apt-get install {emulator.package}), and this is not root"
        )
    apt = ["apt-get", "-q", "-oDPkg::Lock::Timeout=120", "-oAcquire::Retries=2"]
    checked([*apt, "update"])
    checked(
        ["env", "DEBIAN_FRONTEND=noninteractive", *apt, "install", "-y", "--no-install-recommends", emulator.package]
    )


def entries_of(text: str, one_line: bool) -> list[tuple[str, str, str]]:
    """Split apt sources into entries: what is before the suites, the suites, and what is behind."""
    if one_line:  # deb [OPTIONS] URI SUITE COMPONENT…
        found = [re.match(r"(deb\s+(?:\[.*?\]\s+)?\S+\s+)(\S+)(.*)", line) for line in text.splitlines()]
    else:  # stanzas with a line such as "Suites: bookworm bookworm-updates"
        found = [re.match(r"(?ms)(.*?^Suites:)([^\n]*)(.*)", stanza) for stanza in re.split(r"\n\s*\n", text)]
    return [(match[1], match[2], match[3]) for match in found if match]


class Apt:
    """apt with a state of its own in a folder: no package is installed there, and none here is seen."""

    def __init__(self, folder: Path, arch: str, suite: str | None = None) -> None:
        """Make the state and fetch the lists: of the host's release, or of another. Raises UnavailableError."""
        self._archives = folder / "cache/archives"
        for name in ("lists/partial", "cache/archives/partial", "sources"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        settings = {
            "APT::Architecture": arch,
            "APT::Architectures": arch,
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Debug::NoLocking": "true",
            "Dir::State::Lists": f"{folder}/lists",
            "Dir::State::status": f"{folder}/status",
            "Dir::State::extended_states": f"{folder}/extended_states",
            "Dir::Cache": f"{folder}/cache",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": f"{folder}/sources",
        }
        self._options = [f"-o{name}={value}" for name, value in settings.items()]
        self._write_sources(folder / "sources", suite)
        self.run("apt-get", "update", "-q")

    @staticmethod
    def _write_sources(folder: Path, suite: str | None) -> None:
        """Copy the host's sources for its own release, perhaps with another release's name in it."""
        release = re.search(r"^VERSION_CODENAME=\"?([\w-]+)", Path("/etc/os-release").read_text(), re.MULTILINE)
        if not release:
            raise UnavailableError("/etc/os-release does not tell the release")
        count = 0
        for path in [_SOURCES / "sources.list", *sorted((_SOURCES / "sources.list.d").glob("*"))]:
            if path.suffix not in (".list", ".sources") or not path.is_file():
                continue
            for before, suites, behind in entries_of(path.read_text(), path.suffix == ".list"):
                if release[1] in suites.split():
                    count += 1
                    names = suites if suite in (None, release[1]) else f" {suite}"
                    (folder / f"{count}{path.suffix}").write_text(f"{before}{names}{behind}\n")
        if not count:
            raise UnavailableError(f"no source for {release[1]} in {_SOURCES}")

    def run(self, tool: str, *arguments: str) -> str:
        """Run apt-get or apt-cache. Raises UnavailableError."""
        return checked([tool, *self._options, *arguments], self._archives)

    def newest(self, package: str) -> str:
        """Return the kernel package that a package without a version stands for."""
        for _ in range(4):
            depends = self.run("apt-cache", "depends", "--important", package)
            inner = re.search(r"^ *Depends: (linux-image-\d\S*)$", depends, re.MULTILINE)
            if not inner:
                break
            package = inner[1]
        return package

    def fetch(self, *packages: str, alone: bool = False) -> list[Package]:
        """Download packages, with what they depend on unless ``alone``. Raises UnavailableError."""
        command = ("download", "-q") if alone else ("install", "-q", "-y", "--download-only")
        uris = self.run("apt-get", *command, "--print-uris", *packages)
        self.run("apt-get", *command, *packages)
        return [self._package(match[1], match[2]) for match in re.finditer(r"^'(\S+)' (\S+\.deb) ", uris, re.MULTILINE)]

    def _package(self, url: str, name: str) -> Package:
        path = self._archives / name
        shown = checked(["dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(path)])
        package, _, version = shown.partition(" ")
        return Package(package, version, url, hashlib.sha256(path.read_bytes()).hexdigest(), path)


def unpack(package: Path, folder: Path) -> None:
    """Unpack a package without running its scripts. Raises UnavailableError."""
    folder.mkdir(parents=True, exist_ok=True)
    leave = [f"--exclude=./{pattern}" for pattern in LEFT_OUT]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as source:
        tar = ["tar", "-x", "-C", str(folder), "--keep-directory-symlink", "--no-same-owner", "-p", *leave]
        done = subprocess.run(tar, stdin=source.stdout, capture_output=True, check=False, timeout=_PATIENCE)
    if done.returncode or source.returncode:
        raise UnavailableError(f"cannot unpack {package.name}: {done.stderr.decode(errors='replace')}")
