"""When things go wrong: an error of OpenAI's shape with the right status, nothing about the inside, nobody harmed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from headtohead import cli
from headtohead.errors import UserError
from headtohead.serve.metrics import Metrics
from headtohead.serve.networks import names_of
from headtohead.serve.settings import Settings

from .serving import Running, serving

JSON = {"Content-Type": "application/json"}
GOOD: dict[str, Any] = {"model": "causal", "prompt": "a", "max_tokens": 2}
CHAT: dict[str, Any] = {"model": "causal", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
INSIDE = ("Traceback", "/work", "site-packages", ".py", "pydantic", "object at 0x", "Errno", "starlette")


def check(answer: httpx.Response, status: int, says: str = "") -> None:
    """The shape of every error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert set(found) == {"error"} and set(found["error"]) == {"message", "type", "param", "code"}
    assert found["error"]["type"].endswith("_error") and "\n" not in found["error"]["message"]
    assert says in answer.text, answer.text
    for word in INSIDE:
        assert word not in answer.text, answer.text


BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the body is missing"),
    "no JSON": (b"{'model': 1}", "not valid JSON"),
    "cut": (b'{"model": "causal", "prompt": "a', "not valid JSON"),
    "a list": (b"[1, 2]", ""),
    "null": (b"null", ""),
    "invalid UTF-8": (b'{"model": "causal", "prompt": "\xff\xfe"}', ""),
    "half a surrogate": (b'{"model": "causal", "prompt": "\\ud800"}', "prompt"),
    "deep": (b'{"model": ' + b"[" * 20000 + b"]" * 20000 + b"}", ""),
    "a long number": (b'{"model": "causal", "prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}", ""),
    "infinite": (b'{"model": "causal", "prompt": "a", "temperature": Infinity}', "temperature"),
    "no number": (b'{"model": "causal", "prompt": "a", "temperature": NaN}', "temperature"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_requests(name: str, unharmed: Running) -> None:
    body, says = BODIES[name]
    check(httpx.post(unharmed.url + "/v1/completions", content=body, headers=JSON, timeout=60), 400, says)


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "gpt-4"}, 404, "there is no model 'gpt-4' here: GET /v1/models lists causal, pair, filler"),
        ({"model": "x" * 400}, 404, "there is no model"),
        ({"model": 5}, 400, "model: should be a valid string"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": "5"}, 400, "max_tokens: should be a valid integer"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"max_tokens": 1.5}, 400, "max_tokens"),
        ({"max_tokens": 65}, 400, "max_tokens: 65 tokens are more than the 64 that may be asked for here"),
        ({"max_tokens": 10**30}, 400, "max_tokens"),
        ({"prompt": "a" * 200}, 400, "context_length_exceeded"),
        ({"prompt": "a" * 70, "max_tokens": 64}, 400, "are more than this model's context of 128"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [1, "a"]}, 400, "prompt"),
        ({"prompt": [10**6]}, 400, "prompt: the id 1000000 is outside the vocabulary"),
        ({"prompt": [-1]}, 400, "prompt"),
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": ["a"] * 65}, 400, "prompt"),
        ({"n": 9}, 400, "n: 9 choices, and 8 may be asked for here"),
        ({"n": 0}, 400, "n"),
        ({"n": 10**9}, 400, "n"),
        ({"temperature": -0.1}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop"),
        ({"stop": [""]}, 400, "stop"),
        ({"logprobs": 1000}, 400, "logprobs"),
        ({"seed": "5"}, 400, "seed"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias: is not known here"),
        ({"presence_penalty": 1}, 400, "presence_penalty"),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_cannot_be(change: dict[str, Any], status: int, says: str, unharmed: Running) -> None:
    check(unharmed.post("/v1/completions", **{**GOOD, **change}), status, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: is missing"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content"),
        ({"messages": "a"}, "messages"),
        ({"tools": []}, "tools: is not known here"),
        ({"max_completion_tokens": 9999}, "max_completion_tokens: 9999 tokens are more"),
        ({"max_completion_tokens": 2, "max_tokens": 9999}, "max_tokens: 9999 tokens are more"),
    ],
    ids=str,
)  # fmt: skip
def test_chats_that_cannot_be(change: dict[str, Any], says: str, unharmed: Running) -> None:
    check(unharmed.post("/v1/chat/completions", **{**CHAT, **change}), 400, says)


PATHS = ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page.html", "/..%5c..%5cetc", "/%00",
         "/\x00", "/static/../page.html", "/index.html", "/v1", "/v1/", "/v1/models/../../etc/passwd", "/v1/models/",
         "/.git/config")  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_path_tricks(path: str, unharmed: Running) -> None:
    host, port = unharmed.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        wire.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = _read(wire)
    status = int(answer.split()[1])
    assert status in (400, 404), answer[:200]
    assert b"root:" not in answer and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_methods(unharmed: Running) -> None:
    for method, path in (
        ("GET", "/v1/completions"),
        ("DELETE", "/v1/models"),
        ("PUT", "/"),
        ("TRACE", "/health"),
    ):
        answer = httpx.request(method, unharmed.url + path, timeout=20)
        check(answer, 405)
        assert answer.headers["allow"]


