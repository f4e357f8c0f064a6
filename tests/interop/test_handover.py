"""Hand-over to other programs: GGUF as llama.cpp runs it, ONNX as its runtime does, and the card beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import headtohead
from headtohead import cli
from headtohead.data.objectives.base import MASK
from headtohead.data.tokenizers import ByteTokenizer, Tokenizer, train_tokenizer
from headtohead.errors import UserError
from headtohead.interop.folders import Held, read_folder, write_folder
from headtohead.interop.frame import Frame, own_frame
from headtohead.interop.hub import export_network
from headtohead.interop.llamacpp import Around, unsaid
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.parts import Biases, Embeddings, Norms, Scores
from headtohead.model.presets import architecture, families
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors

from ..data.small import prose

TEXT = train_tokenizer([prose(i, 3000) for i in range(3)], 320)
BYTES = ByteTokenizer((MASK,))
PLAIN = Norms(query_key=False, value=False)
SIZES: dict[str, Any] = {"d_model": 32, "heads": 4, "d_head": 8, "vocabulary": 320, "depth": 2, "d_ff": 48}
SAID: dict[str, Architecture] = {
    "llama": one_stack("llama-like", "causal", key_heads=2, norms=PLAIN, **SIZES),
    "llama-biased": one_stack(
        "biased",
        "causal",
        norms=PLAIN,
        biases=Biases(attention=True),
        embeddings=Embeddings(tied=False),
        **SIZES,
    ),
    "qwen3": one_stack("qwen3-like", "causal", norms=Norms(query_key_weights=True, value=False), **SIZES),
    "qwen3-plain": one_stack("no weights", "causal", key_heads=2, norms=Norms(value=False), **SIZES),
}


def folder_of(folder: Path, a: Architecture, text: Tokenizer = TEXT, frame: Frame | None = None) -> Path:
    """A model folder with weights far apart, so that no two tokens are nearly as probable."""
    model = Transformer(a, seed=4)
    with torch.no_grad():
        for tensor in named_tensors(model).values():
            tensor.mul_(4) if tensor.ndim > 1 else tensor.add_(torch.arange(len(tensor)) % 5 / 20)
    text.save(folder.with_suffix(".json"))
    write_folder(
        folder, Held(a, named_tensors(model), frame or own_frame(), folder.with_suffix(".json").read_text())
    )
    return folder


# ------------------------------------------------------------------------------------------------------- GGUF

REFUSED: dict[str, tuple[Architecture, str]] = {
    "decllm": (architecture("decllm-nano"), r"a norm on V \(norms.value\)"),
    "causal": (architecture("causal-nano"), "a norm on V"),
    "prefix": (one_stack("p", "prefix", norms=PLAIN, **SIZES), "the visibility 'prefix & same_document'"),
    "output": (one_stack("o", "causal", norms=Norms(value=False, output=True), **SIZES), "norms.output"),
    "two": (two_stacks("t", "full", depths=(1, 1), **{k: v for k, v in SIZES.items() if k != "depth"}), "two streams"),
    "capped": (one_stack("c", "causal", norms=PLAIN, scores=Scores(soft_cap=9.0), **SIZES), "capped scores"),
    "gelu": (one_stack("g", "causal", norms=PLAIN, feed_forward="gelu", **SIZES), "the feed-forward 'gelu'"),
    "after": (one_stack("a", "causal", norms=PLAIN.model_copy(update={"place": "after"}), **SIZES), "norms after"),
    "gpt-2": (architecture("gpt-2-nano"), "positions 'learned'"),
    "linear": (architecture("causal-linear-nano"), "linear attention"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_does_not_compute_is_refused_by_name(name: str, tmp_path: Path) -> None:
    a, part = REFUSED[name]
    write_folder(tmp_path / "ours", Held(a, named_tensors(Transformer(a)), own_frame()))
    with pytest.raises(UserError, match=part) as told:
        export_network(tmp_path / "ours", tmp_path / "out", "gguf")
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", SAID)
def test_a_gguf_file_holds_the_network_and_its_words(name: str, tmp_path: Path) -> None:
    gguf: Any = pytest.importorskip("gguf")
    a = SAID[name]
    assert unsaid(a) is None
    kind = export_network(folder_of(tmp_path / "ours", a), tmp_path / "out", "gguf")
    assert kind == name.split("-")[0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.gguf", "README.md", "Modelfile"}
    read = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    field = {key: value.contents() for key, value in read.fields.items()}
    assert field[f"{kind}.attention.head_count_kv"] == (a.key_heads or a.heads)
    assert field["tokenizer.ggml.eos_token_id"] == 2 and not field["tokenizer.ggml.add_bos_token"]
    tokens, kinds = field["tokenizer.ggml.tokens"], field["tokenizer.ggml.token_type"]
    assert len(tokens) == a.vocabulary
    special = [token for token, is_ in zip(tokens, kinds, strict=True) if is_ == gguf.TokenType.CONTROL]
    assert special == ["<pad>", "<start>", "<end>", "<continue>", "<restore>", "<text>", "<pair>"]
    count = sum(int(tensor.n_elements) for tensor in read.tensors)
    weights = read_folder(tmp_path / "ours").weights
    ones = 2 * 2 * a.d_head if name == "qwen3-plain" else 0
    assert count == sum(tensor.numel() for tensor in weights.values()) + ones
    table = next(t for t in read.tensors if t.name == "token_embd.weight")
    assert torch.equal(torch.tensor(table.data), weights["embedding"])


def served(path: Path) -> Any:
    """llama.cpp's own server code, in this process."""
    xllamacpp: Any = pytest.importorskip("xllamacpp")
    options = xllamacpp.CommonParams()
    options.model.path = str(path)
    options.n_ctx, options.n_parallel, options.warmup, options.n_gpu_layers = 256, 1, False, 0
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    options.verbosity = -1
    options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(options)


