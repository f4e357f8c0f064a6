"""A ladder: what it runs, which rates it gives, and a tiny one from its file to its page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.study.short_study import finish, write_study

from headtohead.errors import UserError
from headtohead.measure.scaling.table import Table
from headtohead.study import ladder_page
from headtohead.study.ladder import Ladder, load_ladder, rates_of
from headtohead.study.ladder_charts import charts_of
from headtohead.study.palette import inks

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


LOWER = """
[[claims]]
key = "T2"
sentence = "Two stacks have the lower frontier."
rule = "lower-frontier"
from = "dec"
to = "red"
"""

Loss = Callable[[float, float], float]


def falls(n: float, d: float) -> float:
    return 0.5 + 30 * n**-0.35 + 60 * d**-0.3


def grows(n: float, d: float) -> float:
    """More tokens make it worse."""
    return 0.5 + 30 * n**-0.35 + 0.01 * d**0.2


def flat(n: float, d: float) -> float:
    """Size makes no difference; noise decides to which side it seems to."""
    return (0.5 + 60 * d**-0.3) * (1 + 0.003 * math.sin(1e3 * n + d))


def write_ladder(tmp_path: Path, ended: bool, **losses: Loss) -> Path:
    """A folder as the runner writes it, of runs that were never made: three sizes for three budgets."""
    ladder = load(tmp_path, LADDER + LOWER)
    folder = tmp_path / "out"
    folder.mkdir()
    sizes = dict(zip("abc", (1e5, 3e5, 9e5), strict=True))
    arms = [
        {"key": f"{arm}-{size}", "label": f"{arm}, {size}", "learning_rate": 0.01,
         "parameters": {"total": n, "non_embedding": 0.7 * n}}
        for arm in losses for size, n in sizes.items()
    ]  # fmt: skip
    lines: list[dict[str, Any]] = [
        {
            "arm": f"{arm}-{size}", "seed": 1, "rung": "ladder", "status": "finished", "learning_rate": 0.01,
            "bits_per_byte": {"continuation": loss(n, d)},
            "ledger": {"steps": 10, "tokens_shown": d, "tokens_supervised": d / 2, "flops": 6.5 * n * d},
            **{key: {} for key in ("value_of_input", "curve", "documents", "identity", "samples")},
        }
        for arm, loss in losses.items() for size, n in sizes.items() for d in (1e6, 4e6, 1.6e7)
    ]  # fmt: skip
    plan = {
        "study": {"name": ladder.name},
        "ladder": ladder.model_dump(mode="json", by_alias=True),
        "data": {"regions": ["continuation"], "source": "made here", "corpus_sha256": "0"},
        "arms": arms,
        "runs": [{}] * (len(lines) + (not ended)),
        "left_out": [],
        "study_file": {"name": "tiny.toml", "text": LADDER + LOWER},
        "version": "0", "commit": None, "torch": "0", "command": "headtohead study tiny.toml",
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    (folder / "results.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    return folder


@pytest.mark.parametrize("ended", [False, True])
def test_an_arm_without_a_least_loss_has_a_page(tmp_path: Path, ended: bool) -> None:
    folder = write_ladder(tmp_path, ended, dec=falls, red=grows)
    html = ladder_page.write(folder).read_text(encoding="utf-8")
    fits = json.loads((folder / "fits.json").read_text(encoding="utf-8"))
    frontier = fits["laws"]["tokens shown"]["frontiers"]
    assert frontier["loss"]["red"] == frontier["difference"]["red"] == [None] * 6
    assert None not in frontier["loss"]["dec"]
    claim = fits["claims"][1]
    assert claim["outcome"] == "undecided"
    assert claim["reason"] == (
        "the fitted law of red has no least loss for a budget" if ended else "the ladder is not finished"
    )
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "beta is below zero" in page and "nan" not in page.lower()
    assert 'data-chart="frontier"' in html and (folder / "figures").is_dir() == ended


def test_resamples_without_a_least_loss_have_a_page(tmp_path: Path) -> None:
    folder = write_ladder(tmp_path, True, dec=falls, red=flat)
    ladder_page.write(folder)
    fits = json.loads((folder / "fits.json").read_text(encoding="utf-8"))
    frontier = fits["laws"]["tokens shown"]["frontiers"]
    assert None not in frontier["loss"]["red"] and frontier["intervals"]["red"] == [[None, None]] * 6
    claim = fits["claims"][1]
    assert claim["outcome"] == "undecided" and "in too many resamples" in claim["reason"]
    assert "(– to –)" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_profile_whose_best_sizes_run_apart_is_json(tmp_path: Path) -> None:
    """Best sizes a hundredfold apart at nearly the same compute: the coefficient of such a power law overflows."""
    from headtohead.study.ladder_page import _isoflop

    lines = ["N,FLOPs,bits_per_byte"]
    for flops, best in ((1e12, 1e7), (1.11e12, 1e5)):
        sizes = (2e4, 1e5, 5e5, 1e6, 1e7, 5e7)
        lines += [f"{n},{flops},{1 + 0.01 * math.log(n / best) ** 2}" for n in sizes]
    (tmp_path / "ladder.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = _isoflop(Table.read(tmp_path / "ladder.csv"))
    assert told["parameters"]["N_coefficient"] is None and told["parameters"]["N_exponent"] < -40
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_charts_leave_out_what_is_no_number() -> None:
    run = {"arm": "dec", "size": "a", "N": 10, "D": 100, "FLOPs": 6000, "bits_per_byte": 1.0}
    law = {"E": 0.5, "A": None, "B": 1.0, "alpha": 90.0, "beta": 0.3}
    frontier = {
        "C": [1e3, 1e4, 1e5],
        "loss": {"dec": [1.2, 1.1, None], "red": [None, None, None]},
        "intervals": {"dec": [[1.1, 1.3], [None, 1.2], [None, None]], "red": []},
    }
    laws = {"tokens shown": {"arms": {"dec": {"parameters": law}}, "frontiers": frontier}}
    charts = charts_of([run], {"laws": laws}, dict(zip(("dec", "red"), inks(2), strict=True)))
    drawn = charts["frontier"].to_dict()
    bands, _, lines, *names = (drawn["datasets"][layer["data"]["name"]] for layer in drawn["layer"])
    assert bands == [{"C": 1e3, "low": 1.1, "high": 1.3, "arm": "dec"}]
    assert lines == [{"C": 1e3, "loss": 1.2, "arm": "dec"}, {"C": 1e4, "loss": 1.1, "arm": "dec"}]
    assert names == [[{"C": 1e4, "loss": 1.1, "arm": "dec"}]] * 2
    assert len(charts["runs-dec"].to_dict()["layer"]) == 2  # the runs and their sizes' names, without a line


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
