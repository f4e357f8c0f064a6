"""The literature's round figures for FLOPs, by name, for one sequence.

Each charges every token for every weight, which for two streams is about twice what is computed: a token runs
through one of the stacks only. They are given because published axes are in them, never mixed with the exact
count of `budget.py`.
"""

from __future__ import annotations

from headtohead.model.architecture import Architecture
from headtohead.model.budget import check_tokens, flops, head_flops, parameters, places, visible

SOURCES: dict[str, str] = {
    "2N": "forward, 2·N·D without embeddings (Kaplan et al. 2020, arXiv 2001.08361)",
    "6N": "training, 6·N·D without embeddings (Kaplan et al. 2020)",
    "2N_total": "forward, 2·N·D with embeddings (Hoffmann et al. 2022, arXiv 2203.15556)",
    "6N_total": "training, 6·N·D with embeddings (Hoffmann et al. 2022)",
    "kaplan": "forward, 2·N·D without embeddings + 2·d_attention for each query, key and layer (Kaplan et al. 2020, "
    "table 1)",
    "palm": "training, 6·N·D with embeddings + 12·heads·d_head for each query, key and layer (Chowdhery et al. 2022, "
    "arXiv 2204.02311, appendix B)",
    "full_square": "forward, the exact count as if every query saw every key of its read",
}


def named_conventions(a: Architecture, input: int, output: int) -> dict[str, int]:
    """The figures of `SOURCES` for one sequence of `input` and `output` places, D = input + output.

    `kaplan` and `palm` were written for one stack, where queries times keys are L · D · context; here they are
    summed over the reads of all streams, each with its own queries and keys. Kaplan's counts one of attention's
    two products, as its table does.

    Raises:
        UserError: for a negative number of tokens, or none at all.
    """
    check_tokens(input, output)
    n, tokens = parameters(a), input + output
    squares = _squares(a, input, output)
    without, whole = n["non_embedding"] * tokens, n["total"] * tokens
    unseen = squares - _softmax_pairs(a, input, output)
    return {
        "2N": 2 * without,
        "6N": 6 * without,
        "2N_total": 2 * whole,
        "6N_total": 6 * whole,
        "kaplan": 2 * without + 2 * squares,
        "palm": 6 * whole + 12 * squares,
        "full_square": flops(a, input, output)["forward"] + 4 * unseen,
    }


def full_square(a: Architecture, input: int, output: int, supervised: int) -> int:
    """Forward FLOPs with every pair counted, the head at `supervised` places: what a kernel without a mask does."""
    body = flops(a, input, output, 0)["forward"]
    unseen = _squares(a, input, output) - _softmax_pairs(a, input, output)
    return body + 4 * unseen + head_flops(a) * supervised


def _squares(a: Architecture, input: int, output: int) -> int:
    """heads · d_head · queries · keys, summed over the reads by softmax."""
    return sum(
        a.width(stream).queries * places(stream, input, output) * places(a.stream(read.keys), input, output)
        for stream in a.streams
        for layer in stream.expanded
        for read in layer.reads
        if read.mixer == "softmax"
    )


def _softmax_pairs(a: Architecture, input: int, output: int) -> int:
    """d_head for each visible triple, summed over the reads by softmax."""
    return sum(
        a.width(stream).d_head * visible(a, stream, read.keys, read.visibility, input, output)
        for stream in a.streams
        for layer in stream.expanded
        for read in layer.reads
        if read.mixer == "softmax"
    )
