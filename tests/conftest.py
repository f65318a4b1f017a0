"""What holds for every test: no time limit on a single example of hypothesis, for machines are busy, and some are emulated."""

from hypothesis import settings

settings.register_profile("systrap", deadline=None)
settings.load_profile("systrap")
