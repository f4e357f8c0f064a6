"""GPT-2, Llama, Qwen3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headtohead.interop.families.base import (
    Config,
    Family,
    Row,
    activation,
    by_value,
    changed,
    joined,
    linear,
    need,
    only,
    rope_base,
    same,
)
from headtohead.model.architecture import Architecture, one_stack
from headtohead.model.parts import Biases, Embeddings, Learned, Norms, Rope, Scores

GELUS = {"gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh", "gelu": "gelu", "relu": "relu"}
GATES = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu-tanh"}
STACK = "stacks.text"


def _describe_gpt2(config: Config) -> Architecture:
    only(
        config,
        scale_attn_by_inverse_layer_idx=False,
        reorder_and_upcast_attn=(False, True),
        add_cross_attention=False,
        scale_attn_weights=(True, False),
        tie_word_embeddings=(True, False),
    )
    d, heads = need(config, "n_embd"), need(config, "n_head")
    return one_stack(
        "gpt2",
        "causal",
        depth=need(config, "n_layer"),
        d_ff=config.get("n_inner") or 4 * d,
        d_model=d,
        heads=heads,
        d_head=d // heads,
        vocabulary=need(config, "vocab_size"),
        positions=Learned(length=need(config, "n_positions")),
        norms=Norms(
            kind="layer",
            bias=True,
            epsilon=config.get("layer_norm_epsilon", 1e-5),
            query_key=False,
            value=False,
        ),
        feed_forward=activation(config, "activation_function", GELUS, "gelu_new"),
        scores=Scores() if config.get("scale_attn_weights", True) else Scores(scale=1.0),
        biases=Biases(attention=True, feed_forward=True),
        embeddings=Embeddings(tied=config.get("tie_word_embeddings", True)),
    )


def _config_gpt2(a: Architecture) -> dict[str, Any] | None:
    layer = a.streams[0].layers[0]
    if not isinstance(a.positions, Learned) or a.feed_forward not in by_value(GELUS):
        return None
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": a.d_model,
        "n_head": a.heads,
        "n_layer": a.streams[0].depth,
        "n_inner": layer.d_ff,
        "n_positions": a.positions.length,
        "vocab_size": a.vocabulary,
        "layer_norm_epsilon": a.norms.epsilon,
        "activation_function": by_value(GELUS)[a.feed_forward],
        "scale_attn_weights": a.scores.scale is None,
        "tie_word_embeddings": a.embeddings.tied,
    }


def _turned(theirs: str, ours: str) -> list[Row]:
    """GPT-2's Conv1D: a linear layer whose weight is stored the other way round."""
    weight = changed(f"{theirs}.weight", f"{ours}.weight", _transposed, _transposed)
    return [weight, same(f"{theirs}.bias", f"{ours}.bias")]


def _transposed(x: Tensor) -> Tensor:
    return x.T.contiguous()


def _fused(theirs: str, ours: str, part: str) -> Row:
    """Queries, keys and values in one Conv1D."""

    def read(tensors: list[Tensor]) -> list[Tensor]:
        rows = tensors[0].T if tensors[0].ndim == 2 else tensors[0]
        third = rows.shape[0] // 3
        return [rows[:third].contiguous(), rows[third:].contiguous()]

    def write(tensors: list[Tensor]) -> list[Tensor]:
        rows = torch.cat(tensors)
        return [rows.T.contiguous() if rows.ndim == 2 else rows]

    return Row((f"{theirs}.{part}",), (f"{ours}.query.{part}", f"{ours}.key_value.{part}"), read, write)


def _rows_gpt2(a: Architecture, config: Config) -> list[Row]:
    rows = [same("transformer.wte.weight", "embedding"), same("transformer.wpe.weight", "positions.text")]
    for i in range(a.streams[0].depth):
        h, b = f"transformer.h.{i}", f"{STACK}.{i}"
        rows += linear(f"{h}.ln_1", f"{b}.attention_norms.0", bias=True)
        rows += [_fused(f"{h}.attn.c_attn", f"{b}.attentions.0", part) for part in ("weight", "bias")]
        rows += _turned(f"{h}.attn.c_proj", f"{b}.attentions.0.out")
        rows += linear(f"{h}.ln_2", f"{b}.feed_forward_norm", bias=True)
        rows += _turned(f"{h}.mlp.c_fc", f"{b}.feed_forward.up")
        rows += _turned(f"{h}.mlp.c_proj", f"{b}.feed_forward.down")
    rows += linear("transformer.ln_f", "final_norms.text", bias=True)
    return rows if a.embeddings.tied else [*rows, same("lm_head.weight", "matrix")]


