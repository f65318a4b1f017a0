"""In the machine, started by init: run the job, and tell its output and its status through named serial ports."""

import contextlib
import json
import os
import pwd
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PATIENCE = 10.0
"""Seconds in which the ports must turn up, after their driver was loaded."""
AFTERWARDS = 3.0
"""Seconds for output that comes after the end of the job: from processes it left behind."""


def ports() -> Iterator[tuple[str, str]]:
    """Yield the ports that are there: name and device."""
    for entry in Path("/sys/class/virtio-ports").glob("*"):
        with contextlib.suppress(OSError):
            yield (entry / "name").read_text().strip(), f"/dev/{entry.name}"


def port(name: str) -> int:
    """Open a port for writing; each can be opened only once. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        device = dict(ports()).get(name)
        if device is not None and os.path.exists(device):
            return os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        time.sleep(0.01)
    raise TimeoutError(f"no port {name}")


def pump(source: IO[bytes], target: int) -> None:
    """Copy until the end."""
    while data := os.read(source.fileno(), 1 << 16):
        while data:
            data = data[os.write(target, data) :]


def run(job: dict[str, object], out: int, err: int) -> int:
    """Run the job. Returns its status as a shell's."""
    user = pwd.getpwnam(str(job["user"]))
    environment = {**os.environ, "HOME": user.pw_dir, "USER": user.pw_name}
    given = job["environment"]
    if isinstance(given, dict):
        environment.update(given)
    command = job["command"]
    if not isinstance(command, list):
        raise TypeError("no command")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/host",
            env=environment,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            start_new_session=True,
        )
    except OSError as error:
        os.write(err, f"{command[0]}: {error}\n".encode())
        return 127
    pumps = [
        threading.Thread(target=pump, args=pair, daemon=True) for pair in ((process.stdout, out), (process.stderr, err))
    ]
    for thread in pumps:
        thread.start()
    code = process.wait()
    deadline = time.monotonic() + AFTERWARDS
    for thread in pumps:
        thread.join(max(0.0, deadline - time.monotonic()))
    return code if code >= 0 else 128 - code


def main() -> None:
    """Serve the one job of this machine."""
    out, err, status = port("out"), port("err"), port("status")
    os.write(status, f"begin {os.uname().release}\n".encode())
    code = run(json.loads(Path("/job/job.json").read_text()), out, err)
    os.write(status, f"exit {code}\n".encode())


if __name__ == "__main__":
    main()
