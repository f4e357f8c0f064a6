"""How the programs that `headtohead bench decode` stands beside write: each in its own way to ask for many tokens."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from headtohead.data.objectives.base import MASK
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.errors import UserError
from headtohead.interop.bench.peers import require_transformers
from headtohead.interop.folders import Held
from headtohead.interop.frame import own_frame
from headtohead.interop.llamacpp import unsaid, write_gguf
from headtohead.model.architecture import Architecture
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors


def require_llama_cpp() -> Any:
    """The package that carries llama.cpp. Raises UserError, with what to install, where it isn't."""
    try:
        import xllamacpp
    except ImportError:
        raise UserError("--against llama.cpp needs its wheel: pip install xllamacpp") from None
    return xllamacpp


def transformers_writes(network: Any, two_streams: bool, new: int, rows: list[list[int]]) -> float:
    """Seconds of `generate` for `new` tokens after each of the rows, greedily; of ends there are none here.

    Raises:
        RuntimeError: it wrote another number.
    """
    ids = torch.tensor(rows)
    caches = require_transformers().cache_utils
    network.generation_config.eos_token_id = None
    began = time.perf_counter()
    # By itself it makes T5 a cache with as many layers as the encoder has, which a deeper decoder overruns.
    kept = (
        {"past_key_values": caches.EncoderDecoderCache(caches.DynamicCache(), caches.DynamicCache())}
        if two_streams
        else {}
    )
    with torch.no_grad():
        found = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            num_beams=1,
            **kept,
        )
    took = time.perf_counter() - began
    written = found.shape[1] - (1 if two_streams else ids.shape[1])
    if written != new:
        raise RuntimeError(f"transformers wrote {written} tokens, not {new}")
    return took


def drawn(a: Architecture) -> Held:
    """What a folder would hold of a network with weights of our init, on bytes: enough to be timed."""
    return Held(a, named_tensors(Transformer(a)), own_frame(), ByteTokenizer((MASK,)).content)


class LlamaCpp:
    """A network of llama.cpp as wide and as deep as one of ours, in bf16, with weights of our init.

    What it lacks (norms of Q, K and V without weights) it does without, so it has a little less to do.
    """

    def __init__(self, a: Architecture, room: int, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "twin.gguf"
        write_gguf(self._path, drawn(a), "bf16")
        self._room, self._threads = room, threads

    @classmethod
    def of(cls, a: Architecture, room: int, threads: int) -> LlamaCpp | None:
        """None where llama.cpp has no network of this form. `room`: tokens of a text, given and written."""
        plain = a.norms.model_copy(update={"query_key": False, "value": False})
        fits = next((b for b in (a, a.model_copy(update={"norms": plain})) if unsaid(b) is None), None)
        return None if fits is None else cls(fits, room, threads)

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def _server(self, slots: int) -> Any:
        package = require_llama_cpp()
        options = package.CommonParams()
        options.model.path = str(self._path)
        options.n_parallel, options.n_ctx, options.n_gpu_layers = slots, slots * self._room, 0
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = self._threads
        options.verbosity = -1
        return package.Server(options)

    def writes(self, new: int, rows: list[list[int]]) -> float:
        """Seconds for `new` tokens after each of the rows, all at once in as many slots, greedily. Its server is there
        for this alone: between requests its threads go on spinning, and what is timed next would share the cores.

        Raises:
            RuntimeError: it wrote another number.
        """
        server = self._server(len(rows))
        asked = {"n_predict": new, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
        server.handle_completions({**asked, "n_predict": 2, "prompt": rows[0]})  # warms up
        began = time.perf_counter()
        found = server.handle_completions({**asked, "prompt": rows if len(rows) > 1 else rows[0]})
        took = time.perf_counter() - began
        # Its "usage" is the first text's alone.
        whole = [choice["finish_reason"] == "length" for choice in found["choices"]]
        written = found["usage"]["completion_tokens"]
        if written != new or whole != [True] * len(rows):
            raise RuntimeError(
                f"llama.cpp wrote {written} tokens after {sum(whole)} texts, not {new} after {len(rows)}"
            )
        return took
