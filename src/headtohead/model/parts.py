"""The parts of a network's description that are no streams: positions, norms, biases, embeddings, head.

Each is a table of a file, frozen, and refuses unknown keys. What each costs is in `budget.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Field(strict=False)]
"""A list of a file, as the tuple of a frozen description."""


class Frozen(BaseModel):
    """A description: immutable, and any key it doesn't know is an error."""

    # Strict: a count of true or in quotes is a slip to be told, not to be repaired in silence.
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, strict=True, allow_inf_nan=False
    )


# ------------------------------------------------------------------------------------------------------------
# Positions. `across` says where a stream that holds the output alone stands to one that holds the input:
# "continuous" (its tokens count on from the input's last), "restarted" (they count from 0 again) or, for the
# encodings that act in attention, "off" (attention to another stream knows no positions). In one stream there
# is nothing to go across.

Across = Literal["continuous", "restarted", "off"]


class Rope(Frozen):
    """Rotary position embedding (Su et al., arXiv 2104.09864): queries and keys turned by their positions."""

    kind: Literal["rope"] = "rope"
    base: float = Field(default=10_000.0, gt=1)
    across: Across = "continuous"


class Learned(Frozen):
    """A learned vector for each of `length` positions, added to the embedding; a table for each stream."""

    kind: Literal["learned"] = "learned"
    length: PositiveInt = 2048
    across: Literal["continuous", "restarted"] = "continuous"


class Sinusoidal(Frozen):
    """Sines and cosines of the position, added to the embedding (Vaswani et al., arXiv 1706.03762)."""

    kind: Literal["sinusoidal"] = "sinusoidal"
    base: float = Field(default=10_000.0, gt=1)
    across: Literal["continuous", "restarted"] = "continuous"


class RelativeBias(Frozen):
    """T5's relative bias (Raffel et al., arXiv 1910.10683): a learned number for each head and bucket of
    distance, added to the scores; one table for all layers of a stream.

    Half of the buckets are exact distances, half grow logarithmically up to `farthest`. `directions`: "seen"
    gives all buckets to the past where no read of the stream sees a later token, and half to each direction
    elsewhere; "both" always parts them, so that arms of unequal visibility have equal buckets.
    """

    kind: Literal["t5"] = "t5"
    buckets: int = Field(default=32, ge=4, multiple_of=4)
    farthest: PositiveInt = 128
    directions: Literal["seen", "both"] = "seen"
    across: Across = "continuous"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.farthest <= self.buckets // 2:
            raise ValueError(
                f"farthest = {self.farthest}: with {self.buckets} buckets it must be more than the "
                f"{self.buckets // 2} exact distances"
            )
        return self


class Alibi(Frozen):
    """ALiBi (Press et al., arXiv 2108.12409): each head's scores fall by its slope for each position of
    distance, in both directions alike; under a causal rule that is the paper's form.
    """

    kind: Literal["alibi"] = "alibi"
    across: Across = "continuous"


class TwoDimensional(Frozen):
    """GLM's positions (Du et al., arXiv 2103.10360): two learned vectors, added to the embedding: where in
    the input a token's span belongs, and its place within the span (0 in the input itself).
    """

    kind: Literal["glm"] = "glm"
    length: PositiveInt = 2048


class NoPositions(Frozen):
    """No encoding: order is known from visibility alone (Haviv et al., arXiv 2203.16634)."""

    kind: Literal["none"] = "none"


AnyPositions = Rope | Learned | Sinusoidal | RelativeBias | Alibi | TwoDimensional | NoPositions


def _kind(value: Any) -> Any:
    """``positions = "rope"`` is short for ``{ kind = "rope" }``."""
    return {"kind": value} if isinstance(value, str) else value


Positions = Annotated[AnyPositions, Field(discriminator="kind"), BeforeValidator(_kind)]
LayerPositions = Annotated[
    Rope | NoPositions,
    Field(discriminator="kind"),
    BeforeValidator(_kind),
]


# ------------------------------------------------------------------------------------------------------------


class Norms(Frozen):
    """The norms around and inside the sublayers.

    `kind`: RMSNorm, or LayerNorm (with `bias` if wished). `place`: before each sublayer, with a final norm
    for each stream; after the residual sum (the 2017 Transformer, BERT: no final norm); or both before the
    sublayer and on what it returns (Gemma 2: a final norm too). These have weights.

    `query_key` and `value` are RMS norms over the head dimension (bounding the attention logits to ±√d_head),
    `output` one over the width of the concatenated heads before the output projection: without weights,
    except that queries and keys get one of d_head each with `query_key_weights` (Qwen3).
    """

    kind: Literal["rms", "layer"] = "rms"
    place: Literal["before", "after", "both"] = "before"
    bias: bool = False
    epsilon: float = Field(default=1e-6, gt=0)
    query_key: bool = True
    query_key_weights: bool = False
    value: bool = True
    output: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.query_key_weights and not self.query_key:
            raise ValueError(
                "query_key_weights are those of the norm of queries and keys: set query_key = true"
            )
        if self.bias and self.kind == "rms":
            raise ValueError("an RMSNorm has no bias: set bias = false, or kind = 'layer'")
        return self


class Scores(Frozen):
    """How queries score keys: q·k times `scale` (1/√d_head if left out), then `soft_cap` · tanh(x / soft_cap)
    if there is a cap (Gemma 2).
    """

    scale: float | None = Field(default=None, gt=0)
    soft_cap: float | None = Field(default=None, gt=0)


class Biases(Frozen):
    """Which projections have biases: those of attention (query, key, value, output), the feed-forward's."""

    attention: bool = False
    feed_forward: bool = False


class Embeddings(Frozen):
    """Token embeddings: one table `shared` by all streams or one each; `tied`: the last stream's is the
    output head's matrix too. `scaled`: times √d_model; `norm`: a norm after all that is added up; `segments`:
    a learned vector for the input and one for the output part is added.
    """

    shared: bool = True
    tied: bool = True
    scaled: bool = False
    norm: bool = False
    segments: bool = False


class Head(Frozen):
    """From final states to logits. `transform`: dense, GELU and norm first (BERT); `bias`: of the logits;
    `scaled`: logits times 1/√d_model (T5 v1.0); `soft_cap`: `soft_cap` · tanh(logits / soft_cap) (Gemma 2).
    """

    transform: bool = False
    bias: bool = False
    scaled: bool = False
    soft_cap: float | None = Field(default=None, gt=0)


FeedForward = Literal["swiglu", "geglu", "geglu-tanh", "gelu", "gelu-tanh", "relu", "relu2"]
"""The feed-forward's activation; the -glu ones have a gate, and so a third matrix (Shazeer, arXiv
2002.05202). ``-tanh``: GELU's approximation by tanh.
"""


GATED: frozenset[FeedForward] = frozenset({"swiglu", "geglu", "geglu-tanh"})


class Width(Frozen):
    """How wide the layers of one stream are. `key_heads`: fewer heads of keys and values than of queries
    (grouped: Ainslie et al., arXiv 2305.13245; 1 is multi-query), None for as many.
    """

    d_model: PositiveInt
    heads: PositiveInt
    d_head: PositiveInt
    key_heads: PositiveInt | None = None

    @property
    def queries(self) -> int:
        """Components of all heads' queries together."""
        return self.heads * self.d_head

    @property
    def keys(self) -> int:
        """Components of all heads' keys together, and of the values."""
        return (self.key_heads or self.heads) * self.d_head
