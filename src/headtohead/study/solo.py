"""`headtohead train`: one network, one corpus. Writes a run's folder and has it done as a study's run is.

FOLDER holds what a run of a study holds (run.json, checkpoints/, metrics.jsonl, result.json, model.safetensors),
and its data in FOLDER/data.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from headtohead.data.objectives import objective
from headtohead.data.stream import Sharded, StreamRows
from headtohead.data.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer
from headtohead.errors import Interrupted, UserError, about
from headtohead.files import FolderLock, read_json, write_atomic
from headtohead.model.architecture import Architecture
from headtohead.model.budget import parameters
from headtohead.study.arms import BYTE_VOCABULARY, Matched, check_learns, too_large
from headtohead.study.plan import Study
from headtohead.study.prepare import Source, check_rows, prepare, read_data, read_source
from headtohead.study.results import is_done, read_run
from headtohead.study.runner import basis_of
from headtohead.study.schedule import Basis, identity_of
from headtohead.study.solo_plan import (
    Rows,
    Solo,
    as_study,
    learning_rate,
    named,
    network,
    objective_of,
    read_solo,
    supervise_of,
)
from headtohead.study.tracking import Tracked, check_tracker
from headtohead.study.versions import versions

if TYPE_CHECKING:
    from headtohead.train.parallel import Team


@dataclass(frozen=True)
class Origin:
    """A network that first weights are from. tokenizer: the text of its tokenizer.json."""

    name: str
    architecture: Architecture
    weights: Mapping[str, Any]
    tokenizer: str | None


@dataclass(frozen=True)
class Words:
    """What the command line said. `flags`: dotted keys of the description that options of their own set."""

    what: str | None = None
    text: Sequence[Path] = ()
    pairs: Path | None = None
    shards: Path | None = None
    field: str | None = None
    steps: int | None = None
    init_from: Path | None = None
    out: Path | None = None
    resume: Path | None = None
    track: str | None = None
    overrides: Sequence[str] = ()

    def flags(self) -> dict[str, Any]:
        """The options that are keys of the description."""
        told = {
            "data.text": [str(path) for path in self.text] or None,
            "data.pairs": None if self.pairs is None else str(self.pairs),
            "data.shards": None if self.shards is None else str(self.shards),
            "data.field": self.field,
            "recipe.steps": self.steps,
            "init_from": None if self.init_from is None else str(self.init_from),
        }
        return {key: value for key, value in told.items() if value is not None}


def train(words: Words, read_network: Callable[[Path], Origin], exports: Callable[[Path], bool]) -> None:
    """Train the network that the words describe, or go on with a run; print what came out and what to do next.

    Args:
        read_network: what gives a folder's network, for ``--init-from``.
        exports: whether a run's network can be handed over to transformers.

    Raises:
        UserError: a word, file, key or value that is wrong; a folder in use or taken.
        Interrupted: by Ctrl-C, with the command that goes on.
    """
    if words.track is not None:
        check_tracker(words.track)
    from headtohead.study.worker import processes, run, under_torchrun

    def begun() -> Path:
        return _resumed(words) if words.resume is not None else _written_down(words, read_network)

    with processes() as team:
        folder = begun() if team is None else team.told(begun)
        go_on = ["headtohead", "train", "--resume", str(folder)]
        go_on += [] if words.track is None else ["--track", words.track]
        command = shlex.join(go_on)
        done = is_done(folder) if team is None else team.told(lambda: is_done(folder))
        leads = team is None or team.leads
        if not done and leads:
            _work(folder, words.track, command if team is None else under_torchrun(command), team)
        elif not done:
            run(folder, team=team)
        if leads:
            _tell(folder, exports)


def _resumed(words: Words) -> Path:
    folder = words.resume
    assert folder is not None
    if words.what or words.flags() or words.overrides or words.out:
        raise UserError(
            f"--resume {folder} goes on with the run as it was written down: leave everything but --track out"
        )
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder} holds no run to go on with (no run.json): start one with --out {folder}")
    read_run(folder)
    return folder


def _written_down(words: Words, read_network: Callable[[Path], Origin]) -> Path:
    """The folder of a new run, its data prepared and its run.json written."""
    if words.what is None and words.init_from is None:
        raise UserError(
            "name a network or a file: headtohead train decllm-nano, or headtohead train FILE.toml; or go on with "
            "--resume RUN"
        )
    solo, where = read_solo(words.what, words.flags(), words.overrides)
    folder = words.out or Path("runs") / named(solo)
    _check_free(folder)
    if solo.data.shards is not None:
        return _from_shards(solo, where, folder, read_network)
    source = read_source([Path(path) for path in solo.data.text], _path(solo.data.pairs), solo.data.field)
    origin = None if solo.init_from is None else read_network(Path(solo.init_from))
    given = None if origin is None else _tokenizer_of(origin)
    if isinstance(given, ByteTokenizer):
        solo = solo.on_bytes()
    a, study = _planned(solo, where, source, origin, given)
    if reason := too_large(a.name, a, study.optimizer(study.arms[0])):
        raise UserError(f"{reason}: make it smaller")
    initial = None if origin is None else _inherited(a, study.seeds[0], origin)
    with FolderLock(folder):
        data = prepare(study, source, folder / "data", print, given)
        check_rows(folder / "data", study.data)
        matched = {study.arms[0].key: Matched(study.arms[0], a, parameters(a))}
        basis = basis_of(study, matched, data, folder / "data", None)
        _write_run(folder, solo, basis, initial, {"folder": "data"})
    return folder


def _from_shards(solo: Solo, where: str, folder: Path, read_network: Callable[[Path], Origin]) -> Path:
    """`_written_down`, on data that `headtohead shard` made: nothing is read but descriptions and a few lengths."""
    shards = Path(solo.data.shards or "")
    sharded = Sharded.open(shards)
    origin = None if solo.init_from is None else read_network(Path(solo.init_from))
    tokenizer = sharded.description["tokenizer_sha256"]
    if origin is not None and _tokenizer_of(origin).sha256 != tokenizer:
        raise UserError(
            f"{shards} was tokenized with another tokenizer than {origin.name}: shard the text with --tokenizer of it"
        )
    a = network(solo, where, None if origin is None else origin.architecture, sharded.vocabulary)
    made = sharded.cut_by
    key = sharded.objectives[0]
    if solo.objective is not None:
        fitting = [name for name, table in made.items() if objective(table) == solo.objective]
        if not fitting:
            raise UserError(
                f"{shards} was not cut by the objective {solo.objective!r}: it has {', '.join(made)}; shard it with it"
            )
        key = fitting[0]
    by = objective(made[key])
    check_learns(a.name, a, by, supervise_of(solo, by))
    alone = as_study(solo, a, by)
    if reason := too_large(a.name, a, alone.optimizer(alone.arms[0])):
        raise UserError(f"{reason}: make it smaller")
    rows = StreamRows(sharded, seed=0, rows_per_step=1, row=solo.data.row, side=solo.data.side, objective=key)
    study = as_study(solo, a, by, Rows(rows.row, rows.side))
    store = sharded.store("train", key)
    given, written = (
        float(held.mean()) * len(store) for held in store.held(np.arange(min(len(store), SAMPLE)))
    )
    sizes = {"examples": len(store), "input_tokens": round(given), "output_tokens": round(written)}
    data = {"splits": {"train": sizes}, "regions": [by.region], "stores": {}, **sharded.identity}
    arm = study.arms[0].model_copy(update={"objective": None})
    study = study.model_copy(update={"arms": (arm,)})
    matched = {arm.key: Matched(arm, a, parameters(a))}
    in_pass = {study.seeds[0]: rows.rows_in_epoch}
    basis = Basis(study, matched, data, versions(), in_pass, (rows.row, rows.side))
    initial = None if origin is None else _inherited(a, study.seeds[0], origin)
    with FolderLock(folder):
        place = os.path.relpath(shards.resolve(), folder.resolve())
        _write_run(folder, solo, basis, initial, {"folder": place, "shards": True, "train": key})
    return folder


SAMPLE = 1024
"""Examples whose lengths say what is usual."""


def _write_run(
    folder: Path, solo: Solo, basis: Basis, initial: tuple[bytes, dict[str, Any]] | None, data: dict[str, Any]
) -> None:
    """FOLDER/run.json, and the first weights it names; tells what is going to be done."""
    study = basis.study
    seed, key = study.seeds[0], study.arms[0].key
    a = basis.arms[key].architecture
    windows = {"split": "test", "windows": study.evaluation.test_windows, "swaps": study.evaluation.swaps}
    run = basis.run(key, seed, "train", study.rungs.full, learning_rate(solo), windows)
    description = {**run.description, "data": {**run.description["data"], **data}}
    if initial is not None:
        content, description["initial"] = initial
        write_atomic(folder / INITIAL, content)
    description["identity"] = identity_of(description)
    write_atomic(folder / "run.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    steps, examples = description["recipe"]["steps"], basis.data["splits"]["train"]["examples"]
    passes = steps * description["recipe"]["rows_per_step"] / basis.rows_in_pass[seed]
    print(
        f"{a.name}: {description['parameters']['total']:,} parameters, vocabulary {a.vocabulary}; "
        f"{examples:,} training examples, {steps:,} steps ({passes:.2g} passes); in {folder}"
    )


INITIAL = "initial.safetensors"
OURS = {".lock", "data", ".data.unfinished", INITIAL, "progress.json"}
"""What a run that was stopped before it was written down may have left."""


def _check_free(folder: Path) -> None:
    """Raises UserError where a run, or anything else, is there already."""
    if (folder / "run.json").is_file():
        what = "a finished run" if is_done(folder) else "a run already"
        then = "" if is_done(folder) else f"go on with it (headtohead train --resume {folder}), or "
        raise UserError(f"{folder} holds {what}: {then}give another folder (--out {folder}-2)")
    if folder.is_dir() and (others := sorted({path.name for path in folder.iterdir()} - OURS)):
        raise UserError(f"{folder} holds other things ({others[0]}): give a folder that is new (--out)")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _tokenizer_of(origin: Origin) -> Tokenizer:
    """The source's tokenizer, without which its embeddings would mean other tokens."""
    if origin.tokenizer is None:
        raise UserError(
            f"--init-from {origin.name}: it has no tokenizer, so its embeddings are of unknown tokens"
        )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(origin.tokenizer, encoding="utf-8")
        try:
            return load_tokenizer(path)
        except UserError as error:
            raise UserError(
                f"--init-from {origin.name}: {str(error).replace(str(path), 'its tokenizer')}"
            ) from error


