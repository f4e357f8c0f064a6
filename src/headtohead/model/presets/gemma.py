"""Encoder-decoders made from Gemma: T5Gemma and T5Gemma 2."""

from __future__ import annotations

from headtohead.model.architecture import Architecture, Layer
from headtohead.model.parts import Embeddings, Head, Norms, Rope, Scores, Width
from headtohead.model.presets.family import LAPTOP_PAIRS, Family, Size, pattern, read

WINDOW, NEAR, SMALL_WINDOW = 4096, 1024, 512


def _t5gemma(name: str, size: Size) -> Architecture:
    """Layers with a window of 4096 and global ones in turn, the same in both stacks; in the encoder the window is
    4096 on either side beside the token itself, as in the released code.
    """
    first = size.encoder or size
    wider = {
        "width": Width(
            d_model=first.d_model, heads=first.heads, d_head=first.d_head, key_heads=first.key_heads
        )
    }
    encoder = [
        Layer(reads=(read("input", rule),), d_ff=first.d_ff) for rule in (f"window({WINDOW + 1})", "full")
    ]
    decoder = [
        Layer(reads=(read("output", rule), read("input", "full")), d_ff=size.d_ff)
        for rule in (f"causal & window({WINDOW})", "causal")
    ]
    return Architecture(
        name=name,
        positions=Rope(across="off"),
        norms=Norms(place="both", query_key=False, value=False),
        feed_forward="geglu-tanh",
        scores=Scores(soft_cap=50.0),
        embeddings=Embeddings(shared=False, scaled=True),
        head=Head(soft_cap=30.0),
        streams=(
            pattern("input", "input", size.depths[0], *encoder, **(wider if size.encoder else {})),
            pattern("output", "output", size.depths[1], *decoder),
        ),
        **size.fields,
    )


def _t5gemma_2(name: str, size: Size) -> Architecture:
    """Five local layers to each global one; the decoder's reads are merged."""
    window = size.context
    slow, fast = Rope(base=1_000_000.0), Rope(base=10_000.0)

    def layers(keys: str, rule: str) -> list[Layer]:
        def layer(seen: str, times: int, positions: Rope | None) -> Layer:
            reads = (read(keys, seen),)
            if keys == "output":
                reads += (read("input", "full", merged=True),)
            return Layer(reads=reads, d_ff=size.d_ff, repeat=times, positions=positions)

        return [layer(f"{rule} & window({window})", 5, fast), layer(rule, 1, None)]

    return Architecture(
        name=name,
        positions=slow,
        norms=Norms(place="both", query_key_weights=True, value=False),
        feed_forward="geglu-tanh",
        embeddings=Embeddings(scaled=True),
        streams=(
            pattern("input", "input", size.depths[0], *layers("input", "full")),
            pattern("output", "output", size.depths[1], *layers("output", "causal")),
        ),
        **size.fields,
    )


def _as_t5(d: int, d_ff: int, layers: int, heads: int) -> Size:
    return Size(d, d_ff, heads, 64, 256000, (layers, layers))


TWO_B = Size(2304, 9216, 8, 256, 256000, (26, 26), key_heads=4)
NINE_B = Size(3584, 14336, 16, 256, 256000, (42, 42), key_heads=8)
NINE_TWO = Size(2304, 9216, 8, 256, 256000, (42, 26), key_heads=4, encoder=NINE_B)


def _gemma_3(d: int, d_ff: int, layers: int, heads: int, keys: int, window: int) -> Size:
    return Size(d, d_ff, heads, 256, 262144, (layers, layers), key_heads=keys, context=window)


FAMILIES = [
    Family(
        "t5gemma",
        "T5Gemma",
        "Zhang et al. 2025, arXiv 2504.06225",
        """An encoder-decoder whose stacks both begin as the decoder Gemma 2: the encoder's mask is opened to a
full view, and cross-attention takes its first weights from self-attention. RMSNorm before each sublayer and on
what it returns, GEGLU by tanh, embeddings times √d, soft caps on scores (50) and logits (30), grouped heads, and
every other layer local (4096). Cross-attention is not turned by RoPE. Encoder and decoder have a table each, and
the decoder's is the head's too. Sizes may differ: 9B-2B reads like the one and writes like the other. Making the
encoder causal cost it four points. The published T5-like sizes are s, b, l and xl.""",
        _t5gemma,
        {
            "s-s": _as_t5(512, 1024, 8, 8),
            "b-b": _as_t5(768, 2048, 12, 12),
            "l-l": _as_t5(1024, 2816, 24, 16),
            "xl-xl": _as_t5(2048, 5120, 24, 32),
            "2b-2b": TWO_B,
            "9b-2b": NINE_TWO,
            "9b-9b": NINE_B,
            **LAPTOP_PAIRS,
        },
    ),
    Family(
        "t5gemma-2",
        "T5Gemma 2",
        "Zhang et al. 2025, arXiv 2512.14856",
        """From Gemma 3: one softmax over the decoder's past and the encoder's states, with one set of weights
(merged attention), and one table of embeddings for everything, which together save a sixth of the parameters at
little loss. Norms before and after each sublayer, queries and keys normed with weights, five local layers to
each global one, with RoPE of base 10,000 and 1,000,000. The window narrows self-attention alone; the input is
seen whole in every layer. The released code differs from this description in three things. There the output's
positions begin at 0 again; here they count on from the input's. There the keys of the input are not turned by RoPE in
merged attention, though the queries are; here both are, so that distance means the same across the streams. There the
encoder's local layers see 255 tokens back and 256 ahead of a window of 512; here 511 on either side. So released
weights can't be imported. The vision tower is left out.""",
        _t5gemma_2,
        {
            "270m-270m": _gemma_3(640, 2048, 18, 4, 1, SMALL_WINDOW),
            "1b-1b": _gemma_3(1152, 6912, 26, 4, 1, SMALL_WINDOW),
            "4b-4b": _gemma_3(2560, 10240, 34, 8, 4, NEAR),
            **LAPTOP_PAIRS,
        },
    ),
]
