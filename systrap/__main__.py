"""``python3 -m systrap``: the same as the console script ``systrap``."""

from systrap.cli.main import console_main

if __name__ == "__main__":
    console_main()
