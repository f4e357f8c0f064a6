"""`headtohead train`: a run's folder like a study's, stopped and gone on with, warm starts, what it shows and tells."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from tests.kitchen import torch_as_it_was
from tests.study.short_study import hear_ctrl_c, write_study

import headtohead
from headtohead.cli import run
from headtohead.files import read_json
from headtohead.study.solo_plan import as_study, network, objective_of, read_solo, supervise_of
from headtohead.study.watching import Watch
from headtohead.train.metrics import read_metrics

SMALL = [
    "data.tokenizer=bytes",
    "data.row=96",
    "data.window_bytes=64",
    "recipe.threads=1",
    "recipe.compile=false",
    "recipe.precision=fp32",
    "recipe.rows_per_step=2",
    "recipe.log_every=5",
    "recipe.learning_rate=1e-2",
    "evaluation.points=2",
    "evaluation.windows=6",
    "evaluation.curve_windows=4",
    "evaluation.prompts=1",
    "evaluation.prompt_tokens=4",
    "architecture.d_model=16",
    "architecture.heads=2",
    "architecture.d_head=8",
    "architecture.d_ff=32",
]


@pytest.fixture(autouse=True, scope="module")
def torch_is_left_as_it_was() -> Iterator[None]:
    with torch_as_it_was():
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("solo"))[2]


def train(*words: object) -> int:
    return run(["train", *map(str, words)])


@pytest.fixture(scope="module")
def finished(text: Path) -> Path:
    """A finished run of a causal decoder."""
    out = text.parent / "finished"
    assert train("decllm-nano", "--text", text, "--out", out, "--steps", 30, "--set", *SMALL) == 0
    return out


def test_the_folder_is_that_of_a_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, description = read_json(finished / "result.json", "it"), read_json(finished / "run.json", "it")
    assert result["status"] == "finished" and description["recipe"]["steps"] == 30
    assert [point["step"] for point in result["curve"]] == [15, 30]
    assert 0 < result["bits_per_byte"]["text"] < 8
    assert [line["step"] for line in read_metrics(finished / "metrics.jsonl")] == [5, 10, 15, 20, 25, 30]
    assert not (finished / "checkpoints").exists()
    model = headtohead.load(finished)
    assert model.score("the people", " of this nation") > 0
    assert run(["explain-batch", str(finished)]) == 0
    assert run(["diff", str(finished), str(finished)]) == 0
    assert "decllm-nano" in capsys.readouterr().out


def test_it_says_what_came_out_and_what_is_next(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    sets = [*SMALL, "architecture.depths=[1]"]
    assert train("llama-nano", "--text", text, "--out", out, "--steps", 4, "--set", *sets) == 0
    told = capsys.readouterr().out
    assert "parameters, vocabulary 263" in told and "4 steps" in told
    assert re.search(r"step 4: held-out \d\.\d{4} bits per byte", told)
    assert f"weights: {out / 'model.safetensors'}" in told
    for line in told.split("next:\n")[1].splitlines():  # what it says can be done can be done
        words = shlex.split(line)
        assert words[0] in ("python", "headtohead")
        if words[0] == "headtohead":
            assert run(words[1:]) == 0
    assert train("--resume", out) == 0
    assert "finished: held-out" in capsys.readouterr().out


def launch(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "headtohead", "train", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_ctrl_c,
    )


def test_ctrl_c_saves_and_its_command_goes_on(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["redllm-nano", "--text", text, "--steps", 60, "--set", *SMALL]
    assert train(*words, "--out", tmp_path / "whole") == 0
    out = tmp_path / "stopped"
    process = launch(*words, "--out", out)
    end = time.monotonic() + 120
    while time.monotonic() < end and not (out / "metrics.jsonl").is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 130, told
    command = re.search(r"go on with: headtohead (.+)", told)
    assert command is not None, told
    assert not (out / "result.json").exists()
    capsys.readouterr()
    assert train("redllm-nano", "--out", out) == 2  # without --resume: one line, nothing touched
    assert f"headtohead train --resume {out}" in capsys.readouterr().err
    assert run(shlex.split(command[1])) == 0
    assert "going on after step" in capsys.readouterr().out
    a, b = (read_json(folder / "result.json", "it") for folder in (tmp_path / "whole", out))
    assert a == b


def test_a_warm_start_across_architectures(
    finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a causal decoder to an encoder-decoder: the summary is told, the start is far below ln V, and the run can
    be gone on with from its own folder alone.
    """
    out = tmp_path / "warm"
    sets = [*SMALL, "architecture.depths=[3,3]"]
    words = [
        "redllm-nano",
        "--text",
        text,
        "--out",
        out,
        "--init-from",
        finished,
        "--steps",
        6,
        "--set",
        *sets,
    ]
    assert train(*words) == 0
    told = capsys.readouterr().out
    assert re.search(r"inherited: (\d+) of \1 tensors, \d+ of them into another stream or sublayer", told)
    first = read_metrics(out / "metrics.jsonl")[0]["nats"]
    fresh = tmp_path / "fresh"
    assert train("redllm-nano", "--text", text, "--out", fresh, "--steps", 6, "--set", *sets) == 0
    assert first < read_metrics(fresh / "metrics.jsonl")[0]["nats"]
    again = tmp_path / "again"  # run.json and its first weights say all
    again.mkdir()
    for name in ("run.json", "initial.safetensors"):
        (again / name).write_bytes((out / name).read_bytes())
    (again / "data").symlink_to(out / "data")
    assert train("--resume", again) == 0
    assert read_json(again / "result.json", "it") == read_json(out / "result.json", "it")


