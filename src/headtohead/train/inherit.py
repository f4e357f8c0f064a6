"""First weights from another network, also of another architecture: each tensor from the one of the same role.

The rule, in order:

- **Streams.** One stack gives its weights to every stream of the target (a decoder becomes encoder *and* decoder,
  as T5Gemma does it: Zhang et al. 2025, arXiv 2504.06225). Of two stacks, each gives to its own; a target of one
  stack gets those of the stack that writes.
- **Layers.** Layer i is from layer i, so depths are equal. Feed-forward from feed-forward, norms from norms.
- **Attention.** Reads of the own stream from reads of the own stream, in order. Cross-attention from
  cross-attention where there is any, else from the same layer's self-attention, with its norms.
- **Tables.** Embeddings, positions and segments from the stream's. An untied head from an untied one, else from
  the table that was its head; a tied target has no head to fill.
- **What is new** keeps what the one init function (`model.blocks.initialise`) drew. What is new and what is left
  out is told.

Who sees whom is free to change: it has no weights. What says what a weight *means* (the activation, heads, kind and
place of the norms) must be equal, and so must every shape: nothing is matched because it happens to fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Stream
from headtohead.model.parts import RelativeBias
from headtohead.model.positions import sees_ahead
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors

MEANING = ("feed_forward", "biases", "norms.kind", "norms.place", "heads", "d_head", "key_heads")
"""What must be equal, beside shapes, for a weight to mean the same."""
BEHAVIOUR = ("positions", "scores", "norms", "embeddings", "head")
"""What may differ, and is told: the weights have to learn to live with it."""
IN_LAYER = re.compile(r"stacks\.(?P<stream>[^.]+)\.(?P<layer>\d+)\.(?P<rest>.+)")
OF_SUBLAYER = re.compile(
    r"(?P<kind>attentions|attention_norms|attention_after_norms)\.(?P<at>\d+)\.(?P<rest>.+)"
)
OF_STREAM = re.compile(r"(?P<kind>\w+)\.(?P<stream>[^.]+)(?P<rest>(\..+)?)")


@dataclass
class Inherited:
    """Where a network's first weights are from: names of its tensors, and of the source's that were not used."""

    taken: dict[str, str] = field(default_factory=dict)
    """Tensor of the target -> tensor of the source."""
    new: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The summary for people."""
        across = sum(name.startswith("stacks.") and name != of for name, of in self.taken.items())
        copied = f", {across} of them into another stream or sublayer" if across else ""
        found = [f"inherited: {len(self.taken)} of {len(self.taken) + len(self.new)} tensors{copied}"]
        found += [f"new, from the init: {', '.join(_together(self.new))}"] if self.new else []
        found += [f"left out of the source: {', '.join(_together(self.left))}"] if self.left else []
        return found + [f"differs from the source: {line}" for line in self.differs]


def inherit(model: Transformer, source: Architecture, weights: Mapping[str, Tensor]) -> Inherited:
    """Put another network's weights into `model`, role by role; see the module's text.

    Args:
        model: fresh from its init, which stays where there is nothing to inherit.
        source: the other network's description.
        weights: its tensors, named by `named_tensors`.

    Raises:
        UserError: the two don't fit: depths, shapes, or what a weight means. `model` is then as it was.
    """
    target = model.architecture
    _check_meaning(source, target)
    streams = _streams(source, target)
    found = Inherited(differs=list(_differences(source, target)))
    own = named_tensors(model)
    for name, tensor in own.items():
        of = next((n for n in _sources(name, source, target, streams) if n in weights), None)
        if of is None:
            found.new.append(name)
            continue
        if weights[of].shape != tensor.shape:
            raise UserError(
                f"'{name}' has the shape {list(tensor.shape)}, and '{of}' of {source.name}, which it would be from, "
                f"{list(weights[of].shape)}: give {target.name} the source's sizes"
            )
        found.taken[name] = of
    found.left = sorted(set(weights) - set(found.taken.values()))
    with torch.no_grad():
        for name, of in found.taken.items():
            own[name].copy_(weights[of])
    return found


def put(model: Transformer, weights: Mapping[str, Tensor]) -> None:
    """Give a network its own weights, by the names of `named_tensors`.

    Raises:
        UserError: naming the first tensor that is missing, unknown or of another shape.
    """
    own = named_tensors(model)
    for name, tensor in own.items():
        if name not in weights:
            raise UserError(f"the tensor '{name}' of shape {list(tensor.shape)} is missing")
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"the tensor '{name}' has the shape {list(weights[name].shape)}: the network's is {list(tensor.shape)}"
            )
    if unknown := sorted(weights.keys() - own.keys()):
        raise UserError(f"the tensor '{unknown[0]}' is none of the network's")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def _check_meaning(source: Architecture, target: Architecture) -> None:
    for path in MEANING:
        there, here = _at(source, path), _at(target, path)
        if there != here:
            raise UserError(
                f"{target.name} has {path} = {_word(here)} and {source.name}, whose weights it would get, "
                f"{_word(there)}: they would not mean the same; set it to the source's"
            )
    if source.vocabulary != target.vocabulary:
        raise UserError(
            f"{target.name} has a vocabulary of {target.vocabulary} and {source.name}, whose weights it would get, "
            f"{source.vocabulary}: a token must be the same token in both"
        )


