"""What runs are scored on beside their held-out text: longer stretches of it, and texts out of its domain."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.study.short_study import STUDY, finish, write_study

from headtohead.errors import UserError
from headtohead.measure.scored import judged_regions
from headtohead.measure.verdicts import judge
from headtohead.study.loading import load
from headtohead.study.texts import text_at

BEYOND = (
    STUDY.replace("[rungs.rehearsal]\nsteps = 8\ncurve_points = 2\n", "")
    .replace("prompt_tokens = 6", "prompt_tokens = 6\nlengths = [1, 2, 4]\nlength_blocks = 5")
    .replace("steps = 60", "steps = 12")
)
CLAIM = """
[[claims]]
key = "T"
sentence = "Two stacks carry over."
rule = "beats"
contrasts = ["sharing"]
regions = ["rise"]
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "beyond.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lengths = [1, 2, 4]", "lengths = [2, 4]", "ascending from 1"),
        ("lengths = [1, 2, 4]", "lengths = [1]", "ascending from 1"),
        (
            "window_bytes = 64",
            'window_bytes = 64\nregions = ["restoration"]',
            "'continuation' among data.regions",
        ),
        ("lengths = [1, 2, 4]\n", "", "is about a region 'rise'"),
    ],
)
def test_lengths_that_cannot_be_are_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert BEYOND.count(old) == 1
    with pytest.raises(UserError, match=said):
        load(write(tmp_path, (BEYOND + CLAIM).replace(old, new)))


def test_texts_too_short_for_the_longest_length_are_told_before_anything_runs(tmp_path: Path) -> None:
    _, _, text = write_study(tmp_path)
    file = write(tmp_path, BEYOND.replace("lengths = [1, 2, 4]", "lengths = [1, 64]"))
    printed = finish(file, text, tmp_path / "out", "--dry-run", code=2)
    assert "asks for held-out texts of 4,096 bytes" in printed


def test_a_text_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADTOHEAD_DATA", str(tmp_path))
    with pytest.raises(UserError, match="headtohead data fetch english-mix"):
        text_at("english-mix")
    with pytest.raises(UserError, match="there is no text 'nowhere'"):
        text_at("nowhere")


def line(arm: str, seed: int, rise: float) -> dict[str, Any]:
    """A run of 20 documents and stretches, 100 bytes each; noise that makes seeds and stretches differ."""
    draws = random.Random(f"{arm} {seed}")
    noise = [draws.gauss(0, 0.5) for _ in range(20)]
    names, sizes = [f"d{n}" for n in range(20)], [100] * 20
    bits = [150.0 + x for x in noise]
    return {
        "arm": arm, "seed": seed, "rung": "full", "status": "finished", "value_of_input": {"continuation": 0.1},
        "documents": {"names": names, "bytes": {"continuation": sizes}, "bits": {"continuation": bits}},
        "length_blocks": {"bytes": sizes, "bits": {"1": [150.0] * 20, "8": [150.0 + 100 * rise + x for x in noise]}},
        "description": {"streams": [{}]},
    }  # fmt: skip


def test_the_rise_is_judged_as_a_region_is() -> None:
    study = {
        "margin": 0.02, "seeds": [1, 2, 3], "data": {"regions": ["continuation"]}, "evaluation": {"lengths": [1, 8]},
        "arms": [{"key": "one"}, {"key": "two"}],
        "contrasts": [{"name": "c", "from": "one", "to": "two", "factor": "f", "sentence": "Two.", "declares": []}],
        "claims": [{"key": "T", "sentence": "s", "rule": "beats", "contrasts": ["c"], "regions": ["rise"]}],
    }  # fmt: skip
    assert judged_regions(study) == ["continuation", "rise"]
    results = [line(arm, seed, rise) for arm, rise in (("one", 0.5), ("two", 0.1)) for seed in (1, 2, 3)]
    found = judge(results, study)
    rise = next(v for v in found.verdicts if v.region == "rise")
    assert rise.comparison.difference == pytest.approx(-0.4, abs=0.01)
    assert [(c.outcome, [f.region for f in c.regions]) for c in found.claims] == [("supported", ["rise"])]
    for result in results:
        result["length_blocks"]["bits"].pop("8")  # no such positions
    found = judge(results, study)
    assert found.claims[0].outcome == "undecided"
    rise = next(v for v in found.verdicts if v.region == "rise")
    assert "one was not scored at 8 times its training length" in rise.sentence


