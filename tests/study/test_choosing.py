"""`headtohead choose`: what it plans, how it cuts the data, and what it makes of results."""

from __future__ import annotations

import hashlib
import json
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.study import simulated

from headtohead.cli import run
from headtohead.data.shards import ExampleStore
from headtohead.errors import UserError
from headtohead.model.budget import flops
from headtohead.study.arms import matched_arms
from headtohead.study.choosing import candidates, stages
from headtohead.study.choosing.candidates import CANDIDATES, SHAPES, Lengths, Plan, Shape
from headtohead.study.choosing.material import cut
from headtohead.study.choosing.recommending import Recommendation, recommend
from headtohead.study.choosing.stages import Request
from headtohead.study.loading import load
from headtohead.study.pace import Pace
from headtohead.study.prepare import read_source

LENGTHS = Lengths(input=60, output=60, row=256, side=144, per_row=2.0, rows=20_000)
HERE = Pace(130e9, True)
DATA = {"vocabulary": 1024, "window_bytes": 384, "regions": ["continuation"], "row": 256, "side": 144}

# -- the plan


def test_more_minutes_make_longer_runs_of_networks_that_are_no_smaller() -> None:
    found = [
        candidates.budget("text", LENGTHS, 1024, minutes, 2, HERE, SHAPES)
        for minutes in (5, 20, 60, 240, 24 * 60)
    ]
    sizes = [SHAPES.index(b.shape) for b in found]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    for b in found:
        tokens = b.upper_steps * candidates.ROWS_PER_STEP * LENGTHS.per_row * 120
        assert tokens <= candidates.MOST_PASSES * LENGTHS.rows * LENGTHS.per_row * 120


def test_small_data_are_not_read_more_than_four_times() -> None:
    few = Lengths(60, 60, 256, 144, 2.0, 400)
    b = candidates.budget("text", few, 1024, 24 * 60, 2, HERE, SHAPES)
    assert b.upper_steps == candidates.MOST_PASSES * few.rows // candidates.ROWS_PER_STEP


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3], Shape(384, 8)])
@pytest.mark.parametrize("serve", [(60, 60), (400, 20), (20, 300)])
@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_study_files_are_read_as_they_were_meant_and_arms_cost_the_same_to_serve(
    shape: Shape, serve: tuple[int, int], kind: Any, tmp_path: Path
) -> None:
    b = candidates.Budget(shape, (1, 2, 3), 100, 100, 200)
    plan = Plan(kind, "a corpus", b, LENGTHS, DATA, serve, tuple(c.key for c in CANDIDATES))
    (tmp_path / "rates.json").write_text("{}")
    for name, tables in (
        ("lower", candidates.comparison(plan, "lower")),
        ("upper", candidates.comparison(plan, "upper")),
        ("rates", candidates.rates_search(plan)),
    ):
        (tmp_path / f"{name}.toml").write_text(candidates.written(tables), encoding="utf-8")
    study, _ = load(tmp_path / "upper.toml")
    _, rates = load(tmp_path / "rates.toml")
    assert rates is not None and rates.grid == candidates.GRID
    assert len(study.contrasts) == len(list(combinations(CANDIDATES, 2)))
    networks = {key: matched.architecture for key, matched in matched_arms(study).items()}
    costs = {key: flops(network, *serve)["forward"] for key, network in networks.items()}
    for key, cost in costs.items():
        assert cost == pytest.approx(costs["causal"], rel=candidates.WITHIN), key
    assert {len(network.streams) for network in networks.values()} == {1, 2}
    assert study.arm("causal").supervise == ("all" if kind == "text" else "output")


