"""T5Gemma: two stacks of Gemma 2's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from headtohead.errors import UserError
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
from headtohead.interop.families.decoders import GATES
from headtohead.model.architecture import Architecture, Layer, Read, Stream
from headtohead.model.parts import Biases, Embeddings, Head, Norms, Rope, Scores, Width

SHARED = ("vocab_size", "hidden_activation", "rms_norm_eps", "attn_logit_softcapping", "attention_bias",
          "query_pre_attn_scalar")  # fmt: skip
"""Settings that both stacks must have alike: here they belong to the network."""


def _describe(config: Config) -> Architecture:
    encoder, decoder = need(config, "encoder"), need(config, "decoder")
    only(decoder, **{key: encoder[key] for key in SHARED if key in encoder})
    only(decoder, cross_attention_hidden_size=(None, encoder["hidden_size"]))
    if rope_base(encoder) != rope_base(decoder):
        raise UserError(
            "the config's encoder and decoder have RoPE of two bases, which can't be described here"
        )
    scale = need(decoder, "query_pre_attn_scalar") ** -0.5
    width, other = _width(decoder), _width(encoder)
    own = None if width == other else other
    streams = (_stream(encoder, "input", own), _stream(decoder, "output", None))
    return Architecture(
        name="t5gemma",
        vocabulary=need(decoder, "vocab_size"),
        **width.model_dump(),
        positions=Rope(base=rope_base(decoder), across="off"),
        norms=Norms(place="both", epsilon=decoder.get("rms_norm_eps", 1e-6), query_key=False, value=False),
        feed_forward=activation(decoder, "hidden_activation", GATES, "gelu_pytorch_tanh"),
        scores=Scores(
            scale=None if abs(scale - width.d_head**-0.5) < 1e-12 else scale,
            soft_cap=decoder.get("attn_logit_softcapping", 50.0),
        ),
        biases=Biases(attention=decoder.get("attention_bias", False)),
        embeddings=Embeddings(shared=False, scaled=True, tied=config.get("tie_word_embeddings", True)),
        head=Head(soft_cap=decoder.get("final_logit_softcapping", 30.0)),
        streams=streams,
    )


def _width(config: Config) -> Width:
    heads, keys = need(config, "num_attention_heads"), need(config, "num_key_value_heads")
    return Width(
        d_model=need(config, "hidden_size"),
        heads=heads,
        d_head=need(config, "head_dim"),
        key_heads=None if keys == heads else keys,
    )


def _stream(config: Config, holds: Any, width: Width | None) -> Stream:
    kinds = config.get("layer_types")
    if kinds is None:
        kinds = [
            "sliding_attention" if i % 2 == 0 else "full_attention"
            for i in range(config["num_hidden_layers"])
        ]
    rule = "full" if holds == "input" else "causal"
    # In the encoder the farthest token that is seen stands `sliding_window` away, in the decoder one less.
    near = f"window({config['sliding_window'] + (holds == 'input')})"
    layers: list[Layer] = []
    for kind in kinds:
        local = kind == "sliding_attention"
        seen = f"{near} & same_document" if local and holds == "input" else f"{rule} & same_document"
        if local and holds == "output":
            seen = f"{rule} & {near} & same_document"
        reads = [Read.model_validate({"keys": holds, "visibility": seen})]
        if holds == "output":
            reads.append(Read.model_validate({"keys": "input", "visibility": "full & same_document"}))
        layers.append(Layer(reads=tuple(reads), d_ff=need(config, "intermediate_size")))
    return Stream(name=holds, holds=holds, layers=tuple(layers), width=width)


def _config(a: Architecture) -> dict[str, Any] | None:
    if not a.two_streams or not isinstance(a.positions, Rope) or a.feed_forward not in by_value(GATES):
        return None
    if [stream.name for stream in a.streams] != ["input", "output"]:
        return None
    sides = [_side(a, stream) for stream in a.streams]
    if sides[0] is None or sides[1] is None:
        return None
    return {
        "model_type": "t5gemma",
        "architectures": ["T5GemmaForConditionalGeneration"],
        "is_encoder_decoder": True,
        "encoder": sides[0],
        "decoder": {**sides[1], "is_decoder": True, "cross_attention_hidden_size": sides[0]["hidden_size"]},
        "vocab_size": a.vocabulary,
        "tie_word_embeddings": a.embeddings.tied,
        "dropout_rate": 0.0,
    }


def _side(a: Architecture, stream: Stream) -> dict[str, Any] | None:
    width, base = a.width(stream), a.positions.base if isinstance(a.positions, Rope) else 0.0
    rules = [str(layer.reads[0].visibility) for layer in stream.expanded]
    further = int(stream.holds == "input")
    sizes = {int(rule.split("window(")[1].split(")")[0]) - further for rule in rules if "window(" in rule}
    scalar = width.d_head if a.scores.scale is None else a.scores.scale**-2
    if (
        abs(scalar - round(scalar)) > 1e-9
        or len(sizes) > 1
        or len({layer.d_ff for layer in stream.layers}) > 1
    ):
        return None
    return {
        "model_type": "t5_gemma_module",
        "vocab_size": a.vocabulary,
        "hidden_size": width.d_model,
        "intermediate_size": stream.layers[0].d_ff,
        "num_hidden_layers": stream.depth,
        "num_attention_heads": width.heads,
        "num_key_value_heads": width.key_heads or width.heads,
        "head_dim": width.d_head,
        "hidden_activation": by_value(GATES)[a.feed_forward],
        "rms_norm_eps": a.norms.epsilon,
        "rope_theta": base,
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "attention_bias": a.biases.attention,
        "query_pre_attn_scalar": round(scalar),
        "sliding_window": next(iter(sizes)) if sizes else 4096,
        "layer_types": ["sliding_attention" if "window(" in rule else "full_attention" for rule in rules],
        "final_logit_softcapping": a.head.soft_cap,
        "attn_logit_softcapping": a.scores.soft_cap,
        "max_position_embeddings": 8192,
        "attention_dropout": 0.0,
        "dropout_rate": 0.0,
    }


def _plus_one(x: Tensor) -> Tensor:
    return x + 1


def _minus_one(x: Tensor) -> Tensor:
    return x - 1


def _norm(theirs: str, ours: str) -> Row:
    """Gemma's RMSNorm multiplies by 1 + its weight."""
    return changed(f"{theirs}.weight", f"{ours}.weight", _plus_one, _minus_one)


