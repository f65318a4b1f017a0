"""What qemu boots: a kernel, its few modules, and a root file system; made once each, and kept."""

import fcntl
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tests.kernels.catalog import EMULATORS, LEFT_OUT, PACKAGES, Kernel
from tests.kernels.cpio import Archive
from tests.kernels.debian import Apt, Package, UnavailableError, unpack

INSIDE: Final = Path(__file__).parent / "inside"
PROJECT: Final = Path(__file__).parents[2]

_FORMAT: Final = 1
"""Part of the names of what is kept: raised when the way it is made changes."""
_USERS: Final = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
_GROUPS: Final = "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n"
_COMPRESSED: Final = {".xz": lzma.decompress}


class Image(NamedTuple):
    """Files for one kernel. ``parts`` are archives, to be unpacked by it one after the other."""

    vmlinuz: Path
    parts: tuple[Path, ...]
    packages: tuple[Path, ...]


def cache() -> Path:
    """Return the folder in which images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "systrap-vm"


def image(kernel: Kernel) -> Image:
    """Return the image for a kernel, made first where needed. Raises UnavailableError."""
    root = kept(f"root-{kernel.arch}", (PACKAGES, LEFT_OUT, _USERS), lambda folder: make_root(folder, kernel.arch))
    own = kept(f"kernel-{kernel.name}", kernel, lambda folder: make_kernel(folder, kernel))
    return Image(
        own / "vmlinuz",
        (root / "root.cpio", own / "modules.cpio"),
        (own / "packages.json", root / "packages.json"),
    )


def kept(name: str, key: object, make: Callable[[Path], None]) -> Path:
    """Return the folder of a part, filled by ``make`` unless it is there. Others who want one at the same time wait."""
    folder = cache() / f"{name}-{hashlib.sha256(repr((_FORMAT, key)).encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        print(f"kernels: making {folder.name}", file=sys.stderr, flush=True)
        for left in cache().glob("new-*"):  # of somebody who was killed: the lock is ours
            shutil.rmtree(left)
        made = Path(tempfile.mkdtemp(dir=cache(), prefix="new-"))
        try:
            make(made)
            made.chmod(0o755)
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return folder


def record(packages: Iterable[Package], file: Path) -> None:
    """Write down what was downloaded, from where."""
    rows = [package._asdict() | {"path": package.path.name} for package in packages]
    file.write_text(json.dumps(rows, indent=1) + "\n")


def make_root(folder: Path, arch: str) -> None:
    """Write root.cpio and packages.json. Raises UnavailableError."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        packages = Apt(Path(work) / "apt", arch).fetch(*PACKAGES)
        root = Path(work) / "root"
        for name in ("bin", "lib", "lib64", "sbin"):
            (root / "usr" / name).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(f"usr/{name}")
        for package in packages:
            unpack(package.path, root)
        compile_python(root)
        with (folder / "root.cpio").open("wb") as file:
            write_root(Archive(file), root)
        record(packages, folder / "packages.json")


def write_root(archive: Archive, root: Path) -> None:
    """Write the root file system: the packages, and what makes a system of them."""
    archive.folder("dev")
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    archive.tree(root)
    for name, target in (("sh", "dash"), ("awk", "mawk")):  # what a package's scripts would do
        if not (root / "usr/bin" / name).is_symlink():
            archive.link(f"usr/bin/{name}", target)
    archive.text("etc/passwd", _USERS)
    archive.text("etc/group", _GROUPS)
    archive.text("etc/hosts", "127.0.0.1 localhost machine\n")
    archive.folder("root", 0o700)
    archive.folder("home")
    archive.folder("home/user", 0o777)
    archive.close()


def compile_python(root: Path) -> None:
    """Compile the Python modules here, where it is fast, if some interpreter of the host's has their version."""
    for library in root.glob("usr/lib/python3.*"):
        python = shutil.which(library.name)
        if python is not None:
            folders = [str(library), *(str(path) for path in root.glob("usr/lib/python3/dist-packages"))]
            options = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/"]
            # Some packages have files with errors on purpose: the status says nothing.
            command = [python, "-I", "-m", "compileall", *options, *folders]
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=600)


def make_kernel(folder: Path, kernel: Kernel) -> None:
    """Write vmlinuz, modules.cpio and packages.json. Raises UnavailableError."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        apt = Apt(Path(work) / "apt", kernel.arch, kernel.suite)
        packages = apt.fetch(apt.newest(kernel.package), alone=True)
        if not packages:
            raise UnavailableError(f"no package {kernel.package} in {kernel.suite}")
        unpacked = Path(work) / "kernel"
        unpack(packages[0].path, unpacked)
        (vmlinuz,) = unpacked.glob("boot/vmlinuz-*")
        vmlinuz.rename(folder / "vmlinuz")
        with (folder / "modules.cpio").open("wb") as file:
            archive = Archive(file)
            loaded = modules(unpacked, EMULATORS[kernel.arch].modules)
            for name, content in loaded:
                archive.data(f"modules/{name}", content)
            archive.text("modules/order", "".join(f"{name}\n" for name, _ in loaded))
            archive.close()
        record(packages, folder / "packages.json")


def modules(root: Path, names: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return kernel modules and those they need, in the order to load them. What is no module is built in."""
    files = {}
    for path in root.rglob("*.ko*"):
        files[path.name.split(".ko")[0].replace("-", "_")] = path
    found: dict[str, bytes] = {}

    def load(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or f"{name}.ko" in found:
            return
        content = _COMPRESSED.get(path.suffix, bytes)(path.read_bytes())
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in needs[1].decode().split(",") if needs and needs[1] else ():
            load(other)
        found[f"{name}.ko"] = content

    for name in names:
        load(name)
    return list(found.items())
