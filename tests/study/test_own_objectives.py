"""Arms that learn by objectives of their own: the same windows at the same steps, scored on the same text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from headtohead.data.shards import SPECIAL, ExampleStore
from headtohead.data.tokenizers import load_tokenizer
from headtohead.study.fairness import undeclared_differences
from headtohead.study.prepare import read_data, training_lengths

from .short_study import finish, write_study


def objectives(study: Path) -> None:
    """One arm by span corruption, the other by UL2; both scored on continuations."""
    text = study.read_text()
    text = text.replace('label = "one stack"', 'label = "one stack"\nobjective = "span-corruption"')
    text = text.replace('label = "two stacks"', 'label = "two stacks"\nobjective = "ul2"')
    text = text.replace("row = 160\nside = 80", 'regions = ["continuation"]\nrow = 160\nside = 90')
    study.write_text(text.replace("seeds = [1, 2]", "seeds = [1]").replace("steps = 60", "steps = 20"))


def test_a_study_of_objectives_runs_to_its_page(tmp_path: Path) -> None:
    study, _, text = write_study(tmp_path)
    objectives(study)
    out = tmp_path / "out"
    finish(study, text, out)
    there = read_data(out / "data")
    assert {"train", "train-1", "train-2", "tune", "test"} == set(there["stores"])
    stores = [ExampleStore.open(out / "data", name) for name in ("train", "train-1", "train-2")]
    assert len({len(store) for store in stores}) == 1
    assert all(np.array_equal(stores[0].column("document"), store.column("document")) for store in stores)
    lengths = training_lengths(out / "data", there["stores"])
    assert all(
        (store.lengths_in <= lengths[0]).all() and (store.lengths_out <= lengths[1]).all() for store in stores
    )
    tokenizer = load_tokenizer(out / "data" / "tokenizer.json")
    assert tokenizer.extra[:1] == ("<denoise>",) and "<extra_id_0>" in tokenizer.extra
    assert any((e.where == SPECIAL).any() for e in stores[1][:5] if e.where is not None)

    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    full = {r["arm"]: r for r in results if r["rung"] == "full"}
    one, two = full["prefix"], full["two-full"]
    assert one["objective"]["kind"] == "span-corruption" and two["objective"]["kind"] == "ul2"
    assert one["documents"]["bytes"] == two["documents"]["bytes"]  # the same text, for both
    assert one["ledger"]["examples"] == two["ledger"]["examples"]
    assert one["ledger"]["tokens_supervised"] != two["ledger"]["tokens_supervised"]
    for ledger in (one["ledger"], two["ledger"]):
        assert ledger["tokens_shown"] > 0 and ledger["visible_pairs"] > 0
    page = (out / "report.md").read_text()
    assert "learns by span-corruption" in page and "learns by ul2" in page
    plan = json.loads((out / "plan.json").read_text())
    undeclared = {u.dimension for u in undeclared_differences(results, plan["study"])}
    assert undeclared == {"objective", "tokens_supervised"}  # the study declares neither
    assert "differ in what is learnt from a document" in page
