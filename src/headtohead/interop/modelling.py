"""Our one Transformer as models of transformers, for its Auto classes, `generate`, PEFT and the harnesses.

Where the input ends follows from, in this order: `token_type_ids` (0 input, 1 output), the token that begins the
output (`frame.start`: from there on it is output), and otherwise all is output, so that nothing is ever scored by a
network that sees it. In `generate` what is given is the input (from its `frame.start` on, the output).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.loss.loss_utils import ForMaskedLMLoss
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput

from headtohead.interop.configuring import HeadtoheadConfig
from headtohead.interop.frame import Frame
from headtohead.interop.keeping import GrowingCache
from headtohead.interop.own import fills, separate
from headtohead.interop.placing import placed, real_places
from headtohead.model.batch import Tokens
from headtohead.model.reach import sees_its_answer
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import INPUT, OUTPUT, PADDING
from headtohead.train.checkpoint import named_tensors

IGNORED = -100
"""The label of a place that carries no loss."""


@dataclass
class HeadtoheadOutput(ModelOutput):
    """loss: mean over the labels; logits (B, T, V); last_hidden_state (B, T, d) of the model without a head;
    cache: keys and values so far; encoder_last_hidden_state (B, T, d): of the input's stream, where it has one.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    cache: GrowingCache | None = None
    encoder_last_hidden_state: Tensor | None = None


