"""Keeps a study's workers busy: starts what is next, restarts what was killed, renews results and page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from headtohead.files import make_folder, write_atomic
from headtohead.study.display import Display, State, Working, duration
from headtohead.study.processes import PARENT, Worker
from headtohead.study.results import STOPPED, folder_of, is_done, write_results
from headtohead.study.schedule import Run, identity_of
from headtohead.study.worker import LOCK_SECONDS, claimed, progress_of

DEATHS = 3
"""How often in a row a run's process may be killed without getting further before the run is given up."""
POLL_SECONDS = 0.2
GRACE_SECONDS = 15.0
"""How long workers may take to write a checkpoint when the study is interrupted."""
PAGE = """
import sys
from pathlib import Path
from headtohead.study.processes import end_with_parent
end_with_parent()
from headtohead.study.report import write_report
write_report(Path(sys.argv[1]))
"""


class Page:
    """Writes the study's page in a process of its own, one at a time; what goes wrong there is told in one
    line.
    """

    def __init__(self, out: Path, wanted: bool) -> None:
        self.out, self.wanted = out, wanted
        self.process: subprocess.Popen[bytes] | None = None
        self.due = False
        self.log = out / "page.log"

    def renew(self) -> None:
        """Have the page written anew, now or as soon as the one being written is done."""
        self.due = self.wanted

    def tend(self) -> str | None:
        """Start or collect the process; a line when the page failed."""
        line = None
        if self.process is not None and self.process.poll() is not None:
            code, self.process = self.process.returncode, None
            if code:
                reason = self._reason() or f"exit code {code}"
                line = f"the page could not be written ({reason}); the study goes on"
        if self.process is None and self.due:
            self.due = False
            environment = {**os.environ, PARENT: str(os.getpid()), "OMP_NUM_THREADS": "1"}
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", PAGE, str(self.out)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                )  # fmt: skip
        return line

    def finish(self) -> str | None:
        """Wait for the last page."""
        line = None
        while self.process is not None or self.due:
            line = self.tend() or line
            time.sleep(POLL_SECONDS)
        return line

    def stop(self) -> None:
        """End it: the page of before stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _reason(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


class Supervisor:
    """The runs of a study in their order, `workers` of them at a time."""

    def __init__(self, out: Path, title: str, runs: Sequence[Run], workers: int, page: bool) -> None:
        self.out, self.runs, self.workers = out, runs, workers
        self.display = Display(title)
        self.page = Page(out, page)
        self.waiting = [run for run in runs if not is_done(folder_of(out, run))]
        self.active: dict[str, tuple[Run, Worker]] = {}
        self.by_name = {run.name: run for run in runs}
        self.stopped = 0
        self.computed = 0.0  # FLOPs of the runs finished since this start, and the seconds they took
        self.busy = 0.0

    def work(self) -> None:
        """Until every run is finished or stopped. On KeyboardInterrupt the workers write a checkpoint and
        end.
        """
        for run in self.waiting:
            self._settle(run)
        write_results(self.out, self.runs)
        with self.display:
            done = len(self.runs) - len(self.waiting)
            again = f", {done} of them finished before" if done else ""
            self.display.say(f"{len(self.runs)} runs{again}, {self.workers} side by side, in {self.out}")
            if done:
                self.page.renew()
            try:
                while self.waiting or self.active:
                    self._fill()
                    self._collect()
                    self._tend_page()
                    self.display.show(self._state())
                    time.sleep(POLL_SECONDS)
                self.page.renew()
                if line := self.page.finish():
                    self.display.say(line)
            finally:
                self._end()
        stopped = f", {self.stopped} stopped" if self.stopped else ""
        page = f"; the page: {self.out / 'report.html'}" if (self.out / "report.html").is_file() else ""
        print(f"{len(self.runs) - self.stopped} runs finished{stopped}{page}")

    def _settle(self, run: Run) -> None:
        """Write a run's description; what an earlier, other plan left unfinished there is cleared away."""
        folder = folder_of(self.out, run)
        make_folder(folder)
        path = folder / "run.json"
        if path.is_file():
            try:
                same = identity_of(json.loads(path.read_text(encoding="utf-8"))) == run.identity
            except ValueError:
                same = False
            if not same:
                claimed(folder, LOCK_SECONDS).release()  # nobody is writing there any more
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                (folder / "metrics.jsonl").unlink(missing_ok=True)
        for leftover in (STOPPED, "progress.json"):
            (folder / leftover).unlink(missing_ok=True)
        content = {**run.description, "identity": run.identity}
        write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _fill(self) -> None:
        while self.waiting and len(self.active) < self.workers:
            run = self.waiting.pop(0)
            worker = Worker(folder_of(self.out, run), int(run.description["recipe"]["threads"]))
            worker.start()
            self.active[run.name] = (run, worker)

    def _collect(self) -> None:
        for name, (run, worker) in list(self.active.items()):
            code = worker.ended()
            if code is None:
                continue
            if is_done(worker.folder):
                del self.active[name]
                self._finished(run, worker)
            elif code < 0 or code > 128:
                self._died(run, worker, -code if code < 0 else code - 128)
            else:
                del self.active[name]
                self._give_up(run, worker.last_line() or f"its process ended with code {code}")

    def _finished(self, run: Run, worker: Worker) -> None:
        took = time.monotonic() - worker.started
        self.computed += run.cost
        self.busy += took
        self._fill()  # before anything else: a worker's time is what is scarce
        results = write_results(self.out, self.runs)
        mine = next((r for r in results if (r["arm"], r["seed"], r["rung"], r["learning_rate"])
                     == (run.arm, run.seed, run.rung, run.learning_rate)), {})  # fmt: skip
        if mine.get("status") == "stopped":
            self.stopped += 1
            self.display.say(f"{run.name} stopped: {mine['reason']}")
        else:
            scores = ", ".join(
                f"{region} {value:.4f}" for region, value in mine.get("bits_per_byte", {}).items()
            )
            self.display.say(f"{run.name} finished in {duration(took)}: {scores} bits per byte")
        self.page.renew()

    def _died(self, run: Run, worker: Worker, signal_number: int) -> None:
        """Killed from outside: on from its checkpoint, unless it keeps dying at one place."""
        step = int((progress_of(worker.folder) or {}).get("step", -1))
        reached = max((int(path.name[5:]) for path in worker.folder.glob("checkpoints/step-*")), default=0)
        worker.deaths = 1 if reached > worker.furthest else worker.deaths + 1
        worker.furthest = max(worker.furthest, reached)
        if worker.deaths > DEATHS:
            del self.active[run.name]
            self._give_up(
                run, f"its process was killed {worker.deaths} times near step {step} (signal {signal_number})"
            )
            return
        self.display.say(
            f"{run.name}: its process was killed (signal {signal_number}); going on from its checkpoint"
        )
        worker.start()

    def _give_up(self, run: Run, reason: str) -> None:
        self.stopped += 1
        write_atomic(
            folder_of(self.out, run) / STOPPED, json.dumps({"reason": reason}, ensure_ascii=False) + "\n"
        )
        self.display.say(f"{run.name} stopped: {reason}")
        write_results(self.out, self.runs)
        self.page.renew()

    def _tend_page(self) -> None:
        if line := self.page.tend():
            self.display.say(line)

    def _end(self) -> None:
        """Nothing is left running: workers are asked to write a checkpoint and end, then made to."""
        for _, worker in self.active.values():
            if worker.process is not None and worker.process.poll() is None:
                worker.process.terminate()
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end and any(worker.ended() is None for _, worker in self.active.values()):
            time.sleep(0.05)
        for _, worker in self.active.values():
            worker.stop()
        self.page.stop()

    def _state(self) -> State:
        working: list[Working] = []
        computed, busy, left = self.computed, self.busy, 0.0
        for run, worker in self.active.values():
            said = progress_of(worker.folder) or {
                "stage": "starting",
                "step": 0,
                "steps": run.description["recipe"]["steps"],
            }
            share = said["step"] / max(said["steps"], 1)
            working.append(
                Working(
                    run.name,
                    said["stage"],
                    said["step"],
                    said["steps"],
                    said.get("nats"),
                    said.get("seconds_left") or None,
                )
            )
            computed += share * run.cost
            busy += time.monotonic() - worker.started
            left += (1 - share) * run.cost
        left += sum(run.cost for run in self.waiting)
        seconds = left * busy / computed / min(self.workers, max(1, len(working))) if computed > 0 else None
        done = len(self.runs) - len(self.waiting) - len(self.active)
        return State(done - self.stopped, self.stopped, len(self.runs), working, seconds)