def test_stretches_of_one_document_are_one_document() -> None:
    study = {
        "margin": 0.02, "seeds": [1, 2], "data": {"regions": ["continuation"]}, "evaluation": {"lengths": [1, 8]},
        "arms": [{"key": "one"}, {"key": "two"}], "claims": [],
        "contrasts": [{"name": "c", "from": "one", "to": "two", "factor": "f", "sentence": "Two.", "declares": []}],
    }  # fmt: skip
    results = [line(arm, seed, 0.5) for arm in ("one", "two") for seed in (1, 2)]
    for result in results:
        result["length_blocks"]["groups"] = [f"speech {n // 4}" for n in range(20)]
    rise = next(v for v in judge(results, study).verdicts if v.region == "rise")
    assert rise.comparison.documents == 5


def test_the_longest_length_is_the_studys() -> None:
    """A run that stops short of it has no rise: a rise to 2 times is not held against one to 8."""
    study = {
        "margin": 0.02, "seeds": [1, 2], "data": {"regions": ["continuation"]}, "evaluation": {"lengths": [1, 2, 8]},
        "arms": [{"key": "one"}, {"key": "two"}], "claims": [],
        "contrasts": [{"name": "c", "from": "one", "to": "two", "factor": "f", "sentence": "Two.", "declares": []}],
    }  # fmt: skip
    results = [line(arm, seed, 0.5) for arm in ("one", "two") for seed in (1, 2)]
    for result in results[:2]:
        bits = result["length_blocks"]["bits"]
        bits["2"] = bits.pop("8")
    rise = next(v for v in judge(results, study).verdicts if v.region == "rise")
    assert rise.comparison.outcome == "no verdict" and "one was not scored at 8 times" in rise.sentence


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_a_file_to_a_page(tmp_path: Path) -> None:
    _, _, text = write_study(tmp_path)
    other = tmp_path / "psalms"
    other.mkdir()
    for number in range(3):
        (other / f"{number}.txt").write_text(
            "The Lord is my shepherd; I shall not want. " * 40, encoding="utf-8"
        )
    study = BEYOND.replace(
        "window_bytes = 64", f'window_bytes = 64\nout_of_domain = ["{other}"]\nout_of_domain_windows = 9'
    )
    questions = [
        {"input": f"the people {n}", "choices": ["of the nation", "qzx"], "answer": 0} for n in range(6)
    ]
    task = tmp_path / "sense.jsonl"
    task.write_text("".join(json.dumps(q) + "\n" for q in questions), encoding="utf-8")
    study = study.replace("length_blocks = 5", f'length_blocks = 5\ntasks = ["{task}"]')
    file, out = write(tmp_path, study + CLAIM), tmp_path / "out"
    finish(file, text, out)
    lines = [json.loads(one) for one in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    for one in lines:
        assert set(one["out_of_domain"]["psalms"]) == {"continuation", "restoration"}
        assert [at["times"] for at in one["lengths"]] == [1, 2, 4]
        assert set(one["length_blocks"]["bits"]) == {"1", "2", "4"}
        assert len(one["length_blocks"]["bytes"]) == len(one["length_blocks"]["bits"]["4"]) == 5
        assert [told["questions"] for told in one["tasks"].values()] == [6]
        assert next(iter(one["tasks"].values()))["chance"] == 0.5
        total = sum(one["length_blocks"]["bits"]["4"]) / sum(one["length_blocks"]["bytes"])
        assert total == pytest.approx(one["lengths"][2]["bits_per_byte"])
    page = (out / "report.md").read_text()
    assert "/sense" in page and "per byte" in page
    assert "Longer text than in training" in page and "psalms" in page and "| rise |" in page
    html = (out / "report.html").read_text()
    assert 'data-chart="lengths"' in html and "Other texts" in html
