"""Statements of the specification that no other test shows (docs/spec.md; docs/spec-coverage.md says which test shows which)."""