class HeadtoheadPreTrainedModel(PreTrainedModel):
    """What the classes share: `network`, the `Transformer` of the configuration's architecture."""

    config_class = HeadtoheadConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False
    _supports_sdpa = True  # in a way: the attention is our own, whatever is asked for
    _keep_in_fp32_modules_strict = ["norm"]  # noqa: RUF012  a list in the class that it overrides

    def __init__(self, config: HeadtoheadConfig) -> None:
        super().__init__(config)
        self.network = Transformer(config.described)
        self._tied_weights_keys = self.get_expanded_tied_weights_keys()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Tensors that a checkpoint lacks get the values of the network's own init."""
        if not isinstance(module, Transformer):
            return
        fresh = named_tensors(Transformer(module.architecture))
        with torch.no_grad():
            for name, tensor in named_tensors(module).items():
                if not getattr(tensor, "_is_hf_initialized", False) and not tensor.is_meta:
                    tensor.copy_(fresh[name])

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Tensors with two names (of two passes through one stack), each with its first name."""
        first: dict[int, str] = {}
        found: dict[str, str] = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            if first.setdefault(id(tensor), name) != name:
                found[name] = first[id(tensor)]
        return found

    def get_input_embeddings(self) -> nn.Module:
        """The output stream's table, as a module to look at (the network holds the tensor itself)."""
        table = self.network.table(self.network.architecture.output_stream)
        made = nn.Embedding(table.shape[0], table.shape[1], device="meta")
        made.weight = table
        return made

    def get_output_embeddings(self) -> None:
        return None

    def resize_token_embeddings(self, *_: Any, **__: Any) -> nn.Embedding:
        raise NotImplementedError("the vocabulary is part of the network's description: train another one")

    @property
    def frame(self) -> Frame:
        """The special ids around text."""
        return self.config.framed

    def _states(
        self,
        streams: Mapping[str, Tokens],
        cache: GrowingCache | None,
        known: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Final states of the last stream given; weights of half precision compute under autocast."""
        if cache is not None:
            cache.make_room({name: tokens.ids.shape[1] for name, tokens in streams.items()})
        kept = None if cache is None else cache.cache
        half = self.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(self.device.type, dtype=self.dtype if half else torch.bfloat16, enabled=half):
            return self.network.hidden(streams, kept, known=known)

    def _logits(self, h: Tensor, keep: int | Tensor) -> Tensor:
        """Logits of the last `keep` places (all: 0), or of the places that it names."""
        h = h[:, (slice(-keep, None) if keep else slice(None)) if isinstance(keep, int) else keep]
        half = self.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(self.device.type, dtype=self.dtype if half else torch.bfloat16, enabled=half):
            return self.network.next_logits(h)

    def _row(
        self, ids: Tensor, mask: Tensor | None, types: Tensor | None, cache: GrowingCache | None
    ) -> Tokens:
        """New places of a row that holds input and output, after those that are kept."""
        real = real_places(ids, mask)
        if types is not None:
            part = torch.where(types.expand_as(ids) > 0, OUTPUT, INPUT)
        elif cache is not None and len(cache):
            part = torch.full_like(ids, OUTPUT)
        else:
            part = self._parts(ids, real, OUTPUT)
        before = written = 0
        name = self.network.architecture.output_stream.name
        if cache is not None and (there := cache.real(name)) is not None:
            before = there.sum(dim=1, keepdim=True)
            written = (there & (cache.part(name) == OUTPUT)).sum(dim=1, keepdim=True)
        return placed(ids, real, part, before, written)

    def _parts(self, ids: Tensor, real: Tensor, otherwise: int) -> Tensor:
        """Output from the first start token on; in rows without one, all is `otherwise`."""
        if not self.frame.start:
            return torch.full_like(ids, otherwise)
        begun = ((ids == self.frame.start[0]) & real).cumsum(dim=1) > 0
        return torch.where(begun, OUTPUT, torch.where(begun.any(dim=1, keepdim=True), INPUT, otherwise))

    def _one_row(
        self, ids: Tensor | None, mask: Tensor | None, types: Tensor | None, cache: GrowingCache | None
    ) -> tuple[Tensor, Tokens]:
        if ids is None:
            raise ValueError("give input_ids: embeddings in their stead are not taken")
        row = self._row(ids, mask, types, cache)
        return self._states({stream.name: row for stream in self.network.architecture.streams}, cache), row

    def _cache(self, use_cache: bool | None, given: GrowingCache | None) -> GrowingCache | None:
        if given is not None and not isinstance(given, GrowingCache):
            raise ValueError("the cache of a network of headtohead is the one that it returned")
        return GrowingCache(self.network) if given is None and use_cache else given


def _plain(unused: Mapping[str, Any]) -> None:
    for name in ("output_attentions", "output_hidden_states", "inputs_embeds", "past_key_values"):
        if unused.get(name) is not None and unused[name] is not False:
            raise ValueError(f"{name} is not given by networks of headtohead")


def _returned(found: HeadtoheadOutput, options: Mapping[str, Any]) -> Any:
    return found.to_tuple() if options.get("return_dict") is False else found


class HeadtoheadForCausalLM(HeadtoheadPreTrainedModel, GenerationMixin):
    """A network that writes on: causal, prefix and all that hold input and output in one row."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        cache: GrowingCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,
    ) -> Any:
        """Logits (B, T, V). `labels` are the ids themselves, -100 where nothing is to be learnt; places that a
        network sees before it predicts them carry no loss.

        Raises:
            ValueError: embeddings, attention or hidden states are asked for, or a mask isn't (rows, tokens).
        """
        _plain(options)
        kept = self._cache(use_cache, cache)
        h, row = self._one_row(input_ids, attention_mask, token_type_ids, kept)
        logits = self._logits(h, 0 if labels is not None else logits_to_keep)
        loss = None
        if labels is not None:
            if sees_its_answer(self.network.architecture, "all"):
                labels = labels.masked_fill(row.part == INPUT, IGNORED)
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **_batch(options))
        return _returned(HeadtoheadOutput(loss, logits, cache=kept), options)

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own; what is given is the input, unless `token_type_ids` says otherwise."""
        ids = inputs if inputs is not None else kwargs.get("input_ids")
        if ids is not None and kwargs.get("token_type_ids") is None:
            mask = kwargs.get("attention_mask")
            kwargs["token_type_ids"] = self._parts(ids, real_places(ids, mask), INPUT)
        return super().generate(inputs, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]  its protocol asks for what no model has

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """What is written is output, whatever the prompt's last token was."""
        types = model_kwargs.get("token_type_ids")
        found = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        if types is not None:
            found["token_type_ids"][:, types.shape[1] :] = OUTPUT
        return found


class HeadtoheadForMaskedLM(HeadtoheadPreTrainedModel):
    """A network that fills holes: the answer stands at the place itself."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Logits (B, T, V). `labels`: what stands at each place, -100 where nothing is to be learnt. Without
        `token_type_ids` all is input.
        """
        _plain(options)
        if token_type_ids is None and input_ids is not None:
            token_type_ids = torch.zeros_like(input_ids)
        h, _ = self._one_row(input_ids, attention_mask, token_type_ids, None)
        logits = self._logits(h, 0)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **_batch(options))
        return _returned(HeadtoheadOutput(loss, logits), options)


