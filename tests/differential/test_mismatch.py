"""The comparison finds what it is there for: a platform that lies is found, shrunk and reported."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from systrap.arch import x86_64 as cpu
from systrap.platform import Context, EventKind
from tests.differential.campaign import Comparison, Mismatch, report
from tests.differential.execution import Run
from tests.differential.fpstate import FpFormat
from tests.differential.generate import cpu_features, from_seed
from tests.differential.memory import SpaceMemory, memory_file
from tests.differential.snippet import END, PAGE, Layout, Snippet, flatten
from tests.differential.trace import Entry, Note, Trace, difference, digest
from tests.differential.variants import ALL
from tests.differential.worker import Answer
from tests.platforms.conftest import create

Lie = Callable[[Context], None]


class Liar:
    """Runs snippets in this very process, on ptrace, and changes what comes back."""

    def __init__(self, lie: Lie) -> None:
        self.variant = ALL["ptrace-storm"]
        self.statistics: Counter[str] = Counter()
        self._platform = create("ptrace")
        self._file = memory_file()
        self._memory = SpaceMemory(self._platform, self._file)
        self._fp = FpFormat()
        self._traces: list[list[Trace]] = []
        self._lie = lie

    def run(self, snippets: Sequence[Snippet]) -> Answer:
        self._traces = []
        for snippet in snippets:
            run = Run(self._platform, self._memory, snippet, self._fp)
            run.on_event = self._lie
            run.drive(self.statistics)
            self._traces.append(run.result(self.statistics, patching=False))
        return Answer([tuple(map(digest, twins)) for twins in self._traces], Counter(), None)

    def recall(self, index: int) -> list[Trace]:
        return self._traces[index]

    def trace(self, snippet: Snippet) -> list[Trace]:
        self.run([snippet])
        return self.recall(0)

    def close(self) -> None:
        self._memory.release()
        self._platform.close()
        self._file.close()


def honest(context: Context) -> None:
    """Tell the truth."""


def wrong_register(context: Context) -> None:
    """Change r12 when there is a SIGILL."""
    if context.event.info is not None and context.event.info.signo == 4:
        context.regs[cpu.R12] ^= 1 << 40


def wrong_address(context: Context) -> None:
    """Report page faults at the start of their page."""
    info = context.event.info
    if info is not None and info.signo == 11 and info.addr & 0xFFF:
        context.event = context.event._replace(info=info._replace(addr=info.addr & -PAGE))


def wrong_number(context: Context) -> None:
    """Report x32 calls by another number."""
    if context.event.kind == EventKind.SYSCALL and context.regs[cpu.ORIG_RAX] & 0x40000000:
        context.regs[cpu.ORIG_RAX] ^= 0x40000000


def wrong_fp(context: Context) -> None:
    """Lose a bit of xmm7 at the call that ends."""
    if context.regs[cpu.ORIG_RAX] == END:
        context.pull_full_state()
        context.fp[160 + 7 * 16] ^= 2
        context.fp[512] |= 2


@pytest.fixture
def compare() -> Iterator[Callable[[Lie], Comparison]]:
    """Return a function that makes comparisons of the truth with a lie."""
    made: list[Comparison] = []

    def new(lie: Lie) -> Comparison:
        made.append(Comparison(Liar(honest), [Liar(lie)]))
        return made[-1]

    yield new
    for comparison in made:
        comparison.close()


def find(comparison: Comparison) -> tuple[Mismatch, Snippet]:
    """Return the first mismatch over some snippets, shrunk, and the snippet that it was."""
    features = cpu_features()
    for index in range(80):
        snippet = from_seed(5, index, features)
        mismatches = comparison.compare([snippet])
        if mismatches:
            return comparison.shrink(mismatches[0]), snippet
    raise AssertionError("the lie was not found")


def test_the_truth_agrees(compare: Callable[[Lie], Comparison]) -> None:
    comparison = compare(honest)
    features = cpu_features()
    assert not comparison.compare([from_seed(5, index, features) for index in range(40)])


@pytest.mark.parametrize("lie", [wrong_register, wrong_address, wrong_number, wrong_fp])
def test_lies_are_found(compare: Callable[[Lie], Comparison], lie: Lie) -> None:
    mismatch, original = find(compare(lie))
    end = len(list(flatten(())))
    assert len(list(flatten(mismatch.snippet.nodes))) - end <= 4, "hardly shrunk"
    assert mismatch.snippet.twins == 1
    text = report(mismatch, original, "seed 5", "the command")
    for part in (Layout(original).code.hex(), Layout(mismatch.snippet).code.hex(), "the command", "seed 5", "entry "):
        assert part in text


def test_differences_in_words() -> None:
    regs = tuple(range(27))
    a = Entry(1, 0, 0, 0, 0, regs, b"")
    b = a._replace(regs=(*regs[:3], 99, *regs[4:]))
    fp = FpFormat()
    assert "r12 is 0x3 for the oracle, 0x63 for the other" in difference([a], [b], fp)
    assert "only the oracle has" in difference([a, a], [a], fp)
    assert "page 0x0 differs at 0x5" in difference(
        [Note("page 0x0", bytes(8))], [Note("page 0x0", b"\0" * 5 + b"abc")], fp
    )
    assert difference([a], [a], fp) == "no difference"


def test_fp_images_that_say_the_same() -> None:
    """A component that is declared initial equals one that is spelled out; MXCSR counts in any case."""
    fp = FpFormat()
    size = max(where.stop for slices in fp.components.values() for where in slices)
    if size <= 512:
        pytest.skip("this CPU has no XSAVE")
    short = bytearray(size)
    short[24:28] = (0x1F80).to_bytes(4, "little")
    short[160] = 0xAB
    spelled = bytearray(short)
    fp.make_present(spelled)
    assert fp.normal(bytes(short)) == fp.normal(bytes(spelled))
    spelled[160] = 1
    assert fp.normal(bytes(short)) != fp.normal(bytes(spelled))
    short[24] = 0
    assert fp.normal(bytes(short))[24] == 0
