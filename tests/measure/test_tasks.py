"""Tasks: their files, the generated suites, demonstrations, and how a network's answers are judged."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.interop.test_loading import WRITERS, held

import headtohead
from headtohead import cli
from headtohead.errors import UserError
from headtohead.interop.folders import write_folder
from headtohead.measure.tasks import files, grammar, suites
from headtohead.measure.tasks.files import Choice, Task, Written, read_task, write_task
from headtohead.measure.tasks.judging import (
    BY_LIKELIHOOD,
    BY_WRITING,
    compare_texts,
    judge_choices,
    judge_writing,
)
from headtohead.measure.tasks.prompting import Prompt, Prompting, prompts

SUMS = Task("sums", tuple(Written(input=f"{n}+1", answers=(str(n + 1),)) for n in range(6)))
COLOURS = Task(
    "colours",
    (
        Choice(input="grass is", choices=("green", "a deep blue", "re"), answer=0),
        Choice(input="the sky is", choices=("green", "a deep blue"), answer=1),
        Choice(input="天是", choices=("蓝", "绿色的"), answer=0),
    ),
)


class Bigrams:
    """A network that is small enough to be worked by hand: a character after a character, with add-one counts."""

    def __init__(self, text: str) -> None:
        self.pairs = Counter(zip("\n" + text, text, strict=False))
        self.firsts = Counter("\n" + text[:-1])

    def score(self, input: Sequence[str], output: Sequence[str]) -> list[float]:
        found = []
        for before, text in zip(input, output, strict=True):
            line = (before or "\n")[-1] + text
            odds = [(self.pairs[a, b] + 1) / (self.firsts[a] + 99) for a, b in itertools.pairwise(line)]
            found.append(-math.fsum(map(math.log, odds)))
        return found

    def generate(self, prompt: Sequence[str], max_tokens: int, *, begun: Sequence[str]) -> list[str]:
        found = []
        for text, before in zip(prompt, begun, strict=True):
            question = (text + before).split("\n")[-1]
            if "+" not in question:
                found.append(" 绿色 ")
            else:  # it goes on with a blank, as it was shown, and with a question of its own
                found.append(f" {eval(question)}\n9+9 18" if before else str(eval(question)))
        return found


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    for task in (SUMS, COLOURS):
        path = tmp_path / f"{task.name}.jsonl"
        write_task(path, task.questions)
        assert read_task(path) == task
    assert "天是" in (tmp_path / "colours.jsonl").read_text("utf-8")


def test_a_line_ends_at_its_end_and_at_no_other_sign(tmp_path: Path) -> None:
    """JSON may hold what Unicode calls a line's or a paragraph's end as it is."""
    asked = Written(input="one\u2028two\x85three", answers=("four\u2029five",))
    write_task(tmp_path / "t.jsonl", [asked])
    assert read_task(tmp_path / "t.jsonl").questions == (asked,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no question"),
        ("\n[1]\n", "line 2 should be an object"),
        ('{"input": "a"', "line 1 is not valid JSON"),
        ('{"input": "a"}', "line 1: answers is missing|line 1: .*answers"),
        ('{"input": "a", "answers": []}', "answers = .*at least 1 entry"),
        ('{"input": "a", "answer": "b"}', "line 1: .*answer"),
        ('{"input": "a", "choices": ["b"], "answer": 0}', "choices = .*at least 2 entries"),
        ('{"input": "a", "choices": ["b", "c"], "answer": 2}', "answer = 2: the choices are 0 to 1"),
        ('{"input": "a", "choices": ["b", "b"], "answer": 0}', "two are the same"),
        ('{"input": "a", "choices": ["b", "c"], "answer": "b"}', 'answer = "b": it should be a whole number'),
        (
            '{"input": "a", "answers": ["b"]}\n{"input": "a", "choices": ["b", "c"], "answer": 0}',
            "line 2: the first question has answers",
        ),
    ],
)
def test_a_bad_file_is_told_by_its_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        read_task(tmp_path / "t.jsonl")


@pytest.mark.parametrize("name", suites.SUITES)
def test_a_suite_is_the_same_every_time_and_right(name: str) -> None:
    asked = suites.questions(name, 40, test=True)
    assert asked == suites.questions(name, 40, test=True)
    assert asked[:10] == suites.questions(name, 10, test=True)
    assert asked != suites.questions(name, 40, test=True, seed=1)
    learnt = suites.questions(name, 200, test=False, seed=1)
    assert not {q.input for q in asked} & {q.input for q in learnt}
    assert len({q.input for q in learnt}) == 200
    for question in asked + learnt:
        assert question.right == SOLUTIONS[name](question.input)


def solve_lookup(text: str) -> str:
    pairs, key = text.split(" ? ")
    return dict(pair.split(":") for pair in pairs.split())[key]


def solve_regression(text: str) -> str:
    pairs, asked = text.split(" ? ")
    x, y = np.array([[int(n) for n in pair.split(":")] for pair in pairs.split()]).T
    slope, start = np.polyfit(x, y, 1)
    assert y == pytest.approx(slope * x + start)
    assert int(asked) not in x
    return str(round(slope * int(asked) + start))


SOLUTIONS = {
    "copy": lambda text: text.removeprefix("copy "),
    "reverse": lambda text: text.removeprefix("reverse ")[::-1],
    "lookup": solve_lookup,
    "regression": solve_regression,
    "arithmetic": lambda text: str(eval(re.sub(r"\b0+(?=\d)", "", text))),
}


def test_a_suite_says_what_it_cannot_make() -> None:
    with pytest.raises(UserError, match="unknown suite 'revers': did you mean 'reverse'"):
        suites.questions("revers", 1, test=True)
    with pytest.raises(UserError, match="copy has sizes from 3 to 64, not 2"):
        suites.questions("copy", 1, test=True, size=2)
    with pytest.raises(UserError, match=r"hardly more than [0-9]+ questions for testing: ask for fewer"):
        suites.questions("arithmetic", 10**6, test=True, size=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(0, 9), st.sampled_from(["input", "output"]))
def test_demonstrations_are_other_questions_on_the_side_that_is_stated(
    shots: int, seed: int, side: str
) -> None:
    prompting = Prompting(shots=shots, side=side, seed=seed)  # type: ignore[arg-type]
    shown = prompts(SUMS, prompting)
    assert shown == prompts(SUMS, prompting)
    for question, prompt in zip(SUMS.questions, shown, strict=True):
        text = prompt.input if side == "input" else prompt.before
        assert (prompt.before if side == "input" else prompt.input) == ""
        *lines, last = text.split("\n")
        assert last == question.input
        assert prompt.lead == ("" if side == "input" else " ")
        assert len(set(lines)) == shots
        assert not any(line.startswith(question.input) for line in lines)
        assert all(SOLUTIONS["arithmetic"](line.split()[0]) == line.split()[1] for line in lines)


def test_too_few_demonstrations_and_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="sums has 5 other questions: too few for 6"):
        prompts(SUMS, Prompting(shots=6))
    with pytest.raises(UserError, match="of another kind"):
        prompts(SUMS, Prompting(shots=1), COLOURS)
    rest = Task("rest", SUMS.questions[1:])
    assert prompts(rest, Prompting(shots=1), Task("one", SUMS.questions[:1]))[0] == Prompt("0+1 1\n1+1")


def test_choices_are_judged_in_four_ways_with_standard_errors() -> None:
    network = Bigrams("grass is green and the sky is a deep blue 天是蓝")
    judged = judge_choices(network, COLOURS, Prompting(), len, neutral="?")
    expected = {name: [] for name in BY_LIKELIHOOD}
    for q in COLOURS.questions:
        assert isinstance(q, Choice)
        nats = np.array(network.score([q.input] * len(q.choices), q.choices))
        alone = np.array(network.score(["?"] * len(q.choices), q.choices))
        ways = (
            nats,
            nats / [len(c) for c in q.choices],
            nats / [len(c.encode()) for c in q.choices],
            nats - alone,
        )
        for name, cost in zip(BY_LIKELIHOOD, ways, strict=True):
            expected[name].append(float(np.argmin(cost) == q.answer))
    for name in BY_LIKELIHOOD:
        assert judged.by_question[name].tolist() == expected[name]
        assert judged.figures[name].mean == pytest.approx(np.mean(expected[name]))
        assert judged.figures[name].standard_error == pytest.approx(np.std(expected[name], ddof=1) / 3**0.5)
    assert len({tuple(values) for values in expected.values()}) > 1  # the four ways don't all agree here
    assert judged.chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)


def test_a_tie_counts_its_share() -> None:
    nothing = Bigrams("")
    task = Task("t", (Choice(input="a", choices=("xx", "yy", "zz"), answer=0),))
    judged = judge_choices(nothing, task, Prompting(), len)
    assert all(figure.mean == pytest.approx(1 / 3) for figure in judged.figures.values())
    assert judged.as_json()["figures"]["raw"]["standard_error"] is None


@pytest.mark.parametrize("a", WRITERS, ids=lambda a: a.name)
def test_what_the_output_begins_with_is_given_and_not_scored(a: object, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(a))  # type: ignore[arg-type]
    network = headtohead.load(tmp_path / "model")
    task = Task("t", COLOURS.questions[:2])
    shown = prompts(task, Prompting(shots=1, side="output"))
    judged = judge_choices(network, task, Prompting(shots=1, side="output"), len)
    for place, (question, prompt) in enumerate(zip(task.questions, shown, strict=True)):
        assert isinstance(question, Choice)
        whole = [network.score("", prompt.before + prompt.lead + choice) for choice in question.choices]
        assert judged.by_question["raw"][place] == (np.argmin(whole) == question.answer)


def test_written_answers_are_judged_by_the_best_accepted_one() -> None:
    judged = judge_writing(Bigrams(""), SUMS, Prompting(), at_once=4)
    assert judged.written == [str(n + 1) for n in range(6)]
    assert [judged.figures[name].mean for name in BY_WRITING] == pytest.approx([1, 1, 1])
    assert judged.figures["exact match"].standard_error == 0
    values = compare_texts(
        [" the cat sat ", "the cat", "绿色", ""], [["dog", "the cat sat"], ["the cat sat"], ["绿的"], ["x"]]
    )
    assert values["exact match"].tolist() == [1, 0, 0, 0]
    # ROUGE-L of 2 words of 3: precision 1, recall 2/3; of 1 Chinese character of 2: both a half.
    assert values["ROUGE-L"] == pytest.approx([1, 0.8, 0.5, 0])
    assert values["chrF"][0] == 1 and 0.3 < values["chrF"][1] < 1 and values["chrF"][3] == 0


def test_written_answers_go_on_from_demonstrations_in_the_output() -> None:
    judged = judge_writing(Bigrams(""), SUMS, Prompting(shots=2, side="output"), at_once=4)
    assert judged.written == [str(n + 1) for n in range(6)]
    assert judged.figures["exact match"].mean == 1


@pytest.mark.parametrize("a", WRITERS, ids=lambda a: a.name)
def test_writing_goes_on_from_what_the_output_begins_with(a: object, tmp_path: Path) -> None:
    """Greedy: what was written, given as a beginning, is gone on from."""
    write_folder(tmp_path / "model", held(a))  # type: ignore[arg-type]
    network = headtohead.load(tmp_path / "model")
    ids = network.frame.around(network.tokenizer.encode("of the"))
    given, begun = ids[0], [*ids[1], *network.tokenizer.encode("pe")]
    logits = network.logits([given], [begun])[0, -1]
    logits[list(network.frame.never)] = -math.inf
    first = network.tokenizer.decode([int(logits.argmax())])
    assert network.generate("of the", 1, begun=["pe"]) == first
    assert network.generate(["of the", "of the"], 1, begun=["", "pe"])[1] == first
    with pytest.raises(UserError, match="2 prompts and 1 beginnings"):
        network.generate(["a", "b"], 1, begun=["c"])


def test_minimal_pairs_differ_in_one_word_and_are_even() -> None:
    for kind in grammar.PHENOMENA:
        pairs = grammar.minimal_pairs(60, kind)
        assert pairs == grammar.minimal_pairs(60, kind) and len({pair.choices for pair in pairs}) == 60
        right, wrong = Counter[str](), Counter[str]()
        for pair in pairs:
            assert pair.input == "" and len(pair.choices) == 2
            good, bad = (pair.choices[i].split() for i in (pair.answer, 1 - pair.answer))
            differ = [(g, b) for g, b in zip(good, bad, strict=True) if g != b]
            assert len(differ) == 1, pair
            right[differ[0][0]] += 1
            wrong[differ[0][1]] += 1
        # How frequent a word is tells nothing: by which is right more often, about half are right.
        by_frequency = sum(max(right[word], wrong[word]) for word in right | wrong) / 120
        assert by_frequency < 0.75, (kind, by_frequency)
    known = set(grammar.sentences(3000))
    asked = {choice for pair in grammar.minimal_pairs(100) for choice in pair.choices}
    assert not known & asked
    words = {word for sentence in known for word in sentence.split()}
    assert {word for choice in asked for word in choice.split()} <= words
    with pytest.raises(UserError, match="unknown phenomenon 'agrement': did you mean 'agreement'"):
        grammar.minimal_pairs(1, "agrement")
    with pytest.raises(UserError, match="ask for fewer"):
        grammar.minimal_pairs(10**6, "determiner")


def test_a_judge_refuses_what_it_is_not_for() -> None:
    with pytest.raises(UserError, match="sums has no choices"):
        judge_choices(Bigrams(""), SUMS, Prompting(), len)
    with pytest.raises(UserError, match="colours has choices"):
        judge_writing(Bigrams(""), COLOURS, Prompting())


def test_the_commands_make_a_suite_and_let_a_network_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ["tasks", "make", "lookup", "--out", str(tmp_path / "lookup"), "--train", "30", "--test", "5"]
    assert cli.run(made) == 0
    pairs = [
        json.loads(line) for line in (tmp_path / "lookup" / "train.jsonl").read_text("utf-8").splitlines()
    ]
    assert (
        cli.run(["tasks", "make", "grammar", "--out", str(tmp_path / "g"), "--train", "50", "--test", "10"])
        == 0
    )
    assert (tmp_path / "g" / "train.txt").read_text("utf-8").count(" .\n") == 50
    assert len(read_task(tmp_path / "g" / "test.jsonl").questions) == 10
    assert len(read_task(tmp_path / "g" / "test-agreement.jsonl").questions) == 2
    assert len(pairs) == 30 and all(solve_lookup(pair["input"]) == pair["output"] for pair in pairs)
    write_folder(tmp_path / "model", held(WRITERS[2]))
    (tmp_path / "colours.jsonl").write_text(
        files.as_lines([q.model_dump(mode="json") for q in COLOURS.questions]), "utf-8"
    )
    capsys.readouterr()
    for file, names in (("lookup/test.jsonl", BY_WRITING), ("colours.jsonl", BY_LIKELIHOOD)):
        words = [
            "tasks",
            "run",
            str(tmp_path / "model"),
            str(tmp_path / file),
            "--shots",
            "1",
            "--max-tokens",
            "4",
        ]
        assert cli.run([*words, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert tuple(told["figures"]) == names and told["shots"] == 1 and told["side"] == "input"
        assert cli.run(words) == 0
        assert "± is one standard error" in capsys.readouterr().out
