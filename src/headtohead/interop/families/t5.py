"""T5 v1.0 and v1.1 (and UL2, which is v1.1 with another gate)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headtohead.interop.families.base import (
    Config,
    Family,
    Row,
    activation,
    by_value,
    joined,
    linear,
    need,
    only,
    same,
)
from headtohead.model.architecture import Architecture, two_stacks
from headtohead.model.parts import Embeddings, Head, Norms, RelativeBias, Scores

KINDS = {
    "relu": "relu",
    "gated-gelu": "geglu-tanh",  # what transformers means by it: the approximation by tanh
    "gated-silu": "swiglu",
    "gelu": "gelu",
}


def _describe(config: Config) -> Architecture:
    only(config, is_decoder=False, is_encoder_decoder=True)
    depth = need(config, "num_layers")
    # Configs of the first version say nothing of tying, and are tied; v1.1's say that they aren't.
    tied = config.get("tie_word_embeddings", True)
    return two_stacks(
        "t5",
        "full",
        depths=(depth, config.get("num_decoder_layers") or depth),
        d_ff=need(config, "d_ff"),
        d_model=need(config, "d_model"),
        heads=need(config, "num_heads"),
        d_head=need(config, "d_kv"),
        vocabulary=need(config, "vocab_size"),
        positions=RelativeBias(
            across="off",
            buckets=config.get("relative_attention_num_buckets", 32),
            farthest=config.get("relative_attention_max_distance", 128),
        ),
        norms=Norms(epsilon=config.get("layer_norm_epsilon", 1e-6), query_key=False, value=False),
        feed_forward=activation(config, "feed_forward_proj", KINDS, "relu"),
        scores=Scores(scale=1.0),
        embeddings=Embeddings(tied=tied),
        head=Head(scaled=config.get("scale_decoder_outputs", tied)),
    )


def _config(a: Architecture) -> dict[str, Any] | None:
    if (
        not a.two_streams
        or not isinstance(a.positions, RelativeBias)
        or a.feed_forward not in by_value(KINDS)
    ):
        return None
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "d_model": a.d_model,
        "d_kv": a.d_head,
        "d_ff": a.streams[0].layers[0].d_ff,
        "num_heads": a.heads,
        "num_layers": a.depths[0],
        "num_decoder_layers": a.depths[1],
        "vocab_size": a.vocabulary,
        "relative_attention_num_buckets": a.positions.buckets,
        "relative_attention_max_distance": a.positions.farthest,
        "layer_norm_epsilon": a.norms.epsilon,
        "feed_forward_proj": by_value(KINDS)[a.feed_forward],
        "tie_word_embeddings": a.embeddings.tied,
        "scale_decoder_outputs": a.head.scaled,
        "dropout_rate": 0.0,
    }


def _rows(a: Architecture, config: Config) -> list[Row]:
    rows = [same("shared.weight", "embedding")]
    for side, stream in zip(("encoder", "decoder"), a.streams, strict=True):
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows.append(same(table, f"relative.{stream.name}"))
        for i in range(stream.depth):
            block, ours = f"{side}.block.{i}.layer", f"stacks.{stream.name}.{i}"
            for s, name in enumerate(["SelfAttention", "EncDecAttention"][: len(stream.expanded[i].reads)]):
                rows += linear(f"{block}.{s}.layer_norm", f"{ours}.attention_norms.{s}")
                rows += linear(f"{block}.{s}.{name}.q", f"{ours}.attentions.{s}.query")
                rows += joined([f"{block}.{s}.{name}.{x}" for x in "kv"], f"{ours}.attentions.{s}.key_value")
                rows += linear(f"{block}.{s}.{name}.o", f"{ours}.attentions.{s}.out")
            last = f"{block}.{len(stream.expanded[i].reads)}"
            rows += linear(f"{last}.layer_norm", f"{ours}.feed_forward_norm")
            if f"{a.feed_forward}".startswith(("swiglu", "geglu")):
                both = [f"{last}.DenseReluDense.wi_{n}" for n in (0, 1)]
                rows += joined(both, f"{ours}.feed_forward.gate_up")
            else:
                rows += linear(f"{last}.DenseReluDense.wi", f"{ours}.feed_forward.up")
            rows += linear(f"{last}.DenseReluDense.wo", f"{ours}.feed_forward.down")
        rows += linear(f"{side}.final_layer_norm", f"final_norms.{stream.name}")
    return rows if a.embeddings.tied else [*rows, same("lm_head.weight", "matrix")]


def _copies(a: Architecture, config: Config) -> Mapping[str, str]:
    names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    return dict.fromkeys([*names, "lm_head.weight"] if a.embeddings.tied else names, "shared.weight")


FAMILIES = [
    Family(
        ("t5",),
        _describe,
        _config,
        _rows,
        # Early checkpoints hold a table of the cross-attention's, which was never used.
        left_out=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias",),
        copies=_copies,
    )
]
