"""The programs, natively and as guests, as root and then as an ordinary user: ``python3 -m tests.programs.both_users``.

For machines that are made for one run, such as an emulated one of another architecture, where everything is slow: it takes the
cases marked ``sample``, unless arguments say what pytest is to run (``tests/programs -m "not slow"``). Needs pytest only; time
limits grow with SYSTRAP_SLOWNESS. Exit status: pytest's, the first that is not 0.

    arm64-vm --dir . --cpu cortex-a72 --package bash --package coreutils --package perl --package grep --package sed
        --package findutils --package mawk --env SYSTRAP_SLOWNESS=20 -- python3 -m tests.programs.both_users
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from tests.programs.support import ROOT, SLOWNESS

NOBODY: Final = 65534
SAMPLE: Final = ("-m", "sample", "tests/programs/test_programs.py")
_QUIET: Final = "ignore::pytest.PytestUnknownMarkWarning"
_LIMIT: Final = 1200 * SLOWNESS


def command(arguments: Sequence[str]) -> list[str]:
    """Return pytest's command line: without the project's settings, which ask for plugins that may not be there."""
    base = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-ra",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        f"--rootdir={ROOT}",
    ]
    return [*base, *(arguments or SAMPLE)]


def run(arguments: Sequence[str], user: int) -> int:
    """Run the tests as a user; return pytest's exit status."""
    print(f"== as user {user}", flush=True)
    words = command(arguments)
    if user == os.geteuid():
        return subprocess.run(words, cwd=ROOT, check=False, timeout=_LIMIT).returncode
    return subprocess.run(
        words, cwd=ROOT, check=False, timeout=_LIMIT, user=user, group=user, extra_groups=[]
    ).returncode


def name_awk() -> None:
    """Give mawk its usual name, which a package's script would do where packages are installed and not only unpacked."""
    if shutil.which("awk", path="/usr/bin:/bin") is None and os.access("/usr/bin/mawk", os.X_OK) and os.geteuid() == 0:
        os.symlink("mawk", "/usr/bin/awk")


def main(arguments: Sequence[str]) -> int:
    """Run the tests as root, if that is who we are, and as an ordinary user."""
    name_awk()
    users = [0, NOBODY] if os.geteuid() == 0 else [os.geteuid()]
    return next((status for status in [run(arguments, user) for user in users] if status), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