def _planned(
    solo: Solo, where: str, source: Source, origin: Origin | None, given: Tokenizer | None
) -> tuple[Architecture, Study]:
    inherited = None if origin is None else origin.architecture
    a = network(solo, where, inherited, None if given is None else given.vocabulary)
    by = None if source.regions else objective_of(solo, a)
    if source.regions and solo.objective is not None:
        raise UserError("pairs are an input and an output already: leave 'objective' out with --pairs")
    study = as_study(solo, a, by)
    if given is None and solo.data.tokenizer == "bytes":
        # A byte tokenizer has the vocabulary it has: every byte, and what the objective needs.
        a = network(solo, where, inherited, BYTE_VOCABULARY + len(study.extra_tokens))
        study = as_study(solo, a, by)
    if given is not None and (lacking := [name for name in study.extra_tokens if name not in given.extra]):
        raise UserError(
            f"the objective needs the token {lacking[0]}, which the tokenizer of {solo.init_from} was made "
            "without: choose an objective that needs none, such as 'prefix'"
        )
    check_learns(a.name, a, by, supervise_of(solo, by))
    return a, study


def _inherited(a: Architecture, seed: int, origin: Origin) -> tuple[bytes, dict[str, Any]]:
    """First weights for run.json, with where each is from told."""
    import safetensors.torch

    from headtohead.model.transformer import Transformer
    from headtohead.train.checkpoint import named_tensors
    from headtohead.train.inherit import inherit

    model = Transformer(a, seed)
    with about(f"--init-from {origin.name}"):
        found = inherit(model, origin.architecture, origin.weights)
    for line in found.lines():
        print(line)
    content = safetensors.torch.save({n: t.detach().contiguous() for n, t in named_tensors(model).items()})
    digest = hashlib.sha256(content).hexdigest()
    return content, {"from": origin.name, "sha256": digest, "inherited": len(found.taken), "new": found.new}


