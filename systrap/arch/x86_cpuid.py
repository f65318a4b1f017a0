"""What guests see of the CPU where CPUID can be made to fault: the host's answers, less what does not hold for a guest.

The instructions themselves cannot be taken away: hiding a feature keeps honest programs from using it, and hides nothing
from others. A feature is hidden when its state would get lost between guest threads, when it cannot work in a guest, or when
the answer depends on the CPU that happens to be asked. Everything else is the host's: guest code runs on it directly.

Tables, and one class that applies them. Whoever asks the host is handed in (P-051, S-110).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from systrap.arch import x86_fp

Words = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

Query = Callable[[int, int], Words]
"""Asks a CPU: leaf and subleaf in, registers out."""

EAX: Final = 0
EBX: Final = 1
ECX: Final = 2
EDX: Final = 3

NOTHING: Final[Words] = (0, 0, 0, 0)

SUBLEAVES: Final = {
    0x0: 0, 0x1: 0, 0x2: 0, 0x4: 15, 0x7: 2, 0xB: 7, 0xD: 62, 0x15: 0, 0x16: 0, 0x18: 31, 0x1F: 7, 0x24: 1,
    0x80000000: 0, 0x80000001: 0, 0x80000002: 0, 0x80000003: 0, 0x80000004: 0, 0x80000005: 0, 0x80000006: 0,
    0x80000007: 0, 0x80000008: 0, 0x80000019: 0, 0x8000001A: 0, 0x8000001D: 7, 0x8000001E: 0,
}  # fmt: skip
"""The leaves that are answered, and the highest subleaf of each (0: ECX does not count). Others are zeros, as AMD has it.

Not there: MWAIT (5), power and performance monitoring (6, 0xA, 0x1C, 0x23), resource and trace control (0xF, 0x10, 0x12, 0x14),
keys and tiles (0x19, 0x1D, 0x1E), kinds of cores (0x1A), virtualisation and memory encryption (0x8000000A, 0x8000001F…).
The leaves of a hypervisor (0x40000000…) are not, either: they describe model-specific registers and calls that no user code
can reach, and the hypervisor is the host's affair.
"""

_PER_CPU_TOPOLOGY: Final = (0xB, 0x1F)


class Feature(NamedTuple):
    """One feature bit: where it stands, and its name in Intel's or AMD's manuals."""

    leaf: int
    subleaf: int
    register: int
    bit: int
    name: str


HIDDEN: Final[dict[str, tuple[Feature, ...]]] = {
    "its state is not kept with a context (x86_fp.FEATURES; S-047)": (
        Feature(7, 0, EBX, 14, "MPX"),
        Feature(7, 0, ECX, 3, "PKU"),
        Feature(7, 0, ECX, 4, "OSPKE"),
        Feature(7, 0, ECX, 7, "CET_SS"),
        Feature(7, 0, ECX, 23, "KL"),
        Feature(7, 0, ECX, 29, "ENQCMD"),
        Feature(7, 0, EDX, 5, "UINTR"),
        Feature(7, 0, EDX, 20, "CET_IBT"),
        Feature(7, 0, EDX, 22, "AMX-BF16"),
        Feature(7, 0, EDX, 24, "AMX-TILE"),
        Feature(7, 0, EDX, 25, "AMX-INT8"),
        Feature(7, 1, EAX, 21, "AMX-FP16"),
        Feature(7, 1, EDX, 8, "AMX-COMPLEX"),
        Feature(7, 1, EDX, 21, "APX_F"),
        Feature(0x80000001, 0, ECX, 15, "LWP"),
    ),
    "a transaction ends at every page that is not mapped yet, and no fault tells us to map it": (
        Feature(7, 0, EBX, 4, "HLE"),
        Feature(7, 0, EBX, 11, "RTM"),
        Feature(7, 0, EDX, 11, "RTM_ALWAYS_ABORT"),
        Feature(7, 0, EDX, 13, "TSX_FORCE_ABORT"),
        Feature(7, 0, EDX, 16, "TSXLDTRK"),
    ),
    "it is for kernels and hypervisors, and its leaf is not answered": (
        Feature(1, 0, ECX, 3, "MONITOR"),
        Feature(1, 0, ECX, 5, "VMX"),
        Feature(1, 0, ECX, 6, "SMX"),
        Feature(1, 0, ECX, 15, "PDCM"),
        Feature(1, 0, ECX, 24, "TSC_DEADLINE"),
        Feature(7, 0, EBX, 2, "SGX"),
        Feature(7, 0, EBX, 12, "RDT_M"),
        Feature(7, 0, EBX, 15, "RDT_A"),
        Feature(7, 0, EBX, 25, "INTEL_PT"),
        Feature(7, 0, ECX, 30, "SGX_LC"),
        Feature(7, 0, EDX, 18, "PCONFIG"),
        Feature(7, 0, EDX, 19, "ARCH_LBR"),
        Feature(0x80000001, 0, ECX, 2, "SVM"),
        Feature(0x80000001, 0, ECX, 10, "IBS"),
        Feature(0x80000001, 0, ECX, 12, "SKINIT"),
        Feature(0x80000001, 0, ECX, 29, "MONITORX"),
    ),
    "it belongs to answers that differ from CPU to CPU": (
        Feature(1, 0, ECX, 21, "x2APIC"),
        Feature(7, 0, EDX, 15, "HYBRID"),
    ),
    "the hypervisor's leaves are not answered": (Feature(1, 0, ECX, 31, "HYPERVISOR"),),
}
"""Feature bits that read as 0, by the reason."""

XSAVE_INSTRUCTIONS: Final = 0b111
"""What leaf 0xD, subleaf 1 may say: XSAVEOPT, XSAVEC, XGETBV with ECX = 1. User code may run all of them on memory of its own
(the dynamic linker does); that *we* never use the compact format is another matter. XSAVES is for kernels; XFD is AMX's."""


