"""BART."""

from __future__ import annotations

from collections.abc import Mapping
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
    same,
)
from headtohead.interop.families.decoders import GELUS
from headtohead.model.architecture import Architecture, two_stacks
from headtohead.model.parts import Biases, Embeddings, Learned, Norms

OFFSET = 2
"""Rows of its tables of positions before that of position 0."""


def _describe(config: Config) -> Architecture:
    only(
        config,
        is_encoder_decoder=True,
        normalize_before=False,
        normalize_embedding=True,
        add_final_layer_norm=False,
        static_position_embeddings=False,
        extra_pos_embeddings=OFFSET,
        tie_word_embeddings=True,
        decoder_attention_heads=need(config, "encoder_attention_heads"),
        decoder_ffn_dim=need(config, "encoder_ffn_dim"),
    )
    d, heads = need(config, "d_model"), need(config, "encoder_attention_heads")
    return two_stacks(
        "bart",
        "full",
        depths=(need(config, "encoder_layers"), need(config, "decoder_layers")),
        d_ff=need(config, "encoder_ffn_dim"),
        d_model=d,
        heads=heads,
        d_head=d // heads,
        vocabulary=need(config, "vocab_size"),
        positions=Learned(length=need(config, "max_position_embeddings"), across="restarted"),
        norms=Norms(kind="layer", place="after", bias=True, epsilon=1e-5, query_key=False, value=False),
        feed_forward=activation(config, "activation_function", GELUS, "gelu"),
        biases=Biases(attention=True, feed_forward=True),
        embeddings=Embeddings(norm=True, scaled=config.get("scale_embedding", False)),
    )


def _config(a: Architecture) -> dict[str, Any] | None:
    if not a.two_streams or not isinstance(a.positions, Learned) or a.feed_forward not in by_value(GELUS):
        return None
    d_ff = a.streams[0].layers[0].d_ff
    return {
        "model_type": "bart",
        "architectures": ["BartForConditionalGeneration"],
        "is_encoder_decoder": True,
        "d_model": a.d_model,
        "encoder_layers": a.depths[0],
        "decoder_layers": a.depths[1],
        "encoder_attention_heads": a.heads,
        "decoder_attention_heads": a.heads,
        "encoder_ffn_dim": d_ff,
        "decoder_ffn_dim": d_ff,
        "max_position_embeddings": a.positions.length,
        "vocab_size": a.vocabulary,
        "activation_function": by_value(GELUS)[a.feed_forward],
        "scale_embedding": a.embeddings.scaled,
        "tie_word_embeddings": True,
        "dropout": 0.0,
    }


def _without_offset(x: Tensor) -> Tensor:
    return x[OFFSET:].contiguous()


def _with_offset(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(OFFSET, x.shape[1]), x])


def _rows(a: Architecture, config: Config) -> list[Row]:
    rows = [same("model.shared.weight", "embedding")]
    for side, stream in zip(("encoder", "decoder"), a.streams, strict=True):
        table = f"model.{side}.embed_positions.weight"
        rows.append(changed(table, f"positions.{stream.name}", _without_offset, _with_offset))
        rows += linear(f"model.{side}.layernorm_embedding", f"embedding_norms.{stream.name}", True)
        for i in range(stream.depth):
            layer, ours = f"model.{side}.layers.{i}", f"stacks.{stream.name}.{i}"
            for s, name in enumerate(["self_attn", "encoder_attn"][: len(stream.expanded[i].reads)]):
                theirs, mine = f"{layer}.{name}", f"{ours}.attentions.{s}"
                rows += linear(f"{theirs}.q_proj", f"{mine}.query", True)
                rows += joined([f"{theirs}.k_proj", f"{theirs}.v_proj"], f"{mine}.key_value", True)
                rows += linear(f"{theirs}.out_proj", f"{mine}.out", True)
                rows += linear(f"{theirs}_layer_norm", f"{ours}.attention_norms.{s}", True)
            rows += linear(f"{layer}.fc1", f"{ours}.feed_forward.up", True)
            rows += linear(f"{layer}.fc2", f"{ours}.feed_forward.down", True)
            rows += linear(f"{layer}.final_layer_norm", f"{ours}.feed_forward_norm", True)
    return rows


def _copies(a: Architecture, config: Config) -> Mapping[str, str]:
    names = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    return dict.fromkeys(names, "model.shared.weight")


FAMILIES = [
    Family(
        ("bart",), _describe, _config, _rows, prefix="model.", left_out=("final_logits_bias",), copies=_copies
    )
]
