"""A pytest plugin: the platform systrap, wherever a test asks for it, with the stub image that the environment names."""

import os
from typing import Final

from systrap import platform
from systrap.platform import Constructor, Options, Platform, Requirements

BLOB: Final = "SYSTRAP_TEST_BLOB"
MANIFEST: Final = "SYSTRAP_TEST_MANIFEST"


class WithImage:
    """Makes platforms as another constructor does, with one image."""

    def __init__(self, made_by: Constructor, blob: str, manifest: str) -> None:
        self.made_by = made_by
        self.blob = blob
        self.manifest = manifest

    def new(self, options: Options) -> Platform:
        return self.made_by.new(options._replace(stub_blob=self.blob, stub_manifest=self.manifest))

    def open_device(self, path: str) -> int | None:
        return self.made_by.open_device(path)

    def requirements(self) -> Requirements:
        return self.made_by.requirements()


def pytest_configure() -> None:
    """Put the other constructor in place, before anything is collected."""
    platform.register("systrap", WithImage(platform.lookup("systrap"), os.environ[BLOB], os.environ[MANIFEST]))
