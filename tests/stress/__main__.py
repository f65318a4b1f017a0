"""``python -m tests.stress --seconds 60 --seed N``: contexts, interrupts, faults, FP state, kills; nothing is wrong or left."""

import argparse
import os
import secrets
import sys

from systrap import platform
from systrap.platform import SYSCALL_TRAPS, Options
from tests.stress.run import CONTEXTS, SPACES, Load
from tests.stress.whole import whole_run


def main() -> int:
    """Run the command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SYSTRAP_SEED") or secrets.randbelow(1 << 32)))
    parser.add_argument("--platform", choices=platform.names(), default="systrap")
    parser.add_argument("--contexts", type=int, default=CONTEXTS, help="in each space")
    parser.add_argument("--spaces", type=int, default=SPACES)
    parser.add_argument("--threads", type=int, default=0, help="use switch() from so many threads; 0: submit()")
    parser.add_argument("--no-kill", action="store_true", help="kill no stub")
    parser.add_argument("--syscall-trap", choices=SYSCALL_TRAPS, default="auto")
    parser.add_argument("--no-syscall-patching", action="store_true")
    parser.add_argument("--no-fast-path", action="store_true")
    parser.add_argument("--no-user-resume", action="store_true")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    options = Options(
        disable_syscall_patching=given.no_syscall_patching,
        disable_fast_path=given.no_fast_path,
        disable_user_resume=given.no_user_resume,
        syscall_trap=given.syscall_trap,
    )
    load = Load(given.seconds, given.contexts, given.spaces, given.threads, not given.no_kill)
    print(whole_run(given.platform, options, given.seed, load))
    return 0


if __name__ == "__main__":
    sys.exit(main())
