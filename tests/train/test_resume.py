"""Law 6: a run that was stopped, at any moment and in any way, is bit for bit the run that never stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train import small

from headtohead.errors import UserError
from headtohead.train.checkpoint import checkpoints
from headtohead.train.loop import Stopped
from headtohead.train.metrics import read_metrics

PROGRAM = Path(small.__file__)
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join((str(PROGRAM.parents[2]), os.environ.get("PYTHONPATH", ""))),
}


def start(folder: Path, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAM), str(folder), *options]
    return subprocess.Popen(
        command, env={**ENVIRONMENT, **environment}, start_new_session=True, stderr=subprocess.PIPE
    )


class Unplugged(Exception):
    """A sudden end that the loop knows nothing of."""


@pytest.mark.parametrize("kind", small.KINDS)
@pytest.mark.parametrize("two", [False, True])
def test_stopped_at_random_steps(tmp_path: Path, two: bool, kind: str) -> None:
    changes = small.KINDS[kind]
    first, whole = small.run(tmp_path / "whole", two=two, changes=changes)
    dice = random.Random(two)

    def unplug(step: int, steps: int, left: float, nats: float) -> None:
        if dice.random() < 0.15:
            raise Unplugged

    for _ in range(100):
        try:
            second, again = small.run(tmp_path / "stopped", two=two, changes=changes, on_progress=unplug)
            break
        except Unplugged:
            torch.rand(dice.randrange(9))  # what another run in this process might have left behind
    else:
        pytest.fail("the run never got to its end")
    assert small.outcome(tmp_path / "stopped") == small.outcome(tmp_path / "whole")
    assert whole.averaged == again.averaged
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first, _ = small.run(tmp_path)
    before = small.outcome(tmp_path)
    steps: list[int] = []
    second, trained = small.run(tmp_path, on_progress=lambda step, *_: steps.append(step))
    assert steps == [] and small.outcome(tmp_path) == before
    assert trained.ledger.as_dict()["tokens_shown"] == 20 * 4 * small.ROW
    assert [point["step"] for point in trained.curve] == [0, 7, 10, 20]
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    small.run(tmp_path / "whole")
    handler = signal.getsignal(number)

    def send(step: int, steps: int, left: float, nats: float) -> None:
        if step == 8:
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped, match=f"stopped by {number.name} after step 9, checkpoint written") as caught:
        small.run(tmp_path / "stopped", on_progress=send)
    assert (caught.value.step, caught.value.signal_number) == (9, number)
    assert signal.getsignal(number) is handler
    assert checkpoints(tmp_path / "stopped" / "checkpoints")[0].name == "step-00000009"
    small.run(tmp_path / "stopped")
    assert small.outcome(tmp_path / "stopped") == small.outcome(tmp_path / "whole")


def test_killed_from_outside(tmp_path: Path) -> None:
    """`kill -9` of a real process at random moments, start to end."""
    small.run(tmp_path / "whole")
    dice = random.Random(3)
    folder = tmp_path / "killed"
    for target in (2, 9, 13):
        process = start(folder, "pause=0.15")
        deadline = time.monotonic() + 60
        while process.poll() is None and _reached(folder) < target and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.15))
        assert process.poll() is None, process.stderr and process.stderr.read()
        process.kill()
        process.communicate()
    process = start(folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert small.outcome(folder) == small.outcome(tmp_path / "whole")


def _reached(folder: Path) -> int:
    lines = read_metrics(folder / "metrics.jsonl")
    return lines[-1]["step"] if lines else 0


EVERY_MOMENT = """
import json, os, signal, sys
from pathlib import Path
from headtohead.train import staging
from tests.train import small

folder, whole = Path(sys.argv[1]), Path(sys.argv[2])
changes = {"steps": 6, "checkpoint_every": 2, **json.loads(sys.argv[3])}
moment = 0

