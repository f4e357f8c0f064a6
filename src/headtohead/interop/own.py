"""A network of ours as a folder of transformers with a class of its own: what its files say. transformers is not
needed here; the class is in `modelling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from headtohead.errors import UserError
from headtohead.interop.frame import Frame
from headtohead.model.architecture import Architecture
from headtohead.model.reach import sees_its_answer
from headtohead.validation import validated

MODEL_TYPE = "headtohead"
PREFIX = "network."
"""What the names of tensors begin with there: the module that holds the Transformer."""


def separate(a: Architecture) -> bool:
    """Whether input and output are given apart: the last stream holds the output alone."""
    return a.output_stream.holds == "output"


def fills(a: Architecture, frame: Frame) -> bool:
    """Whether a network answers holes where they stand, by what it sees or by what it learnt."""
    return frame.in_place or sees_its_answer(a, "output")


def class_of(a: Architecture, frame: Frame) -> str:
    """The class that a network is loaded with, if nobody says another."""
    if separate(a):
        return "HeadtoheadForSeq2SeqLM"
    return "HeadtoheadForMaskedLM" if fills(a, frame) else "HeadtoheadForCausalLM"


def own_config(a: Architecture, frame: Frame) -> dict[str, Any]:
    """What config.json says of a network of ours."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": [class_of(a, frame)],
        "architecture": a.model_dump(mode="json"),
        "frame": frame.model_dump(mode="json"),
        "is_encoder_decoder": separate(a),
        "tie_word_embeddings": False,  # of another module: ours is one tensor
    }


def own_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that they have there."""
    return {PREFIX + name: tensor for name, tensor in weights.items()}


def read_own(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[Architecture, Frame, dict[str, Tensor]]:
    """The inverse of `own_config` and `own_tensors`.

    Raises:
        UserError: no network of ours, naming the key or the tensor.
    """
    architecture = validated(Architecture, config.get("architecture") or {}, "config.json: architecture")
    frame = validated(Frame, config.get("frame") or {}, "config.json: frame")
    if wrong := sorted(name for name in tensors if not name.startswith(PREFIX)):
        raise UserError(f"the tensor '{wrong[0]}' is none of a network of headtohead")
    return architecture, frame, {name.removeprefix(PREFIX): t.float() for name, t in tensors.items()}
