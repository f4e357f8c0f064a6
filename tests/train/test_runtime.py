"""What the machine lacks is said in one line and done without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tests.train import small

from headtohead.train import runtime
from headtohead.train.runtime import Runtime, compiled_or_eager, configure

COMPILED = Runtime(threads=1, precision="fp32", compiled=True, torch=torch.__version__)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch):
    for name in ("CXX", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    yield
    torch.compiler.set_stance("default")


def test_bf16_without_the_hardware_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    found = configure(small.recipe(precision="bf16"), told.append)
    assert found.precision == "fp32"
    assert told == ["this CPU has no bf16 matrix products (AVX-512 BF16 or AMX): the run is in fp32"]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert configure(small.recipe(precision="bf16"), told.append).precision == "bf16"
    assert configure(small.recipe(precision="fp32"), told.append).precision == "fp32"
    assert len(told) == 1


@pytest.mark.parametrize(
    ("compilers", "chosen", "missing"),
    [
        ([], None, "there is no C++ compiler (g++ or clang++)"),
        (["clang++"], "clang++", None),
        (["clang++", "g++"], "g++", None),
    ],
)
def test_the_compiler_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, compilers: list[str], chosen: str | None, missing: str | None
) -> None:
    monkeypatch.setattr(runtime.shutil, "which", lambda name: name if name in compilers else None)
    monkeypatch.setattr(runtime.Path, "is_file", lambda self: True)
    assert runtime.missing_for_compile() == missing
    assert os.environ.get("CXX") == chosen


def test_without_a_compiler_the_run_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    assert not configure(small.recipe(compile=True), told.append).compiled
    assert told == ["there is no C++ compiler (g++ or clang++): the run is eager, not compiled"]
    monkeypatch.setenv("CXX", "icpx")
    assert runtime.missing_for_compile() == "CXX names icpx, which is not there"


def test_without_python_headers_the_run_is_eager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runtime.shutil, "which", lambda name: name)
    monkeypatch.setattr(runtime.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert runtime.missing_for_compile() == "there are no Python headers (Python.h) to compile against"


def test_a_failing_compilation_is_tried_again_apart_then_eager() -> None:
    told: list[str] = []
    failures = [RuntimeError("half-written library\nand a page of output")]

    def passes_after() -> None:
        if failures:
            raise failures.pop()

    assert compiled_or_eager(COMPILED, passes_after, told.append) == COMPILED
    assert told == [] and "headtohead-compile-" in os.environ["TORCHINDUCTOR_CACHE_DIR"]

    failures += [RuntimeError("no luck\nat all"), RuntimeError("half-written library")]
    assert not compiled_or_eager(COMPILED, passes_after, told.append).compiled
    assert told == ["compiling the network failed (no luck): the run is eager"]


def test_an_error_that_is_not_the_compiler_s_comes_through() -> None:
    def broken() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        compiled_or_eager(COMPILED, broken, lambda line: None)


def test_precision_changes_the_products_and_not_the_weights(tmp_path: Path) -> None:
    if not runtime.has_bf16():
        pytest.skip("this CPU has no bf16 matrix products")
    a, _ = small.run(tmp_path / "a", changes={"precision": "fp32", "steps": 5})
    b, trained = small.run(tmp_path / "b", changes={"precision": "bf16", "steps": 5})
    assert trained.runtime.precision == "bf16"
    assert {p.dtype for p in b.parameters()} == {torch.float32}
    difference = max(
        float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )
    assert 0 < difference < 0.05


def test_freed_memory_stays_in_the_process() -> None:
    if runtime.platform.libc_ver()[0] != "glibc":
        pytest.skip("glibc only")
    import resource

    assert runtime.tune_allocator()

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    for _ in range(3):
        torch.ones(16 << 20)
    before = faults()
    for _ in range(3):
        torch.ones(16 << 20)  # 64 MB, 16,384 pages each
    assert faults() - before < 2000
