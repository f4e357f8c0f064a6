"""`headtohead.architecture`: a description that also tells what it costs, and builds its network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headtohead.model import budget, presets
from headtohead.model.architecture import Architecture

if TYPE_CHECKING:
    from headtohead.model.transformer import Transformer


class Network(Architecture):
    """An `Architecture`, equal to the plain one, with its costs and its network."""

    @property
    def parameters(self) -> int:
        """How many weights it has, a shared one once."""
        return budget.parameters(self)["total"]

    def flops(self, *, input: int, output: int) -> dict[str, Any]:
        """FLOPs of one example of so many tokens, as in `headtohead budget`.

        Raises:
            UserError: for a negative number of tokens, or none at all.
        """
        return dict(budget.flops(self, input, output))

    def build(self, seed: int = 0) -> Transformer:
        """The network, with weights drawn from `seed`."""
        from headtohead.model.transformer import Transformer

        return Transformer(self, seed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


def architecture(name: str) -> Network:
    """The preset of that name: a family and a size, such as ``redllm-150m``.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    found = presets.architecture(name)
    return Network(**{field: getattr(found, field) for field in Architecture.model_fields})
