"""Which special ids surround text: what a network expects before and after the input, what starts the output
and what ends it.
"""

from __future__ import annotations

from pydantic import NonNegativeInt

from headtohead.data.shards import END, PAD, PAIR, SPECIALS, START
from headtohead.model.parts import Frozen, Listed


class Frame(Frozen):
    """Ids around text.

    before, after: put around the input. start: begins the output (in one row with the input, the output part
    begins with it). ends: each of them ends the output. never: ids that are never written. pad: fills rows;
    what it is has no effect. mask: the hole of a network that fills holes.
    """

    before: Listed[NonNegativeInt] = ()
    after: Listed[NonNegativeInt] = ()
    start: Listed[NonNegativeInt] = ()
    ends: Listed[NonNegativeInt] = ()
    never: Listed[NonNegativeInt] = ()
    pad: NonNegativeInt = 0
    mask: NonNegativeInt | None = None

    @property
    def highest(self) -> int:
        """The largest id that it names."""
        masks = () if self.mask is None else (self.mask,)
        return max((*self.before, *self.after, *self.start, *self.ends, *self.never, self.pad, *masks))


def own_frame(mode: int = PAIR, mask: int | None = None) -> Frame:
    """The frame of a network that a study trained, for the task with that mode token."""
    return Frame(
        before=(mode,),
        start=(START,),
        ends=(END,),
        never=tuple(i for i in range(len(SPECIALS)) if i != END),
        pad=PAD,
        mask=mask,
    )
