"""Which special ids surround text: what a network expects before and after the input, what starts the output
and what ends it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import NonNegativeInt

from headtohead.data.objectives.base import Given, Manner, shares
from headtohead.data.shards import END, PAD, PAIR, SPECIALS, START
from headtohead.model.parts import Frozen, Listed


class Frame(Frozen):
    """Ids around text.

    before, after: put around the input. start: begins the output (in one row with the input, the output part
    begins with it). ends: each of them ends the output. never: ids that are never written. pad: fills rows;
    what it is has no effect. mask: the hole of a network that fills holes. given: where the input's text stands: as
    the input, at the beginning of the output (after `start`: a network that learnt whole texts as outputs), or in both
    (one that learnt to write its input out before what is new). in_place: holes are answered where they stand, and
    nothing is written after an input.
    """

    before: Listed[NonNegativeInt] = ()
    after: Listed[NonNegativeInt] = ()
    start: Listed[NonNegativeInt] = ()
    ends: Listed[NonNegativeInt] = ()
    never: Listed[NonNegativeInt] = ()
    pad: NonNegativeInt = 0
    mask: NonNegativeInt | None = None
    given: Given = "input"
    in_place: bool = False

    def around(self, text: Sequence[int]) -> tuple[list[int], list[int]]:
        """The input part of an input's ids, and what is given of the output part."""
        shown, begun = shares(self.given, text)
        return [*self.before, *shown, *self.after], [*self.start, *begun]

    @property
    def highest(self) -> int:
        """The largest id that it names."""
        masks = () if self.mask is None else (self.mask,)
        return max((*self.before, *self.after, *self.start, *self.ends, *self.never, self.pad, *masks))


def own_frame(manner: Manner | None = None, mask: int | None = None, in_place: bool = False) -> Frame:
    """The frame of a network that was trained here: in the manner of its objective, or as pairs are shown."""
    manner = manner or Manner(PAIR)
    return Frame(
        before=(manner.mode,),
        after=manner.after,
        start=(START, *manner.start),
        given=manner.given,
        in_place=in_place,
        ends=(END,),
        never=tuple(i for i in range(len(SPECIALS)) if i != END),
        pad=PAD,
        mask=mask,
    )
