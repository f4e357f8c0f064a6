"""The table itself: what makes no sense is refused by the package, every family and exception is real."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.laws.cells import (
    ARCHITECTURES,
    EXCEPTIONS,
    TASKS,
    Cell,
    cells,
    covering,
    cross,
    double_decoder_full_blocks,
    impossible,
    kinds_of,
    merged_attention,
    senseless,
    sensible,
)

from headtohead.data import sense
from headtohead.data.objectives import Answer
from headtohead.errors import UserError
from headtohead.model.budget import visible_pairs
from headtohead.model.presets import families
from headtohead.model.reach import sees_its_answer
from headtohead.model.visibility import Coordinates, sequence


def test_senseless_cells_are_refused_in_one_line() -> None:
    """With the reason, for all objectives of a task at once; the others are accepted."""
    for cell in cross():
        objectives = cell.task.objectives or (Answer(),)
        reason = senseless(cell)
        if reason is None:
            sense.check(objectives, cell.architecture, cell.task.supervise)
            continue
        with pytest.raises(UserError, match="can't learn by the objective") as told:
            sense.check(objectives, cell.architecture, cell.task.supervise)
        assert reason in str(told.value) and "\n" not in str(told.value)


def accepted(cell: Cell) -> None:
    if cell.task.supervise != "holes":
        assert not sees_its_answer(cell.architecture, cell.task.supervise)
    assert cell.layout().supervise == cell.task.supervise


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_cells_that_make_sense_are_laid_out_and_see_no_answer(family: str) -> None:
    for cell in (c for c in sensible() if c.family == family):
        accepted(cell)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_architecture_has_a_task(family: str) -> None:
    assert any(cell.family == family for cell in sensible())


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_several_architectures_and_positions(task: str) -> None:
    own = [cell for cell in sensible() if cell.task.name == task]
    assert len({cell.family for cell in own}) >= 3
    assert task == "blanks" or len({cell.positions for cell in own}) >= 8


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_positions_that_a_description_can_t_have_are_refused_with_the_reason(family: str) -> None:
    linear = any(
        r.mixer == "linear" for s in ARCHITECTURES[family].streams for x in s.layers for r in x.reads
    )
    merged = any(r.merged for s in ARCHITECTURES[family].streams for x in s.layers for r in x.reads)
    for kind in kinds_of(family):
        reason = impossible(family, kind)
        scores = linear and kind in ("t5", "t5 both", "alibi")
        assert (reason is not None) == (scores or (merged and kind == "rope off")), (kind, reason)
        if reason is not None:
            assert "no scores" in reason or "merged reads share their queries" in reason


def test_every_family_of_presets_is_under_the_laws() -> None:
    assert set(families()) <= set(ARCHITECTURES)


def test_the_covering_is_pairwise() -> None:
    """Every two that `covering` promises are in it."""
    chosen = [p.values[0] for p in cells() if not any(mark.name == "slow" for mark in p.marks)]
    assert len(chosen) == len(set(chosen)) == len(covering())

    def pairs(some: Iterable[Cell]) -> set[tuple[str, str]]:
        facts = [(c.family, f"form {c.task.form}", c.task.name, c.positions) for c in some]
        return {pair for f, form, t, p in facts for pair in ((f, form), (f, p), (t, p))}

    assert pairs(chosen) == pairs(sensible())
    assert len(chosen) <= len(sensible()) // 4


def test_every_table_of_the_docs_is_the_table() -> None:
    """docs/laws.md tells the senseless cells and the exceptions with these reasons."""
    text = " ".join(Path("docs/laws.md").read_text().split())
    told = {reason for cell in cross() if (reason := senseless(cell))}
    for reason in told | {reason for *_, reason in EXCEPTIONS} - {"as above"}:
        assert reason in text


def test_every_exception_applies_to_something_and_has_a_reason() -> None:
    for _, holds, reason in EXCEPTIONS:
        assert reason
        assert any(holds(cell) for cell in sensible())


def test_merged_attention_is_a_description() -> None:
    """T5Gemma 2's decoder: one softmax over its own past and the whole input."""
    a = merged_attention()
    (group,) = a.streams[1].expanded[0].sublayers
    assert [read.keys for read in group] == ["output", "input"]
    whole = sequence(3, 2)
    past, input = (Coordinates(*(array[some] for array in whole)) for some in (slice(3, None), slice(3)))
    own = group[0].visibility.dense(past, past)[0]
    across = group[1].visibility.dense(past, input)[0]
    assert [*across[0], *own[0]] == [True, True, True, True, False]
    assert [*across[1], *own[1]] == [True, True, True, True, True]
    assert visible_pairs(a, 3, 2) == 2 * 4 * (9 + 3 + 6)


def test_a_block_double_decoder_is_a_description() -> None:
    """Blocks of 2, 5 tokens: who sees whom, written out."""
    a, whole = double_decoder_full_blocks(2), sequence(3, 2)
    (context,) = a.streams[0].expanded[0].reads
    own, across = a.streams[1].expanded[0].reads
    masks = [r.visibility.dense(whole, whole)[0].astype(int).tolist() for r in (context, own, across)]
    assert masks[0] == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert masks[1] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    assert masks[2] == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert visible_pairs(a, 3, 2) == 2 * 4 * sum(sum(map(sum, mask)) for mask in masks)