def completed(server: Any, prompt: list[int], count: int) -> list[tuple[int, dict[int, float]]]:
    """Greedy, in ASCII (it keeps the figures of half a character back): each token, and ln p of all tokens by id."""
    never = [[i, False] for i in range(SIZES["vocabulary"]) if i not in ASCII]
    asked = {"prompt": prompt, "n_predict": count, "temperature": 0.0, "logprobs": SIZES["vocabulary"]}
    found = server.handle_completions({**asked, "cache_prompt": False, "logit_bias": never})
    steps = found["choices"][0]["logprobs"]["content"]
    return [(step["id"], {one["id"]: one["logprob"] for one in step["top_logprobs"]}) for step in steps]


ASCII = [
    i for i in range(7, SIZES["vocabulary"]) if (text := TEXT.decode([i])).isascii() and text.isprintable()
]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SAID)
def test_llama_cpp_writes_what_we_write(name: str, precision: str, tmp_path: Path) -> None:
    """ln p of every token at each step: in fp32 within what two orders of summation differ by, in bf16 no further off
    than twice what PyTorch's own bf16 is; and the greedy text.
    """
    a = SAID[name]
    folder = folder_of(tmp_path / "ours", a)
    export_network(folder, tmp_path / "out", "gguf", precision)
    ours, half = headtohead.load(folder), headtohead.load(folder)
    for parameter in half.network.parameters():
        parameter.data = parameter.data.bfloat16() if parameter.ndim > 1 else parameter.data
    row = [6, 30, 41, 52, 63, 74, 1]
    steps = completed(served(tmp_path / "out" / "model.gguf"), row, 24)
    assert len(steps) == 24 and len({token for token, _ in steps}) > 3
    noise, rounding, sure = 0.0, 0.0, 0
    for token, there in steps:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = half.logits([row])[0, -1].log_softmax(-1)
        logits = ours.logits([row])[0, -1].log_softmax(-1)
        assert len(there) == a.vocabulary
        off = (torch.tensor([there[i] for i in range(a.vocabulary)]) - logits).abs()
        noise, rounding = noise + off.mean().item() / 24, rounding + (rough - logits).abs().mean().item() / 24
        best, second = logits[ASCII].topk(2).values.tolist()
        if precision == "fp32" or best - second > 2 * off.max():
            sure += 1
            assert token == ASCII[int(logits[ASCII].argmax())]
        row.append(token)
    assert sure > 7
    assert noise < (1e-4 if precision == "fp32" else 2 * rounding), (noise, rounding)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["bpe", "bytes"])
def test_llama_cpp_reads_text_as_we_do(words: str, tmp_path: Path) -> None:
    """Its tokenizer, and the chat template, which puts the special tokens around."""
    text: Tokenizer = TEXT if words == "bpe" else BYTES
    a = SAID["llama"].resized(vocabulary=text.vocabulary + 3)
    folder = folder_of(tmp_path / "ours", a, text)
    export_network(folder, tmp_path / "out", "gguf")
    server, ours = served(tmp_path / "out" / "model.gguf"), headtohead.load(folder)
    prompt = "Of the people, by the people: naïve 東京  42\n\t<end> of it"
    asked = {
        "messages": [{"role": "user", "content": "one"}, {"role": "user", "content": prompt}],
        "max_tokens": 9,
    }
    said = server.handle_chat_completions(
        {**asked, "temperature": 0.0, "logit_bias": [[i, False] for i in range(7) if i != 2]}
    )
    assert said["usage"]["prompt_tokens"] == 3 + len(text.encode(f"one\n{prompt.split('<end>')[0]}")) + len(
        text.encode(prompt.split("<end>")[1])
    )
    expected = ours.generate("one\nOf the people", max_tokens=9)
    plain = {"messages": [{"role": "user", "content": "one"}, {"role": "user", "content": "Of the people"}]}
    found = server.handle_chat_completions(
        {**asked, **plain, "temperature": 0.0, "logit_bias": [[i, False] for i in range(7) if i != 2]}
    )
    assert found["choices"][0]["message"]["content"].rstrip("�") == expected.rstrip(
        "�"
    )  # it keeps half a character back


