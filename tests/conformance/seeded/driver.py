"""A driver with one seeded bug: ``python -m tests.conformance.seeded.driver ID [--images FOLDER] [options of the driver]``.

It is ``systrap driver``, but for the bug: so a mutant can be looked at by hand, too.
"""

import sys
import tempfile
from pathlib import Path

from tests.conformance.seeded.mutation import build_image, seed_image, seed_modules
from tests.conformance.seeded.table import BY_ID


def main(arguments: list[str]) -> int:
    """Serve the conformance protocol with a mutant of the platform; "none" and "none-half" have no bug."""
    identity, *options = arguments
    folder = None
    if options[:1] == ["--images"]:
        folder = Path(options[1])
        options = options[2:]
    half = identity == "none-half" or (identity in BY_ID and BY_ID[identity].half)
    if identity in BY_ID:
        mutant = BY_ID[identity]
        seed_modules(mutant)
        if mutant.image_edits:
            with tempfile.TemporaryDirectory() as scratch:
                seed_image(mutant, build_image(mutant, folder or Path(scratch)))
    if half:
        from systrap.cli.half import main as drive_half

        return drive_half()
    from systrap.cli.driver import main as drive

    return drive(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
