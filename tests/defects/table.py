"""The defects that docs/upstream-defects.md must have a row for, and how each is shown."""

from enum import Enum
from typing import Final, NamedTuple


class Shown(Enum):
    """What the tests of a row show."""

    BOTH_WAYS = "the original fails, ours passes"
    REMAINS = "what of it remains here"
    ABSENT = "ours lacks the very thing that could have it"


class Defect(NamedTuple):
    """A row. ``found``: where the specification tells of it; ``statements``: which of its statements ours keep."""

    id: str
    found: str
    statements: tuple[str, ...]
    shown: Shown = Shown.BOTH_WAYS


DEFECTS: Final = (
    Defect("BUG-FP", "10-stub §3.1", ("S-042",)),
    Defect("FP-BOUNCE", "10-stub §3.3", ("S-045", "P-061")),
    Defect("STORE-LOAD", "10-stub §4.1", ("S-063",)),
    Defect("CONSUMERS", "10-stub §4.2", (), Shown.REMAINS),
    Defect("SPIN-ORDER", "10-stub §4.5", ("S-070", "S-071")),
    Defect("PROBE-REGISTER", "10-stub §3.4", ("S-043",)),
    Defect("DF-AC", "10-stub §5", ("S-093",)),
    Defect("XFEATURES", "10-stub §3.5", ("S-046", "S-047")),
    Defect("PANIC-WAKE", "10-stub §9", ("S-149", "S-140")),
    Defect("PANIC-POINTER", "10-stub §9", ("S-054",)),
    Defect("SPIN-GAP", "10-stub §1.2", ("S-009",)),
    Defect("F1-TOP", "10-stub §7.3", ("S-101", "S-102", "S-108")),
    Defect("TABLE-END", "10-stub §6.1", ("S-089", "S-090")),
    Defect("TABLE-HEADER", "10-stub §6.1", ("S-147",)),
    Defect("HALF-PATCH", "10-stub §6.3", ("S-083",)),
    Defect("INSTRUCTION-TAIL", "10-stub §6.5", ("S-080",)),
    Defect("SITE-ENTRY", "10-stub §6.5", (), Shown.REMAINS),
    Defect("STUB-WAIT", "10-stub §8.1", ("S-131", "P-101")),
    Defect("MUNMAP-PANIC", "20-platform §4.1", ("P-104",)),
    Defect("FORGED-REPLY", "20-platform §3.6", ("S-146",)),
    Defect("RELEASE-LEAK", "20-platform §9.3", ("P-101", "P-117")),
    Defect("CORE-DUMP", "20-platform §8.1", ("P-103",)),
    Defect("ATTACHED-DEATH", "20-platform §8.1", ("P-012", "P-103"), Shown.ABSENT),
    Defect("POOL-DEAD", "20-platform §2.4", ("P-102",)),
    Defect("POOL-CORRUPT", "20-platform §8.3", ("S-141",)),
    Defect("DEAF-GUEST", "20-platform §6.6", ("S-144",)),
    Defect("DOUBLE-FETCH", "10-stub §10.2", ("S-142", "P-076")),
    Defect("STALE-SLOT", "20-platform §6.1", ("S-026",)),
    Defect("FP-MOVE", "20-platform §5.4", ("P-058", "P-061")),
    Defect("LATE-THREAD", "20-platform §3.5", ("P-072",)),
    Defect("BOTH-MEDIANS", "20-platform §7.3", ("P-090",)),
    Defect("ARM-RECORD-WALK", "10-stub §3.6", ("S-053",)),
    Defect("ARM-FP-CHANGED", "10-stub §3.6", ()),
    Defect("ARM-X0", "10-stub §8.1", (), Shown.ABSENT),
    Defect("RSEQ", "10-stub §1.6", ("S-011",)),
)

BUG_MARKS: Final = {
    "1.2 spinning queue without gap": "SPIN-GAP",
    "3.1 FP after an interrupt in the exit window": "BUG-FP",
    "3.4 uninitialised probe register": "PROBE-REGISTER",
    "3.6 record walk without bound": "ARM-RECORD-WALK",
    "3.6 fpstate_changed never cleared": "ARM-FP-CHANGED",
    "4.1 store, then load": "STORE-LOAD",
    "4.2 consumers behind preempted peers": "CONSUMERS",
    "5 DF and AC": "DF-AC",
    "6.1 index 256": "TABLE-END",
    "6.3 write failure leaves a half patch": "HALF-PATCH",
    "8.1 x0 not reloaded": "ARM-X0",
    "8.1 wait without time-out": "STUB-WAIT",
    "9 wake-up of a panic denied": "PANIC-WAKE",
    "9 garbage context pointer": "PANIC-POINTER",
    "20 §4.1 munmap failure": "MUNMAP-PANIC",
    "20 §7.3 medians after the reset": "BOTH-MEDIANS",
    "20 §8.1 core dump is alive": "CORE-DUMP",
    "20 §9.3 reference of a dead space": "RELEASE-LEAK",
}
"""Each place that 10-stub.md marks with [BUG] or lists among the defects to avoid (§11), and 20-platform.md's quirks."""
