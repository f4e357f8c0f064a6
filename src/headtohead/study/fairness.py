"""What two arms of a contrast differ in, from what their runs really were and consumed, against what the
study declared.

A contrast whose runs differ in something that was not written down first is no evidence on its factor: the
page refuses it, with the name of the dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from headtohead.study.parts import DIMENSIONS
from headtohead.train.recipe import OPTIMIZER_KEYS, SCHEDULE_KEYS, Recipe

NEAR = 0.01
"""Parameters and FLOPs that are nearer than this share count as equal: sizes are whole numbers."""

SAME_ALWAYS = {
    "corpus_sha256": "the text",
    "tokenizer_sha256": "the tokenizer",
    "version": "the version of headtohead",
    "torch": "the version of torch",
    "dtype": "the precision",
    "compiled": "whether the network is compiled",
}
"""Of a run's identity: what no study may declare to differ, and neither the examples read and scored."""

ASKED = {"dtype": "precision", "compiled": "compile"}
"""Of these, what two recipes may ask for differently; each run must then be what its own recipe asks for."""

DEFAULTS = {key: Recipe.model_fields[key].default for key in ("optimizer", "schedule")}
"""What a recipe that doesn't say so has."""

CONSUMED = ("examples", "bytes_shown", "documents_seen", "steps")


@dataclass(frozen=True)
class Undeclared:
    """One dimension in which the two arms of a contrast differ although the study doesn't say so."""

    contrast: str
    dimension: str
    sentence: str


def undeclared_differences(
    results: Sequence[Mapping[str, Any]], study: Mapping[str, Any], rung: str = "full"
) -> list[Undeclared]:
    """Every undeclared difference of every contrast, each dimension once.

    Args:
        results: lines of results.jsonl; finished runs of `rung` are compared, seed by seed.
        study: as it stands in plan.json.
    """
    runs = {(r["arm"], r["seed"]): r for r in results if r["status"] == "finished" and r["rung"] == rung}
    supervise = {arm["key"]: arm["supervise"] for arm in study["arms"]}
    found: list[Undeclared] = []
    for contrast in study["contrasts"]:
        first, second, name = contrast["from"], contrast["to"], contrast["name"]
        allowed = {*study["declared_differences"], *contrast["declares"]}
        seen: set[str] = set()
        for seed in study["seeds"]:
            pair = runs.get((first, seed)), runs.get((second, seed))
            if pair[0] is None or pair[1] is None:
                continue
            for dimension, one, two in _differences(pair[0], pair[1], supervise[first], supervise[second]):
                if dimension not in allowed and dimension not in seen:
                    seen.add(dimension)
                    found.append(Undeclared(name, dimension, _sentence(first, second, dimension, one, two)))
    return found


def _sentence(first: str, second: str, dimension: str, one: Any, two: Any) -> str:
    what = DIMENSIONS.get(dimension) or SAME_ALWAYS.get(dimension) or dimension.replace("_", " ")
    end = "the study does not declare it" if dimension in DIMENSIONS else "no comparison may"
    return f"{first} and {second} differ in {what} ({_said(one)} and {_said(two)}), and {end}"


