"""A network's tokenizer and special ids, as transformers and other programs read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headtohead.data.objectives.base import shares
from headtohead.files import write_atomic
from headtohead.interop.folders import TOKENIZER, Held
from headtohead.interop.frame import Frame
from headtohead.interop.own import fills, separate
from headtohead.model.architecture import Architecture


def token_ids(frame: Frame, two_streams: bool) -> dict[str, Any]:
    """What transformers calls the ids of a frame."""
    found: dict[str, Any] = {"pad_token_id": frame.pad}
    if frame.ends:
        found["eos_token_id"] = list(frame.ends) if len(frame.ends) > 1 else min(frame.ends)
    if frame.before:
        found["bos_token_id"] = next(iter(frame.before))
    if two_streams and frame.start:
        found["decoder_start_token_id"], *forced = frame.start
        if forced:
            found["forced_bos_token_id"] = forced[0]
    return found


def tokenizer_content(held: Held) -> dict[str, Any] | None:
    """The network's tokenizer as a tokenizer.json of transformers; None where it has none."""
    if held.tokenizer is None:
        return None
    content = json.loads(held.tokenizer)
    return content if "model" in content else bytes_as_tokenizer(content)  # a study's bytes


def names_of(content: Mapping[str, Any]) -> dict[int, str]:
    """The tokens of a tokenizer.json by their ids."""
    vocabulary = content["model"].get("vocab")
    names = {i: name for name, i in vocabulary.items()} if isinstance(vocabulary, dict) else {}
    return names | {token["id"]: token["content"] for token in content.get("added_tokens") or ()}


def write_tokenizer(folder: Path, held: Held) -> None:
    """tokenizer.json and what `AutoTokenizer` needs beside it; nothing where the network has none."""
    content = tokenizer_content(held)
    if content is None:
        return
    names, frame = names_of(content), held.frame
    if content.get("post_processor") is None:
        content["post_processor"] = around(frame, held.architecture, names)
    wanted = {
        "pad_token": frame.pad,
        "eos_token": next(iter(frame.ends), None),
        "bos_token": next(iter(frame.before), None),
        "mask_token": frame.mask,
    }
    specials = {key: names[i] for key, i in wanted.items() if i is not None and i in names}
    write_json(folder / TOKENIZER, content)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left" if _writes_on(held.architecture, frame) else "right",
        # Types say what is output, and a text alone isn't said to be input: the model decides.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(folder / "tokenizer_config.json", {**settings, **specials})


def _writes_on(a: Architecture, frame: Frame) -> bool:
    """Whether the output stands after the input, in the same row."""
    return not separate(a) and not fills(a, frame)


def around(frame: Frame, a: Architecture, names: Mapping[int, str]) -> dict[str, Any] | None:
    """The tokenizer's step that puts a frame around a text; of a pair, the second is the output (type 1). None
    where there is nothing to put, or a name is missing.
    """
    writes = _writes_on(a, frame)
    start = frame.start if writes else ()
    ids = (*frame.before, *frame.after, *start)
    if not ids or any(i not in names for i in ids):
        return None

    def special(some: Sequence[int], kind: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": names[i], "type_id": kind}} for i in some]

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    shown, begun = shares(frame.given if writes else "input", ["A"])
    single = [
        *(*special(frame.before, 0), *(text(name, 0) for name in shown), *special(frame.after, 0)),
        *(*special(start, 1), *(text(name, 1) for name in begun)),
    ]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1)],
        "special_tokens": {names[i]: {"id": names[i], "ids": [i], "tokens": [names[i]]} for i in ids},
    }


def bytes_as_tokenizer(content: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer.json of a study's byte tokenizer: byte-level BPE without a merge."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte_of)
    names = [*content["specials"], *alphabet, *content.get("extra", ())]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)}, "merges": []},
    }


def _byte_of(character: str) -> int:
    """Which byte a character of the byte-level alphabet stands for: itself, where it is printable, else one of
    those that are not, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    code = ord(character)
    return code if code in printable else others[code - 256]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
