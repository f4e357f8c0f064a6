"""Study files: what they say, what `--set` changes, and which mistakes are told how."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.study.short_study import STUDY, write_study

from headtohead.errors import UserError
from headtohead.model.budget import parameters
from headtohead.model.parts import Alibi, Norms
from headtohead.model.presets import architecture
from headtohead.study.arms import described, matched_arms
from headtohead.study.loading import learning_rates, load

STUDIES = Path(__file__).parents[2] / "studies"
FIRST_LOOK, FIRST_RATES = STUDIES / "first-look.toml", STUDIES / "first-look-rates.toml"


def written(folder: Path, old: str, new: str) -> Path:
    """The short study with one thing changed."""
    assert old in STUDY
    path = folder / "study.toml"
    path.write_text(STUDY.replace(old, new, 1), encoding="utf-8")
    return path


def test_first_look_asks_what_it_says() -> None:
    study, rates = load(FIRST_LOOK)
    assert rates is None
    assert study.margin == 0.01
    assert len(study.seeds) >= 3
    assert [arm.supervise for arm in study.arms] == ["all", *["output"] * 5]
    pairs = {(contrast.first, contrast.second): contrast.factor for contrast in study.contrasts}
    assert pairs["causal", "prefix"] == pairs["two-causal", "two-full"] == "visibility"
    assert pairs["causal", "two-causal"] == pairs["prefix", "two-full"] == "sharing"
    assert pairs["two-full", "two-full-double"] == "parameters"
    norms = {
        str(matched.architecture.norms) for key, matched in matched_arms(study).items() if key != "decllm"
    }
    assert len(norms) == 1


def test_first_look_is_matched_within_one_per_cent() -> None:
    study, _ = load(FIRST_LOOK)
    arms = matched_arms(study)
    sizes = [parameters(arms[key].architecture)["total"] for key in list(arms)[:5]]
    assert max(sizes) <= 1.01 * min(sizes)
    for key, matched in arms.items():
        assert (matched.mismatch is None) == (key in ("prefix", "two-full-double"))
        assert matched.architecture.d_model == study.architecture.d_model
        assert matched.architecture.heads == study.architecture.heads
    double, prefix = arms["two-full-double"].architecture, arms["prefix"].architecture
    assert double.depths == prefix.depths * 2


def test_the_search_is_of_the_same_study() -> None:
    study, rates = load(FIRST_RATES, ["steps=500", "study.data.row=300"])
    assert rates is not None
    assert rates.steps == 500
    assert len(rates.grid) >= 5
    assert study.data.row == 300
    assert [arm.key for arm in study.arms] == [arm.key for arm in load(FIRST_LOOK)[0].arms]


def test_set_reaches_tables_lists_and_bare_words(tmp_path: Path) -> None:
    file, _, _ = write_study(tmp_path)
    changed = ["margin=0.02", "rungs.full.steps=9", "seeds=[4, 5, 6]", "arms.prefix.label=another", "title=T"]
    study, _ = load(file, changed)
    assert (study.margin, study.rungs.full.steps, study.seeds) == (0.02, 9, (4, 5, 6))
    assert (study.arm("prefix").label, study.title) == ("another", "T")


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("margn=0.02", "did you mean 'margin'"),
        ("margin", "write key=value"),
        ("margin=", "the value is missing"),
        ("margin=wide", "margin"),
        ("margin=-1", "greater than 0"),
        ("recipe.learning_rat=1", "did you mean 'learning_rate'"),
        ("recipe.rows_per_step=2.5", "rows_per_step"),
        ("recipe.seed=3", "seeds = [1, 2, 3]"),
        ("recipe.steps=3", "rungs.full.steps"),
        ("rungs.ful.steps=3", "did you mean 'full'"),
        ("rungs.full.passes=2", "give either 'steps' or 'passes'"),
        ("arms.prefx.label=x", "did you mean 'prefix'"),
        ("arms.prefix=3", "set one of its keys"),
        ("margin.low=3", "not a table"),
        ("title.a.b=3", "not a table"),
        ("seeds=[1, 1]", "'1' is there twice"),
        ("seeds=[]", "seeds"),
        ("data.window_bytes=3", "window_bytes"),
        ("data.regions=['continuaton']", "did you mean 'continuation'"),
        ("declared_differences.dept=x", "did you mean 'depth'"),
        ("rates=x.json", "keep one of them"),
        ("kind=other", "kind"),
    ],
)
def test_a_wrong_assignment_is_told_in_one_line(assignment: str, told: str, tmp_path: Path) -> None:
    file, _, _ = write_study(tmp_path)
    with pytest.raises(UserError) as error:
        load(file, [assignment])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('to = "two-full"', 'to = "two-ful"', "did you mean 'two-full'"),
        ('to = "two-full"', 'to = "prefix"', "with itself"),
        ('match = "prefix"', 'match = "prefx"', "did you mean 'prefix'"),
        ('key = "two-full"', 'key = "prefix"', "there twice"),
        ('key = "two-full"', 'key = "Two Full"', "key"),
        ('declares = ["sharing", "visibility"]', 'declares = ["shape"]', "no dimension"),
        ('preset = "redllm-nano"', 'preset = "redlm-nano"', "redllm-nano"),
        ("depths = [2, 1]", "depths = [2]", "depth"),
        ('supervise = "output"', 'supervise = "outputs"', "'output'"),
        ("d_head = 8", "d_head = 7", "even"),
        ("learning_rate = 1e-2", 'learning_rate = "1e-2"', "learning_rate"),
        ("margin = 0.01", "margin = 0.01 0.02", "not valid TOML"),
        ("[recipe]", "[recipes]", "did you mean 'recipe'"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(old: str, new: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        study, _ = load(written(tmp_path, old, new))
        matched_arms(study)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_arms_that_cannot_be_matched_are_refused(tmp_path: Path) -> None:
    study, _ = load(written(tmp_path, "depths = [4]", "depths = [1]"))
    with pytest.raises(UserError, match=r"1\.0% of"):
        matched_arms(study)


def test_learning_rates_come_from_the_committed_search(tmp_path: Path) -> None:
    file, _, _ = write_study(tmp_path)
    study, _ = load(file)
    assert learning_rates(study, tmp_path) == ({"prefix": 0.01, "two-full": 0.01}, None)

    searched = load(written(tmp_path, "learning_rate = 1e-2\n", "").rename(tmp_path / "s.toml"))[0]
    with pytest.raises(UserError, match="has no learning rate for arm 'prefix'"):
        learning_rates(searched, tmp_path)
    searched = searched.model_copy(update={"rates": "found.json"})
    with pytest.raises(UserError, match=r"found\.json"):
        learning_rates(searched, tmp_path)
    tried = {"grid": [0.004, 0.008], "bits_per_byte": [2.0, None], "edge": True}
    found: dict[str, Any] = {"steps": 600, "arms": {"prefix": {**tried, "best": 0.004, "optimum": 0.004}}}
    (tmp_path / "found.json").write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(UserError, match="'two-full'"):
        learning_rates(searched, tmp_path)
    found["arms"]["two-full"] = {**tried, "best": 0.008, "optimum": 0.008}
    (tmp_path / "found.json").write_text(json.dumps(found), encoding="utf-8")
    assert learning_rates(searched, tmp_path) == ({"prefix": 0.004, "two-full": 0.008}, found)
    muon = searched.model_copy(update={"recipe": {**searched.recipe, "optimizer": "muon"}})
    with pytest.raises(
        UserError, match="searched with optimizer = 'adamw', and arm 'prefix' trains with 'muon'"
    ):
        learning_rates(muon, tmp_path)
    found["recipe"] = {"optimizer": "muon"}
    (tmp_path / "found.json").write_text(json.dumps(found), encoding="utf-8")
    assert learning_rates(muon, tmp_path)[0] == {"prefix": 0.004, "two-full": 0.008}


def test_a_dry_run_tells_the_plan_without_torch_and_starts_nothing(tmp_path: Path) -> None:
    file, rates, text = write_study(tmp_path)
    program = """
