"""One server for most tests of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from .serving import Running, serving, write_networks


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folders."""
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="session")
def server(networks: Path) -> Iterator[Running]:
    """Three networks, no key."""
    with serving(networks, "causal", "pair", "filler") as running:
        yield running


@pytest.fixture
def unharmed(server: Running) -> Iterator[Running]:
    """The server, which after the test has nothing left over and still answers."""
    yield server
    assert server.idle()
    assert server.post("/v1/completions", model="causal", prompt="a", max_tokens=2).status_code == 200
