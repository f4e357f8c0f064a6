"""An adapter, so that EleutherAI's lm-evaluation-harness runs any network of ours: `headtohead lm-eval …`, or
`lm_eval.simple_evaluate(model=HeadtoheadLM(folder), …)`.

Numbers are those of our own scorer: context and continuation are parted as texts (blanks at the context's end go to the
continuation, as the harness has it) and tokenized each by itself. How the window is counted is in docs/tasks.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from headtohead.errors import UserError
from headtohead.generate.decoding import write
from headtohead.generate.prompts import Prompt, prompt_of
from headtohead.generate.requests import Sampling
from headtohead.interop.loading import load
from headtohead.interop.own import separate
from headtohead.interop.scoring import framed_row, nats_by_token
from headtohead.interop.tokens import encoded_with_ends
from headtohead.measure.likelihood import ROWS_AT_ONCE, Row, token_nats
from headtohead.study.results import read_run
from headtohead.validation import validated

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as error:
    raise UserError(f"{error.name} is not installed: pip install 'headtohead[harness]'") from error

log = logging.getLogger(__name__)
USUAL_LENGTH, USUAL_WRITTEN = 2048, 256
"""Tokens of a window where nothing says how many, and of an answer: the harness's own."""
SETTINGS = frozenset(
    ("until", "max_gen_toks", "max_new_tokens", "max_tokens", "do_sample", "temperature", "top_k", "top_p")
)


