"""`headtohead.load`: a network with its tokenizer, to score text, to write it, or for its logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import index
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from headtohead.errors import UserError, about
from headtohead.generate.decoding import written_after
from headtohead.generate.prompts import rows_of
from headtohead.interop.folders import Held, read_folder, write_folder
from headtohead.interop.frame import Frame
from headtohead.interop.own import separate
from headtohead.interop.scoring import framed_row, likelihood_of, nats_by_token, score_texts, token_bytes
from headtohead.interop.tokens import Text, encoded_with_ends, text_of
from headtohead.measure.lengths import Reader
from headtohead.measure.likelihood import ROWS_AT_ONCE, Array, Likelihood, Scored
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Tokens
from headtohead.model.reach import sees_its_answer
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import PADDING

Ids = Sequence[Sequence[int]] | Tensor
"""Rows of ids, which may differ in length, or a tensor (B, T)."""


def load(folder: str | Path) -> Model:
    """The network of a model folder, or of the folder of a finished run of a study.

    Raises:
        UserError: it is neither, or a file is missing, altered, a pickle, or of another network.
    """
    held = read_folder(Path(folder))
    text = None if held.tokenizer is None else text_of(held.tokenizer, Path(folder) / "tokenizer.json")
    with about(folder):
        return Model(held, text)


class Model:
    """A network that was loaded. `network` is the `Transformer` itself, in evaluation mode."""

    def __init__(self, held: Held, tokenizer: Text | None) -> None:
        if tokenizer is not None and tokenizer.vocabulary > held.architecture.vocabulary:
            raise UserError(
                f"the tokenizer has {tokenizer.vocabulary} tokens and the network's vocabulary is "
                f"{held.architecture.vocabulary}: they don't belong together"
            )
        self.architecture: Architecture = held.architecture
        self.frame: Frame = held.frame
        self.network: Transformer = held.network()
        self._held = held
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> Text:
        """Raises UserError where the folder has none."""
        if self._tokenizer is None:
            raise UserError(
                f"{self.architecture.name} came without a tokenizer: give ids, to logits or hidden"
            )
        return self._tokenizer

    @property
    def reader(self) -> Reader:
        """How it is asked, for `measure.lengths`."""
        encode = self.tokenizer.encode

        def nats(inputs: Sequence[str], outputs: Sequence[str], batch_size: int) -> list[Array]:
            return nats_by_token(
                self.network, self.frame, self.tokenizer, inputs, outputs, batch_size=batch_size
            )

        return Reader(
            self.network,
            lambda given, output: framed_row(self.architecture, self.frame, encode(given), encode(output)),
            nats,
            lambda text: token_bytes(encoded_with_ends(self.tokenizer, text)[1]),
            self.likelihood,
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the description, the frame, the tokenizer and the weights: two networks that score alike."""
        digest = hashlib.sha256()
        held = self._held
        for part in (held.architecture.model_dump_json(), held.frame.model_dump_json(), held.tokenizer or ""):
            digest.update(hashlib.sha256(part.encode()).digest())
        for name, tensor in sorted(held.weights.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write a model folder, which must not be there yet; what it was loaded with is written."""
        write_folder(Path(folder), self._held)

    @property
    def likelihood(self) -> Likelihood:
        """What its scores are: "exact", or "pseudo" of a network that fills holes."""
        return likelihood_of(self.architecture, self.frame)

    @overload
    def score(self, input: str, output: str, *, batch_size: int = ROWS_AT_ONCE) -> float: ...  # pyright: ignore[reportOverlappingOverload]  a text is a sequence too
    @overload
    def score(
        self, input: Sequence[str], output: Sequence[str], *, batch_size: int = ROWS_AT_ONCE
    ) -> list[float]: ...
    def score(
        self, input: str | Sequence[str], output: str | Sequence[str], *, batch_size: int = ROWS_AT_ONCE
    ) -> float | list[float]:
        """-ln p(output | input) in nats, of the output's text alone (not of its end); one for each pair.

        Input and output are tokenized each by itself. Of a network that fills holes it is a pseudo-likelihood, which
        `likelihood` says, as do the figures of `scores`.

        Raises:
            UserError: as many inputs as outputs are needed; nothing stands before the output's first token; too
                long for learned positions; a network that fills holes without a mask token.
        """
        if isinstance(input, str) != isinstance(output, str):
            raise UserError("score wants two texts, or two lists of texts of the same length")
        if isinstance(input, str) and isinstance(output, str):
            return self.score([input], [output])[0]
        return [float(nats) for nats in self.scores(input, output, batch_size=batch_size).nats]

    def scores(
        self,
        input: Sequence[str],
        output: Sequence[str],
        *,
        batch_size: int = ROWS_AT_ONCE,
        on_progress: Callable[[int], None] | None = None,
    ) -> Scored:
        """`score` of many pairs with what is needed for figures: nats, tokens and bytes of each, and what they are.

        `on_progress` gets the number of rows that were scored (of a network that fills holes, tokens).
        """
        return score_texts(
            self.network,
            self.frame,
            self.tokenizer,
            input,
            output,
            batch_size=batch_size,
            on_progress=on_progress,
        )

    @overload
    def generate(self, prompt: str, max_tokens: int = 64, *, begun: Sequence[str] = ()) -> str: ...  # pyright: ignore[reportOverlappingOverload]  a text is a sequence too
    @overload
    def generate(
        self, prompt: Sequence[str], max_tokens: int = 64, *, begun: Sequence[str] = ()
    ) -> list[str]: ...
    def generate(
        self, prompt: str | Sequence[str], max_tokens: int = 64, *, begun: Sequence[str] = ()
    ) -> str | list[str]:
        """The most probable continuation of each prompt, token by token, up to its end or `max_tokens`.

        `begun`: for each prompt, text that its output begins with, given and not returned.

        Raises:
            UserError: the network fills holes; nothing stands before the first token; too long.
        """
        if isinstance(prompt, str):
            return self.generate([prompt], max_tokens, begun=begun)[0]
        if max_tokens < 1:
            raise UserError(f"max_tokens = {max_tokens}: give a whole number from 1 up")
        if not prompt:
            return []
        self.check_writes("generate")
        if begun and len(begun) != len(prompt):
            raise UserError(f"generate got {len(prompt)} prompts and {len(begun)} beginnings: they must pair")
        shown, started = self._framed(prompt)
        for start, text in zip(started, begun, strict=False):
            start += self.tokenizer.encode(text)
        streams = self._rows(shown, started, more=max_tokens)
        written = written_after(
            self.network, streams, max_tokens, ends=self.frame.ends, never=self.frame.never
        )
        return [self.tokenizer.decode(ids) for ids in written]

    @torch.no_grad()
    def logits(self, input_ids: Ids, output_ids: Ids | None = None) -> Tensor:
        """Logits (B, T, V) in fp32 at each place of the last stream: of raw ids, nothing is added.

        One stream: a row is its input, then its output. Two streams: T is the output's length, and the output
        must be given. Rows are padded on the right; logits at padding are 0.

        Raises:
            UserError: no ids, ids outside the vocabulary, rows that don't pair, or too many for learned
                positions.
        """
        streams = self._given(input_ids, output_ids)
        found = self.network.next_logits(self.network.hidden(streams))
        return found * self._real(streams)

    @torch.no_grad()
    def hidden(self, input_ids: Ids, output_ids: Ids | None = None) -> Tensor:
        """Final states (B, T, d) of the last stream, before the head; otherwise as `logits`."""
        streams = self._given(input_ids, output_ids)
        return self.network.hidden(streams).float() * self._real(streams)

    def _real(self, streams: Mapping[str, Tokens]) -> Tensor:
        return (streams[self.architecture.output_stream.name].document != PADDING)[..., None]

    def _framed(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """The input part of each text, and what is given of the output part."""
        found = [self.frame.around(self.tokenizer.encode(text)) for text in texts]
        return [shown for shown, _ in found], [begun for _, begun in found]

    def check_writes(self, what: str) -> None:
        """Raises UserError for a network that fills holes: there is no `what` of it."""
        reason = None
        if sees_its_answer(self.architecture, "output"):
            reason = "a place sees what comes after it"
        elif self.frame.in_place:
            reason = "it learnt to answer them where they stand"
        if reason:
            raise UserError(
                f"{self.architecture.name} fills holes: {reason}, so there is no exact left-to-right {what}; ask for "
                "its logits or hidden states"
            )

    def _given(self, input_ids: Ids, output_ids: Ids | None) -> Mapping[str, Tokens]:
        given = _rows_of(input_ids)
        if output_ids is None and separate(self.architecture):
            raise UserError(f"{self.architecture.name} has two streams: give output_ids too")
        answers = [[] for _ in given] if output_ids is None else _rows_of(output_ids)
        if len(given) != len(answers):
            raise UserError(
                f"{len(given)} rows of input_ids and {len(answers)} of output_ids: they must pair"
            )
        if not given:
            raise UserError("input_ids holds no rows: give at least one")
        highest = self.architecture.vocabulary - 1
        for i in (i for row in (*given, *answers) for i in row):
            if not 0 <= i <= highest:
                raise UserError(f"the id {i} is outside the vocabulary: ids go from 0 to {highest}")
        return self._rows(given, answers)

    def _rows(self, given: list[list[int]], answers: list[list[int]], more: int = 0) -> Mapping[str, Tokens]:
        """One example a row, for each stream; `more` tokens will be written."""
        return rows_of(self.architecture, given, answers, self.frame.pad, self.network.device, more)


def _rows_of(ids: Ids) -> list[list[int]]:
    if isinstance(ids, Tensor):
        if ids.dim() != 2:
            raise UserError(f"a tensor of ids has the shape (rows, tokens), not {list(ids.shape)}")
        if ids.is_floating_point():
            raise UserError(f"ids are whole numbers, and this tensor is of {ids.dtype}")
        return [[int(i) for i in row] for row in ids.tolist()]
    try:
        return [[index(i) for i in row] for row in ids]
    except TypeError:
        raise UserError("ids are rows of whole numbers, such as [[5, 6], [7]]") from None
