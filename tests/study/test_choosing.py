"""`headtohead choose`: what it plans, how it cuts the data, and what it makes of results."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.small import prose

from headtohead.cli import run
from headtohead.data.shards import ExampleStore
from headtohead.errors import UserError
from headtohead.model.budget import flops
from headtohead.study.arms import matched_arms
from headtohead.study.choosing import candidates, stages
from headtohead.study.choosing.candidates import CANDIDATES, SHAPES, Lengths, Plan, Shape
from headtohead.study.choosing.material import cut
from headtohead.study.choosing.stages import Request
from headtohead.study.loading import load
from headtohead.study.pace import START_SECONDS, TRAINING, Pace
from headtohead.study.plan import RatesStudy, Study
from headtohead.study.prepare import prepare, read_data, read_source, scored_rows
from headtohead.study.schedule import scored_windows
from headtohead.validation import validated

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


@pytest.mark.parametrize("rows", [1, 7, 30, 79])
def test_very_small_data_are_not_read_more_than_four_times_either(rows: int) -> None:
    few = Lengths(60, 60, 256, 144, 2.0, rows)
    b = candidates.budget("text", few, 1024, 60, 2, HERE, SHAPES)
    plan = Plan("text", "x", b, few, DATA, (60, 60), tuple(c.key for c in CANDIDATES))
    lower = validated(Study, candidates.comparison(plan, "lower"), "lower")
    search = validated(RatesStudy, candidates.rates_search(plan), "rates")
    assert lower.rungs.rehearsal is not None
    for rung in (lower.rungs.rehearsal, lower.rungs.full, search.rung):
        assert rung.steps is not None
        assert rung.steps == 1 or rung.steps * candidates.ROWS_PER_STEP <= candidates.MOST_PASSES * rows
        lower.recipe_for(lower.arms[0], rung, 1e-3, 1, rung.steps)  # a warm-up that fits


@pytest.mark.parametrize("workers", [1, 2, 4, 7, 12, 16, 20, 64])
def test_the_minutes_are_kept_however_many_runs_go_side_by_side(workers: int) -> None:
    plenty = Lengths(60, 60, 256, 144, 2.0, 10**7)
    minutes = 60.0
    b = candidates.budget("text", plenty, 1024, minutes, workers, HERE, SHAPES)
    rate = HERE.matmul * TRAINING["bf16"]
    runs = {
        "rates": (len(CANDIDATES) * len(candidates.GRID), b.rates_steps, b.shape.lower),
        "lower": (len(CANDIDATES) * 3, b.lower_steps, b.shape.lower),
        "upper": (len(CANDIDATES) * 3, b.upper_steps, b.shape),
    }
    for part, (count, steps, shape) in runs.items():
        work = flops(candidates.described(shape, 1024), 60, 60, "all")["training"] * 2.0
        each = START_SECONDS * 0.7 + steps * candidates.ROWS_PER_STEP * work / rate
        assert -(-count // workers) * each <= 1.001 * minutes * 60 * candidates.SHARES[part], part


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


def test_pairs_that_are_too_long_for_any_row_are_refused_by_the_name_of_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    lines = (json.dumps({"input": prose(i, 9000 if i % 3 else 300), "output": f"{i}."}) for i in range(120))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UserError, match=r"reports.jsonl: 80 of 120 pairs have more than 1,024 tokens"):
        cut(read_source((), path, "text"), (None, None), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out" / "pairs.jsonl").exists()


def test_of_pairs_some_of_which_are_too_long_it_is_told_how_many_and_why(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    lines = (json.dumps({"input": prose(i, 9000 if i < 30 else 300), "output": f"{i}."}) for i in range(150))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    made = cut(read_source((), path, "text"), (None, None), tmp_path / "out", lambda line: None)
    assert made.left_out == 30
    assert made.why == "30 have more than 1,024 tokens, input and output together"


def texts(folder: Path, count: int, size: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.txt").write_text(prose(number, size), encoding="utf-8")
    return folder


def pairs(folder: Path, count: int) -> Path:
    folder.mkdir()
    lines = (json.dumps({"input": prose(i, 300), "output": f"answer {i}"}) for i in range(count))
    (folder / "pairs.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder / "pairs.jsonl"


@pytest.mark.parametrize(
    "count, size", [(12, 4000), (20, 4000), (30, 4000), (5, 14_000), (1, 60_000), (0, 90)]
)
def test_few_texts_are_parted_so_that_every_study_of_them_can_be_scored(
    count: int, size: int, tmp_path: Path
) -> None:
    source = (
        read_source((texts(tmp_path / "texts", count, size),), None, "text")
        if count
        else read_source((), pairs(tmp_path / "texts", size), "text")
    )
    out = tmp_path / "out"
    made = cut(source, (None, None), out, lambda line: None)
    kind = "text" if count else "pairs"
    b = candidates.Budget(SHAPES[0], (1, 2, 3), 100, 100, 200)
    plan = Plan(kind, "x", b, made.lengths, made.data, (60, 60), tuple(c.key for c in CANDIDATES))
    search = validated(RatesStudy, candidates.rates_search(plan), "rates")
    lower = validated(Study, candidates.comparison(plan, "lower"), "lower")
    regions = ["continuation"] if count else ["answer"]
    for rates in (search, None):
        row, _ = scored_rows(out / "data", lower, regions, scored_windows(lower, rates))
        assert row >= made.data["row"]
    groups = read_data(out / "data")["groups"]
    assert all(len(set(groups[part])) >= 2 for part in ("tune", "test"))
    before = (out / "data" / "data.json").stat().st_mtime_ns
    prepare(lower, made.source, out / "data", lambda line: None)  # as the studies will: nothing is made again
    assert (out / "data" / "data.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "count, told",
    [(4, "makes 4 different texts or sections of texts: to choose by them takes 5"), (2, "fewer than 3")],
)
def test_texts_that_are_too_few_to_be_parted_are_refused_at_once(
    count: int, told: str, tmp_path: Path
) -> None:
    folder = texts(tmp_path / "texts", count, 5000)
    with pytest.raises(UserError, match=told):
        stages.choose(Request((folder,), minutes=5, out=tmp_path / "out"), lambda folder: False)
    assert not (tmp_path / "out" / "choose.json").exists()


def test_too_little_to_choose_by_is_said(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    words = [f"{hashlib.sha256(str(i).encode()).hexdigest()}" for i in range(60)]
    path.write_text(
        "".join(json.dumps({"input": w[:30], "output": w[30:]}) + "\n" for w in words), encoding="utf-8"
    )
    with pytest.raises(UserError, match="64 at the least"):
        cut(read_source((), path, "text"), (None, None), tmp_path / "out", lambda line: None)


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
    text = texts(tmp_path / "text", 12, 13_000)
    out = tmp_path / "out"
    for left in (".data.unfinished", ".measured.unfinished", "measured"):  # by a kill while preparing
        (out / left).mkdir(parents=True)
    (out / ".pairs.jsonl.abcd1234.tmp").write_text("{", encoding="utf-8")
    (out / ".choose.json.abcd1234.tmp").write_text("{", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"no two architectures, the causal decoder among them.*causal takes \d"
    ):
        stages.choose(Request((text,), minutes=5, max_latency_ms=1e-3, out=out), lambda folder: False)
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds other things \(notes.txt\)"):
        stages.choose(Request((text,), minutes=5, out=out), lambda folder: False)


def test_data_that_were_being_copied_when_it_was_killed_are_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, study = tmp_path / "out", tmp_path / "out" / "rates"
    (out / "data").mkdir(parents=True)
    for name in ("data.json", "train.json"):
        (out / "data" / name).write_text("{}", encoding="utf-8")

    def killed(data: Path, to: Path, **options: Any) -> None:
        to.mkdir(exist_ok=True, parents=True)
        (to / "data.json").write_text("{}", encoding="utf-8")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copytree", killed)
        stages.take_data(out, study)
    assert not (study / "data").exists()
    stages.take_data(out, study)
    assert sorted(path.name for path in (study / "data").iterdir()) == ["data.json", "train.json"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_text_to_page_and_network_and_on_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import headtohead

    monkeypatch.setattr(stages, "SHAPES", (Shape(32, 2),))
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
    shutil.rmtree(out / "winner")  # as if it had been killed before it was written down
    (out / "winner.toml").unlink()
    assert run(words) == 0
    assert headtohead.load(out / "winner").generate("3 word by word")
    assert run([*words[:3], "--pairs", str(path), "--minutes", "6", "--out", str(out)]) == 2
