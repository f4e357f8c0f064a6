"""Linear attention: sums of keys and values instead of a softmax over pairs, in time linear in the length.

    out_i = Σ_j φ'(q_i)·φ'(k_j) v_j / Σ_j φ(q_i)·φ(k_j),   φ(x) = elu(x) + 1 > 0

(Katharopoulos et al., arXiv 2006.16236), j over what i sees. φ' is φ turned by RoPE: in the numerator alone,
so that the denominator stays positive (Su et al., arXiv 2104.09864, equation 19). Sums are in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from headtohead.model.batch import wide
from headtohead.model.visibility import INPUT, PADDING, Rule, anticausal, causal, full, prefix

CHUNK = 64
"""Places that are taken as pairs at once; between chunks only sums are handed on."""


class Extent(NamedTuple):
    """What a linear sublayer knows of who sees whom: the form of its rule, whether documents are apart, and
    for each place (B, T) its document, whether it is input, and its position.
    """

    form: str
    apart: bool
    document: Tensor
    input: Tensor


def features(x: Tensor) -> Tensor:
    """φ in fp32."""
    return F.elu(wide(x)) + 1


@dataclass
class LinearState:
    """What decoding keeps of all keys so far: Σ φ'(k) vᵀ (B, H, d_head, d_head) and Σ φ(k) (B, H, d_head).

    Its size does not grow with the length. A row is one document.
    """

    sums: Tensor
    totals: Tensor
    length: int = 0

    @property
    def filled(self) -> tuple[Tensor, Tensor]:
        return self.sums, self.totals


class Features(NamedTuple):
    """φ(q), φ(k) for the denominator; φ'(q), φ'(k) for the numerator; values: (B, H, T, d_head), fp32."""

    q: Tensor
    k: Tensor
    turned_q: Tensor
    turned_k: Tensor
    v: Tensor


def attend_pairs(f: Features, visible: Tensor) -> tuple[Tensor, Tensor]:
    """As the formula says, pair by pair, with the weights (B, H, Tq, Tk): they sum to 1 only without RoPE.

    visible (B, 1 or H, Tq, Tk). A query that sees nothing gets zeros.
    """
    products = (f.turned_q @ f.turned_k.transpose(-2, -1)).masked_fill(~visible, 0.0)
    norm = (f.q @ f.k.transpose(-2, -1)).masked_fill(~visible, 0.0).sum(dim=-1, keepdim=True)
    weights = products / norm.masked_fill(norm == 0, 1.0)
    return weights @ f.v, weights


def attend_sums(f: Features, extent: Extent, state: LinearState | None = None) -> Tensor:
    """The same output (B, H, T, d_head) by running sums, for rows whose documents lie one after another.

    With a state, its keys are seen too, by every token that is real, and the new keys are added to it.

    Raises:
        ValueError: a state that holds keys under a rule that lets earlier tokens see later ones.
    """
    real = extent.document != PADDING
    if state is not None and state.length and extent.form not in (causal.name, prefix.name):
        raise ValueError(f"linear attention under '{extent.form}' can't be continued from a cache")
    document = extent.document if extent.apart else extent.document.clamp(max=0)
    first = extent.form in (causal.name, full.name, prefix.name)
    out, norm = _running(f, document, real, state) if first else _backward(f, document, real)
    if extent.form == full.name or extent.form == prefix.name:
        among = real if extent.form == full.name else real & extent.input
        more, more_norm = _backward(f, document, among)
        own = (f.turned_q * f.turned_k).sum(-1, keepdim=True), (f.q * f.k).sum(-1)
        share = among[:, None, :, None]
        out = out + torch.where(share, more - own[0] * f.v, 0.0)
        norm = norm + torch.where(among[:, None], more_norm - own[1], 0.0)
    sees = real[:, None]
    if state is not None:
        _extend(state, f, real)
    return torch.where(sees[..., None], out / torch.where(sees, norm, 1.0)[..., None], 0.0)


def _backward(f: Features, document: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over a place and those after it."""
    turned = Features(*(x.flip(2) for x in f))
    out, norm = _running(turned, document.flip(1), real.flip(1), None)
    return out.flip(2), norm.flip(2)


def _running(f: Features, document: Tensor, real: Tensor, state: LinearState | None) -> tuple[Tensor, Tensor]:
    """Numerators (B, H, T, d_head) and denominators (B, H, T) over a place and those before it, of its
    document; `real`: which keys count.
    """
    b, h, t, d = f.q.shape
    keep = real[:, None, :, None].float()
    k, turned_k = f.k * keep, f.turned_k * keep
    sums = f.v.new_zeros(b, h, d, d) if state is None else state.sums
    totals = f.v.new_zeros(b, h, d) if state is None else state.totals
    # A state is of the row's one document; without one no document is open yet.
    open_document = (
        document.new_full((b, 1), PADDING) if state is None else document.amax(dim=1, keepdim=True)
    )
    outs, norms = [], []
    for start in range(0, t, CHUNK):
        some = slice(start, min(start + CHUNK, t))
        own = document[:, some]
        same = (own[:, :, None] == own[:, None, :]).tril()[:, None]
        products = (f.turned_q[:, :, some] @ turned_k[:, :, some].transpose(-2, -1)) * same
        pairs = (f.q[:, :, some] @ k[:, :, some].transpose(-2, -1)) * same
        goes_on = (own == open_document)[:, None].float()
        out = products @ f.v[:, :, some] + (f.turned_q[:, :, some] @ sums) * goes_on[..., None]
        norm = pairs.sum(-1) + (f.q[:, :, some] @ totals[..., None]).squeeze(-1) * goes_on
        outs.append(out)
        norms.append(norm)
        last = own[:, -1:]
        still = (last == open_document)[:, None].float()
        mine = (own == last)[:, None, :, None].float()
        sums = sums * still[..., None] + (turned_k[:, :, some] * mine).transpose(-2, -1) @ f.v[:, :, some]
        totals = totals * still + (k[:, :, some] * mine).sum(2)
        open_document = last
    return torch.cat(outs, dim=2), torch.cat(norms, dim=2)


def _extend(state: LinearState, f: Features, real: Tensor) -> None:
    keep = real[:, None, :, None].float()
    state.sums = state.sums + (f.turned_k * keep).transpose(-2, -1) @ f.v
    state.totals = state.totals + (f.k * keep).sum(2)
    state.length += f.k.shape[2]


def extent(form: Rule, apart: bool, document: Tensor, part: Tensor) -> Extent:
    """What `attend_sums` needs for a rule of that form."""
    assert form in (causal, anticausal, full, prefix)
    return Extent(form.name, apart, document, part == INPUT)