def _streams(source: Architecture, target: Architecture) -> dict[str, Stream]:
    """Of each stream of the target, the stream of the source that it is from."""
    found: dict[str, Stream] = {}
    for at, stream in enumerate(target.streams):
        of = source.streams[at] if source.two_streams and target.two_streams else source.output_stream
        if of.depth != stream.depth:
            raise UserError(
                f"stream '{stream.name}' of {target.name} has {stream.depth} layers and stream '{of.name}' of "
                f"{source.name}, whose weights it would get, {of.depth}: layers are matched one by one; set "
                "architecture.depths to the source's"
            )
        found[stream.name] = of
    return found


def _sources(
    name: str, source: Architecture, target: Architecture, streams: Mapping[str, Stream]
) -> Iterator[str]:
    """The names in the source that a tensor may be from, best first."""
    if within := IN_LAYER.fullmatch(name):
        stream, of, layer = target.stream(within["stream"]), streams[within["stream"]], int(within["layer"])
        rest = within["rest"]
        if sub := OF_SUBLAYER.fullmatch(rest):
            for at in _sublayers(of, stream, layer, int(sub["at"])):
                holder = of.name if _own_sublayer(source, of, layer, at) else _lender(of)
                yield f"stacks.{holder}.{layer}.{sub['kind']}.{at}.{sub['rest']}"
        else:
            yield f"stacks.{_lender(of)}.{layer}.{rest}"
        return
    if name == "embedding":
        yield from (name, f"embeddings.{source.output_stream.name}")
    elif name == "matrix":  # an untied head: another's, or the table that was its head
        yield name
        if source.embeddings.tied:
            yield from ("embedding", f"embeddings.{source.output_stream.name}")
    elif "." not in name or name.startswith("head_transform."):
        yield name
    elif part := OF_STREAM.fullmatch(name):
        of = streams[part["stream"]]
        if part["kind"] == "relative" and not _same_buckets(source, of, target, part["stream"]):
            return
        yield f"{part['kind']}.{of.name}{part['rest']}"
        if part["kind"] == "embeddings":
            yield "embedding"


def _lender(stream: Stream) -> str:
    """Whose name the weights of a stream go by: that of the stream it shares them with."""
    return stream.name if stream.shares is None else stream.shares


def _own_sublayer(source: Architecture, stream: Stream, layer: int, at: int) -> bool:
    if stream.shares is None:
        return True
    return at >= len(source.stream(stream.shares).expanded[layer].sublayers)


def _sublayers(of: Stream, stream: Stream, layer: int, at: int) -> Iterator[int]:
    """Which sublayers of the source's layer a sublayer may be from."""
    there, here = of.expanded[layer].sublayers, stream.expanded[layer].sublayers

    def is_self(held: Stream, reads: Any) -> bool:
        return any(read.keys == held.name for read in reads)

    kind = is_self(stream, here[at])
    turn = sum(is_self(stream, reads) == kind for reads in here[:at])
    same = [i for i, reads in enumerate(there) if is_self(of, reads) == kind]
    if turn < len(same):
        yield same[turn]
    elif not kind and not same:
        selves = [i for i, reads in enumerate(there) if is_self(of, reads)]
        yield from selves[turn : turn + 1]


def _same_buckets(source: Architecture, of: Stream, target: Architecture, stream: str) -> bool:
    """T5's buckets mean other distances where one of the two looks ahead and the other doesn't."""
    here, there = target.positions, source.positions
    if not isinstance(here, RelativeBias) or not isinstance(there, RelativeBias):
        return False
    both = (here.directions == "both" or sees_ahead(target, target.stream(stream))) == (
        there.directions == "both" or sees_ahead(source, of)
    )
    return both and here.model_dump(exclude={"directions"}) == there.model_dump(exclude={"directions"})


def _differences(source: Architecture, target: Architecture) -> Iterator[str]:
    for part in BEHAVIOUR:
        there, here = (
            getattr(source, part).model_dump(mode="json"),
            getattr(target, part).model_dump(mode="json"),
        )
        for key in dict.fromkeys((*there, *here)):
            if there.get(key) != here.get(key):
                yield f"{part}.{key}: {_word(there.get(key))} -> {_word(here.get(key))}"


def _at(a: Architecture, path: str) -> Any:
    found: Any = a
    for word in path.split("."):
        found = getattr(found, word)
    return found


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _together(names: list[str]) -> list[str]:
    """Names of tensors, those of all layers as one: ``stacks.output.*.attentions.1``."""
    short = (
        re.sub(r"\.(weight|bias)$", "", re.sub(r"^(stacks\.[^.]+)\.\d+", r"\1.*", name)) for name in names
    )
    parents = (re.sub(r"^(stacks\..+\.attentions\.\d+)\..+", r"\1", name) for name in short)
    return list(dict.fromkeys(parents))
