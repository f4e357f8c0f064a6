"""BERT and RoFormer, with the head of masked language modelling or without."""

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
from headtohead.interop.families.decoders import GELUS, STACK
from headtohead.model.architecture import Architecture, one_stack
from headtohead.model.parts import Biases, Embeddings, Head, Learned, Norms, Rope


def _describe(config: Config) -> Architecture:
    roformer = config["model_type"] == "roformer"
    d, heads = need(config, "hidden_size"), need(config, "num_attention_heads")
    only(
        config,
        is_decoder=False,
        add_cross_attention=False,
        position_embedding_type="absolute",
        type_vocab_size=2,
        tie_word_embeddings=True,
        rotary_value=False,
        embedding_size=(None, d),
    )
    headless = all(name.endswith("Model") for name in config.get("architectures") or ["BertForMaskedLM"])
    if not headless:
        # Between final states and logits stands the same activation as in the layers; ours is exact GELU.
        only(config, hidden_act="gelu")
    return one_stack(
        config["model_type"],
        "full",
        depth=need(config, "num_hidden_layers"),
        d_ff=need(config, "intermediate_size"),
        d_model=d,
        heads=heads,
        d_head=d // heads,
        vocabulary=need(config, "vocab_size"),
        positions=Rope() if roformer else Learned(length=need(config, "max_position_embeddings")),
        norms=Norms(
            kind="layer",
            place="after",
            bias=True,
            epsilon=config.get("layer_norm_eps", 1e-12),
            query_key=False,
            value=False,
        ),
        feed_forward=activation(config, "hidden_act", GELUS, "gelu"),
        biases=Biases(attention=True, feed_forward=True),
        embeddings=Embeddings(norm=True, segments=True),
        head=Head() if headless else Head(transform=True, bias=True),
    )


def _config(a: Architecture) -> dict[str, Any] | None:
    if not isinstance(a.positions, Learned | Rope) or a.feed_forward not in by_value(GELUS):
        return None
    kind, name = ("roformer", "RoFormer") if isinstance(a.positions, Rope) else ("bert", "Bert")
    context = {"max_position_embeddings": LENGTH if isinstance(a.positions, Rope) else a.positions.length}
    return {
        "model_type": kind,
        "architectures": [f"{name}ForMaskedLM" if a.head.transform else f"{name}Model"],
        "hidden_size": a.d_model,
        "intermediate_size": a.streams[0].layers[0].d_ff,
        "num_hidden_layers": a.streams[0].depth,
        "num_attention_heads": a.heads,
        **context,
        "vocab_size": a.vocabulary,
        "layer_norm_eps": a.norms.epsilon,
        "hidden_act": by_value(GELUS)[a.feed_forward],
        "type_vocab_size": 2,
        "tie_word_embeddings": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def _halves(x: Tensor, heads: int) -> Tensor:
    """From RoFormer's pairs of neighbouring components to ours, component i with i + d_head / 2; of each head."""
    return x.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(x.shape).contiguous()


def _neighbours(x: Tensor, heads: int) -> Tensor:
    """The inverse of `_halves`."""
    return x.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(x.shape).contiguous()


def _rotated(theirs: str, ours: str, heads: int) -> list[Row]:
    """Queries, and keys with values, of which queries and keys are turned."""

    def read(tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat([_halves(tensors[0], heads), tensors[1]])]

    def write(tensors: list[Tensor]) -> list[Tensor]:
        keys, values = tensors[0].chunk(2)
        return [_neighbours(keys, heads), values.contiguous()]

    rows: list[Row] = []
    for part in ("weight", "bias"):
        query = (f"{theirs}.query.{part}", f"{ours}.query.{part}")
        rows.append(changed(*query, lambda x: _halves(x, heads), lambda x: _neighbours(x, heads)))
        names = f"{theirs}.key.{part}", f"{theirs}.value.{part}"
        rows.append(Row(names, (f"{ours}.key_value.{part}",), read, write))
    return rows


def _rows(a: Architecture, config: Config) -> list[Row]:
    base = f"{config['model_type']}."
    rows = [
        same(f"{base}embeddings.word_embeddings.weight", "embedding"),
        same(f"{base}embeddings.token_type_embeddings.weight", "segments.text"),
        *linear(f"{base}embeddings.LayerNorm", "embedding_norms.text", True),
    ]
    if isinstance(a.positions, Learned):
        rows.append(same(f"{base}embeddings.position_embeddings.weight", "positions.text"))
    for i in range(a.streams[0].depth):
        layer, block = f"{base}encoder.layer.{i}", f"{STACK}.{i}"
        theirs, ours = f"{layer}.attention.self", f"{block}.attentions.0"
        if isinstance(a.positions, Rope):
            rows += _rotated(theirs, ours, a.heads)
        else:
            rows += linear(f"{theirs}.query", f"{ours}.query", True)
            rows += joined([f"{theirs}.key", f"{theirs}.value"], f"{ours}.key_value", True)
        rows += linear(f"{layer}.attention.output.dense", f"{ours}.out", True)
        rows += linear(f"{layer}.attention.output.LayerNorm", f"{block}.attention_norms.0", True)
        rows += linear(f"{layer}.intermediate.dense", f"{block}.feed_forward.up", True)
        rows += linear(f"{layer}.output.dense", f"{block}.feed_forward.down", True)
        rows += linear(f"{layer}.output.LayerNorm", f"{block}.feed_forward_norm", True)
    if a.head.transform:
        rows += linear("cls.predictions.transform.dense", "head_transform.dense", True)
        rows += linear("cls.predictions.transform.LayerNorm", "head_transform.norm", True)
        rows.append(same("cls.predictions.bias", "head_bias"))
    return rows


def _copies(a: Architecture, config: Config) -> Mapping[str, str]:
    table = f"{config['model_type']}.embeddings.word_embeddings.weight"
    tied = {"cls.predictions.decoder.weight": table, "cls.predictions.decoder.bias": "cls.predictions.bias"}
    return tied if a.head.transform else {}


def _sinusoids(a: Architecture, config: Config) -> Mapping[str, Tensor]:
    """RoFormer's table of angles: sines, then cosines, of each position."""
    length = config.get("max_position_embeddings") or LENGTH
    angles = torch.outer(
        torch.arange(length, dtype=torch.float64),
        10_000.0 ** (-torch.arange(0, a.d_head, 2, dtype=torch.float64) / a.d_head),
    )
    table = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    return {"roformer.encoder.embed_positions.weight": table}


LENGTH = 1536
"""Positions that a RoFormer's table has room for, where nobody says how many."""
LEFT_OUT = ("pooler.", "position_ids", "cls.seq_relationship")

FAMILIES = [
    Family(("bert",), _describe, _config, _rows, prefix="bert.", left_out=LEFT_OUT, copies=_copies),
    Family(
        ("roformer",),
        _describe,
        _config,
        _rows,
        prefix="roformer.",
        left_out=LEFT_OUT,
        copies=_copies,
        constants=_sinusoids,
    ),
]
