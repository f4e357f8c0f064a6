"""``python -m headtohead``."""

import io
import sys


def main() -> None:
    """The command line's entry point."""
    from headtohead.cli import run

    for stream in (sys.stdout, sys.stderr):  # a terminal that can't show "×" is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run())


if __name__ == "__main__":
    main()
