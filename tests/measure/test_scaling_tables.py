"""Anyone's table, fitted from the command line: what is read, what is told, what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.measure.scaling_tables import CHINCHILLA, chinchilla_table, ladder, losses, write

from headtohead import cli
from headtohead.measure.scaling.fitting import Asked, fit_points
from headtohead.measure.scaling.fitting import Points as Runs
from headtohead.measure.scaling.laws import Counting
from headtohead.measure.scaling.solver import log_law

FEW = ["--bootstrap", "100"]


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """What ``headtohead fit … --json`` prints."""
    assert cli.run(["fit", *map(str, words), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def two_arms(path: Path) -> Path:
    """A file of two arms whose exponents of N differ by 0.1, those of D by nothing."""
    x = ladder(6, 6)
    other = np.add(CHINCHILLA, [0, 1.7, 0.1, 0, 0])
    y = np.concatenate([losses(CHINCHILLA, x, 0.002, 0), losses(other, x, 0.002, 1)])
    names = ["decoder"] * 36 + ["two stacks"] * 36
    return write(
        path, {"arm": names, "N": np.tile(np.exp(x[0]), 2), "D": np.tile(np.exp(x[1]), 2), "loss": np.exp(y)}
    )


def test_json_has_the_documented_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = chinchilla_table(tmp_path / "t.csv")
    found = told(capsys, path, *FEW)
    names = ["E", "A", "B", "alpha", "beta"]
    assert list(found["parameters"]) == list(found["intervals"]) == names
    for name, true in zip(names, [1.8, 400, 2000, 0.34, 0.37], strict=True):
        low, high = found["intervals"][name]
        assert low < found["parameters"][name] < high
        assert low < true < high  # of these 5, from this seed
    assert found["seconds"] > 0 and found["objective"] > 0 and found["notes"] == []
    assert told(capsys, path, *FEW)["intervals"] == found["intervals"]  # the seed is part of the question
    assert told(capsys, path, *FEW, "--seed", 1)["intervals"] != found["intervals"]
    bare = told(capsys, path, "--bootstrap", 0)
    assert bare["intervals"] == {} and bare["parameters"] == found["parameters"]


def test_it_works_without_torch(tmp_path: Path) -> None:
    path = chinchilla_table(tmp_path / "t.csv")
    program = (
        "import sys; sys.modules['torch'] = None; from headtohead.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", program, "fit", str(path), *FEW]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert "L(N, D) = E + A N^-alpha + B D^-beta" in answer.stdout


def test_arms_are_compared_by_the_interval_of_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two_arms(tmp_path / "t.csv")
    found = told(capsys, path, "--by", "arm", *FEW)
    assert list(found["arms"]) == ["decoder", "two stacks"]
    (one,) = found["differences"]
    assert (one["from"], one["to"]) == ("decoder", "two stacks")
    for name in ("alpha", "beta", "E"):
        ends = [found["arms"][arm]["parameters"][name] for arm in (one["to"], one["from"])]
        assert one["parameters"][name] == pytest.approx(ends[0] - ends[1])
    assert one["intervals"]["alpha"][0] > 0
    assert one["intervals"]["beta"][0] < 0 < one["intervals"]["beta"][1]
    assert cli.run(["fit", str(path), "--by", "arm", *FEW]) == 0
    assert "two stacks - decoder" in capsys.readouterr().out


def test_the_largest_losses_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = chinchilla_table(tmp_path / "t.csv")
    lines = path.read_text("utf-8").splitlines()
    spoiled = [*lines, "1e8,1e10,9.5", "2e8,2e10,9.25"]
    (tmp_path / "spoiled.csv").write_text("\n".join(spoiled), "utf-8")
    found = told(capsys, tmp_path / "spoiled.csv", "--bootstrap", 0, "--drop-largest-losses", 2)
    assert found["left_out_lines"] == [len(spoiled) - 1, len(spoiled)]
    assert found["parameters"] == told(capsys, path, "--bootstrap", 0)["parameters"]


def test_tokens_are_worked_out_from_compute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = ladder(6, 6)
    size, tokens, loss = np.exp(np.array([*x, losses(CHINCHILLA, x, 0.002)]))
    whole = write(tmp_path / "whole.csv", {"N": size, "D": tokens, "loss": loss})
    flops = write(tmp_path / "flops.csv", {"N": size, "C": 6 * size * tokens, "loss": loss})
    named = write(tmp_path / "named.csv", {"weights": size, "flops": 6 * size * tokens, "nats": loss})
    wanted = told(capsys, whole, "--bootstrap", 0)["parameters"]
    found = told(capsys, flops, "--bootstrap", 0)
    assert found["parameters"] == pytest.approx(wanted, rel=1e-5)
    assert found["notes"] == ["D is C / (6 N)"]
    words = ("--x", "weights", "--compute", "flops", "--y", "nats", "--bootstrap", 0)
    assert told(capsys, named, *words)["parameters"] == pytest.approx(wanted, rel=1e-5)
    of_compute = told(capsys, whole, "--law", "power", "--x", "C", "--bootstrap", 0)
    same = told(capsys, flops, "--law", "power", "--x", "C", "--bootstrap", 0)
    assert of_compute["parameters"] == pytest.approx(same["parameters"], rel=1e-6)


def test_exponents_are_told_for_each_way_of_counting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = ladder(6, 6)
    size, tokens = np.exp(x)
    loss = np.exp(losses(CHINCHILLA, x, 0.001))
    columns = {"N": size, "N_total": size + 2e7, "D": tokens, "C": size**1.1 * tokens, "loss": loss}
    found = told(capsys, write(tmp_path / "t.csv", columns), "--also", "N_total", *FEW)
    assert list(found["frontier"]) == ["C = 6ND", "C"]
    assert list(found["countings"]) == ["N", "N_total"]
    ours, theirs = (found["countings"][name]["exponents"] for name in ("N", "N_total"))
    assert theirs["alpha"] > ours["alpha"] + 0.02  # embeddings make small networks larger, so the law steeper
    a, b = found["parameters"]["alpha"], found["parameters"]["beta"]
    assert ours["N_opt in C = 6ND"] == pytest.approx(b / (a + b))
    assert ours["N_opt in C"] == pytest.approx(b / (a + 1.1 * b))
    assert set(found["countings"]["N_total"]["intervals"]) == set(theirs)


def test_the_largest_size_is_held_out_and_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = chinchilla_table(tmp_path / "t.csv", noise=0.002)
    held = told(capsys, path, *FEW)["held_out"]
    rows = np.genfromtxt(path, delimiter=",", names=True)
    x, y = np.log(np.stack([rows["N"], rows["D"]])), np.log(rows["loss"])
    last = x[0] > x[0].max() - 1e-6
    asked = Asked("chinchilla", ("N", "D"), resamples=0)
    alone = fit_points(Runs(x[:, ~last], y[~last]), asked, [], np.random.default_rng(0))[0]
    error = log_law(alone.parameters[0], x[:, last]) - y[last]
    assert held["points"] == last.sum() == 8
    assert held["mean_log_error"] == pytest.approx(error.mean())
    assert held["observed"] == pytest.approx(np.exp(y[last].mean()))
    assert held["predicted"] == pytest.approx(held["observed"] * np.exp(error.mean()))
    assert held["interval"][0] < held["predicted"] < held["interval"][1]


def test_isoflop_finds_the_frontier_of_a_known_law(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute = np.repeat(np.geomspace(1e18, 1e21, 5), 7)
    best = Counting("C = 6ND").optimum(CHINCHILLA, compute)
    size = best[0] + np.tile(np.linspace(-0.6, 0.6, 7), 5)
    x = np.stack([size, np.log(compute / 6) - size])
    columns = {"N": np.exp(size), "C": compute, "loss": np.exp(losses(CHINCHILLA, x, 0.0002))}
    short = {name: np.append(values, [values[0]] * 2) for name, values in columns.items()}
    short["C"][-2:] = 1e23  # a budget of two runs
    found = told(capsys, write(tmp_path / "t.csv", short), "--law", "isoflop", *FEW)
    low, high = found["intervals"]["N_exponent"]
    assert low < 0.37 / 0.71 < high and high - low < 0.1
    assert [b["used"] for b in found["budgets"]] == [True] * 5
    for budget, true in zip(found["budgets"], best[0][::7], strict=True):
        assert np.log(budget["N"]) == pytest.approx(true, abs=0.1)
    assert found["notes"] == ["1 budgets (2 runs) have fewer than 4 runs or 3 sizes and are left out"]
    assert found["held_out"]["interval"][0] < found["held_out"]["observed"] < found["held_out"]["interval"][1]
    one_side = {name: values[np.tile(np.arange(7) > 3, 5)] for name, values in columns.items()}
    assert cli.run(["fit", str(write(tmp_path / "side.csv", one_side)), "--law", "isoflop"]) == 2


BAD = "N,D,loss\n1e7,1e9,3.1\n2e7,1e9,{cell}\n"


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, [], r"cannot read the table \S*t.csv: no such file"),
        ("", [], "should hold a header such as N,D,loss and a row for each run"),
        ("N,D,loss\n", [], "should hold a header"),
        ("N,N,loss\n1,1,1\n", [], "two columns are named 'N'"),
        ("N,D,loss\n1,1\n", [], "line 2: 2 cells under a header of 3"),
        ('N,D,loss\n"1,1,1\n', [], "not CSV"),
        (BAD.format(cell="x"), [], "line 3: loss = 'x': it should be a number above zero"),
        (BAD.format(cell="-1"), [], "line 3: loss = '-1'"),
        (BAD.format(cell="nan"), [], "line 3: loss = 'nan'"),
        (BAD.format(cell=""), [], "line 3: loss = ''"),
        (BAD.format(cell="2.9"), [], "2 points are too few for 5 parameters: give 7"),
        (BAD.format(cell="2.9"), ["--y", "los"], "no column 'los' for --y: did you mean 'loss'"),
        (BAD.format(cell="2.9"), ["--x", "N,tokens"], "no column 'tokens' for --x: it can be D, N, loss"),
        (BAD.format(cell="2.9"), ["--x", "N,D,C"], "--law chinchilla takes 2 of --x, such as --x N,D"),
        (BAD.format(cell="2.9"), ["--x", "N,loss"], "should be different columns"),
        (BAD.format(cell="2.9"), ["--by", "arm"], "no column 'arm' for --by"),
        (BAD.format(cell="2.9"), ["--by", "D"], "D is '1e9' in all rows"),
        (BAD.format(cell="2.9"), ["--bootstrap", "20"], "--bootstrap 20 is too few"),
        (BAD.format(cell="2.9"), ["--drop-largest-losses", "2"], "2 rows left out of 2 leave nothing"),
        (BAD.format(cell="2.9"), ["--law", "isoflop", "--compute", "C", "--compute", "F"], "takes one --compute"),
        (BAD.format(cell="2.9"), ["--law", "isoflop", "--method", "projection"], "--method is for chinchilla"),
        (BAD.format(cell="2.9"), ["--law", "isoflop"], "0 budgets have a lowest loss"),
        ("N,D,loss\n" + "".join(f"{n}e7,{n}e9,{9 - n}\n" for n in range(1, 9)), [], "N and D grow together"),
        ("N,D,loss\n" + "".join(f"{1 + n % 2}e7,{n}e9,{9 - n}\n" for n in range(1, 9)), [], "N has 2 different"),
    ],
)  # fmt: skip
def test_a_bad_table_is_told_in_one_line(
    content: str | None, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_text(content, "utf-8")
    assert cli.run(["fit", str(path), *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err), err
