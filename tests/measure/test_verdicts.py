"""From lines of results.jsonl to sentences and claims: never more than the figures bear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.measure.simulation import World

from headtohead.errors import UserError
from headtohead.measure.claims import RULES
from headtohead.measure.power import PRIOR, smallest_detectable_effect
from headtohead.measure.statistics import Comparison, Contrast
from headtohead.measure.variance import Components
from headtohead.measure.verdicts import ClaimVerdict, Judgement, detectable_before, judge
from headtohead.measure.wording import sentence

ARMS = ("all-tokens", "causal", "prefix", "two-causal", "two-full", "double")
REGIONS = ("continuation", "restoration")
QUIET = World(seed=0.0008, seed_shared=0.0005, document=0.002, documents=30)


def contrast(name: str, start: str, end: str, factor: str, text: str) -> dict[str, Any]:
    return {"name": name, "from": start, "to": end, "factor": factor, "sentence": text, "declares": []}


STUDY: dict[str, Any] = {
    "margin": 0.01,
    "seeds": [1, 2, 3],
    "data": {"regions": list(REGIONS)},
    "arms": [{"key": arm} for arm in ARMS],
    "contrasts": [
        contrast("view-one", "causal", "prefix", "visibility", "A full view of the input, in one stack."),
        contrast(
            "view-two", "two-causal", "two-full", "visibility", "A full view of the input, in two stacks."
        ),
        contrast("own-weights", "prefix", "two-full", "sharing", "Weights of its own for the input."),
        contrast("parameters", "two-full", "double", "parameters", "Twice the parameters."),
    ],
    "claims": [
        {
            "key": "C1",
            "sentence": "A full view of the input does not beat a causal one.",
            "rule": "does-not-beat",
            "contrasts": ["view-one", "view-two"],
        },
        {
            "key": "C2",
            "sentence": "The edge goes away at equal parameters.",
            "rule": "edge-goes-away",
            "contrasts": ["own-weights", "parameters"],
        },
        {
            "key": "C3",
            "sentence": "A causal encoder loses nothing.",
            "rule": "does-not-beat",
            "contrasts": ["view-two"],
        },
    ],
}


def lines(
    effects: Mapping[str, tuple[float, ...]], value: float = 2.0, world: World = QUIET, rung: str = "full"
) -> list[dict[str, Any]]:
    """What results.jsonl holds when the arms' true effects are `effects[region]`."""
    scores = {
        region: replace(world, effects=effects[region]).studies(1, seed)[0]
        for seed, region in enumerate(REGIONS)
    }
    found = []
    for a, arm in enumerate(ARMS):
        for s in range(world.seeds):
            found.append(
                {
                    "arm": arm,
                    "seed": s + 1,
                    "rung": rung,
                    "status": "finished",
                    "value_of_input": dict.fromkeys(REGIONS, value),
                    "description": {"streams": [{}] if a < 3 else [{}, {}]},
                    "documents": {
                        "names": list(scores["restoration"].documents),
                        "bytes": {r: scores[r].bytes.tolist() for r in REGIONS},
                        "bits": {r: scores[r].bits[a, s].tolist() for r in REGIONS},
                    },
                }
            )
    return found


def everywhere(*effects: float) -> dict[str, tuple[float, ...]]:
    return dict.fromkeys(REGIONS, effects)


def claims(judgement: Judgement) -> dict[str, ClaimVerdict]:
    return {claim.key: claim for claim in judgement.claims}


def test_equal_arms_support_c1_and_c3_and_leave_c2_without_an_edge() -> None:
    found = judge(lines(everywhere(0, 0, 0, 0, 0, 0)), STUDY)
    assert found.final
    assert {v.comparison.outcome for v in found.verdicts} == {"no difference"}
    assert len(found.verdicts) == 8 and [e.name for e in found.edges] == ["own-weights + parameters"] * 2
    assert found.verdicts[0].comparison.comparisons == 10  # 4 contrasts and an edge, in 2 regions
    outcome = claims(found)
    assert outcome["C1"].outcome == outcome["C3"].outcome == "supported"
    assert outcome["C2"].outcome == "undecided" and "no edge to explain" in outcome["C2"].regions[0].reason
    assert outcome["C1"].rule == RULES["does-not-beat"]
    assert "no difference in continuation" in found.verdicts[0].sentence
    assert "inside the margin of ±0.010" in found.verdicts[0].sentence


