"""Parameters, FLOPs and cache bytes against the published closed form and against networks that are built."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Layer, Read, Stream
from headtohead.model.blocks import is_table
from headtohead.model.budget import cache_bytes, flops, parameter_groups, parameters, visible_pairs
from headtohead.model.conventions import full_square, named_conventions
from headtohead.model.presets import architecture, preset_names
from headtohead.model.presets.laboratory import TABLE
from headtohead.model.transformer import Transformer

# name: V, d, d_ff, one stack's layers, two stacks' layers (RedLLM, arXiv 2510.26622, Table 1)
PAPER = {
    "150m": (32768, 1024, 4096, 8, (3, 3)),
    "1b": (32768, 2048, 8192, 16, (7, 7)),
    "2b": (32768, 2560, 10240, 20, (9, 9)),
    "4b": (32768, 3072, 12288, 24, (10, 10)),
    "8b": (32768, 4096, 16384, 32, (14, 14)),
}


@pytest.mark.parametrize("size", PAPER)
def test_the_ten_published_sizes_equal_the_closed_form(size: str) -> None:
    vocabulary, d, d_ff, layers, (encoder, decoder) = PAPER[size]
    block = 4 * d * d + 3 * d * d_ff + 2 * d
    cross = 8 * d * d + 3 * d * d_ff + 3 * d
    decllm, redllm = parameters(architecture(f"decllm-{size}")), parameters(architecture(f"redllm-{size}"))
    assert decllm["total"] == vocabulary * d + layers * block + d
    assert redllm["total"] == vocabulary * d + encoder * block + decoder * cross + 2 * d
    for counted in (decllm, redllm):
        assert counted["embedding"] == vocabulary * d
        assert counted["total"] == counted["embedding"] + counted["non_embedding"]


@pytest.mark.parametrize("name", preset_names())
def test_parameters_equal_those_of_the_network_built(name: str) -> None:
    a = architecture(name)
    with torch.device("meta"):
        built = Transformer(a)
    assert sum(p.numel() for p in built.parameters()) == parameters(a)["total"]
    tables = dict(built.named_parameters())
    assert sum(p.numel() for n, p in tables.items() if is_table(n)) == parameters(a)["embedding"]


def test_flops_of_one_stack_written_out() -> None:
    """Three input and two output places through DecLLM: every product by hand."""
    a = architecture("decllm-nano")
    d, d_ff, width, vocabulary, layers = 128, 512, 128, 1024, 3
    per_token = 2 * d * 4 * width + 2 * 3 * d * d_ff
    pairs = 1 + 2 + 3 + 4 + 5
    body = layers * (5 * per_token + 4 * 32 * 4 * pairs)
    counted = flops(a, 3, 2)
    assert counted["forward"] == body + 2 * 2 * d * vocabulary
    assert counted["training"] == 3 * counted["forward"]
    assert counted["prefill"] == layers * (3 * per_token + 4 * 32 * 4 * (1 + 2 + 3))
    assert flops(a, 3, 2, "all")["forward"] == body + 5 * 2 * d * vocabulary
    assert flops(a, 3, 2, 4)["forward"] == body + 4 * 2 * d * vocabulary
    assert visible_pairs(a, 3, 2) == layers * 4 * pairs


def test_flops_of_two_stacks_written_out() -> None:
    """Three input and two output places through RedLLM: encoder, decoder, cross-attention, each by hand."""
    a = architecture("redllm-nano")
    d, d_ff, width, vocabulary = 128, 512, 128, 1024
    feed_forward, projection = 2 * 3 * d * d_ff, 2 * d * width
    pair = 4 * 32 * 4  # two products of 2 · d_head, four heads
    encoder = 3 * (4 * projection + feed_forward) + pair * 9
    cross_keys = 3 * 2 * projection
    decoder = 2 * (4 * projection + 2 * projection + feed_forward) + cross_keys + pair * (1 + 2) + pair * 6
    counted = flops(a, 3, 2)
    assert counted["forward"] == encoder + decoder + 2 * 2 * d * vocabulary
    assert counted["prefill"] == encoder + cross_keys
    assert flops(a, 3, 2, "all")["forward"] == counted["forward"]  # the input stream has no head
    assert visible_pairs(a, 3, 2) == 4 * (9 + 3 + 6)


@pytest.mark.parametrize("name", ["decllm-nano", "prefix-nano", "redllm-nano", "redllm-causal-encoder-nano"])
def test_prefill_and_decoding_make_the_forward_pass(name: str) -> None:
    counted = flops(architecture(name), 40, 24)
    assert counted["forward"] == counted["prefill"] + round(24 * counted["decode_per_token"])


def test_visibility_is_what_differs_between_a_causal_and_a_prefix_stack() -> None:
    causal, prefix = architecture("causal-nano"), architecture("prefix-nano")
    more = visible_pairs(prefix, 100, 50) - visible_pairs(causal, 100, 50)
    assert more == 3 * 4 * (100 * 99 // 2)
    assert flops(prefix, 100, 50)["forward"] - flops(causal, 100, 50)["forward"] == more * 4 * 32


def test_cache_bytes() -> None:
    # layers · reads · (key and value) · width · tokens · bytes
    assert cache_bytes(architecture("decllm-8b"), 1024, 1024) == 32 * 2 * 4096 * 2048 * 2
    assert cache_bytes(architecture("redllm-8b"), 1000, 24) == 14 * 2 * 4096 * (1000 + 24 + 1000) * 2
    assert cache_bytes(architecture("decllm-nano"), 10, 5, "fp32") == 3 * 2 * 128 * 15 * 4
    with pytest.raises(UserError, match=r"fp12.*bf16"):
        cache_bytes(architecture("decllm-nano"), 1, 1, "fp12")


def test_merged_reads_share_weights_and_pay_for_all_keys() -> None:
    base = architecture("redllm-nano")
    crossed = base.streams[1].layers[0]
    merged = Layer(reads=(crossed.reads[0], crossed.reads[1].model_copy(update={"merged": True})), d_ff=512)
    fields = {name: getattr(base, name) for name in Architecture.model_fields}
    streams = (base.streams[0], Stream(name="output", holds="output", layers=(merged,)))
    a = Architecture(**{**fields, "streams": streams})
    assert parameters(base)["total"] - parameters(a)["total"] == 4 * 128 * 128 + 128
    assert visible_pairs(a, 7, 5) == visible_pairs(base, 7, 5)
    assert cache_bytes(a, 7, 5) == cache_bytes(base, 7, 5)
    # One query and one output projection less, for five tokens.
    assert flops(base, 7, 5)["forward"] - flops(a, 7, 5)["forward"] == 5 * 2 * 2 * 128 * 128


def test_named_conventions() -> None:
    a = architecture("redllm-150m")
    n, named = parameters(a), named_conventions(a, 1024, 1024)
    assert named["6N"] == 3 * named["2N"] == 6 * n["non_embedding"] * 2048
    assert named["6N_total"] == 3 * named["2N_total"] == 6 * n["total"] * 2048


@pytest.mark.parametrize("lengths", [(-1, 4), (4, -1), (0, 0)])
def test_no_tokens_is_an_error(lengths: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="no sequence"):
        flops(architecture("decllm-nano"), *lengths)


def test_causal_lm_without_input() -> None:
    counted = flops(architecture("decllm-nano"), 0, 64)
    assert counted["prefill"] == 0
    assert counted["forward"] == flops(architecture("decllm-nano"), 0, 64, "all")["forward"]


def test_the_largest_size_is_counted_at_once_and_without_torch() -> None:
    code = (
        "import sys, time, headtohead.model.matching, headtohead.model.budget as b, headtohead.model.reach;"
        "from headtohead.model.presets import architecture; began = time.process_time();"
        "b.flops(architecture('redllm-8b'), 1024, 1024); print(time.process_time() - began);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 0.5  # CPU seconds; 0.02 where this was written


def test_reads_of_a_both_stream_count_input_and_output() -> None:
    """A second stream over the output that reads a first over both: the keys are all places of the first."""
    causal = Read.model_validate({"keys": "text", "visibility": "causal"})
    own = Read.model_validate({"keys": "again", "visibility": "causal"})
    a = Architecture(
        name="two passes",
        d_model=16,
        heads=2,
        d_head=8,
        vocabulary=32,
        streams=(
            Stream(name="text", holds="both", layers=(Layer(reads=(causal,), d_ff=32),)),
            Stream(name="again", holds="output", layers=(Layer(reads=(own, causal), d_ff=32),)),
        ),
    )
    assert visible_pairs(a, 3, 2) == 2 * (15 + 3 + 4 + 5)
    assert cache_bytes(a, 3, 2) == (5 + 2 + 5) * 2 * 16 * 2


def test_sizes_are_the_table_of_the_paper() -> None:
    for size, (vocabulary, d, d_ff, layers, depths) in PAPER.items():
        assert TABLE[size] == (d, d_ff, d // 128, 128, vocabulary, layers, depths)


KNOWN: dict[str, int] = {
    "gpt-1-base": 116_534_784,
    "gpt-2-small": 124_439_808,
    "gpt-2-medium": 354_823_168,
    "gpt-2-large": 774_030_080,
    "gpt-2-xl": 1_557_611_200,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-65b": 65_285_660_672,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "bert-base": 109_514_298,
    "bart-base": 139_420_416 - 2 * 2 * 768,  # without the two rows more than positions of each table
    "bart-large": 406_291_456 - 2 * 2 * 1024,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-base": 247_577_856,
    "t5-v1.1-xxl": 11_135_332_352,
}
"""Parameters of the released models (those of `transformers` without heads of other tasks)."""


@pytest.mark.parametrize("name", KNOWN)
def test_published_networks_have_the_parameters_of_the_released_ones(name: str) -> None:
    assert parameters(architecture(name))["total"] == KNOWN[name]


@pytest.mark.parametrize("name", preset_names())
def test_groups_add_up(name: str) -> None:
    a = architecture(name)
    found = parameters(a)
    assert sum(parameter_groups(a).values()) == found["total"]  # type: ignore[arg-type]
    assert 0 < found["embedding"] < found["total"]


def test_redllm_costs_half_of_decllm_as_the_paper_says() -> None:
    """arXiv 2510.26622: 1.89e13 against 3.85e13 for 1024 + 1024 tokens; DecLLM learns from every token."""
    red = flops(architecture("redllm-8b"), 1024, 1024, "output")["forward"]
    dec = flops(architecture("decllm-8b"), 1024, 1024, "all")["forward"]
    assert round(red / dec, 2) == 0.49


def test_a_convention_for_every_source_and_the_square_is_never_less_than_what_is_seen() -> None:
    from headtohead.model.conventions import SOURCES

    for name in ("gpt-2-small", "t5-base", "causal-linear-mini", "t5gemma-9b-2b", "bert-base"):
        a = architecture(name)
        named = named_conventions(a, 100, 60)
        assert named.keys() == SOURCES.keys()
        assert named["full_square"] >= flops(a, 100, 60)["forward"]
        assert full_square(a, 100, 60, 60) == named["full_square"]
    full_view = architecture("bert-base")
    assert named_conventions(full_view, 100, 60)["full_square"] == flops(full_view, 100, 60)["forward"]


def test_kaplan_and_palm_by_hand() -> None:
    a = architecture("gpt-2-small")
    n, named = parameters(a), named_conventions(a, 512, 512)
    assert named["kaplan"] == 2 * n["non_embedding"] * 1024 + 2 * 12 * 1024 * 768 * 1024
    assert named["palm"] == 6 * n["total"] * 1024 + 12 * 12 * 12 * 64 * 1024 * 1024