def _work(folder: Path, track: str | None, go_on: str, team: Team | None) -> None:
    """Have the run done, looked on by a display and a tracker."""
    description = read_run(folder)
    import torch

    from headtohead.measure.limits import matmul_peak
    from headtohead.study import worker
    from headtohead.study.watching import Watch
    from headtohead.train.recipe import Recipe
    from headtohead.train.runtime import configure
    from headtohead.train.staging import checkpoints

    recipe = description["recipe"]
    runtime = configure(Recipe.model_validate(recipe), lambda line: None)
    peak = None
    if team is None and runtime.device == "cpu":  # of one CPU process it is known what the most would be
        # Before the run, which it must not disturb.
        peak = matmul_peak(torch.bfloat16 if runtime.precision == "bf16" else torch.float32)
    per_token = _bytes_per_token(folder, description["data"])
    last = next(iter(checkpoints(folder / "checkpoints")), None)
    reached = 0 if last is None else int(last.name.removeprefix("step-"))
    if reached:
        print(f"going on after step {reached} of {recipe['steps']}")
    with ExitStack() as stack:
        watchers: list[worker.Watcher] = []
        if track is not None:
            tracked = Tracked(track, folder, description, reached)
            stack.callback(tracked.close)
            watchers.append(tracked)
        try:
            watchers.append(
                stack.enter_context(Watch(description["label"], recipe["steps"], per_token, peak))
            )
            worker.run(folder, watchers, go_on, team)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; go on from the last checkpoint with: {go_on}") from None


def _bytes_per_token(folder: Path, data: Mapping[str, Any]) -> float:
    """Of the training text: exact, or of the first examples of shards."""
    where = folder / data["folder"]
    if not data.get("shards"):
        return read_data(where)["bytes_per_token"]
    store = Sharded.open(where).store("train", data["train"])
    some = [store[i] for i in range(min(len(store), SAMPLE))]
    return sum(e.output_bytes for e in some) / max(1, sum(len(e.output) for e in some))


def _tell(folder: Path, exports: Callable[[Path], bool]) -> None:
    """What came out, and what can be done with it."""
    result = read_json(folder / "result.json", "the result")
    if result["status"] != "finished":
        raise UserError(f"the run {folder} did not finish: {result['reason']}")
    scored = ", ".join(f"{value:.4f} ({region})" for region, value in result["bits_per_byte"].items())
    print(f"finished: held-out bits per byte {scored}")
    print(f"weights: {folder / 'model.safetensors'}")
    print("next:")
    print(f"  python -c \"import headtohead; print(headtohead.load('{folder}').generate('The'))\"")
    print(f"  headtohead explain-batch {folder}")
    if exports(folder):
        print(f"  headtohead export {folder} --out {folder}-hf")
