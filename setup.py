"""What pyproject.toml cannot say: the images of ``blobs/`` are data of the package, as ``systrap/blobs/`` in a wheel."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

IMAGES = "systrap.blobs"


class BuildWithImages(build_py):
    """Take the images along, and leave the script that built them at home."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return the modules of a package: none where only data is wanted."""
        return [] if package == IMAGES else super().find_package_modules(package, package_dir)


setup(packages=[*find_packages(include=["systrap", "systrap.*"]), IMAGES], cmdclass={"build_py": BuildWithImages})