def _rows(a: Architecture, config: Config) -> list[Row]:
    rows: list[Row] = []
    biased = a.biases.attention
    for side, stream in zip(("encoder", "decoder"), a.streams, strict=True):
        base = f"model.{side}"
        rows.append(same(f"{base}.embed_tokens.weight", f"embeddings.{stream.name}"))
        for i in range(stream.depth):
            layer, ours = f"{base}.layers.{i}", f"stacks.{stream.name}.{i}"
            for s, name in enumerate(["self_attn", "cross_attn"][: len(stream.expanded[i].reads)]):
                theirs, mine = f"{layer}.{name}", f"{ours}.attentions.{s}"
                rows += linear(f"{theirs}.q_proj", f"{mine}.query", biased)
                rows += joined([f"{theirs}.k_proj", f"{theirs}.v_proj"], f"{mine}.key_value", biased)
                rows += linear(f"{theirs}.o_proj", f"{mine}.out", biased)
                rows.append(_norm(f"{layer}.pre_{name}_layernorm", f"{ours}.attention_norms.{s}"))
                rows.append(_norm(f"{layer}.post_{name}_layernorm", f"{ours}.attention_after_norms.{s}"))
            rows.append(_norm(f"{layer}.pre_feedforward_layernorm", f"{ours}.feed_forward_norm"))
            rows.append(_norm(f"{layer}.post_feedforward_layernorm", f"{ours}.feed_forward_after_norm"))
            both = [f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"]
            rows += joined(both, f"{ours}.feed_forward.gate_up")
            rows += linear(f"{layer}.mlp.down_proj", f"{ours}.feed_forward.down")
        rows.append(_norm(f"{base}.norm", f"final_norms.{stream.name}"))
    return rows if a.embeddings.tied else [*rows, same("lm_head.out_proj.weight", "matrix")]


def _copies(a: Architecture, config: Config) -> Mapping[str, str]:
    return {"lm_head.out_proj.weight": "model.decoder.embed_tokens.weight"} if a.embeddings.tied else {}


FAMILIES = [
    Family(
        ("t5gemma",),
        _describe,
        _config,
        _rows,
        prefix="model.",
        left_out=("rotary_emb.inv_freq",),
        copies=_copies,
    )
]
