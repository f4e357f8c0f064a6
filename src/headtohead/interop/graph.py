"""Any network as an ONNX graph: the full pass from ids to logits, at any number of rows and tokens.

No cache: each new token takes a pass over all of them. What is exported is the reference attention, which is the
formula itself, so that every rule and every mixer is in the graph as it is written.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headtohead.errors import UserError
from headtohead.interop.folders import Held
from headtohead.interop.own import separate
from headtohead.interop.placing import placed, real_places
from headtohead.model.batch import Tokens
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import INPUT, OUTPUT

ONE_FILE = 1_500_000_000
"""Bytes of weights up to which they stand in the graph's own file; protobuf ends at 2 GB."""
AGREES = 1e-4
"""How far logits of the graph may be from ours, against their standard deviation; fp32 gives some 1e-6."""


class OneRow(nn.Module):
    """input_ids, attention_mask and token_type_ids (0 input, 1 output), each (B, T) -> logits (B, T, V)."""

    def __init__(self, network: Transformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        row = placed(input_ids, real_places(input_ids, attention_mask), token_type_ids)
        streams = {stream.name: row for stream in self.network.architecture.streams}
        return self.network.next_logits(self.network.hidden(streams, reference=True))


class Pair(nn.Module):
    """input_ids and attention_mask (B, N), decoder_input_ids (B, M) -> logits (B, M, V)."""

    def __init__(self, network: Transformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        real = real_places(input_ids, attention_mask)
        first = placed(input_ids, real, torch.full_like(input_ids, INPUT))
        last = self._after(decoder_input_ids, real.sum(dim=1, keepdim=True))
        names = [stream.name for stream in self.network.architecture.streams]
        states = self.network.hidden(dict(zip(names, (first, last), strict=True)), reference=True)
        return self.network.next_logits(states)

    @staticmethod
    def _after(ids: Tensor, read: Tensor) -> Tokens:
        """The output, whose positions go on from the input's."""
        there = torch.ones_like(ids, dtype=torch.bool)
        return placed(ids, there, torch.full_like(ids, OUTPUT), before=read)


def input_names(two_streams: bool) -> tuple[str, str, str]:
    """What the graph's inputs are called."""
    return "input_ids", "attention_mask", "decoder_input_ids" if two_streams else "token_type_ids"


def write_onnx(path: Path, held: Held) -> None:
    """Write the graph, and read it back: its logits for other rows than it was made with must be the network's.

    Raises:
        UserError: onnx or onnxruntime isn't installed, the graph can't be made, or its logits differ.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as missing:
        raise UserError(
            f"to write an ONNX file takes {missing.name}, which isn't installed: pip install 'headtohead[onnx]'"
        ) from None
    network = held.network().requires_grad_(False)
    two = separate(held.architecture)
    module = (Pair if two else OneRow)(network)
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens")
    last = torch.export.Dim("written") if two else tokens
    size = sum(tensor.numel() * 4 for tensor in held.weights.values())
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in noisy]
    try:
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                some_rows(held, (7, 5), 3),
                str(path),
                dynamo=True,
                verbose=False,
                external_data=size > ONE_FILE,
                input_names=list(input_names(two)),
                output_names=["logits"],
                dynamic_shapes=({0: rows, 1: tokens}, {0: rows, 1: tokens}, {0: rows, 1: last}),
            )
    except Exception as problem:  # the exporter's errors are many
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(f"{held.architecture.name} can't be made an ONNX graph: {first}") from problem
    finally:
        for logger, level in zip(noisy, before, strict=True):
            logger.setLevel(level)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = some_rows(held, (4, 11, 9), 5)
    with torch.no_grad():
        expected = module(*given)
    wanted = {one.name for one in session.get_inputs()}
    named = {n: x.numpy() for n, x in zip(input_names(two), given, strict=True) if n in wanted}
    result: Any = session.run(["logits"], named)[0]
    real = torch.ones_like(given[2], dtype=torch.bool) if two else given[1] > 0
    off = ((torch.from_numpy(result) - expected)[real].abs().max() / expected[real].std()).item()
    if not off <= AGREES:
        raise UserError(
            f"{held.architecture.name} can't be handed over as ONNX: the graph's logits are {off:.1e} standard "
            "deviations from the network's; --format hf takes it"
        )


def some_rows(held: Held, lengths: tuple[int, ...], written: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of ids of some lengths, padded on the right, for the graph's inputs; the same each time."""
    a = held.architecture
    generator = torch.Generator().manual_seed(0)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(0, a.vocabulary, shape, generator=generator)
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    if separate(a):
        return ids, mask, torch.randint(0, a.vocabulary, (len(lengths), written), generator=generator)
    types = (torch.arange(shape[1]) >= torch.tensor(lengths)[:, None] // 2).long()
    return ids, mask, types * mask
