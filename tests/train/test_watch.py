"""Watchfulness: spikes are marked and smooth curves are not, a fresh network must start at ln V, and neither
touches what a run computes.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train import small
from tests.train.small import rows, tiny

from headtohead.errors import UserError
from headtohead.model.presets import architecture
from headtohead.model.transformer import Transformer
from headtohead.train.nonfinite import NonFinite
from headtohead.train.runtime import Runtime
from headtohead.train.watch import FEWEST, NEAR, WINDOW, check_start, is_spike, start_nats

PLAIN = Runtime(1, "fp32", False, torch.__version__)


def marked(losses: list[float]) -> list[int]:
    return [at for at, loss in enumerate(losses) if is_spike(losses[max(0, at - WINDOW) : at], loss)]


def curve(steps: int, noise: float, seed: int, floor: float = 2.0) -> list[float]:
    """A loss as it falls in training, with the noise of batches."""
    draw = random.Random(seed)
    return [floor + 6 * (1 + step / 20) ** -0.5 + draw.gauss(0, noise) for step in range(steps)]


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.005, 0.05, 0.2]))
def test_a_smooth_curve_raises_no_alarm(seed: int, noise: float) -> None:
    assert marked(curve(300, noise, seed)) == []


@given(st.integers(0, 10**6), st.integers(FEWEST, 280))
def test_a_spike_is_marked_and_only_it(seed: int, at: int) -> None:
    losses = curve(300, 0.05, seed)
    losses[at] += 1.5
    assert marked(losses) == [at]


def test_a_flat_curve_and_a_new_level_are_no_alarm_for_ever() -> None:
    assert marked([3.0] * 100 + [3.01] * 100) == []  # 0.3 % is no jump, however flat it was before
    found = marked([3.0] * 100 + [4.0] * 200)
    assert found and found[0] == 100 and found[-1] < 100 + NEAR  # a new level becomes the usual one


@pytest.mark.parametrize("name", ["decllm-nano", "redllm-nano", "bert-nano", "t5-nano", "gpt-2-nano"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fresh_network_may_start(name: str, precision: str) -> None:
    a = architecture(name).resized(vocabulary=512)
    batch = small.rows(a, 0, 4)
    check_start(Transformer(a, 5), [batch], Runtime(1, precision, False, torch.__version__))  # type: ignore[arg-type]


def test_a_wrong_init_may_not_start() -> None:
    a = architecture("decllm-nano").resized(vocabulary=512)
    model = Transformer(a)
    with torch.no_grad():
        model.embedding.mul_(3)
    with pytest.raises(UserError, match=r"starts at a loss of .* off ln 512 = 6\.24"):
        check_start(model, [small.rows(a, 0, 4)], PLAIN)


def test_the_start_is_what_the_loss_is_over_even_targets() -> None:
    """The same number as the one loss function gives where every token is the target once."""
    a = tiny()
    model = Transformer(a)
    batch = rows(a, 0, 2)
    found = []
    for token in range(a.vocabulary):
        sums = model.loss(
            type(batch)(
                batch.streams,
                torch.full_like(batch.targets, token),
                batch.weights,
                batch.example,
                batch.scored,
            )
        )
        found.append(float(sums.nats / sums.weight))
    assert start_nats(model, batch, PLAIN) == pytest.approx(sum(found) / len(found), rel=1e-5)
    assert start_nats(model, batch, PLAIN) == pytest.approx(math.log(a.vocabulary), rel=0.04)


def test_the_check_changes_no_bit_of_a_run(tmp_path: Path) -> None:
    wide = tiny().resized(vocabulary=400)
    for name, fresh in (("checked", True), ("not", False)):
        small.run(tmp_path / name, model=Transformer(wide), fresh=fresh)
    assert small.outcome(tmp_path / "checked") == small.outcome(tmp_path / "not")


def test_a_run_marks_a_spike_once_however_often_it_is_stopped(tmp_path: Path) -> None:
    """One poisoned step among sixty: its line of the metrics says so, and resuming says the same."""
    told: list[tuple[str, dict]] = []
    settings = {"steps": 60, "learning_rate": 1e-4}

    def poisoned(folder: Path, **more) -> None:
        model = Transformer(tiny())
        usual = model.loss

        def loss(batch, z_loss=0.0):  # targets that the network is made to be sure of not
            sums = usual(batch, z_loss)
            at_50 = bool((batch.streams["text"].ids == rows(tiny(), 49, 4).streams["text"].ids[:2]).all())
            return type(sums)(
                *(value * 5 if at_50 and key in ("nats", "total") else value for key, value in _fields(sums))
            )

        model.loss = loss
        small.run(folder, model=model, changes=settings, evaluate_at=(), **more)

    poisoned(tmp_path / "a", on_line=lambda kind, line: told.append((kind, dict(line))))
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    marks = [spike["step"] for line in lines for spike in line.get("spikes", [])]
    assert marks == [50]
    assert [line for kind, line in told if kind == "metrics"] == lines


def _fields(sums):
    names = sums._fields if hasattr(sums, "_fields") else list(vars(sums))
    return [(name, getattr(sums, name)) for name in names]


def test_a_step_that_is_not_finite_names_its_documents(tmp_path: Path) -> None:
    model = Transformer(tiny())
    with torch.no_grad():
        model.stacks["text"][1].feed_forward.down.weight.fill_(float("nan"))  # type: ignore[index]
    names = [f"{i}.txt" for i in range(12)]
    with pytest.raises(NonFinite) as caught:
        small.run(tmp_path, model=model, documents_of=lambda batch: names)
    assert caught.value.documents == tuple(names)
    assert caught.value.step == 1 and caught.value.layer == "stacks.text.1.feed_forward.down"
    assert "its batch is of 0.txt, 1.txt" in str(caught.value) and "and 4 more" in str(caught.value)