def test_what_stands_around_a_text() -> None:
    names = dict(enumerate(("<pad>", "<start>", "<end>", "<continue>", "<restore>", "<text>", "<pair>")))
    assert Around.of(own_frame()).template(names, "X") == "<pair>X<start>"
    assert Around.of(Frame(before=(5,), start=(1,), given="both")).template(names, "X") == "<text>X<start>X"
    one = Around.of(Frame(before=(5,)))
    assert one.one_begins and one.template(names, "X") == "X"
    assert Around.of(Frame()).template(names, "X") == "X" and not Around.of(Frame()).one_begins


# ------------------------------------------------------------------------------------------------------- ONNX


def run_graph(folder: Path, given: dict[str, torch.Tensor]) -> torch.Tensor:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}
    return torch.from_numpy(session.run(None, {k: v.numpy() for k, v in given.items() if k in wanted})[0])


def check_graph(a: Architecture, folder: Path) -> None:
    """Logits of ragged rows, padded on the right, are those of the network that was handed over."""
    pytest.importorskip("onnxscript")
    write_folder(folder / "ours", Held(a, named_tensors(Transformer(a, seed=2)), own_frame()))
    said = export_network(folder / "ours", folder / "out", "onnx")
    ours = headtohead.load(folder / "ours")
    inputs, outputs = [[8, 20, 21, 30], [8, 40], [9, 10, 11]], [[1, 50, 60], [1, 51, 61], [1, 52, 62]]
    pair = "decoder_input_ids" in said
    rows = inputs if pair else [n + m for n, m in zip(inputs, outputs, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    real = torch.tensor([[at < len(row) for at in range(width)] for row in rows])
    given = {"input_ids": ids, "attention_mask": real.long()}
    if pair:
        given["decoder_input_ids"] = torch.tensor(outputs)
    else:
        given["token_type_ids"] = (
            torch.tensor([[int(at >= len(n)) for at in range(width)] for n in inputs]) * real
        )
    found, expected = run_graph(folder / "out", given), ours.logits(inputs, outputs)
    real = torch.ones(3, 3, dtype=torch.bool) if pair else real
    assert found.shape == expected.shape
    assert (found - expected)[real].abs().max() <= 1e-5 * expected[real].std()


@pytest.mark.timeout(600)
def test_a_graph_gives_the_same_logits(tmp_path: Path) -> None:
    check_graph(one_stack("small", "prefix", **{**SIZES, "depth": 1}), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [f"{family}-nano" for family in families()])
def test_every_family_is_a_graph(name: str, tmp_path: Path) -> None:
    check_graph(architecture(name), tmp_path)


# ------------------------------------------------------------------------------------------------------- the card


def test_the_card_of_a_run_tells_its_study_and_its_ledger(place: Path) -> None:
    run = "done/runs/full-prefix-seed1"
    assert cli.run(["export", run, "--out", "there"]) == 0
    card = Path("there/README.md").read_text("utf-8")
    result = json.loads(Path(run, "result.json").read_text("utf-8"))
    for words in (
        "A short study",
        "Does the machinery work?",
        "full-prefix-seed1",
        "`prefix & same_document`",
    ):
        assert words in card
    assert f"| supervised tokens | {result['ledger']['tokens_supervised']:,} |" in card
    assert f"| sha256 of the weights | {result['weights_sha256']} |" in card
    for region, bits in result["bits_per_byte"].items():
        assert f"| {region} | {bits:.4f} |" in card
    # A model folder that was saved from the run tells the same.
    headtohead.load(run).save("saved")
    assert read_folder(Path("saved")).source["study"]["name"] == "one"
    assert cli.run(["export", "saved", "--out", "again"]) == 0
    assert Path("again/README.md").read_text("utf-8") == card


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--format onx", "there is no format 'onx' to export to: did you mean 'onnx'?"),
        ("--format gguf --precision fp16", "--precision fp16: a GGUF file has fp32 or bf16"),
        ("--precision bf16", "and the other formats are in fp32"),
        ("--format gguf", "it has the visibility 'prefix & same_document', and it is causal there"),
    ],
)
def test_what_cannot_be_handed_over_is_told_in_a_line(
    words: str, says: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["export", "done/runs/full-prefix-seed1", "--out", "there", *words.split()]) == 2
    told = capfd.readouterr().err
    assert says in told and told.count("\n") == 1 and not Path("there").exists()
