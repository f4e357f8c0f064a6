"""Where the tokens of rows stand that are told by ids and masks alone: `Tokens` of them. transformers is not needed."""

from __future__ import annotations

import torch
from torch import Tensor

from headtohead.model.batch import Tokens
from headtohead.model.visibility import OUTPUT, PADDING


def real_places(ids: Tensor, mask: Tensor | None) -> Tensor:
    """Which places hold a token (B, T). A mask may be of all places so far: the new ones are the last."""
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.dim() != 2:
        raise ValueError(f"an attention_mask has the shape (rows, tokens), not {list(mask.shape)}")
    return mask[:, -ids.shape[1] :].to(torch.bool)


def placed(
    ids: Tensor,
    real: Tensor,
    part: Tensor,
    before: Tensor | int = 0,
    written: Tensor | int = 0,
) -> Tokens:
    """The tokens (B, T) of a row where they stand, counted over the places that are `real`.

    before, written (B, 1): how many tokens, and tokens of the output, stand in front of them.
    """
    output = real & (part == OUTPUT)
    return Tokens(
        ids,
        torch.where(real, before + real.cumsum(dim=1) - 1, 0),
        torch.where(real, 0, PADDING),
        part,
        torch.where(output, written + output.cumsum(dim=1), 0),
    )
