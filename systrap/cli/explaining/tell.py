"""How a round trip is told: headings, prose, tables of words before and after. With ``symbolic`` the same text each time."""

import textwrap
from collections.abc import Callable
from typing import Final

from systrap.cli.explaining import words
from systrap.cli.explaining.stage import CODE, DATA, NOWHERE, STACK_TOP, Stage

_WIDTH: Final = 96
_GUEST_PLACES: Final = (
    ("code", CODE, DATA),
    ("data", DATA, STACK_TOP),
    ("stack", STACK_TOP, STACK_TOP + 1),
    ("nowhere", NOWHERE, NOWHERE + 1),
)


class Teller:
    """Writes one story. ``pause`` is called before each step but the first (``--step``)."""

    def __init__(self, write: Callable[[str], object], symbolic: bool, pause: Callable[[], None]) -> None:
        self._write = write
        self._pause = pause
        self._steps = 0
        self.symbolic = symbolic
        self.hides: tuple[str, ...] = ()
        """Words that are never the same twice in this story: not told when it is symbolic."""

    def title(self, text: str) -> None:
        """Write the title."""
        self._write(f"{text}\n{'=' * len(text)}\n")

    def step(self, text: str) -> None:
        """Begin the next step."""
        if self._steps:
            self._pause()
        self._steps += 1
        self._write(f"\n{self._steps}. {text}\n")

    def say(self, text: str) -> None:
        """Write a paragraph."""
        self._write(
            "\n" + textwrap.fill(" ".join(text.split()), _WIDTH, initial_indent="   ", subsequent_indent="   ") + "\n"
        )

    def lines(self, lines: list[str]) -> None:
        """Write lines as they are, set off."""
        self._write("\n" + "".join(f"      {line}".rstrip() + "\n" for line in lines))

    def changed(self, stage: Stage, before: words.Snapshot, after: words.Snapshot, *places: str) -> None:
        """Show which shared words changed, in these places (all by default)."""
        found = [row for row in words.changes(before, after) if not places or row[0].place in places]
        if self.symbolic:
            found = [row for row in found if row[0].name not in self.hides]
        rows = [
            (f"{word.place}.{word.name}", self._value(stage, word, old), self._value(stage, word, new), word.about)
            for word, old, new in found
        ]
        if not rows:
            self.lines(["(no shared word changed)"])
            return
        wide = [max(len(row[column]) for row in rows) for column in range(3)]
        self.lines([f"{n:{wide[0]}}  {o:>{wide[1]}} → {v:{wide[2]}}  {about}" for n, o, v, about in rows])

    def _value(self, stage: Stage, word: words.Word, value: int) -> str:
        if word.shown == "hex":
            return self.address(stage, value)
        return words.show(word, value, self.symbolic)

    def address(self, stage: Stage, value: int) -> str:
        """Return an address with the name of what lies there: guests' and the stub's."""
        for name, low, high in _GUEST_PLACES:
            if low <= value < high:
                rest = value - low
                return f"{name}+{rest:#x}" if rest else name
        place = stage.space.environment.image.layout
        if place.stub_start <= value < place.end:
            return "stub" if self.symbolic else f"stub+{value - place.stub_start:#x}"
        return hex(value)


def listing(code: bytes, text: list[str], lengths: list[int]) -> list[str]:
    """Return guest code as lines: address, bytes, what it says."""
    lines: list[str] = []
    at = 0
    for words_, length in zip(text, lengths, strict=True):
        lines.append(f"code+{at:#04x}  {code[at : at + length].hex(' '):24}  {words_}")
        at += length
    return lines
