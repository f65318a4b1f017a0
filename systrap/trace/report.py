"""One page that shows a run: the timeline, the hottest calls, how long round trips take, what lies where. It needs nothing else.

The page is report.html, with the run's data put into it as JSON.
"""

import os
from collections.abc import Sequence
from typing import Final, TextIO

from systrap.trace.timeline import GUESTS, SENTRY, STUBS, Answered, Timeline, Track

MOST_SLICES: Final = 60_000
_BUCKETS: Final = 24
"""Latencies are counted by powers of two, from 256 ns on."""
_FIRST: Final = 8
_MOST_MAPS: Final = 12
_MARK: Final = "/*RUN*/null"


def bucket(nanoseconds: int) -> int:
    """Return in which bucket of the histogram a time is counted."""
    return min(max(nanoseconds.bit_length() - _FIRST, 0), _BUCKETS - 1)


def _calls(answered: list[Answered]) -> list[dict[str, object]]:
    """Return what the table of calls shows, the hottest first."""
    rows: dict[str, list[int]] = {}
    histograms: dict[str, list[int]] = {}
    for call in answered:
        row = rows.setdefault(call.name, [0, 0, 0, 0])
        row[0] += 1
        row[1] += call.failed
        row[2] += call.kernel
        row[3] += call.waited
        if call.round_trip is not None:
            histograms.setdefault(call.name, [0] * _BUCKETS)[bucket(call.round_trip)] += 1
    order = sorted(rows, key=lambda name: -rows[name][2])
    return [
        {
            "name": name,
            "calls": rows[name][0],
            "errors": rows[name][1],
            "kernel": rows[name][2],
            "waited": rows[name][3],
            "histogram": histograms.get(name, [0] * _BUCKETS),
        }
        for name in order
    ]


def _label(timeline: Timeline, track: Track) -> list[str]:
    """Return the heading a track stands under, and its own name."""
    if track.group >= STUBS:
        return ["stub threads", f"space {track.group - STUBS} #{track.line}"]
    return [timeline.groups.get(track.group, ""), timeline.tracks[track]]


def document(
    timeline: Timeline, title: str, stub: Sequence[tuple[int, int, str, str, str, str]], dropped: int
) -> dict[str, object]:
    """Return the data of the page. Times are nanoseconds from the beginning of the run, addresses are texts."""
    start = timeline.begin
    rank = {SENTRY: 0, GUESTS: 1}
    tracks = sorted(timeline.tracks, key=lambda track: (rank.get(track.group, 2), track))
    lines = {track: number for number, track in enumerate(tracks)}
    kinds: dict[str, int] = {}
    names: dict[str, int] = {}
    slices = []
    shown = sorted((piece for piece in timeline.slices if piece.track in lines), key=lambda piece: piece.begin)
    for piece in shown[:MOST_SLICES]:
        kind = kinds.setdefault(piece.kind, len(kinds))
        name = names.setdefault(piece.name, len(names))
        detail = ", ".join(f"{key}: {value}" for key, value in piece.detail.items())
        slices.append([lines[piece.track], piece.begin - start, piece.end - piece.begin, name, kind, detail])
    return {
        "title": title,
        "duration": timeline.end - start,
        "dropped": dropped,
        "total": len(shown),
        "tracks": [_label(timeline, track) for track in tracks],
        "kinds": list(kinds),
        "names": list(names),
        "slices": slices,
        "calls": _calls(timeline.answered),
        "buckets": [1 << (_FIRST + i) for i in range(_BUCKETS)],
        "stub": [[f"{r[0]:x}", f"{r[1]:x}", *r[2:]] for r in stub],
        "maps": [list(pair) for pair in timeline.maps[:_MOST_MAPS]],
        "flows": len(timeline.flows),
    }


def write_report(
    timeline: Timeline, title: str, stub: Sequence[tuple[int, int, str, str, str, str]], dropped: int, out: TextIO
) -> None:
    """Write the page. ``stub``: the regions of a stub (cli/stub_picture.py); ``dropped``: events that did not fit."""
    import json

    path = os.path.join(os.path.dirname(__file__), "report.html")
    with open(path, encoding="utf-8") as file:
        page = file.read()
    data = json.dumps(document(timeline, title, stub, dropped), ensure_ascii=True, separators=(",", ":"))
    # Within a script element only "</" and "<!--" could end it: a guest chooses names.
    out.write(page.replace(_MARK, data.replace("<", "\\u003c")))
