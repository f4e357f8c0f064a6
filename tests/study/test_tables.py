"""``headtohead budget``: the JSON's shape, the table, and how numbers are written."""

from __future__ import annotations

import json

import pytest

from headtohead.errors import UserError
from headtohead.model.budget import cache_bytes, flops, parameter_groups, parameters
from headtohead.model.conventions import named_conventions
from headtohead.model.presets import architecture
from headtohead.study.tables import binary, decimal, print_budget, ratio


def test_json_has_the_promised_shape_and_the_budget_s_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_budget(["decllm-nano", "redllm-nano"], 100, 50, "fp32", True)
    entries = json.loads(capsys.readouterr().out)
    for name, entry in zip(["decllm-nano", "redllm-nano"], entries, strict=True):
        a = architecture(name)
        work = flops(a, 100, 50)
        assert entry == {
            "name": name,
            "parameters": parameters(a),
            "flops": dict(work),
            "cache_bytes": cache_bytes(a, 100, 50, "fp32"),
            "groups": parameter_groups(a),
            "conventions": named_conventions(a, 100, 50),
        }
        assert list(entry) == ["name", "parameters", "flops", "cache_bytes", "groups", "conventions"]
        assert list(entry["parameters"]) == ["total", "embedding", "non_embedding"]


def test_the_published_pair_is_shown_to_be_12_percent_apart(capsys: pytest.CaptureFixture[str]) -> None:
    print_budget(["decllm-150m", "redllm-150m"], 1024, 1024, "bf16", False)
    text = capsys.readouterr().out
    assert f"{parameters(architecture('decllm-150m'))['total']:,}" in text
    assert "× 0.88" in text
    assert "8 layers" in text
    assert "3+3 layers" in text


def test_one_network_has_no_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    print_budget(["decllm-nano"], 1024, 1024, "bf16", False)
    assert "ratio" not in capsys.readouterr().out


def test_nothing_is_printed_before_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="decllm-nno"):
        print_budget(["decllm-nano", "decllm-nno"], 1024, 1024, "bf16", False)
    with pytest.raises(UserError, match="int3"):
        print_budget(["decllm-nano"], 1024, 1024, "int3", True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1234567, "1.23 M"),
        (99_960_000, "100 M"),
        (2.06e12, "2.06 T"),
    ],
)
def test_decimal(number: float, written: str) -> None:
    assert decimal(number) == written


@pytest.mark.parametrize(
    ("number", "written"), [(0, "0 B"), (1023, "1,023 B"), (2**20, "1.00 MiB"), (36 * 2**20, "36.0 MiB")]
)
def test_binary(number: float, written: str) -> None:
    assert binary(number) == written


def test_ratio() -> None:
    assert ratio(88, 100) == "× 0.88"
    assert ratio(1, 0) == "-"
