"""What has to be known of a machine before its figures mean anything."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Final

from systrap.host.cpus import usable_cpus
from systrap.host.probe import Host
from systrap.version import VERSION

_CPU: Final = Path("/sys/devices/system/cpu")


def facts(runsc: str | None) -> dict[str, str]:
    """Return the facts, by name, all as text: CPU, kernel, load, mitigations, who is measured."""
    found = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "cpu": _cpu_model(),
        "cpus": f"{usable_cpus()} usable of {os.cpu_count()}",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": load(),
        "governor": Host().read(f"{_CPU}/cpu0/cpufreq/scaling_governor") or "none told (a virtual machine?)",
        "mitigations": mitigations(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "systrap": VERSION,
    }
    if runsc is not None:
        found["runsc"] = runsc_version(runsc)
    return found


def load() -> str:
    """Return the load averages: above 0.5 or so, figures are not to be trusted."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _cpu_model() -> str:
    for line in (Host().read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "CPU part"):
            return value.strip()
    return "unknown"


def mitigations() -> str:
    """Return what the kernel mitigates: they are a part of what a signal or a system call costs."""
    found: list[str] = []
    for file in sorted((_CPU / "vulnerabilities").glob("*")):
        text = Host().read(str(file))
        if text and not text.startswith("Not affected"):
            found.append(f"{file.name}: {text}")
    return "; ".join(found) or "none"


def runsc_version(path: str) -> str:
    """Return what runsc says it is; its Debian package does not say more than its date."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    return done.stdout.splitlines()[0] if done.stdout else "says nothing"