def _read(wire: socket.socket) -> bytes:
    found = b""
    while chunk := wire.recv(65536):
        found += chunk
    return found


def _wire(running: Running) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_bodies_that_are_too_large(unharmed: Running) -> None:
    """Told at once by the length that is announced, and where none is, as soon as too much has come."""
    with _wire(unharmed) as wire:
        wire.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n" + b"x" * 1000
        )
        assert wire.recv(65536).split()[1] == b"413"
    sent = 0

    def chunks() -> Any:
        nonlocal sent
        for _ in range(1600):
            sent += 1 << 16
            yield b"a" * (1 << 16)

    try:
        check(httpx.post(unharmed.url + "/v1/completions", content=chunks(), headers=JSON, timeout=60), 413)
    except httpx.TransportError:  # the connection was closed under what was still being sent
        assert sent < 100 << 20
    assert sent < 100 << 20


def test_floods_of_headers(unharmed: Running) -> None:
    for flood in (
        b"X-A: " + b"a" * 100_000,
        b"\r\n".join(b"X-%d: a" % i for i in range(20_000)),
        b"no colon",
    ):
        with _wire(unharmed) as wire:
            try:
                wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + flood + b"\r\n\r\n")
                answer = _read(wire)
            except (ConnectionResetError, BrokenPipeError):
                continue
        assert answer.split()[1] in (b"400", b"431") and b'"error"' in answer


def test_slow_clients_are_given_up(networks: Path) -> None:
    with serving(networks, "causal", header_seconds=0.3, body_seconds=0.3, send_seconds=0.3) as running:
        with _wire(running) as wire:  # headers that never end
            wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ")
            assert _until_closed(wire)
        with _wire(running) as wire:  # a second request's headers on a connection that is kept
            wire.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wire.recv(65536).split()[1] == b"200"
            wire.sendall(b"GET /hea")
            assert _until_closed(wire)
        with _wire(running) as wire:  # a body that never ends
            wire.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            answer = _read(wire)
            assert answer.split()[1] == b"408" and b'"code": "timeout"' in answer
        assert running.idle()


def _until_closed(wire: socket.socket) -> bool:
    try:
        return _read(wire) is not None
    except ConnectionResetError:
        return True


def test_what_takes_too_long_ends(networks: Path) -> None:
    with serving(networks, "causal", request_seconds=0.05, context=8192, max_tokens=8000) as running:
        body = {**GOOD, "max_tokens": 8000, "temperature": 0, "n": 8}
        check(running.post("/v1/completions", **body), 504, "took longer than 0.05 s")
        lines = running.post("/v1/completions", **body, stream=True).text.strip().split("\n\n")
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        assert running.idle()


def test_a_full_queue_says_come_again(networks: Path) -> None:
    with serving(networks, "causal", slots=1, queue=2) as running:
        found: list[httpx.Response] = []

        def ask() -> None:
            body = {**GOOD, "max_tokens": 64, "temperature": 0}
            found.append(running.post("/v1/completions", **body))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = sorted(answer.status_code for answer in found)
        assert statuses[0] == 200 and statuses[-1] == 429 and set(statuses) == {200, 429}
        for answer in found:
            if answer.status_code == 429:
                check(answer, 429, "come again in a moment")
                assert answer.headers["retry-after"] == "1"
        assert running.idle()
        assert running.post("/v1/completions", **GOOD).status_code == 200


