"""How attention is best computed on this CPU: matrix products around a softmax, or PyTorch's fused kernel.

    python benchmarks/attention.py [--length 256] [--threads 1] [--rounds 7]

Forward and backward in bf16 under a causal mask of two packed documents, interleaved in one process so that
both see the same machine. Prints one JSON line: the median milliseconds of each and their ratio.
`model/attention.py` chose by this.
"""

import argparse
import json
import statistics
import time

import torch

from headtohead.model.attention import Mask, attend_fused, attend_kernel
from headtohead.model.visibility import Coordinates, Visibility
from headtohead.train.runtime import tune_allocator

CALLS = 5
"""Calls to a timing: long enough for the clock."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--d-head", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tune_allocator()  # as a run does: without it the products pay for fresh pages in every call
    torch.manual_seed(0)

    shape = (options.rows, options.heads, options.length, options.d_head)
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    place = torch.arange(options.length).expand(options.rows, -1)
    where = Coordinates(place, (place >= options.length // 2).long(), torch.zeros_like(place))
    mask = Mask.of(Visibility.parse("causal & same_document").dense(where, where))

    ways = {"products": attend_fused, "kernel": attend_kernel}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds + 1):  # the first round warms up
        for name, attend in ways.items():
            began = time.perf_counter()
            for _ in range(CALLS):
                attend(q, k, v, mask).sum().backward()
            times[name].append((time.perf_counter() - began) / CALLS * 1e3)
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    print(
        json.dumps(
            {
                "milliseconds": {name: round(value, 2) for name, value in medians.items()},
                "products_to_kernel": round(medians["products"] / medians["kernel"], 3),
                "shape": shape,
                "threads": options.threads,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
