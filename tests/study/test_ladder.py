"""A ladder: what it runs, which rates it gives, and a tiny one from its file to its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.study.short_study import finish, write_study

from headtohead.errors import UserError
from headtohead.study.ladder import Ladder, load_ladder, rates_of

LADDER = """
kind = "ladder"
name = "tiny"
title = "A tiny ladder"
question = "Does the machinery work?"
margin = 0.05
seeds = [1]
resamples = 100

[data]
tokenizer = "bytes"
window_bytes = 64
regions = ["continuation"]
row = 160
side = 80
tune = 0.15
test = 0.15

[recipe]
rows_per_step = 2
compile = false
precision = "fp32"

[budgets]
tokens = [1600, 3200, 6400]
fewest_steps = 5

[tuning]
sizes = ["a", "b"]
grid = [5e-3, 1e-2, 2e-2]
steps = 6

[evaluation]
test_windows = 12
curve_windows = 4
rows_per_batch = 4

[[arms]]
key = "dec"
label = "decoder"
supervise = "all"
preset = "decllm-nano"

[[arms]]
key = "red"
label = "encoder-decoder"
supervise = "output"
match = "dec"
preset = "redllm-nano"

[[sizes]]
name = "a"
d_model = 16
heads = 2
d_head = 8
d_ff = 48
depths = { dec = [3], red = [1, 1] }

[[sizes]]
name = "b"
d_model = 32
heads = 2
d_head = 16
d_ff = 96
depths = { dec = [4], red = [2, 1] }

[[sizes]]
name = "c"
d_model = 48
heads = 4
d_head = 12
d_ff = 144
depths = { dec = [5], red = [2, 2] }

[[claims]]
key = "T1"
sentence = "The exponents are the same."
rule = "same-exponents"
from = "dec"
to = "red"
"""


def load(tmp_path: Path, text: str) -> Ladder:
    file = tmp_path / "tiny.toml"
    file.write_text(text, encoding="utf-8")
    return load_ladder(file)[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("depths = { dec = [4], red = [2, 1] }", "depths = { dec = [4] }", "gives no depths for arm 'red'"),
        ("depths = { dec = [4], red = [2, 1] }", "depths = { dec = [4], red = [2, 1], ted = [1] }", "'red'"),
        ('sizes = ["a", "b"]', 'sizes = ["a", "d"]', "tuning.sizes names a size 'd'"),
        ('match = "dec"', 'match = "deck"', "did you mean 'dec'"),
        ("tokens = [1600, 3200, 6400]\n", "", "tokens = "),
        ("tokens = [1600, 3200, 6400]", "tokens = [0.0]", "above zero"),
        ('regions = ["continuation"]', 'regions = ["continuation", "restoration"]', "one region"),
        ("rows_per_batch = 4", "rows_per_batch = 4\nlengths = [1, 2]", "evaluation.lengths"),
        ('rule = "same-exponents"', 'rule = "same"', "same-exponents"),
        ("rows_per_step = 2", "rows_per_step = 2\nlearning_rate = 1e-2", "looks for it"),
    ],
)
def test_a_ladder_that_cannot_be_is_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert LADDER.count(old) == 1
    with pytest.raises(UserError, match=said):
        load(tmp_path, LADDER.replace(old, new))


def test_every_arm_of_every_size_is_an_arm_of_the_study(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(LADDER, encoding="utf-8")
    study = load_ladder(file)[1]
    assert [arm.key for arm in study.arms] == ["dec-a", "red-a", "dec-b", "red-b", "dec-c", "red-c"]
    match = study.arm("red-c").match
    assert match is not None and match.to == "dec-c"


def test_rates_are_on_a_line_in_log_and_log(tmp_path: Path) -> None:
    ladder = load(tmp_path, LADDER)
    sizes = {f"{arm}-{size}": 10**n for arm in ("dec", "red") for n, size in enumerate("abc", 3)}
    found = rates_of(ladder, sizes, {"dec-a": 0.01, "dec-b": 0.001, "red-a": 0.02, "red-b": 0.02})
    assert found == pytest.approx(
        {"dec-a": 0.01, "dec-b": 1e-3, "dec-c": 1e-4, "red-a": 0.02, "red-b": 0.02, "red-c": 0.02}
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_a_file_to_a_page(tmp_path: Path) -> None:
    _, _, text = write_study(tmp_path)
    file, out = tmp_path / "tiny.toml", tmp_path / "out"
    file.write_text(LADDER.replace('match = "dec"\n', ""), encoding="utf-8")  # no depth fits so few
    assert "left out" not in finish(file, text, out, "--dry-run")
    finish(file, text, out)
    rows = (out / "ladder.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3 * 3
    fits = json.loads((out / "fits.json").read_text())
    assert fits["finished"] and set(fits["laws"]) == {"tokens shown", "tokens with loss"}
    assert fits["laws"]["tokens shown"]["arms"]["red"]["held_out"] is None  # two sizes fit no law
    assert fits["claims"][0]["key"] == "T1"
    plan = json.loads((out / "plan.json").read_text())
    assert set(plan["rates"]["arms"]) == {"dec-a", "red-a", "dec-b", "red-b"}
    assert all(arm["learning_rate"] for arm in plan["arms"])
    page = (out / "report.md").read_text()
    assert "18 of 18 runs finished" in page and "Claim T1" in page
    html = (out / "report.html").read_text()
    assert 'data-chart="frontier"' in html and 'data-chart="runs-red"' in html
    before = (out / "results.jsonl").read_bytes()
    finish(file, text, out)
    assert (out / "results.jsonl").read_bytes() == before
