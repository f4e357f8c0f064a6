"""The page: right at every moment of a study, harmless whatever the text holds, a file that loads nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.study import simulated

from headtohead.errors import UserError
from headtohead.study import charting, figures
from headtohead.study.ledger import ledger
from headtohead.study.page import crossing, read
from headtohead.study.palette import PAPER_DARK, PAPER_LIGHT, inks
from headtohead.study.report import write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&|`${1}{{ 7*7 }}<!--"


class Parsed(HTMLParser):
    """The page as a browser sees it: its elements with their attributes, its text, its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif not self.inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(folder: Path, moment: str = "final", **changes: Any) -> tuple[Parsed, str]:
    """The page and the Markdown of a simulated study, without figures."""
    simulated.write_study(folder, moment, **changes)
    path = write_report(folder, with_figures=False)
    return Parsed(path.read_text(encoding="utf-8")), (folder / "report.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Written:
    """What a study's folder held after its page was written."""

    folder: Path
    page: Parsed
    markdown: str


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Written]:
    """The simulated study at a moment, its page written once for all tests of this file."""

    @cache
    def written(moment: str) -> Written:
        folder = tmp_path_factory.mktemp(moment)
        return Written(folder, *page_of(folder, moment))

    return written


At = Callable[[str], Written]

LEADS = {
    "nothing": "No verdict: nothing has finished yet.",
    "rehearsal-part": "No verdict: this is a rehearsal.",
    "rehearsal": "No verdict: this is a rehearsal.",
    "one": "No verdict yet: 1 of 18 full runs finished.",
    "partial": "No verdict yet: 10 of 18 full runs finished.",
    "stopped": "At this scale,",
    "final": "At this scale,",
}


@pytest.mark.parametrize("moment", simulated.MOMENTS)
def test_renders_at_every_moment(at: At, moment: str) -> None:
    page, markdown = at(moment).page, at(moment).markdown
    assert LEADS[moment] in page.text
    assert LEADS[moment] in markdown
    judged = moment in ("stopped", "final")
    outcomes = [a for a in page.of("p") if "outcome" in (a.get("class") or "")]
    assert len(outcomes) == (len(simulated.CLAIMS) if judged else 0)
    for claim in simulated.CLAIMS:
        assert claim["sentence"] in page.text
    assert ("data-again" in page.of("body")[0]) is not judged  # loads itself again while runs are to come
    assert (at(moment).folder / "report.html").stat().st_size < 3_000_000
    assert "None" not in page.text and "nan" not in page.text.lower().split()


@pytest.mark.parametrize("moment", simulated.MOMENTS)
def test_loads_nothing(at: At, moment: str) -> None:
    page = at(moment).page
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    policies = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and (policies[0] or "").startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in (policies[0] or "") and "http" not in (policies[0] or "")
    assert len(page.scripts) == 3
    assert (
        "@import" not in (at(moment).folder / "report.html").read_text(encoding="utf-8").split("</style>")[0]
    )


