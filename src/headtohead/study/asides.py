"""What a study does beside its runs, each in a process of its own: writing the page, measuring the baselines.

Whatever goes wrong there is told in one line, and the study goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from headtohead.study.processes import PARENT

PAGE = """
import sys
from pathlib import Path
from headtohead.study.processes import end_with_parent
end_with_parent()
from headtohead.study.report import write_report
write_report(Path(sys.argv[1]))
"""
BASELINES = """
import sys
from pathlib import Path
from headtohead.study.processes import end_with_parent
end_with_parent()
from headtohead.study.yardsticks import write_baselines
write_baselines(Path(sys.argv[1]), int(sys.argv[2]))
"""


class Aside:
    """A piece of work that may be due again and again, one process at a time.

    Args:
        what: what it makes, for the line that says it failed.
        log: where its process prints.
        then: called after each time it worked.
    """

    def __init__(
        self, what: str, code: str, *arguments: str, log: Path, then: Callable[[], None] = lambda: None
    ) -> None:
        self.what, self.log, self.then = what, log, then
        self.command = [sys.executable, "-c", code, *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self.due = False

    def renew(self) -> None:
        """Have it done, now or as soon as it is done being done."""
        self.due = True

    def tend(self) -> str | None:
        """Start or collect the process; a line when it failed."""
        line = None
        if self.process is not None and self.process.poll() is not None:
            code, self.process = self.process.returncode, None
            if code == 0:
                self.then()
            else:
                line = f"{self.what} failed ({self._reason() or f'exit code {code}'})"
        if self.process is None and self.due:
            self.due = False
            environment = {**os.environ, PARENT: str(os.getpid()), "OMP_NUM_THREADS": "1"}
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
        return line

    def finish(self, pause: float = 0.1) -> str | None:
        """Wait until nothing is due; the last line of a failure."""
        line = None
        while self.process is not None or self.due:
            line = self.tend() or line
            time.sleep(pause)
        return line

    def stop(self) -> None:
        """End it: what it made before stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _reason(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip().removeprefix("headtohead.errors.UserError: ") if lines else ""
