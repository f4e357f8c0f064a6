"""Folders that hold a network: a *model folder*, and a finished run of a study.

A model folder:

    model.json           {"format": 1, "architecture", "frame", "source", "sha256": {file: hex}}
    weights.safetensors  named as `train.checkpoint.named_tensors` names a Transformer's tensors
    tokenizer.json       absent where there is none

model.json is written last, into a folder that appears whole. Weights are safetensors only: nothing is ever
unpickled.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from headtohead.data.objectives import Codes
from headtohead.data.objectives.base import MASK
from headtohead.data.tokenizers import load_tokenizer
from headtohead.errors import UserError, about
from headtohead.files import (
    explain_os_error,
    make_folder,
    read_bytes,
    read_json,
    read_text,
    sha256_of,
    write_atomic,
)
from headtohead.interop.frame import Frame, own_frame
from headtohead.model.architecture import Architecture
from headtohead.model.transformer import Transformer
from headtohead.study.prepare import read_data
from headtohead.study.results import is_done, learnt_by, read_plan, read_run
from headtohead.train.inherit import put
from headtohead.validation import validated

FORMAT = 1
RECORD, WEIGHTS, TOKENIZER = "model.json", "weights.safetensors", "tokenizer.json"
PLAN = "plan.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Held:
    """What a folder holds. tokenizer: the text of its tokenizer.json, None where there is none. source: where
    it is from, as JSON.
    """

    architecture: Architecture
    weights: Mapping[str, Tensor]
    frame: Frame
    tokenizer: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def network(self) -> Transformer:
        """The network with these weights, in evaluation mode.

        Raises:
            UserError: naming the first tensor that is missing, unknown or of another shape.
        """
        model = Transformer(self.architecture)
        put(model, self.weights)
        return model.eval()


def write_folder(folder: Path, held: Held) -> None:
    """Write a model folder. It appears whole or not at all.

    Raises:
        UserError: something of that name is there, the weights are not finite or not the network's, or the
            disk refuses.
    """
    check_new(folder)
    for name, tensor in held.weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"the tensor '{name}' has values that are not finite: {folder} is not written")
    held.network()
    content = {WEIGHTS: safetensors.torch.save({n: t.detach().contiguous() for n, t in held.weights.items()})}
    if held.tokenizer is not None:
        content[TOKENIZER] = held.tokenizer.encode()
    with whole(folder) as made:
        for name, data in content.items():
            write_atomic(made / name, data)
        record = {
            "format": FORMAT,
            "architecture": held.architecture.model_dump(mode="json"),
            "frame": held.frame.model_dump(mode="json"),
            "source": dict(held.source),
            "sha256": {name: sha256_of(made / name) for name in content},
        }
        write_atomic(made / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def check_new(folder: Path) -> None:
    """Raises UserError if something of that name is there."""
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} is there already: give the name of a folder that is not")


class whole:
    """``with whole(folder) as made``: what is written to `made` becomes `folder` at the end, or nothing does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        check_new(self.folder)
        make_folder(self.folder.absolute().parent)
        try:
            self.made = Path(
                tempfile.mkdtemp(prefix=f".{self.folder.name[:100]}.", dir=self.folder.absolute().parent)
            )
            self.made.chmod(0o755)
        except OSError as error:
            raise UserError(f"cannot write {self.folder}: {explain_os_error(error)}") from error
        return self.made

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                check_new(self.folder)
                self.made.rename(self.folder)
        except OSError as error:
            raise UserError(f"cannot write {self.folder}: {explain_os_error(error)}") from error
        finally:
            shutil.rmtree(self.made, ignore_errors=True)