class _Separate(HeadtoheadPreTrainedModel):
    """A network whose input and output are streams of their own: the input's is run once."""

    def get_encoder(self, modality: str | None = None) -> Any:
        return HeadtoheadEncoder(self)

    def _pair(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        outputs: Tensor,
        output_mask: Tensor | None,
        encoded: Tensor | None,
        cache: GrowingCache | None,
    ) -> tuple[Tensor, Tensor | None]:
        first, last = (stream.name for stream in self.network.architecture.streams)
        streams: dict[str, Tokens] = {}
        kept = None if cache is None else cache.real(first)
        if kept is None:
            if encoded is None:
                if ids is None:
                    raise ValueError("give input_ids, or encoder_outputs")
                encoded = self._encoded(ids, mask)
            there = torch.zeros(encoded.shape[:2], dtype=torch.long, device=encoded.device)
            streams[first] = self._row(there, mask, torch.zeros_like(there), None)
            kept = streams[first].document != PADDING
        read = kept.sum(dim=1, keepdim=True)
        real = real_places(outputs, output_mask)
        before = cache.real(last) if cache is not None else None
        written = 0 if before is None else before.sum(dim=1, keepdim=True)
        streams[last] = placed(outputs, real, torch.full_like(outputs, OUTPUT), read + written, written)
        known = {first: encoded} if encoded is not None and first in streams else None
        return self._states(streams, cache, known), encoded

    def _encoded(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Final states (B, T, d) of the input's stream."""
        first = self.network.architecture.streams[0].name
        return self._states({first: self._row(ids, mask, torch.zeros_like(ids), None)}, None)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The labels, moved on by the tokens that begin the output."""
        start = torch.tensor(self.frame.start, device=labels.device).expand(len(labels), -1)
        if not start.shape[1]:
            raise ValueError("no token begins the output: give decoder_input_ids")
        filled = labels.masked_fill(labels == IGNORED, self.frame.pad)
        return torch.cat([start, filled], dim=1)[:, : labels.shape[1]]


class HeadtoheadForSeq2SeqLM(_Separate, GenerationMixin):
    """An encoder-decoder."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        labels: Tensor | None = None,
        cache: GrowingCache | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> Any:
        """Logits (B, T, V) at the output's places. `labels`: the token after each of `decoder_input_ids`, which are
        made from them where they aren't given; -100 where nothing is to be learnt.
        """
        _plain(options)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("give decoder_input_ids, or labels")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        kept = self._cache(use_cache, cache)
        encoded = None if encoder_outputs is None else encoder_outputs[0]
        h, encoded = self._pair(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoded, kept
        )
        logits = self._logits(h, 0)
        loss = None
        if labels is not None:  # aligned already, so the loss of places as they are
            loss = ForMaskedLMLoss(logits, labels, logits.shape[-1], **_batch(options))
        found = HeadtoheadOutput(loss, logits, cache=kept, encoder_last_hidden_state=encoded)
        return _returned(found, options)


class HeadtoheadModel(_Separate):
    """Any network without its head: final states of the last stream."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        **options: Any,
    ) -> Any:
        """last_hidden_state (B, T, d). A network that fills holes takes all as input, without `token_type_ids`."""
        _plain(options)
        a = self.network.architecture
        if not separate(a):
            if token_type_ids is None and input_ids is not None and fills(a, self.frame):
                token_type_ids = torch.zeros_like(input_ids)
            h, _ = self._one_row(input_ids, attention_mask, token_type_ids, None)
            return _returned(HeadtoheadOutput(last_hidden_state=h), options)
        if decoder_input_ids is None:
            raise ValueError("give decoder_input_ids")
        encoded = None if encoder_outputs is None else encoder_outputs[0]
        h, encoded = self._pair(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoded, None
        )
        return _returned(HeadtoheadOutput(last_hidden_state=h, encoder_last_hidden_state=encoded), options)


class HeadtoheadEncoder(nn.Module):
    """The input's stream of a model, by itself; it holds no weights of its own."""

    main_input_name = "input_ids"

    def __init__(self, model: _Separate) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that its weights are not here a second time

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> BaseModelOutput:
        """last_hidden_state (B, T, d)."""
        _plain(options)
        return BaseModelOutput(last_hidden_state=self._model[0]._encoded(input_ids, attention_mask))


def _batch(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a loss is divided by, where transformers' trainer says it: the labels of the whole step."""
    return {k: v for k, v in options.items() if k == "num_items_in_batch"}
