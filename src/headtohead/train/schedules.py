"""The learning rate of every step, in closed form. Imports no torch."""

from __future__ import annotations

import math

from headtohead.train.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of update number ``step``, counted from 1 to ``recipe.steps``.

    Linear from 0 over the warm-up of W steps, so that update W is made at the peak. After that, with r the share
    of the steps from W to the last one that are done, and f = ``final_fraction``, the peak times

    - cosine: f + (1 - f) · (1 + cos πr) / 2 (Loshchilov & Hutter, arXiv 1608.03983, without restarts);
    - linear: f + (1 - f) · (1 - r), which Defazio et al. (arXiv 2310.07831) find as good or better;
    - constant: 1;
    - inverse-sqrt: √(W / step) (Vaswani et al., arXiv 1706.03762, section 5.3; W at least 1);
    - wsd (warm-up, stable, decay: Hu et al., arXiv 2404.06395): 1, until in the last ``decay_fraction`` of all
      steps it is f + (1 - f) · (1 - √q), q the share of those that is done (Hägele et al., arXiv 2405.18392,
      whose "1-sqrt" it is).

    Raises:
        ValueError: the number of steps is not settled.
    """
    if recipe.steps is None:
        raise ValueError("the number of steps is not settled: use recipe.with_steps(n)")
    if step <= recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    if recipe.schedule == "constant":
        return recipe.learning_rate
    if recipe.schedule == "inverse-sqrt":
        return recipe.learning_rate * math.sqrt(max(1, recipe.warmup_steps) / step)
    if recipe.schedule == "wsd":
        decaying = recipe.decay_steps
        done = (step - (recipe.steps - decaying)) / decaying
        left = 1 - math.sqrt(min(max(done, 0.0), 1.0))
    else:
        progress = min((step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps), 1.0)
        left = 0.5 * (1 + math.cos(math.pi * progress)) if recipe.schedule == "cosine" else 1 - progress
    return recipe.learning_rate * (recipe.final_fraction + (1 - recipe.final_fraction) * left)
