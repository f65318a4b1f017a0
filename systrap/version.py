"""The version of the package, and nothing else (setuptools reads this file)."""

VERSION = "0.1.0"
