"""Networks of the Hugging Face hub: bring one in as a model folder, hand one over as a folder of transformers.

A source is a folder as `save_pretrained` writes it, a name on the hub, or a GGUF file (which transformers
dequantises). Only safetensors are read: unpickling runs whatever code a file holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from headtohead.data.objectives.base import shares
from headtohead.errors import UserError, about
from headtohead.files import read_json, read_text, write_atomic
from headtohead.interop.families import describe, to_ours, to_theirs
from headtohead.interop.folders import PICKLES, Held, read_folder, read_tensors, refused, whole, write_folder
from headtohead.interop.frame import Frame
from headtohead.interop.own import MODEL_TYPE, fills, own_config, own_tensors, read_own, separate
from headtohead.interop.tokens import ForeignTokenizer, foreign_frame, text_of
from headtohead.model.architecture import Architecture
from headtohead.model.budget import parameters

INDEX, ONE_FILE = "model.safetensors.index.json", "model.safetensors"
SLOW = ("vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
"""What a tokenizer without a tokenizer.json is made of."""
PATTERNS = ["*.json", "*.safetensors", *SLOW, "merges.txt"]


def import_network(source: str, out: Path, gguf_file: str | None = None) -> list[str]:
    """Write the model folder `out` from a folder of transformers, a GGUF file, or a name on the hub.

    Returns the names of tensors that are no part of the network (a pooler, say).

    Raises:
        UserError: nothing there, a pickle, a network or setting that can't be described here, tensors that don't
            fit, or `out` is there already.
    """
    path = Path(source)
    if path.suffix == ".gguf" or gguf_file is not None:
        folder, name = (path, gguf_file) if gguf_file is not None else (path.parent, path.name)
        config, tensors, tokenizer = _gguf(folder, name)
        generation: Mapping[str, Any] = {}
    else:
        folder = _folder(path, source)
        config = read_json(folder / "config.json", "the config")
        if not isinstance(config, dict):
            raise UserError(f"{folder / 'config.json'} is no table of settings")
        generation = _optional(folder / "generation_config.json")
        tensors, tokenizer = _weights(folder), _tokenizer(folder)
    with about(source):
        text = None if tokenizer is None else text_of(tokenizer, "its tokenizer.json")
        left: list[str] = []
        if config.get("model_type") == MODEL_TYPE:
            architecture, frame, weights = read_own(config, tensors)
        else:
            architecture = describe(config)
            weights, left = to_ours(config, architecture, tensors)
            foreign = text if isinstance(text, ForeignTokenizer) else None
            frame = foreign_frame(architecture, foreign, config, generation)
        if frame.highest >= architecture.vocabulary:
            raise UserError(
                f"its configs name the token {frame.highest}, and the vocabulary has {architecture.vocabulary}: "
                "mend bos_token_id, eos_token_id and pad_token_id"
            )
    origin = {"from": path.name if path.exists() else source, "model_type": config["model_type"]}
    write_folder(out, Held(architecture, weights, frame, tokenizer, origin))
    return left


def described(folder: Path) -> str:
    """A model folder in a line: what kind of network, its streams and its parameters."""
    a = read_folder(folder).architecture
    depths = " + ".join(f"{stream.depth} layers ({stream.name})" for stream in a.streams)
    return f"{a.name}, {depths}, {parameters(a)['total']:,} parameters"


def export_network(run: Path, out: Path, format: str = "hf") -> str:
    """Write a network as a folder that transformers loads; returns the class that its config names.

    That is a class of transformers where one computes exactly the same, and else our own (`modelling`).

    Raises:
        UserError: no network there, a format that isn't known, or `out` is there already.
    """
    if format != "hf":
        raise UserError(
            f"there is no format '{format}' to export to: 'hf', the folder that transformers loads"
        )
    held = read_folder(run)
    a = held.architecture
    converted = to_theirs(a, held.weights) or (own_config(a, held.frame), own_tensors(held.weights))
    config, tensors = converted
    ids = token_ids(held.frame, separate(a))
    with whole(out) as made:
        write_json(made / "config.json", {**config, **ids, "dtype": "float32"})
        if not config["architectures"][0].endswith(("Model", "MaskedLM")):
            never = {"suppress_tokens": list(held.frame.never)} if held.frame.never else {}
            write_json(made / "generation_config.json", {**ids, **never})
        plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        write_atomic(made / ONE_FILE, safetensors.torch.save(plain, metadata={"format": "pt"}))
        write_tokenizer(made, held)
    return config["architectures"][0]


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


def write_tokenizer(folder: Path, held: Held) -> None:
    """tokenizer.json and what `AutoTokenizer` needs beside it; nothing where the network has none."""
    if held.tokenizer is None:
        return
    content = json.loads(held.tokenizer)
    if "model" not in content:  # a study's bytes
        content = bytes_as_tokenizer(content)
    vocabulary = content["model"].get("vocab")
    names = {i: name for name, i in vocabulary.items()} if isinstance(vocabulary, dict) else {}
    names |= {token["id"]: token["content"] for token in content.get("added_tokens") or ()}
    frame = held.frame
    if content.get("post_processor") is None:
        content["post_processor"] = around(frame, held.architecture, names)
    wanted = {
        "pad_token": frame.pad,
        "eos_token": next(iter(frame.ends), None),
        "bos_token": next(iter(frame.before), None),
        "mask_token": frame.mask,
    }
    specials = {key: names[i] for key, i in wanted.items() if i is not None and i in names}
    write_json(folder / "tokenizer.json", content)
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


# ------------------------------------------------------------------------------------------------------------


def _folder(path: Path, source: str) -> Path:
    """The local folder of a source, fetched from the hub if it is a name there."""
    if path.is_file() and path.suffix.lower() in PICKLES:
        raise refused(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path} has no config.json, so it is no folder of a network of transformers")
        return path
    if path.exists() or source.count("/") > 1 or source.startswith((".", "/", "~")):
        raise UserError(f"{source} is no folder of a network, and no name on the hub")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise _missing(f"{source} is no folder here; to fetch it from the hub") from None
    try:
        return Path(snapshot_download(source, allow_patterns=PATTERNS))
    except Exception as problem:  # the library's errors are many: no such name, no access, no network
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(f"{source} is no folder here and can't be fetched from the hub: {first}") from None


def _missing(what: str) -> UserError:
    return UserError(f"{what} needs transformers, which isn't installed: pip install 'headtohead[hub]'")


def _optional(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    found = read_json(path, "the settings")
    return found if isinstance(found, dict) else {}


def _weights(folder: Path) -> dict[str, Tensor]:
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX, "the index of the weights")
        try:
            names = sorted(set(index["weight_map"].values()))
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{folder / INDEX} has no weight_map: copy the file again") from None
        return {key: t for name in names for key, t in read_tensors(folder / Path(name).name).items()}
    if (folder / ONE_FILE).is_file():
        return read_tensors(folder / ONE_FILE)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLES:
            raise refused(path)
    raise UserError(f"{folder} has no weights: {ONE_FILE} or {INDEX}")


def _tokenizer(folder: Path) -> str | None:
    if (folder / "tokenizer.json").is_file():
        return read_text(folder / "tokenizer.json", "the tokenizer")
    if not any((folder / name).is_file() for name in SLOW):
        return None
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise _missing(f"{folder} has no tokenizer.json; to make one of its other files") from None
    with _told(f"the tokenizer of {folder}"):
        return AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str()


def _gguf(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Config, tensors and tokenizer of a GGUF file, dequantised to fp32."""
    path = folder / name
    if not path.is_file():
        raise UserError(f"there is no GGUF file {path}")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise _missing(f"to read {path}") from None
    with _told(str(path)):
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name).backend_tokenizer.to_str()
    config = json.loads(model.config.to_json_string(use_diff=False))
    return config, {key: tensor.detach() for key, tensor in model.state_dict().items()}, tokenizer


@contextmanager
def _told(what: str) -> Any:
    try:
        yield
    except UserError:
        raise
    except Exception as problem:  # whatever transformers raises for a file that it can't read
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(f"{what} can't be read by transformers: {first}") from None
