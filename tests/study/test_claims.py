"""Claims of a study file: each has a rule that `measure` knows, and one that fits its contrasts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest

from headtohead.errors import UserError
from headtohead.measure.claims import RULES
from headtohead.measure.verdicts import GATED, judge
from headtohead.study.loading import load
from headtohead.study.plan import Claim, Study

FIRST_LOOK = Path(__file__).parents[2] / "studies" / "first-look.toml"


def first_look() -> Study:
    return load(FIRST_LOOK)[0]


def test_a_claim_can_have_the_rules_that_measure_knows_and_no_other() -> None:
    assert set(get_args(Claim.model_fields["rule"].annotation)) == set(RULES)


def test_the_claims_of_the_first_look_can_be_decided() -> None:
    """A claim whose rule got lost between file and verdicts would be undecided whatever the runs say."""
    study = first_look().model_dump(mode="json", by_alias=True)  # as plan.json holds it
    found = judge([], study)
    assert [claim.key for claim in found.claims] == ["C1", "C2", "C3"]
    assert all(claim.rule in RULES.values() for claim in found.claims)
    assert {v.name for v in found.edges} == {"sharing-full + parameters"}


def test_contrasts_that_change_the_view_of_the_input_alone_are_gated() -> None:
    gated = {contrast.name for contrast in first_look().contrasts if contrast.factor == GATED}
    assert gated == {"visibility-one-stack", "visibility-two-stacks"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('rule = "edge-goes-away"\n', "", "rule' is missing"),
        ('rule = "edge-goes-away"', 'rule = "edge-goes"', "did you mean"),
        (
            'contrasts = ["sharing-full", "parameters"]',
            'contrasts = ["parameters", "sharing-full"]',
            "the second going on from the arm that the first goes to",
        ),
    ],
)
def test_a_rule_that_does_not_fit_is_told_before_anything_runs(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    file = Path(shutil.copy(FIRST_LOOK, tmp_path))
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        load(file)
    assert said in str(refused.value)