def test_a_full_view_that_wins_in_one_cell_contradicts_c1() -> None:
    effects = {"continuation": (0.0,) * 6, "restoration": (0.0, 0.0, -0.05, 0.0, 0.0, 0.0)}
    found = judge(lines(effects), STUDY)
    verdict = next(v for v in found.verdicts if v.name == "view-one" and v.region == "restoration")
    assert verdict.comparison.outcome == "different" and verdict.comparison.beyond_margin
    assert verdict.sentence.startswith(
        "A full view of the input, in one stack: restoration takes 0.0"
    ) and verdict.sentence.endswith("): different.")
    assert " bits per byte less (95 % interval 0.0" in verdict.sentence
    c1 = claims(found)["C1"]
    assert c1.outcome == "contradicted"
    assert [f.outcome for f in c1.regions] == ["supported", "contradicted"]
    assert c1.sentence.startswith("Contradicted at this scale. Continuation: supported (view-one: no gain")
    assert claims(found)["C3"].outcome == "supported"


def test_a_full_view_that_loses_supports_c1() -> None:
    found = judge(lines(everywhere(0.0, 0.0, 0.05, 0.0, 0.05, 0.0)), STUDY)
    assert claims(found)["C1"].outcome == "supported"
    assert "bits per byte more" in found.verdicts[0].sentence


def test_an_edge_that_needs_its_parameters_supports_c2_and_one_that_does_not_contradicts_it() -> None:
    needs = judge(lines(everywhere(0, 0, 0, 0, 0, -0.06)), STUDY)
    assert claims(needs)["C2"].outcome == "supported"
    stays = judge(lines(everywhere(0, 0, 0, -0.06, -0.06, -0.12)), STUDY)
    assert claims(stays)["C2"].outcome == "contradicted"
    # An edge with more parameters, and nothing decided at equal ones: a gain at the very margin.
    between = judge(lines(everywhere(0, 0, 0, -0.01, -0.01, -0.06)), STUDY)
    (finding,) = [f for f in claims(between)["C2"].regions if f.region == "restoration"]
    assert finding.outcome == "undecided" and "neither shown nor ruled out" in finding.reason
    assert between.edges[0].sentence.startswith(
        "Weights of its own for the input, together with twice the par"
    )


def test_a_gain_that_may_be_below_the_margin_decides_nothing() -> None:
    found = judge(lines(everywhere(0, 0, -0.0105, 0, 0, 0), world=replace(QUIET, documents=20)), STUDY)
    verdict = found.verdicts[0]
    assert verdict.comparison.outcome == "different" and not verdict.comparison.beyond_margin
    assert verdict.sentence.endswith("By more than the margin of 0.010? Undecided.")
    assert claims(found)["C1"].outcome == "undecided"


def test_a_small_sure_gain_is_below_the_margin_and_supports_c1() -> None:
    quiet = replace(QUIET, seed=0.0002, document=0.0005)
    found = judge(lines(everywhere(0, 0, -0.005, 0, 0, 0), world=quiet), STUDY)
    assert found.verdicts[0].comparison.outcome == "different, but by less than the margin"
    assert found.verdicts[0].sentence.endswith("different, but by less than the margin of 0.010.")
    assert claims(found)["C1"].outcome == "supported"


def test_visibility_is_not_judged_where_the_input_is_hardly_used() -> None:
    found = judge(lines(everywhere(0, 0, -0.05, 0, 0, -0.06), value=0.004), STUDY)
    outcomes = {v.name: v.comparison.outcome for v in found.verdicts}
    assert outcomes["view-one"] == outcomes["view-two"] == "not judged"
    assert outcomes["parameters"] == "different"  # the gate is for visibility alone, but the page says it
    first = found.verdicts[0]
    assert first.sentence.startswith(
        "A full view of the input, in one stack: not judged in continuation: the network "
    )
    assert "0.004 bits per byte" in first.sentence and first.value_of_input == pytest.approx(0.004)
    parameters = next(v for v in found.verdicts if v.name == "parameters")
    assert any("hardly uses its input" in caution for caution in parameters.cautions)
    assert claims(found)["C1"].outcome == "undecided"


def test_a_rehearsal_decides_nothing() -> None:
    for some in ([], lines(everywhere(0, 0, 0, 0, 0, 0), rung="rehearsal")):
        found = judge(some, STUDY)
        assert not found.final
        assert {v.comparison.outcome for v in found.verdicts} == {"no verdict"}
        assert "rehearsal does not tell" in found.verdicts[0].sentence
        assert {c.outcome for c in found.claims} == {"undecided"} and found.levels["restoration"] == ()


