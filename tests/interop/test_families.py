"""The same weights give the same answer as in transformers, both ways: law 7."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from headtohead.errors import UserError
from headtohead.interop.families import describe, model_types, to_ours, to_theirs
from headtohead.model.architecture import Architecture
from headtohead.model.budget import parameters
from headtohead.model.presets import architecture
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors

transformers: Any = pytest.importorskip("transformers")
from .theirs import CASES, Theirs, answers, drawn, streams  # noqa: E402  it needs transformers

CLOSE = 1e-5
"""Of the answers' spread, in fp32."""


def config_of(case: Theirs, model: Any) -> dict[str, Any]:
    """What its config.json says."""
    found = json.loads(model.config.to_json_string(use_diff=False))
    return {**found, "architectures": [type(model).__name__]}


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def ours_of(a: Architecture, tensors: dict[str, Tensor]) -> Transformer:
    model = Transformer(a).eval()
    own = named_tensors(model)
    assert own.keys() == tensors.keys()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return model


def found_answers(model: Transformer, case: Theirs) -> list[Tensor]:
    a = model.architecture
    given = streams(a)
    with torch.no_grad():
        h = model.hidden(given)
        found = (
            h
            if case.model.__name__.endswith("Model") and "LMHead" not in case.model.__name__
            else model.next_logits(h)
        )
    real = given[a.output_stream.name].document >= 0
    return [found[i, real[i]] for i in range(len(found))]


def assert_same_answers(found: list[Tensor], expected: list[Tensor]) -> None:
    spread = torch.cat([x.flatten() for x in expected]).std()
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).abs().max() <= CLOSE * spread


@pytest.mark.parametrize("name", CASES)
def test_their_weights_give_their_answer_here(name: str) -> None:
    """Ragged rows with padding, grouped heads, odd sizes."""
    case = CASES[name]
    model = drawn(case)
    a = describe(config_of(case, model))
    ours, _ = to_ours(config_of(case, model), a, weights_of(model))
    assert_same_answers(found_answers(ours_of(a, ours), case), answers(model, a))


@pytest.mark.parametrize("name", CASES)
def test_our_weights_give_our_answer_there(name: str, tmp_path: Path) -> None:
    """Written as a folder, and loaded by the class that its config names; nothing missing, nothing left."""
    import safetensors.torch

    case = CASES[name]
    start = drawn(case)
    a = describe(config_of(case, start))
    ours = Transformer(a, seed=5).eval()
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    converted = to_theirs(a, named_tensors(ours))
    assert converted is not None
    config, tensors = converted
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = case.model.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not info["missing_keys"] - {"pooler.dense.weight", "pooler.dense.bias"}, info
    assert not info["unexpected_keys"] and not info["mismatched_keys"], info
    assert_same_answers(found_answers(ours, case), answers(loaded.eval(), a))


@pytest.mark.parametrize("name", CASES)
def test_a_round_trip_changes_no_bit(name: str) -> None:
    case = CASES[name]
    model = drawn(case)
    a = describe(config_of(case, model))
    ours, _ = to_ours(config_of(case, model), a, weights_of(model))
    converted = to_theirs(a, ours)
    assert converted is not None
    config, theirs = converted
    assert describe(config) == describe(config_of(case, model))
    again, left = to_ours(config, a, theirs)
    assert not left
    gemma = config["model_type"] == "t5gemma"  # 1 + w and back rounds
    for key in ours:
        assert torch.equal(ours[key], again[key]) or (
            gemma and torch.allclose(ours[key], again[key], atol=1e-6)
        )


