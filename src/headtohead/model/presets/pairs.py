"""The laboratory's families of two stacks, or two passes: RedLLM with one choice changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from headtohead.model.architecture import Architecture, Layer, two_stacks
from headtohead.model.parts import Embeddings, Width
from headtohead.model.presets.family import Family, Size, pattern, read
from headtohead.model.presets.laboratory import ONE, REDLLM, REDLLM_NORMS, TABLE

TWO = {name: Size(*row[:5], depths=row[6]) for name, row in TABLE.items()}


def _sizes(depths: Mapping[str, tuple[int, int]]) -> dict[str, Size]:
    return {name: replace(TWO[name], depths=depths[name]) for name in TWO}


DEEP = {"nano": (2, 1), "micro": (2, 1), "mini": (4, 2), "150m": (5, 2), "1b": (10, 5), "2b": (12, 6), "4b": (15, 7),
        "8b": (20, 10)}  # fmt: skip
WIDE = {"nano": (2, 3), "micro": (2, 3), "mini": (4, 6), "150m": (6, 6), "1b": (12, 12), "2b": (15, 15),
        "4b": (18, 18), "8b": (24, 24)}  # fmt: skip
TIED = {"nano": (2, 2), "micro": (2, 2), "mini": (5, 5), "150m": (6, 6), "1b": (13, 13), "2b": (16, 16),
        "4b": (19, 19), "8b": (26, 26)}  # fmt: skip
MERGED = {name: (size.depths[0] // 2, size.depths[0] - size.depths[0] // 2) for name, size in ONE.items()}
BLOCK = 32
"""Positions in a block of the block double decoder."""


def _two(encoder: str) -> Callable[[str, Size], Architecture]:
    return lambda name, size: two_stacks(
        name,
        encoder,
        depths=(size.depths[0], size.depths[1]),
        d_ff=size.d_ff,
        norms=REDLLM_NORMS,
        **size.fields,
    )


def _decoder(size: Size) -> Layer:
    return Layer(reads=(read("output", "causal"), read("input", "full")), d_ff=size.d_ff)


def _alternate(name: str, size: Size) -> Architecture:
    layers = [Layer(reads=(read("input", rule),), d_ff=size.d_ff) for rule in ("causal", "anticausal")]
    streams = (
        pattern("input", "input", size.depths[0], *layers),
        pattern("output", "output", size.depths[1], _decoder(size)),
    )
    return Architecture(name=name, norms=REDLLM_NORMS, streams=streams, **size.fields)


def _big_encoder(name: str, size: Size) -> Architecture:
    """`size` is the encoder's; the decoder has half of its width, heads and feed-forward."""
    small = replace(
        size, d_model=size.d_model // 2, heads=max(size.heads // 2, 1), d_ff=size.d_ff // 2, key_heads=None
    )
    width = Width(d_model=size.d_model, heads=size.heads, d_head=size.d_head, key_heads=size.key_heads)
    encoder = Layer(reads=(read("input", "full"),), d_ff=size.d_ff)
    streams = (
        pattern("input", "input", size.depths[0], encoder, width=width),
        pattern("output", "output", size.depths[1], _decoder(small)),
    )
    return Architecture(
        name=name, norms=REDLLM_NORMS, embeddings=Embeddings(shared=False), streams=streams, **small.fields
    )


def _with_decoder(decoder: Callable[[Size], Layer], **more: Any) -> Callable[[str, Size], Architecture]:
    def describe(name: str, size: Size) -> Architecture:
        encoder = Layer(reads=(read("input", "full"),), d_ff=size.d_ff)
        streams = (
            pattern("input", "input", size.depths[0], encoder),
            pattern("output", "output", size.depths[1], decoder(size), **more),
        )
        return Architecture(name=name, norms=REDLLM_NORMS, streams=streams, **size.fields)

    return describe


def _merged(size: Size) -> Layer:
    return Layer(reads=(read("output", "causal"), read("input", "full", merged=True)), d_ff=size.d_ff)


def _block_double_decoder(name: str, size: Size) -> Architecture:
    context = Layer(reads=(read("context", "causal"),), d_ff=size.d_ff)
    generation = Layer(
        reads=(read("text", f"causal & same_block({BLOCK})"), read("context", f"earlier_block({BLOCK})")),
        d_ff=size.d_ff,
    )
    streams = (
        pattern("context", "both", size.depths[0], context),
        pattern("text", "both", size.depths[1], generation),
    )
    return Architecture(name=name, norms=REDLLM_NORMS, streams=streams, **size.fields)