def test_before_the_end_no_claim_is_decided_and_sentences_say_so() -> None:
    whole = lines(everywhere(0, 0, -0.05, 0, 0, 0))
    partly = [line for line in whole if line["seed"] < 3]
    found = judge(partly, STUDY)
    assert not found.final
    assert found.verdicts[0].sentence.startswith("So far, with runs still to come: A full view")
    assert {c.outcome for c in found.claims} == {"undecided"}
    one_seed = judge([line for line in whole if line["seed"] == 1], STUDY)
    assert {v.comparison.outcome for v in one_seed.verdicts} == {"no verdict"}
    assert one_seed.levels["restoration"][0].seeds == 1


def stopped(**more: Any) -> dict[str, Any]:
    return {"arm": "prefix", "seed": 2, "rung": "full", "status": "stopped", "reason": "why", **more}


def test_a_run_that_diverged_is_left_out_and_no_claim_about_its_arm_is_decided() -> None:
    some = lines(everywhere(0, 0, 0, 0, 0, 0))
    some[7] = stopped(step=30)
    found = judge(some, STUDY)
    assert found.final
    assert found.verdicts[0].comparison.seeds == (1, 3)
    assert "prefix did not end under seed 2" in found.verdicts[0].cautions
    assert found.levels["restoration"][2].seeds == 2
    assert {key: c.outcome for key, c in claims(found).items()} == {
        "C1": "undecided", "C2": "undecided", "C3": "supported",
    }  # fmt: skip
    assert "prefix did not end under seed 2" in claims(found)["C1"].sentence


def test_a_run_that_was_given_up_is_to_be_done_again() -> None:
    some = lines(everywhere(0, 0, 0, 0, 0, 0))
    some[7] = stopped()
    assert not judge(some, STUDY).final


@pytest.mark.parametrize("rule", ["beats", "does-not-beat", "keeps-where-other-loses"])
@pytest.mark.parametrize("apart", [True, False])
def test_a_claim_whose_contrasts_are_scored_in_no_common_region_is_undecided(rule: str, apart: bool) -> None:
    """Arms that are scored apart, or a claim about a region that the text at hand doesn't have."""
    claim = {"key": "X", "sentence": "Y.", "rule": rule, "contrasts": ["view-one", "view-two"]}
    arms = [
        {"key": arm, "regions": ["continuation" if n < 3 else "restoration"]} for n, arm in enumerate(ARMS)
    ]
    study = {**STUDY, "claims": [claim], "contrasts": [*STUDY["contrasts"][:2]]}
    if apart and rule != "keeps-where-other-loses":
        study["arms"] = arms
    else:
        claim["regions"] = ["holes"]
    (found,) = judge(lines(everywhere(0, 0, 0, 0, 0, 0)), study).claims
    assert found.outcome == "undecided" and "not scored there" in found.sentence


def test_a_rule_on_the_search_counts_all_settings_and_hears_of_a_refusal() -> None:
    claim = {"key": "X", "sentence": "Y.", "rule": "steadier", "contrasts": ["view-one"]}
    study = {**STUDY, "claims": [claim]}

    def trials(unsteady: bool) -> list[dict[str, Any]]:
        return [
            {
                "learning_rate": rate,
                "seed": 1,
                "settings": {"weight_decay": decay},
                "unsteady": unsteady and decay,
            }
            for rate in (0.001, 0.002, 0.004)
            for decay in (0.1, 0.2, 0.0)
        ]

    searched = {"arms": {"causal": {"trials": trials(True)}, "prefix": {"trials": trials(False)}}}
    some = lines(everywhere(0, 0, 0, 0, 0, 0))
    (found,) = judge(some, study, searched=searched).claims
    assert found.outcome == "supported" and "6 and 0 of 9 runs" in found.sentence
    (found,) = judge(some, study, {"view-one": "they differ in depth"}, searched).claims
    assert found.outcome == "undecided" and "they differ in depth" in found.sentence


def test_a_contrast_that_is_refused_has_no_verdict_and_neither_has_its_edge() -> None:
    found = judge(
        lines(everywhere(0, 0, 0, 0, 0, -0.06)), STUDY, {"parameters": "the two differ in their tokenizer"}
    )
    refused = [v for v in (*found.verdicts, *found.edges) if v.comparison.outcome == "no verdict"]
    assert {v.name for v in refused} == {"parameters", "own-weights + parameters"}
    assert "tokenizer" in refused[0].sentence
    assert claims(found)["C2"].outcome == "undecided"