_scalars = (
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
_keys = st.text(min_size=1, max_size=8)


@given(
    st.dictionaries(
        _keys,
        _scalars
        | st.lists(_scalars, max_size=3)
        | st.dictionaries(
            _keys, _scalars | st.lists(st.dictionaries(_keys, _scalars, max_size=2)), max_size=3
        )
        | st.lists(st.dictionaries(_keys, _scalars, max_size=3), min_size=1, max_size=3),
        max_size=5,
    )
)
def test_tables_are_written_as_toml_that_reads_the_same(tables: dict[str, Any]) -> None:
    assert tomllib.loads(candidates.written(tables)) == tables


# -- the data


def pairs_file(folder: Path, lengths: list[int]) -> Path:
    path = folder / "pairs.jsonl"
    lines = (
        json.dumps({"input": f"{i} " + "word by word " * n, "output": f"{i} answer " * (1 + n // 4)})
        for i, n in enumerate(lengths)
    )
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_longest_pairs_are_left_out_and_every_other_fits_its_row(tmp_path: Path) -> None:
    path = pairs_file(tmp_path, [3 + i % 7 for i in range(400)] + [900, 1200])
    said: list[str] = []
    made = cut(read_source((), path, "text"), (None, None), tmp_path / "out", said.append)
    assert 2 <= made.left_out <= 10
    assert any("left out" in line for line in said)
    store = ExampleStore.open(tmp_path / "out" / "data", "train")
    assert max(map(int, store.lengths_in + store.lengths_out)) + 2 <= made.data["row"] < 400


def test_too_little_to_choose_by_is_said(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    words = [f"{hashlib.sha256(str(i).encode()).hexdigest()}" for i in range(60)]
    path.write_text(
        "".join(json.dumps({"input": w[:30], "output": w[30:]}) + "\n" for w in words), encoding="utf-8"
    )
    with pytest.raises(UserError, match="64 at the least"):
        cut(read_source((), path, "text"), (None, None), tmp_path / "out", lambda line: None)


# -- the recommendation

ARMS = ("causal", "prefix", "two-full")


def ladder(
    folder: Path, means: dict[str, float], milliseconds: dict[str, float], noise: float = 0.002
) -> Recommendation:
    """What is recommended of simulated runs with these bits per byte, the same on both rungs."""
    for rung in ("lower", "upper"):
        whole = simulated.plan()
        arms = [arm for arm in whole["arms"] if arm["key"] in ARMS]
        contrasts = [
            {
                "name": f"{a}-or-{b}",
                "from": a,
                "to": b,
                "factor": "architecture",
                "sentence": f"{b} for {a}.",
                "declares": [],
            }
            for a, b in combinations(ARMS, 2)
        ]
        study = {
            **whole["study"],
            "arms": [arm for arm in whole["study"]["arms"] if arm["key"] in ARMS],
            "contrasts": contrasts,
            "claims": [],
            "margin": 0.01,
            "declared_differences": candidates.DECLARED,
            "data": {**whole["study"]["data"], "regions": ["continuation"]},
        }
        data = {**whole["data"], "regions": ["continuation"]}
        runs = [run for run in whole["runs"] if run["arm"] in ARMS and run["rung"] == "full"]
        plan = {**whole, "study": study, "arms": arms, "data": data, "runs": runs, "machine": {"cores": 2}}
        (folder / rung).mkdir(parents=True)
        (folder / rung / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        lines, times = [], []
        for number, entry in enumerate(runs):
            line = simulated.result(entry["arm"], entry["seed"])
            wanted = means[entry["arm"]] + noise * ((number * 7) % 5 - 2)
            factor = wanted / line["bits_per_byte"]["continuation"]
            bits = [factor * value for value in line["documents"]["bits"]["continuation"]]
            line["documents"] = {**line["documents"], "bits": {"continuation": bits}}
            line["documents"]["bytes"] = {"continuation": line["documents"]["bytes"]["continuation"]}
            line["bits_per_byte"] = {"continuation": wanted}
            lines.append(json.dumps(line) + "\n")
            seconds = {"train": 100.0, "this_start": 110.0}
            times.append(json.dumps({**entry, "folder": "x", "seconds": seconds}) + "\n")
        (folder / rung / "results.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / rung / "timings.jsonl").write_text("".join(times), encoding="utf-8")
    b = candidates.Budget(SHAPES[0], (0, 1, 2), 100, 100, 200)
    return recommend(folder, Plan("text", "x", b, LENGTHS, DATA, (60, 60), ARMS), milliseconds)


SAME: dict[str, float] = dict.fromkeys(ARMS, 20.0)


def test_one_that_is_clearly_better_is_recommended(tmp_path: Path) -> None:
    found = ladder(tmp_path, {"causal": 2.5, "prefix": 2.2, "two-full": 2.6}, SAME)
    assert (found.arm.key, found.because, found.settled) == ("prefix", "best", True)
    assert {rival.arm.key: rival.standing for rival in found.rivals} == {
        "causal": "behind",
        "two-full": "behind",
    }
    causal = next(rival for rival in found.rivals if rival.arm.key == "causal")
    assert causal.difference == pytest.approx(0.3, abs=0.01)
    assert causal.low is not None and causal.high is not None and 0 < causal.low < 0.3 < causal.high
    assert "better than every other" in found.lead and "One stack, causal" in found.lead
    assert found.steps_in(100.0) == round(
        100 * 0.85 * 12.0 * 1.35
    )  # 1,200 steps took 100 s, and there are two cores


def test_of_two_that_are_level_the_sooner_answer_is_recommended(tmp_path: Path) -> None:
    means = {"causal": 2.2, "prefix": 2.2005, "two-full": 2.6}
    found = ladder(tmp_path, means, {**SAME, "prefix": 10.0}, noise=1e-5)
    assert (found.arm.key, found.because, found.settled) == ("prefix", "level and cheaper", True)
    assert {rival.arm.key: rival.standing for rival in found.rivals} == {
        "causal": "level",
        "two-full": "behind",
    }


def test_an_interval_that_is_too_wide_is_not_settled_and_says_what_would_settle_it(tmp_path: Path) -> None:
    found = ladder(tmp_path, {"causal": 2.30, "prefix": 2.29, "two-full": 2.6}, SAME, noise=0.05)
    assert found.because == "ahead, not settled" and not found.settled
    assert found.lead.startswith("Not settled")
    rival = next(rival for rival in found.rivals if rival.standing == "not settled")
    assert "settle" in rival.remark


# -- the command


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "give the data to choose by: --text PATH, or --pairs FILE.jsonl"),
        (["--text", "speech.txt", "--minutes", "2"], "--minutes 2 is too short"),
        (["--text", "speech.txt", "--max-latency-ms", "-1"], "--max-latency-ms -1 is no time"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_words_get_one_line_and_leave_nothing(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("speech.txt").write_text("My fellow citizens. " * 50, encoding="utf-8")
    assert run(["choose", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error
    assert sorted(path.name for path in Path().iterdir()) == ["speech.txt"]


def test_a_limit_that_nothing_keeps_is_said(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for name in range(12):
        (text / f"{name}.txt").write_text(
            " ".join(hashlib.sha256(f"{name} {i}".encode()).hexdigest() for i in range(200)), encoding="utf-8"
        )
    with pytest.raises(UserError, match="no two architectures answer"):
        stages.choose(
            Request((text,), minutes=5, max_latency_ms=1e-3, out=tmp_path / "out"), lambda folder: False
        )


@pytest.mark.slow
def test_from_text_to_page_and_network_and_on_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import headtohead

    monkeypatch.setattr(candidates, "SHAPES", (Shape(32, 2),))
    path = pairs_file(tmp_path, [3 + i % 7 for i in range(800)])
    out = tmp_path / "out"
    words = ["choose", "--pairs", str(path), "--minutes", "5", "--out", str(out)]
    assert run(words) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "The network" in page and "bits per byte on held-out answers" in page
    assert headtohead.load(out / "winner").generate("3 word by word")
    before = (out / "upper" / "results.jsonl").read_bytes()
    assert run(words) == 0  # nothing is done again
    assert (out / "upper" / "results.jsonl").read_bytes() == before
    assert run([*words[:3], "--pairs", str(path), "--minutes", "6", "--out", str(out)]) == 2
