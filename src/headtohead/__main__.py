"""``python -m headtohead``."""

import sys


def main() -> None:
    """The command line's entry point."""
    from headtohead.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
