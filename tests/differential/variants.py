"""The platforms and options that are compared. One process can only have one of them, so each gets its own."""

from itertools import product
from typing import Final, NamedTuple

from systrap import platform
from systrap.platform import DISPATCH, SECCOMP, Options, Platform


class Variant(NamedTuple):
    """A platform with its options. ``storm``: a thread interrupts the contexts at random meanwhile.

    (Quick calls are not among them: the laboratory offers no handlers.)
    """

    platform: str
    trap: str = SECCOMP
    patching: bool = False
    fast: bool = False
    storm: bool = False
    user_resume: bool = True

    @property
    def name(self) -> str:
        """Return what the command line calls it."""
        words = [self.platform]
        if self.platform != "ptrace":
            words += [self.trap, "patched" if self.patching else "unpatched", "fast" if self.fast else "slow"]
            words += ["sigreturn"] * (not self.user_resume)
        return "-".join(words + ["storm"] * self.storm)

    def create(self) -> Platform:
        """Return the platform. Raises RequirementError."""
        options = Options(
            disable_syscall_patching=not self.patching,
            disable_fast_path=not self.fast,
            disable_user_resume=not self.user_resume,
            syscall_trap=self.trap,
        )
        return platform.lookup(self.platform).new(options)


ORACLE: Final = Variant("ptrace")
SYSTRAP: Final = tuple(
    Variant("systrap", trap, patching, fast)
    for trap, patching, fast in product((SECCOMP, DISPATCH), (False, True), (False, True))
)
STORMS: Final = tuple(Variant("systrap", trap, patching=True, fast=True, storm=True) for trap in (SECCOMP, DISPATCH))
SIGRETURN: Final = tuple(
    Variant("systrap", SECCOMP, patching, True, storm, user_resume=False)
    for patching, storm in ((False, False), (True, True))
)
"""The other of the two handler regimes. Two suffice: what differs between the regimes is the same for every trap."""
ALL: Final = {variant.name: variant for variant in (*SYSTRAP, *STORMS, *SIGRETURN, Variant("ptrace", storm=True))}
"""What can be compared with the oracle."""
