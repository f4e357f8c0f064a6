"""The recipe: how a network learns, as one strict description. Imports no torch, so a dry run may read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
OptimizerName = Literal["adamw", "muon", "adafactor"]
ScheduleName = Literal["cosine", "linear", "constant", "inverse-sqrt", "wsd"]

OPTIMIZER_KEYS: dict[OptimizerName, tuple[str, ...]] = {
    "adamw": ("betas", "eps"),
    "muon": ("momentum", "betas", "eps"),
    "adafactor": ("second_moment_decay", "factored", "parameter_scale", "update_clip"),
}
"""The keys that mean something for an optimizer alone; ``weight_decay`` means the same for all."""

SCHEDULE_KEYS: dict[ScheduleName, tuple[str, ...]] = {
    "cosine": ("final_fraction",),
    "linear": ("final_fraction",),
    "constant": (),
    "inverse-sqrt": (),
    "wsd": ("final_fraction", "decay_fraction"),
}
"""The same of schedules; each of them has a warm-up."""


class Recipe(BaseModel):
    """Optimizer, schedule, batch and precision of one run.

    The loss of a step is a sum over all its supervised tokens divided once by their number, whatever
    ``micro_batches`` is: see ``headtohead.train.loop.objective``.
    """

    # Strict: "3e-4" in quotes or a count of 2.0 is a slip to be told, not to be repaired in silence.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    learning_rate: Positive
    """Peak of the schedule, reached at the end of the warm-up."""
    schedule: ScheduleName = "cosine"
    """The way from the peak to the last step: see ``headtohead.train.schedules``."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_fraction: Fraction = 0.1
    """cosine, linear, wsd: learning rate of the last step, as a share of the peak."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """wsd: the last share of the steps, in which the rate falls (Hägele et al., arXiv 2405.18392)."""
    optimizer: OptimizerName = "adamw"
    """See ``headtohead.train.optimizers``."""
    betas: Annotated[tuple[Momentum, Momentum], Field(strict=False)] = (0.9, 0.95)
    """adamw; muon: of the AdamW that has the parameters beside the hidden matrices."""
    eps: Positive = 1e-8
    """adamw, muon: as ``betas``."""
    momentum: Momentum = 0.95
    """muon: of the gradient that is orthogonalised."""
    second_moment_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """adafactor: c in beta2 = 1 - step^-c (Shazeer & Stern, arXiv 1804.04235, section 7.2)."""
    factored: bool = False
    """adafactor: keep sums of squares for each row and column of a matrix, not for each weight."""
    parameter_scale: bool = True
    """adafactor: the learning rate is a share of the root mean square of the matrix, and not absolute."""
    update_clip: Annotated[float, Field(ge=1)] = 1.0
    """adafactor: largest root mean square of an update of a matrix, before the learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled (times the learning rate), on hidden matrices only. adafactor has none (0) if left out."""
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
    """How ``torchrun``'s processes share the work: each has the whole network (DDP) or a part of it (FSDP2; adamw
    alone, since the others look at whole matrices)."""
    checkpoint_every: Count = 500
    """Steps from one checkpoint to the next."""
    keep_last: Count = 2
    """So many newest checkpoints are kept; with 1 there is none to fall back on if it is damaged."""
    keep_best: bool = False
    """Keep, in ``best/``, the checkpoint of the evaluation with the fewest bits per byte."""
    average_last: Annotated[int, Field(ge=2)] | None = None
    """The run ends with the mean of so many of its weights: those of the last step and of every
    ``average_every`` steps before it."""
    average_every: Count | None = None
    """Left out, ``checkpoint_every``."""
    log_every: Count = 10
    """Steps from one line of ``metrics.jsonl`` to the next."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_depend(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        given = dict(data)
        if given.get("optimizer") == "adafactor":
            given.setdefault("weight_decay", 0.0)
        if given.get("average_last") is not None and given.get("average_every") is None:
            # Settled here, so that it stays what it was when a later start writes checkpoints more often.
            given["average_every"] = given.get(
                "checkpoint_every", cls.model_fields["checkpoint_every"].default
            )
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_keys("optimizer", self.optimizer, OPTIMIZER_KEYS)
        self._check_keys("schedule", self.schedule, SCHEDULE_KEYS)
        if self.average_last is None and self.average_every is not None:
            raise ValueError(
                "average_every means nothing without average_last: set that too, or leave it out"
            )
        if self.rows_per_step % self.micro_batches:
            raise ValueError(
                f"micro_batches = {self.micro_batches} does not divide rows_per_step = {self.rows_per_step}"
            )
        if self.parallel == "fsdp" and self.optimizer != "adamw":
            raise ValueError(
                f"optimizer = '{self.optimizer}' looks at whole matrices, of which each process has a part with "
                "parallel = 'fsdp': set optimizer = 'adamw', or parallel = 'ddp'"
            )
        if self.steps is None:
            return self
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} is more than steps = {self.steps}: "
                "the warm-up should end within the run"
            )
        if self.schedule == "wsd" and self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} and the last {self.decay_steps} steps of decay_fraction = "
                f"{self.decay_fraction} are more than steps = {self.steps}: the warm-up should end before the decay"
            )
        if self.average_last is not None and self.averaged_steps[0] < 1:
            raise ValueError(
                f"average_last = {self.average_last} with average_every = {self.average_every} reaches back "
                f"before the first of steps = {self.steps}: average fewer, or nearer to each other"
            )
        return self

    def _check_keys(self, what: str, chosen: str, keys: Mapping[Any, tuple[str, ...]]) -> None:
        """Refuse a key that is set and that the chosen optimizer or schedule would not look at."""
        for key in sorted({key for some in keys.values() for key in some} & self.model_fields_set):
            if key not in keys[chosen]:
                users = " or ".join(f"'{name}'" for name, some in keys.items() if key in some)
                raise ValueError(
                    f"{key} means nothing for {what} = '{chosen}': leave it out, or set {what} = {users}"
                )

    @model_serializer(mode="wrap")
    def _what_matters(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys that mean nothing here; and what came later than the first recipes only where it is
        not the default, so that a recipe of theirs is still written, and is still the same run, as it was.
        """
        mine = {*OPTIMIZER_KEYS[self.optimizer], *SCHEDULE_KEYS[self.schedule]}
        whose = {key for table in (OPTIMIZER_KEYS, SCHEDULE_KEYS) for some in table.values() for key in some}
        later = (
            *("optimizer", "schedule", "keep_last", "keep_best", "average_last", "average_every"),
            *("activation_checkpointing", "device", "parallel"),
        )
        fields = type(self).model_fields
        return {
            key: value
            for key, value in handler(self).items()
            if not (key in whose and key not in mine) and not (key in later and value == fields[key].default)
        }

    @property
    def decay_steps(self) -> int:
        """wsd: the steps in which the rate falls."""
        return max(1, round(self.decay_fraction * _settled(self.steps)))

    @property
    def averaged_steps(self) -> range:
        """The steps after which the weights count for the average, ascending; none without ``average_last``."""
        last = _settled(self.steps)
        if self.average_last is None or self.average_every is None:
            return range(0)
        return range(last - (self.average_last - 1) * self.average_every, last + 1, self.average_every)

    def with_steps(self, steps: int) -> Recipe:
        """The recipe of a run of ``steps`` steps; a warm-up longer than that is refused as in a file."""
        return Recipe.model_validate({**self.model_dump(), "steps": steps})


def _settled(steps: int | None) -> int:
    if steps is None:
        raise ValueError("the number of steps is not settled: use recipe.with_steps(n)")
    return steps
