"""Which objective makes sense for which network, and why the others don't.

One function decides, from the description alone; the table of the docs, the errors of a study and the laws all
ask it.
"""

from __future__ import annotations

from collections.abc import Sequence

from headtohead.data.objectives import BlankInfilling, CausalLM, Objective, UniLM
from headtohead.data.objectives.text import TextToText
from headtohead.data.packing import Supervise
from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.parts import TwoDimensional
from headtohead.model.reach import sees_its_answer


def senseless(objective: Objective, a: Architecture, supervise: Supervise = "output") -> str | None:
    """Why this network can't learn this way, or would learn nothing that it is for; None if it can."""
    one_row = a.output_stream.holds == "both"
    ahead, fills = sees_its_answer(a, "all"), sees_its_answer(a, "output")
    if objective.in_place != (supervise == "holes"):
        return "holes answered in place carry all the loss, and nothing else does: supervise = 'holes'"
    if supervise == "all":
        if not isinstance(objective, TextToText):
            return "its input is text with something missing, which nobody wants to be written"
        if not one_row:
            return "an input stream predicts nothing"
        if ahead:
            return "who sees the input's later tokens can't be asked to predict them"
    if objective.in_place:
        return _in_place(objective, a, one_row, ahead, fills)
    if fills:
        return "who sees the output's later tokens can't be asked to write them: it fills holes"
    if isinstance(objective, CausalLM) and not one_row:
        return "its input is empty, so the stream that holds the input would learn from nothing"
    if (
        isinstance(objective, BlankInfilling)
        and objective.spans != "document"
        and not isinstance(a.positions, TwoDimensional)
    ):
        return "its blanks are all alike: only two-dimensional positions tell which one is being filled"
    return None


def _in_place(objective: Objective, a: Architecture, one_row: bool, ahead: bool, fills: bool) -> str | None:
    if not one_row or a.two_streams:
        return "holes are answered where they are, and the stream that holds them predicts nothing"
    if not ahead:
        return "who sees nothing after a hole answers it from one side: that is causal language modelling"
    if isinstance(objective, UniLM) and fills:
        return "its four masks need a view that differs by part: whole in the input, causal in the output"
    return None


def check(objectives: Sequence[Objective], a: Architecture, supervise: Supervise) -> None:
    """Whether all of them make sense for a network.

    Raises:
        UserError: with the first that doesn't, and why.
    """
    for objective in objectives:
        if reason := senseless(objective, a, supervise):
            kind = type(objective).model_fields["kind"].default
            raise UserError(
                f"{a.name} can't learn by the objective '{kind}' with supervise = '{supervise}': {reason}"
            )
