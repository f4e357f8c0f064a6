"""Networks that transformers has no class for, through its Auto classes: `import headtohead` is enough."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import headtohead
from headtohead.data.objectives.base import MASK
from headtohead.data.tokenizers import ByteTokenizer, train_tokenizer
from headtohead.interop.folders import Held, read_folder, write_folder
from headtohead.interop.frame import own_frame
from headtohead.interop.hub import export_network, import_network
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.presets import architecture, families
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors

from ..data.small import prose

transformers: Any = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": 300}
TEXT = train_tokenizer([prose(i, 3000) for i in range(3)], 300)
BYTES = ByteTokenizer((MASK,))
LEARNED = {**SIZES, "vocabulary": BYTES.vocabulary}
WRITERS: dict[str, Architecture] = {
    "causal": one_stack("causal", "causal", depth=2, d_ff=32, **SIZES),
    "prefix": one_stack("prefix", "prefix", depth=2, d_ff=32, **SIZES),
    "two": two_stacks("two", "full", depths=(2, 2), d_ff=32, **SIZES),
    **{
        name: architecture(name).model_copy(update={"vocabulary": 300})
        for name in ("glm-nano", "t5gemma-2-nano", "block-double-decoder-nano", "causal-linear-nano")
    },
}
FILLER = one_stack("filler", "by_head(causal, anticausal)", depth=2, d_ff=32, **LEARNED)
PROMPTS = ["of the people, by the people", "a", "and we shall not perish from this earth"]
AUTO = {
    "HeadtoheadForCausalLM": transformers.AutoModelForCausalLM,
    "HeadtoheadForSeq2SeqLM": transformers.AutoModelForSeq2SeqLM,
    "HeadtoheadForMaskedLM": transformers.AutoModelForMaskedLM,
}


def exported(a: Architecture, folder: Path) -> tuple[Any, Any, Any, str]:
    """A network of ours loaded here; the same exported and loaded there, with its tokenizer; and its class."""
    model = Transformer(a, seed=4)
    with torch.no_grad():  # wide apart, so that what is written is not one token over and over
        for tensor in named_tensors(model).values():
            tensor.mul_(3)
    filler = a is FILLER
    text: Any = BYTES if filler else TEXT
    text.save(folder / "t.json")
    frame = own_frame(mask=BYTES.vocabulary - 1) if filler else own_frame()
    write_folder(folder / "ours", Held(a, named_tensors(model), frame, (folder / "t.json").read_text()))
    kind = export_network(folder / "ours", folder / "theirs")
    there = AUTO[kind].from_pretrained(folder / "theirs").eval()
    assert type(there).__name__ == kind
    return (
        headtohead.load(folder / "ours"), there, transformers.AutoTokenizer.from_pretrained(folder / "theirs"), kind
    )  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_generate_writes_the_same_text(name: str, tmp_path: Path) -> None:
    """Ragged prompts in one batch, padded as the tokenizer pads, with the cache and without, and in two beams."""
    ours, there, text, _ = exported(WRITERS[name], tmp_path)
    given = text(PROMPTS, padding=True, return_tensors="pt")
    assert set(given) == {"input_ids", "attention_mask"}
    expected = ours.generate(PROMPTS, max_tokens=12)
    assert any(len(set(line)) > 2 for line in expected)
    first = 1 if there.config.is_encoder_decoder else given["input_ids"].shape[1]
    for options in ({}, {"use_cache": False}):
        found = there.generate(**given, max_new_tokens=12, do_sample=False, **options)[:, first:]
        ends = set(ours.frame.ends)
        rows = [row.tolist() for row in found]
        cut = [next((i for i, t in enumerate(row) if t in ends), len(row)) for row in rows]
        assert [TEXT.decode(row[:n]) for row, n in zip(rows, cut, strict=True)] == expected
    beams = [there.generate(**given, max_new_tokens=5, num_beams=2, use_cache=kept) for kept in (True, False)]
    assert torch.equal(*beams)


def test_holes_are_filled_the_same(tmp_path: Path) -> None:
    ours, there, text, _ = exported(FILLER, tmp_path)
    lines = ["of the people, by<mask>", "<mask>or<mask>he people", "a"]
    given = text(lines, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = there(**given).logits
    rows = [row[keep.bool()].tolist() for row, keep in zip(*given.values(), strict=True)]
    assert all(row[0] == ours.frame.before[0] for row in rows)
    expected = ours.logits(rows)
    holes = 0
    for i, row in enumerate(rows):
        assert torch.allclose(logits[i, : len(row)], expected[i, : len(row)], atol=1e-4)
        here = torch.tensor(row) == ours.frame.mask
        holes += int(here.sum())
        found = logits[i, : len(row)][here].argmax(-1).tolist()
        assert text.decode(found) == BYTES.decode(expected[i, : len(row)][here].argmax(-1).tolist())
    assert holes == 3


@pytest.mark.parametrize("name", ["prefix", "two", "filler"])
def test_logits_loss_and_round_trips(name: str, tmp_path: Path) -> None:
    """Logits with padding on either side, the loss, `save_pretrained`, bfloat16, and back to a model folder."""
    a = {**WRITERS, "filler": FILLER}[name]
    ours, there, _, _ = exported(a, tmp_path)
    inputs, outputs = [[8, 20, 21, 30], [8, 40]], [[1, 50, 60], [1, 51, 61]]
    pair = name == "two"
    full = inputs if pair or name == "filler" else [n + m for n, m in zip(inputs, outputs, strict=True)]
    width = max(map(len, full))
    left = name == "prefix"
    pads = [[0] * (width - len(row)) for row in full]
    ids = torch.tensor([p + r if left else r + p for r, p in zip(full, pads, strict=True)])
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if pair:
        given |= {"decoder_input_ids": torch.tensor(outputs)}
    expected = ours.logits(inputs, None if name == "filler" else outputs)
    with torch.no_grad():
        found = there(**given).logits
    real = torch.ones(2, 3, dtype=torch.bool) if pair else ids != 0
    theirs = torch.cat([row[keep] for row, keep in zip(found, real, strict=True)])
    mine = torch.cat([row[: int(n)] for row, n in zip(expected, real.sum(1), strict=True)])
    assert torch.allclose(theirs, mine, atol=1e-4)

    # The loss, at the places that don't see their answer.
    labels = ids.masked_fill(ids == 0, -100)
    if pair:
        labels = torch.tensor([[50, 60, 2], [51, 61, -100]])
        given.pop("decoder_input_ids")
    loss = there(**given, labels=labels).loss
    if name == "filler" or pair:
        nats = torch.nn.functional.cross_entropy(found.flatten(0, 1), labels.flatten())
    else:
        targets = torch.tensor([[-100, -100, -100, 1, 50, 60], [-100, -100, -100, 1, 51, 61]])
        nats = torch.nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(nats.item(), rel=1e-5)
    loss.backward()
    assert there.network.stacks is not None and all(
        p.grad is not None for p in there.network.stacks.parameters()
    )

    there.save_pretrained(tmp_path / "saved")
    again = type(there).from_pretrained(tmp_path / "saved")
    for key, tensor in there.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])
    half = type(there).from_pretrained(tmp_path / "saved", dtype=torch.bfloat16).eval()
    rough = half(**given, labels=labels).logits.float()
    assert rough.isfinite().all() and (rough - found)[real].abs().mean() < 0.1 * found[real].std()
    import_network(str(tmp_path / "saved"), tmp_path / "back")
    held, before = read_folder(tmp_path / "back"), read_folder(tmp_path / "ours")
    assert (held.architecture, held.frame) == (before.architecture, before.frame)
    assert all(torch.equal(t, held.weights[k]) for k, t in before.weights.items())


def test_a_stack_gone_through_twice_is_saved_once(tmp_path: Path) -> None:
    a = architecture("redllm-tied-nano")
    write_folder(tmp_path / "ours", Held(a, named_tensors(Transformer(a, seed=1)), own_frame()))
    kind = export_network(tmp_path / "ours", tmp_path / "theirs")
    there = AUTO[kind].from_pretrained(tmp_path / "theirs")
    there.save_pretrained(tmp_path / "saved")
    again = AUTO[kind].from_pretrained(tmp_path / "saved")
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in there.parameters())
    assert all(torch.equal(t, again.state_dict()[k]) for k, t in there.state_dict().items())
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size == pytest.approx(
        (tmp_path / "theirs" / "model.safetensors").stat().st_size, rel=0.01
    )


@pytest.mark.parametrize("name", ["prefix", "two"])
def test_lora_is_attached_and_learns(name: str, tmp_path: Path) -> None:
    peft: Any = pytest.importorskip("peft")
    _, there, text, _ = exported(WRITERS[name], tmp_path)
    task = "SEQ_2_SEQ_LM" if name == "two" else "CAUSAL_LM"
    model = peft.get_peft_model(
        there, peft.LoraConfig(task_type=task, r=2, target_modules=["query", "key_value"])
    )
    given = dict(text(["of the people"], return_tensors="pt"))
    given["labels"] = given["input_ids"].clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    frozen = there.network.embedding.detach().clone()
    losses = []
    for _ in range(3):
        loss = model(**given).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0] and torch.equal(frozen, there.network.embedding)
    model.save_pretrained(tmp_path / "lora")
    plain = AUTO[WRITERS_CLASS[name]].from_pretrained(tmp_path / "theirs")
    again = peft.PeftModel.from_pretrained(plain, tmp_path / "lora")
    given.pop("labels")
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(again.generate(**given, **options), model.generate(**given, **options))


WRITERS_CLASS = {"prefix": "HeadtoheadForCausalLM", "two": "HeadtoheadForSeq2SeqLM"}

ORDERS = (
    "import headtohead; from transformers import AutoConfig, AutoModelForCausalLM as M",
    "from transformers import AutoConfig, AutoModelForCausalLM as M; import headtohead",
    "import transformers, headtohead; from transformers import AutoConfig, AutoModelForCausalLM as M",
)


@pytest.mark.parametrize(
    "order", [ORDERS[0], *(pytest.param(order, marks=pytest.mark.slow) for order in ORDERS[1:])]
)
def test_importing_headtohead_is_enough(order: str, tmp_path: Path) -> None:
    """Before transformers, after it, and between it and its Auto classes."""
    exported(WRITERS["causal"], tmp_path)
    code = (
        f"{order}; F = {str(tmp_path / 'theirs')!r}; "
        "print(type(AutoConfig.from_pretrained(F)).__name__, type(M.from_pretrained(F)).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "HeadtoheadConfig HeadtoheadForCausalLM\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{family}-nano" for family in families()])
def test_every_family_is_handed_over(name: str, tmp_path: Path) -> None:
    """To a class of transformers' own where there is one, else to ours; the same logits of a ragged batch."""
    a = architecture(name)
    model = Transformer(a, seed=2).eval()
    write_folder(tmp_path / "ours", Held(a, named_tensors(model), own_frame()))
    kind = export_network(tmp_path / "ours", tmp_path / "theirs")
    ours = headtohead.load(tmp_path / "ours")
    if kind.startswith("Headtohead"):
        there = AUTO[kind].from_pretrained(tmp_path / "theirs").eval()
    else:
        there = getattr(transformers, kind).from_pretrained(tmp_path / "theirs").eval()
    inputs, outputs = [[8, 20, 21, 30], [8, 40]], [[1, 50, 60], [1, 51, 61]]
    pair, filler = there.config.is_encoder_decoder, kind.endswith("MaskedLM")
    rows = inputs if pair or filler else [n + m for n, m in zip(inputs, outputs, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if pair:
        given["decoder_input_ids"] = torch.tensor(outputs)
    with torch.no_grad():
        found = there(**given).logits
    expected = ours.logits(inputs, None if filler else outputs)
    real = torch.ones(2, 3, dtype=torch.bool) if pair else ids != 0
    assert (found - expected)[real].abs().max() <= 1e-5 * expected[real].std()
