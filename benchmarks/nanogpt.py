"""Time to the loss of nanoGPT's CPU recipe: its own train.py, and `headtohead train`, on the same text.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/nanogpt.py --nanogpt nanoGPT --text FILE [--threads 2]

nanoGPT runs as its README says for a CPU: characters, 4 layers, 128 wide, blocks of 64, batches of 12, 2000 steps.
Ours has at most its parameters and is trained on the same first nine tenths, by `SETTINGS`. Each is timed as a whole
process, one after the other; ours twice, with the compiler's cache empty and full. What is compared is nats per
character of the last tenth, in blocks of 64: nanoGPT's as it prints it after its last step, over 240 random blocks,
each after a character of context; ours over all blocks, the first character of each without any.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

THEIRS = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0 "
    "--dataset=text"
)
NEEDED = ("train.py", "model.py", "configurator.py", "config")
BLOCK = 64
SETTINGS = """
name = "characters"
objective = "causal"

[architecture]
preset = "decllm-nano"
depths = [4]
d_model = 128
heads = 4
d_head = 32
d_ff = 320

[data]
tokenizer = "bytes"
row = 264
window_bytes = 64
tune = 0.01
test = 0.01

[recipe]
optimizer = "muon"
learning_rate = 1e-2
rows_per_step = 8
steps = 228
warmup_steps = 20
betas = [0.9, 0.99]
threads = {threads}
checkpoint_every = 228

[evaluation]
points = 1
windows = 16
curve_windows = 16
prompts = 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    text = options.text.read_bytes()
    cut = len(text) * 9 // 10
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory(prefix="nanogpt-") as name:
        folder = Path(name)
        theirs = nanogpt(options.nanogpt, folder / "theirs", text, cut)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "headtohead-compiled")
        cold = headtohead(folder / "cold", text[:cut], options.threads)
        ours = headtohead(folder / "ours", text[:cut], options.threads)
        nats, parameters = scored(folder / "ours" / "run", text[cut:])
    print(
        json.dumps(
            {
                "nanogpt": theirs,
                "headtohead": {"nats": round(nats, 4), "seconds": ours, "seconds_first_time": cold},
                "parameters": {"nanogpt": theirs.pop("parameters"), "headtohead": parameters},
                "time_share": round(ours / theirs["seconds"], 3),
                "time_share_first_time": round(cold / theirs["seconds"], 3),
            }
        )
    )


def nanogpt(source: Path, folder: Path, text: bytes, cut: int) -> dict[str, float]:
    """Its recipe in a copy of it: nats of the last tenth, and the seconds of the process."""
    for name in NEEDED:
        if not (source / name).exists():
            sys.exit(f"{source} is no checkout of nanoGPT: there is no {name}")
        (shutil.copytree if (source / name).is_dir() else _copy)(source / name, folder / name)
    data = folder / "data" / "text"
    data.mkdir(parents=True)
    kinds = sorted(set(text))
    number = np.zeros(256, dtype=np.uint16)
    number[kinds] = np.arange(len(kinds))
    ids = number[np.frombuffer(text, dtype=np.uint8)]
    ids[:cut].tofile(data / "train.bin")
    ids[cut:].tofile(data / "val.bin")
    letters = [chr(kind) for kind in kinds]
    about = {
        "vocab_size": len(kinds),
        "itos": dict(enumerate(letters)),
        "stoi": {c: i for i, c in enumerate(letters)},
    }
    (data / "meta.pkl").write_bytes(pickle.dumps(about))
    told, seconds = timed([sys.executable, "train.py", *THEIRS.split()], folder)
    last = re.findall(r"step 2000: train loss [\d.]+, val loss ([\d.]+)", told)
    size = re.search(r"number of parameters: ([\d.]+)M", told)
    if not last or size is None:
        sys.exit(f"nanoGPT did not say what it ended with:\n{told[-2000:]}")
    return {"nats": float(last[-1]), "seconds": seconds, "parameters": float(size[1]) * 1e6}


def headtohead(folder: Path, text: bytes, threads: int) -> float:
    """Seconds of our training as a process of its own; the run is in `folder`/run."""
    folder.mkdir()
    (folder / "text.txt").write_bytes(text)
    (folder / "settings.toml").write_text(SETTINGS.format(threads=threads))
    command = [
        sys.executable,
        "-m",
        "headtohead",
        "train",
        "settings.toml",
        "--text",
        "text.txt",
        "--out",
        "run",
    ]
    return timed(command, folder)[1]


def scored(run: Path, text: bytes) -> tuple[float, int]:
    """Nats per character of the held-out text in blocks, and the network's parameters."""
    import headtohead as h2h
    from headtohead.model.budget import parameters

    model = h2h.load(run)
    blocks = [text[at : at + BLOCK].decode() for at in range(0, len(text) - BLOCK, BLOCK)]
    nats = model.score([""] * len(blocks), blocks)
    return math.fsum(nats) / (len(blocks) * BLOCK), parameters(model.architecture)["total"]


def timed(command: list[str], folder: Path) -> tuple[str, float]:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout, round(seconds, 1)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


if __name__ == "__main__":
    main()
