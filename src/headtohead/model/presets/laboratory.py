"""The laboratory's own families: the reference recipe (RedLLM and DecLLM, arXiv 2510.26622) with one choice
changed at a time.
"""

from __future__ import annotations

from collections.abc import Callable

from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.parts import Norms
from headtohead.model.presets.family import Family, Size

DECLLM_NORMS = Norms(query_key=True, value=True, output=False)
REDLLM_NORMS = Norms(query_key=True, value=True, output=True)

#         d_model  d_ff  heads  d_head  vocabulary  one stack  two stacks
TABLE: dict[str, tuple[int, int, int, int, int, int, tuple[int, int]]] = {
    "nano": (128, 512, 4, 32, 1024, 3, (1, 1)),
    "micro": (256, 1024, 4, 64, 4096, 3, (1, 1)),
    "mini": (384, 1536, 6, 64, 8192, 6, (2, 3)),
    "150m": (1024, 4096, 8, 128, 32768, 8, (3, 3)),
    "1b": (2048, 8192, 16, 128, 32768, 16, (7, 7)),
    "2b": (2560, 10240, 20, 128, 32768, 20, (9, 9)),
    "4b": (3072, 12288, 24, 128, 32768, 24, (10, 10)),
    "8b": (4096, 16384, 32, 128, 32768, 32, (14, 14)),
}
"""The published table (Table 1), and laptop sizes in the same proportions."""
ONE = {name: Size(*row[:5], depths=(row[5],)) for name, row in TABLE.items()}
TWO = {name: Size(*row[:5], depths=row[6]) for name, row in TABLE.items()}


def _one(visibility: str, norms: Norms) -> Callable[[str, Size], Architecture]:
    return lambda name, size: one_stack(
        name, visibility, depth=size.depths[0], d_ff=size.d_ff, norms=norms, **size.fields
    )


def _two(encoder: str, norms: Norms) -> Callable[[str, Size], Architecture]:
    return lambda name, size: two_stacks(
        name, encoder, depths=(size.depths[0], size.depths[1]), d_ff=size.d_ff, norms=norms, **size.fields
    )


REDLLM = "Zhang et al. 2025, arXiv 2510.26622"

FAMILIES = [
    Family("decllm", "DecLLM", REDLLM, "", _one("causal", DECLLM_NORMS), ONE),
    Family("causal", "Causal decoder", REDLLM, "", _one("causal", REDLLM_NORMS), ONE),
    Family("prefix", "Prefix decoder", REDLLM, "", _one("prefix", REDLLM_NORMS), ONE),
    Family("redllm", "RedLLM", REDLLM, "", _two("full", REDLLM_NORMS), TWO),
    Family("redllm-causal-encoder", "RedLLM, causal encoder", REDLLM, "", _two("causal", REDLLM_NORMS), TWO),
]