class HeadtoheadLM(LM):
    """A run, or a model folder, for the harness.

    Args:
        max_length: tokens of input and output together; if left out, those of learned positions, else a training row
            of a run, else 2048. An encoder-decoder's input and output count together too, so that it sees no more
            than a network of one stack, and each stays within the side that a run was trained with.
        overlap: of a long text, tokens of each window that are given; 1 is the harness's own way.
        specials: "frame", what the network learnt around a text, or "none", the harness's add_bos_token=False.
        prefix_token_id: what stands before a text that has nothing before it; if left out, the token that ends texts
            (`interop.scoring.framed_row`). The harness's own backend takes the tokenizer's bos_token.

    Raises:
        UserError: no such folder; a window or an overlap that can't be; specials = "none" for a network that
            can't do without.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int | str = ROWS_AT_ONCE,
        max_length: int | None = None,
        overlap: int = 1,
        specials: Literal["frame", "none"] = "frame",
        prefix_token_id: int | None = None,
        device: str | None = None,
        max_batch_size: int | str | None = None,
    ) -> None:
        super().__init__()
        self.model = load(folder)
        a = self.model.architecture
        if device is not None:
            # The harness's command line asks for a GPU wherever none is named; as its own backend does, go without.
            there = torch.device(device).type != "cuda" or torch.cuda.is_available()
            self.model.network.to(device if there else "cpu")
        self._device = self.model.network.device
        self.batch_size = (
            ROWS_AT_ONCE if isinstance(batch_size, str) and not batch_size.isdigit() else int(batch_size)
        )
        row, side = _trained(Path(folder))
        self.max_length = int(max_length or a.context or row or USUAL_LENGTH)
        if a.context is not None and self.max_length > a.context:
            raise UserError(
                f"max_length = {self.max_length}: {a.name} has learned positions for {a.context} tokens"
            )
        self.side = (side if side and max_length is None else self.max_length) if separate(a) else None
        # The last token is asked for and not shown, so that one more fits where no table of positions ends.
        self._most = self.max_length + (a.context is None)
        self.overlap = int(overlap)
        if not 1 <= self.overlap < self.max_length:
            raise UserError(f"overlap = {overlap}: give 1 to {self.max_length - 1}, less than max_length")
        if specials not in ("frame", "none"):
            raise UserError(f"specials = {specials!r}: it is 'frame' or 'none'")
        frame = self.model.frame
        if specials == "none" and (a.two_streams or frame.start or self.model.likelihood == "pseudo"):
            raise UserError(
                f"specials = 'none': {a.name} learnt texts with tokens around them, and needs them"
            )
        self.bare = specials == "none"
        if prefix_token_id is not None and not 0 <= int(prefix_token_id) < a.vocabulary:
            raise UserError(f"prefix_token_id = {prefix_token_id}: ids go from 0 to {a.vocabulary - 1}")
        self.prefix = None if prefix_token_id is None else int(prefix_token_id)
        if self.model.likelihood == "pseudo":
            log.warning("%s fills holes: what is told as a likelihood is a pseudo-likelihood", a.name)

    # ------------------------------------------------------------------------------------------------- likelihoods

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """ln p(continuation | context) in nats, and whether greedy decoding would write it."""
        pairs = [_blanks_moved(*request.args) for request in requests]
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="loglikelihood") as bar:
            found = self._scored(pairs, _moving(bar))
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def _scored(
        self, pairs: Sequence[tuple[str, str]], tell: Callable[[int], Any]
    ) -> list[tuple[float, bool]]:
        best: list[bool] = []
        model, encode = self.model, self.model.tokenizer.encode
        if model.likelihood == "exact":
            rows = [self._row(encode(given), encode(asked)) for given, asked in pairs]
            nats = token_nats(
                model.network,
                rows,
                batch_size=self.batch_size,
                pad=model.frame.pad,
                on_progress=tell,
                best=best,
            )
        else:
            nats = nats_by_token(
                model.network,
                model.frame,
                model.tokenizer,
                [self._shortened(given, len(encode(asked))) for given, asked in pairs],
                [asked for _, asked in pairs],
                batch_size=self.batch_size,
                best=best,
            )
            tell(len(pairs))
        return [(-float(each.sum()), greedy) for each, greedy in zip(nats, best, strict=True)]

    def _row(self, given: list[int], asked: list[int]) -> Row:
        """The row of a context and a continuation, with the context cut on the left to what the window has room for."""
        row = self._framed(given, asked)
        cut = self._too_many(row)
        if cut and len(given) >= cut:
            row = self._framed(given[cut:], asked)
        if self._too_many(row):
            raise UserError(
                f"a continuation of {len(asked)} tokens doesn't fit in max_length = {self.max_length}"
                + (f" with sides of {self.side}" if self.side else "")
            )
        return row

    def _framed(self, given: list[int], asked: list[int]) -> Row:
        frame, a = self.model.frame, self.model.architecture
        if self.prefix is not None and not separate(a):
            shown, begun = ([], []) if self.bare else frame.around([])
            if not given and not [*shown, *begun]:
                return Row([self.prefix], [], asked)
        if not self.bare:
            return framed_row(a, frame, given, asked)
        beginning = [*frame.before[:1], *frame.ends[:1]][:1]
        return Row(given or beginning, [], asked)

    def _too_many(self, row: Row) -> int:
        """By how many tokens the context has to be shorter."""
        over = len(row) - self._most
        if self.side is not None:
            over = max(over, len(row.shown) - self.side)
            if len(row.begun) + len(row.asked) > self.side + 1:
                return len(row)
        times = 2 if self.model.frame.given == "both" else 1
        return max(0, -(-over // times))

    def _shortened(self, given: str, asked: int) -> str:
        """A context whose first tokens are taken away as far as the window wants, at the end of a character."""
        ids, ends = encoded_with_ends(self.model.tokenizer, given)
        frame = self.model.frame
        around = len(frame.before) + len(frame.after) + len(frame.start)
        limit = self._most if self.side is None else min(self._most, self.side + asked)
        cut = len(ids) + around + asked - limit
        if cut <= 0 or not ids:
            return given
        return given.encode()[ends[min(cut, len(ends)) - 1] :].decode("utf-8", "ignore")

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """ln p(text) in nats: of a long text in windows of `max_length` tokens, of which each is scored once.

        The first window has nothing before it; of each other, `overlap` tokens before it are given, as an input.
        """
        model = self.model
        if model.likelihood == "pseudo":
            found = [-nats for nats in model.score([""] * len(requests), [r.args[0] for r in requests])]
        else:
            rows: list[Row] = []
            owners: list[int] = []
            around = 0 if self.bare else len(self._framed([0], [])) - 1
            # A window is of one token more than `length`: what stands before the first one is counted there as one.
            length = self._most - 1 - around
            if self.side is not None:
                length = min(length, self.side)
            if length < 1:
                raise UserError(f"max_length = {self.max_length}: the tokens around a text alone fill it")
            for number, request in enumerate(requests):
                ids = model.tokenizer.encode(request.args[0])
                windows = get_rolling_token_windows(ids, -1, length, min(self.overlap, length))
                for before, asked in map(make_disjoint_window, windows):
                    rows.append(self._row([token for token in before if token != -1], list(asked)))
                    owners.append(number)
            with tqdm(total=len(rows), disable=disable_tqdm, desc="loglikelihood_rolling") as bar:
                nats = token_nats(
                    model.network,
                    rows,
                    batch_size=self.batch_size,
                    pad=model.frame.pad,
                    on_progress=_moving(bar),
                )
            found = [0.0] * len(requests)
            for owner, each in zip(owners, nats, strict=True):
                found[owner] -= float(each.sum())
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return found

    # ---------------------------------------------------------------------------------------------------- writing

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What is written after each context, by the decoding loop, up to the first of its stop strings.

        Greedy, unless the task's settings ask for sampling (do_sample, temperature, top_k, top_p); then the draws are
        those of seed 0, so that the same command gives the same text.

        Raises:
            UserError: a network that fills holes; a setting that isn't known here.
        """
        found = [""] * len(requests)
        model = self.model
        model.check_writes("generate_until")
        asked = [_written_request(request) for request in requests]
        each = [_sampling(settings) for _, settings in asked]
        order = sorted(range(len(asked)), key=lambda i: (each[i].max_tokens, len(asked[i][0])))
        with tqdm(total=len(requests), disable=disable_tqdm, desc="generate_until") as bar:
            for at in range(0, len(order), self.batch_size):
                some = order[at : at + self.batch_size]
                prompts = [self._prompt(asked[i][0], each[i].max_tokens) for i in some]
                written = write(
                    model.network,
                    prompts,
                    [each[i] for i in some],
                    ends=model.frame.ends,
                    never=model.frame.never,
                    decode=model.tokenizer.decode,
                )
                for i, (choice,) in zip(some, written, strict=True):
                    found[i] = choice.text
                    self.cache_hook.add_partial("generate_until", requests[i].args, found[i])
                bar.update(len(some))
        return found

    def _prompt(self, context: str, tokens: int) -> Prompt:
        """A context as the network is shown it, cut on the left to what the window leaves for it."""
        if tokens >= self.max_length:
            raise UserError(
                f"max_gen_toks = {tokens} leaves no room for a context in max_length = {self.max_length}"
            )
        given = self.model.tokenizer.encode(context)
        framed = self._framed(given, [0] * tokens)
        if self.side is not None and len(framed.begun) + tokens > self.side + 1:
            raise UserError(
                f"max_gen_toks = {tokens} is more than the output's side of {self.side} tokens holds: ask for "
                f"{self.side + 1 - len(framed.begun)} at most, or name max_length to the model"
            )
        cut = self._too_many(framed)
        row = self._framed(given[min(cut, len(given)) :], [])
        return prompt_of(self.model.architecture, row.shown, row.begun)


