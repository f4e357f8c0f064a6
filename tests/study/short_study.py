"""A study that takes seconds: tiny networks on bytes, and a text made here. For tests of the machinery, not
of claims.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

SENTENCE = """
the people of this nation have given to their government a great trust and we must keep it with honor before
all the world in peace or war for every year brings new duties that no congress can leave undone
"""

STUDY = """
kind = "compare"
name = "short"
title = "A short study"
question = "Does the machinery work?"
margin = 0.01
seeds = [1, 2]

[declared_differences]
depth = "two stacks"
d_ff = "the solver's"
flops = "follows"
visible_pairs = "what visibility means"
tokens_padding = "rows and sides"

[data]
tokenizer = "bytes"
window_bytes = 64
row = 160
side = 80
tune = 0.15
test = 0.15

[architecture]
d_model = 16
heads = 2
d_head = 8
d_ff = 48

[recipe]
learning_rate = 1e-2
rows_per_step = 2
warmup_steps = 2
compile = false
precision = "fp32"
checkpoint_every = 7
log_every = 5

[rungs.rehearsal]
steps = 8
curve_points = 2

[rungs.full]
steps = 60
curve_points = 3

[evaluation]
test_windows = 12
rehearsal_windows = 6
curve_windows = 4
rows_per_batch = 4
prompts = 1
prompt_tokens = 6

[[arms]]
key = "prefix"
label = "one stack"
supervise = "output"
architecture = { preset = "prefix-nano", depths = [4] }

[[arms]]
key = "two-full"
label = "two stacks"
supervise = "output"
match = "prefix"
architecture = { preset = "redllm-nano", depths = [2, 1] }

[[contrasts]]
name = "sharing"
from = "prefix"
to = "two-full"
factor = "sharing"
sentence = "Weights of their own."
declares = ["sharing", "visibility"]
"""

RATES = """
kind = "rates"
name = "short-rates"
title = "Learning rates of a short study"
study = "short.toml"
grid = [1e-3, 2e-3, 4e-3, 8e-3, 16e-3]
seed = 7
steps = 40
tune_windows = 6
writes = "short-rates.json"
"""


def write_study(folder: Path) -> tuple[Path, Path, Path]:
    """A comparison, a search of its learning rates, and a folder of text for them."""
    generator = random.Random(5)
    text = folder / "text"
    text.mkdir(parents=True)
    for number in range(40):
        words = [generator.choice(SENTENCE.split()) for _ in range(260)]
        (text / f"{number:02}.txt").write_text(f"{' '.join(words)} {number}.\n", encoding="utf-8")
    study, rates = folder / "short.toml", folder / "short-rates.toml"
    study.write_text(STUDY, encoding="utf-8")
    rates.write_text(RATES, encoding="utf-8")
    return study, rates, text


def start(file: Path, text: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """`headtohead study` as a person would start it, in a process group of its own.

    Ctrl-C works at a terminal even where the tests run in the background, which a shell starts deaf to it.
    """
    command = [sys.executable, "-m", "headtohead", "study", str(file), "--text", str(text), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--workers", "2", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    """Undo, in a child, what the parent was started with."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def finish(file: Path, text: Path, out: Path, *more: str, code: int = 0) -> str:
    """The same to its end; what it printed."""
    process = start(file, text, out, *more)
    printed, _ = process.communicate(timeout=3000)
    assert process.returncode == code, printed
    return printed
