"""What a study file is made of below its arms: names, text and how it is cut, parts of networks, what is matched.

Nothing here imports torch.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from headtohead.data.objectives import MaskedLM, Objective, PrefixLM, Restoration
from headtohead.data.packing import fits_row
from headtohead.model.matching import On
from headtohead.model.parts import (
    Biases,
    Embeddings,
    FeedForward,
    Head,
    Listed,
    Norms,
    Positions,
    Scores,
)


def _key(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", text):
        raise ValueError("write lower-case letters, digits and hyphens, such as first-look")
    return text


Key = Annotated[str, AfterValidator(_key)]
"""What names a folder, a column and a `--set` path: lower-case letters, digits and hyphens."""
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Region = Literal["continuation", "restoration", "holes"]
RISE = "rise"
"""What the longest of `evaluation.lengths` costs more than the training length: judged as a region is."""
IN_PLACE = ("holes",)
"""Regions whose answers stand in the text: scored for networks that fill holes, and for no others."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]

DIMENSIONS: dict[str, str] = {
    "objective": "what is learnt from a document",
    "depth": "layers in all streams together",
    "d_ff": "width of the feed-forward",
    "d_model": "width",
    "heads": "attention heads",
    "norms": "norms",
    "positions": "position encoding",
    "feed_forward": "activation and biases",
    "embeddings": "embeddings and head",
    "scores": "attention's scores and heads of keys",
    "visibility": "who sees whom",
    "sharing": "one stack or two",
    "supervision": "which tokens carry loss",
    "parameters": "total parameters, beyond 1 %",
    "tokens_supervised": "tokens that carry loss",
    "tokens_padding": "padding in the rows",
    "visible_pairs": "visible (query, key, head) triples",
    "flops": "training FLOPs",
    "learning_rate": "learning rate, tuned for each arm with as many trials",
    "optimizer": "the optimizer",
    "schedule": "the schedule of the learning rate",
    "recipe": "any other setting of the training",
}
"""What two arms may differ in, if the study says so. The same documents in the same order are not on the
list.
"""


class Frozen(BaseModel):
    # Strict: a number in quotes or a count of true is a slip to be told, not to be repaired in silence.
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, strict=True, allow_inf_nan=False
    )


class DataSettings(Frozen):
    """From documents to rows. Sizes of `row` and `side` are tokens, `window_bytes` is bytes of text.

    `text`: where nothing else is given, data that was fetched by name, or a path (`texts`). `out_of_domain`: texts of
    the same forms that every run is scored on too, `out_of_domain_windows` of each region.
    """

    text: Text | None = None
    out_of_domain: Listed[Text] = ()
    out_of_domain_windows: PositiveInt = 200
    tokenizer: Literal["bpe", "bytes"] = "bpe"
    vocabulary: PositiveInt = 2048
    window_bytes: int = Field(ge=16)
    row: int = Field(ge=8, le=2**16)
    side: int = Field(ge=4, le=2**16)
    restoration: Literal["vowels", "order"] = "vowels"
    regions: Listed[Region] = Field(default=("continuation", "restoration"), min_length=1)
    tune: float = Field(default=0.05, gt=0, lt=0.5)
    test: float = Field(default=0.08, gt=0, lt=0.5)

    def objective(self, region: str) -> Objective:
        """What cuts a window for a region."""
        if region in IN_PLACE:
            return MaskedLM()
        return PrefixLM() if region == "continuation" else Restoration(removed=self.restoration)

    def fits(self, input_tokens: int, output_tokens: int) -> bool:
        """Whether an example fits a row of one stream and both sides of two (`data.packing.plan_rows`)."""
        return fits_row(input_tokens, output_tokens, self.row, self.side)


class NetworkParts(Frozen):
    """What a study or an arm may say of a network beside its sizes and streams.

    Each is taken whole: an arm's over the study's over those of the arm's preset, or the defaults where streams
    are written out.
    """

    positions: Positions | None = None
    norms: Norms | None = None
    key_heads: PositiveInt | None = None
    feed_forward: FeedForward | None = None
    scores: Scores | None = None
    biases: Biases | None = None
    embeddings: Embeddings | None = None
    head: Head | None = None

    @model_serializer(mode="wrap")
    def _as_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Sizes first, and without the later keys where nobody said them: a study that was written down before
        there were these keys is written the same today.
        """
        said = write(self)
        names = [k for k in said if k not in NetworkParts.model_fields] + list(NetworkParts.model_fields)
        return {k: said[k] for k in names if said[k] is not None or k not in LATER_PARTS}


LATER_PARTS = ("key_heads", "feed_forward", "scores", "biases", "embeddings", "head")


class Shared(NetworkParts):
    """What all arms share; an arm's own `architecture` table goes over it."""

    d_model: PositiveInt
    heads: PositiveInt
    d_head: PositiveInt
    d_ff: PositiveInt


class ArmArchitecture(NetworkParts):
    """An arm's network: a preset's streams, or streams written out; sizes and parts of its own where they are
    given.
    """

    preset: str | None = None
    depths: Listed[PositiveInt] | None = None
    streams: Listed[Any] | None = None
    d_model: PositiveInt | None = None
    heads: PositiveInt | None = None
    d_head: PositiveInt | None = None
    d_ff: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.preset is None) == (self.streams is None):
            raise ValueError("give either 'preset' or 'streams'")
        if self.depths is not None and self.preset is None:
            raise ValueError("'depths' goes with 'preset'; in 'streams' each layer says 'repeat'")
        return self


def _on(value: Any) -> Any:
    if value in ("supervised", "supervised_tokens", "tokens_supervised"):
        raise ValueError("no shape of a network changes how many tokens carry loss: that is 'supervise'")
    return value


class Matching(Frozen):
    """To which other arm a network is made equal, and in what.

    `input` and `output`: places of the example that FLOPs and cache are counted for, special tokens included.
    `within`: how far off it may be, as a share; sizes are whole numbers, and coarse where networks are small.
    """

    to: Key
    on: Annotated[On, BeforeValidator(_on)] = "parameters"
    input: PositiveInt | None = None
    output: PositiveInt | None = None
    within: float = Field(default=0.01, gt=0, le=0.1)

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.on in ("parameters", "non_embedding"):
            if self.input is not None or self.output is not None:
                raise ValueError(
                    f"on = '{self.on}' is the same for every length: leave 'input' and 'output' out"
                )
        elif self.input is None or self.output is None:
            raise ValueError(f"on = '{self.on}' needs the tokens of an example: give 'input' and 'output'")
        return self

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> Any:
        """The arm's name alone where that says all, as it can be written."""
        said = {key: value for key, value in write(self).items() if key != "within" or value != 0.01}
        return self.to if said.keys() <= {"to", "on", "input", "output"} and self.on == "parameters" else said


def as_matching(value: Any) -> Any:
    """``match = "prefix"`` is short for ``{ to = "prefix", on = "parameters" }``."""
    if isinstance(value, str):
        return {"to": value}
    if value is not None and not isinstance(value, dict | Matching):
        raise ValueError(
            "name an arm in quotes, or write a table such as { to = 'prefix', on = 'cache_bytes' }"
        )
    return value
