"""A network of Llama's or Qwen3's form as a GGUF file, which llama.cpp and what is built on it (Ollama) run.

Only what those two architectures of llama.cpp compute is written, to the last norm; everything else is refused by
the name of the part that can't be said. `gguf` writes the file and knows the names of its tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headtohead.data.tokenizers import SPECIAL_NAME
from headtohead.errors import UserError
from headtohead.interop.families import to_theirs
from headtohead.interop.folders import Held
from headtohead.interop.frame import Frame
from headtohead.interop.tokenizing import names_of, tokenizer_content
from headtohead.model.architecture import Architecture
from headtohead.model.parts import Rope
from headtohead.model.visibility import causal, conjuncts, same_document

TEXT = -1
CONTEXT = 2048
"""Tokens that llama.cpp makes room for, where neither the network nor its training says how many."""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def unsaid(a: Architecture) -> str | None:
    """The first part of a network that llama.cpp's Llama and Qwen3 don't compute, in words; None where they do."""
    return next(_unsaid(a), None)


def _unsaid(a: Architecture) -> Iterator[str]:
    if a.two_streams:
        yield f"two streams ({', '.join(stream.name for stream in a.streams)}), and there is one there"
        return
    layers = a.streams[0].layers
    for read in (read for layer in layers for read in layer.reads):
        if read.mixer != "softmax":
            yield f"{read.mixer} attention"
        if conjuncts(read.visibility) - {same_document} != {causal}:
            yield f"the visibility '{read.visibility}', and it is causal there"
    norms, biases = a.norms, a.biases
    said: list[tuple[bool, str]] = [
        (any(len(layer.reads) > 1 for layer in layers), "a layer that attends twice"),
        (len({layer.d_ff for layer in layers}) > 1, "layers of different d_ff"),
        (any(layer.positions is not None for layer in layers), "layers with positions of their own"),
        (not isinstance(a.positions, Rope), f"positions '{a.positions.kind}', and they are RoPE there"),
        (norms.kind != "rms", f"norms of kind '{norms.kind}', and they are RMS norms there"),
        (norms.place != "before", f"norms {norms.place} the sublayers, and they stand before them there"),
        (norms.value, "a norm on V (norms.value)"),
        (norms.output, "a norm on the attention's output (norms.output)"),
        (norms.query_key and (biases.attention or biases.feed_forward), "biases beside norms on Q and K"),
        (a.feed_forward != "swiglu", f"the feed-forward '{a.feed_forward}', and it is swiglu there"),
        (a.scores.scale is not None, "a scale of the scores (scores.scale)"),
        (a.scores.soft_cap is not None, "capped scores (scores.soft_cap)"),
        (a.embeddings.scaled, "scaled embeddings"),
        (a.embeddings.norm, "a norm on the embeddings"),
        (a.embeddings.segments, "embeddings of the parts (embeddings.segments)"),
        (a.head.transform, "a transformed head"),
        (a.head.bias, "a bias of the logits (head.bias)"),
        (a.head.scaled, "scaled logits (head.scaled)"),
        (a.head.soft_cap is not None, "capped logits (head.soft_cap)"),
    ]
    yield from (name for there, name in said if there)


@dataclass(frozen=True)
class Around:
    """A text that is given with its special ids, until the first token that is written: `TEXT` stands for the text."""

    ids: tuple[int, ...]

    @staticmethod
    def of(frame: Frame) -> Around:
        """As the frame says."""
        shown, begun = frame.around([TEXT])
        return Around((*shown, *begun))

    @property
    def one_begins(self) -> bool:
        """Whether all of it is one token in front of the text: what llama.cpp adds by itself."""
        return len(self.ids) == 2 and self.ids[1] == TEXT

    @property
    def special(self) -> set[int]:
        """The ids around the text."""
        return set(self.ids) - {TEXT}

    def template(self, names: Mapping[int, str], text: str) -> str:
        """The special tokens by name around `text`; not the one that llama.cpp adds."""
        ids = self.ids[1:] if self.one_begins else self.ids
        return "".join(text if i == TEXT else names[i] for i in ids)


MESSAGES = (
    "{% for m in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}{{ m['content'] }}{% endfor %}"
)
"""The texts of a chat, one a line (Jinja): what `headtohead serve` makes of them too."""


def write_gguf(path: Path, held: Held, precision: str = "fp32") -> str:
    """Write the GGUF file of a network with its tokenizer; returns llama.cpp's name of the architecture.

    `precision`: of the matrices; norms stay in fp32.

    Raises:
        UserError: the network has a part, or its tokenizer a step, that can't be said there; gguf isn't installed.
    """
    a = held.architecture
    if (part := unsaid(a)) is not None:
        raise UserError(
            f"{a.name} can't be a GGUF file of llama.cpp: it has {part}; --format hf or onnx take it"
        )
    try:
        import gguf
    except ImportError:
        raise UserError(
            "to write a GGUF file takes gguf, which isn't installed: pip install 'headtohead[hub]'"
        ) from None
    config, tensors = _theirs(a, held.weights)
    kind = gguf.MODEL_ARCH.QWEN3 if a.norms.query_key else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(kind, a.streams[0].depth)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[kind])
    writer.add_name(a.name)
    writer.add_file_type(
        gguf.LlamaFileType.MOSTLY_BF16 if precision == "bf16" else gguf.LlamaFileType.ALL_F32
    )
    writer.add_context_length(a.context or int(held.source.get("row") or CONTEXT))
    writer.add_embedding_length(a.d_model)
    writer.add_block_count(a.streams[0].depth)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(a.heads)
    writer.add_head_count_kv(a.key_heads or a.heads)
    writer.add_key_length(a.d_head)
    writer.add_value_length(a.d_head)
    writer.add_rope_dimension_count(a.d_head)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(a.norms.epsilon)
    writer.add_vocab_size(a.vocabulary)
    _write_tokenizer(writer, held)
    for name, tensor in tensors.items():
        said = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert said is not None, name
        if (
            kind is gguf.MODEL_ARCH.LLAMA
            and "self_attn." in name
            and ".v_proj" not in name
            and ".o_proj" not in name
        ):
            tensor = _in_pairs(tensor, a.heads if ".q_proj" in name else a.key_heads or a.heads)
        if precision == "bf16" and tensor.ndim == 2:
            data = gguf.quants.quantize(tensor.float().numpy(), gguf.GGMLQuantizationType.BF16)
            writer.add_tensor(said, data, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(said, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.MODEL_ARCH_NAMES[kind]


def _theirs(a: Architecture, weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of transformers' Llama or Qwen3. A norm on Q and K without weights has weights of 1 there."""
    if a.norms.query_key and not a.norms.query_key_weights:
        norms = type(a.norms)(**{**a.norms.model_dump(), "query_key_weights": True})
        one = torch.ones(a.d_head)
        stream = a.streams[0]
        added = {
            f"stacks.{stream.name}.{layer}.attentions.0.{which}_norm": one
            for layer in range(stream.depth)
            for which in ("query", "key")
        }
        a, weights = a.resized(norms=norms), {**weights, **added}
    found = to_theirs(a, weights)
    assert found is not None, a.name
    return found