PUBLISHED: dict[str, tuple[Any, str]] = {
    "gpt-2-small": (transformers.GPT2Config(), "GPT2LMHeadModel"),
    "gpt-2-xl": (transformers.GPT2Config(n_embd=1600, n_head=25, n_layer=48), "GPT2LMHeadModel"),
    "bert-base": (transformers.BertConfig(), "BertForMaskedLM"),
    "bert-large": (
        transformers.BertConfig(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        ),
        "BertForMaskedLM",
    ),
    "bart-large": (transformers.BartConfig(), "BartForConditionalGeneration"),
    "t5-small": (transformers.T5Config(), "T5ForConditionalGeneration"),
    "t5-11b": (
        transformers.T5Config(d_model=1024, d_kv=128, d_ff=65536, num_layers=24, num_heads=128),
        "T5ForConditionalGeneration",
    ),
    "t5gemma-2b-2b": (transformers.T5GemmaConfig(), "T5GemmaForConditionalGeneration"),
}


def to_theirs_config(a: Architecture) -> dict[str, Any] | None:
    """The config of a network, without its weights."""
    with torch.device("meta"):
        converted = to_theirs(a, named_tensors(Transformer(a)))
    return None if converted is None else converted[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_networks(name: str) -> None:
    """transformers' own default sizes, counted on no device, have the preset's description and parameters."""
    config, kind = PUBLISHED[name]
    with torch.device("meta"):
        theirs = getattr(transformers, kind)(config)
    told = {**json.loads(config.to_json_string(use_diff=False)), "architectures": [kind]}
    a, preset = describe(told), architecture(name)
    assert to_theirs_config(a) == to_theirs_config(preset) is not None
    bart = 2 * 2 * a.d_model if kind.startswith("Bart") else 0  # the offset's rows
    if kind == "T5GemmaForConditionalGeneration":
        expected = sum(p.numel() for p in {id(p): p for p in theirs.parameters()}.values())
    else:
        expected = sum(p.numel() for p in theirs.parameters())
    assert parameters(preset)["total"] == expected - bart


T5_V11 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
COUNTED: dict[str, tuple[str, Any, int]] = {
    # class, config, and how many more its parameters are than the preset's
    "gpt-1-base": ("OpenAIGPTLMHeadModel", transformers.OpenAIGPTConfig(), 0),
    "bloom-560m": ("BloomForCausalLM", transformers.BloomConfig(
        hidden_size=1024, n_layer=24, n_head=16, vocab_size=250880), 0),
    "llama-7b": ("LlamaForCausalLM", transformers.LlamaConfig(), 0),
    "llama-3.2-1b": ("LlamaForCausalLM", transformers.LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=True), 0),
    "qwen3-0.6b": ("Qwen3ForCausalLM", transformers.Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True), 0),
    "qwen3-8b": ("Qwen3ForCausalLM", transformers.Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128), 0),
    # A table of sines is a parameter there.
    "roformer-base": ("RoFormerForMaskedLM", transformers.RoFormerConfig(vocab_size=50000), 1536 * 64),
    # The preset's first layer has its norm before attention too.
    "modernbert-base": ("ModernBertForMaskedLM", transformers.ModernBertConfig(), -768),
    # The class makes a head that is tied; the published weights have one of their own.
    "t5-v1.1-base": ("T5ForConditionalGeneration", transformers.T5Config(
        d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12, **T5_V11), -32128 * 768),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_presets_count_as_the_published_networks(name: str) -> None:
    kind, config, more = COUNTED[name]
    with torch.device("meta"):
        model = getattr(transformers, kind)(config)
    assert sum(p.numel() for p in model.parameters()) == parameters(architecture(name))["total"] + more


@pytest.mark.parametrize(
    ("name", "total"),
    [("s-s", 312_517_632), ("b-b", 591_490_560), ("xl-xl", 3_766_980_608), ("9b-2b", 12_292_375_296),
     ("9b-9b", 20_333_401_088)],
)  # fmt: skip
def test_t5gemma_counts_as_its_published_weights(name: str, total: int) -> None:
    """The totals that the hub gives for the released safetensors."""
    assert parameters(architecture(f"t5gemma-{name}"))["total"] == total


