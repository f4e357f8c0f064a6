"""A contrast whose runs differ in something undeclared is found, by the name of the dimension."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from headtohead.model.presets import architecture
from headtohead.study.fairness import undeclared_differences

STUDY: dict[str, Any] = {
    "seeds": [1, 2],
    "declared_differences": {"visible_pairs": "what visibility means"},
    "arms": [{"key": "causal", "supervise": "output"}, {"key": "prefix", "supervise": "output"}],
    "contrasts": [{"name": "visibility", "from": "causal", "to": "prefix", "declares": ["visibility"]}],
}


def result(arm: str, seed: int) -> dict[str, Any]:
    identity = dict.fromkeys(
        ("corpus_sha256", "tokenizer_sha256", "version", "torch", "dtype", "compiled", "threads"), "same"
    )
    ledger = dict.fromkeys(
        ("examples", "bytes_shown", "documents_seen", "steps", "tokens_supervised", "tokens_padding"), 100
    )
    return {
        "arm": arm,
        "seed": seed,
        "rung": "full",
        "status": "finished",
        "parameters": 1000,
        "identity": identity,
        "ledger": {**ledger, "visible_pairs": 5 if arm == "prefix" else 4, "flops": 1e9},
        "documents": {"names": ["a", "b"], "bytes": {"continuation": [5, 6]}},
        "description": architecture(f"{arm}-nano").model_dump(mode="json"),
        "recipe": {"learning_rate": 1e-3, "clip": 1.0, "seed": seed},
    }


def found(change: Callable[[dict[str, Any]], None], study: dict[str, Any] = STUDY) -> list[str]:
    results = [result(arm, seed) for seed in (1, 2) for arm in ("causal", "prefix")]
    change(results[3])
    return [difference.dimension for difference in undeclared_differences(results, study)]


def test_what_is_declared_is_no_finding() -> None:
    assert found(lambda run: None) == []


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(run: dict[str, Any]) -> None:
        for key in path[:-1]:
            run = run[key]
        run[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "dimension"),
    [
        (put("ledger", "tokens_supervised", value=101), "tokens_supervised"),
        (put("ledger", "tokens_padding", value=99), "tokens_padding"),
        (put("ledger", "flops", value=1.02e9), "flops"),
        (put("parameters", value=1011), "parameters"),
        (put("recipe", "learning_rate", value=2e-3), "learning_rate"),
        (put("recipe", "clip", value=2.0), "recipe"),
        (lambda run: run["recipe"].update(optimizer="muon", momentum=0.95), "optimizer"),
        (put("recipe", "schedule", value="constant"), "schedule"),
        (put("description", "norms", "output", value=False), "norms"),
        (put("description", "d_model", value=64), "d_model"),
        (put("description", "positions", value="none"), "positions"),
        (put("ledger", "examples", value=99), "examples"),
        (put("ledger", "bytes_shown", value=99), "bytes_shown"),
        (put("identity", "corpus_sha256", value="other"), "corpus_sha256"),
        (put("identity", "dtype", value="other"), "dtype"),
        (put("documents", "bytes", value={"continuation": [5, 7]}), "the text that is scored"),
    ],
)
def test_undeclared_differences_are_named(change: Callable[[dict[str, Any]], None], dimension: str) -> None:
    assert found(change) == [dimension]


def test_near_sizes_count_as_equal_and_only_finished_full_runs_count() -> None:
    assert found(put("parameters", value=1009)) == []
    assert found(lambda run: run.update(status="stopped", parameters=1)) == []
    assert found(lambda run: run.update(rung="rehearsal", parameters=1)) == []


def test_a_declaration_for_one_contrast_or_for_all_allows_it() -> None:
    change = put("ledger", "tokens_supervised", value=50)
    for_all = copy.deepcopy(STUDY)
    for_all["declared_differences"]["tokens_supervised"] = "why"
    for_one = copy.deepcopy(STUDY)
    for_one["contrasts"][0]["declares"].append("tokens_supervised")
    assert found(change, for_all) == found(change, for_one) == []


def test_the_sentence_says_who_what_and_why() -> None:
    results = [result(arm, 1) for arm in ("causal", "prefix")]
    results[1]["ledger"]["tokens_supervised"] = 50
    (difference,) = undeclared_differences(results, STUDY)
    assert difference.contrast == "visibility"
    assert difference.sentence == (
        "causal and prefix differ in tokens that carry loss (100 and 50), and the study does not declare it"
    )


def test_a_precision_that_the_recipe_asks_for_is_a_matter_of_the_recipe() -> None:
    results = [result(arm, 1) for arm in ("causal", "prefix")]
    for run, dtype, compiled in zip(results, ("fp32", "bf16"), (False, True), strict=True):
        run["identity"].update(dtype=dtype, compiled=compiled)
        run["recipe"].update(precision=dtype, compile=compiled)
    (asked,) = undeclared_differences(results, STUDY)
    assert asked.dimension == "recipe" and "the study does not declare it" in asked.sentence
    results[1]["identity"]["compiled"] = (
        False  # where it could not be compiled, the arms differ as nobody asked
    )
    results[0]["recipe"]["compile"] = True
    results[0]["identity"]["compiled"] = True
    assert "compiled" in [found.dimension for found in undeclared_differences(results, STUDY)]


def streams(*rules: str, **own: Any) -> list[dict[str, Any]]:
    """One stream of a layer for each rule, each read once or, as "a, b", several times."""
    layers = [
        {
            "reads": [
                {"keys": "text", "visibility": rule, "merged": False, "mixer": "softmax"}
                for rule in layer.split(", ")
            ],
            "d_ff": 48,
            "repeat": 1,
        }
        for layer in rules
    ]
    return [{"name": "text", "holds": "both", "layers": layers, "cycle_to": None, **own}]


def layerwise(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> list[str]:
    """What is undeclared between two networks that differ in their streams alone; depth is declared."""
    study = copy.deepcopy(STUDY)
    study["contrasts"][0]["declares"] = ["depth"]
    results = [result(arm, 1) for arm in ("causal", "prefix")]
    for run, own in zip(results, (one, two), strict=True):
        run["ledger"]["visible_pairs"] = 4
        run["description"]["streams"] = own
    return [difference.dimension for difference in undeclared_differences(results, study)]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (streams("causal", "anticausal"), streams("anticausal", "anticausal")),
        (streams("causal", "full", "causal"), streams("full", "causal", "causal")),
        (streams("causal", "full", cycle_to=3), streams("full", "causal", cycle_to=3)),
        (streams("causal, full", "full"), streams("full", "full")),
    ],
)
def test_what_every_layer_sees_counts(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    """Also where the layers that come last see alike, and as many pairs are seen in all."""
    assert layerwise(one, two) == layerwise(two, one) == ["visibility"]
    assert layerwise(one, one) == layerwise(two, two) == []


def test_in_which_layers_a_stream_is_read_counts() -> None:
    stacks = architecture("redllm-nano").model_dump(mode="json")["streams"]
    (layer,) = stacks[1]["layers"]
    crossed = {**layer, "repeat": 1}
    bare = {**crossed, "reads": crossed["reads"][:1]}
    first, last = (
        [stacks[0], {**stacks[1], "layers": layers}] for layers in ([crossed, bare], [bare, crossed])
    )
    assert layerwise(first, last) == ["visibility"]


def test_the_same_layers_over_and_over_differ_in_depth_alone() -> None:
    assert layerwise(streams("causal", "full", cycle_to=3), streams("causal", "full", cycle_to=5)) == []
    repeated = streams("causal")
    repeated[0]["layers"][0]["repeat"] = 3
    assert layerwise(repeated, streams("causal", "causal")) == []


def test_layers_that_see_alike_are_told_as_one() -> None:
    study = copy.deepcopy(STUDY)
    study["contrasts"][0]["declares"] = []
    (difference,) = undeclared_differences([result(arm, 1) for arm in ("causal", "prefix")], study)
    assert "({'text -> text': ('causal & same_document', False, 'softm…" in difference.sentence
