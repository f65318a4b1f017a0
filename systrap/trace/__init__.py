"""Watching a run: typed events, system calls as text in strace's manner, timelines and reports (docs/tracing.md).

Nothing of this is imported, and nothing of it costs anything, unless a run is traced.
"""