def dying_at(last):
    global moment
    moment = 0

    def tick():
        global moment
        moment += 1
        if moment == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(module, name):
        real = getattr(module, name)

        def call(*args, **options):
            tick()
            result = real(*args, **options)
            tick()
            return result

        setattr(module, name, call)

    def write_in_halves(path, content):
        with open(path, "wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            tick()
            file.write(content[len(content) // 2 :])

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        around(os, name)
    staging._write_synced = write_in_halves

def in_a_child(last):
    child = os.fork()
    if not child:
        dying_at(last)
        small.run(folder, changes=changes, evaluate_at=(2, 3))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

small.run(whole, changes=changes, evaluate_at=(2, 3))
deaths = 0
while in_a_child(deaths + 1) == -signal.SIGKILL:
    deaths += 1
    assert in_a_child(0) == 0
    assert small.outcome(folder) == small.outcome(whole), deaths
    assert not [*folder.glob("checkpoints/.*"), *folder.glob("best/.*")], deaths
    os.system(f"rm -r '{folder}'")
print(deaths)
"""


EVERY_WRITING: list[Any] = [
    {},
    pytest.param(
        {"optimizer": "muon", "keep_best": True, "average_last": 2, "keep_last": 1},
        marks=pytest.mark.slow,
        id="all that a checkpoint can hold",
    ),
]


@pytest.mark.parametrize("changes", EVERY_WRITING)
def test_killed_at_every_moment_of_writing(tmp_path: Path, changes: dict[str, Any]) -> None:
    """`kill -9` before and after each call that changes the disk, and in the middle of each file."""
    words = (str(tmp_path / "killed"), str(tmp_path / "whole"), json.dumps(changes))
    done = subprocess.run(
        [sys.executable, "-c", EVERY_MOMENT, *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_metrics_hold_each_step_once(tmp_path: Path) -> None:
    """Lines of a killed run past its checkpoint, and a line cut short, go; the others stay as they are."""

    def unplug(step: int, steps: int, left: float, nats: float) -> None:
        if step == 9:
            raise Unplugged

    with pytest.raises(Unplugged):
        small.run(tmp_path, on_progress=unplug)
    path = tmp_path / "metrics.jsonl"
    assert [line["step"] for line in read_metrics(path)] == [2, 4, 6, 8]
    kept = path.read_text().splitlines()[:2]
    with open(path, "a") as file:
        file.write('{"step": 10, "tok')
    small.run(tmp_path)
    assert [line["step"] for line in read_metrics(path)] == list(range(2, 21, 2))
    assert path.read_text().splitlines()[:2] == kept
    assert set(json.loads(kept[0])) == {
        "step", "tokens", "flops", "nats", "grad_norm", "learning_rate", "seconds"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "two", "said"),
    [
        ({"learning_rate": 0.02}, False, "recipe.learning_rate: 0.01 there, 0.02 here"),
        ({"threads": 2}, False, "recipe.threads: 1 there, 2 here; runtime.threads: 1 there, 2 here"),
        ({"precision": "bf16"}, False, "recipe.precision: fp32 there, bf16 here"),
        ({}, True, "architecture: "),
    ],
)
def test_another_run_s_checkpoint_is_refused(
    tmp_path: Path, changes: dict[str, Any], two: bool, said: str
) -> None:
    small.run(tmp_path)
    before = small.outcome(tmp_path)
    try:
        with pytest.raises(UserError) as caught:
            small.run(tmp_path, two=two, changes=changes)
    finally:
        torch.set_num_threads(1)
    assert f"{tmp_path}/checkpoints/step-00000020 is of another run ({said}" in str(caught.value)
    assert small.outcome(tmp_path) == before


def test_what_the_caller_names_is_part_of_the_identity(tmp_path: Path) -> None:
    small.run(tmp_path, identity={"corpus": "a"})
    small.run(tmp_path, identity={"corpus": "a"})
    with pytest.raises(UserError, match="corpus: a there, b here"):
        small.run(tmp_path, identity={"corpus": "b"})


def test_when_to_write_is_not_part_of_the_identity(tmp_path: Path) -> None:
    small.run(tmp_path / "whole")

    def unplug(step: int, steps: int, left: float, nats: float) -> None:
        if step == 6:
            raise Unplugged

    with pytest.raises(Unplugged):
        small.run(tmp_path / "stopped", on_progress=unplug)
    small.run(tmp_path / "stopped", changes={"checkpoint_every": 3})
    a, b = small.outcome(tmp_path / "stopped"), small.outcome(tmp_path / "whole")
    assert a == b


def _half_written(folder: Path) -> bool:
    return any(folder.glob("*/.unfinished-*"))


def _killed(folder: Path, settings: dict[str, Any], seconds: float, writing: bool) -> bool:
    """Start a run and kill it so many seconds after its first checkpoint, or when the next one is being written."""
    process = start(folder, "pause=0.05", f"changes={json.dumps(settings)}")
    while process.poll() is None and not list(folder.glob("checkpoints/*")):
        time.sleep(0.002)
    until = time.monotonic() + seconds
    while process.poll() is None and (time.monotonic() < until or (writing and not _half_written(folder))):
        time.sleep(0.0002)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_fifty_times(tmp_path: Path) -> None:
    """`kill -9` of fifty real runs, ten of each kind, each at a moment of its own; each second one while a
    checkpoint is being written. Fifty endings, bit for bit those of runs that were left alone.
    """
    dice = random.Random(50)
    while_writing = 0
    for kind, changes in small.KINDS.items():
        # Large enough that writing a checkpoint takes time, and that often that it is met.
        settings = {**changes, "checkpoint_every": 1, "steps": 12}
        if "average_last" in changes:
            settings |= {"average_every": 3}
        small.run(tmp_path / kind, changes=settings)
        expected = small.outcome(tmp_path / kind)
        for number in range(10):
            folder = tmp_path / f"{kind} {number}"
            while not _killed(folder, settings, dice.uniform(0, 0.4), writing=bool(number % 2)):
                shutil.rmtree(folder)  # it came to its end first
            while_writing += _half_written(folder)
            process = start(folder, f"changes={json.dumps(settings)}")
            _, errors = process.communicate()
            assert process.returncode == 0 and not errors, errors
            assert small.outcome(folder) == expected, folder
    print(f"{while_writing} of 50 while a checkpoint was being written")
    assert while_writing >= 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_and_killed_while_compiling(tmp_path: Path) -> None:
    """Compiled runs resume bit for bit too; half-written libraries that a kill left are not loaded."""
    (tmp_path / "temporary").mkdir()
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "temporary")}
    process = start(tmp_path / "whole", "compile=yes", **environment)
    _, errors = process.communicate()
    assert process.returncode == 0 and not errors, errors
    dice = random.Random(5)
    folder = tmp_path / "killed"
    shutil.rmtree(tmp_path / "cache")
    for wanted in (1, 4, 9):  # libraries; the first are probes for vector instructions
        process = start(folder, "compile=yes", "pause=0.1", **environment)
        while process.poll() is None and len(list((tmp_path / "cache").rglob("*.so"))) < wanted:
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.3))
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for library in (tmp_path / "cache").rglob("*.so"):  # the worst moment for each
            os.truncate(library, library.stat().st_size // 2)
    process = start(folder, "compile=yes", "pause=0.1", **environment)
    while process.poll() is None and _reached(folder) < 8:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    process = start(folder, "compile=yes", **environment)
    _, errors = process.communicate()
    assert process.returncode == 0 and not errors, errors
    assert small.outcome(folder) == small.outcome(tmp_path / "whole")
