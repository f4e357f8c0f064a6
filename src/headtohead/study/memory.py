"""What training takes of memory, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import get_args

from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.errors import UserError
from headtohead.model.presets import architecture
from headtohead.train.memory import Precision, training_memory
from headtohead.train.optimizers import Keeping
from headtohead.validation import suggest

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
OPTIMIZERS: dict[Keeping, str] = {
    "adamw": "AdamW",
    "muon": "Muon with AdamW",
    "adafactor": "Adafactor",
    "adafactor-factored": "Adafactor, factored",
}


def print_memory(
    names: Sequence[str], batch: int, input: int, output: int, precision: str, optimizer: str, as_json: bool
) -> None:
    """Print the bytes of `training_memory` for each network by name, for a micro-batch of `batch` examples.

    Raises:
        UserError: an unknown name, precision or optimizer, or more tokens than a network has learned positions for.
    """
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: it should be {' or '.join(PRECISIONS)}")
    if optimizer not in OPTIMIZERS:
        raise UserError(f"--optimizer {optimizer}: {suggest(optimizer, OPTIMIZERS)}")
    found = {}
    for name in names:
        a = architecture(name)
        if a.context is not None and input + output > a.context:
            raise UserError(
                f"{name} has learned positions for {a.context} tokens: give --input and --output of that many in all"
            )
        found[name] = training_memory(a, batch, input, output, precision, optimizer)
    if as_json:
        about = {
            "batch": batch,
            "input": input,
            "output": output,
            "precision": precision,
            "optimizer": optimizer,
        }
        print(json.dumps({**about, "bytes": found}, indent=1))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right", no_wrap=True)
    for part in next(iter(found.values())):
        last = part == "total"
        table.add_row(part, *(told(of[part]) for of in found.values()), style="bold" if last else "")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Of a batch of {batch} examples of {input} + {output} tokens, {precision}, {OPTIMIZERS[optimizer]}. "
        "Attention, feed-forward and rest are what the backward pass needs of an eager forward pass; compiled it is "
        "no more."
    )


def told(count: int) -> str:
    """Bytes for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"
