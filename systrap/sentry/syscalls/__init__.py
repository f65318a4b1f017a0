"""The system calls, by subject. table.py binds numbers to handlers."""

import importlib
from typing import Final

from systrap import arch

_SUBJECTS: Final = (
    "memory", "process", "prctl", "signals", "time", "futex", "ids", "sched", "misc", "files", "fileops", "fcntl", "splice",
    "paths", "attributes", "stat", "xattr", "pipes", "poll", "eventfds", "inotify", "sockets",
)  # fmt: skip


def load_all() -> None:
    """Import every module of handlers, so that the table is complete: those by subject, and that of the architecture."""
    for subject in (*_SUBJECTS, arch.current().NAME):
        importlib.import_module(f"systrap.sentry.syscalls.{subject}")
