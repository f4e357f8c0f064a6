"""The commands of tasks: make questions, and let a network answer them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from headtohead.cli.base import ANSWER, AsJson, Command, Group, app, at_least, complete_run
from headtohead.errors import UserError

tasks = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(
    tasks,
    name="tasks",
    rich_help_panel=ANSWER,
    short_help="Questions with known answers: make them, or let a network answer.",
    help="""Questions with known answers, one JSON object a line: make some that small networks can learn, or let
    a network answer.""",
)


@tasks.command(cls=Command, short_help="Write questions that a network of a million parameters can learn.")
def make(
    name: Annotated[
        str, typer.Argument(metavar="SUITE", help="copy, reverse, lookup, regression, arithmetic or grammar.")
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where train.jsonl (pairs) and test.jsonl (a task) are written."),
    ],
    train: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Pairs to train on.")] = 10_000,
    test: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Questions to test with.")] = 500,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="N", parser=at_least(1), help="Letters, pairs or digits.", show_default="the suite's"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", parser=at_least(0), help="Of the questions.")] = 0,
) -> None:
    """Write pairs for study --pairs, and a task of other questions to test with. None is ever in both.

    Of grammar: sentences for study --text, and minimal pairs of words that never stand together in them.
    """
    from headtohead.files import write_atomic
    from headtohead.measure.tasks import files, grammar, suites

    if name == "grammar":
        if size is not None:
            raise UserError("grammar has sentences of one size: leave out --size")
        write_atomic(out / "train.txt", "".join(f"{line}\n" for line in grammar.sentences(train, seed)))
        files.write_task(out / "test.jsonl", grammar.minimal_pairs(test, None, seed))
        few = max(1, test // len(grammar.PHENOMENA))
        for kind in grammar.PHENOMENA:
            files.write_task(out / f"test-{kind}.jsonl", grammar.minimal_pairs(few, kind, seed))
        typer.echo(
            f"{out / 'train.txt'}: {train:,} sentences, for --text; {out / 'test.jsonl'}: {test:,} minimal pairs, and "
            f"{few:,} of each phenomenon in test-….jsonl"
        )
        return
    learnt = suites.questions(name, train, test=False, size=size, seed=seed)
    asked = suites.questions(name, test, test=True, size=size, seed=seed)
    pairs = [{"input": question.input, "output": question.right} for question in learnt]
    write_atomic(out / "train.jsonl", files.as_lines(pairs))
    files.write_task(out / "test.jsonl", asked)
    typer.echo(
        f"{out / 'train.jsonl'}: {len(learnt):,} pairs; {out / 'test.jsonl'}: {len(asked):,} questions"
    )


@tasks.command(cls=Command, short_help="Let a network answer the questions of a task file.")
def run(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="The folder of a finished run, or of a model.", autocompletion=complete_run
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The task, see docs/tasks.md.")],
    shots: Annotated[
        int, typer.Option(metavar="K", parser=at_least(0), help="Demonstrations before each question.")
    ] = 0,
    side: Annotated[
        Literal["input", "output"],
        typer.Option(help="Where the question and its demonstrations stand."),
    ] = "input",
    pool: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The task to draw demonstrations from.", show_default="the other questions"
        ),
    ] = None,
    neutral: Annotated[
        str, typer.Option(metavar="TEXT", help="The input of choices against the unconditional.")
    ] = "",
    max_tokens: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Tokens of a written answer at most.")
    ] = 64,
    seed: Annotated[int, typer.Option(metavar="N", parser=at_least(0), help="Of the demonstrations.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Let a network answer a task: choices by likelihood, or written answers by exact match, chrF and ROUGE-L.

    Each figure is a mean over the questions, with its standard error.
    """
    from headtohead import load
    from headtohead.measure.tasks.files import read_task
    from headtohead.measure.tasks.judging import judge_choices, judge_writing
    from headtohead.measure.tasks.prompting import Prompting

    task = read_task(file)
    source = None if pool is None else read_task(pool)
    network = load(folder)
    prompting = Prompting(shots=shots, side=side, seed=seed)
    if task.by_choice:
        encode = network.tokenizer.encode
        judged = judge_choices(network, task, prompting, lambda text: len(encode(text)), source, neutral)
    else:
        judged = judge_writing(network, task, prompting, max_tokens, source)
    if as_json:
        how = {"shots": shots, "side": side, "seed": seed, "likelihood": network.likelihood}
        told = {**judged.as_json(), **how}
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
        return
    typer.echo(f"{judged.task}: {judged.questions} questions, {shots} demonstrations on the {side}'s side")
    if network.likelihood == "pseudo":
        typer.echo(
            "the network fills holes: its likelihoods are pseudo-likelihoods, not to be held against exact ones"
        )
    for name, figure in judged.figures.items():
        typer.echo(f"  {name:26} {figure.mean:.3f} ± {figure.standard_error:.3f}")
    if task.by_choice:
        typer.echo(f"  {'chance':26} {judged.chance:.3f}")
    typer.echo("± is one standard error, over the questions")


@app.command(
    "lm-eval",
    cls=Command,
    rich_help_panel=ANSWER,
    short_help="EleutherAI's harness, with --model headtohead.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def lm_eval(context: typer.Context) -> None:
    """Run EleutherAI's lm-evaluation-harness, which then knows --model headtohead: all that follows is its own
    command line.

    Such as: headtohead lm-eval run --model headtohead --model_args folder=RUN --tasks NAME --include_path DIR
    """
    from headtohead.interop.harness import main

    main(context.args)
