"""``-c``: how often each call was made, how often it failed, and how long it took."""

from typing import Final

SORTS: Final = ("time", "min-time", "max-time", "avg-time", "calls", "errors", "name", "nothing")


class _Row:
    """Counts of one call; times in seconds."""

    __slots__ = ("calls", "errors", "longest", "name", "seconds", "shortest")

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = self.errors = 0
        self.seconds = self.longest = 0.0
        self.shortest = float("inf")


class Summary:
    """Collects calls and writes the table."""

    def __init__(self, sort: str = "time") -> None:
        """``sort``: one of SORTS."""
        self._rows: dict[str, _Row] = {}
        self._sort = sort

    def add(self, name: str, seconds: float, failed: bool) -> None:
        """Count a call."""
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = _Row(name)
        row.calls += 1
        row.errors += failed
        row.seconds += seconds
        row.longest = max(row.longest, seconds)
        row.shortest = min(row.shortest, seconds)

    def _key(self, row: _Row) -> tuple[float, str]:
        values = {
            "time": row.seconds, "min-time": row.shortest, "max-time": row.longest, "avg-time": row.seconds / row.calls,
            "calls": row.calls, "errors": row.errors, "name": 0, "nothing": 0,
        }  # fmt: skip
        return -values[self._sort], row.name

    def text(self) -> str:
        """Return the table, in strace's columns."""
        rows = list(self._rows.values())
        if self._sort != "nothing":
            rows.sort(key=self._key)
        total = sum(row.seconds for row in rows)
        calls, errors = sum(row.calls for row in rows), sum(row.errors for row in rows)
        width = max((len(row.name) for row in rows), default=0)
        rule = f"------ ----------- ----------- --------- --------- {'-' * max(16, width)}"
        lines = ["% time     seconds  usecs/call     calls    errors syscall", rule]
        lines += [
            _line(100 * row.seconds / total if total else 0.0, row.seconds, row.calls, row.errors, row.name)
            for row in rows
        ]
        lines += [rule, _line(100.0, total, calls, errors, "total")]
        return "\n".join(lines)


def _line(percent: float, seconds: float, calls: int, errors: int, name: str) -> str:
    each = round(seconds * 1e6 / calls) if calls else 0
    return f"{percent:6.2f} {seconds:11.6f} {each:11d} {calls:9d} {errors or '':>9} {name}"
