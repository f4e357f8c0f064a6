"""Published encoder-decoders up to 2022: the Transformer of 2017, BART, T5 and UL2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headtohead.model.architecture import Architecture, two_stacks
from headtohead.model.parts import (
    Biases,
    Embeddings,
    FeedForward,
    Head,
    Learned,
    Norms,
    RelativeBias,
    Scores,
    Sinusoidal,
)
from headtohead.model.presets.family import LAPTOP_PAIRS, Family, Size

LAYER_NORM_AFTER = Norms(kind="layer", place="after", bias=True, epsilon=1e-5, query_key=False, value=False)


def _described(name: str, size: Size, **more: Any) -> Architecture:
    depths = (size.depths[0], size.depths[1])
    return two_stacks(name, "full", depths=depths, d_ff=size.d_ff, **more, **size.fields)


def _transformer(name: str, size: Size) -> Architecture:
    return _described(
        name,
        size,
        positions=Sinusoidal(across="restarted"),
        norms=LAYER_NORM_AFTER.model_copy(update={"epsilon": 1e-6}),
        feed_forward="relu",
        biases=Biases(feed_forward=True),
        embeddings=Embeddings(scaled=True),
    )


def _bart(name: str, size: Size) -> Architecture:
    return _described(
        name,
        size,
        positions=Learned(length=size.context, across="restarted"),
        norms=LAYER_NORM_AFTER,
        feed_forward="gelu",
        biases=Biases(attention=True, feed_forward=True),
        embeddings=Embeddings(norm=True),
    )


def _t5(feed_forward: FeedForward, tied: bool) -> Callable[[str, Size], Architecture]:
    def describe(name: str, size: Size) -> Architecture:
        return _described(
            name,
            size,
            positions=RelativeBias(across="off"),
            norms=Norms(query_key=False, value=False),
            feed_forward=feed_forward,
            scores=Scores(scale=1.0),
            embeddings=Embeddings(tied=tied),
            head=Head(scaled=tied),
        )

    return describe


def _size(d: int, d_ff: int, layers: int, heads: int, d_head: int = 64) -> Size:
    return Size(d, d_ff, heads, d_head, 32128, (layers, layers))


WORDS_2017 = 37000
BART = replace(_size(768, 3072, 6, 12), vocabulary=50265, context=1024)

FAMILIES = [
    Family(
        "transformer",
        "The Transformer of 2017",
        "Vaswani et al. 2017, arXiv 1706.03762",
        """Where all of it begins: an encoder that sees the whole input, a decoder that sees its own past and, in
every layer, the encoder's final states. LayerNorm after each residual sum, ReLU, sinusoidal positions that
start from 0 in each stack, embeddings times √d and shared by both stacks and the head. Biases are in the
feed-forward only, as the paper's formulas have it. The vocabulary is that of its English-German model, about
37,000; a few thousand entries decide whether the base size counts 63 or 65 million.""",
        _transformer,
        {
            "base": Size(512, 2048, 8, 64, WORDS_2017, (6, 6)),
            "big": Size(1024, 4096, 16, 64, WORDS_2017, (6, 6)),
            **LAPTOP_PAIRS,
        },
    ),
    Family(
        "bart",
        "BART",
        "Lewis et al. 2019, arXiv 1910.13461",
        """The 2017 network with BERT's habits: learned positions that start from 0 in each stack, a norm on the
embeddings, exact GELU and biases everywhere. It is trained to write a whole document again from a corrupted
one, so unlike T5 every token of the text has a loss. One table for both stacks and the head. The released
models' tables of positions have two rows more than positions, an offset left from their framework.""",
        _bart,
        {
            "base": BART,
            "large": replace(BART, d_model=1024, d_ff=4096, heads=16, depths=(12, 12)),
            **LAPTOP_PAIRS,
        },
    ),
    Family(
        "t5",
        "T5",
        "Raffel et al. 2020, arXiv 1910.10683",
        """The encoder-decoder of the large ablation: text in, text out, trained on spans cut from its input.
RMSNorm before each sublayer, no biases, ReLU, and a learned bias for each head and bucket of distance in place
of position vectors: in the encoder half of the 32 buckets look ahead, in the decoder all look back,
cross-attention has none, and all layers of a stack share one table. Scores are not divided by √d_head; the
logits are divided by √d_model, since the head is the table of embeddings. Its own init starts far from ln V;
ours doesn't, whatever the preset.""",
        _t5("relu", tied=True),
        {
            "small": _size(512, 2048, 6, 8),
            "base": _size(768, 3072, 12, 12),
            "large": _size(1024, 4096, 24, 16),
            "3b": _size(1024, 16384, 24, 32, 128),
            "11b": _size(1024, 65536, 24, 128, 128),
            **LAPTOP_PAIRS,
        },
    ),
    Family(
        "t5-v1.1",
        "T5 v1.1",
        "Shazeer 2020, arXiv 2002.05202; the text-to-text-transfer-transformer release notes",
        """T5 with a gated feed-forward (GELU by tanh) and a head with a matrix of its own, and so without the
scaled logits; the sizes are rearranged, with a smaller d_ff. Pre-trained on unlabelled text alone, it is the
starting point of mT5, ByT5 and FLAN-T5, and the encoder-decoder of Wang et al.'s comparison at 11B (C7).""",
        _t5("geglu-tanh", tied=False),
        {
            "small": _size(512, 1024, 8, 6),
            "base": _size(768, 2048, 12, 12),
            "large": _size(1024, 2816, 24, 16),
            "xl": _size(2048, 5120, 24, 32),
            "xxl": _size(4096, 10240, 24, 64),
            **LAPTOP_PAIRS,
        },
    ),
    Family(
        "ul2",
        "UL2",
        "Tay et al. 2022, arXiv 2205.05131",
        """T5 v1.1's network with SwiGLU, and a mixture of denoisers for an objective: short spans, long or many
spans, and one span at the end, each announced by a token of its own. The released network has 20B parameters:
32 layers in each stack, 16 heads of 256 components, d_ff of 16,384. The mixture is what the paper is about; as
a network UL2 differs little from T5.""",
        _t5("swiglu", tied=False),
        {"20b": _size(4096, 16384, 32, 16, 256), **LAPTOP_PAIRS},
    ),
]
