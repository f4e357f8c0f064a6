"""How a network does on a task: choices by likelihood, and what it writes by exact match, chrF and ROUGE-L.

Every figure is a mean over questions and has its standard error: the standard deviation of the questions' values
over the root of their number. The networks to compare answer the same questions, so their differences are to be
taken question by question (`by_question`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headtohead.errors import UserError
from headtohead.measure.tasks.files import Choice, Task, Written
from headtohead.measure.tasks.prompting import Prompt, Prompting, prompts

Array = NDArray[np.float64]

BY_LIKELIHOOD = ("raw", "per token", "per byte", "against the unconditional")
BY_WRITING = ("exact match", "chrF", "ROUGE-L")


class Network(Protocol):
    """What answers. `headtohead.load` gives one."""

    def score(self, input: Sequence[str], output: Sequence[str], /) -> list[float]:
        """-ln p(output | input) in nats of each pair."""
        ...

    def generate(self, prompt: Sequence[str], max_tokens: int, /, *, begun: Sequence[str]) -> list[str]:
        """How the output goes on after each input, and after what it begins with."""
        ...


@dataclass(frozen=True)
class Figure:
    """A mean over questions, with its standard error (NaN for one question)."""

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Judged:
    """How a task went. figures: by name. by_question (N,): the values that each is the mean of. chance: of a
    right choice at random; NaN where answers are written. written: what was written.
    """

    task: str
    questions: int
    figures: dict[str, Figure]
    by_question: dict[str, Array]
    chance: float = math.nan
    written: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The figures as a document that JSON can hold."""
        told: dict[str, Any] = {
            "task": self.task,
            "questions": self.questions,
            "figures": {
                name: {"mean": figure.mean, "standard_error": _or_none(figure.standard_error)}
                for name, figure in self.figures.items()
            },
        }
        return told if math.isnan(self.chance) else {**told, "chance": self.chance}


def judge_choices(
    network: Network,
    task: Task,
    prompting: Prompting,
    count_tokens: Callable[[str], int],
    pool: Task | None = None,
    neutral: str = "",
) -> Judged:
    """The share of questions whose right choice is the likeliest, by each of `BY_LIKELIHOOD`.

    raw: least nats. per token, per byte: least nats over the tokens, or UTF-8 bytes, of the choice. against the
    unconditional: most likelihood gained by the question, ln p(choice | question) - ln p(choice | `neutral`)
    (Holtzman et al. 2021, arXiv 2104.08315). Where choices tie, each of the k best counts 1 / k.

    Raises:
        UserError: a task without choices, or demonstrations that can't be had.
    """
    if not task.by_choice:
        raise UserError(f"{task.name} has no choices: its answers are written")
    asked = [q for q in task.questions if isinstance(q, Choice)]
    shown = prompts(task, prompting, pool)
    choices = [choice for question in asked for choice in question.choices]
    spread = [prompt for prompt, q in zip(shown, asked, strict=True) for _ in q.choices]
    nats = _conditional(network, spread, choices)
    # With what stands before the choice in the output: it may be in one token with the choice's beginning.
    led = [prompt.lead + choice for prompt, choice in zip(spread, choices, strict=True)]
    alone = np.array(network.score([neutral] * len(led), led))
    tokens = np.array([count_tokens(choice) for choice in choices])
    sizes = np.array([len(choice.encode()) for choice in choices])
    costs = dict(zip(BY_LIKELIHOOD, (nats, nats / tokens, nats / sizes, nats - alone), strict=True))
    values: dict[str, Array] = {name: np.zeros(len(asked)) for name in costs}
    at = 0
    for place, question in enumerate(asked):
        these = slice(at, at + len(question.choices))
        for name, cost in costs.items():
            best = cost[these] == cost[these].min()
            values[name][place] = best[question.answer] / best.sum()
        at += len(question.choices)
    chance = float(np.mean([1 / len(question.choices) for question in asked]))
    return Judged(task.name, len(asked), _figures(values), values, chance)


