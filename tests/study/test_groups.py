"""Documents that belong together reach a result as one group: the statistics count them once."""

from __future__ import annotations

from pathlib import Path

from tests.study.short_study import write_study

from headtohead.study.arms import matched_arms
from headtohead.study.loading import load
from headtohead.study.prepare import prepare, read_source
from headtohead.study.runner import basis_of
from headtohead.study.schedule import comparison
from headtohead.study.training import trained


def test_a_result_says_which_documents_are_one_group(tmp_path: Path) -> None:
    file, _, text = write_study(tmp_path)
    for path in sorted(text.glob("*.txt")):
        copy = f"{path.read_text(encoding='utf-8')}And a word more.\n"
        (text / f"copy-of-{path.name}").write_text(copy, encoding="utf-8")
    small = ["rungs.rehearsal.steps=2", "evaluation.rehearsal_windows=60", "evaluation.prompts=0"]
    plan, _ = load(file, small)
    source, arms = read_source([text], None, "text"), matched_arms(plan)
    data = prepare(plan, source, tmp_path / "data", lambda line: None)
    basis = basis_of(plan, arms, data, tmp_path / "data", None)
    run = comparison(basis, dict.fromkeys(arms, 1e-3))[0]
    folder = tmp_path / "runs" / run.name
    folder.mkdir(parents=True)

    result, _, _ = trained(folder, run.description, lambda *progress: None)

    documents = result["documents"]
    group = dict(zip(documents["names"], documents["groups"], strict=True))
    originals = [name for name in group if not name.startswith("copy-of-")]
    assert originals
    assert len(set(group.values())) == len(originals) == len(group) / 2
    assert all(group[name] == group[f"copy-of-{name}"] for name in originals)
    assert result["identity"]["compiled"] is False
