"""Watching a run: does a fresh network start where it should, and is a step's loss out of the ordinary?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

import torch

from headtohead.errors import UserError
from headtohead.model.batch import Batch
from headtohead.model.transformer import Transformer
from headtohead.train.runtime import Runtime

WINDOW = 64
"""How many of the last steps' losses say how much they differ from one to the next."""
NEAR = 16
"""How many of the last say what is usual."""
FEWEST = 32
"""Before there are so many, nothing is a spike."""
SPREADS = 6.0
"""How many robust standard deviations above the median a loss has to be."""
LEAST_RISE = 0.02
"""... and how far above it at the least, as a share of it: on a flat curve any step is many deviations away."""
NORMAL = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""
START_TOLERANCE = 0.02
PLACES = 256


def is_spike(recent: Sequence[float], nats: float) -> bool:
    """Whether a step's loss stands out above those of the steps before it (`recent`, nats per token).

    Above the median of the last 16 by more than 6 robust standard deviations and by more than 2 %. The deviation is
    1.4826 · the median absolute difference of neighbours / √2 over the last 64: medians are not moved by the spikes
    themselves, and differences not by a loss that falls.
    """
    if len(recent) < FEWEST:
        return False
    usual = statistics.median(recent[-NEAR:])
    spread = NORMAL / math.sqrt(2) * statistics.median(abs(b - a) for a, b in pairwise(recent))
    return nats - usual > max(SPREADS * spread, LEAST_RISE * abs(usual))


@torch.no_grad()
def start_nats(model: Transformer, batch: Batch, runtime: Runtime) -> float:
    """Nats per token on a batch's first supervised places, averaged over every token of the vocabulary as the
    target: what `model.loss` gives in expectation where targets are drawn evenly.

    The batch's own targets are no measure of a network that knows nothing: text has few distinct tokens, and
    whether chance favours those moves the loss by ±2 % from seed to seed; this mean by ±0.2 %. Computed eagerly in
    the run's precision; draws no random number.
    """
    with runtime.autocast():
        h = model.hidden(batch.streams).flatten(0, 1)
        carries = batch.weights.flatten().nonzero().squeeze(1)[:PLACES]
        logits = model.next_logits(h[carries])
    return float((logits.logsumexp(-1) - logits.mean(-1)).mean())


def check_start(model: Transformer, batches: Sequence[Batch], runtime: Runtime) -> None:
    """Whether a fresh network under `blocks.initialise` starts at ln V within 2 %, on its first batch.

    A loss that isn't finite is left to the first step, which says where it begins.

    Raises:
        UserError: it starts elsewhere, so its init or its head is not what was meant.
    """
    batch = next(batch for batch in batches if bool(batch.weights.any()))
    found, wanted = start_nats(model, batch, runtime), math.log(model.architecture.vocabulary)
    if math.isfinite(found) and abs(found / wanted - 1) > START_TOLERANCE:
        raise UserError(
            f"{model.architecture.name} starts at a loss of {found:.2f} nats per token, {found / wanted - 1:+.1%} off "
            f"ln {model.architecture.vocabulary} = {wanted:.2f}, where a network that knows nothing is: more than "
            f"{START_TOLERANCE:.0%} says that its init or its head (scale, cap, norms) is wrong, so it is not trained"
        )