def test_foreign_text_stays_text(tmp_path: Path) -> None:
    plan = simulated.plan()
    for arm, other in zip(plan["arms"], plan["study"]["arms"], strict=True):
        arm["label"] = other["label"] = other["note"] = HOSTILE
    plan["study"] |= {"title": HOSTILE, "question": HOSTILE, "name": HOSTILE}
    plan["study"]["claims"][0]["sentence"] = HOSTILE
    plan["study"]["contrasts"][0]["factor"] = HOSTILE
    plan["study_file"] = {"name": HOSTILE, "text": HOSTILE}
    plan["command"] = HOSTILE
    plan["data"]["source"] = HOSTILE
    plan["machine"] = {"cpu": HOSTILE}
    simulated.write_study(tmp_path, "stopped", **plan)
    lines = [
        json.loads(line) for line in (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for line in lines:
        if line["reason"]:
            line["reason"] = HOSTILE
        for sample in line["samples"]:
            sample |= {"input": HOSTILE, "reference": HOSTILE, "output": HOSTILE}
    (tmp_path / "results.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    page = Parsed(write_report(tmp_path, with_figures=False).read_text(encoding="utf-8"))
    assert len(page.scripts) == 3
    assert not page.of("img")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count("alert(1)") > 20  # it is there, as text
    assert json.loads(page.scripts[0])["specs"]
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    outside_code = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
    assert not re.search(r"(?<!\\)<", outside_code)


def test_hostile_arm_names_reach_the_charts_as_data(tmp_path: Path) -> None:
    name = "</script><script>alert(3)"
    ink = inks(1)[0]
    chart = figures.levels([figures.Dots(name, ink, (2.0, 2.1), 1.9, 2.2)], {"<xz>": 3.0})
    from headtohead.study.report import _inert

    text = _inert(charting.specification(chart))
    assert "<" not in text and name in json.dumps(json.loads(text))


def test_renders_a_single_run_without_baselines(tmp_path: Path) -> None:
    plan = simulated.plan()
    del plan["data"]["baselines"]
    plan["rates"] = None
    page, _ = page_of(tmp_path, "one", **plan)
    assert "1 run, no interval" in page.text
    assert "5-gram" not in page.text.split("Learning curves", 2)[-1]


def test_stopped_runs_are_named_with_their_reason(at: At) -> None:
    page, markdown = at("stopped").page, at("stopped").markdown
    for text in (page.text, markdown):
        assert "step 412" in text
        assert "two-causal" in text
    assert "1 run stopped" in page.text
    assert "17 of 18 full runs finished, 1 stopped" in page.text
    assert len(read(at("stopped").folder).shown) == 17


def test_the_rehearsal_gives_no_interval_and_no_comparison(at: At) -> None:
    page = at("rehearsal").page
    assert "95 % interval" not in page.text.replace("whole 95 % interval", "")
    assert not any(a.get("id") == "contrasts" for a in page.of("section"))
    assert not any("forest" in (a.get("data-chart") or "") for a in page.of("div"))


def test_arms_keep_the_order_of_the_study_file(at: At) -> None:
    markdown = at("final").markdown
    table = markdown.split("## Bits per byte")[1].split("##")[0]
    found = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:7]
    assert found == list(simulated.LABELS.values())


def test_the_markdown_says_the_same_as_the_page(at: At) -> None:
    page, markdown = at("final").page, at("final").markdown
    plain = re.sub(r"\\(.)", r"\1", markdown)
    for number in re.findall(r"\b\d\.\d{3} to \d\.\d{3}\b", page.text):
        assert number in plain
    for number in re.findall(r"[+−]0\.\d{3} to [+−]0\.\d{3}", page.text):
        assert number in plain
    for sentence in re.findall(
        r"(?:Supported|Contradicted|Undecided)(?= (?:Continuation|Restoration):)", page.text
    ):
        assert sentence.lower() in plain
    for heading in ("Ledger", "Cost of use", "Learning rates", "How each arm goes on"):
        assert f"## {heading}" in markdown
    for table in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        rows = table.strip().split("\n")
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, table
        assert set(rows[1]) <= set("|:-")


def test_an_undeclared_difference_refuses_the_contrast(tmp_path: Path) -> None:
    plan = simulated.plan()
    del plan["study"]["declared_differences"]["visible_pairs"]
    page, markdown = page_of(tmp_path, **plan)
    for text in (page.text, markdown):
        assert "Some comparisons are refused" in text
        assert "visible" in text.split("Some comparisons are refused")[1][:600]


def test_charts_are_whole_and_small(at: At) -> None:
    page = at("final").page
    specs = json.loads(page.scripts[0])["specs"]
    drawn = {a["data-chart"] for a in page.of("div") if "data-chart" in a}
    assert drawn == set(specs)
    assert {"levels-continuation", "forest-restoration", "curves-restoration-flops", "rates"} <= drawn

    def rows(value: Any) -> int:
        return sum(len(rows) for rows in value["datasets"].values())

    assert all(0 < rows(spec) < charting.MOST_ROWS for spec in specs.values())
    with pytest.raises(ValueError, match="5001 rows"):
        charting.inline({"x": n} for n in range(5001))


def test_figures_go_into_files_when_all_is_done(tmp_path: Path) -> None:
    simulated.write_study(tmp_path, "rehearsal")
    write_report(tmp_path)
    assert not (tmp_path / "figures").exists()
    simulated.write_study(tmp_path, "final")
    write_report(tmp_path)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"forest-continuation", "levels-restoration", "curves-continuation-tokens", "arm-prefix"} <= names
    for name in names:
        ElementTree.fromstring((tmp_path / "figures" / f"{name}.svg").read_text(encoding="utf-8"))
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_ledger_marks_what_differs(at: At) -> None:
    rows = {row.name: row for row in ledger(read(at("final").folder))}
    assert not any(cell.mark for cell in rows["documents seen"].cells)
    assert [bool(cell.mark) for cell in rows["layers"].cells] == [False, False, False, True, True, True]
    assert rows["tokens supervised"].cells[0].mark == "× 2.00"
    assert rows["layers"].declared and not rows["documents seen"].declared


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan\.json"):
        write_report(tmp_path)
    simulated.write_study(tmp_path, "one")
    (tmp_path / "results.jsonl").write_text('{"arm": ', encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.jsonl: line 1"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 2.0, 1.0], 15.0),
        ([3.0, 2.0, 1.8], None),
        ([1.0, 0.9, 0.8], 0.0),
        ([3.0, 1.0, 2.0], None),  # under it once, but not for good
        ([3.0, 1.0, 2.0, 1.0], 25.0),
    ],
)
def test_crossing_the_threshold(values: list[float], expected: float | None) -> None:
    curve = [{"tokens": 10 * n, "bits_per_byte": {"r": value}} for n, value in enumerate(values)]
    assert crossing(curve, "r", "tokens", 1.5) == expected


def test_names_beside_lines_stand_apart() -> None:
    placed = charting.apart([1.0, 1.01, 1.02, 3.0], 0.1, 0.0, 4.0)
    assert all(b - a >= 0.099 for a, b in pairwise(placed))
    assert placed[3] == 3.0


def _luminance(colour: str) -> float:
    def linear(c: float) -> float:
        return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4

    r, g, b = (linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_every_colour_can_be_read_on_its_paper() -> None:
    looks = inks(20)
    for ink in looks:
        for colour, paper in ((ink.light, PAPER_LIGHT), (ink.dark, PAPER_DARK)):
            bright, dim = sorted((_luminance(colour), _luminance(paper)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, ink
    assert len({(ink.light, ink.dash, ink.mark) for ink in looks}) == len(looks)
