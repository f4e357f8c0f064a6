"""The network that is recommended: the file it is trained by, and how its training ended."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headtohead.errors import UserError
from headtohead.files import read_json
from headtohead.study.choosing import candidates
from headtohead.study.choosing.candidates import Plan
from headtohead.study.results import is_done
from headtohead.study.tuning import for_horizon


def result(folder: Path) -> dict[str, Any] | None:
    """The result of a training, None while there is none; its "status" is "stopped" where the loss was not finite.

    Raises:
        UserError: it is damaged.
    """
    if not is_done(folder):
        return None
    found = read_json(folder / "result.json", "the result")
    if not isinstance(found, dict) or "status" not in found:
        raise UserError(
            f"the result {folder / 'result.json'} is damaged: delete it, and the run is done again"
        )
    return found


def check(out: Path, label: str, text: Sequence[Path], pairs: Path | None, field: str) -> None:
    """Whether the training in OUT/winner came to its end, as far as it is done.

    Args:
        label: of its architecture. text, pairs, field: what it was trained on.

    Raises:
        UserError: its loss was not finite; with the command that trains it otherwise.
    """
    found = result(out / "winner")
    if found is not None and found["status"] != "finished":
        raise UserError(
            f"the {label} is recommended, but its training in {out / 'winner'} stopped ({found['reason']}), and would "
            f"stop again; train it with half of the learning rate: {again(out, text, pairs, field)}"
        )


def again(out: Path, text: Sequence[Path], pairs: Path | None, field: str) -> str:
    """The command that trains the recommended network with half of its learning rate."""
    run = read_json(out / "winner" / "run.json", "the run")
    words = ["headtohead", "train", str(out / "winner.toml")]
    words += ["--text", *map(str, text)] if pairs is None else ["--pairs", str(pairs)]
    words += [] if field == "text" else ["--field", field]
    words += ["--set", f"recipe.learning_rate={run['recipe']['learning_rate'] / 2:.3g}"]
    return shlex.join([*words, "--out", str(out / "winner-2")])


def tables(plan: Plan, arm: str, steps: int, out: Path) -> dict[str, Any]:
    """The tables of the training file of an arm's network: that of the upper rung, with its settings.

    Raises:
        UserError: the ladder's plan or learning rates, which are missing or damaged.
    """
    told = read_json(out / "upper" / "plan.json", "the plan")
    found = next(entry for entry in told["arms"] if entry["key"] == arm)
    rates = read_json(out / "rates.json", "the learning rates")
    rate = for_horizon(rates["arms"][arm]["optimum"], rates["steps"], steps, candidates.HORIZON_EXPONENT)
    network = {
        k: v for k, v in found["architecture"].items() if k not in ("name", "vocabulary") and v is not None
    }
    return {
        "kind": "train",
        "name": "winner",
        "title": f"{found['label']}, chosen by headtohead choose",
        **({"objective": "prefix"} if plan.kind == "text" else {}),
        "supervise": found["supervise"],
        "architecture": network,
        "data": {k: v for k, v in plan.data.items() if k != "regions"},
        "recipe": {
            **candidates.comparison(plan, "upper")["recipe"],
            "learning_rate": rate,
            "steps": steps,
            "warmup_steps": max(1, min(200, steps // 10)),
            "threads": os.cpu_count() or 1,
            "seed": 1,
        },
        "evaluation": {"points": 6, "windows": 400},
    }
