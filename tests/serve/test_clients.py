"""The official client and curl against a server: complete, stream, chat, embed, cancel."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headtohead.model.budget import cache_bytes, flops

from .serving import BYTES, NETWORKS, Running, serving

openai: Any = pytest.importorskip("openai")


@pytest.fixture
def client(unharmed: Running) -> Any:
    return openai.OpenAI(base_url=unharmed.url + "/v1", api_key="none", max_retries=0, timeout=60)


def test_models(client: Any) -> None:
    found = client.models.list().data
    assert [one.id for one in found] == ["causal", "pair", "filler"]
    about = client.models.retrieve("pair").headtohead
    assert (
        about["writes"] and about["embeds"] and [s["holds"] for s in about["streams"]] == ["input", "output"]
    )
    assert not found[2].headtohead["writes"] and not found[0].headtohead["embeds"]
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9' here"):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize("model", ["causal", "pair"])
def test_a_completion_is_what_the_network_writes(model: str, client: Any, unharmed: Running) -> None:
    found = client.completions.create(
        model=model, prompt=["of the people", "by"], max_tokens=12, temperature=0
    )
    expected = unharmed.models[model].model.generate(["of the people", "by"], max_tokens=12)
    assert [choice.text for choice in found.choices] == expected
    assert [choice.index for choice in found.choices] == [0, 1]
    # Two special tokens stand around each prompt.
    assert found.usage.prompt_tokens == (13 + 2) + (2 + 2)
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    ids = client.completions.create(model=model, prompt=BYTES.encode("by"), max_tokens=12, temperature=0)
    assert ids.choices[0].text == expected[1]


def test_usage_tells_what_it_cost(client: Any) -> None:
    found = client.completions.create(model="causal", prompt="abc", max_tokens=7, temperature=0).usage
    a = NETWORKS["causal"]
    assert found.completion_tokens <= 7
    assert found.flops == flops(a, 5, found.completion_tokens)["forward"]
    assert found.cache_bytes == cache_bytes(a, 5, found.completion_tokens)


def test_streams_add_up_to_the_whole(client: Any) -> None:
    asked: dict[str, Any] = {"model": "causal", "max_tokens": 20, "temperature": 0.9, "seed": 5}
    whole = client.completions.create(prompt="of the", **asked)
    pieces = list(client.completions.create(prompt="of the", stream=True, **asked))
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert len(pieces) > 3 and pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    messages = [
        {"role": "system", "content": "of"},
        {"role": "user", "content": [{"type": "text", "text": "the"}]},
    ]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    said = list(client.chat.completions.create(messages=messages, **options, **asked))
    assert said[0].choices[0].delta.role == "assistant"
    assert said[-1].choices == [] and said[-1].usage.prompt_tokens == 6 + 2
    full = client.chat.completions.create(messages=messages, **asked)
    assert "".join(p.choices[0].delta.content or "" for p in said[:-1]) == full.choices[0].message.content
    # The messages are the lines of one text.
    alone = client.completions.create(prompt="of\nthe", **asked)
    assert alone.choices[0].text == full.choices[0].message.content


def test_a_seed_gives_the_same_alone_and_among_others(client: Any) -> None:
    asked: dict[str, Any] = {"model": "causal", "max_tokens": 24, "temperature": 1.2, "top_p": 0.9}

    def one(seed: int) -> list[str]:
        found = client.completions.create(prompt="of the", seed=seed, n=2, **asked)
        return [choice.text for choice in found.choices]

    alone = [one(seed) for seed in range(3)]
    with ThreadPoolExecutor(12) as pool:
        among = list(pool.map(one, [*range(12)]))
    assert among[:3] == alone
    assert len({text for pair in among for text in pair}) > 20
    assert one(-1) == one(2**63 - 1) == one(2**70 - 1)  # any whole number is a seed


def test_stop_and_length(client: Any) -> None:
    asked: dict[str, Any] = {"model": "causal", "prompt": "of the", "temperature": 0}
    whole = client.completions.create(max_tokens=40, **asked).choices[0]
    assert whole.finish_reason == "length"
    stop = next(c for c in whole.text[4:] if c.isascii() and c.isprintable())
    cut = client.completions.create(max_tokens=40, stop=[stop, "never this"], **asked).choices[0]
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish_reason == "stop"


def test_logprobs(client: Any, unharmed: Running) -> None:
    found = client.completions.create(
        model="causal", prompt="of the", max_tokens=5, temperature=0, logprobs=3
    ).choices[0]
    ids, frame = BYTES.encode("of the"), unharmed.models["causal"].model.frame
    row = [*frame.before, *ids, *frame.start]
    for word, logprob, top in zip(
        found.logprobs.tokens, found.logprobs.token_logprobs, found.logprobs.top_logprobs, strict=True
    ):
        expected = unharmed.models["causal"].model.logits([row])[0, -1].log_softmax(-1)
        assert logprob <= max(top.values()) + 1e-6 and 1 <= len(top) <= 3
        assert float((expected - logprob).abs().min()) < 1e-3
        row.append(int((expected - logprob).abs().argmin()))
        assert BYTES.decode([row[-1]]) == word
    chat = client.chat.completions.create(
        model="causal", messages=[{"role": "user", "content": "of the"}], max_tokens=5, temperature=0,
        logprobs=True, top_logprobs=2,
    ).choices[0]  # fmt: skip
    assert [one.logprob for one in chat.logprobs.content] == pytest.approx(found.logprobs.token_logprobs)
    assert all(len(one.top_logprobs) == 2 for one in chat.logprobs.content)
    assert all(math.isfinite(one.logprob) for one in chat.logprobs.content)


@pytest.mark.parametrize("model", ["filler", "pair"])
def test_embeddings(model: str, client: Any, unharmed: Running) -> None:
    """The client asks for base64 by itself; floats are the same. Alone or among others, a text has one vector."""
    texts = ["of the people", "by", "for the people of the people"]
    found = client.embeddings.create(model=model, input=texts)
    vectors = np.array([one.embedding for one in found.data])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    floats = client.embeddings.create(model=model, input=texts[1], encoding_format="float").data[0].embedding
    assert np.allclose(floats, vectors[1], atol=1e-5) and not np.allclose(vectors[0], vectors[1], atol=1e-2)
    held = unharmed.models[model].model
    if model == "filler":
        shown, begun = held.frame.around(BYTES.encode("by"))
        states = held.hidden([shown], [[]])[0]
        assert begun and torch.allclose(
            torch.nn.functional.normalize(states.mean(0), dim=0), torch.tensor(floats), atol=1e-5
        )
    with pytest.raises(openai.BadRequestError, match="reads from left to right"):
        client.embeddings.create(model="causal", input="a")
    with pytest.raises(openai.BadRequestError, match="fills holes and can't write"):
        client.completions.create(model="filler", prompt="a")


def test_a_client_that_goes_away_stops_its_request(networks: Path) -> None:
    """Long before its text is whole, streamed or not. (The likeliest text of this network has no end.)"""
    asked: dict[str, Any] = {
        "model": "causal",
        "prompt": "of",
        "max_tokens": 8000,
        "temperature": 0.0,
    }
    with serving(networks, "causal", context=8192, max_tokens=8000) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0, timeout=60)
        stream = client.completions.create(stream=True, **asked)
        next(iter(stream))
        stream.close()
        assert running.idle()
        end = time.monotonic() + 20
        while not running.metric("headtohead_cancelled_total", model="causal") and time.monotonic() < end:
            time.sleep(0.02)
        assert running.metric("headtohead_cancelled_total", model="causal") == 1
        gone = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0, timeout=0.2)
        with pytest.raises(openai.APITimeoutError):
            gone.completions.create(**asked)
        assert running.idle()
        assert running.metric("headtohead_completion_tokens_total", model="causal") < 2 * 8000


def test_many_at_once_share_the_steps(unharmed: Running) -> None:
    """Continuous batching: sixteen requests take far fewer steps than one after another would."""
    before = unharmed.metric("headtohead_step_seconds_count", model="causal")
    asked = {"model": "causal", "prompt": "of the", "max_tokens": 40, "temperature": 1.0}
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda seed: unharmed.post("/v1/completions", seed=seed, **asked), range(16)))
    assert [answer.status_code for answer in found] == [200] * 16
    written = sum(answer.json()["usage"]["completion_tokens"] for answer in found)
    assert unharmed.metric("headtohead_step_seconds_count", model="causal") - before < written / 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(unharmed: Running) -> None:
    def curl(path: str, *words: str, content: object = None) -> str:
        body = () if content is None else ("-H", "Content-Type: application/json", "-d", json.dumps(content))
        done = subprocess.run(
            ["curl", "-sS", "-N", unharmed.url + path, *words, *body],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    asked = {"model": "causal", "prompt": "of the", "max_tokens": 6, "temperature": 0}
    whole = json.loads(curl("/v1/completions", content=asked))
    lines = [line for line in curl("/v1/completions", content={**asked, "stream": True}).splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole["choices"][0]["text"]
    messages = [{"role": "user", "content": "of the"}]
    said = json.loads(
        curl("/v1/chat/completions", content={"model": "causal", "messages": messages, "max_tokens": 3})
    )
    assert said["object"] == "chat.completion" and said["usage"]["completion_tokens"] <= 3
    assert json.loads(curl("/health")) == {"status": "ok"}
    assert "# TYPE headtohead_requests_total counter" in curl("/metrics")
    assert "Content-Security-Policy" in curl("/", "-i").replace(
        "content-security-policy", "Content-Security-Policy"
    )


def test_first_tokens_come_while_others_are_written(unharmed: Running) -> None:
    """A request that comes later joins: it doesn't wait until those before it are whole."""
    asked = {"model": "causal", "prompt": "of", "max_tokens": 64, "temperature": 0}
    order: list[str] = []

    def long() -> None:
        unharmed.post("/v1/completions", **asked, n=6)
        order.append("long")

    thread = threading.Thread(target=long)
    thread.start()
    time.sleep(0.02)
    unharmed.post("/v1/completions", **{**asked, "max_tokens": 1})
    order.append("short")
    thread.join()
    assert order == ["short", "long"]
