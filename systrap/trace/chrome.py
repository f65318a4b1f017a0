"""A timeline as Chrome's trace event JSON, which ui.perfetto.dev and chrome://tracing open.

Slices are complete events ("X"), hand-overs flows ("s", "f" bound to the slices around them), moments instants. Times are in
microseconds from the beginning of the run, to the nanosecond. On each track slices nest: no reader has to repair them.
"""

from typing import TextIO

from systrap.trace.timeline import Timeline


def write_chrome(timeline: Timeline, out: TextIO) -> None:
    """Write the file. Raises OSError."""
    import json

    start = timeline.begin

    def micro(at: int) -> float:
        return (at - start) / 1000

    records: list[dict[str, object]] = []
    for group, name in timeline.groups.items():
        records.append({"ph": "M", "name": "process_name", "pid": group, "tid": 0, "args": {"name": name}})
        records.append({"ph": "M", "name": "process_sort_index", "pid": group, "tid": 0, "args": {"sort_index": group}})
    for track, name in timeline.tracks.items():
        records.append(
            {"ph": "M", "name": "thread_name", "pid": track.group, "tid": track.line, "args": {"name": name}}
        )
    records += [
        {
            "ph": "X",
            "name": piece.name,
            "cat": piece.kind,
            "pid": piece.track.group,
            "tid": piece.track.line,
            "ts": micro(piece.begin),
            "dur": (piece.end - piece.begin) / 1000,
            "args": piece.detail,
        }
        for piece in timeline.slices
    ]
    for number, flow in enumerate(timeline.flows, 1):
        common = {"cat": "hand-over", "name": flow.name, "id": number}
        records.append({"ph": "s", **common, "pid": flow.source.group, "tid": flow.source.line, "ts": micro(flow.sent)})
        records.append(
            {
                "ph": "f",
                "bp": "e",
                **common,
                "pid": flow.target.group,
                "tid": flow.target.line,
                "ts": micro(flow.received),
            }
        )
    records += [
        {
            "ph": "i",
            "s": "t",
            "name": moment.name,
            "pid": moment.track.group,
            "tid": moment.track.line,
            "ts": micro(moment.at),
        }
        for moment in timeline.instants
    ]
    out.write('{"displayTimeUnit": "ns", "traceEvents": [\n')
    out.write(",\n".join(json.dumps(record, ensure_ascii=True) for record in records))
    out.write("\n]}\n")
