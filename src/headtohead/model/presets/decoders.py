"""Published decoders: GPT-1, GPT-2, Llama, Qwen3; and those that see their input whole, UniLM and GLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from headtohead.model.architecture import Architecture, one_stack
from headtohead.model.parts import (
    Alibi,
    Biases,
    Embeddings,
    FeedForward,
    Head,
    Learned,
    Norms,
    Positions,
    Rope,
    TwoDimensional,
)
from headtohead.model.presets.family import LAPTOP, Family, Size

PLAIN = Norms(query_key=False, value=False)
"""RMSNorm before each sublayer and nothing else."""
LAYER_NORM = Norms(kind="layer", bias=True, epsilon=1e-5, query_key=False, value=False)
ALL_BIASES = Biases(attention=True, feed_forward=True)


def _gpt(place_after: bool) -> Callable[[str, Size], Architecture]:
    norms = LAYER_NORM.model_copy(update={"place": "after"}) if place_after else LAYER_NORM

    def describe(name: str, size: Size) -> Architecture:
        return one_stack(
            name,
            "causal",
            depth=size.depths[0],
            d_ff=size.d_ff,
            positions=Learned(length=size.context),
            norms=norms,
            feed_forward="gelu-tanh",
            biases=ALL_BIASES,
            **size.fields,
        )

    return describe


def _llama(
    base: float, epsilon: float, grouped: int = 1, query_key: bool = False
) -> Callable[[str, Size], Architecture]:
    norms = PLAIN.model_copy(
        update={"epsilon": epsilon, "query_key": query_key, "query_key_weights": query_key}
    )

    def describe(name: str, size: Size) -> Architecture:
        keys = size.key_heads or max(size.heads // grouped, 1)
        return one_stack(
            name,
            "causal",
            depth=size.depths[0],
            d_ff=size.d_ff,
            positions=Rope(base=base),
            norms=norms,
            embeddings=Embeddings(tied=size.tied),
            **replace(size, key_heads=keys if keys != size.heads else None).fields,
        )

    return describe


def bert_like(
    visibility: str, positions: Callable[[Size], Positions], feed_forward: FeedForward = "gelu"
) -> Callable[[str, Size], Architecture]:
    """BERT's recipe (Devlin et al., arXiv 1810.04805) under any visibility."""

    def describe(name: str, size: Size) -> Architecture:
        return one_stack(
            name,
            visibility,
            depth=size.depths[0],
            d_ff=size.d_ff,
            positions=positions(size),
            norms=Norms(kind="layer", place="after", bias=True, epsilon=1e-12, query_key=False, value=False),
            feed_forward=feed_forward,
            biases=ALL_BIASES,
            embeddings=Embeddings(norm=True, segments=True),
            head=Head(transform=True, bias=True),
            **size.fields,
        )

    return describe


def _glm(name: str, size: Size) -> Architecture:
    return one_stack(
        name,
        "prefix",
        depth=size.depths[0],
        d_ff=size.d_ff,
        positions=TwoDimensional(length=size.context),
        norms=LAYER_NORM,
        feed_forward="gelu-tanh",
        biases=ALL_BIASES,
        **size.fields,
    )


def _bloom(name: str, size: Size) -> Architecture:
    return one_stack(
        name,
        "causal",
        depth=size.depths[0],
        d_ff=size.d_ff,
        positions=Alibi(),
        norms=LAYER_NORM,
        feed_forward="gelu-tanh",
        biases=ALL_BIASES,
        embeddings=Embeddings(norm=True),
        **size.fields,
    )


def _gpt2(d: int, layers: int, heads: int) -> Size:
    return Size(d, 4 * d, heads, 64, 50257, (layers,), context=1024)


