"""What a run is scored on beside its held-out text: texts out of its domain, longer stretches, tasks. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from headtohead.data.layouts import Layout
from headtohead.data.objectives import Codes
from headtohead.data.shards import Example, ExampleStore
from headtohead.data.tokenizers import Tokenizer
from headtohead.measure.lengths import Reader, as_json, at_lengths, blocks_of, pieces_of, reader_of
from headtohead.measure.scoring import bits_per_byte, score_examples
from headtohead.measure.tasks.files import read_task
from headtohead.measure.tasks.judging import judge_choices
from headtohead.measure.tasks.prompting import Prompting
from headtohead.model.transformer import Transformer
from headtohead.study.prepare import held_out
from headtohead.study.results import learnt_by


class Held(Protocol):
    """The prepared data of a run, as far as it is asked for here."""

    regions: tuple[str, ...]
    tokenizer: Tokenizer

    @property
    def codes(self) -> Codes:
        """What objectives know of the tokenizer."""
        ...

    def beyond(self, of: Mapping[str, str]) -> ExampleStore:
        """A store of text out of the domain, checked."""
        ...

    def file(self, name: str, sha256: str) -> Path:
        """A file of the prepared data, checked."""
        ...

    groups: list[str]
    """Of each scored document, what it belongs to."""

    def texts(self) -> dict[int, str]:
        """The scored documents by their places, whole."""
        ...

    def presented(self, examples: Sequence[Example]) -> list[Example]:
        """Examples as the run's network is used to see them."""
        ...


class _Answering:
    """A network that has just been trained, as `measure.tasks` asks one; it is asked to choose, never to write."""

    def __init__(self, reader: Reader, batch_size: int) -> None:
        self.reader, self.batch_size = reader, batch_size

    def score(self, input: Sequence[str], output: Sequence[str], /) -> list[float]:
        """-ln p(output | input) in nats of each pair."""
        return [float(nats.sum()) for nats in self.reader.nats(input, output, self.batch_size)]

    def generate(self, prompt: Sequence[str], max_tokens: int, /, *, begun: Sequence[str] = ()) -> list[str]:
        raise NotImplementedError("a study's tasks are choices")

    def count_tokens(self, text: str) -> int:
        """How many tokens a text is."""
        return len(self.reader.token_bytes(text))


def beyond(
    model: Transformer, layout: Layout, data: Held, folder: Path, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Bits per byte of texts out of the domain and of longer stretches of the held-out text, and shares of right
    choices, as far as the run's description asks for them: more keys of its result.

    Raises:
        UserError: a store or a file that is not the one that the description names.
    """
    evaluation, told = description["evaluation"], {}
    if elsewhere := evaluation.get("out_of_domain"):
        told["out_of_domain"] = {}
        for name, of in elsewhere["stores"].items():
            store = data.beyond(of)
            chosen = held_out(store, elsewhere["windows"], data.regions)
            shown = data.presented([store[int(i)] for i in chosen])
            nats = score_examples(model, layout, shown, evaluation["rows_per_batch"])
            told["out_of_domain"][name] = {
                region: bits_per_byte(shown, nats, region) for region in data.regions
            }
    if not (evaluation.get("tasks") or evaluation.get("lengths")):
        return told
    learnt = learnt_by(folder, description)
    manner = next((o for o in learnt if o.region == "continuation"), learnt[0]).manner(data.codes)
    if (asked := evaluation.get("tasks")) and description["supervise"] != "holes":
        network = _Answering(reader_of(model, data.tokenizer, manner), evaluation["rows_per_batch"])
        told["tasks"] = {}
        for name, of in asked.items():
            task = read_task(data.file(of["file"], of["sha256"]))
            count = network.count_tokens
            told["tasks"][name] = judge_choices(network, task, Prompting(), count).as_json()
    if (asked := evaluation.get("lengths")) and "continuation" in data.regions:
        longest = round(asked["bytes"] * asked["times"][-1])
        texts = data.texts()
        cut = blocks_of(list(texts.values()), longest, asked["blocks"])
        documents, blocks = list(texts), [block for _, block in cut]
        found = at_lengths(reader_of(model, data.tokenizer, manner), blocks, asked["bytes"], asked["times"])
        told["lengths"] = as_json(found)
        sizes = [sum(len(piece.encode()) for _, piece in pieces_of(block, longest)) for block in blocks]
        told["length_blocks"] = {
            "groups": [data.groups[documents[place]] for place, _ in cut],
            "bytes": sizes,
            "bits": {f"{at.times:g}": [float(b) for b in at.bits] for at in found if at.refused is None},
        }
    return told
