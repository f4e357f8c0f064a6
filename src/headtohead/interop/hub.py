"""Networks of the Hugging Face hub: bring one in as a model folder, hand one over as a folder of transformers.

A source is a folder as `save_pretrained` writes it, a name on the hub, or a GGUF file (which transformers
dequantises). Only safetensors are read: unpickling runs whatever code a file holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from headtohead.errors import UserError, about
from headtohead.files import read_json, read_text, write_atomic
from headtohead.interop.card import CARD, GGUF, ONNX, model_card
from headtohead.interop.families import describe, to_ours, to_theirs
from headtohead.interop.folders import PICKLES, Held, read_folder, read_tensors, refused, whole, write_folder
from headtohead.interop.own import MODEL_TYPE, own_config, own_tensors, read_own, separate
from headtohead.interop.tokenizing import token_ids, write_json, write_tokenizer
from headtohead.interop.tokens import ForeignTokenizer, foreign_frame, text_of
from headtohead.model.budget import parameters
from headtohead.validation import suggest

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


def export_network(run: Path, out: Path, format: str = "hf", precision: str = "fp32") -> str:
    """Hand a network over as a folder of one of `FORMATS`; returns what it is there.

    hf: what transformers loads, by a class of transformers where one computes exactly the same, and else by our own
    (`modelling`); its name is returned. gguf: what llama.cpp and Ollama run; its architecture there is returned.
    onnx: the full pass as a graph. Each has a model card beside it.

    precision: of a GGUF file's matrices, fp32 or bf16.

    Raises:
        UserError: no network there, a format or precision that isn't known, a network that the format can't say, or
            `out` is there already.
    """
    if format not in FORMATS:
        raise UserError(f"there is no format '{format}' to export to: {suggest(format, FORMATS)}")
    if precision not in PRECISIONS or (format != "gguf" and precision != "fp32"):
        raise UserError(
            f"--precision {precision}: a GGUF file has {' or '.join(PRECISIONS)}, and the other formats are in fp32"
        )
    held = read_folder(run)
    with whole(out) as made:
        found = FORMATS[format](made, held, precision)
        write_atomic(made / CARD, model_card(held, format, found))
    return found


def _as_hf(made: Path, held: Held, _: str) -> str:
    a = held.architecture
    converted = to_theirs(a, held.weights) or (own_config(a, held.frame), own_tensors(held.weights))
    config, tensors = converted
    ids = token_ids(held.frame, separate(a))
    write_json(made / "config.json", {**config, **ids, "dtype": "float32"})
    if not config["architectures"][0].endswith(("Model", "MaskedLM")):
        never = {"suppress_tokens": list(held.frame.never)} if held.frame.never else {}
        write_json(made / "generation_config.json", {**ids, **never})
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomic(made / ONE_FILE, safetensors.torch.save(plain, metadata={"format": "pt"}))
    write_tokenizer(made, held)
    return config["architectures"][0]


def _as_gguf(made: Path, held: Held, precision: str) -> str:
    from headtohead.interop import llamacpp

    found = llamacpp.write_gguf(made / GGUF, held, precision)
    write_atomic(made / "Modelfile", llamacpp.modelfile(GGUF, held))
    return found


def _as_onnx(made: Path, held: Held, _: str) -> str:
    from headtohead.interop.graph import input_names, write_onnx

    write_onnx(made / ONNX, held)
    write_json(made / "config.json", own_config(held.architecture, held.frame))
    write_tokenizer(made, held)
    return f"{', '.join(input_names(separate(held.architecture)))} -> logits"


FORMATS: dict[str, Callable[[Path, Held, str], str]] = {"hf": _as_hf, "gguf": _as_gguf, "onnx": _as_onnx}
"""What a network can be handed over as: what writes it into a folder."""
PRECISIONS = ("fp32", "bf16")


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
