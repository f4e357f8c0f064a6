"""Bad inputs to `headtohead train`: one line that names the thing, exit code 2, nothing half-written (see
`tests.test_bad_inputs`).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.kitchen import DONE, HALF, Spoil, alter, answer, judge, nothing, put, remove, snapshot

NETWORK = "train decllm-nano --text text --out out"
SMALL = "data.tokenizer=bytes data.row=96 architecture.d_model=16 architecture.heads=2 architecture.d_head=8"
WARM = f"train prefix-nano --text text --out out --init-from {DONE} --set {SMALL} architecture.d_ff=48"


@dataclass(frozen=True)
class Case:
    name: str
    words: str
    says: tuple[str, ...]
    spoil: Spoil = nothing


def toml(content: str) -> Spoil:
    return put("t.toml", content)


def both(*spoils: Spoil) -> Spoil:
    return lambda: [spoil() for spoil in spoils]


FILE = "train t.toml --text text --out out"
CASES = [
    Case("nothing is named", "train --text text", ("name a network or a file", "--resume RUN")),
    Case(
        "an unknown preset",
        "train decllm-nanno --text text --out out",
        ("decllm-nanno", "did you mean decllm-nano"),
    ),
    Case("no such file", "train not-there.toml", ("training file not-there.toml", "no such file")),
    Case("a file that is no TOML", FILE, ("t.toml is not valid TOML",), toml("name = ")),
    Case(
        "a study's file", "train short.toml", ("kind = 'compare' is a study", "headtohead study short.toml")
    ),
    Case(
        "a file without a network", FILE, ("there is no network to train", "init_from"), toml('name = "x"\n')
    ),
    Case("a preset unknown in a file", FILE, ("no-such-nano",), toml('architecture = "no-such-nano"\n')),
    Case(
        "an unknown key",
        FILE,
        ("unknown key 'recepi'", "'recipe'"),
        toml('architecture = "decllm-nano"\nrecepi = 1\n'),
    ),
    Case(
        "an unknown key of the recipe",
        f"{NETWORK} --set recipe.learning_rat=1e-3",
        ("learning_rat", "did you mean 'learning_rate'?"),
    ),
    Case("an unknown key of the data", f"{NETWORK} --set data.rows=64", ("unknown key 'data.rows'", "'row'")),
    Case(
        "a wrong type", f"{NETWORK} --set recipe.learning_rate=fast", ("recipe", "learning_rate", "a number")
    ),
    Case(
        "a wrong type of a size", f"{NETWORK} --set architecture.d_model=wide", ("d_model", "a whole number")
    ),
    Case("preset and streams", f"{NETWORK} --set architecture.streams=[]", ("either 'preset' or 'streams'",)),
    Case("sizes that don't fit", f"{NETWORK} --set architecture.d_head=7", ("d_head is 7",)),
    Case("depths of other streams", f"{NETWORK} --set architecture.depths=[1,2]", ("depths = [1, 2]",)),
    Case("no steps", f"{NETWORK} --steps 0", ("'0' is not a whole number from 1 up",)),
    Case(
        "no steps in a file",
        FILE,
        ("recipe", "steps = 0"),
        toml('architecture = "decllm-nano"\n[recipe]\nsteps = 0\n'),
    ),
    Case("steps of half a number", f"{NETWORK} --set recipe.steps=2.5", ("steps = 2.5", "a whole number")),
    Case(
        "a warm-up beyond the end", f"{NETWORK} --steps 5 --set recipe.warmup_steps=9", ("warmup_steps = 9",)
    ),
    Case(
        "micro-batches that don't divide", f"{NETWORK} --set recipe.micro_batches=3", ("micro_batches = 3",)
    ),
    Case("missing text", "train decllm-nano --text not-there --out out", ("not-there", "no such file")),
    Case(
        "text of an unknown kind",
        "train decllm-nano --text t.pdf --out out",
        ("t.pdf is of a kind",),
        put("t.pdf", "x"),
    ),
    Case(
        "text and pairs",
        "train decllm-nano --text text --pairs p.jsonl --out out",
        ("text and pairs can't be given together",),
    ),
    Case(
        "text and shards",
        "train decllm-nano --text text --shards s --out out",
        ("text and shards can't be given together",),
    ),
    Case(
        "shards that are none", "train decllm-nano --shards text --out out", ("text holds no sharded data",)
    ),
    Case(
        "an objective for pairs",
        "train redllm-nano --pairs p.jsonl --out out --set objective=prefix",
        ("leave 'objective' out with --pairs",),
        put("p.jsonl", '{"input": "a", "output": "b"}\n'),
    ),
    Case("a field without text", "train decllm-nano --field body --out out", ("--field",)),
    Case("an unknown objective", f"{NETWORK} --set objective=causel", ("causel", "did you mean 'causal'?")),
    Case(
        "holes for a causal network",
        f"{NETWORK} --set objective=masked",
        ("decllm-nano can't learn by the objective 'masked'",),
    ),
    Case(
        "causal for an encoder-decoder",
        "train redllm-nano --text text --out out --set objective=causal",
        ("redllm-nano can't learn by the objective 'causal'",),
    ),
    Case(
        "loss on an encoder's input",
        "train redllm-nano --text text --out out --set supervise=all",
        ("an input stream predicts nothing",),
    ),
    Case(
        "writing for a network that fills holes",
        "train bert-nano --text text --out out --set objective=prefix",
        ("it fills holes",),
    ),
    Case(
        "an unknown tracker",
        f"{NETWORK} --track tensorbord",
        ("--track tensorbord", "did you mean 'tensorboard'?"),
    ),
    Case(
        "a vocabulary that the text can't fill",
        f"{NETWORK} --set data.vocabulary=30000",
        ("30000", "give more text"),
    ),
    Case("far too large", f"{NETWORK} --set architecture.d_ff=900000000000", ("decllm-nano has", "GiB")),
    Case(
        "a folder with other things",
        "train decllm-nano --text text --out text",
        ("text holds other things (00.txt)",),
    ),
    Case(
        "a finished run's folder",
        f"train decllm-nano --text text --out {DONE}",
        (f"{DONE} holds a finished run", "--out"),
    ),
    Case(
        "a run's folder",
        f"train decllm-nano --text text --out {HALF}",
        (f"headtohead train --resume {HALF}",),
    ),
    Case("a file in the folder's place", "train decllm-nano --text text --out short.toml", ("short.toml",)),
    Case(
        "to go on with what is not there", "train --resume nowhere", ("nowhere holds no run to go on with",)
    ),
    Case("to go on with a study", "train --resume done", ("done holds no run to go on with",)),
    Case(
        "to go on, otherwise",
        f"train decllm-nano --resume {HALF} --steps 9",
        ("leave everything but --track out",),
    ),
    Case(
        "to go on with an altered run",
        f"train --resume {HALF}",
        (f"{HALF}/run.json",),
        alter(f"{HALF}/run.json"),
    ),
    Case(
        "first weights from no run",
        "train decllm-nano --text text --out out --init-from text",
        ("text holds neither",),
    ),
    Case(
        "first weights from nowhere",
        "train decllm-nano --text text --out out --init-from nowhere",
        ("nowhere",),
    ),
    Case(
        "first weights of an unfinished run",
        f"train decllm-nano --text text --out out --init-from {HALF}",
        (f"{HALF} is not finished",),
    ),
    Case(
        "first weights that are gone",
        WARM,
        ("model.safetensors is missing",),
        remove(f"{DONE}/model.safetensors"),
    ),
    Case(
        "first weights of another depth",
        f"{WARM} architecture.depths=[2]",
        (f"--init-from {DONE}", "has 2 layers", "4"),
    ),
    Case(
        "first weights of another width",
        f"{WARM.replace('d_model=16', 'd_model=32')} architecture.depths=[4]",
        ("has the shape",),
    ),
    Case(
        "first weights of other heads",
        f"{WARM.replace('heads=2', 'heads=1')} architecture.depths=[4]",
        ("heads = 1",),
    ),
    Case(
        "first weights of another activation",
        f"{WARM} architecture.depths=[4] architecture.feed_forward=geglu",
        ("feed_forward = geglu",),
    ),
    Case(
        "first weights without the tokens",
        f"{WARM} architecture.depths=[4] objective=span-corruption",
        ("<denoise>", DONE),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_input_is_told_in_one_line(case: Case, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case.spoil()
    before = snapshot(place)
    judge(before, place, answer(case.words, capfd), *case.says)


def test_a_missing_extra_is_told(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is where the package isn't installed."""
    found = importlib.util.find_spec
    hidden: Callable[..., object] = lambda name, *more: None if name == "trackio" else found(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    before = snapshot(place)
    judge(
        before,
        place,
        answer(f"{NETWORK} --track trackio", capfd),
        "--track trackio",
        "pip install 'headtohead[trackio]'",
    )


def test_altered_first_weights_are_told(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a run that is written down and not done: named, and nothing trained."""
    sets = f"{SMALL} architecture.d_ff=48 architecture.depths=[4] recipe.compile=false recipe.threads=1"
    words = f"train prefix-nano --text text --out warm --init-from {DONE} --steps 2 --set {sets}"
    assert answer(words, capfd).code == 0
    (place / "warm" / "result.json").unlink()
    content = bytearray((place / "warm" / "initial.safetensors").read_bytes())
    content[-1] ^= 1
    (place / "warm" / "initial.safetensors").write_bytes(content)
    told = answer("train --resume warm", capfd)
    assert told.code == 2 and "initial.safetensors has been altered" in told.err and told.err.count("\n") == 1
    assert not (place / "warm" / "result.json").exists()
    assert json.loads((place / "warm" / "run.json").read_text())["initial"]["from"] == DONE
