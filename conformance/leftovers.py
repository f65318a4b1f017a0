"""Which processes of a driver are still there: those of its session, which it leads."""

import os
from typing import Final

_DEAD: Final = "ZX"


def of_session(session: int) -> list[int]:
    """Return the ids of the processes of a session that live; zombies, which somebody has yet to reap, do not.

    What made a session of its own is not found. Nor is anything where the driver's command only asks somebody else to run it.
    """
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name may hold anything, blanks and brackets too; behind it stand state, parent, group, session.
                state, _, _, of = file.read().rpartition(b")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == session and state.decode() not in _DEAD:
            found.append(int(name))
    return found
