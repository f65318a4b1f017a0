"""The kernels of the matrix, by name, and the packages in every machine."""

from typing import Final, NamedTuple


class Emulator(NamedTuple):
    """How a machine of one architecture is emulated. ``package`` is Debian's that has ``program``.

    ``modules``: what the first process has to load to speak through the serial ports, besides what these need.
    """

    program: str
    package: str
    options: tuple[str, ...]
    serial: str
    modules: tuple[str, ...]
    console: str


class Kernel(NamedTuple):
    """A kernel package of a Debian release. ``cpu`` is qemu's name of a processor that it can boot on.

    ``arch`` is Debian's word, ``machine`` uname's. ``page`` is the size of pages in KiB.
    """

    name: str
    arch: str
    machine: str
    suite: str
    package: str
    cpu: str
    page: int = 4


EMULATORS: Final = {
    "amd64": Emulator(
        "qemu-system-x86_64",
        "qemu-system-x86",
        ("-machine", "q35"),
        "virtio-serial-pci",
        ("virtio_pci", "virtio_console"),
        "ttyS0",
    ),
    "arm64": Emulator(
        "qemu-system-aarch64",
        "qemu-system-arm",
        ("-machine", "virt"),
        "virtio-serial-device",
        ("virtio_mmio", "virtio_console"),
        "ttyAMA0",
    ),
}

_A72: Final = "cortex-a72"
"""The fastest to emulate. It has no 16K pages."""
_MAX: Final = "max,sve=off,sme=off,pauth-impdef=on"
"""Everything, but SVE: with it qemu 7.2 executes code that was overwritten (tests/arm64/conftest.py). And with pointer
authentication by qemu's own function: to compute the real one makes everything two to four times slower."""

KERNELS: Final = (
    *(
        Kernel(f"{machine}-{version}", arch, machine, suite, f"linux-image-cloud-{arch}", cpu)
        for machine, arch, cpu in (("x86_64", "amd64", "max"), ("aarch64", "arm64", _A72))
        for version, suite in (("5.10", "bullseye"), ("6.1", "bookworm"), ("6.12", "trixie"))
    ),
    Kernel("aarch64-6.12-16k", "arm64", "aarch64", "trixie", "linux-image-arm64-16k", _MAX, 16),
)
"""Debian has no kernel of 64K pages; its first of 16K is trixie's."""

PACKAGES: Final = (
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "mawk",
    "perl-base",
    "python3",
    "python3-pytest",
    "sed",
)
"""What the root file system holds, besides what these depend on."""

LEFT_OUT: Final = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/zoneinfo",
    "usr/lib/*/gconv",
)
"""Parts of packages that no test needs (shell patterns)."""


def kernel(name: str) -> Kernel:
    """Return a kernel by name. Raises KeyError."""
    for found in KERNELS:
        if found.name == name:
            return found
    raise KeyError(name)
