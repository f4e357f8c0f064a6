"""Anyone's table of losses: a CSV file with a header, a row for each run. Bad input is told by its line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headtohead.errors import UserError
from headtohead.files import read_text
from headtohead.measure.scaling.solver import Array
from headtohead.validation import suggest

FLOPS_PER_PARAMETER_AND_TOKEN = 6.0
"""C = 6 N D: forward and backward of one token through N parameters (Kaplan et al. 2020, arXiv 2001.08361)."""


@dataclass(frozen=True)
class Table:
    """The cells of a CSV file as text. lines: the line of each row in the file, counted from 1."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read `path`.

        Raises:
            UserError: not readable, no header or no rows, a column named twice, a row of another length.
        """
        reader = csv.reader(io.StringIO(read_text(path, "the table")), strict=True)
        rows: list[tuple[str, ...]] = []
        lines: list[int] = []
        try:
            for row in reader:
                if any(cell.strip() for cell in row):
                    rows.append(tuple(cell.strip() for cell in row))
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
        if len(rows) < 2:
            raise UserError(f"{path} should hold a header such as N,D,loss and a row for each run")
        header = rows[0]
        for name in header:
            if header.count(name) > 1:
                raise UserError(f"{path}: two columns are named '{name}'")
        for row, line in zip(rows[1:], lines[1:], strict=True):
            if len(row) != len(header):
                raise UserError(f"{path}, line {line}: {len(row)} cells under a header of {len(header)}")
        return cls(path, header, tuple(rows[1:]), tuple(lines[1:]))

    def __len__(self) -> int:
        return len(self.rows)

    def text(self, column: str, option: str) -> list[str]:
        """The cells of a column; `option` is what names it on the command line.

        Raises:
            UserError: no such column.
        """
        if column not in self.columns:
            near = suggest(column, self.columns)
            raise UserError(f"{self.path} has no column '{column}' for {option}: {near}")
        place = self.columns.index(column)
        return [row[place] for row in self.rows]

    def positive(self, column: str, option: str) -> Array:
        """(n,) the numbers of a column, all above zero, for their logs are taken.

        Raises:
            UserError: no such column, or the line of the first cell that is no such number.
        """
        values: list[float] = []
        for cell, line in zip(self.text(column, option), self.lines, strict=True):
            try:
                value = float(cell)
            except ValueError:
                value = math.nan
            if not (math.isfinite(value) and value > 0):
                raise UserError(
                    f"{self.path}, line {line}: {column} = '{cell}': it should be a number above zero"
                )
            values.append(value)
        return np.array(values)

    def select(self, rows: Sequence[int]) -> Table:
        """The table of these rows only."""
        return Table(
            self.path, self.columns, tuple(self.rows[r] for r in rows), tuple(self.lines[r] for r in rows)
        )

    def by(self, column: str) -> dict[str, Table]:
        """A table for each value of a column, in the order of their first rows.

        Raises:
            UserError: no such column, or an empty cell in it.
        """
        groups: dict[str, list[int]] = {}
        for place, name in enumerate(self.text(column, "--by")):
            if not name:
                raise UserError(f"{self.path}, line {self.lines[place]}: {column} is empty")
            groups.setdefault(name, []).append(place)
        return {name: self.select(rows) for name, rows in groups.items()}

    def without_largest(self, column: str, count: int) -> tuple[Table, tuple[int, ...]]:
        """The table without the rows of the `count` largest values of a column, and the lines of those.

        Raises:
            UserError: nothing would be left, or a bad cell.
        """
        if count == 0:
            return self, ()
        if count >= len(self):
            raise UserError(f"{self.path}: {count} rows left out of {len(self)} leave nothing to fit")
        order = np.argsort(self.positive(column, "--y"), kind="stable")
        kept, gone = sorted(order[:-count]), sorted(order[-count:])
        return self.select([int(row) for row in kept]), tuple(self.lines[row] for row in gone)

    def compute(self, column: str) -> Array:
        """(n,) training FLOPs: the column, or 6 N D where the table has no such column but N and D.

        Raises:
            UserError: neither.
        """
        if column not in self.columns and {"N", "D"} <= set(self.columns):
            sizes, tokens = self.positive("N", "--x"), self.positive("D", "--x")
            return FLOPS_PER_PARAMETER_AND_TOKEN * sizes * tokens
        return self.positive(column, "--compute")
