"""The laboratory's own families: the reference recipe (RedLLM and DecLLM, arXiv 2510.26622) with one choice
changed at a time. Those of two stacks are in `pairs.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from headtohead.model.architecture import Architecture, Layer, one_stack
from headtohead.model.parts import Norms
from headtohead.model.presets.family import Family, Size, pattern, read

DECLLM_NORMS = Norms(query_key=True, value=True, output=False)
REDLLM_NORMS = Norms(query_key=True, value=True, output=True)
REDLLM = "Zhang et al. 2025, arXiv 2510.26622"

#         d_model  d_ff  heads  d_head  vocabulary  one stack  two stacks
TABLE: dict[str, tuple[int, int, int, int, int, int, tuple[int, int]]] = {
    "nano": (128, 512, 4, 32, 1024, 3, (1, 1)),
    "micro": (256, 1024, 4, 64, 4096, 3, (1, 1)),
    "mini": (384, 1536, 6, 64, 8192, 6, (2, 3)),
    "150m": (1024, 4096, 8, 128, 32768, 8, (3, 3)),
    "1b": (2048, 8192, 16, 128, 32768, 16, (7, 7)),
    "2b": (2560, 10240, 20, 128, 32768, 20, (9, 9)),
    "4b": (3072, 12288, 24, 128, 32768, 24, (10, 10)),
    "8b": (4096, 16384, 32, 128, 32768, 32, (14, 14)),
}
"""The published table (Table 1), and laptop sizes in the same proportions."""
ONE = {name: Size(*row[:5], depths=(row[5],)) for name, row in TABLE.items()}

WINDOW = 64
"""Positions on either side, the token's own included, that a local layer sees."""


def _one(visibility: str, norms: Norms = REDLLM_NORMS) -> Callable[[str, Size], Architecture]:
    return lambda name, size: one_stack(
        name, visibility, depth=size.depths[0], d_ff=size.d_ff, norms=norms, **size.fields
    )


def _layers(*rules: str) -> Callable[[str, Size], Architecture]:
    """One stack whose layers take the rules in turn."""

    def describe(name: str, size: Size) -> Architecture:
        layers = [Layer(reads=(read("text", rule),), d_ff=size.d_ff) for rule in rules]
        stream = pattern("text", "both", size.depths[0], *layers)
        return Architecture(name=name, norms=REDLLM_NORMS, streams=(stream,), **size.fields)

    return describe


def _linear(rule: str) -> Callable[[str, Size], Architecture]:
    def describe(name: str, size: Size) -> Architecture:
        layer = Layer(reads=(read("text", rule, mixer="linear"),), d_ff=size.d_ff)
        stream = pattern("text", "both", size.depths[0], layer)
        return Architecture(name=name, norms=REDLLM_NORMS, streams=(stream,), **size.fields)

    return describe


def _grouped(keys: Callable[[int], int]) -> Callable[[str, Size], Architecture]:
    def describe(name: str, size: Size) -> Architecture:
        return _one("causal")(name, replace(size, key_heads=size.key_heads or keys(size.heads)))

    return describe


