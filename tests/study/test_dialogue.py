"""A study of dialogues: held, written down, and a claim decided by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from headtohead import cli
from headtohead.measure import timed
from headtohead.measure.cost import Dialogue, Machine, dialogue_cost
from headtohead.measure.dialogues import Held, grows_apart, growth
from headtohead.measure.timed import Timed
from headtohead.model.architecture import Architecture
from headtohead.model.presets import architecture
from headtohead.study import claims
from headtohead.study.costing import check_kept
from headtohead.study.dialogue import Found, load_dialogue, run

FILE = """
kind = "dialogue"
name = "talk"
title = "Three turns"
question = "Who reads again?"
margin = 0.1
networks = ["causal-nano", "prefix-nano", "redllm-causal-encoder-nano"]
turns = 3
input = 6
output = 3
rounds = 2

[[claims]]
key = "C12"
sentence = "Only causal input lets every turn reuse the cache."
rule = "grows-apart"
back_only = ["causal-nano", "redllm-causal-encoder-nano"]
others = ["prefix-nano"]
"""


def flat(*, grows: float, kept: list[int]) -> Held:
    """Three turns of ten tokens, in rounds that differ a little; turns get longer by `grows` of the first."""
    rounds = [[base * (1 + grows * turn) for turn in range(3)] for base in (1.0, 1.01, 0.99, 1.0)]
    return Held(kept, [10 * (turn + 1) - kept[turn] for turn in range(3)], rounds)


KEEPS, LOSES = [0, 10, 20], [0, 0, 0]


@pytest.mark.parametrize(
    ("other", "outcome"),
    [
        (flat(grows=0.5, kept=LOSES), "supported"),
        (flat(grows=0.0, kept=LOSES), "contradicted"),
        (flat(grows=0.5, kept=KEEPS), "contradicted"),
        (flat(grows=0.5, kept=[0, 5, 5]), "undecided"),
        (flat(grows=0.1, kept=LOSES), "undecided"),
    ],
)
def test_how_the_rule_decides(other: Held, outcome: str) -> None:
    held = {"causal": flat(grows=0.0, kept=KEEPS), "other": other}
    assert grows_apart(held, ["causal"], ["other"], 0.1)[0] == outcome


def test_one_that_looks_back_and_reads_again_contradicts() -> None:
    held = {"causal": flat(grows=0.0, kept=[0, 9, 20]), "other": flat(grows=0.5, kept=LOSES)}
    assert grows_apart(held, ["causal"], ["other"], 0.1)[0] == "contradicted"


def test_growth_is_of_the_gap_and_in_turns_of_the_other() -> None:
    slow = Held(LOSES, [10, 20, 30], [[2.0, 4.0, 9.0], [2.0, 4.0, 9.0]])
    fast = Held(KEEPS, [10, 10, 10], [[2.0, 2.0, 3.0], [2.0, 2.0, 3.0]])
    found = growth(slow, fast)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def dialogue_with(*, keeps_in_round_2: int) -> Callable[..., list[list[list[Timed]]]]:
    """In place of `timed_rounds`: dialogues that keep what the rules say, but for the last network's last turn of
    round 2, which keeps so many tokens of its input.
    """

    def rounds(
        networks: Sequence[Architecture], dialogue: Dialogue, count: int, report: object
    ) -> list[list[list[Timed]]]:
        found = [
            [[Timed(1.0, turn.kept, turn.read) for turn in dialogue_cost(a, dialogue)] for a in networks]
            for _ in range(count)
        ]
        last = found[1][-1]
        last[-1] = replace(last[-1], kept={**last[-1].kept, "input": keeps_in_round_2})
        return found

    return rounds


@pytest.mark.parametrize("kept", [15, 16, 17])
def test_what_the_engine_keeps_is_what_the_rules_let_it_keep_in_every_round(
    kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.toml").write_text(FILE, encoding="utf-8")
    monkeypatch.setattr(timed, "timed_rounds", dialogue_with(keeps_in_round_2=kept))
    monkeypatch.setattr(timed, "measured_machine", lambda dtype: Machine(1e9, 1e9))
    if kept == 6 + 1 + 3 + 6:  # turn 1 with its answer, and what was said in turn 2
        run(Path("talk.toml"), out=Path("talk"))
        return
    with pytest.raises(AssertionError, match=r"redllm-causal-encoder-nano, turn 3.* modelled as kept"):
        run(Path("talk.toml"), out=Path("talk"))
    assert not (tmp_path / "talk" / "results.jsonl").exists()


def test_counts_that_differ_are_told_apart() -> None:
    turns = dialogue_cost(architecture("causal-nano"), Dialogue(3, 6, 3))
    counted = [dict(turn.kept) for turn in turns]
    check_kept("causal-nano", turns, counted)
    for turn in range(3):
        other = [{**kept, "text": kept["text"] + (n == turn)} for n, kept in enumerate(counted)]
        with pytest.raises(AssertionError, match=f"causal-nano, turn {turn + 1}"):
            check_kept("causal-nano", turns, other)


def test_from_file_to_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    studies = tmp_path / "studies" / "claims"
    studies.mkdir(parents=True)
    (studies / "talk.toml").write_text(FILE, encoding="utf-8")
    assert [one.stated.key for one in claims.on_trial(studies)] == ["C12"]
    assert cli.run(["claims", "run", "C12", "--out", "talk", "--dry-run"]) == 0
    assert not (tmp_path / "talk").exists() and "Who reads again?" in capsys.readouterr().out
    assert cli.run(["claims", "run", "C12", "--out", "talk"]) == 0
    page = (tmp_path / "talk" / "report.md").read_text(encoding="utf-8")
    assert "C12" in page and "prefix-nano" in page and (tmp_path / "talk" / "dialogue.svg").is_file()
    (tmp_path / "talk" / "report.md").unlink()
    assert cli.run(["report", "talk"]) == 0
    assert (tmp_path / "talk" / "report.md").read_text(encoding="utf-8") == page
    held = Found(tmp_path / "talk").held
    assert len(held["prefix-nano"].milliseconds) == 2 and held["prefix-nano"].keeps_nothing
    assert held["causal-nano"].reads_nothing_twice and held["redllm-causal-encoder-nano"].reads_nothing_twice
    assert cli.run(["claims", "keep", "talk"]) == 0
    assert cli.run(["claims", "show", "C12"]) == 0
    shown = capsys.readouterr().out
    assert "2 rounds" in shown and "headtohead claims run C12" in shown
    written = claims.page(tmp_path / "results", studies)
    assert "(../results/talk/report.md)" in written and "Not run yet" not in written
    before = [json.loads(line) for line in (tmp_path / "results/talk/results.jsonl").read_text().splitlines()]
    assert "Repeat it: `headtohead study studies/claims/talk.toml`." in page
    assert cli.run(["claims", "run", "C12", "--out", "talk", "--set", "margin=0.2"]) == 0
    page = (tmp_path / "talk" / "report.md").read_text(encoding="utf-8")
    assert "Repeat it: `headtohead study studies/claims/talk.toml --set margin=0.2`." in page
    again = [json.loads(line) for line in (tmp_path / "talk" / "results.jsonl").read_text().splitlines()]
    for one in (*before, *again):
        del one["milliseconds"]
    assert before == again


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('others = ["prefix-nano"]', 'others = ["prefix-mini"]', "'prefix-mini' is not among the networks"),
        ('rule = "grows-apart"', 'rule = "grows"', "grows-apart"),
        ("turns = 3", "turns = 2", "turns"),
        ('"prefix-nano", "redllm', '"prefix-none", "redllm', "prefix-none"),
    ],
)
def test_a_wrong_file_is_told(
    tmp_path: Path, old: str, new: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talk.toml"
    file.write_text(FILE.replace(old, new), encoding="utf-8")
    assert cli.run(["study", str(file), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert says in told and str(file) in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_file_in_the_tree_is_right() -> None:
    study = load_dialogue(Path(__file__).parents[2] / "studies" / "claims" / "dialogue.toml")
    assert len(study.architectures) == 5


def test_it_has_no_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "talk.toml"
    file.write_text(FILE, encoding="utf-8")
    assert cli.run(["study", str(file), "--shard", "1/2"]) == 2
    assert "without --on and --shard" in capsys.readouterr().err
