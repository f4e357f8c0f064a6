"""A study of what a dialogue costs: networks of equal parameters hold the same dialogue, turn by turn, round by round.

Nothing is trained. What is kept from turn to turn follows from the visibility rules; times are of this machine. torch
is imported only to hold the dialogues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from headtohead.errors import UserError, about
from headtohead.files import FolderLock, make_folder, write_atomic
from headtohead.measure import dialogues
from headtohead.measure.cost import Dialogue, Machine, Turn, brought_together, dialogue_cost
from headtohead.model.architecture import Architecture
from headtohead.model.budget import parameters
from headtohead.model.parts import Listed
from headtohead.study import costing
from headtohead.study.drawing import environment
from headtohead.study.evidence import command
from headtohead.study.parts import Frozen, Key, Text
from headtohead.study.reading import read_toml, set_values
from headtohead.study.results import read_plan
from headtohead.study.tables import decimal
from headtohead.study.versions import versions
from headtohead.validation import suggest, validated

RESULTS, CHART = "results.jsonl", "dialogue.svg"


class DialogueClaim(Frozen):
    """A claim about what a dialogue costs. The rules' texts are `headtohead.measure.dialogues.RULES`."""

    key: Text
    sentence: Text
    source: str = ""
    rule: Literal["grows-apart"]
    back_only: Listed[Text] = Field(min_length=1)
    others: Listed[Text] = Field(min_length=1)
    supported_by: str = ""
    contradicted_by: str = ""


class DialogueStudy(Frozen):
    """Presets, each brought to the parameters of the first; a dialogue; how often it is held. margin: growth of the gap
    inside it counts as none, as a share of a turn.
    """

    kind: Literal["dialogue"]
    name: Key
    title: Text
    question: Text
    description: str = ""
    margin: float = Field(gt=0)
    networks: Listed[Text] = Field(min_length=2)
    turns: int = Field(ge=3)
    input: PositiveInt
    output: PositiveInt
    dtype: Literal["bf16", "fp32"] = "bf16"
    rounds: int = Field(ge=2)
    claims: Listed[DialogueClaim] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for claim in self.claims:
            for name in (*claim.back_only, *claim.others):
                if name not in self.networks:
                    raise ValueError(
                        f"claim {claim.key}: '{name}' is not among the networks: {suggest(name, self.networks)}"
                    )
        return self

    @cached_property
    def architectures(self) -> dict[str, Architecture]:
        """By their names in the file."""
        return dict(zip(self.networks, brought_together(self.networks), strict=True))

    @property
    def dialogue(self) -> Dialogue:
        return Dialogue(self.turns, self.input, self.output, self.dtype)


def is_dialogue(file: Path) -> bool:
    """Whether a study file is one of dialogues.

    Raises:
        UserError: no such file, or no TOML.
    """
    return read_toml(file, "the study file").get("kind") == "dialogue"


def load_dialogue(file: Path, overrides: Sequence[str] = ()) -> DialogueStudy:
    """Read a study of dialogues.

    Raises:
        UserError: naming the file and the first key that is wrong.
    """
    return validated(DialogueStudy, set_values(read_toml(file, "the study file"), overrides), str(file))