import sys
from pathlib import Path
from headtohead.study import runner
file, text, out = map(Path, sys.argv[1:])
runner.study(file, [text], out=out, workers=2, dry_run=True)
assert "torch" not in sys.modules
"""
    for path in (file, rates):
        asked = [sys.executable, "-c", program, str(path), str(text), str(tmp_path / "out")]
        told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        assert "params" in told
        assert "two-full" in told
        assert "measured just now" in " ".join(told.split())
        assert max(map(len, told.splitlines())) <= 80
    assert not (tmp_path / "out").exists()


def test_a_preset_keeps_what_the_study_doesn_t_say(tmp_path: Path) -> None:
    """Its positions and norms are its own, unless the file says them for all arms."""
    path = written(tmp_path, 'preset = "prefix-nano"', 'preset = "gpt-2-nano"')
    study = load(path)[0]
    own = described(study, study.arm("prefix"))
    assert own.positions == architecture("gpt-2-nano").positions
    assert own.norms == architecture("gpt-2-nano").norms
    assert (own.feed_forward, own.d_model) == ("gelu-tanh", 16)
    said = path.read_text(encoding="utf-8").replace(
        "d_ff = 48\n", 'd_ff = 48\npositions = "alibi"\nnorms = { value = false }\n', 1
    )
    path.write_text(said, encoding="utf-8")
    study = load(path)[0]
    shared = described(study, study.arm("prefix"))
    assert shared.positions == Alibi()
    assert shared.norms == Norms(value=False)


def test_an_arm_may_train_by_settings_of_its_own(tmp_path: Path) -> None:
    own = 'supervise = "output"\nrecipe = { optimizer = "muon", learning_rate = 3e-3, warmup_steps = 1 }'
    study, _ = load(written(tmp_path, 'supervise = "output"', own))
    prefix, two_full = study.arms
    assert learning_rates(study, tmp_path)[0] == {"prefix": 0.003, "two-full": 0.01}
    assert [study.optimizer(arm) for arm in study.arms] == ["muon", "adamw"]
    rung = study.rungs.full.model_copy(update={"warmup_steps": 3})
    assert study.recipe_for(prefix, rung, 0.003, 1, 60).warmup_steps == 1
    assert study.recipe_for(two_full, rung, 0.01, 1, 60).warmup_steps == 3


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ("{ steps = 5 }", r"arms\.prefix\.recipe\.steps is not set here"),
        (
            "{ rows_per_step = 2 }",
            r"arms\.prefix\.recipe\.rows_per_step is not set here: all arms read the same",
        ),
        ("{ momentum = 0.9 }", r"arms\.prefix\.recipe"),
        ('{ precision = "fp16" }', r"arms\.prefix\.recipe: precision"),
    ],
)
def test_an_arms_wrong_settings_are_named(tmp_path: Path, own: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load(written(tmp_path, 'supervise = "output"', f'supervise = "output"\nrecipe = {own}'))