FAMILIES = [
    Family(
        "redllm",
        "RedLLM",
        REDLLM,
        """The encoder-decoder with DecLLM's modern recipe: a full view of the input in an encoder of its own,
and a decoder that reads its final states in each layer. One table serves encoder, decoder and head; RoPE is in
self- and cross-attention, and the decoder's positions go on from the encoder's last. It was less stable than
DecLLM, so the attention's output is normed too (C17). Balanced depths; at equal parameters a token runs
through half of the layers, so it costs about half of DecLLM's FLOPs (0.49 at 8B, 1024 + 1024 tokens).""",
        _two("full"),
        TWO,
    ),
    Family(
        "redllm-causal-encoder",
        "RedLLM, causal encoder",
        "left open by Su 2023, spaces.ac.cn/archives/9529",
        """RedLLM with one word changed: a token of the input sees the input before it alone. Su left to his
readers whether an encoder-decoder loses anything by that (C3). If not, the input's states never change when
more is said, and a dialogue reuses the encoder's cache as a causal decoder reuses its own (C12). T5Gemma lost
four points by it, but with weights adapted from a decoder, not trained from scratch.""",
        _two("causal"),
        TWO,
    ),
    Family(
        "redllm-half-heads-encoder",
        "RedLLM, encoder half forward and half backward",
        "left open by Su 2023, spaces.ac.cn/archives/9529",
        """RedLLM whose encoder has half of its heads looking back and half looking ahead: the full view of the
input, by triangular attention maps. The second arm of C3: an encoder-decoder loses nothing with a mixed
encoder. Parameters, FLOPs of the projections and depths are RedLLM's; half of the encoder's pairs are
visible.""",
        _two("by_head(causal, anticausal)"),
        TWO,
    ),
    Family(
        "redllm-alternate-encoder",
        "RedLLM, encoder forward and backward in alternate layers",
        "left open by Su 2023, spaces.ac.cn/archives/9529",
        """RedLLM whose encoder's layers look back and ahead in turn. With a single encoder layer, as in the two
smallest sizes, there is only the first direction: use `mini` and larger, or set the depths. The sister of
`redllm-half-heads-encoder` for C3.""",
        _alternate,
        TWO,
    ),
    Family(
        "redllm-deep-encoder",
        "RedLLM, two thirds of the layers in the encoder",
        "Return of the Encoder 2025, arXiv 2501.16273",
        """An encoder-decoder with about two layers of the encoder to each of the decoder, at nearly RedLLM's
parameters. Small language models of this form were reported to answer with half the latency to the first
token and several times the throughput: the decoder, which runs once for each token written, is short, and the
encoder runs once, in parallel over the input. RedLLM's authors name unbalanced stacks as future work.""",
        _two("full"),
        _sizes(DEEP),
    ),
    Family(
        "redllm-big-encoder",
        "RedLLM, wide encoder and narrow decoder",
        "the form of T5Gemma 9B-2B, Zhang et al. 2025, arXiv 2504.06225",
        """Stacks of unequal width: the encoder has the size's width, the decoder half of its width, heads and
feed-forward. Cross-attention projects keys and values from the wide states. The streams can't share a table of
embeddings, so each has its own, and the decoder's is the head's too. Reading costs what a large model's
reading costs, writing what a small one's does: T5Gemma's 9B-2B has about the latency of its 2B.""",
        _big_encoder,
        _sizes(WIDE),
    ),
    Family(
        "redllm-tied",
        "Two passes through the same weights",
        "Raffel et al. 2020 (the shared encoder-decoder), arXiv 1910.10683; Xia et al. 2019",
        """An encoder-decoder whose two stacks are one set of weights: self-attention, feed-forward and norms are
shared layer by layer, cross-attention alone is the decoder's own. In T5's ablation, sharing cost half a GLUE
point and halved the parameters, which makes it the sharpest test of the saying that an encoder-decoder is only
a larger model (C2): here the two passes are kept and the doubled parameters are not.""",
        _with_decoder(_decoder, shares="input"),
        _sizes(TIED),
    ),
    Family(
        "redllm-merged",
        "RedLLM, merged attention",
        "T5Gemma 2, arXiv 2512.14856",
        """RedLLM whose decoder takes its own past and the encoder's states into one softmax, with one set of
weights for both, in place of a sublayer of cross-attention. Six per cent of the parameters are saved, at 0.3
points in T5Gemma 2's ablation. All layers then cost the same, so equal parameters with `causal` come out to
the layer. Positions count on from the input, so one rotation of the queries serves both.""",
        _with_decoder(_merged),
        _sizes(MERGED),
    ),
    Family(
        "block-double-decoder",
        "Block double decoder",
        "arXiv 2605.18807",
        f"""Two causal stacks over the whole text. The context decoder reads everything; the generation decoder
attends causally within its block of {BLOCK} tokens, and across to the context decoder's states of earlier
blocks alone. No token sees its answer, so every token has a loss, where RedLLM learns from half of them. While
a block is written only the generation decoder runs, and its own cache is one block; the context decoder then
takes the block in at once. The block is our choice for laptop lengths.""",
        _block_double_decoder,
        TWO,
    ),
]