def test_a_step_that_fails_harms_only_what_was_being_written(
    networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(networks, "causal", "pair") as running:
        engine = running.models["causal"].engine
        assert engine is not None

        def broken(*_: object) -> None:
            raise RuntimeError("the secret of inside.py")

        with monkeypatch.context() as patch:
            patch.setattr(engine.runner, "step", broken)
            check(
                running.post("/v1/completions", **GOOD), 500, "the server failed to answer; its log says why"
            )
            assert running.post("/v1/completions", **{**GOOD, "model": "pair"}).status_code == 200
            streamed = running.post("/v1/completions", **GOOD, stream=True).text
            assert '"server_error"' in streamed and "secret" not in streamed
        assert running.post("/v1/completions", **GOOD).status_code == 200
        assert running.idle()


def test_keys(networks: Path) -> None:
    with serving(networks, "causal", keys=("first-key", "second")) as running:
        for given in (
            None,
            "Bearer",
            "Bearer wrong",
            "Basic first-key",
            "bearer first-key2",
            "Bearer caf\xe9",
        ):
            headers = [] if given is None else [(b"Authorization", given.encode("latin-1"))]
            answer = httpx.get(running.url + "/v1/models", headers=headers, timeout=20)
            check(answer, 401, "Authorization: Bearer KEY")
            assert answer.headers["www-authenticate"] == "Bearer"
        for key in ("first-key", "second"):
            headers = {"Authorization": f"Bearer {key}"}
            assert httpx.get(running.url + "/v1/models", headers=headers, timeout=20).status_code == 200
        assert httpx.get(running.url + "/metrics", timeout=20).status_code == 401
        assert httpx.get(running.url + "/openapi.json", timeout=20).status_code == 401
        for path in ("/", "/health"):
            assert httpx.get(running.url + path, timeout=20).status_code == 200


def test_the_page_loads_nothing_from_outside(unharmed: Running) -> None:
    answer = httpx.get(unharmed.url + "/", timeout=20)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "'sha256-" in policy
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", answer.text)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_metrics_are_prometheus_text() -> None:
    metrics = Metrics()
    metrics.request("/v1/models", 200, 0.2)
    metrics.step('a "name"\n', 0.01, 5)
    metrics.load("a", 2, 1)
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }
    route = ("route", "/v1/models")
    assert found["headtohead_requests_total", route, ("status", "200")] == 1
    assert found["headtohead_request_seconds_bucket", ("le", "0.25"), route] == 1
    assert found["headtohead_request_seconds_bucket", ("le", "0.1"), route] == 0
    assert found["headtohead_completion_tokens_total", ("model", 'a "name"\n')] == 5
    assert found["headtohead_requests_running", ("model", "a")] == 2


def test_limits_are_checked() -> None:
    for wrong, says in (
        (Settings(port=70000), "--port 70000"),
        (Settings(max_tokens=64, context=64), "leaves no room for a prompt"),
        (Settings(keys=("a b",)), "a key is printable ASCII"),
        (Settings(keys=("",)), "a key is printable ASCII"),
    ):
        with pytest.raises(UserError, match=re.escape(says)):
            wrong.checked()
    assert Settings(host="0.0.0.0").is_open and not Settings(host="0.0.0.0", keys=("k",)).is_open
    assert [name for name, _ in names_of(["a/b", "c=d/e"])] == ["b", "c"]
    with pytest.raises(UserError, match="two models are called 'b': name them, as in first=c/b"):
        names_of(["a/b", "c/b"])


def test_what_cannot_be_served_is_told_in_a_line(networks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, says in (
            (["nowhere"], "nowhere is not there"),
            ([str(networks / "causal"), "--port", str(port)], f"cannot listen at 127.0.0.1 port {port}"),
            (
                [str(networks / "causal"), "--host", "no.such.host.invalid"],
                "cannot listen at no.such.host.invalid",
            ),
            (
                [str(networks / "causal"), "--precision", "int3"],
                "--precision int3: it should be bf16 or fp32",
            ),
            ([str(networks / "causal"), "--max-tokens", "5000"], "leaves no room for a prompt"),
        ):
            assert cli.run(["serve", *words, *([] if "--port" in words else ["--port", "0"])]) == 2
            told = capfd.readouterr().err
            assert says in told and told.count("\n") == 1, told


def test_ctrl_c_drains_and_stops_within_five_seconds(networks: Path) -> None:
    """The command, in a process of its own: a stream that is under way is told, and the exit code is 0."""
    took: list[float] = []
    while not took or (min(took) >= 5 and len(took) < 3):  # a busy machine is not the program's doing
        took.append(_stopped(networks))
    assert min(took) < 5, took


def _stopped(networks: Path) -> float:
    process = subprocess.Popen(
        [sys.executable, "-m", "headtohead", "serve", f"small={networks / 'causal'}", "--port", "0",
         "--context", "6000", "--max-tokens", "5900", "--slots", "2", "--threads", "1"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = ""
        while "http://" not in line:
            line = process.stderr.readline()
            assert line, "it ended"
        url = line.split()[0]
        body = {"model": "small", "prompt": "a", "max_tokens": 5900, "temperature": 0, "stream": True}
        with httpx.stream("POST", url + "/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            last = [line for line in lines if line][-1]
        assert process.wait(60) == 0
        took = time.monotonic() - began
        told = last == "data: [DONE]" or json.loads(last.removeprefix("data: "))["error"]["message"]
        assert told is True or told == "the server is stopping"
        assert "stopping" in process.stderr.read()
        return took
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_schemathesis_finds_nothing(networks: Path, tmp_path: Path) -> None:
    """Nothing that the schema allows is refused (the context holds the longest chat of empty messages), and nothing
    that it doesn't is taken.
    """
    pytest.importorskip("schemathesis")
    with serving(networks, "causal", "pair", "filler", context=1024) as running:
        done = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), "run", running.url + "/openapi.json", "--checks", "all",
             "--max-examples", "60", "--seed", "1", "--no-color"],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert running.idle()