def _conditional(network: Network, shown: Sequence[Prompt], outputs: Sequence[str]) -> Array:
    """Nats of each output after its prompt. What the output begins with is given: its own nats are taken off,
    once for each prompt.
    """
    whole = network.score(
        [p.input for p in shown], [p.before + p.lead + out for p, out in zip(shown, outputs, strict=True)]
    )
    begun = list(dict.fromkeys(p for p in shown if p.before))
    given = network.score([p.input for p in begun], [p.before for p in begun]) if begun else []
    off = dict(zip(begun, given, strict=True))
    return np.array(whole) - np.array([off.get(p, 0.0) for p in shown])


def judge_writing(
    network: Network,
    task: Task,
    prompting: Prompting,
    max_tokens: int = 64,
    pool: Task | None = None,
    at_once: int = 16,
) -> Judged:
    """What the network writes, beside the accepted answers: the best of `BY_WRITING` over them, each from 0 to 1.

    exact match: the same text but for white space at its ends. chrF: of characters up to 6-grams (Popović 2015),
    by sacrebleu. ROUGE-L: F of the longest common subsequence of words (Lin 2004), by rouge-score; each Chinese,
    Japanese or Korean character counts as a word.

    With the question and its demonstrations on the output's side, a network goes on from them in its output, and its
    answer ends where a demonstration's would (`Prompting.after`), since it has seen that another question follows.

    Raises:
        UserError: a task with choices, or a library that isn't installed.
    """
    if task.by_choice:
        raise UserError(f"{task.name} has choices: it is judged by likelihood")
    asked = [q for q in task.questions if isinstance(q, Written)]
    shown = prompts(task, prompting, pool)
    order = sorted(range(len(shown)), key=lambda i: len(shown[i].input) + len(shown[i].before))
    written = [""] * len(shown)
    for at in range(0, len(order), at_once):
        some = order[at : at + at_once]
        inputs, begun = [shown[i].input for i in some], [shown[i].before for i in some]
        for i, text in zip(some, network.generate(inputs, max_tokens, begun=begun), strict=True):
            written[i] = _answer(text, shown[i], prompting)
    values = compare_texts(written, [q.answers for q in asked])
    return Judged(task.name, len(asked), _figures(values), values, written=written)


def _answer(text: str, prompt: Prompt, prompting: Prompting) -> str:
    """What was written, up to the end of an answer where the output began with questions and answers."""
    if not prompt.before or not prompting.after:
        return text
    return text.removeprefix(prompt.lead).split(prompting.after, 1)[0]


def compare_texts(written: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, Array]:
    """Each of `BY_WRITING` (N,) of texts beside their accepted answers; see `judge_writing`."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'headtohead[tasks]'") from error
    chrf, rouge = CHRF(), RougeScorer(["rougeL"], tokenizer=Words())
    exact, characters, words = (np.zeros(len(written)) for _ in range(3))
    for place, (text, accepted) in enumerate(zip(written, answers, strict=True)):
        exact[place] = any(text.strip() == answer.strip() for answer in accepted)
        characters[place] = max(chrf.sentence_score(text, [answer]).score for answer in accepted) / 100
        words[place] = max(rouge.score(answer, text)["rougeL"].fmeasure for answer in accepted)
    return dict(zip(BY_WRITING, (exact, characters, words), strict=True))


WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


class Words:
    """A tokenizer for rouge-score, whose own knows Latin letters only."""

    def tokenize(self, text: str) -> list[str]:
        """Words in lower case; scripts without spaces by the character."""
        return WORD.findall(text.lower())


def _figures(values: dict[str, Array]) -> dict[str, Figure]:
    def figure(of: Array) -> Figure:
        error = float(of.std(ddof=1)) / math.sqrt(len(of)) if len(of) > 1 else math.nan
        return Figure(float(of.mean()), error)

    return {name: figure(of) for name, of in values.items()}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
