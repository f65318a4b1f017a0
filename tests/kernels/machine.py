"""One boot of an emulated machine, one command in it."""

import ctypes
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple

from tests.kernels.catalog import EMULATORS, Kernel
from tests.kernels.cpio import Archive
from tests.kernels.debian import UnavailableError, require_emulator
from tests.kernels.image import INSIDE, PROJECT, Image, image

MEMORY_MIB: Final = 3072
CPUS: Final = 2

_LEFT_OUT: Final = frozenset((".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"))
_PORTS: Final = ("out", "err", "status")
_PR_SET_PDEATHSIG: Final = 1
_LAST_WORDS: Final = 30
"""Lines of the console that are shown when a machine died."""


class MachineError(Exception):
    """The machine did not come up, or died: a failure, of the kernel's or of ours."""


class Outcome(NamedTuple):
    """How a command ended. ``status`` is None past the deadline; ``boot`` and ``seconds`` are of the host's clock.

    ``release`` is the kernel's.
    """

    status: int | None
    boot: float
    seconds: float
    release: str = ""


class Job(NamedTuple):
    """What to run in the machine: a command in /host, where the project's tree is. ``user`` is "root" or "user"."""

    command: Sequence[str]
    user: str = "root"
    environment: Mapping[str, str] = {}
    shell: bool = False


def with_us() -> None:
    """In the child: end with the thread that started it, whatever ends that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def is_wanted(path: Path) -> bool:
    """Tell whether the machine gets a file of the project."""
    return path.name not in _LEFT_OUT


def write_initrd(file: BinaryIO, parts: Sequence[Path], job: Job, project: Path) -> None:
    """Write all that the machine has: the kept archives, then this run's: what runs inside, the project, the job."""
    for part in parts:
        with part.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 20)
    archive = Archive(file)
    archive.text("init", (INSIDE / "init").read_text(), 0o755)
    archive.text("machine/serve.py", (INSIDE / "serve.py").read_text())
    archive.tree(project, "host", is_wanted)
    if job.shell:
        archive.text("job/shell", "")
    job_text = json.dumps({"command": list(job.command), "user": job.user, "environment": dict(job.environment)})
    archive.text("job/job.json", job_text)
    archive.close()
    file.flush()


class Machine:
    """A running machine. A context manager: at its end nothing is left, whatever happened."""

    def __init__(self, kernel: Kernel, files: Image, job: Job, project: Path = PROJECT) -> None:
        """Boot. Raises OSError, UnavailableError."""
        self._emulator = EMULATORS[kernel.arch]
        self._began = time.monotonic()
        self._ours: dict[str, socket.socket] = {}
        theirs: dict[str, socket.socket] = {}
        self._files: list[BinaryIO] = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115 - closed in stop()
        initrd, self._console, self._log = self._files
        write_initrd(initrd, files.parts, job, project)
        for name in _PORTS:
            self._ours[name], theirs[name] = socket.socketpair()
        command = self._command(kernel, files.vmlinuz, initrd, job.shell)
        for name, end in theirs.items():
            command += ["-chardev", f"socket,id={name},fd={end.fileno()}"]
            command += ["-device", f"virtserialport,chardev={name},name={name}"]
        streams = (None, None) if job.shell else (subprocess.DEVNULL, self._log)
        self._process = subprocess.Popen(
            command,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[1],
            preexec_fn=with_us,
            start_new_session=not job.shell,
            pass_fds=[initrd.fileno(), self._console.fileno(), *(end.fileno() for end in theirs.values())],
        )
        for end in theirs.values():
            end.close()

    def _command(self, kernel: Kernel, vmlinuz: Path, initrd: BinaryIO, shell: bool) -> list[str]:
        """Return qemu's command line, but for the ports. It opens the unnamed files once more."""
        console = "mon:stdio" if shell else f"file:/proc/self/fd/{self._console.fileno()}"
        arguments = f"console={self._emulator.console} panic=-1 rdinit=/init loglevel={1 if shell else 5} audit=0"
        return [
            self._emulator.program,
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *self._emulator.options,
            *("-accel", "tcg,thread=multi", "-cpu", kernel.cpu),
            *("-smp", str(CPUS), "-m", str(MEMORY_MIB)),
            *("-kernel", str(vmlinuz), "-initrd", f"/proc/self/fd/{initrd.fileno()}"),
            *("-append", arguments, "-serial", console, "-device", self._emulator.serial),
        ]

    def __enter__(self) -> "Machine":
        """Return the machine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Switch it off."""
        self.stop()

    def attend(self, seconds: float, out: Callable[[bytes], None], err: Callable[[bytes], None]) -> Outcome:
        """Hand output over as it comes, until the machine is off or ``seconds`` after its start. Raises MachineError."""
        sinks = {"out": out, "err": err}
        status = b""
        boot = 0.0
        deadline = self._began + seconds
        with selectors.DefaultSelector() as selector:
            for name, end in self._ours.items():
                selector.register(end, selectors.EVENT_READ, name)
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    return Outcome(None, boot, time.monotonic() - self._began)
                for key, _ in selector.select(left):
                    data = self._ours[key.data].recv(1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.data == "status":
                        status += data
                        boot = boot or time.monotonic() - self._began
                    else:
                        sinks[key.data](data)
        ended = re.search(rb"^exit (\d+)$", status, re.MULTILINE)
        if ended is None:
            raise MachineError(f"the machine died\n{self.last_words()}")
        began = re.search(rb"^begin (\S+)$", status, re.MULTILINE)
        release = began[1].decode(errors="replace") if began else ""
        return Outcome(int(ended[1]), boot, time.monotonic() - self._began, release)

    def wait(self) -> None:
        """Wait until it is off: for machines whose console is ours."""
        self._process.wait()

    def last_words(self) -> str:
        """Return the end of what qemu and the kernel said."""
        text = b""
        for file in (self._log, self._console):
            file.seek(0)
            text += file.read()
        lines = text.decode(errors="replace").splitlines()[-_LAST_WORDS:]
        return "\n".join(f"  | {line.rstrip()}" for line in lines)

    def stop(self) -> None:
        """Switch off, and close everything."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for end in self._ours.values():
            end.close()
        for file in self._files:
            file.close()


def prepare(kernel: Kernel) -> Image:
    """Make sure that there is an emulator and an image. Raises UnavailableError."""
    if not os.access("/proc/self/fd", os.R_OK):
        raise UnavailableError("no /proc")
    require_emulator(EMULATORS[kernel.arch])
    return image(kernel)


def run(
    kernel: Kernel, job: Job, seconds: float, out: Callable[[bytes], None], err: Callable[[bytes], None]
) -> Outcome:
    """Boot, run, switch off. Raises UnavailableError, MachineError."""
    with Machine(kernel, prepare(kernel), job) as machine:
        return machine.attend(seconds, out, err)