def read_folder(folder: Path) -> Held:
    """What a model folder, or the folder of a finished run, holds; checksums verified.

    Raises:
        UserError: it is no folder, neither kind of folder, an unfinished run, or a file is missing, altered, a
            pickle, or of another network.
    """
    folder = Path(folder)
    if folder.suffix.lower() in PICKLES and folder.is_file():
        raise refused(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise UserError(f"{folder} {what}: give a model folder ({RECORD}) or the folder of a finished run")
    if (folder / RECORD).is_file():
        return _model(folder)
    if (folder / "run.json").is_file():
        return _run(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLES:
            raise refused(path)
    hint = ": bring it in with headtohead import" if (folder / "config.json").is_file() else ""
    raise UserError(f"{folder} holds neither {RECORD} nor run.json, so it is no network's folder{hint}")


def refused(path: Path) -> UserError:
    """The error for a pickle."""
    return UserError(
        f"{path} is a pickle, and reading one runs whatever code it holds: give safetensors "
        "(save_pretrained(…, safe_serialization=True) writes them)"
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: a pickle, missing, cut short or otherwise no safetensors.
    """
    if path.suffix.lower() in PICKLES:
        raise refused(path)
    content = read_bytes(path, "the weights")
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"the weights {path} can't be read as safetensors ({error}): copy the file again"
        ) from error


def _model(folder: Path) -> Held:
    record = read_json(folder / RECORD, "the model")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{folder / RECORD} is not of format {FORMAT}: write the folder again")
    sums = record.get("sha256")
    if not isinstance(sums, dict) or WEIGHTS not in sums:
        raise UserError(
            f"{folder / RECORD} is damaged, it has no sha256 of {WEIGHTS}: write the folder again"
        )
    for name in (WEIGHTS, TOKENIZER):
        path = folder / name
        if name in sums and not path.is_file():
            raise UserError(f"{path} is missing: write the folder again")
        if name not in sums and path.exists():
            raise UserError(f"{path} is no part of the folder as {RECORD} tells it: write the folder again")
        if name in sums and sha256_of(path) != sums[name]:
            raise UserError(f"{path} has been altered since it was written: write the folder again")
    for key in ("architecture", "frame", "source"):
        if not isinstance(record.get(key), dict):
            raise UserError(f"{folder / RECORD} is damaged, its {key} is no table: write the folder again")
    architecture = validated(Architecture, record["architecture"], f"{folder / RECORD}: architecture")
    frame = validated(Frame, record["frame"], f"{folder / RECORD}: frame")
    if frame.highest >= architecture.vocabulary:
        raise UserError(
            f"{folder / RECORD}: frame names the id {frame.highest}, and the vocabulary ends before "
            f"{architecture.vocabulary}"
        )
    text = read_text(folder / TOKENIZER, "the tokenizer") if TOKENIZER in sums else None
    held = Held(architecture, read_tensors(folder / WEIGHTS), frame, text, record["source"])
    _check_shapes(folder / WEIGHTS, held)
    return held


def _check_shapes(path: Path, held: Held) -> None:
    with about(path):
        held.network()


def _run(folder: Path) -> Held:
    description = read_run(folder)
    path = folder / "model.safetensors"
    if not is_done(folder):
        raise UserError(f"the run {folder} is not finished: finish it with headtohead run {folder}")
    result = read_json(folder / "result.json", "the result")
    if not isinstance(result, dict) or result.get("status") != "finished":
        reason = result.get("reason", "it has no weights") if isinstance(result, dict) else "damaged result"
        raise UserError(f"the run {folder} did not finish: {reason}")
    if not path.is_file() or sha256_of(path) != result.get("weights_sha256"):
        raise UserError(f"{path} is missing or has been altered since the run wrote it: do the run again")
    architecture = validated(
        Architecture, description["architecture"], f"{folder / 'run.json'}: architecture"
    )
    data = (folder / description["data"]["folder"]).resolve()
    if not description["data"].get("shards"):
        read_data(data)
    tokenizer = data / TOKENIZER
    if not tokenizer.is_file() or sha256_of(tokenizer) != description["data"]["tokenizer_sha256"]:
        raise UserError(f"{tokenizer} is missing or is not the one of the run {folder}")
    found = load_tokenizer(tokenizer)
    learnt = learnt_by(folder, description)[0]
    first_extra = found.vocabulary - len(found.extra)
    mask = first_extra + found.extra.index(MASK) if MASK in found.extra else None
    held = Held(
        architecture,
        read_tensors(path),
        own_frame(learnt.manner(Codes(found)), mask, learnt.in_place),
        read_text(tokenizer, "the tokenizer"),
        _origin(folder, description, result),
    )
    _check_shapes(path, held)
    return held


def _origin(folder: Path, description: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was and consumed, for whoever is handed its network."""
    data = description["data"]
    kept = ("rung", "split", "ledger", "bits_per_byte", "value_of_input", "learning_rate", "identity")
    found = {
        "run": folder.name,
        "arm": description.get("arm"),
        "label": description.get("label"),
        "seed": description.get("seed"),
        "objective": description.get("objective"),
        "corpus_sha256": data["corpus_sha256"],
        "regions": list(data["regions"]),
        "row": data.get("row"),
        "weights_sha256": result.get("weights_sha256"),
        **{key: result.get(key) for key in kept},
    }
    plan = folder.resolve().parent.parent / PLAN
    if plan.is_file():
        told = read_plan(plan.parent, "write it again with headtohead study")
        found["study"] = {key: told["study"].get(key) for key in ("name", "title", "question")}
        found["text"] = told["data"].get("source")
    return {key: value for key, value in found.items() if value is not None}
