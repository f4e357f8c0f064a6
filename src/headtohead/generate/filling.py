"""How a network that fills holes writes: a text with holes is read whole, and the surest hole is filled, over and
over (easy first: Ghazvininejad et al., arXiv 1904.09324, one token at a time).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import torch

from headtohead.generate.prompts import Prompt
from headtohead.generate.requests import Sampling
from headtohead.generate.sampling import Drawing, choose
from headtohead.model.transformer import Transformer


@torch.no_grad()
def fill(
    model: Transformer, prompt: Prompt, mask: int, sampling: Sampling, never: Sequence[int] = ()
) -> list[int]:
    """The ids of the last stream with a token in each place that held `mask`. A hole is chosen by how probable its
    likeliest token is, its token by `sampling`, of which `n`, beams and stops play no part.
    """
    last = model.architecture.output_stream.name
    prompt = {name: tokens.map(lambda field: field.to(model.device)) for name, tokens in prompt.items()}
    ids = prompt[last].ids.clone()
    seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
    forbidden = torch.tensor(sorted(set(never)), device=model.device) if never else None
    step = 0
    while bool((holes := ids[0] == mask).any()):
        streams = {
            name: replace(tokens, ids=ids) if tokens.ids.shape == ids.shape else tokens
            for name, tokens in prompt.items()
        }
        places = holes.nonzero()[:, 0]
        logits = model.next_logits(model.hidden(streams)[0, places])
        if forbidden is not None:
            logits[:, forbidden] = float("-inf")
        surest = int(logits.log_softmax(dim=-1).amax(dim=-1).argmax())
        row = Drawing(sampling, seed, 0, step, set(ids[0].tolist()) - {mask})
        ids[0, places[surest]] = choose(logits[surest][None], [row])[0].token
        step += 1
    return ids[0].tolist()
