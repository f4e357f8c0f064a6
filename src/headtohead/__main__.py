"""``python -m headtohead``."""

import io
import os
import sys


def main() -> None:
    """The command line's entry point."""
    from headtohead.cli import run

    for stream in (sys.stdout, sys.stderr):  # a terminal that can't show "×" is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    code = run()
    parallel = sys.modules.get("headtohead.train.parallel")
    if parallel is not None and os.environ.get("WORLD_SIZE", "1") != "1":
        parallel.leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