register_model("headtohead")(HeadtoheadLM)


def _trained(folder: Path) -> tuple[int | None, int | None]:
    """Tokens of a row and of a side that a run was trained with."""
    if not (folder / "run.json").is_file():
        return None, None
    data = read_run(folder)["data"]
    return data["row"], data["side"]


def _moving(bar: Any) -> Callable[[int], None]:
    def tell(done: int) -> None:
        bar.update(done - bar.n)

    return tell


def _blanks_moved(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _written_request(request: Any) -> tuple[str, dict[str, Any]]:
    """A request's context and its settings, which the harness types as strings alone."""
    context, settings = request.args
    return context, settings


def _sampling(settings: dict[str, Any]) -> Sampling:
    """The harness's settings of writing as ours."""
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown:
        raise UserError(
            f"generate_until knows no {', '.join(unknown)}: it knows {', '.join(sorted(SETTINGS))}"
        )
    names = ("max_gen_toks", "max_new_tokens", "max_tokens")
    draws = settings.get("do_sample", settings.get("temperature", 0) not in (0, None))
    until = settings.get("until") or ()
    return validated(
        Sampling,
        {
            "max_tokens": next((int(settings[name]) for name in names if settings.get(name)), USUAL_WRITTEN),
            "stop": [stop for stop in ([until] if isinstance(until, str) else until) if stop],
            "temperature": float(settings.get("temperature") or 1.0) if draws else 0.0,
            "top_k": int(settings.get("top_k") or 0) if draws else 0,
            "top_p": float(settings.get("top_p") or 1.0) if draws else 1.0,
            "seed": 0,
        },
        "generation_kwargs",
    )


def main(arguments: Sequence[str]) -> None:
    """The harness's own command line, which knows --model headtohead."""
    import sys

    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