FAMILIES = [
    Family(
        "decllm",
        "DecLLM",
        REDLLM,
        """A causal decoder with every modern default, the baseline that RedLLM is held against: RMSNorm before
each sublayer, SwiGLU, RoPE, no biases, one table for embeddings and head, and norms without parameters on
queries, keys and values, which bound the attention's scores. As published it learns from every token of the
text, the input's too. Its 8B size costs twice the FLOPs of RedLLM's at equal parameters, and in pre-training
it makes the better use of them; tuned, the two are level (claims C8 and C10).""",
        _one("causal", DECLLM_NORMS),
        ONE,
    ),
    Family(
        "causal",
        "Causal decoder",
        REDLLM,
        """DecLLM with RedLLM's set of norms: the attention's output is normed too. This is the causal arm of a
factorial comparison: arms that differ in visibility or sharing must not also differ in a norm. Every token
sees itself and those before it, so a dialogue's cache is never recomputed (C12) and tokens can be written as
they come. Su Jianlin's argument is that nothing better is to be had at equal parameters (C1).""",
        _one("causal"),
        ONE,
    ),
    Family(
        "prefix",
        "Prefix decoder",
        "Dong et al. 2019 (UniLM), arXiv 1905.03197; Raffel et al. 2020, arXiv 1910.10683",
        """One stack and one set of weights, as in the causal decoder; what changes is one word: tokens of the
input see all of the input, tokens of the output see the input and what was written before them. T5's ablation
has it far ahead of the causal decoder where the input matters; Su finds no gain in pre-training from scratch
(C1); RedLLM finds that turning it on at tuning alone is worth more than a second stack (C11). The input must
be read whole before anything is written, and its states change when it grows.""",
        _one("prefix"),
        ONE,
    ),
    Family(
        "prefix-half-heads",
        "Prefix decoder, half of the heads backward over the input",
        "Su 2023, spaces.ac.cn/archives/9529, carried over to one stack",
        """One stack in which half of the heads are causal and the other half read the input from its other side:
a token of the input sees itself and what comes after it, a token of the output all that comes before. Input
tokens are seen from both sides, but never in one attention map, which stays triangular over the input. It is
`half-heads` for a network that writes, and stands between `causal` and `prefix` in C1.""",
        _one("by_head(causal, backward_input)"),
        ONE,
    ),
    Family(
        "prefix-alternate-layers",
        "Prefix decoder, backward over the input in every other layer",
        "Su 2023, spaces.ac.cn/archives/9529, carried over to one stack",
        """One stack whose layers read the input forward and backward in turn, with a causal output in all of
them: `alternate-layers` for a network that writes. The first layer looks back, so an odd depth has one layer
more of that kind.""",
        _layers("causal", "backward_input"),
        ONE,
    ),
    Family(
        "full",
        "Encoder",
        "Devlin et al. 2019 (BERT), arXiv 1810.04805",
        """Every token sees every other of its document: an encoder, in the reference recipe. It can't be asked
for the next token, which it sees; it learns by filling holes. The two half-way houses, `half-heads` and
`alternate-layers`, are held against it: Su found them slightly better for masked language modelling (C4), and
asks whether its attention maps sink to low rank (C5).""",
        _one("full"),
        ONE,
    ),
    Family(
        "half-heads",
        "Half of the heads forward, half backward",
        "Su 2023, spaces.ac.cn/archives/9529",
        """In each layer the first half of the heads look back and the second half look ahead (a token itself is
seen by all). Each attention map is then triangular with a positive diagonal, and so of full rank, while the
network as a whole sees everything. Su proposes it for encoders and reports a slightly lower masked-LM loss at
100M parameters, from one run and without a table: the experiment that C4 repeats with intervals.""",
        _one("by_head(causal, anticausal)"),
        ONE,
    ),
    Family(
        "quarter-backward",
        "A quarter of the heads backward",
        "a variant of Su 2023, spaces.ac.cn/archives/9529",
        """As `half-heads`, with three heads looking back for each that looks ahead: any proportion can be
written, as in `by_head(3 * causal, anticausal)`. It says how much of an encoder has to look ahead. With
attention from both sides in every layer a token still reaches every other within two layers.""",
        _one("by_head(3 * causal, anticausal)"),
        ONE,
    ),
    Family(
        "alternate-layers",
        "Forward and backward in alternate layers",
        "Su 2023, spaces.ac.cn/archives/9529",
        """Layers 1, 3, 5, … look back, layers 2, 4, 6, … look ahead. The other of Su's two ways to mix
directions: here each layer is a plain triangular attention, and mixing happens through depth. A list of layers
is gone through as often as the depth needs, so any sequence of rules can be written in the same way.""",
        _layers("causal", "anticausal"),
        ONE,
    ),
    Family(
        "local",
        "Sliding window and global layers",
        "Beltagy et al. 2020, arXiv 2004.05150; Gemma Team 2024, arXiv 2408.00118",
        f"""A causal decoder in which every other layer sees only the last {WINDOW} tokens, itself included.
Attention's cost grows linearly in those layers, and information from further away has to pass through the
global ones. Gemma 2 and 3 are built so, with windows of 512 to 4096; here the window is small enough to matter
at laptop lengths. The cost is counted by the pairs that are really visible.""",
        _layers(f"causal & window({WINDOW})", "causal"),
        ONE,
    ),
    Family(
        "causal-grouped",
        "Causal decoder, grouped heads",
        "Ainslie et al. 2023, arXiv 2305.13245",
        """The causal decoder with two query heads to each head of keys and values. The cache, and what has to
be read from memory for each new token, is halved; the projections of keys and values are smaller too, so at
the same depth it has a few per cent fewer parameters than `causal` (bring it back with `headtohead match`).
Llama 3, Qwen3 and Gemma use it with four and more queries a key.""",
        _grouped(lambda heads: max(heads // 2, 1)),
        ONE,
    ),
    Family(
        "causal-multi-query",
        "Causal decoder, one head of keys",
        "Shazeer 2019, arXiv 1911.02150",
        """The causal decoder with a single head of keys and values that all query heads read: the smallest
cache that softmax attention can have. The saving is largest where decoding is bound by memory, long inputs and
large batches; the loss in quality is what grouped heads were invented to get back.""",
        _grouped(lambda heads: 1),
        ONE,
    ),
    Family(
        "causal-linear",
        "Causal linear attention",
        "Katharopoulos et al. 2020, arXiv 2006.16236",
        """The causal decoder with sums in place of the softmax: features elu(x) + 1 of queries and keys, one
matrix of d_head × d_head for each head as its whole memory of the past. Time is linear in the length, and the
state that decoding keeps doesn't grow. RoPE turns the features in the numerator alone, as its authors propose.
Whether the deficit against softmax is smaller here than for masked LM is claim C6.""",
        _linear("causal"),
        ONE,
    ),
    Family(
        "full-linear",
        "Bidirectional linear attention",
        "Katharopoulos et al. 2020, arXiv 2006.16236",
        """An encoder with linear attention: one sum over the whole document, read by every token. The attention
map has rank d_head at most, whatever the length, which by Su's first argument should hurt it more than its
causal twin, whose map is triangular (C6; he half withdrew the argument later). It fills holes and can't write
token by token.""",
        _linear("full"),
        ONE,
    ),
]