def test_the_sources_own_architecture_without_a_name(
    finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [word for word in SMALL if not word.startswith("architecture.")]
    assert (
        train("--init-from", finished, "--text", text, "--out", tmp_path / "r", "--steps", 2, "--set", *sets)
        == 0
    )
    assert headtohead.load(tmp_path / "r").architecture.depths == (3,)


def test_pairs(tmp_path: Path) -> None:
    lines = [{"input": f"{a} plus {b}", "output": str(a + b)} for a in range(12) for b in range(12)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["redllm-nano", "--pairs", tmp_path / "sums.jsonl", "--out", tmp_path / "r", "--steps", 4]
    assert train(*words, "--set", *SMALL) == 0
    assert list(read_json(tmp_path / "r" / "result.json", "it")["bits_per_byte"]) == ["answer"]


@pytest.mark.parametrize(
    ("preset", "more", "kind", "supervise", "region"),
    [
        ("decllm-nano", [], "causal", "output", "text"),
        ("prefix-nano", [], "prefix", "output", "continuation"),
        ("redllm-nano", [], "prefix", "output", "continuation"),
        ("bert-nano", [], "masked", "holes", "holes"),
        ("decllm-nano", ["objective=prefix", "supervise=all"], "prefix", "all", "continuation"),
        ("t5-nano", ["objective=span-corruption"], "span-corruption", "output", "continuation"),
    ],
)
def test_what_is_left_out_fits_the_network(
    preset: str, more: list[str], kind: str, supervise: str, region: str
) -> None:
    solo, where = read_solo(preset, {}, more)
    a = network(solo, where, None, None)
    objective = objective_of(solo, a)
    study = as_study(solo, a, objective)
    assert type(objective).model_fields["kind"].default == kind
    assert supervise_of(solo, objective) == supervise and study.data.regions == (region,)


def test_the_masked_network_learns(text: Path, tmp_path: Path) -> None:
    assert train("bert-nano", "--text", text, "--out", tmp_path / "r", "--steps", 30, "--set", *SMALL) == 0
    curve = read_json(tmp_path / "r" / "result.json", "it")["curve"]
    assert curve[-1]["bits_per_byte"]["holes"] < curve[0]["bits_per_byte"]["holes"]


@pytest.fixture(scope="module")
def shards(text: Path) -> Path:
    """The text, sharded: causal windows, and the same with holes."""
    out = text.parent / "shards"
    words = ["shard", "--text", str(text), "--out", str(out), "--tokenizer", "bytes", "--window-bytes", "64"]
    words += ["--validation", "0.1", "--workers", "1", "--objective", "causal", "--objective", "masked"]
    assert run(words) == 0
    return out


FROM_SHARDS = [word for word in SMALL if not word.startswith("data.")]


def test_shards(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From prepared shards: the same folder, and everything that is done with it."""
    out = tmp_path / "r"
    assert train("decllm-nano", "--shards", shards, "--out", out, "--steps", 20, "--set", *FROM_SHARDS) == 0
    result = read_json(out / "result.json", "it")
    assert result["curve"][-1]["bits_per_byte"]["text"] < result["curve"][0]["bits_per_byte"]["text"] < 9
    assert not (out / "data").exists()
    assert headtohead.load(out).score("the people", " of this") > 0
    capsys.readouterr()
    assert run(["explain-batch", str(out)]) == 0
    assert "region text" in capsys.readouterr().out


def test_holes_from_shards(shards: Path, tmp_path: Path) -> None:
    words = ["bert-nano", "--shards", shards, "--out", tmp_path / "r", "--steps", 4, "--set", *FROM_SHARDS]
    assert train(*words, "objective=masked") == 0
    assert list(read_json(tmp_path / "r" / "result.json", "it")["bits_per_byte"]) == ["holes"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "objective=prefix"], "was not cut by the objective"),
        (["--set", "data.vocabulary=300"], "can't be set with shards"),
        (["--text", "text"], "text and shards can't be given together"),
        (["--set", "data.row=16"], "do not fit a row of 16"),
    ],
)
def test_shards_that_do_not_fit(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    capsys.readouterr()
    assert train("decllm-nano", "--shards", shards, "--out", tmp_path / "r", *more) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1, told
    assert not (tmp_path / "r").exists()


def test_the_example_file_is_one_that_trains(text: Path, tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "docs" / "examples" / "train.toml"
    sets = [word for word in SMALL if not word.startswith("architecture")]
    words = [
        file,
        "--text",
        text,
        "--out",
        tmp_path / "r",
        "--steps",
        3,
        "--set",
        *sets,
        "recipe.warmup_steps=1",
    ]
    assert train(*words) == 0
    assert read_json(tmp_path / "r" / "run.json", "it")["label"] == "A causal decoder on speeches"


# --- what it shows ------------------------------------------------------------------------------------------


def shown(width: int, terminal: bool) -> str:
    """A run's display, of made-up steps, as it was drawn."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=terminal, soft_wrap=not terminal, highlight=False
    )
    with Watch("a-network-with-a-name", 2000, 3.1, 1e11, console) as watch:
        for step in (5, 10):
            watch.progress("training", step, 4000.0, 3.2)
            line = {
                "step": step,
                "tokens": 1e5 * step,
                "flops": 4e10 * step,
                "seconds": 2.0 * step,
                "nats": 3.2,
            }
            watch.line("metrics", line | ({"spikes": [{"step": 9, "nats": 7.5}]} if step == 10 else {}))
        watch.line("point", {"step": 10, "bits_per_byte": {"text": 1.52}})
        watch.said -= 60
        watch.progress("training", 11, 4000.0, 3.1)
        if watch.live:
            watch.live.refresh()
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_lines_fit(width: int) -> None:
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(width, True))
    assert max(map(len, drawn.splitlines())) <= width
    for part in (
        "11/2000",
        "67 min left",
        "loss 3.190 (1.48 bits/byte)",
        "50.0k tokens/s",
        "20% of peak",
        " MB",
    ):
        assert part in drawn, part


def test_without_a_terminal_there_are_plain_lines() -> None:
    drawn = shown(80, False)
    assert "\x1b" not in drawn
    assert "step 9: the loss jumped to 7.500" in drawn and "step 10: held-out 1.5200 bits per byte" in drawn
    assert re.search(
        r"step 11/2000: loss 3\.190 \(1\.48 bits/byte\), 50\.0k tokens/s, 20% of peak, [\d,]+ MB, 67 min left",
        drawn,
    )


# --- trackers -----------------------------------------------------------------------------------------------


def test_tensorboard_gets_what_the_metrics_say(text: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "r"
    words = ["decllm-nano", "--text", text, "--out", out, "--steps", 10, "--track", "tensorboard"]
    assert train(*words, "--set", *SMALL) == 0
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    lines = read_metrics(out / "metrics.jsonl")
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("train/nats")] == [
        (line["step"], line["nats"]) for line in lines
    ]
    assert [e.step for e in events.Scalars("held_out/bits_per_byte/text")] == [5, 10]


@pytest.mark.slow
def test_wandb_offline(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "r"
    words = ["decllm-nano", "--text", text, "--out", out, "--steps", 10, "--track", "wandb"]
    assert train(*words, "--set", *SMALL) == 0
    assert list(out.glob("wandb/offline-run-*/*.wandb"))
