"""The scoreboard: one row per compressed network, in the same columns in every lab; and its front.

Chapter: 01_cost.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from helpers.files import write_whole

RESULTS = "COURSE_RESULTS"
HEADINGS = {
    "method": "method",
    "network": "network",
    "accuracy": "test accuracy (%)",
    "parameters": "parameters",
    "macs": "MACs per image",
    "bits": "bits per weight",
    "bytes": "bytes of weights",
}
Row = TypeVar("Row", bound=Mapping[str, Any])


class Scoreboard:
    """Rows and measured numbers of one lab.

    `lab` is the lab's file name without its ending, such as `"01_cost"`. When the environment
    variable `COURSE_RESULTS` names a folder, every addition is also written to
    `$COURSE_RESULTS/<lab>.json` (the book takes its numbers from there); otherwise nothing is
    written. The file appears in one step, so a reader never sees half of it.

    >>> board = Scoreboard("01_cost")
    >>> board.add("float32", "LeNet5", accuracy=0.9, parameters=431080, macs=2293000, bits=32, bytes=1724320)

    Chapter: 01_cost.
    """

    def __init__(self, lab: str) -> None:
        if not re.fullmatch(r"\d\d[a-z]?_[a-z0-9_]+", str(lab)):
            raise ValueError(f"lab must look like '01_cost', got {lab!r}")
        self.lab = lab
        self.rows: list[dict[str, Any]] = []
        self.numbers: dict[str, str] = {}

    def add(
        self,
        method: str,
        network: str,
        *,
        accuracy: float,
        parameters: int,
        macs: int,
        bits: float,
        bytes: int,
    ) -> None:
        """Add one row, or replace the row of the same method and network (a cell run twice).

        `accuracy` is a fraction in [0, 1] of all test images, `macs` counts one image, `bits` is the
        mean number of bits per weight (0 to 64), `bytes` what the weights occupy.
        Raises ValueError that names the field; a refused row changes nothing.
        """
        row = {
            "method": _name("method", method),
            "network": _name("network", network),
            "accuracy": _number("accuracy", accuracy, 0, 1),
            "parameters": _count("parameters", parameters),
            "macs": _count("macs", macs),
            "bits": _number("bits", bits, 0, 64),
            "bytes": _count("bytes", bytes),
        }
        same = [(old["method"], old["network"]) == (method, network) for old in self.rows]
        if any(same):
            self.rows[same.index(True)] = row
        else:
            self.rows.append(row)
        self._write()

    def measured(self, key: str, value: float | int | str, text: str | None = None) -> str:
        """Record a number for the chapter under `key` and return the text the page will show.

        `key` is an identifier. Without `text`, whole numbers are written with thousands separators
        and other numbers with four significant digits. Raises ValueError for NaN or infinity.
        """
        if not key.isidentifier():
            raise ValueError(f"key must be an identifier such as 'student_macs', got {key!r}")
        if not isinstance(value, (Real, str)):
            raise ValueError(f"measured value {key!r} must be a number or a text, got {value!r}")
        if isinstance(value, Real) and not math.isfinite(value):
            raise ValueError(f"measured value {key!r} must be finite, got {value!r}")
        if text is None:
            text = value if isinstance(value, str) else _format(value)
        if not text.strip():
            raise ValueError(f"measured value {key!r} must have a text, got {text!r}")
        self.numbers[key] = text
        self._write()
        return text

    def table(self) -> pd.DataFrame:
        """The rows as a table, units in the headings, accuracy in per cent with two decimals."""
        table = pd.DataFrame(self.rows, columns=list(HEADINGS))
        table["accuracy"] = (100 * table["accuracy"].astype(float)).round(2)
        return table.rename(columns=HEADINGS)

    def _write(self) -> None:
        folder = os.environ.get(RESULTS)
        if not folder:
            return
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        content = {"lab": self.lab, "rows": self.rows, "measured": self.numbers}
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        write_whole(path, {f"{self.lab}.json": text.encode()})


def pareto_front(rows: Iterable[Row], cost: str, score: str = "accuracy") -> list[Row]:
    """The rows that no other row beats, cheapest first (the very rows, not copies).

    A row is beaten by one that costs no more and scores no less, and is better in one of the two.
    Along the front cost and score both rise strictly: of rows that agree in both, the first stays.

    >>> rows = [{"bytes": 9, "accuracy": 0.9}, {"bytes": 4, "accuracy": 0.8}, {"bytes": 5, "accuracy": 0.7}]
    >>> [row["bytes"] for row in pareto_front(rows, "bytes")]
    [4, 9]

    Raises ValueError, naming the column, for a row that lacks a number there.

    Chapter: 13_scoreboard.
    """
    found = list(rows)
    for column in (cost, score):
        for row in found:
            _number(column, row.get(column), -math.inf, math.inf)
    front: list[Row] = []
    for row in sorted(found, key=lambda row: (row[cost], -row[score])):
        if not front or row[score] > front[-1][score]:
            front.append(row)
    return front


def _name(field: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field} must be a name, got {value!r}")
    return value


def _number(field: str, value: object, low: float, high: float) -> float:
    # NaN fails the comparison, so it is refused with the rest.
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        raise ValueError(f"{field} must be a number from {low} to {high}, got {value!r}")
    return float(value)


def _count(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ValueError(f"{field} must be a whole number, 0 or more, got {value!r}")
    return int(value)


def _format(value: Real) -> str:
    return f"{int(value):,}" if isinstance(value, Integral) else f"{float(value):,.4g}"
