"""What ``-e`` selects: calls by names, sets, patterns and negation; signals; outcomes. A wrong word is an error that helps."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from systrap.trace.calls import SETS
from systrap.trace.constants_more import SIGNALS

STATUSES: Final = ("successful", "failed", "unfinished", "unavailable", "detached")


class FilterError(Exception):
    """An expression behind -e makes no sense; the text says what, and what was probably meant."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean a, b?)" for words that are close, else nothing."""
    import difflib

    close = difflib.get_close_matches(word, list(known), 3, 0.6)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def choose_calls(text: str, known: Mapping[str, int], sets: Mapping[str, frozenset[str]] = SETS) -> frozenset[str]:
    """Return the calls that an expression names: ``read,write``, ``%file``, ``/^f``, ``!%memory``, ``all``, ``none``.

    ``known``: every call there is, by name. Raises FilterError.
    """
    negated, words = _split(text)
    found: set[str] = set()
    for word in words:
        found.update(_calls_of(word, known, sets))
    return frozenset(known) - found if negated else frozenset(found)


def _split(text: str) -> tuple[bool, list[str]]:
    """Split an expression at its commas; a "!" in front of it all turns it round."""
    negated = text.startswith("!")
    words = [word.strip() for word in text.removeprefix("!").split(",")]
    if "" in words:
        raise FilterError(f"'{text}': a name is missing before or behind a comma")
    return negated, words


def _calls_of(word: str, known: Mapping[str, int], sets: Mapping[str, frozenset[str]]) -> Collection[str]:
    if word in ("all", "none"):
        return known if word == "all" else ()
    if word.startswith("/"):
        try:
            pattern = re.compile(word[1:])
        except re.error as error:
            raise FilterError(f"'{word}' is no regular expression: {error}") from None
        matching = [name for name in known if pattern.search(name)]
        if not matching:
            raise FilterError(f"no system call matches '{word}'")
        return matching
    if word.startswith("%"):
        if word[1:] not in sets:
            names = sorted("%" + name for name in sets)
            raise FilterError(f"there is no set {word}{suggest(word, names)}; the sets are {' '.join(names)}")
        return sets[word[1:]] & known.keys()
    optional = word.startswith("?")
    name = word.removeprefix("?")
    if name in known:
        return (name,)
    if optional:
        return ()
    if name in sets:
        raise FilterError(f"there is no system call {name}; the set is written %{name}")
    raise FilterError(f"there is no system call {name}{suggest(name, known)}")


def choose_signals(text: str) -> frozenset[int]:
    """Return the signals that an expression names: ``CHLD,sigterm``, ``!SIGCHLD``, ``all``, ``none``. Raises FilterError."""
    negated, words = _split(text)
    found: set[int] = set()
    for word in words:
        if word == "all":
            found |= SIGNALS.keys()
        elif word != "none":
            found.add(signal_number(word))
    return frozenset(SIGNALS) - found if negated else frozenset(found)


def signal_number(word: str) -> int:
    """Return the number of a signal given by name, with or without SIG, or by number. Raises FilterError."""
    by_name = {name: number for number, name in SIGNALS.items()}
    upper = word.upper()
    if upper.isdigit() and int(upper) in SIGNALS:
        return int(upper)
    number = by_name.get(upper) or by_name.get("SIG" + upper)
    if number is None:
        raise FilterError(f"there is no signal {word}{suggest('SIG' + upper.removeprefix('SIG'), by_name)}")
    return number


def choose_statuses(text: str) -> frozenset[str]:
    """Return the outcomes that an expression names: ``failed``, ``!successful``, ``all``. Raises FilterError."""
    negated, words = _split(text)
    found: set[str] = set()
    for word in words:
        if word == "all":
            found |= set(STATUSES)
        elif word in STATUSES:
            found.add(word)
        elif word != "none":
            raise FilterError(f"there is no outcome {word}{suggest(word, STATUSES)}; there are {', '.join(STATUSES)}")
    return frozenset(STATUSES) - found if negated else frozenset(found)