@pytest.mark.parametrize(
    ("name", "d", "d_ff", "layers", "heads", "keys"),
    [
        ("270m-270m", 640, 2048, 18, 4, 1),
        ("1b-1b", 1152, 6912, 26, 4, 1),
        ("4b-4b", 2560, 10240, 34, 8, 4),
    ],
)
def test_t5gemma_2_counts_as_its_text_stacks(
    name: str, d: int, d_ff: int, layers: int, heads: int, keys: int
) -> None:
    """All but the vision tower, its projection, and the vector of the end of an image."""
    made: Any = import_module("transformers.models.t5gemma2.modeling_t5gemma2")
    known: Any = import_module("transformers.models.t5gemma2.configuration_t5gemma2")
    text = {
        "hidden_size": d, "intermediate_size": d_ff, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": keys, "head_dim": 256, "vocab_size": 262144,
    }  # fmt: skip
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = known.T5Gemma2Config(
        encoder=known.T5Gemma2EncoderConfig(text_config=text, vision_config=tower),
        decoder=known.T5Gemma2DecoderConfig(**text),
    )
    with torch.device("meta"):
        model = made.T5Gemma2ForConditionalGeneration(config)
    counted = sum(
        p.numel()
        for n, p in model.named_parameters()
        if not any(piece in n for piece in ("vision", "multi_modal", "eoi_embedding"))
    )
    assert counted == parameters(architecture(f"t5gemma-2-{name}"))["total"]


# ------------------------------------------------------------------------------------------------------------
# What can't be held is refused.


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama, grouped", {"model_type": "mamba"}, "no network of model_type 'mamba'"),
        ("llama, grouped", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "RoPE of type 'yarn'"),
        ("llama, grouped", {"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "'linear'"),
        ("llama, grouped", {"hidden_act": "tanh"}, "hidden_act = 'tanh'"),
        ("llama, grouped", {"hidden_size": None}, "no hidden_size"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("roformer", {"rotary_value": True}, "rotary_value"),
        ("roformer", {"embedding_size": 12}, "embedding_size = 12"),
        ("t5", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj = 'gated-tanh'"),
        ("bart", {"decoder_ffn_dim": 12}, "decoder_ffn_dim = 12"),
    ],
)
def test_a_setting_that_cannot_be_held_is_told(name: str, changes: dict[str, Any], message: str) -> None:
    case = CASES[name]
    with pytest.raises(UserError) as told:
        describe({**config_of(case, case.model(case.config)), **changes})
    assert message in str(told.value) and "\n" not in str(told.value)


def test_weights_that_do_not_fit_are_told() -> None:
    case = CASES["llama, grouped"]
    model = drawn(case)
    config, weights = config_of(case, model), weights_of(model)
    a = describe(config)
    name = "model.layers.1.mlp.down_proj.weight"
    for change, message in (
        ({name: None}, f"lack {name}"),
        ({name: torch.zeros(3, 4)}, f"{name} of this llama should make"),
        ({"model.layers.0.self_attn.rotary.weight": torch.zeros(1)}, "is no tensor of a llama"),
    ):
        damaged = {k: v for k, v in {**weights, **change}.items() if v is not None}
        with pytest.raises(UserError) as told:
            to_ours(config, a, damaged)
        assert message in str(told.value) and "\n" not in str(told.value)


def test_a_tied_tensor_that_differs_is_told() -> None:
    case = CASES["llama, biases, tied"]
    model = drawn(case)
    config, weights = config_of(case, model), weights_of(model)
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    with pytest.raises(UserError, match=r"should be the same as model\.embed_tokens\.weight"):
        to_ours(config, describe(config), weights)


@pytest.mark.parametrize(
    "name", ["decllm-nano", "redllm-nano", "prefix-nano", "glm-nano", "t5gemma-2-nano", "bloom-nano"]
)
def test_what_transformers_does_not_have_has_no_counterpart(name: str) -> None:
    a = architecture(name)
    assert to_theirs(a, named_tensors(Transformer(a))) is None


def test_every_family_is_found() -> None:
    assert {"gpt2", "llama", "qwen3", "t5", "bart", "bert", "roformer", "t5gemma"} == set(model_types())
