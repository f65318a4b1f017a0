"""The platforms: ways to run guest code. Both satisfy ``systrap.platform``."""
