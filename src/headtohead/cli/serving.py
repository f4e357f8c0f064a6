"""The command that serves networks."""

from __future__ import annotations

from typing import Annotated

import typer

from headtohead.cli.base import EXCHANGE, Command, app, at_least, complete_run
from headtohead.errors import UserError


@app.command(cls=Command, rich_help_panel=EXCHANGE, short_help="Serve networks by OpenAI's API, with a page.")
def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RUN",
            help="Finished runs or model folders; NAME is what clients call it.",
            autocompletion=complete_run,
        ),
    ],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 is open to other machines.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", parser=at_least(0), help="The port; 0 takes any that is free.")
    ] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            envvar="HEADTOHEAD_API_KEY",
            help="Let in only who sends this key. Repeatable.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="The most that one answer may have.")
    ] = 512,
    context: Annotated[
        int, typer.Option(metavar="N", parser=at_least(2), help="Tokens of a prompt and its answer together.")
    ] = 1024,
    slots: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Texts written at once, for each model.")
    ] = 64,
    queue: Annotated[
        int, typer.Option(metavar="N", parser=at_least(0), help="Requests that may wait, for each model.")
    ] = 128,
    timeout: Annotated[
        int, typer.Option(metavar="SECONDS", parser=at_least(1), help="The longest that an answer may take.")
    ] = 300,
    precision: Annotated[
        str, typer.Option(metavar="TYPE", help="What is computed in: bf16 or fp32.")
    ] = "bf16",
    threads: Annotated[
        int | None, typer.Option(metavar="N", parser=at_least(1), help="Threads.", show_default="all cores")
    ] = None,
) -> None:
    """Serve networks to whoever speaks OpenAI's API: completions, chats, streamed or whole, and embeddings of encoders;
    with /health, /metrics for Prometheus, and at / a page to talk to one network, or to two side by side.

    Requests are written together, and join and leave as they come. Ctrl-C lets what is being written end, and stops
    within 5 seconds. Nothing is loaded from outside, and only this machine is listened to unless --host says otherwise.
    """
    try:
        from headtohead.serve import running
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in ("fastapi", "uvicorn", "starlette", "h11"):
            raise
        raise UserError(f"serve needs {missing.name}: pip install 'headtohead[serve]'") from None
    from headtohead.serve.settings import Settings

    settings = Settings(
        host=host,
        port=port,
        keys=tuple(api_key or ()),
        slots=slots,
        queue=queue,
        context=context,
        max_tokens=max_tokens,
        request_seconds=float(timeout),
    )
    running.serve(
        runs, settings, running.runner_maker(precision, threads), lambda line: typer.echo(line, err=True)
    )
