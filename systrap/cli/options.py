"""Options of commands: tables, a parser, and the help made from the same tables.

Written by hand because importing argparse alone costs more than starting a guest. The habits are strace's: options end
at ``--`` or at the first word that is none; ``--name VALUE`` and ``--name=VALUE``; ``-o FILE`` and ``-oFILE``;
``-fy`` is ``-f -y``.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

EXIT_FAILED: Final = 125
"""Exit status when systrap itself fails, as env, timeout and container tools have it."""
EXIT_NOT_EXECUTABLE: Final = 126
"""Exit status for a program that is there but cannot be run."""
EXIT_NOT_FOUND: Final = 127
"""Exit status for a program that is not there."""


class UsageError(Exception):
    """The command line makes no sense; the text says what and where."""


class Option(NamedTuple):
    """An option. ``metavar`` names its value ("" for a switch); without ``repeat`` it may stand once."""

    name: str
    help: str
    metavar: str = ""
    short: str = ""
    repeat: bool = False
    choices: tuple[str, ...] = ()


class Parsed(NamedTuple):
    """Values by option name, in order ("" for switches), and what stands behind the options."""

    values: dict[str, list[str]]
    rest: list[str]

    def given(self, name: str) -> bool:
        """Tell whether an option is there."""
        return name in self.values

    def all(self, name: str) -> list[str]:
        """Return every value of a repeatable option."""
        return self.values.get(name, [])

    def one(self, name: str, default: str) -> str:
        """Return the value of an option."""
        return self.values[name][-1] if name in self.values else default


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return " (did you mean …?)" when a known word is close, else nothing."""
    import difflib

    close = difflib.get_close_matches(word, known, 1, 0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def parse(options: Sequence[Option], arguments: Sequence[str]) -> Parsed:
    """Split a command line into options and the rest. Raises UsageError."""
    by_name = {option.name: option for option in options} | {option.short: option for option in options if option.short}
    values: dict[str, list[str]] = {}
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if word == "--":
            position += 1
            break
        if not word.startswith("-") or word == "-":
            break
        position += 1
        name, value = (word, None) if word in by_name else _split(word)
        option = by_name.get(name)
        if option is None:
            raise UsageError(f"unknown option {name}{did_you_mean(name, list(by_name))}")
        if option.metavar and value is None:
            if position == len(arguments):
                raise UsageError(f"{name} needs a value: {name} {option.metavar}")
            value = arguments[position]
            position += 1
        elif not option.metavar and value is not None:
            if word.startswith("--"):
                raise UsageError(f"{name} takes no value")
            # Several switches in one word, as getopt has it.
            position -= 1
            arguments = [*arguments[:position], f"-{value}", *arguments[position + 1 :]]
        _store(values, option, name, value or "")
    return Parsed(values, list(arguments[position:]))


def _split(word: str) -> tuple[str, str | None]:
    """Split ``--name=value`` and ``-oVALUE``; the value is None when there is none."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name, value if equals else None
    return word[:2], word[2:] or None


def _store(values: dict[str, list[str]], option: Option, name: str, value: str) -> None:
    if option.choices and value not in option.choices:
        raise UsageError(f"{name} {value}: there is no such thing{did_you_mean(value, option.choices)}; "
                         f"choose from {', '.join(option.choices)}")  # fmt: skip
    if option.name in values and not option.repeat and option.metavar:
        raise UsageError(f"{name} stands there twice")
    values.setdefault(option.name, []).append(value)


def describe(options: Sequence[Option]) -> str:
    """Return the options' part of a help text: one paragraph each, wrapped by hand at 79 columns."""
    lines = []
    for option in options:
        names = f"{option.short}, {option.name}" if option.short else option.name
        left = f"  {names} {option.metavar}".rstrip()
        wrapped = _wrap(option.help, 79 - 24)
        if len(left) > 22:
            lines.append(left)
            left = ""
        lines.append(f"{left:24}{wrapped[0]}")
        lines += [f"{'':24}{line}" for line in wrapped[1:]]
    return "\n".join(lines)


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines
