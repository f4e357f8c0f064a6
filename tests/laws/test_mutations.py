"""Planted faults: the laws are worth something because each of these makes one fail.

A fault is a changed word in the code under test, in this process and for one test alone. For each, the laws
named beside it hold without the fault and fail with it.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from tests.laws import (
    test_batching,
    test_cells,
    test_counting,
    test_leak,
    test_linear,
    test_oracle,
    test_positions,
    test_resume,
    test_same_answer,
    test_start,
)
from tests.laws.cells import ARCHITECTURES, TASKS, Cell, _model

from headtohead.data.layouts import Layout
from headtohead.generate import running
from headtohead.model import attention, blocks, budget, linear, positions, reach, transformer, visibility
from headtohead.model.loss import Head, _ChunkedCrossEntropy
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import Visibility
from headtohead.train import checkpoint, loop

Law = Callable[..., None]


@contextmanager
def planted(target: Any, old: str, new: str) -> Iterator[None]:
    """The function runs with `old` replaced by `new` in its source, wherever it is called from."""
    function = inspect.unwrap(getattr(target, "__func__", target))
    assert isinstance(function, FunctionType)
    if function.__name__ == "<lambda>":
        changed = eval(new, function.__globals__)  # a rule: its source can't be cut out of the line
    else:
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(old) == 1, (
            f"{function.__qualname__} no longer says `{old}` once: plant the fault anew"
        )
        lines = source.replace(old, new).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("def "))
        scope = dict(function.__globals__)
        exec(
            compile("from __future__ import annotations\n" + "\n".join(lines[start:]), "planted", "exec"),
            scope,
        )
        changed = scope[function.__name__]
    code = function.__code__
    function.__code__ = changed.__code__
    budget._visible.cache_clear()
    try:
        yield
    finally:
        function.__code__ = code
        budget._visible.cache_clear()


@dataclass(frozen=True)
class Fault:
    """A fault, and the laws that must find it, each on one cell."""

    name: str
    target: Any
    old: str
    new: str
    laws: tuple[tuple[Law, str, str, str], ...]
    fresh: bool = False
    """The networks kept between tests are made anew: the fault is in how they are made."""
    unguarded: bool = False
    """Also take away the guard that refuses such a description, so that the laws are seen to find it
    themselves.
    """


def on(law: Law, family: str, task: str = "mixture", kind: str = "rope") -> tuple[Law, str, str, str]:
    return law, family, task, kind


NO_ANSWER_SEES_ITSELF = test_leak.test_no_answer_sees_itself_or_what_follows
REACH = test_leak.test_a_token_changes_what_it_reaches_and_nothing_else
GRADIENTS = test_leak.test_gradients_flow_along_the_reach_and_nowhere_else
REACH_CACHED = test_leak.test_a_token_changes_the_same_through_the_cache
WEIGHTS = test_leak.test_attention_weights_are_zero_exactly_where_the_rule_says
PLAIN = test_oracle.test_scores_equal_the_plain_network
FUSED = test_same_answer.test_fused_equals_reference
PACKED = test_same_answer.test_packed_equals_unpacked
CACHED = test_same_answer.test_cached_decoding_equals_the_full_pass
GREEDY = test_same_answer.test_greedy_decoding_equals_choosing_from_the_full_pass
SCORES = test_batching.test_scores_do_not_depend_on_the_batch
ACCEPTED = test_cells.accepted
ACCUMULATED = test_batching.test_gradient_accumulation_equals_the_big_batch
START = test_start.test_initial_loss_is_ln_v
FLOPS = test_counting.test_flops_and_visible_pairs_equal_those_of_the_network_that_runs
PARAMETERS = test_counting.test_parameters_equal_those_of_the_network_built
CACHE_BYTES = test_counting.test_cache_bytes_equal_those_of_a_cache_that_is_full
CONTINUE = test_positions.test_positions_count_through_input_and_output
DISTANCES = test_positions.test_only_distances_matter
DISTANCE_TO_INPUT = test_positions.test_the_distance_from_input_to_output_matters
LONG = test_linear.test_sums_equal_pairs_over_several_chunks
RESUME = test_resume.test_resume_equals_never_stopped

CAUSAL_RULE = visibility.causal.relation
SMALL_WINDOW = next(
    rule.relation
    for rule in visibility.conjuncts(ARCHITECTURES["small-window"].streams[0].layers[0].reads[0].visibility)
    if isinstance(rule, visibility.Rule) and rule.name == "window(4)"
)
SAME_DOCUMENT_RULE = visibility.same_document.relation

FAULTS = (
    # The five that the issue names, in every place where they could stand.
    Fault(
        "the mask is off by one: the rule lets the next token be seen",
        CAUSAL_RULE,
        "",
        "lambda q, k: k.position <= q.position + 1",
        (
            on(NO_ANSWER_SEES_ITSELF, "decllm", "causal-lm, all"),
            on(NO_ANSWER_SEES_ITSELF, "redllm"),
            on(WEIGHTS, "causal"),
            on(PLAIN, "merged-attention"),
        ),
        unguarded=True,
    ),
    Fault(
        "the mask is off by one: the rule lets the next token be seen, and the guard is there",
        CAUSAL_RULE,
        "",
        "lambda q, k: k.position <= q.position + 1",
        (on(ACCEPTED, "decllm"), on(ACCEPTED, "redllm"), on(ACCEPTED, "double-decoder-full-blocks")),
    ),
    Fault(
        "the mask is off by one: the rule hides a token from itself",
        CAUSAL_RULE,
        "",
        "lambda q, k: k.position < q.position",
        (on(WEIGHTS, "causal"), on(PLAIN, "redllm")),
    ),
    Fault(
        "the mask is off by one: the network moves it against the keys",
        Transformer._masks,
        "visibility.dense(queries, there, heads)",
        "visibility.dense(queries, there, heads).roll(1, -1)",
        (
            on(REACH, "decllm"),
            on(GRADIENTS, "decllm"),
            on(WEIGHTS, "redllm"),
            on(NO_ANSWER_SEES_ITSELF, "causal", "causal-lm"),
            on(REACH_CACHED, "decllm", "continuation"),
        ),
    ),
    Fault(
        "a document boundary is ignored in packing: the layout gives all documents one number",
        Layout._tokens,
        "document[r, start:at] = d",
        "document[r, start:at] = 0",
        (on(PACKED, "decllm"), on(PACKED, "redllm"), on(PLAIN, "prefix"), on(SCORES, "causal", "pairs")),
    ),
    Fault(
        "a document boundary is ignored in packing: the rule doesn't look at it",
        SAME_DOCUMENT_RULE,
        "",
        "lambda q, k: (k.document == k.document) & (q.document == q.document)",
        (
            on(PACKED, "prefix"),
            on(WEIGHTS, "redllm"),
            on(PLAIN, "double-decoder-full-blocks"),
            on(SCORES, "decllm"),
        ),
    ),
    Fault(
        "the encoder sees the output: the layout shows it the whole example",
        Layout._tokens,
        'if stream.holds != "input" and m:',
        "if m:",
        (
            on(NO_ANSWER_SEES_ITSELF, "redllm", "continuation"),
            on(NO_ANSWER_SEES_ITSELF, "redllm-causal-encoder", "continuation"),
            on(NO_ANSWER_SEES_ITSELF, "merged-attention", "pairs"),
            on(PLAIN, "half-and-half-encoder", "continuation"),
        ),
    ),
    Fault(
        "RoPE restarts in the decoder: the layout counts the output from 0",
        Layout._tokens,
        'n if stream.holds == "output" else 0',
        "0",
        (on(CONTINUE, "redllm"), on(PLAIN, "redllm"), on(PLAIN, "merged-attention")),
    ),
    Fault(
        "RoPE restarts in the decoder: the network turns each stream from its own start",
        Transformer.hidden,
        "name: standing(self.architecture, self.architecture.stream(name), tokens)",
        "name: tokens.position - torch.where(tokens.document[:, :, None] "
        "== tokens.document[:, None], tokens.position[:, None], 9999).amin(dim=-1)",
        (on(DISTANCE_TO_INPUT, "redllm", "pairs"), on(PLAIN, "redllm", "pairs")),
    ),
    Fault(
        "RoPE restarts in the decoder: place in the row instead of position",
        transformer._Turns.of,
        "rotation(self._where[stream],",
        "rotation(torch.arange(self._where[stream].shape[1]).expand_as(self._where[stream]),",
        (
            on(DISTANCE_TO_INPUT, "redllm"),
            on(DISTANCE_TO_INPUT, "half-and-half-encoder"),
            on(PLAIN, "redllm"),
            on(CACHED, "decllm"),
        ),
    ),
    Fault(
        "the loss is a mean of means: each micro-batch by its own tokens",
        loop.backward,
        "objective(sums.total, weight)",
        "objective(sums.total, float(sums.weight) * len(batches))",
        (on(ACCUMULATED, "decllm"), on(ACCUMULATED, "redllm", "pairs")),
    ),
    Fault(
        "the loss is a mean of means: the network returns means",
        _ChunkedCrossEntropy.forward,
        "return nats + z_loss * z,",
        "return (nats + z_loss * z) / len(h),",
        (
            on(PACKED, "causal"),
            on(PACKED, "redllm"),
            on(test_oracle.test_the_loss_is_the_sum_of_the_plain_network_s_nats, "prefix"),
        ),
    ),
    # The parts of the whole field.
    Fault(
        "T5's bias: later keys get the buckets of earlier ones",
        positions.buckets,
        "(distance > 0) * count",
        "(distance < 0) * count",
        (on(PLAIN, "t5", "mixture", "own"), on(PLAIN, "prefix", "mixture", "t5")),
    ),
    Fault(
        "T5's bias: a decoder's buckets are parted as an encoder's",
        Transformer.position_bias,
        'kind.directions == "both" or self._ahead[stream.name]',
        "True",
        (on(PLAIN, "causal", "mixture", "t5"),),
    ),
    Fault(
        "ALiBi: each head has the slope of the next",
        positions.alibi_slopes,
        "for i in range(1, below + 1)",
        "for i in range(2, below + 2)",
        (on(PLAIN, "causal", "mixture", "alibi"),),
    ),
    Fault(
        "GLM's positions: steps count from 0",
        Transformer.embedded,
        "F.embedding(tokens.step, self.steps[name])",
        "F.embedding((tokens.step - 1).clamp(min=0), self.steps[name])",
        (on(PLAIN, "glm", "mixture", "own"), on(PLAIN, "redllm", "mixture", "glm")),
    ),
    Fault(
        "a window is one place too wide",
        SMALL_WINDOW,
        "",
        "(lambda size: lambda q, k: (q.position - k.position <= size) & (k.position - q.position < size))(4)",
        (on(WEIGHTS, "small-window"), on(PLAIN, "small-window")),
    ),
    Fault(
        "local layers turn at the speed of global ones",
        Transformer._sources,
        "positions = layer.positions or self.architecture.positions",
        "positions = self.architecture.positions",
        (on(PLAIN, "small-window", "mixture", "own"),),
    ),
    Fault(
        "query heads read the wrong heads of keys",
        attention._by_key_head,
        "x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])",
        "x.unflatten(1, (-1, k.shape[1])).transpose(1, 2).reshape(x.shape[0], k.shape[1], -1, x.shape[-1])",
        (on(PLAIN, "causal-grouped"), on(FUSED, "causal-grouped")),
    ),
    Fault(
        "soft caps are left out",
        attention.Scoring.capped,
        "scores if self.soft_cap is None else",
        "scores if True else",
        (on(PLAIN, "every-option-one"), on(PLAIN, "every-option-two")),
    ),
    Fault(
        "the embeddings' scale is forgotten",
        Transformer.embedded,
        "if a.embeddings.scaled:",
        "if False:",
        (on(PLAIN, "transformer", "mixture", "own"), on(PLAIN, "every-option-one")),
    ),
    Fault(
        "norms that come after come before",
        blocks.Block.forward,
        'normed = x if self.place == "after" else norm(x)',
        "normed = norm(x)",
        (on(PLAIN, "gpt-1", "mixture", "own"), on(PLAIN, "transformer", "mixture", "own")),
    ),
    Fault(
        "the head's bias is left out",
        Head.finish,
        "if self.bias is not None:",
        "if False:",
        (on(PLAIN, "unilm", "mixture", "own"), on(PLAIN, "every-option-one")),
    ),
    Fault(
        "tied weights are copied",
        blocks._lent,
        "return getattr(shared, name)[sublayer]",
        "return make()",
        (on(PARAMETERS, "redllm-tied"),),
        fresh=True,
    ),
    Fault(
        "linear attention's sums go on into the next document",
        linear._running,
        "goes_on = (own == open_document)[:, None].float()",
        "goes_on = torch.ones_like(own)[:, None].float()",
        (on(LONG, "causal-linear"),),
    ),
    Fault(
        "linear attention's normaliser forgets the boundary",
        linear._running,
        "norm = pairs.sum(-1)",
        "norm = (f.q[:, :, some] @ k[:, :, some].transpose(-2, -1)).tril().sum(-1)",
        (on(PACKED, "causal-linear"), on(PLAIN, "causal-linear")),
    ),
    Fault(
        "linear attention's state forgets what it held",
        linear._extend,
        "state.totals = state.totals +",
        "state.totals =",
        (on(CACHED, "causal-linear"),),
    ),
    # Others of the same kind.
    Fault(
        "padding is seen",
        Visibility.dense,
        "real = (queries.document != PADDING) & (keys.document != PADDING)",
        "real = (queries.document >= PADDING) & (keys.document >= PADDING)",
        (on(WEIGHTS, "decllm"), on(WEIGHTS, "redllm")),
    ),
    Fault(
        "heads are swapped in by_head",
        visibility.ByHead.holds,
        "self.rules, strict",
        "reversed(self.rules), strict",
        (on(WEIGHTS, "half-and-half-encoder"), on(PLAIN, "half-and-half-encoder")),
    ),
    Fault(
        "the kernel forgets who sees nothing",
        attention.attend_fused,
        "torch.cat(found, dim=2)) * mask.sees",
        "torch.cat(found, dim=2))",
        (
            on(FUSED, "double-decoder-full-blocks"),
            on(PLAIN, "double-decoder-full-blocks"),
            on(REACH, "double-decoder-full-blocks"),
        ),
    ),
    Fault(
        "values are not normed",
        attention.Attention._keys_values,
        "if self.norms.value:",
        "if False:",
        (on(PLAIN, "decllm"), on(PLAIN, "redllm")),
    ),
    Fault(
        "keys are not turned",
        attention.Attention._keys_values,
        "if source.turned is not None:",
        "if False:",
        (on(PLAIN, "decllm"), on(DISTANCES, "decllm"), on(DISTANCES, "redllm")),
    ),
    Fault(
        "the attention output is not normed",
        attention.Attention.forward,
        "if self.norms.output:",
        "if False:",
        (on(PLAIN, "redllm"), on(PLAIN, "prefix")),
    ),
    Fault(
        "the cache keeps values one token off",
        attention.LayerCache.extend,
        "self.values[:, :, self.length : end] = v",
        "self.values[:, :, self.length : end] = v.roll(1, dims=2)",
        (on(CACHED, "prefix"), on(CACHED, "redllm", "pairs")),
    ),
    Fault(
        "decoding counts positions one too far",
        running.Standing.advance,
        "self.position[some] += 1",
        "self.position[some] += 2",
        (on(GREEDY, "decllm"), on(GREEDY, "redllm")),
    ),
    Fault(
        "targets are the tokens themselves, not the next",
        Layout._labels,
        "targets[r, at:last] = example.output",
        "targets[r, at + 1 : last + 1] = example.output",
        (on(PLAIN, "redllm"), on(NO_ANSWER_SEES_ITSELF, "decllm")),
    ),
    Fault(
        "embeddings start too large",
        blocks.initialise,
        "scale = EMBEDDING_SCALE / math.sqrt(parameter.shape[1])",
        "scale = 1 / math.sqrt(parameter.shape[1])",
        (on(START, "decllm"), on(START, "redllm")),
    ),
    Fault(
        "keys and values of cross-attention are not counted",
        budget._layer_flops,
        "there = places(source, input, output)",
        "there = here",
        (on(FLOPS, "redllm", "pairs"), on(FLOPS, "merged-attention", "pairs")),
    ),
    Fault(
        "norm weights are not counted",
        budget._norm,
        "return width * (1 + a.norms.bias)",
        "return 0",
        (on(PARAMETERS, "decllm"), on(PARAMETERS, "redllm")),
    ),
    Fault(
        "the cache of cross-attention is not counted",
        budget.cache_bytes,
        "for read in layer.reads)",
        "for read in layer.reads[:1])",
        (on(CACHE_BYTES, "redllm"),),
    ),
    Fault(
        "the optimizer starts afresh after a stop",
        checkpoint.Checkpoint.restore,
        "if optimizer is None:",
        "if True:",
        (on(RESUME, "decllm"),),
    ),
    Fault(
        "the random state starts afresh after a stop",
        checkpoint.Checkpoint.restore,
        "set_random_states(self.optimizer, device_of(model))",
        "pass",
        (on(RESUME, "redllm"),),
    ),
)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        pytest.param(
            f, law, id=f"{f.name} - {law[0].__name__.removeprefix('test_')} - {law[1]}".replace(" ", "_")
        )
        for f in FAULTS
        for law in f.laws
    ],
)
def test_a_planted_fault_makes_the_law_fail(
    fault: Fault, law: tuple[Law, str, str, str], tmp_path: Path, settings: None
) -> None:
    test, family, task, kind = law
    cell = Cell(family, TASKS[task], kind)
    more = {"tmp_path": tmp_path, "settings": settings} if test is RESUME else {}
    test(cell, **({**more, "tmp_path": tmp_path / "sound"} if more else {}))
    with ExitStack() as faults:
        faults.enter_context(planted(fault.target, fault.old, fault.new))
        if fault.fresh:
            _model.cache_clear()
            faults.callback(lambda: _model.cache_clear())
        if fault.unguarded:
            faults.enter_context(planted(reach.sees_its_answer, "return any(", "return False and any("))
        faults.enter_context(pytest.raises(AssertionError))
        test(cell, **({**more, "tmp_path": tmp_path / "faulty"} if more else {}))
    test(cell, **({**more, "tmp_path": tmp_path / "again"} if more else {}))


def test_a_fault_that_can_no_longer_be_planted_is_told() -> None:
    with (
        pytest.raises(AssertionError, match="plant the fault anew"),
        planted(loop.backward, "no such words", ""),
    ):
        pass
