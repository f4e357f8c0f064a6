"""The model card beside a network that is handed over: what it is, what it is from and consumed, how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headtohead import __version__
from headtohead.interop.folders import Held
from headtohead.interop.own import class_of, fills, separate
from headtohead.interop.tokenizing import names_of, tokenizer_content
from headtohead.model.budget import cache_bytes, flops, parameters

CARD, GGUF, ONNX = "README.md", "model.gguf", "model.onnx"
COST_TOKENS = 1024
"""Tokens of input and of output for which the card tells costs: the published setting."""

LEDGER: dict[str, str] = {
    "steps": "steps",
    "examples": "examples",
    "bytes_shown": "bytes of text shown",
    "tokens_shown": "tokens shown",
    "tokens_supervised": "supervised tokens",
    "tokens_padding": "places of padding",
    "visible_pairs": "visible (query, key, head) triples",
    "flops": "training FLOPs",
    "documents": "documents",
}
AUTO = {
    "HeadtoheadForCausalLM": "AutoModelForCausalLM",
    "HeadtoheadForSeq2SeqLM": "AutoModelForSeq2SeqLM",
    "HeadtoheadForMaskedLM": "AutoModelForMaskedLM",
}


def model_card(held: Held, format: str, kind: str) -> str:
    """The card (Markdown) of a network handed over in `format`, where it is a `kind` (`hub.export_network`)."""
    return "\n".join(
        [*_front(held, format), *_what(held), *_origin(held), *_shown(held), *_use(held, format, kind)]
    )


def _front(held: Held, format: str) -> Iterator[str]:
    a = held.architecture
    yield "---"
    yield f"library_name: {'transformers' if format == 'hf' else 'llama.cpp' if format == 'gguf' else 'onnx'}"
    if not fills(a, held.frame):
        yield f"pipeline_tag: {'text2text-generation' if separate(a) else 'text-generation'}"
    yield "tags:"
    yield "- headtohead"
    yield "---"
    yield ""


def _what(held: Held) -> Iterator[str]:
    a, source = held.architecture, held.source
    yield f"# {source.get('label') or a.name}"
    yield ""
    count = parameters(a)
    depths = " and ".join(
        f"{stream.depth} layers over its {'input and output' if stream.holds == 'both' else stream.holds}"
        for stream in a.streams
    )
    yield (
        f"A Transformer of {count['total']:,} parameters ({count['non_embedding']:,} without embeddings): {depths}, "
        f"width {a.d_model}, {a.heads} heads, a vocabulary of {a.vocabulary:,}."
    )
    yield ""
    yield "| who sees whom | |"
    yield "|---|---|"
    for stream in a.streams:
        for rule in dict.fromkeys(
            (read.keys, str(read.visibility)) for layer in stream.layers for read in layer.reads
        ):
            yield f"| {stream.name} reads {rule[0]} | `{rule[1]}` |"
    work = flops(a, COST_TOKENS, COST_TOKENS)
    kept = cache_bytes(a, COST_TOKENS, COST_TOKENS)
    yield ""
    yield (
        f"For {COST_TOKENS} tokens of input and as many of output: {work['prefill']:.3g} FLOPs to read, "
        f"{work['decode_per_token']:.3g} for each token written, {kept:,} bytes of cache in bf16 (if one is kept)."
    )
    yield ""


def _origin(held: Held) -> Iterator[str]:
    source: Mapping[str, Any] = held.source
    yield "## Where it is from"
    yield ""
    study = source.get("study")
    if study:
        yield f"The study **{study['name']}**, *{study['title']}*: {study['question']}"
        yield ""
        yield (
            "It was trained to be compared with other architectures on the same documents in the same order, not to be "
            "the best network of its size; the study's page has the comparison and how sure it is."
        )
        yield ""
    if "run" not in source:
        made = (
            f"Brought in from `{source['from']}` ({source.get('model_type')})." if "from" in source else None
        )
        yield made or "Nothing is recorded of where it is from."
        yield ""
        return
    facts = {
        "run": source["run"],
        "arm": source.get("arm"),
        "rung": source.get("rung"),
        "seed": source.get("seed"),
        "objective": source.get("objective") or ", ".join(source.get("regions") or ()),
        "learning rate": source.get("learning_rate"),
        "text": source.get("text"),
        "sha256 of the text": source.get("corpus_sha256"),
        "sha256 of the weights": source.get("weights_sha256"),
        **{
            name: (source.get("identity") or {}).get(name)
            for name in ("version", "commit", "torch", "dtype", "threads", "compiled")
        },
    }
    yield from _table("run", facts)
    if source.get("ledger"):
        yield "What it consumed in training (FLOPs exact by visible pairs, three times the forward pass):"
        yield ""
        yield from _table("ledger", {LEDGER.get(k, k): v for k, v in source["ledger"].items()})
    found = source.get("bits_per_byte")
    if found:
        yield f"On held-out text ({source.get('split', 'test')} split), in bits per byte:"
        yield ""
        yield "| region | bits per byte | value of the input |"
        yield "|---|---|---|"
        worth = source.get("value_of_input") or {}
        for region, bits in found.items():
            value = f"{worth[region]:.4f}" if isinstance(worth.get(region), float) else ""
            yield f"| {region} | {bits:.4f} | {value} |"
        yield ""


def _table(title: str, facts: Mapping[Any, Any]) -> Iterator[str]:
    yield f"| {title} | |"
    yield "|---|---|"
    for name, value in facts.items():
        if value is not None and value != "":
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            shown = f"{value:,.6g}" if isinstance(value, float) else shown
            yield f"| {name} | {shown} |"
    yield ""


def _shown(held: Held) -> Iterator[str]:
    """How a text must be framed."""
    frame, content = held.frame, tokenizer_content(held)
    names = names_of(content) if content else {}
    shown, begun = frame.around([-1])

    def said(ids: list[int]) -> str:
        words = ["TEXT" if i == -1 else names.get(i, f"[{i}]") for i in ids]
        return "`" + " ".join(words) + "`" if words else "nothing"

    yield "## How a text is shown to it"
    yield ""
    if separate(held.architecture):
        yield f"The encoder reads {said(shown)}, the decoder begins with {said(begun)}."
    else:
        follows = "" if fills(held.architecture, frame) else "; what is written follows"
        yield f"{said([*shown, *begun])}, in one row{follows}."
    ends = ", ".join(f"`{names.get(i, i)}`" for i in frame.ends)
    if ends and not fills(held.architecture, frame):
        yield f"It ends with {ends}."
    if frame.mask is not None:
        yield f"A hole is `{names.get(frame.mask, frame.mask)}`."
    yield ""


def _use(held: Held, format: str, kind: str) -> Iterator[str]:
    a, frame = held.architecture, held.frame
    yield "## Use"
    yield ""
    if format == "gguf":
        yield f"`{GGUF}` is of llama.cpp's architecture `{kind}`."
        yield ""
        yield "```sh"
        yield f"llama-server -m {GGUF} --jinja"
        yield "ollama create mine -f Modelfile"
        yield "```"
        yield ""
        yield "A prompt that is not sent as a chat must hold the special tokens of the line above by itself."
    elif format == "onnx":
        yield f"`{ONNX}`: {kind}, the full pass without a cache, for any number of rows and tokens (fp32)."
        if not separate(a):
            yield "`token_type_ids` are 0 for the input, 1 for the output; a graph without use for them lacks them."
        yield ""
        yield "```python"
        yield "import onnxruntime, tokenizers"
        yield 'text = tokenizers.Tokenizer.from_file("tokenizer.json")'
        yield f'session = onnxruntime.InferenceSession("{ONNX}")'
        yield "```"
    else:
        own = kind.startswith("Headtohead")
        name = AUTO[kind] if own else kind
        yield "```python"
        if own:
            yield f"import headtohead  # pip install 'headtohead[hub]=={__version__}'"
        yield f"from transformers import AutoTokenizer, {name}"
        yield f'model, text = {name}.from_pretrained("."), AutoTokenizer.from_pretrained(".")'
        if class_of(a, frame) != "HeadtoheadForMaskedLM" and not kind.endswith(("Model", "MaskedLM")):
            yield 'given = text("A text", return_tensors="pt")'
            yield "print(text.decode(model.generate(**given, max_new_tokens=40, do_sample=False)[0]))"
        yield "```"
    yield ""