def _said(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(value)
        return text if len(text) <= 60 else f"{text[:57]}…"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _differences(
    a: Mapping[str, Any], b: Mapping[str, Any], a_supervise: str, b_supervise: str
) -> Iterator[tuple[str, Any, Any]]:
    """(dimension, value of a, value of b) wherever two runs of one seed differ."""
    for key in SAME_ALWAYS:
        if a["identity"].get(key) != b["identity"].get(key) and not (_as_asked(key, a) and _as_asked(key, b)):
            yield key, a["identity"].get(key), b["identity"].get(key)
    if (a["documents"]["names"], a["documents"]["bytes"]) != (
        b["documents"]["names"],
        b["documents"]["bytes"],
    ):
        yield "the text that is scored", a["documents"]["bytes"], b["documents"]["bytes"]
    alike = a.get("objective") == b.get("objective")
    if not alike:
        yield "objective", _kind(a), _kind(b)
    for key in CONSUMED:
        if key == "bytes_shown" and not alike:
            continue  # the same windows, cut in other ways
        if a["ledger"][key] != b["ledger"][key]:
            yield key, a["ledger"][key], b["ledger"][key]
    for key in ("tokens_supervised", "tokens_padding", "visible_pairs"):
        if a["ledger"][key] != b["ledger"][key]:
            yield key, a["ledger"][key], b["ledger"][key]
    for key, one, two in (
        ("flops", a["ledger"]["flops"], b["ledger"]["flops"]),
        ("parameters", a["parameters"], b["parameters"]),
    ):
        if abs(one - two) > NEAR * min(one, two):
            yield key, one, two
    if a_supervise != b_supervise:
        yield "supervision", a_supervise, b_supervise
    one, two = _network(a["description"]), _network(b["description"])
    yield from ((key, one[key], two[key]) for key in one if one[key] != two[key])
    yield from _recipes(a["recipe"], b["recipe"])


def _as_asked(key: str, run: Mapping[str, Any]) -> bool:
    """Whether a run was computed as its recipe says: two that differ in it then differ in their recipes."""
    return key in ASKED and run["identity"][key] == run["recipe"].get(ASKED[key])


def _kind(result: Mapping[str, Any]) -> str:
    found = result.get("objective")
    return "the regions in turn" if found is None else ", ".join(f"{key} = {found[key]}" for key in found)


def _network(description: Mapping[str, Any]) -> dict[str, Any]:
    """An architecture's dump by dimension."""
    layers = [layer for stream in description["streams"] for layer in stream["layers"]]
    sees = {
        f"{stream['name']} -> {keys}": _rules(stream, keys)
        for stream in description["streams"]
        for keys in dict.fromkeys(read["keys"] for layer in stream["layers"] for read in layer["reads"])
    }
    return {
        "depth": sum(
            stream.get("cycle_to") or sum(layer["repeat"] for layer in stream["layers"])
            for stream in description["streams"]
        ),
        "d_ff": sorted({layer["d_ff"] for layer in layers}),
        "d_model": (description["d_model"], _own(description["streams"], "width")),
        "heads": (description["heads"], description["d_head"]),
        "norms": description["norms"],
        "positions": (description["positions"], _own(layers, "positions")),
        "feed_forward": (description.get("feed_forward"), description.get("biases")),
        "embeddings": (description.get("embeddings"), description.get("head")),
        "scores": (description.get("scores"), description.get("key_heads")),
        "sharing": (len(description["streams"]), _own(description["streams"], "shares")),
        "visibility": sees,
    }


def _rules(stream: Mapping[str, Any], keys: str) -> tuple[Any, ...]:
    """By which rules a stream's layers read `keys`: the rule itself where all layers read once by the same one, else
    those of each layer in order, up to where they begin again (how often they do is depth, told by itself).
    """
    once = [layer for layer in stream["layers"] for _ in range(layer["repeat"])]
    layers = [
        tuple((r["visibility"], r["merged"], r.get("mixer")) for r in layer["reads"] if r["keys"] == keys)
        for layer in islice(cycle(once), stream.get("cycle_to") or len(once))
    ]
    period = next(n for n in range(1, len(layers) + 1) if layers[n:] == layers[:-n])
    pattern = tuple(layers[:period])
    return pattern[0][0] if period == 1 and len(pattern[0]) == 1 else pattern


def _own(parts: Iterable[Mapping[str, Any]], key: str) -> list[str]:
    """What streams or layers say of their own, however many there are."""
    return sorted({str(part[key]) for part in parts if part.get(key) is not None})


def _recipes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    one, two = ({**DEFAULTS, **recipe} for recipe in (a, b))
    own: set[str] = set()
    for key, tables in (("optimizer", OPTIMIZER_KEYS), ("schedule", SCHEDULE_KEYS)):
        if one[key] != two[key]:
            yield key, one[key], two[key]
            # What each of two optimizers has of its own is part of that difference.
            own |= {*tables[one[key]]} ^ {*tables[two[key]]}
    for key in dict.fromkeys((*one, *two)):
        if key not in own and key not in ("optimizer", "schedule") and one.get(key) != two.get(key):
            if key == "learning_rate":
                yield key, one.get(key), two.get(key)
            else:
                yield "recipe", f"{key} = {one.get(key)}", f"{key} = {two.get(key)}"
