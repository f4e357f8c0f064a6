"""First weights from another network: equal where they should be, told where not, refused where they don't fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.batch import Batch, Tokens
from headtohead.model.parts import Embeddings, Norms, RelativeBias
from headtohead.model.presets import architecture
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors
from headtohead.train.inherit import inherit

SIZES: dict[str, Any] = {
    "d_model": 16,
    "heads": 2,
    "d_head": 8,
    "vocabulary": 40,
    "norms": Norms(query_key=True),
}


def one(visibility: str, **changes: Any) -> Architecture:
    sizes = {**SIZES, **changes}
    return one_stack(
        f"one-{visibility}", visibility, depth=sizes.pop("depth", 2), d_ff=sizes.pop("d_ff", 32), **sizes
    )


def two(visibility: str, **changes: Any) -> Architecture:
    sizes = {**SIZES, **changes}
    depths = sizes.pop("depths", (2, 2))
    return two_stacks(f"two-{visibility}", visibility, depths=depths, d_ff=sizes.pop("d_ff", 32), **sizes)


def tokens(ids: torch.Tensor, part: int, first: int = 0) -> Tokens:
    """One document a row, all of one part."""
    rows, length = ids.shape
    zeros = torch.zeros_like(ids)
    position = torch.arange(first, first + length).expand(rows, -1).contiguous()
    return Tokens(ids, position, zeros, zeros + part, zeros)


def text(part: int, rows: int = 3, length: int = 7) -> torch.Tensor:
    return torch.randint(7, 40, (rows, length), generator=torch.Generator().manual_seed(part))


def made(source: Architecture, target: Architecture, seed: int = 1) -> tuple[Transformer, Transformer, Any]:
    """A source whose weights are no longer those of an init, the target that inherits, and the summary."""
    giver = Transformer(source, 0)
    with torch.no_grad():
        for parameter in giver.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
    taker = Transformer(target, seed)
    weights = {name: tensor.detach().clone() for name, tensor in named_tensors(giver).items()}
    return giver, taker, inherit(taker, source, weights)


def test_causal_to_prefix_changes_visibility_alone() -> None:
    giver, taker, found = made(one("causal"), one("prefix"))
    assert not found.new and not found.left and not found.differs
    output = {"text": tokens(text(1), part=1)}  # all output: both masks are causal there
    assert torch.equal(giver.hidden(output), taker.hidden(output))
    given = {"text": tokens(text(1), part=0)}  # all input: they differ
    assert not torch.allclose(giver.hidden(given), taker.hidden(given), atol=1e-3)


def test_decoder_to_encoder_decoder_as_t5gemma() -> None:
    """The encoder is the decoder under a full view; cross-attention is a copy of self-attention."""
    giver, taker, found = made(one("causal"), two("full"))
    assert not found.new and not found.left
    under_full = Transformer(one("full"), 3)
    inherit(under_full, giver.architecture, named_tensors(giver))
    ids = text(2)
    given, written = tokens(ids, part=0), tokens(text(3), part=1, first=ids.shape[1])
    kept: dict[str, torch.Tensor] = {}

    def keep(module: torch.nn.Module, given: object, out: torch.Tensor) -> None:
        kept["encoder"] = out

    taker.final_norms["input"].register_forward_hook(keep)
    taker.hidden({"input": given, "output": written})
    assert torch.equal(kept["encoder"], under_full.hidden({"text": given}))
    own, theirs = named_tensors(taker), named_tensors(giver)
    for layer in range(2):
        for name in ("query", "key_value", "out"):
            source = theirs[f"stacks.text.{layer}.attentions.0.{name}.weight"]
            for place in ("input.{}.attentions.0", "output.{}.attentions.0", "output.{}.attentions.1"):
                assert torch.equal(own[f"stacks.{place.format(layer)}.{name}.weight"], source), place
    assert torch.equal(own["embedding"], theirs["embedding"])


def test_encoder_decoder_to_decoder_leaves_out_what_has_no_role() -> None:
    giver, taker, found = made(two("full"), one("causal"))
    own, theirs = named_tensors(taker), named_tensors(giver)
    assert torch.equal(
        own["stacks.text.1.attentions.0.out.weight"], theirs["stacks.output.1.attentions.0.out.weight"]
    )
    assert not found.new
    assert "stacks.output.0.attentions.1.query.weight" in found.left
    assert any("stacks.output.*.attentions.1" in line for line in found.lines())


def test_encoder_decoder_to_encoder_decoder_is_the_same_network() -> None:
    giver, taker, found = made(two("full"), two("causal"))
    own, theirs = named_tensors(taker), named_tensors(giver)
    assert not found.new and not found.left
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("source", "target", "tensor", "of"),
    [
        (Embeddings(), Embeddings(tied=False), "matrix", "embedding"),
        (Embeddings(shared=False), Embeddings(), "embedding", "embeddings.text"),
        (Embeddings(), Embeddings(shared=False), "embeddings.text", "embedding"),
        (Embeddings(tied=False), Embeddings(tied=False), "matrix", "matrix"),
    ],
)
def test_embeddings_are_tied_as_the_target_says(
    source: Embeddings, target: Embeddings, tensor: str, of: str
) -> None:
    giver, taker, found = made(one("causal", embeddings=source), one("causal", embeddings=target))
    assert found.taken[tensor] == of
    assert torch.equal(named_tensors(taker)[tensor], named_tensors(giver)[of])


def test_what_is_new_is_the_init_functions() -> None:
    """T5's buckets count other distances in an encoder that looks ahead than in a causal decoder."""
    buckets = RelativeBias(buckets=8)
    _, taker, found = made(one("causal", positions=buckets), two("full", positions=buckets))
    assert found.new == ["relative.input"]
    assert any(line.startswith("new") and "relative.input" in line for line in found.lines())
    assert torch.equal(
        named_tensors(taker)["relative.input"],
        named_tensors(Transformer(taker.architecture, 1))["relative.input"],
    )


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (one("causal", depth=3), one("causal"), "has 2 layers and stream 'text' of one-causal"),
        (one("causal"), one("causal", d_ff=48), "has the shape"),
        (one("causal"), one("causal", vocabulary=50), "a vocabulary of 50"),
        (one("causal"), one("causal", heads=4, d_head=4), "heads = 4"),
        (one("causal"), one("causal", feed_forward="geglu"), "feed_forward = geglu"),
        (one("causal"), two("full", depths=(2, 1)), "stream 'output' of two-full has 1 layers"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    source: Architecture, target: Architecture, words: str
) -> None:
    taker = Transformer(target, 1)
    before = {name: tensor.clone() for name, tensor in named_tensors(taker).items()}
    with pytest.raises(UserError, match=words):
        inherit(taker, source, named_tensors(Transformer(source)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(taker).items())


@pytest.mark.parametrize(
    "name", ["redllm-tied-nano", "redllm-merged-nano", "t5-nano", "bart-nano", "block-double-decoder-nano"]
)
def test_every_network_inherits_itself(name: str) -> None:
    a = architecture(name).resized(vocabulary=64)
    giver, taker, found = made(a, a)
    assert not found.new and not found.left and not found.differs
    own, theirs = named_tensors(taker), named_tensors(giver)
    assert all(torch.equal(own[n], theirs[n]) for n in theirs)


def learnt(model: Transformer, steps: int) -> list[float]:
    """Losses of a few steps of plain descent on copying the input's first token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    for step in range(steps):
        ids = torch.randint(7, 40, (8, 6), generator=torch.Generator().manual_seed(step))
        ids[:, 3:] = ids[:, :3]
        last = model.architecture.output_stream
        if model.architecture.two_streams:
            streams = {"input": tokens(ids[:, :3], 0), "output": tokens(ids[:, 2:5], 1, first=3)}
            targets, weights = ids[:, 3:], torch.ones(8, 3)
        else:
            streams = {last.name: tokens(ids, 1)}
            targets = torch.cat((ids[:, 1:], ids[:, :1]), 1)
            weights = torch.zeros(8, 6)
            weights[:, 2:5] = 1
        sums = model.loss(Batch(streams, targets, weights, torch.zeros_like(targets), weights > 0))
        loss = sums.total / sums.weight
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_a_warm_start_beats_a_fresh_one() -> None:
    source = Transformer(one("causal"), 0)
    before = learnt(source, 250)
    assert before[-1] < 0.8 * before[0]  # it has learnt something to inherit
    warm, fresh = Transformer(two("full"), 1), Transformer(two("full"), 1)
    inherit(warm, source.architecture, named_tensors(source))
    a, b = learnt(warm, 20), learnt(fresh, 20)
    assert sum(a[-5:]) < 0.95 * sum(b[-5:])