def _in_pairs(x: Tensor, heads: int) -> Tensor:
    """The rows of a projection as llama.cpp's Llama turns them: the two numbers that RoPE turns together side by side,
    where here they are half a head apart.
    """
    half = x.shape[0] // heads // 2
    return x.reshape(heads, 2, half, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


# ------------------------------------------------------------------------------------------------------------


def _write_tokenizer(writer: Any, held: Held) -> None:
    import gguf

    a, frame = held.architecture, held.frame
    content = tokenizer_content(held)
    if content is None:
        raise UserError(f"{a.name} came without a tokenizer, and a GGUF file needs one")
    parting = _parting(content)
    model = content["model"]
    names = names_of(content)
    added = {token["id"]: bool(token.get("special")) for token in content.get("added_tokens") or ()}
    around = Around.of(frame)
    special = {*around.special, *frame.ends, *frame.never, frame.pad}
    tokens: list[str] = []
    kinds: list[int] = []
    for i in range(a.vocabulary):
        name = names.get(i)
        tokens.append(f"[unused {i}]" if name is None else name)
        if name is None:
            kinds.append(gguf.TokenType.UNUSED)
        elif i in added:
            kinds.append(gguf.TokenType.CONTROL if added[i] or i in special else gguf.TokenType.USER_DEFINED)
        else:
            # Of a study's own tokenizer: specials are of this form, and no text makes one.
            own = i in special or (not added and SPECIAL_NAME.fullmatch(name) is not None)
            kinds.append(gguf.TokenType.CONTROL if own else gguf.TokenType.NORMAL)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or ()]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(parting)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # Bytes need no merge, and llama.cpp a list with one: this one is of no two characters of a text.
    writer.add_token_merges(merges or [f"{tokens[0]} {tokens[0]}"])
    if around.ids[0] != TEXT:
        writer.add_bos_token_id(around.ids[0])
    writer.add_add_bos_token(around.one_begins)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if frame.ends:
        writer.add_eos_token_id(frame.ends[0])
    if len(frame.ends) > 1:
        writer.add_eot_token_id(frame.ends[1])
    writer.add_pad_token_id(frame.pad)
    writer.add_chat_template(around.template(names, MESSAGES))


