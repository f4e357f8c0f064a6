"""The configuration class of our networks in transformers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from headtohead.interop.frame import Frame
from headtohead.interop.own import MODEL_TYPE, separate
from headtohead.model.architecture import Architecture
from headtohead.model.presets import architecture as preset
from headtohead.validation import validated


class HeadtoheadConfig(PreTrainedConfig):
    """`architecture`: an `Architecture` as JSON; `frame`: a `Frame` as JSON.

    A configuration without one, which transformers makes to know the defaults, is that of the smallest preset.
    """

    model_type = MODEL_TYPE

    architecture: dict[str, Any] | None = None
    frame: dict[str, Any] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        a = (
            preset("decllm-nano")
            if self.architecture is None
            else validated(Architecture, self.architecture, "config.json: architecture")
        )
        self.architecture = a.model_dump(mode="json")
        self.frame = validated(Frame, self.frame or {}, "config.json: frame").model_dump(mode="json")
        self.is_encoder_decoder = separate(a)
        width = a.width(a.output_stream)
        # What tools read of a configuration, whatever its class.
        told: dict[str, Any] = {
            "vocab_size": a.vocabulary,
            "hidden_size": width.d_model,
            "num_attention_heads": width.heads,
            "num_hidden_layers": a.output_stream.depth,
        }
        if a.context is not None:
            told["max_position_embeddings"] = a.context
        super().__post_init__(**{**kwargs, **told})

    @property
    def described(self) -> Architecture:
        """The description of the network."""
        return Architecture.model_validate(self.architecture)

    @property
    def framed(self) -> Frame:
        """The ids around text."""
        return Frame.model_validate(self.frame)
