"""Small networks of transformers, of every family, with nothing left at 0 or 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from headtohead.model.architecture import Architecture
from headtohead.model.batch import Tokens
from headtohead.model.visibility import INPUT, OUTPUT, PADDING

transformers: Any = import_module("transformers")  # its classes' signatures are looser than they say
VOCABULARY = 101
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 42,
    "intermediate_size": 47,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 30,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 41,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 30,
    "d_kv": 7,
    "d_ff": 41,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "dropout_rate": 0.0,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 30,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 41,
    "decoder_ffn_dim": 41,
    "max_position_embeddings": 40,
    "dropout": 0.0,
    "pad_token_id": 1,
}
GEMMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 30,
    "intermediate_size": 41,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "query_pre_attn_scalar": 14,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
    "attention_dropout": 0.0,
    "dropout_rate": 0.0,
}


def t5gemma(**encoder: Any) -> Any:
    """A T5Gemma, with an encoder that may have a width of its own."""
    made: Any = import_module("transformers.models.t5gemma")
    first, second = ({**GEMMA, **encoder}, GEMMA)
    return made.T5GemmaConfig(
        encoder=made.T5GemmaModuleConfig(**first),
        decoder=made.T5GemmaModuleConfig(**second, cross_attention_hidden_size=first["hidden_size"]),
        vocab_size=VOCABULARY,
        dropout_rate=0.0,
        attn_implementation="eager",
    )


@dataclass(frozen=True)
class Theirs:
    """A network of transformers: its class and its config."""

    model: Any
    config: Any


CASES: dict[str, Theirs] = {
    "gpt2": Theirs(
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(
            vocab_size=VOCABULARY, **TOKENS, n_embd=30, n_head=3, n_layer=3, n_positions=40, resid_pdrop=0,
            embd_pdrop=0, attn_pdrop=0,
        ),
    ),
    "gpt2 with an inner width": Theirs(
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(
            vocab_size=VOCABULARY, **TOKENS, n_embd=30, n_head=5, n_layer=2, n_positions=40, n_inner=37,
            activation_function="relu", resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        ),
    ),
    "llama, grouped": Theirs(
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    ),
    "llama, biases, tied": Theirs(
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    ),
    "qwen3": Theirs(transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**LLAMA)),
    "qwen3, biases, tied": Theirs(
        transformers.Qwen3ForCausalLM,
        transformers.Qwen3Config(**LLAMA, attention_bias=True, tie_word_embeddings=True),
    ),
    "t5": Theirs(transformers.T5ForConditionalGeneration, transformers.T5Config(**T5)),
    "t5 v1.1": Theirs(
        transformers.T5ForConditionalGeneration,
        transformers.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "ul2": Theirs(
        transformers.T5ForConditionalGeneration,
        transformers.T5Config(**T5, feed_forward_proj="gated-silu", tie_word_embeddings=False),
    ),
    "bart": Theirs(transformers.BartForConditionalGeneration, transformers.BartConfig(**BART)),
    "bart, scaled": Theirs(
        transformers.BartForConditionalGeneration, transformers.BartConfig(**BART, scale_embedding=True)
    ),
    "bert": Theirs(transformers.BertForMaskedLM, transformers.BertConfig(**BERT)),
    "bert without a head": Theirs(transformers.BertModel, transformers.BertConfig(**BERT)),
    "roformer": Theirs(transformers.RoFormerForMaskedLM, transformers.RoFormerConfig(**BERT)),
    "t5gemma": Theirs(transformers.T5GemmaForConditionalGeneration, t5gemma()),
    "t5gemma, unequal": Theirs(
        transformers.T5GemmaForConditionalGeneration,
        t5gemma(hidden_size=24, num_attention_heads=4, num_key_value_heads=1, intermediate_size=31,
                num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]),
    ),
}  # fmt: skip


def drawn(case: Theirs, seed: int = 0) -> Any:
    """The network with every parameter drawn at random: norms around 1, biases not 0."""
    torch.manual_seed(seed)
    model = case.model(case.config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" in name and not parameter.requires_grad:
                continue  # RoFormer's table of angles
            if parameter.ndim == 1:
                gemma = case.config.model_type == "t5gemma"
                centre = 0.0 if name.endswith("bias") or gemma else 1.0
                parameter.copy_(centre + 0.3 * torch.randn(parameter.shape))
            elif "relative_attention_bias" in name:
                parameter.copy_(torch.randn(parameter.shape))
            else:
                parameter.copy_(torch.randn(parameter.shape) * parameter.shape[1] ** -0.5)
    return model


LENGTHS = ((9, 7), (4, 3), (1, 5))
"""Tokens of input and of output of each row: ragged."""


def rows(seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        [torch.randint(3, VOCABULARY, (pair[side],), generator=generator) for pair in LENGTHS]
        for side in (0, 1)
    )  # type: ignore[return-value]


def padded(some: list[Tensor], fill: int) -> Tensor:
    width = max(map(len, some))
    return torch.stack([torch.cat([x, x.new_full((width - len(x),), fill)]) for x in some])


def answers(model: Any, a: Architecture) -> list[Tensor]:
    """Their logits (or, of a bare model, final states) of each row, of its real tokens alone; in one batch."""
    inputs, outputs = rows()
    with torch.no_grad():
        if a.two_streams:
            found = model(
                input_ids=padded(inputs, 0),
                attention_mask=padded([torch.ones_like(x) for x in inputs], 0),
                decoder_input_ids=padded(outputs, 0),
                decoder_attention_mask=padded([torch.ones_like(x) for x in outputs], 0),
            ).logits
            return [found[i, : len(x)] for i, x in enumerate(outputs)]
        both = [torch.cat(pair) for pair in zip(inputs, outputs, strict=True)]
        extra = {}
        if a.embeddings.segments:
            kinds = [
                torch.cat([torch.zeros_like(x), torch.ones_like(y)])
                for x, y in zip(inputs, outputs, strict=True)
            ]
            extra = {"token_type_ids": padded(kinds, 0)}
        mask = padded([torch.ones_like(x) for x in both], 0)
        found = model(input_ids=padded(both, 0), attention_mask=mask, **extra)
        found = found.logits if hasattr(found, "logits") else found.last_hidden_state
        return [found[i, : len(x)] for i, x in enumerate(both)]


def streams(a: Architecture) -> Mapping[str, Tokens]:
    """The same rows for ours, padding and all."""
    inputs, outputs = rows()
    found = {}
    for stream in a.streams:
        ids, positions, parts, steps = [], [], [], []
        for x, y in zip(inputs, outputs, strict=True):
            here = {"input": x, "output": y, "both": torch.cat([x, y])}[stream.holds]
            first = len(x) if stream.holds == "output" else 0
            position = torch.arange(first, first + len(here))
            ids.append(here)
            positions.append(position)
            parts.append(torch.where(position < len(x), INPUT, OUTPUT))
            steps.append((position - len(x) + 1).clamp(min=0))
        document = padded([torch.zeros_like(x) for x in ids], PADDING)
        found[stream.name] = Tokens(
            padded(ids, 0), padded(positions, 0), document, padded(parts, INPUT), padded(steps, 0)
        )
    return found
