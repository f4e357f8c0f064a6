"""Published encoders: BERT, RoFormer, and one like ModernBERT."""

from __future__ import annotations

from headtohead.model.architecture import Architecture, Layer
from headtohead.model.parts import Embeddings, Head, Learned, Norms, Rope
from headtohead.model.presets.decoders import bert_like
from headtohead.model.presets.family import LAPTOP, Family, Size, pattern, read


def _bert(d: int, layers: int) -> Size:
    return Size(d, 4 * d, d // 64, 64, 30522, (layers,), context=512)


LOCAL, GLOBAL = 65, 160_000.0
"""ModernBERT's window of 128, as 64 positions on either side and the token's own; its global layers' base."""


def _modernbert(name: str, size: Size) -> Architecture:
    wide = Layer(reads=(read("text", "full"),), d_ff=size.d_ff)
    near = Layer(
        reads=(read("text", f"window({LOCAL})"),), d_ff=size.d_ff, repeat=2, positions=Rope(base=10_000.0)
    )
    return Architecture(
        name=name,
        positions=Rope(base=GLOBAL),
        norms=Norms(kind="layer", epsilon=1e-5, query_key=False, value=False),
        feed_forward="geglu",
        embeddings=Embeddings(norm=True),
        head=Head(transform=True, bias=True),
        streams=(pattern("text", "both", size.depths[0], wide, near),),
        **size.fields,
    )


FAMILIES = [
    Family(
        "bert",
        "BERT",
        "Devlin et al. 2019, arXiv 1810.04805; the small sizes: Turc et al. 2019, arXiv 1908.08962",
        """The encoder: every token sees every other, and the network learns by filling holes in its input.
LayerNorm after each residual sum and on the embeddings, learned positions, a vector for each of two segments
(here: the input and the output part), exact GELU, biases everywhere. Before the tied head stand a dense layer,
GELU and a norm, and the logits have a bias. The pooler of next-sentence prediction is left out.""",
        bert_like("full", lambda size: Learned(length=size.context)),
        {
            "tiny": _bert(128, 2),
            "mini": _bert(256, 4),
            "small": _bert(512, 4),
            "medium": _bert(512, 8),
            "base": _bert(768, 12),
            "large": _bert(1024, 24),
            "nano": LAPTOP["nano"],
            "micro": LAPTOP["micro"],
        },
    ),
    Family(
        "roformer",
        "RoFormer",
        "Su et al. 2021, arXiv 2104.09864",
        """BERT with rotary positions in the place of learned ones: the paper that RoPE is from. Queries and keys
are turned by their positions in every layer, so that what counts is the distance, and nothing is added to the
embeddings. The rest is BERT's. The sizes are those of the released Chinese models, whose tokenizer takes words
of up to several characters (50,000 entries).""",
        bert_like("full", lambda size: Rope()),
        {
            "small": Size(384, 1536, 6, 64, 50000, (6,), context=512),
            "base": Size(768, 3072, 12, 64, 50000, (12,), context=1536),
            **LAPTOP,
        },
    ),
    Family(
        "modernbert",
        "ModernBERT-like",
        "Warner et al. 2024, arXiv 2412.13663",
        """An encoder with the decoders' improvements: LayerNorm without biases before each sublayer, a gated
feed-forward (exact GELU), RoPE, and two of three layers local: they see 64 positions on either side, with RoPE
of base 10,000, and the global ones base 160,000. Norm on the embeddings, BERT's transform and a bias before
the tied head. Unlike the released model, the first layer has its norm before attention too (one vector more).""",
        _modernbert,
        {
            "base": Size(768, 1152, 12, 64, 50368, (22,)),
            "large": Size(1024, 2624, 16, 64, 50368, (28,)),
            **LAPTOP,
        },
    ),
]