def _parting(content: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer parts a text into words.

    Raises:
        UserError: it is no byte-level BPE, or does something to a text that has no name there.
    """
    model = content["model"]
    steps = content.get("pre_tokenizer") or {}
    listed = steps.get("pretokenizers", [steps]) if steps.get("type") == "Sequence" else [steps]
    last = listed[-1] if listed else {}
    if model.get("type") != "BPE" or last.get("type") != "ByteLevel" or model.get("byte_fallback"):
        raise _refused("is no byte-level BPE")
    normal = content.get("normalizer") or {}
    if normal.get("type") not in (None, "NFC"):
        raise _refused(f"changes a text first ({normal.get('type')})")
    if last.get("add_prefix_space"):
        raise _refused("puts a space before a text (add_prefix_space)")
    first = listed[:-1]
    patterns = [step.get("pattern", {}).get("Regex") for step in first if step.get("type") == "Split"]
    words = last.get("use_regex", True)
    by_digit = [step.get("type") == "Digits" and step.get("individual_digits") for step in first] == [True]
    whole = bool(model.get("ignore_merges"))
    if (not first and words and not whole) or (not first and not words and not model.get("merges")):
        return "gpt-2"
    if by_digit and words and not whole:
        return "smollm"
    if patterns == [LLAMA3] and len(first) == 1 and not words and whole:
        return "llama-bpe"
    if patterns == [QWEN2] and len(first) == 1 and not words and not whole:
        return "qwen2"
    raise _refused("parts a text into words in a way that has no name there")


def _refused(why: str) -> UserError:
    return UserError(
        f"the tokenizer can't be said in a GGUF file of llama.cpp: it {why}; --format hf takes it"
    )


def modelfile(name: str, held: Held) -> str:
    """What Ollama makes a model from: ``ollama create NAME -f Modelfile``."""
    content = tokenizer_content(held)
    assert content is not None
    names, around = names_of(content), Around.of(held.frame)
    ends = "".join(f"PARAMETER stop {json.dumps(names[i])}\n" for i in held.frame.ends if i in names)
    return f'FROM ./{name}\nTEMPLATE """{around.template(names, "{{ .Prompt }}")}"""\n{ends}'
