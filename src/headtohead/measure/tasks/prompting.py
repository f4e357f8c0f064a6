"""What a network is shown: the question, with demonstrations before it on the input's or the output's side.

Networks see the two sides differently: an encoder reads the input, a decoder only what stands in its output so
far. Where the demonstrations stand is therefore a factor that is stated, and the same for all networks compared:

    side "input"    input  ``2+2 4⏎ 3+5 8⏎ 1+6``       output  ``7``
    side "output"   input  (empty)                      output  ``2+2 4⏎ 3+5 8⏎ 1+6 7``, of which `` 7`` is scored
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headtohead.data.objectives.base import Draws
from headtohead.errors import UserError
from headtohead.measure.tasks.files import Question, Task

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Prompting:
    """How questions are shown. shots: demonstrations before each. between: what parts a question from its answer
    in running text. after: what ends a demonstration. seed: of which demonstrations are drawn.
    """

    shots: int = 0
    side: Side = "input"
    between: str = " "
    after: str = "\n"
    seed: int = 0


@dataclass(frozen=True)
class Prompt:
    """The input; what stands at the beginning of the output, given and never scored; and what leads from there to
    the answer, scored with it: a tokenizer joins a blank to the word after it.
    """

    input: str
    before: str = ""
    lead: str = ""


def prompts(task: Task, prompting: Prompting, pool: Task | None = None) -> list[Prompt]:
    """The prompt of each question. Demonstrations are drawn from `pool`, else from the task's other questions;
    which ones depends on the seed and the question's place alone. None has the same input as the question.

    Raises:
        UserError: a pool of another kind, or with fewer other questions than demonstrations are wanted.
    """
    source = task if pool is None else pool
    if prompting.shots and source.by_choice is not task.by_choice:
        raise UserError(
            f"demonstrations of {source.name} are of another kind than the questions of {task.name}"
        )
    return [
        _prompt(question, _demonstrations(question, place, source, prompting), prompting)
        for place, question in enumerate(task.questions)
    ]


def _demonstrations(question: Question, place: int, source: Task, prompting: Prompting) -> list[Question]:
    if not prompting.shots:
        return []
    draws = Draws(prompting.seed, f"demonstrations {place}")
    others = [other for other in source.questions if other.input != question.input]
    if len(others) < prompting.shots:
        raise UserError(
            f"{source.name} has {len(others)} other questions: too few for {prompting.shots} demonstrations"
        )
    for place_of in range(prompting.shots):  # Fisher and Yates, as far as it is needed
        pick = place_of + draws.below(len(others) - place_of)
        others[place_of], others[pick] = others[pick], others[place_of]
    return others[: prompting.shots]


def _prompt(question: Question, shown: list[Question], prompting: Prompting) -> Prompt:
    before = "".join(f"{q.input}{prompting.between}{q.right}{prompting.after}" for q in shown)
    if prompting.side == "input":
        return Prompt(before + question.input)
    return Prompt("", before + question.input, prompting.between)