def _llama_size(
    d: int, d_ff: int, layers: int, heads: int, vocabulary: int, keys: int | None = None, tied: bool = False
) -> Size:
    return Size(d, d_ff, heads, d // heads, vocabulary, (layers,), key_heads=keys, tied=tied)


def _qwen(d: int, d_ff: int, layers: int, heads: int, tied: bool) -> Size:
    return Size(d, d_ff, heads, 128, 151936, (layers,), key_heads=8, tied=tied)


UNTIED = {name: replace(size, tied=False) for name, size in LAPTOP.items()}

FAMILIES = [
    Family(
        "gpt-1",
        "GPT",
        "Radford et al. 2018, Improving Language Understanding by Generative Pre-Training",
        """The first of the line: the decoder of the 2017 Transformer without its cross-attention, causal, with
LayerNorm after each residual sum, learned positions, GELU (its approximation by tanh) and biases everywhere.
Embeddings and head are tied. There is no final norm, since each layer ends with one. Published at one size and
a context of 512. Dropout (0.1 everywhere) is a matter of training and left out here, as in all presets.""",
        _gpt(place_after=True),
        {"base": Size(768, 3072, 12, 64, 40478, (12,), context=512), **LAPTOP},
    ),
    Family(
        "gpt-2",
        "GPT-2",
        "Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
        """GPT with the norms moved before each sublayer and a final norm added, at four sizes and a context of
1024. LayerNorm with biases, learned positions, GELU by tanh, tied embeddings. The plain causal decoder that most
comparisons of positions and of masks were made with (C13). The released small model is the 124M one; the paper's
table calls it 117M.""",
        _gpt(place_after=False),
        {
            "small": _gpt2(768, 12, 12),
            "medium": _gpt2(1024, 24, 16),
            "large": _gpt2(1280, 36, 20),
            "xl": _gpt2(1600, 48, 25),
            **LAPTOP,
        },
    ),
    Family(
        "llama",
        "Llama",
        "Touvron et al. 2023, arXiv 2302.13971",
        """A causal decoder with RMSNorm before each sublayer, SwiGLU with d_ff of about 8/3 of the width, RoPE
and no biases. The head has a matrix of its own. DecLLM is this recipe with d_ff of 4 times the width, norms on
queries, keys and values, and a tied head.""",
        _llama(10_000.0, 1e-6),
        {
            "7b": _llama_size(4096, 11008, 32, 32, 32000),
            "13b": _llama_size(5120, 13824, 40, 40, 32000),
            "33b": _llama_size(6656, 17920, 60, 52, 32000),
            "65b": _llama_size(8192, 22016, 80, 64, 32000),
            **UNTIED,
        },
    ),
    Family(
        "llama-2",
        "Llama 2",
        "Touvron et al. 2023, arXiv 2307.09288",
        """Llama with twice the context (4096) and another epsilon in its norms; the 70B size has grouped heads, eight
of keys and values to 64 of queries. The 7B and 13B networks are those of Llama. At laptop sizes it is Llama with
two query heads to a key's.""",
        _llama(10_000.0, 1e-5, grouped=2),
        {
            "7b": _llama_size(4096, 11008, 32, 32, 32000, 32),
            "13b": _llama_size(5120, 13824, 40, 40, 32000, 40),
            "70b": _llama_size(8192, 28672, 80, 64, 32000, 8),
            **UNTIED,
        },
    ),
    Family(
        "llama-3",
        "Llama 3",
        "Grattafiori et al. 2024, arXiv 2407.21783",
        """Grouped heads at every size (eight heads of keys and values), a vocabulary of 128,256, and RoPE with a
base of 500,000 for long contexts. Head and embeddings are apart. Llama 3.1's rescaling of the slow frequencies
(for contexts beyond 8192) is not described here.""",
        _llama(500_000.0, 1e-5, grouped=2),
        {
            "8b": _llama_size(4096, 14336, 32, 32, 128256, 8),
            "70b": _llama_size(8192, 28672, 80, 64, 128256, 8),
            "405b": _llama_size(16384, 53248, 126, 128, 128256, 8),
            **UNTIED,
        },
    ),
    Family(
        "llama-3.2",
        "Llama 3.2",
        "Meta 2024, the Llama 3.2 model card",
        """The small sizes of Llama 3, with embeddings and head tied: at a vocabulary of 128,256 a second table
would be a fifth of the 1B network. Grouped heads, eight of keys and values. The rescaled frequencies of long
contexts are not described here.""",
        _llama(500_000.0, 1e-5, grouped=2),
        {
            "1b": _llama_size(2048, 8192, 16, 32, 128256, 8, tied=True),
            "3b": _llama_size(3072, 8192, 28, 24, 128256, 8, tied=True),
            **LAPTOP,
        },
    ),
    Family(
        "qwen3",
        "Qwen3",
        "Yang et al. 2025, arXiv 2505.09388",
        """A causal decoder of Llama's form with grouped heads and a norm on queries and keys, each with a weight
of the head's size shared by the heads; values are not normed. Heads are of 128 components at every width, so
their number times their size is not the width. The sizes up to 4B tie head and embeddings. The dense sizes are
here, the mixtures of experts are not.""",
        _llama(1_000_000.0, 1e-6, grouped=2, query_key=True),
        {
            "0.6b": _qwen(1024, 3072, 28, 16, True),
            "1.7b": _qwen(2048, 6144, 28, 16, True),
            "4b": _qwen(2560, 9728, 36, 32, True),
            "8b": _qwen(4096, 12288, 36, 32, False),
            "14b": _qwen(5120, 17408, 40, 40, False),
            "32b": _qwen(5120, 25600, 64, 64, False),
            **LAPTOP,
        },
    ),
    Family(
        "bloom",
        "BLOOM",
        "Le Scao et al. 2022, arXiv 2211.05100",
        """GPT-2's form with ALiBi in the place of learned positions and a norm on the embeddings, which the authors
found to steady the training. Each head's scores fall by its slope for every position of distance, so that the
network reads on past its training length (with less and less of what is far). LayerNorm with biases before each
sublayer, GELU by tanh, tied head, a vocabulary of 250,880 for 59 languages, nearly half of the smallest size.""",
        _bloom,
        {
            "560m": Size(1024, 4096, 16, 64, 250880, (24,)),
            "1b1": Size(1536, 6144, 16, 96, 250880, (24,)),
            "1b7": Size(2048, 8192, 16, 128, 250880, (24,)),
            "3b": Size(2560, 10240, 32, 80, 250880, (30,)),
            "7b1": Size(4096, 16384, 32, 128, 250880, (30,)),
            "176b": Size(14336, 57344, 112, 128, 250880, (70,)),
            **LAPTOP,
        },
    ),
    Family(
        "unilm",
        "UniLM",
        "Dong et al. 2019, arXiv 1905.03197",
        """BERT's network under a mask: the same weights see everything (masked LM), one direction (a language
model, either way) or the input whole and the output causally (sequence to sequence). Described here is the
last, which gave the prefix decoder its mask; the mixture is a matter of the objective. The published model
starts from BERT-large, cased. Input and output have segment vectors, and the head has BERT's transform.""",
        bert_like("prefix", lambda size: Learned(length=size.context)),
        {"large": Size(1024, 4096, 16, 64, 28996, (24,), context=512), **LAPTOP},
    ),
    Family(
        "glm",
        "GLM",
        "Du et al. 2022, arXiv 2103.10360",
        """One stack that fills blanks: the input, a text with spans cut out, is seen whole; the spans follow
as the output, each written token by token. Positions have two dimensions, two learned vectors for each token:
where in the input its span belongs, and its place within the span. The input doesn't show how long a span will
be. LayerNorm before each sublayer, GELU by tanh, tied head. The vocabularies are WordPiece's of BERT for base
and large and GPT-2's, padded to 50,304, for 2B and 10B; the released weights pad the smaller one as well.""",
        _glm,
        {
            "base": Size(768, 3072, 12, 64, 30522, (12,), context=513),
            "large": Size(1024, 4096, 16, 64, 30522, (24,), context=513),
            "2b": Size(2048, 8192, 32, 64, 50304, (36,), context=1025),
            "10b": Size(4096, 16384, 64, 64, 50304, (48,), context=1025),
            **LAPTOP,
        },
    ),
]
