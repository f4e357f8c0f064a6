"""What a plan says: memory against the count of what autograd saves, time against its parts, and what is refused."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from headtohead.cli import run
from headtohead.model.budget import flops, parameters
from headtohead.model.loss import PLACES_AT_ONCE
from headtohead.model.presets import architecture
from headtohead.model.transformer import Transformer
from headtohead.study import sizing
from headtohead.study.devices import DEVICES, device
from headtohead.study.planning import PAPER, Workload, fastest, supervise_of, ways
from headtohead.study.sizing import activations, largest_rows, memory
from headtohead.study.timing import step_time
from headtohead.train.memory import Precision, example, saved_bytes, training_memory

H100 = device("h100")


SLOW = [
    pytest.param(n, marks=pytest.mark.slow) for n in ("decllm-mini", "redllm-150m", "bert-base", "llama-2-7b")
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["decllm-nano", "redllm-mini", "gpt-2-small", "t5-small", *SLOW])
def test_the_closed_form_is_what_autograd_saves(name: str, precision: Precision) -> None:
    """Attention that keeps its weights, as on a CPU: each grows with its own; within 2 % in all."""
    a = architecture(name)
    for rows, input, output in ((2, 128, 128), (4, 64, 192)):
        with FakeTensorMode():
            counted = sum(saved_bytes(Transformer(a), example(a, rows, input, output), precision).values())
        found = activations(a, input, output, precision, scores=True)
        assert rows * found.each + found.once == pytest.approx(counted, rel=0.02)


def test_the_rest_of_one_device_is_the_same_as_counted() -> None:
    a = architecture("redllm-nano")
    counted, found = training_memory(a, 3, 32, 32, "bf16"), memory(a, 3, 32, 32, "bf16")
    assert sizing.PLACES_AT_ONCE == PLACES_AT_ONCE
    for ours, theirs in (("weights", "weights"), ("gradients", "gradients"), ("optimizer", "optimizer")):
        assert getattr(found, ours) == counted[theirs]
    assert found.logits == counted["loss"]


def test_sharding_divides_what_it_should() -> None:
    a = architecture("decllm-1b")
    one, eight = (memory(a, 4, 64, 64, "bf16", "fsdp2", n) for n in (1, 8))
    copied = memory(a, 4, 64, 64, "bf16", "ddp", 8)
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(one, part) == getattr(copied, part) == 8 * getattr(eight, part)
    assert one.activations == eight.activations == copied.activations
    again = memory(a, 4, 64, 64, "bf16", "fsdp2", 8, checkpointing=True)
    assert again.activations < eight.activations / 4


def test_the_largest_micro_batch_is_the_largest() -> None:
    a = architecture("decllm-1b")
    room = H100.memory * 0.9
    rows = largest_rows(room, 2048, lambda n: memory(a, n, 1024, 1024, "bf16"))
    assert memory(a, rows, 1024, 1024, "bf16").total <= room < memory(a, rows + 1, 1024, 1024, "bf16").total
    assert largest_rows(room, 3, lambda n: memory(a, n, 1024, 1024, "bf16")) == 3
    assert largest_rows(1.0, 2048, lambda n: memory(a, n, 1024, 1024, "bf16")) == 0


def test_a_step_by_hand() -> None:
    a = architecture("redllm-1b")
    work, count = flops(a, 1024, 1024)["training"], parameters(a)["total"]
    found = step_time(a, H100, 8, 2048, 4, 1024, 1024, 0.4, "ddp", optimizer="adamw")
    assert found.products == pytest.approx(work * 256 / (989e12 * 0.4))
    assert found.optimizer == pytest.approx(32 * count / 3350e9)
    assert found.moved == pytest.approx(8 * count * 7 / 8) and found.communication == 0
    slow = step_time(a, H100, 2048, 2048, 1, 1024, 1024, 0.4, "fsdp2")
    assert slow.communication == pytest.approx(12 * count * 2047 / 2048 / 50e9 - slow.products)
    again = step_time(a, H100, 8, 2048, 4, 1024, 1024, 0.4, "ddp", checkpointing=True)
    assert again.products == pytest.approx(found.products * 4 / 3)


def test_the_papers_ten_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Up to 256 TPU v5p and one month, says the paper: the largest comes out at a month, and none at more than that."""
    assert run(["plan", "--paper", "--device", "tpu-v5p", "--devices", "256", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["networks"]) == set(PAPER) and len(PAPER) == 10
    days = {
        name: min(way["seconds"] for way in of["ways"] if way["fits"]) / 86400
        for name, of in found["networks"].items()
    }
    assert max(days, key=days.__getitem__) == "decllm-8b" and 15 < days["decllm-8b"] < 45
    for size in ("150m", "1b", "2b", "4b", "8b"):  # half the FLOPs for each sequence
        assert 0.35 < days[f"redllm-{size}"] / days[f"decllm-{size}"] < 0.65
    assert found["networks"]["decllm-8b"]["supervise"] == "all"
    assert found["networks"]["redllm-8b"]["supervise"] == "output"


def test_what_fits_where() -> None:
    work = Workload()
    eight = architecture("decllm-8b")
    assert fastest(ways(eight, device("l4"), 1, work, 0.4)) is None
    assert fastest(ways(eight, H100, 1, work, 0.4)) is None
    best = fastest(ways(eight, device("h200"), 64, work, 0.4))
    assert best is not None and best.sharding == "fsdp2"
    assert supervise_of(architecture("prefix-nano")) == "output"


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_a_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "decllm-150m", "redllm-150m", "--device", name, "--devices", "8"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert DEVICES[name].title in told and "Nothing here was measured on one" in told and "FSDP2" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["decllm-150", "--device", "h100"], "decllm-150"),
        (["--device", "h1000"], "--device h1000 is unknown: it should be a100, h100"),
        (["--devices", "0"], "'0' is not a whole number from 1 up"),
        (["--share", "1.5"], "--share 1.5: give a share"),
        (["--precision", "fp8"], "--precision fp8: it should be bf16 or fp32"),
        (["--precision", "fp32"], "data sheets' peaks here are of bf16"),
        (["--optimizer", "sgd"], "--optimizer sgd: it should be adamw or adafactor"),
        (["--paper", "decllm-150m"], "leave the names out"),
        (["decllm-nano", "--input", "99999999"], "too many"),
        (["bert-base"], "learned positions for 512 tokens"),
        (["decllm-nano", "--device", "cpu", "--devices", "2"], "--device cpu is this machine alone"),
        (["causal-linear-nano"], "linear attention"),
    ],
)
def test_bad_words_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_data_sheet_needs_no_torch() -> None:
    code = "import sys; from headtohead.cli import run; run(['plan', 'redllm-8b']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "tokens"),
    [("decllm-nano", 64), ("redllm-nano", 64), ("decllm-micro", 128), ("redllm-micro", 128), ("decllm-mini", 128),
     ("redllm-mini", 128)],
)  # fmt: skip
def test_a_step_on_this_cpu_is_predicted_within_a_fifth(name: str, tokens: int) -> None:
    """From one and three layers to the whole network, compiled and in bf16 where this machine has it."""
    from headtohead.study.stepping import measure, seconds_of, stepper
    from headtohead.train.recipe import Recipe
    from headtohead.train.runtime import configure

    a, rows = architecture(name), 8
    recipe = Recipe(learning_rate=1e-3, rows_per_step=rows)
    supervise = supervise_of(a)
    step, _ = stepper(a, rows, tokens, tokens, recipe, configure(recipe), supervise)
    before = [seconds_of(step) for _ in range(5)]
    predicted = measure(a, rows, tokens, tokens, recipe, supervise).step(a.depths)
    real = statistics.median(before + [seconds_of(step) for _ in range(5)])
    print(
        f"{name}: predicted {predicted * 1e3:.1f} ms, real {real * 1e3:.1f} ms, {predicted / real - 1:+.1%}"
    )
    assert predicted == pytest.approx(real, rel=0.2)