def test_speeches_of_one_group_are_one_document() -> None:
    some = lines(everywhere(0, 0, 0, 0, 0, 0))
    for line in some:
        line["documents"]["groups"] = [str(1900 + i // 2) for i in range(30)]
    found = judge(some, STUDY)
    assert found.verdicts[0].comparison.documents == 15
    alone = judge(lines(everywhere(0, 0, 0, 0, 0, 0)), STUDY)
    assert found.verdicts[0].comparison.difference == pytest.approx(alone.verdicts[0].comparison.difference)


def test_runs_scored_on_other_text_cannot_be_compared() -> None:
    some = lines(everywhere(0, 0, 0, 0, 0, 0))
    some[4]["documents"]["bytes"]["restoration"][0] += 1
    with pytest.raises(UserError, match=r"causal \(seed 2\).*different restoration text"):
        judge(some, STUDY)


def test_a_claim_without_a_rule_or_with_one_that_does_not_fit() -> None:
    without = {**STUDY, "claims": [{"key": "X", "sentence": "Y.", "contrasts": ["view-one"]}]}
    (claim,) = judge(lines(everywhere(0, 0, 0, 0, 0, 0)), without).claims
    assert claim.outcome == "undecided" and "no decision rule" in claim.sentence
    chain = {"key": "X", "sentence": "Y.", "rule": "edge-goes-away", "contrasts": ["view-one", "parameters"]}
    with pytest.raises(UserError, match=r"claim 'X'.*going on"):
        judge([], {**STUDY, "claims": [chain]})


def test_the_sentence_of_the_design() -> None:
    found = Comparison(
        Contrast("x", "a", "b"), "different", "", (1, 2, 3), 20, difference=-0.031, interval=(-0.038, -0.024),
        beyond_zero=True, beyond_margin=True,
    )  # fmt: skip
    assert sentence("A full view of the input", "restoration", found, 0.01) == (
        "A full view of the input: restoration takes 0.031 bits per byte less "
        "(95 % interval 0.024 to 0.038): different."
    )


def test_undecided_says_what_would_settle_it() -> None:
    found = judge(lines(everywhere(0, 0, 0.002, 0, 0, 0), world=World(documents=12)), STUDY)
    undecided = [v for v in found.verdicts if v.comparison.outcome == "undecided"]
    assert undecided
    for v in undecided:
        assert "would settle it" in v.sentence or "would not settle it" in v.sentence
        assert "if the difference stays where it is" in v.sentence and "−" in v.sentence + "−"


def test_before_the_run_the_family_is_that_of_the_judgement() -> None:
    """4 contrasts and an edge in 2 regions are 10 comparisons; more seeds or documents find smaller ones."""
    one = detectable_before(STUDY, 20)
    assert one == smallest_detectable_effect(PRIOR, arms=6, seeds=3, documents=20, comparisons=10)
    assert detectable_before({**STUDY, "seeds": [1, 2, 3, 4, 5]}, 20) < one
    assert detectable_before(STUDY, 40) < one
    assert detectable_before(STUDY, 20, Components(seed=0.003, document=0.001)) < one
    # Arms that are scored apart are not pooled; where nothing is compared nothing is found.
    two = [
        {"key": arm, "regions": ["continuation" if n < 2 else "restoration"]} for n, arm in enumerate(ARMS)
    ]
    study = {**STUDY, "claims": [], "contrasts": [STUDY["contrasts"][0]]}
    assert detectable_before({**study, "arms": two}, 20) > detectable_before(study, 20)
    assert math.isinf(detectable_before({**study, "contrasts": []}, 20))


def test_claims_are_wrongly_contradicted_at_most_one_time_in_twenty() -> None:
    """100 studies without any effect, at ordinary noise: C1 and C3 are true."""
    wrong = []
    for seed in range(100):
        rng_world = replace(World(), effects=(0.0,) * 6)
        scores = {r: rng_world.studies(1, 1000 * i + seed)[0] for i, r in enumerate(REGIONS)}
        some = lines(everywhere(0, 0, 0, 0, 0, 0), world=rng_world)
        for line in some:
            a, s = ARMS.index(line["arm"]), line["seed"] - 1
            line["documents"]["bits"] = {r: scores[r].bits[a, s].tolist() for r in REGIONS}
        found = claims(judge(some, STUDY))
        wrong.append(any(found[key].outcome == "contradicted" for key in ("C1", "C3")))
    assert np.mean(wrong) <= 0.05
