"""The scoreboard refuses bad rows by name and its file is always whole."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.report import Scoreboard, pareto_front

ROW: dict[str, Any] = dict(accuracy=0.9, parameters=10, macs=20, bits=32, bytes=40)


def test_rows_stand_in_the_table_with_units() -> None:
    board = Scoreboard("01_cost")
    board.add("float32", "LeNet5", **ROW)
    table = board.table()
    assert list(table.columns) == [
        "method",
        "network",
        "test accuracy (%)",
        "parameters",
        "MACs per image",
        "bits per weight",
        "bytes of weights",
    ]
    assert table.iloc[0].tolist() == ["float32", "LeNet5", 90.0, 10, 20, 32.0, 40]


def test_empty_board_has_an_empty_table() -> None:
    assert Scoreboard("01_cost").table().shape == (0, 7)


def test_same_method_and_network_replaces_the_row() -> None:
    board = Scoreboard("01_cost")
    board.add("float32", "LeNet5", **ROW)
    board.add("float32", "LeNet300100", **ROW)
    board.add("float32", "LeNet5", **{**ROW, "accuracy": 0.5})
    assert [(r["network"], r["accuracy"]) for r in board.rows] == [
        ("LeNet5", 0.5),
        ("LeNet300100", 0.9),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accuracy", 1.01),
        ("accuracy", -0.01),
        ("accuracy", math.nan),
        ("accuracy", "0.9"),
        ("accuracy", True),
        ("parameters", -1),
        ("parameters", 1.5),
        ("macs", -3),
        ("macs", math.inf),
        ("bits", math.nan),
        ("bits", 65),
        ("bytes", -1),
        ("bytes", None),
    ],
)
def test_bad_field_is_named_and_changes_nothing(field: str, value: object) -> None:
    board = Scoreboard("01_cost")
    with pytest.raises(ValueError, match=field):
        board.add("float32", "LeNet5", **{**ROW, field: value})
    assert board.rows == []


@pytest.mark.parametrize("field", ["method", "network"])
def test_empty_name_is_refused(field: str) -> None:
    names = {"method": "float32", "network": "LeNet5", field: " "}
    with pytest.raises(ValueError, match=field):
        Scoreboard("01_cost").add(**names, **ROW)


def test_numpy_numbers_are_numbers() -> None:
    board = Scoreboard("01_cost")
    board.add("a", "b", **{**ROW, "accuracy": np.float32(0.5), "macs": np.int64(7)})
    assert type(board.rows[0]["macs"]) is int
    assert type(board.rows[0]["accuracy"]) is float


@pytest.mark.parametrize("lab", ["../escape", "cost", "01_cost.json", "01_Cost", ""])
def test_lab_name_cannot_leave_the_folder(lab: str) -> None:
    with pytest.raises(ValueError, match="lab"):
        Scoreboard(lab)


def test_measured_text() -> None:
    board = Scoreboard("01_cost")
    assert board.measured("macs", 1100191232) == "1,100,191,232"
    assert board.measured("ratio", 0.123456) == "0.1235"
    assert board.measured("ratio", 0.123456, "12.3 %") == "12.3 %"
    assert board.measured("device", "one thread") == "one thread"
    assert board.numbers == {"macs": "1,100,191,232", "ratio": "12.3 %", "device": "one thread"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("a-b", 1), ("", 1), ("a", math.nan), ("a", math.inf), ("a", None), ("a", "")],
)
def test_bad_measured_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"measured|key"):
        Scoreboard("01_cost").measured(key, value)


def test_file_holds_the_board_and_nothing_else_is_left(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "new" / "results"
    monkeypatch.setenv("COURSE_RESULTS", str(folder))
    board = Scoreboard("01_cost")
    board.add("float32", "LeNet5", **ROW)
    board.measured("ratio", 0.25)
    Scoreboard("09_quantization").add("int8", "LeNet5", **ROW)
    assert sorted(p.name for p in folder.iterdir()) == ["01_cost.json", "09_quantization.json"]
    content = json.loads((folder / "01_cost.json").read_text(encoding="utf-8"))
    assert content == {
        "lab": "01_cost",
        "rows": [{"method": "float32", "network": "LeNet5", **ROW}],
        "measured": {"ratio": "0.25"},
    }


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path))
    board = Scoreboard("01_cost")
    board.measured("ratio", 0.25)
    before = (tmp_path / "01_cost.json").read_text(encoding="utf-8")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        board.measured("ratio", 0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["01_cost.json"]
    assert (tmp_path / "01_cost.json").read_text(encoding="utf-8") == before


def test_nothing_is_written_without_the_variable(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("COURSE_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    Scoreboard("01_cost").add("float32", "LeNet5", **ROW)
    assert list(tmp_path.iterdir()) == []


def points(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"bytes": cost, "accuracy": score, "place": i} for i, (cost, score) in enumerate(pairs)]


def places(rows: list[dict[str, float]]) -> list[float]:
    return [row["place"] for row in rows]


def beats(a: dict[str, float], b: dict[str, float]) -> bool:
    """The definition, word for word."""
    no_worse = a["bytes"] <= b["bytes"] and a["accuracy"] >= b["accuracy"]
    return no_worse and (a["bytes"] < b["bytes"] or a["accuracy"] > b["accuracy"])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    rows = points(*pairs)
    front = pareto_front(rows, "bytes")
    unbeaten = [b for b in rows if not any(beats(a, b) for a in rows)]
    first = {}  # of rows that agree in both, the first
    for row in unbeaten:
        first.setdefault((row["bytes"], row["accuracy"]), row)
    assert places(front) == places(sorted(first.values(), key=lambda row: row["bytes"]))
    for before, after in itertools.pairwise(front):
        assert before["bytes"] < after["bytes"]
        assert before["accuracy"] < after["accuracy"]


def test_ties_on_the_front() -> None:
    assert places(pareto_front(points((4, 0.8), (4, 0.8)), "bytes")) == [0]
    assert places(pareto_front(points((4, 0.7), (4, 0.8)), "bytes")) == [1], "the same cost"
    assert places(pareto_front(points((5, 0.8), (4, 0.8)), "bytes")) == [1], "the same score"


def test_the_front_hands_back_the_rows_themselves() -> None:
    rows = points((9, 0.9), (4, 0.8), (5, 0.7))
    assert [id(row) for row in pareto_front(rows, "bytes")] == [id(rows[1]), id(rows[0])]
    assert pareto_front(iter(rows), "bytes", "place") == [rows[1], rows[2]], "another score"
    assert pareto_front([], "bytes") == []


@pytest.mark.parametrize("value", [math.nan, None, "4"])
def test_a_row_without_the_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="bytes"):
        pareto_front([{"bytes": 3, "accuracy": 0.5}, {"bytes": value, "accuracy": 0.5}], "bytes")
    with pytest.raises(ValueError, match="macs"):
        pareto_front([{"bytes": 3, "accuracy": 0.5}], "macs")
