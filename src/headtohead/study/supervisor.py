"""Keeps a study's workers busy: starts what is next, restarts what was killed, renews results and page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from headtohead.errors import UserError
from headtohead.files import make_folder, read_json, write_atomic
from headtohead.study import lease
from headtohead.study.asides import BASELINES, PAGE, Aside
from headtohead.study.display import Display, State, Working, duration
from headtohead.study.places import Here, Place
from headtohead.study.processes import Ending, RunProcess
from headtohead.study.results import (
    STOPPED,
    clear_checkpoints,
    folder_of,
    is_done,
    read_run,
    result_of,
    write_results,
)
from headtohead.study.schedule import Run, identity_of
from headtohead.study.worker import LOCK_SECONDS, claimed
from headtohead.study.yardsticks import found_baselines

DEATHS = 3
"""How often in a row a run's process may be killed without getting further before the run is given up."""
POLL_SECONDS = 0.2
GRACE_SECONDS = 15.0
"""How long workers may take to write a checkpoint when the study is interrupted."""


class Supervisor:
    """The runs of a study in their order, `workers` of them at a time.

    Args:
        windows: how many windows of each region the baselines are measured on; None for a study without a
        page.
        place: where the runs' processes live, open.
    """

    def __init__(
        self,
        out: Path,
        title: str,
        runs: Sequence[Run],
        workers: int,
        windows: int | None,
        place: Place | None = None,
    ) -> None:
        self.out, self.runs, self.workers, self.windows = out, runs, workers, windows
        self.place = place or Here()
        self.display = Display(title)
        self.page = Aside("writing the page", PAGE, str(out), log=out / "page.log")
        data = out / "data"
        self.yardsticks = Aside(
            "measuring the baselines",
            BASELINES,
            str(data),
            str(windows),
            log=data / "baselines.log",
            then=self._add_baselines,
        )
        self.waiting = [run for run in runs if not is_done(folder_of(out, run))]
        self.active: dict[str, tuple[Run, RunProcess]] = {}
        self.by_name = {run.name: run for run in runs}
        self.stopped = 0
        self.given_up: list[str] = []
        self.noted: set[str] = set()
        self.computed = 0.0  # FLOPs of the runs finished since this start, and the seconds they took
        self.busy = 0.0

    def work(self) -> None:
        """Until every run is finished or stopped. On KeyboardInterrupt the workers write a checkpoint and
        end.

        Raises:
            UserError: in the end, when a run could not be done (a loss that is not finite is a result) or the
            last page not be written.
        """
        failed = None
        for run in self.waiting:
            self._settle(run)
        for run in self.runs:
            if is_done(folder_of(self.out, run)):
                _clear(folder_of(self.out, run))
        results = write_results(self.out, self.runs)
        self.stopped = sum(line["status"] == "stopped" for line in results)
        with self.display:
            done = len(self.runs) - len(self.waiting)
            stopped = f" and {self.stopped} stopped" if self.stopped else ""
            again = f", {done - self.stopped} of them finished{stopped} before" if done else ""
            self.display.say(f"{len(self.runs)} runs{again}, {self.workers} side by side, in {self.out}")
            if self.windows is not None:
                if found_baselines(self.out / "data", self.windows) is None:
                    self.yardsticks.renew()
                else:
                    self._add_baselines()
            self._renew_page()
            try:
                while self.waiting or self.active:
                    self._fill()
                    self._collect()
                    self._tend()
                    self.display.show(self._state())
                    time.sleep(POLL_SECONDS)
                for aside in (self.yardsticks, self.page):
                    self._renew_page()
                    failed = aside.finish()
                    if failed:
                        self.display.say(failed)
            finally:
                self._end()
        stopped = f", {self.stopped} stopped" if self.stopped else ""
        page = f"; the page: {self.out / 'report.html'}" if (self.out / "report.html").is_file() else ""
        print(f"{len(self.runs) - self.stopped} runs finished{stopped}{page}")
        if self.given_up:
            raise UserError(
                f"{len(self.given_up)} of {len(self.runs)} runs could not be done ({self.given_up[0]}): put that "
                "right, and the same command goes on where it was"
            )
        if failed:
            raise UserError(f"{failed}: once that is put right, headtohead report {self.out} writes it")

    def _settle(self, run: Run) -> None:
        """Write a run's description; what an earlier, other plan left unfinished there is cleared away."""
        folder = folder_of(self.out, run)
        make_folder(folder)
        path = folder / "run.json"
        if path.is_file():
            try:
                same = identity_of(read_run(folder)) == run.identity
            except UserError:  # damaged: it is written anew
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
            worker = self.place.process(folder_of(self.out, run), int(run.description["recipe"]["threads"]))
            self.active[run.name] = (run, worker)
            worker.start()

    def _collect(self) -> None:
        for name, (run, worker) in list(self.active.items()):
            ending = worker.ended()
            for note in worker.notes():
                if note not in self.noted:  # what a machine lacks, all its runs lack
                    self.noted.add(note)
                    self.display.say(f"{run.name}: {note}")
            if ending is None:
                continue
            if is_done(worker.folder):
                del self.active[name]
                self._finished(run, worker)
            elif ending.how:
                self._died(run, worker, ending)
            else:
                del self.active[name]
                said = worker.last_line() or f"its process ended with code {ending.code}"
                self._give_up(run, ending.refused or said)

    def _finished(self, run: Run, worker: RunProcess) -> None:
        took = worker.seconds()
        self.computed += run.cost
        self.busy += took
        self._fill()  # before anything else: a worker's time is what is scarce
        _clear(worker.folder)
        write_results(self.out, self.runs)
        mine = result_of(self.out, run) or {}
        if mine.get("status") == "stopped":
            self.stopped += 1
            self.display.say(f"{run.name} stopped: {mine['reason']}")
        else:
            scores = ", ".join(
                f"{region} {value:.4f}" for region, value in mine.get("bits_per_byte", {}).items()
            )
            self.display.say(f"{run.name} finished in {duration(took)}: {scores} bits per byte")
        self._renew_page()

    def _died(self, run: Run, worker: RunProcess, ending: Ending) -> None:
        """Ended from outside: on from its checkpoint, unless it keeps dying at one place."""
        step = int((worker.progress() or {}).get("step", -1))
        reached = max((int(path.name[5:]) for path in worker.folder.glob("checkpoints/step-*")), default=0)
        worker.deaths = 1 if reached > worker.furthest else worker.deaths + 1
        worker.furthest = max(worker.furthest, reached)
        if worker.deaths > DEATHS:
            del self.active[run.name]
            self._give_up(
                run, f"its process was {ending.how} {worker.deaths} times near step {step} ({ending.detail})"
            )
            return
        self.display.say(
            f"{run.name}: its process was {ending.how} ({ending.detail}); going on from its checkpoint"
        )
        worker.start()

    def _give_up(self, run: Run, reason: str) -> None:
        self.stopped += 1
        self.given_up.append(f"{run.name}: {reason}")
        write_atomic(
            folder_of(self.out, run) / STOPPED, json.dumps({"reason": reason}, ensure_ascii=False) + "\n"
        )
        self.display.say(f"{run.name} stopped: {reason}")
        write_results(self.out, self.runs)
        self._renew_page()

    def _renew_page(self) -> None:
        if self.windows is not None:
            self.page.renew()

    def _add_baselines(self) -> None:
        """Put the baselines into plan.json, where the page finds them."""
        assert self.windows is not None
        plan = read_json(self.out / "plan.json", "the plan")
        plan["data"]["baselines"] = found_baselines(self.out / "data", self.windows)
        write_atomic(self.out / "plan.json", json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
        self._renew_page()

    def _tend(self) -> None:
        for aside in (self.yardsticks, self.page):
            if line := aside.tend():
                self.display.say(line)

    def _end(self) -> None:
        """Nothing is left running: workers are asked to write a checkpoint and end, then made to."""
        for _, worker in self.active.values():
            worker.ask_to_end()
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end and any(worker.ended() is None for _, worker in self.active.values()):
            time.sleep(0.05)
        for _, worker in self.active.values():
            worker.stop()
        for aside in (self.yardsticks, self.page):
            aside.stop()

    def _state(self) -> State:
        working: list[Working] = []
        computed, busy, left = self.computed, self.busy, 0.0
        for run, worker in self.active.values():
            said = worker.progress() or {
                "stage": "queued" if worker.waits() else "starting",
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
            busy += worker.seconds()
            left += (1 - share) * run.cost
        left += sum(run.cost for run in self.waiting)
        seconds = left * busy / computed / min(self.workers, max(1, len(working))) if computed > 0 else None
        done = len(self.runs) - len(self.waiting) - len(self.active)
        return State(done - self.stopped, self.stopped, len(self.runs), working, seconds)


def _clear(folder: Path) -> None:
    """Of a run that is done: one killed between its result and its cleaning up never runs again."""
    clear_checkpoints(folder)
    (folder / lease.FILE).unlink(missing_ok=True)
