"""What each model file offers to the tests and to docs/models.md: bounds in which it holds, and mutants in which it does not."""

from typing import NamedTuple

from tests.models.checker import Kind
from tests.models.system import System


class Bound(NamedTuple):
    """A size of a model. ``slow``: not for every day."""

    system: System
    slow: bool = False


class Mutant(NamedTuple):
    """The protocol with one thing taken out. ``finds``: what the checker must say; None: that thing is not needed."""

    system: System
    finds: Kind | None
    slow: bool = False
