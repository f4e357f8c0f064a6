"""docs/claims.md is what the results say, and every claim on trial can be run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from headtohead.errors import UserError
from headtohead.model.budget import parameters
from headtohead.study import claims
from headtohead.study.arms import matched_arms
from headtohead.study.dialogue import is_dialogue, load_dialogue
from headtohead.study.ladder import is_ladder, load_ladder
from headtohead.study.loading import load

ROOT = Path(__file__).parents[2]
RESULTS, STUDIES = ROOT / "results", ROOT / "studies" / "claims"


@pytest.fixture(autouse=True)
def _in_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # commands on the page are those of a person who stands there


def test_the_page_is_up_to_date() -> None:
    """Written by `headtohead claims --write`, which `make docs` calls."""
    assert (ROOT / claims.PAGE).read_text(encoding="utf-8") == claims.page()


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_study_of_a_claim_can_be_matched_and_says_what_would_decide_it(file: Path) -> None:
    own = [one for one in claims.on_trial() if one.file.name == file.name]
    assert own and all(one.stated.supported_by and one.stated.contradicted_by for one in own)
    if is_dialogue(file):
        sizes = [parameters(a)["total"] for a in load_dialogue(file).architectures.values()]
        assert max(sizes) <= 1.01 * min(sizes)
        return
    study = load_ladder(file)[1] if is_ladder(file) else load(file)[0]
    arms = matched_arms(study)
    assert all(abs(arm.mismatch or 0.0) <= 0.01 for arm in arms.values())


def test_a_claim_is_found_by_its_key() -> None:
    assert claims.find("c18").study == "continuous"
    assert claims.find("C17").study == "norms"  # C17-cure and its sisters
    assert claims.find("C1").study == "visibility"  # not C1-flops
    with pytest.raises(UserError, match="puts a claim 'C99' on trial"):
        claims.find("C99")
    with pytest.raises(UserError, match="there is no claim 'C99'"):
        claims.show("C99")


def test_a_rule_on_the_search_is_told_with_the_searchs_runs(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "searched"
    shutil.copytree(RESULTS / "first-look", folder)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    contrast = plan["study"]["contrasts"][0]
    claim = {"key": "S", "sentence": "s", "source": "", "rule": "steadier", "contrasts": [contrast["name"]]}
    plan["study"]["claims"] = [claim]
    trials = [
        {"learning_rate": rate, "seed": seed, "settings": {}, "unsteady": ""}
        for rate in (1e-3, 2e-3)
        for seed in (7, 8)
    ]
    arms = {arm["key"]: {"grid": [1e-3, 2e-3], "trials": trials} for arm in plan["arms"]}
    plan["rates"] = {"steps": 250, "seeds": [7, 8], "arms": arms}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    (trial,) = claims.trials(tmp_path / "results")
    assert trial.repeated == "2 seeds × 2 learning rates"
    assert trial.scale == "787k parameters, runs of 250 steps"


def test_what_is_said_of_a_claim(capsys: pytest.CaptureFixture[str]) -> None:
    claims.show("C2")
    said = " ".join(capsys.readouterr().out.split())
    assert "C2, study first-look: contradicted" in said
    assert "0.063 bits per byte less (95 % interval 0.050 to 0.076)" in said
    assert "headtohead study studies/first-look.toml" in said


def test_the_verdict_is_that_of_the_results(tmp_path: Path) -> None:
    """The same results with the second arm a quarter of a bit worse: another verdict on the page."""
    shutil.copytree(RESULTS / "first-look", tmp_path / "first-look")
    path = tmp_path / "first-look" / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["arm"].startswith("two-full"):
            for region, size in line["documents"]["bytes"].items():
                bits = line["documents"]["bits"][region]
                line["documents"]["bits"][region] = [b + 0.25 * n for b, n in zip(bits, size, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcomes = {trial.key: trial.outcome for trial in claims.trials(tmp_path)}
    assert outcomes["C2"] == "undecided"
    assert {t.key: t.outcome for t in claims.trials(RESULTS)}["C2"] == "contradicted"


def test_what_is_kept_of_a_study(tmp_path: Path) -> None:
    claims.keep(RESULTS / "first-look", tmp_path)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "plan.json").write_text('{"arms": 3}')  # a plan, of something else
    kept = {path.name for path in (tmp_path / "first-look").iterdir()}
    assert {"plan.json", "results.jsonl", "timings.jsonl", "report.md"} <= kept
    assert [trial.key for trial in claims.trials(tmp_path)] == ["C1", "C2", "C3"]
    lines = (RESULTS / "first-look" / "results.jsonl").read_text().splitlines()
    shutil.copytree(RESULTS / "first-look", tmp_path / "half")
    (tmp_path / "half" / "results.jsonl").write_text("\n".join(lines[:9]) + "\n")
    with pytest.raises(UserError, match="is not finished"):
        claims.keep(tmp_path / "half", tmp_path)
    # A run that was given up, by a worker that died thrice, is to be done again.
    given_up = {"arm": "causal", "seed": 3, "rung": "full", "status": "stopped", "reason": "its process died"}
    rest = [
        line
        for line in map(json.loads, lines)
        if (line["arm"], line["seed"], line["rung"]) != ("causal", 3, "full")
    ]
    (tmp_path / "half" / "results.jsonl").write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*rest, given_up])
    )
    with pytest.raises(UserError, match="is not finished"):
        claims.keep(tmp_path / "half", tmp_path)