def _describe_llama(config: Config) -> Architecture:
    qwen = config["model_type"] == "qwen3"
    only(config, use_sliding_window=False, pretraining_tp=1)
    if qwen:
        kinds = {kind for kind in config.get("layer_types") or ["full_attention"]}
        only({"layer_types": sorted(kinds)}, layer_types=["full_attention"])
    d, heads = need(config, "hidden_size"), need(config, "num_attention_heads")
    keys = config.get("num_key_value_heads") or heads
    return one_stack(
        config["model_type"],
        "causal",
        depth=need(config, "num_hidden_layers"),
        d_ff=need(config, "intermediate_size"),
        d_model=d,
        heads=heads,
        d_head=config.get("head_dim") or d // heads,
        key_heads=None if keys == heads else keys,
        vocabulary=need(config, "vocab_size"),
        positions=Rope(base=rope_base(config)),
        norms=Norms(
            epsilon=config.get("rms_norm_eps", 1e-6), query_key=qwen, query_key_weights=qwen, value=False
        ),
        feed_forward=activation(config, "hidden_act", GATES, "silu"),
        biases=Biases(
            attention=config.get("attention_bias", False), feed_forward=config.get("mlp_bias", False)
        ),
        embeddings=Embeddings(tied=config.get("tie_word_embeddings", False)),
    )


def _config_llama(a: Architecture) -> dict[str, Any] | None:
    if not isinstance(a.positions, Rope) or a.feed_forward not in by_value(GATES):
        return None
    kind, name = ("qwen3", "Qwen3ForCausalLM") if a.norms.query_key else ("llama", "LlamaForCausalLM")
    return {
        "model_type": kind,
        "architectures": [name],
        "hidden_size": a.d_model,
        "intermediate_size": a.streams[0].layers[0].d_ff,
        "num_hidden_layers": a.streams[0].depth,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.key_heads or a.heads,
        "head_dim": a.d_head,
        "vocab_size": a.vocabulary,
        "rope_theta": a.positions.base,
        "rope_parameters": {"rope_type": "default", "rope_theta": a.positions.base},
        "rms_norm_eps": a.norms.epsilon,
        "hidden_act": by_value(GATES)[a.feed_forward],
        "attention_bias": a.biases.attention,
        "mlp_bias": a.biases.feed_forward,
        "tie_word_embeddings": a.embeddings.tied,
    }


def _rows_llama(a: Architecture, config: Config) -> list[Row]:
    rows = [same("model.embed_tokens.weight", "embedding")]
    biased, fed = a.biases.attention, a.biases.feed_forward
    for i in range(a.streams[0].depth):
        layer, block = f"model.layers.{i}", f"{STACK}.{i}"
        attention, ours = f"{layer}.self_attn", f"{block}.attentions.0"
        rows += linear(f"{layer}.input_layernorm", f"{block}.attention_norms.0")
        rows += linear(f"{attention}.q_proj", f"{ours}.query", biased)
        rows += joined([f"{attention}.k_proj", f"{attention}.v_proj"], f"{ours}.key_value", biased)
        rows += linear(f"{attention}.o_proj", f"{ours}.out", biased)
        if a.norms.query_key_weights:
            rows += [same(f"{attention}.{x[0]}_norm.weight", f"{ours}.{x}_norm") for x in ("query", "key")]
        rows += linear(f"{layer}.post_attention_layernorm", f"{block}.feed_forward_norm")
        rows += joined(
            [f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"], f"{block}.feed_forward.gate_up", fed
        )
        rows += linear(f"{layer}.mlp.down_proj", f"{block}.feed_forward.down", fed)
    rows += linear("model.norm", "final_norms.text")
    return rows if a.embeddings.tied else [*rows, same("lm_head.weight", "matrix")]


def _tied_head(theirs: str) -> Any:
    return lambda a, config: {"lm_head.weight": theirs} if a.embeddings.tied else {}


FAMILIES = [
    Family(
        ("gpt2",),
        _describe_gpt2,
        _config_gpt2,
        _rows_gpt2,
        prefix="transformer.",
        left_out=(".attn.bias", ".attn.masked_bias"),
        copies=_tied_head("transformer.wte.weight"),
    ),
    Family(
        ("llama", "qwen3"),
        _describe_llama,
        _config_llama,
        _rows_llama,
        prefix="model.",
        left_out=("rotary_emb.inv_freq",),
        copies=_tied_head("model.embed_tokens.weight"),
    ),
]