def _masks() -> dict[tuple[int, int], list[int]]:
    """Return the bits to clear, by leaf and subleaf."""
    masks: dict[tuple[int, int], list[int]] = {}
    for features in HIDDEN.values():
        for feature in features:
            words = masks.setdefault((feature.leaf, feature.subleaf), [0, 0, 0, 0])
            words[feature.register] |= 1 << feature.bit
    return masks


_MASKS: Final = _masks()


class VirtualCpuid:
    """The feature set of a run. The host is asked once for each answer, so that it stays the same on every CPU."""

    def __init__(self, host: Query) -> None:
        self._host = host
        self._answers: dict[tuple[int, int], Words] = {}

    def query(self, leaf: int, subleaf: int) -> Words:
        """Return what CPUID answers in a guest. Any 32-bit values may be asked for."""
        last = SUBLEAVES.get(leaf)
        if last is None or leaf > self._highest(leaf):
            return NOTHING
        if subleaf > last:
            if last:
                return (0, 0, subleaf & 0xFF, 0) if leaf in _PER_CPU_TOPOLOGY else NOTHING
            subleaf = 0
        answer = self._answers.get((leaf, subleaf))
        if answer is None:
            answer = self._answers[leaf, subleaf] = self._ask(leaf, subleaf)
        return answer

    def _highest(self, leaf: int) -> int:
        """Return the highest leaf that is answered in the range (basic, extended) of ``leaf``."""
        first = leaf & _EXTENDED
        if leaf == first:
            return first
        return self.query(first, 0)[EAX]

    def _ask(self, leaf: int, subleaf: int) -> Words:
        answer = self._host(leaf, subleaf)
        hidden = _MASKS.get((leaf, subleaf))
        if hidden is not None:
            eax, ebx, ecx, edx = (word & ~mask for word, mask in zip(answer, hidden, strict=True))
            answer = (eax, ebx, ecx, edx)
        change = _CHANGES.get(leaf)
        return answer if change is None else change(self._host, subleaf, answer)


_EXTENDED: Final = 0x80000000


def _basic(_: Query, subleaf: int, words: Words) -> Words:
    """Leaf 0: the highest leaf there is, and the vendor."""
    eax, ebx, ecx, edx = words
    return min(eax, max(leaf for leaf in SUBLEAVES if leaf < _EXTENDED)), ebx, ecx, edx


def _extended(_: Query, subleaf: int, words: Words) -> Words:
    """Leaf 0x80000000: the same for the leaves from there on."""
    eax, ebx, ecx, edx = words
    return min(eax, max(SUBLEAVES)), ebx, ecx, edx


def _identity(_: Query, subleaf: int, words: Words) -> Words:
    """Leaf 1: the highest byte of EBX is the number of this CPU."""
    eax, ebx, ecx, edx = words
    return eax, ebx & 0x00FFFFFF, ecx, edx


def _features(_: Query, subleaf: int, words: Words) -> Words:
    """Leaf 7: subleaf 0 says how many there are."""
    eax, ebx, ecx, edx = words
    return (min(eax, SUBLEAVES[7]) if subleaf == 0 else eax), ebx, ecx, edx


def _topology(_: Query, subleaf: int, words: Words) -> Words:
    """Leaves 0xB and 0x1F: EDX is the number of this CPU, whatever the subleaf."""
    eax, ebx, ecx, _edx = words
    return eax, ebx, ecx, 0


def _extended_state(host: Query, subleaf: int, words: Words) -> Words:
    """Leaf 0xD: only the components that are kept.

    The sizes in subleaves 0 and 1 stay the host's. They tell how much XSAVE writes, and that goes by what is enabled in XCR0,
    which no one can hide: XGETBV shows it, and a program that saves all components into a buffer made for fewer of them
    would write behind its end. A size that is too big costs some bytes.
    """
    eax, ebx, ecx, edx = words
    if subleaf == 0:
        return eax & x86_fp.FEATURES, ebx, ecx, 0
    if subleaf == 1:
        return eax & XSAVE_INSTRUCTIONS, ebx, 0, 0
    return words if x86_fp.FEATURES & host(0xD, 0)[EAX] & 1 << subleaf else NOTHING


def _amd_topology(_: Query, subleaf: int, words: Words) -> Words:
    """Leaf 0x8000001E: how many threads a core and nodes a processor has, without which ones this CPU is."""
    _eax, ebx, ecx, _edx = words
    return 0, ebx & 0xFF00, ecx & 0x700, 0


_CHANGES: Final[dict[int, Callable[[Query, int, Words], Words]]] = {
    0x0: _basic,
    _EXTENDED: _extended,
    0x1: _identity,
    0x7: _features,
    0xB: _topology,
    0x1F: _topology,
    0xD: _extended_state,
    0x8000001E: _amd_topology,
}
"""What else is changed in an answer, after its hidden features are out."""
