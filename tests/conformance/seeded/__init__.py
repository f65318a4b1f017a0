"""Seeded bugs: copies of the platform, each with one defect, that the conformance suite must find (issue 4, point 5).

``python -m tests.conformance.seeded`` runs them all; docs/conformance-tests.md tells how.
"""