def run(file: Path, overrides: Sequence[str] = (), out: Path | None = None, dry_run: bool = False) -> None:
    """Hold the dialogues and write plan, times, chart and page to `out`; with `dry_run`, print what they cost by the
    model alone. It takes minutes, and is done whole each time: rounds of two hours are no pairs.

    Raises:
        UserError: a file, key or value that is wrong; OUT in use.
    """
    study = load_dialogue(file, overrides)
    with about(file):
        costed = [costing.Costed(a, dialogue_cost(a, study.dialogue)) for a in study.architectures.values()]
    if dry_run:
        print(study.question.strip())
        costing.print_tables(costed, study.dialogue)
        return
    folder = out or Path("runs") / study.name
    make_folder(folder)
    with FolderLock(folder):
        lines, machine = _held(study, costed)
        plan = {
            **versions(),
            "study_file": {"name": file.name},
            "overrides": list(overrides),
            "study": study.model_dump(mode="json"),
            "machine": {"flops_per_second": machine.peak, "bytes_per_second": machine.bandwidth},
            "data": {},
            "arms": [
                {"key": name, "parameters": parameters(a), "architecture": a.model_dump(mode="json")}
                for name, a in study.architectures.items()
            ],
            "runs": [],
        }
        write_atomic(folder / "plan.json", json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
        write_atomic(folder / RESULTS, "".join(json.dumps(line) + "\n" for line in lines))
        page = write_page(folder)
    print(f"the page: {page}")


def _held(study: DialogueStudy, costed: Sequence[costing.Costed]) -> tuple[list[dict[str, Any]], Machine]:
    from headtohead.measure.timed import measured_machine, timed_rounds

    networks = study.architectures
    report = costing.reporter(len(networks) * (study.rounds + 1))
    rounds = timed_rounds(list(networks.values()), study.dialogue, study.rounds, report)
    for one in rounds:
        for name, modelled, turns in zip(networks, costed, one, strict=True):
            costing.check_kept(name, modelled.turns, [turn.kept for turn in turns])
    machine = measured_machine(study.dtype)
    report("")
    lines = [
        {
            "network": name,
            "round": number,
            "kept": [dict(turn.kept) for turn in turns],
            "read": [dict(turn.read) for turn in turns],
            "milliseconds": [turn.milliseconds for turn in turns],
        }
        for number, one in enumerate(rounds, 1)
        for name, turns in zip(networks, one, strict=True)
    ]
    return lines, machine


# ----------------------------------------------------------------------------------------------------------- reading


class Found:
    """The folder of a study of dialogues, read.

    Raises:
        UserError: it is no such folder, or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = read_plan(folder, "run the study again, which writes it anew")
        self.study = validated(DialogueStudy, self.plan["study"], str(folder / "plan.json"))
        self.networks = {
            arm["key"]: validated(Architecture, arm["architecture"], str(folder / "plan.json"))
            for arm in self.plan["arms"]
        }
        try:
            lines = (folder / RESULTS).read_text(encoding="utf-8").splitlines()
            self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / RESULTS} is missing or damaged: run the study again") from error

    @cached_property
    def held(self) -> dict[str, dialogues.Held]:
        """Each network's dialogue."""
        found: dict[str, dialogues.Held] = {}
        for name, a in self.networks.items():
            own = [line for line in self.lines if line["network"] == name]
            streams = [stream.name for stream in a.streams if stream.holds != "output"]

            def counted(key: str, line: Mapping[str, Any], streams: Sequence[str] = streams) -> list[int]:
                return [sum(turn[name] for name in streams) for turn in line[key]]

            found[name] = dialogues.Held(
                counted("kept", own[0]), counted("read", own[0]), [line["milliseconds"] for line in own]
            )
        return found

    @cached_property
    def costed(self) -> list[costing.Costed]:
        """The turns as modelled, with the fastest round of each as measured."""
        told = self.plan["machine"]
        machine = Machine(told["flops_per_second"], told["bytes_per_second"])
        found = []
        for name, a in self.networks.items():
            turns = dialogue_cost(a, self.study.dialogue, machine)
            fastest = [min(times) for times in zip(*self.held[name].milliseconds, strict=True)]
            found.append(costing.Costed(a, costing.as_measured(turns, fastest)))
        return found

    def decided(self, claim: DialogueClaim) -> tuple[str, str]:
        """How a claim ended, and why."""
        return dialogues.grows_apart(self.held, claim.back_only, claim.others, self.study.margin)

    @property
    def scale(self) -> str:
        """In words."""
        size = decimal(self.plan["arms"][0]["parameters"]["total"]).replace(" ", "")
        s = self.study
        return (
            f"{size} parameters, {s.turns} turns of {s.input} tokens said and {s.output} written, {s.dtype}"
        )


def write_page(folder: Path) -> Path:
    """The page and the chart, from what the folder holds; returns the page.

    Raises:
        UserError: as `Found`.
    """
    found = Found(folder)
    costing.write_chart(folder / CHART, found.costed)
    first = next(iter(found.held.values()))

    def turn_of(name: str, number: int) -> Turn:
        at = list(found.networks).index(name)
        return found.costed[at].turns[number]

    page = environment().get_template("dialogue.md.jinja").render(
        found=found, study=found.study, chart=CHART, turn_of=turn_of, decimal=decimal, rules=dialogues.RULES,
        growth={name: dialogues.growth(held, first) for name, held in found.held.items() if held is not first},
        correlation=costing.correlated(found.costed),
        command=command(found.plan),
    )  # fmt: skip
    write_atomic(folder / "report.md", page.strip() + "\n")
    return folder / "report.md"
