"""Task files: one JSON object a line, a question with choices or with accepted answers. See docs/tasks.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from headtohead.errors import UserError
from headtohead.files import read_text, write_atomic
from headtohead.model.parts import Frozen
from headtohead.validation import validated

Text = Annotated[str, Field(min_length=1)]


class Choice(Frozen):
    """A question with a list to choose from: `answer` is the right one's place in it, from 0."""

    input: str
    choices: Annotated[tuple[Text, ...], Field(min_length=2, strict=False)]
    answer: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.answer >= len(self.choices):
            last = len(self.choices) - 1
            raise ValueError(f"answer = {self.answer}: the choices are 0 to {last}")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("choices: two are the same")
        return self

    @property
    def right(self) -> str:
        """The text of the right choice."""
        return self.choices[self.answer]


class Written(Frozen):
    """A question that is answered in words; any of `answers` will do, and demonstrations show the first."""

    input: str
    answers: Annotated[tuple[Text, ...], Field(min_length=1, strict=False)]

    @property
    def right(self) -> str:
        """The first answer."""
        return self.answers[0]


Question = Choice | Written


@dataclass(frozen=True)
class Task:
    """Questions of one kind, in the order of their file."""

    name: str
    questions: tuple[Question, ...]

    @property
    def by_choice(self) -> bool:
        """Whether the questions have choices."""
        return isinstance(self.questions[0], Choice)


def read_task(path: Path) -> Task:
    """The task in a file of one JSON object a line; empty lines are passed over.

    Raises:
        UserError: naming the line: not JSON, a key that is missing or unknown, an answer that is none of the
            choices, a question of another kind than the first one's; or a file without questions.
    """
    questions: list[Question] = []
    for number, line in enumerate(read_text(path, "the task").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            data = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{where} is not valid JSON: {error}") from error
        if not isinstance(data, dict):
            raise UserError(f'{where} should be an object such as {{"input": "2+2", "answers": ["4"]}}')
        question = validated(Choice if "choices" in data else Written, data, where)
        if questions and type(question) is not type(questions[0]):
            kind = "choices" if isinstance(questions[0], Choice) else "answers"
            raise UserError(f"{where}: the first question has {kind}, so all of the file should have them")
        questions.append(question)
    if not questions:
        raise UserError(f"{path} holds no question: give one JSON object a line, with input and answers")
    return Task(path.stem, tuple(questions))


def write_task(path: Path, questions: Sequence[Question]) -> None:
    """Write a task file, whole or not at all."""
    write_atomic(path, as_lines([question.model_dump(mode="json") for question in questions]))


def as_lines(entries: Sequence[dict[str, Any]]) -> str:
    """JSON Lines, in the letters of the text itself."""
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
