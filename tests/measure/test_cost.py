"""What a dialogue costs: what is kept by the rules, exact counts, the table and the chart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from headtohead import cli
from headtohead.errors import UserError
from headtohead.measure.cost import Dialogue, Machine, correlation, default_networks, dialogue_cost
from headtohead.model.architecture import Architecture
from headtohead.model.budget import flops, parameter_groups, parameters, reading_flops, stream_weights
from headtohead.model.presets import architecture, families
from headtohead.model.reach import reach, sees_its_answer
from headtohead.model.reuse import rows_of_lengths, still_valid
from headtohead.model.visibility import Coordinates

SHORT = Dialogue(turns=3, input=7, output=4)
WRITERS = [
    f"{name}-nano" for name in families() if not sees_its_answer(architecture(f"{name}-nano"), "output")
]


def test_what_each_architecture_of_claim_c12_keeps() -> None:
    """By its rules: there is no name in this."""
    causal, prefix, redllm, causal_encoder, double = (dialogue_cost(a, SHORT) for a in default_networks())
    # Turn 3: 24 tokens were said and written before, and the last one was never read.
    assert causal[2].kept == {"text": 23} and causal[2].read == {"text": 9}
    assert prefix[2].kept == {"text": 0} and prefix[2].read == {"text": 32}
    assert redllm[2].kept == {"input": 0, "output": 0} and redllm[2].read == {"input": 31, "output": 1}
    # What was said stays encoded; what was written must be encoded, and so what was said after it.
    assert causal_encoder[2].kept == {"input": 19, "output": 0}
    assert double[2].kept == {"context": 23, "text": 23}


def test_a_network_by_another_name_costs_the_same() -> None:
    a = architecture("prefix-nano")
    assert dialogue_cost(a, SHORT) == dialogue_cost(a.model_copy(update={"name": "causal-nano"}), SHORT)


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_kept_has_the_reach_that_it_had(name: str) -> None:
    """Against the Boolean products of `reach`: a token that is kept is reached by the same tokens before and after, and
    none of them stands among those that are not kept.
    """
    a = architecture(name)
    before, after = rows_of_lengths(a, 9, 5), rows_of_lengths(a, 20, 1)
    kept = still_valid(a, before, after)
    seen = {
        when: reach(a, {n: Coordinates(row.position, row.document, row.part) for n, row in rows.items()})
        for when, rows in (("before", before), ("after", after))
    }
    for stream in a.streams:
        n = kept[stream.name]
        for source in a.streams:
            if (stream.name, source.name) not in seen["after"]:
                continue
            then, now = (seen[when][stream.name, source.name][:n] for when in ("before", "after"))
            shared = min(then.shape[1], now.shape[1])
            assert np.array_equal(then[:, :shared], now[:, :shared])
            assert not then[:, shared:].any() and not now[:, shared:].any()
            assert not now[:, kept[source.name] :].any()


@pytest.mark.parametrize(
    "name", ["causal", "local", "redllm", "prefix", "block-double-decoder", "causal-linear", "glm"]
)
@settings(max_examples=15)
@given(n=some.integers(1, 12), m=some.integers(1, 6), first=some.integers(0, 12))
def test_reading_in_parts_costs_what_reading_at_once_does(name: str, n: int, m: int, first: int) -> None:
    """FLOPs of what is kept and of the rest, where what is kept may be kept."""
    a = architecture(f"{name}-nano")
    rows = rows_of_lengths(a, n, m)
    part = {name: type(row)(*(axis[:first] for axis in row[:5])) for name, row in rows.items()}
    kept = {name: len(row.ids) for name, row in part.items()}
    whole = reading_flops(a, n, m)
    assert whole == flops(a, n, m, supervise=0)["forward"]
    rest = reading_flops(a, n, m, kept)
    assert 0 <= rest <= whole
    if (
        still_valid(a, part, rows) == kept
        and all(stream.holds == "both" for stream in a.streams)
        and first < n
    ):
        alone = reading_flops(a, first, 0) if first else 0
        assert alone + rest == whole


@pytest.mark.parametrize("name", [f"{name}-nano" for name in families()])
def test_weights_of_the_streams_add_up(name: str) -> None:
    a = architecture(name)
    groups = parameter_groups(a)
    layers = groups["attention"] + groups["cross_attention"] + groups["feed_forward"]
    found = sum(stream_weights(a, stream) for stream in a.streams)
    shared = any(stream.shares for stream in a.streams)
    assert found >= layers if shared else layers <= found <= layers + groups["norms"]


def test_bytes_and_the_roofline() -> None:
    a = architecture("causal-nano")
    turns = dialogue_cost(a, SHORT, Machine(peak=1e9, bandwidth=1e9))
    head = a.vocabulary * a.d_model
    weights = 2 * (stream_weights(a, a.streams[0]) + head)
    per_token = 2 * a.streams[0].depth * 2 * a.heads * a.d_head
    assert turns[0].prefill.weights == weights and turns[0].prefill.cache == 8 * per_token
    assert [step.cache for step in turns[0].steps] == [n * per_token for n in (9, 10, 11)]
    assert turns[0].weight_bytes == 4 * weights
    slow = dialogue_cost(a, SHORT, Machine(peak=1e30, bandwidth=1e9))
    assert slow[1].milliseconds == pytest.approx(1e3 * slow[1].bytes / 1e9)
    bound = dialogue_cost(a, SHORT, Machine(peak=1e9, bandwidth=1e30))
    assert bound[1].milliseconds == pytest.approx(1e3 * bound[1].flops / 1e9)


def test_the_default_networks_have_equal_parameters() -> None:
    counts = [parameters(a)["total"] for a in default_networks()]
    assert max(counts) / min(counts) < 1.01 and len(counts) == 5


def test_correlation() -> None:
    assert correlation([(1, 2), (2, 4), (3, 6)]) == pytest.approx(1)
    assert correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert np.isnan(correlation([(1, 3), (1, 2)]))
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    assert correlation(list(zip(x, y, strict=True))) == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_tables_json_and_charts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "cost causal-nano prefix-nano --turns 3 --input 7 --output 4"
    for name in ("a.svg", "a.png", "a.html"):
        assert cli.run([*words.split(), "--device", "h100", "--chart", str(tmp_path / name)]) == 0
    told = capsys.readouterr().out
    assert "causal-nano: text (causal) keeps 23 of 32 tokens in turn 3" in told
    assert "prefix-nano: text (prefix) keeps 0 of 32 tokens in turn 3" in told and "989 TFLOP/s" in told
    svg = (tmp_path / "a.svg").read_text("utf-8")
    assert "prefix-nano" in svg and "FLOPs" in svg and "milliseconds, modelled" in svg
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "<script src=" not in page and "prefix-nano" in page
    assert cli.run([*words.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    turns = found["networks"]["prefix-nano"]["turns"]
    assert [turn["read"] for turn in turns] == [{"text": 8}, {"text": 20}, {"text": 32}]
    assert turns[2]["bytes"] == turns[2]["weight_bytes"] + turns[2]["cache_bytes"]
    assert found["machine"] is None and found["correlation"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("causal-nani", "no architecture is called 'causal-nani'"),
        ("gpt-2-nano --turns 100", "has learned positions for"),
        ("causal-nano --turns 10000", "too many to count who sees whom"),
        ("causal-nano --chart a.pdf", "--chart a.pdf: give a file that ends in .html, .svg, .png"),
        ("causal-nano --device h100 --measure", "give one of them"),
        ("causal-nano --device h1000", "--device h1000 is unknown"),
        ("causal-nano --dtype fp8", "dtype 'fp8' is unknown"),
        ("causal-nano --turns 0", "'0' is not a whole number from 1 up"),
    ],
)
def test_what_cannot_be_costed_is_told_in_a_line(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["cost", *words.split()]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1


def test_modelling_needs_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from headtohead.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "cost", "causal-nano", "--turns", "2"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "causal-nano" in done.stdout, done.stderr


def test_a_dialogue_without_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="make no dialogue"):
        dialogue_cost(architecture("causal-nano"), Dialogue(turns=1, input=0, output=1))


def test_a_run_is_costed_by_its_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = "done/runs/full-prefix-seed1"
    assert cli.run(["cost", run, "--turns", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    described = Architecture.model_validate(
        json.loads(Path(run, "run.json").read_text("utf-8"))["architecture"]
    )
    assert list(found["networks"]) == [described.name]
