"""The recipe: how a network learns, as one strict description. Imports no torch, so a dry run may read it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Recipe(BaseModel):
    """Optimizer, schedule, batch and precision of one run.

    The loss of a step is a sum over all its supervised tokens divided once by their number, whatever
    ``micro_batches`` is: see ``headtohead.train.loop.objective``.
    """

    # Strict: "3e-4" in quotes or a count of 2.0 is a slip to be told, not to be repaired in silence.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    learning_rate: Positive
    """Peak of the schedule, reached at the end of the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_fraction: Fraction = 0.1
    """Learning rate of the last step, as a share of the peak; the way there is a cosine."""
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled (times the learning rate), on hidden matrices only."""
    clip: Positive = 1.0
    """Largest global norm of the gradient; a longer one is shortened to it."""
    z_loss: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of log² Z per supervised token (PaLM, Chowdhery et al. 2022, section 5)."""
    rows_per_step: Count
    micro_batches: Count = 1
    """Into how many passes the rows of one step are cut, to save memory: changes no loss."""
    steps: Count | None = None
    """Optimizer steps; left out, one pass over the training rows."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the matrix products; weights, norms, softmax and loss are fp32 in either."""
    compile: bool = True
    """``torch.compile`` of each block; without a C++ compiler the run is eager and says so."""
    activation_checkpointing: bool = False
    """Keep of each block its input alone and run it again in the backward pass (Chen et al., arXiv 1604.06174): a
    third more computing, far less memory, the same gradients."""
    threads: Count = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What computes: CUDA where there is one, else the CPU. Under ``torchrun`` each process has one of its own."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How ``torchrun``'s processes share the work: each has the whole network (DDP) or a part of it (FSDP2)."""
    checkpoint_every: Count = 500
    """Steps from one checkpoint to the next."""
    log_every: Count = 10
    """Steps from one line of ``metrics.jsonl`` to the next."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rows_per_step % self.micro_batches:
            raise ValueError(
                f"micro_batches = {self.micro_batches} does not divide rows_per_step = {self.rows_per_step}"
            )
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} is more than steps = {self.steps}: "
                "the warm-up should end within the run"
            )
        return self

    def with_steps(self, steps: int) -> Recipe:
        """The recipe of a run of ``steps`` steps; a warm-up longer than that is refused as in a file."""
        return Recipe.model_validate({**self.model_dump(), "steps": steps})
