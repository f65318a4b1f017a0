"""Reading a timeline back: slices by track, and whether they nest."""

import json
from collections import defaultdict
from typing import NamedTuple


class Piece(NamedTuple):
    """A slice; times are whole nanoseconds."""

    begin: int
    end: int
    name: str
    kind: str


Key = tuple[int, int]


class ChromeFile:
    """A trace event file. ``slices`` by (pid, tid), ``flows`` by number: (where, when) of both ends."""

    def __init__(self, text: str) -> None:
        self.records = json.loads(text)["traceEvents"]
        self.slices: dict[Key, list[Piece]] = defaultdict(list)
        self.flows: dict[int, dict[str, tuple[Key, int]]] = defaultdict(dict)
        for record in self.records:
            where = record["pid"], record["tid"]
            if record["ph"] == "X":
                begin = round(record["ts"] * 1000)
                end = begin + round(record["dur"] * 1000)
                self.slices[where].append(Piece(begin, end, record["name"], record["cat"]))
            elif record["ph"] in "sf":
                self.flows[record["id"]][record["ph"]] = where, round(record["ts"] * 1000)
        for pieces in self.slices.values():
            pieces.sort(key=lambda piece: (piece.begin, -piece.end))

    def overlaps(self) -> list[tuple[Piece, Piece]]:
        """Return pairs of slices of one track that overlap without one lying in the other."""
        found = []
        for pieces in self.slices.values():
            around: list[Piece] = []
            for piece in pieces:
                while around and around[-1].end <= piece.begin:
                    around.pop()
                if around and piece.end > around[-1].end:
                    found.append((around[-1], piece))
                around.append(piece)
        return found

    def loose_ends(self) -> list[int]:
        """Return the numbers of flows that lack an end, go back in time, or touch no slice."""
        found = []
        for number, ends in self.flows.items():
            sent, received = ends.get("s"), ends.get("f")
            joined = sent is not None and received is not None and sent[1] <= received[1]
            if not joined or not all(self._touches(*end) for end in ends.values()):
                found.append(number)
        return found

    def _touches(self, where: Key, at: int) -> bool:
        return any(piece.begin <= at <= piece.end for piece in self.slices[where])
