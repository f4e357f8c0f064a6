"""What the machine lacks is said in one line and done without."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.train import small

from headtohead.train import runtime
from headtohead.train.compiling import compiled_or_eager
from headtohead.train.runtime import Runtime, configure

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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def where_compiled(folders: list[Path], failures: list[Exception]) -> Callable[[], None]:
    """A pass that notes torch's cache, leaves a library there, and fails while there are failures."""

    def one_pass() -> None:
        folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        folders.append(folder)
        assert [path.name for path in folder.glob("compiling-*")] == [f"compiling-{os.getpid()}"]
        (folder / "library.so").touch()
        if failures:
            raise failures.pop()

    return one_pass


def test_a_failing_compilation_is_tried_again_apart_then_eager(temporary: Path) -> None:
    told: list[str] = []
    folders: list[Path] = []
    failures: list[Exception] = [RuntimeError("half-written library\nand a page of output")]
    one_pass = where_compiled(folders, failures)
    found = compiled_or_eager(COMPILED, one_pass, told.append)
    assert found.compiled and found.simd and told == []
    assert len(set(folders)) == 2 and {folder.parent for folder in folders} == {temporary}

    failures += [RuntimeError("no luck\nat all"), RuntimeError("half-written library")]
    eager: list[None] = []
    assert not compiled_or_eager(
        COMPILED, lambda: one_pass() if failures else eager.append(None), told.append
    ).compiled
    assert told == ["compiling the network failed (no luck): the run is eager"] and len(eager) == 1
    assert not list(temporary.rglob("compiling-*"))


def test_what_the_dead_have_left_is_not_loaded(temporary: Path) -> None:
    folders: list[Path] = []
    one_pass = where_compiled(folders, [])
    compiled_or_eager(COMPILED, one_pass)
    compiled_or_eager(COMPILED, one_pass)
    shared = folders[0]
    assert folders == [shared, shared] and shared.stat().st_mode & 0o777 == 0o700
    (shared / "half.so").touch()
    (shared / "compiling-99999").touch()
    compiled_or_eager(COMPILED, one_pass)
    assert folders[2] == shared and not (shared / "half.so").exists()

    (shared / "half.so").touch()
    (shared / "compiling-99999").touch()
    with open(shared / "compiling-99998", "w") as at_work:
        fcntl.flock(at_work, fcntl.LOCK_EX)
        compiled_or_eager(COMPILED, one_pass)
    assert folders[3] != shared and (shared / "half.so").exists()


def test_what_others_could_have_compiled_is_not_loaded(temporary: Path) -> None:
    folders: list[Path] = []
    compiled_or_eager(COMPILED, where_compiled(folders, []))
    folders[0].chmod(0o777)
    compiled_or_eager(COMPILED, where_compiled(folders, []))
    assert folders[1] != folders[0]


def test_a_cache_the_user_named_is_used_and_never_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    folders: list[Path] = []
    for _ in range(2):
        compiled_or_eager(COMPILED, where_compiled(folders, []))
    assert folders == [tmp_path / "headtohead-compiled"] * 2


def test_an_error_that_is_not_the_compiler_s_comes_through(temporary: Path) -> None:
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


FAULTS = """
import resource, statistics
import torch
from headtohead.train import runtime
assert runtime.tune_allocator()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MB, 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(statistics.median(faults() for _ in range(15)))
"""


def test_freed_memory_stays_in_the_process() -> None:
    """In a process of its own, as a run is. Of 15 calls the one in the middle: now and then a small block comes to
    lie in the memory that was freed, and the next large one goes beside it.
    """
    if runtime.platform.libc_ver()[0] != "glibc":
        pytest.skip("glibc only")
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100
