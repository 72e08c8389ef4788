"""Grading: the course's own labs, what students hand in by accident, and what breaks other graders."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from helpers import checks
from helpers.checks import __main__ as command
from helpers.checks import grading
from labs_found import LABS, ROOT, cells, tags
from tools import labs

STUBS = """
def grouped_macs(in_channels, out_channels, kernel_size, height, width, groups=1):
    raise NotImplementedError
"""
RIGHT = """
def grouped_macs(in_channels, out_channels, kernel_size, height, width, groups=1):
    return out_channels * in_channels // groups * kernel_size**2 * height * width
"""


def hand_in(folder: Path, *sources: str, name: str = "ada.ipynb") -> Path:
    """A student's notebook of these code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    nbformat.write(notebook, folder / name)
    return folder / name


def first(path: Path, **options: Any) -> grading.Result:
    """The result of `grouped_macs`, the first exercise of lab 01."""
    results = grading.grade(path, **options)
    assert [result.exercise for result in results] == grading.exercises()["01_cost"]
    assert {result.result for result in results[1:]} <= {"not attempted"}
    return results[0]


def stubs(path: Path) -> list[str]:
    code = [cell.source for cell in cells(path) if "exercise" in tags(cell)]
    return [node.name for s in code for node in ast.parse(s).body if hasattr(node, "name")]


def test_every_exercise_of_every_lab_is_known() -> None:
    known = grading.exercises()
    for path in LABS:
        assert path.stem in known, "the lab's checks end their docstring with 'Chapter: NN_name.'"
        assert sorted(known[path.stem]) == sorted(stubs(path))
    for names in known.values():
        assert set(names) <= set(checks.__all__)


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_the_labs_themselves(path: Path, tmp_path: Path) -> None:
    results = grading.grade(path, solutions=True)
    assert {result.result for result in results} == {"correct"}, results
    assert {result.lab for result in results} == {path.stem}
    untouched = grading.grade(path)
    assert {result.result for result in untouched} == {"not attempted"}, "the stubs count, alone"


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_lab_without_solutions_can_still_run(path: Path) -> None:
    """No cell needs what only a solution defines, and no text of a solution is left."""
    notebook = nbformat.read(path, as_version=4)
    whole = list(notebook.cells)
    labs.strip_solutions(notebook)
    assert len(whole) - len(notebook.cells) == 2 * len(stubs(path)), "text and code of a solution"
    assert "<summary>" not in "".join(cell.source for cell in notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    parts = {
        kind: grading._parsed(
            [c.source for c in whole if kind in tags(c) and c.cell_type == "code"]
        )
        for kind in ("solution", "exercise")
    }
    bound = {kind: set().union(*(s.binds for s in found)) for kind, (found, _) in parts.items()}
    others, broken = grading._parsed(
        [c.source for c in code if not tags(c) & {"check", "exercise"}]
    )
    assert not broken
    lost = bound["solution"] - set().union(*(statement.binds for statement in others))
    needed = set().union(*(statement.needs for statement in others))
    assert not needed & (lost | bound["exercise"]), "an unsolved exercise stops nobody"


ACCIDENTS = {
    "the stub": ([STUBS], "not attempted", ""),
    "answered in a new cell": ([STUBS, RIGHT], "correct", ""),
    "the last one counts": ([RIGHT, STUBS], "not attempted", ""),
    "wrong": ([RIGHT.replace("// groups", "")], "wrong", "Depthwise"),
    "the cell is gone": (["def layer_bytes(*a):\n    raise NotImplementedError"], "not attempted", ""),
    "raises": (["def grouped_macs(*a):\n    return 1 / 0"], "wrong", "ZeroDivisionError"),
    "a name is missing": (["def grouped_macs(*a):\n    return area(*a)"], "wrong", "'area' is not"),
    "no function": (["grouped_macs = 5"], "wrong", "no function but int"),
    "a lambda": (["grouped_macs = lambda a, b, k, h, w, groups=1: a // groups * b * k * k * h * w"], "correct", ""),
    "does not parse": (["def grouped_macs(a:\n    return 1"], "error", "not Python"),
    "a broken attempt, then a sound one": (["def grouped_macs(a:", RIGHT], "correct", ""),
    "a sound one, then a broken one": ([RIGHT, "def grouped_macs(a:"], "error", "not Python"),
    "helpers, constants and state of its own": (
        [
            "import math as m\nTWO = 1\nTWO += 1\ntable = {}",
            "table['square'] = lambda k: k**TWO",
            "class Area:\n    def of(self, h, w):\n        return m.prod((h, w))",
            "def grouped_macs(a, b, k, h, w, groups=1):\n"
            "    return a // groups * b * table['square'](k) * AREA.of(h, w)",
            "AREA = Area()",
        ],
        "correct",
        "",
    ),
    "magic": (["%matplotlib inline\n!pip list\n" + RIGHT + "grouped_macs?"], "correct", ""),
    "what it does not need is not run": (
        ["raise SystemExit", "while True:\n    pass", "h = 1 / 0", RIGHT, "1 / 0"],
        "correct",
        "",
    ),
    "wrapped": ([RIGHT, "import functools\ngrouped_macs = functools.cache(grouped_macs)"], "correct", ""),
    "what it needs fails": (
        ["half = 1 / 0", "def grouped_macs(*a):\n    return half"],
        "error",
        "the cells before it stopped with ZeroDivisionError",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCIDENTS)
def test_what_students_hand_in(tmp_path: Path, case: str) -> None:
    sources, result, message = ACCIDENTS[case]
    name = "ada 01_cost (2).ipynb"
    found = first(hand_in(tmp_path, *sources, name=name))
    assert found.result == result, found
    assert message in found.message


FORGED = '[["correct", ""]] {"result": "correct"}\\n'
HOSTILE = {
    "an endless loop": ("while True:\n        pass", "error", "no answer within 2 s"),
    "an endless loop that catches all": (
        "while True:\n        try:\n            import time; time.sleep(9)\n"
        "        except BaseException:\n            pass",
        "error",
        "no answer within 2 s",
    ),
    "sys.exit": ("import sys\n    sys.exit(0)", "error", "SystemExit"),
    "os._exit": ("import os\n    os._exit(0)", "error", "ended the process"),
    "kill": ("import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)", "error", "ended"),
    "a crash": ("import ctypes\n    ctypes.string_at(0)", "error", "ended the process"),
    "an interrupt": ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
    "a failed assertion": ("assert False, 'x'", "wrong", "AssertionError"),
    "prints a result": (f"print('{FORGED}' * 10**5)\n    return 0", "wrong", "288,000"),
    "waits for input": ("return input()", "wrong", "EOFError"),
    "recursion": ("return grouped_macs(*a)", "wrong", "RecursionError"),
    "much memory": ("return len(bytearray(6 << 30))", "wrong", "MemoryError"),
    "a long message": ("raise ValueError('x' * 10**7)", "wrong", "ValueError: xxx"),
    "leaves a file": ("open('left', 'w').write('x')\n    return 0", "wrong", "288,000"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_breaks_graders(tmp_path: Path, monkeypatch, case: str, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    body, result, message = HOSTILE[case]
    path = hand_in(tmp_path, f"def grouped_macs(*a, **b):\n    {body}")
    started = time.monotonic()
    found = first(path, seconds=2.0)
    assert (found.result, message in found.message) == (result, True), found
    assert len(found.message) <= 1000
    assert time.monotonic() - started < 30
    assert capfd.readouterr().out == ""
    assert list(tmp_path.iterdir()) == [path]


def test_an_edited_check_changes_nothing(tmp_path: Path) -> None:
    forged = (
        "from helpers import checks as check\n"
        "check.grouped_macs = lambda f: check.Feedback('grouped_macs', 'correct')\n"
        "check.grouped_macs(grouped_macs)"
    )
    path = hand_in(tmp_path, "def grouped_macs(*a, **b):\n    return 0", forged)
    assert first(path).result == "wrong"


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_nothing_runs_on_after_an_answer(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    source = (
        "def grouped_macs(*a, **b):\n    import subprocess\n"
        f"    open({str(note)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\n"
        "    return 0"
    )
    assert first(hand_in(tmp_path, source)).result == "wrong"
    state = Path(f"/proc/{note.read_text()}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_the_exercises_of_a_notebook_do_not_meet(tmp_path: Path) -> None:
    spoil = "def grouped_macs(*a, **b):\n    import math\n    math.ceil = None\n    return 0"
    lab = ROOT / "labs" / "01_cost.ipynb"
    (source,) = (
        c.source for c in cells(lab) if "solution" in tags(c) and "def layer_bytes" in c.source
    )
    results = grading.grade(hand_in(tmp_path, spoil, source))
    assert {r.exercise: r.result for r in results} == {
        "grouped_macs": "wrong",
        "separable_parameters": "not attempted",
        "layer_bytes": "correct",
        "shortest_time": "not attempted",
    }


def test_cells_tagged_solution_do_not_count(tmp_path: Path) -> None:
    path = hand_in(tmp_path, STUBS, RIGHT)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata["tags"] = ["solution"]
    nbformat.write(notebook, path)
    assert first(path).result == "not attempted"
    assert first(path, solutions=True).result == "correct"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "not a notebook"),
        ("[]", "not a notebook"),
        ('{"worksheets": []}', "not a notebook"),
        ('{"cells": [{"cell_type": "code", "source": null}]}', "not a notebook"),
        ('{"cells": []}', "no exercise of the labs 01_cost"),
    ],
)
def test_what_is_no_lab_is_refused(tmp_path: Path, text: str, message: str, capsys) -> None:
    path = tmp_path / "essay.ipynb"
    path.write_text(text)
    with pytest.raises(grading.NotebookError, match=message):
        grading.grade(path)
    assert command.main([str(path)]) == 2
    assert message in capsys.readouterr().out


def test_an_emptied_lab_is_known_by_its_name(tmp_path: Path) -> None:
    path = hand_in(tmp_path, "print('I gave up')", name="05_weight_sharing-ada.ipynb")
    results = grading.grade(path)
    assert [(r.lab, r.result) for r in results] == [("05_weight_sharing", "not attempted")] * 4


def test_the_command_prints_a_table(tmp_path: Path, capsys) -> None:
    path = hand_in(tmp_path, RIGHT)
    assert command.main([str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: lab 01_cost, 1 of 4 correct"
    assert lines[1].split() == ["grouped_macs", "correct"]
    assert lines[2].split()[:3] == ["separable_parameters", "not", "attempted"]


def test_the_command_as_students_files_meet_it(tmp_path: Path) -> None:
    noisy = RIGHT.replace("    return", "    print('[]' * 9999)\n    return")
    paths = [str(hand_in(tmp_path, noisy)), str(tmp_path / "none.ipynb")]
    lab = str(ROOT / "labs" / "01_cost.ipynb")
    run = [sys.executable, "-m", "helpers.checks", "--json"]
    done = subprocess.run([*run, *paths], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    rows = json.loads(done.stdout)
    assert set(rows[0]) == {"notebook", "lab", "exercise", "result", "message"}
    assert [(Path(r["notebook"]).name, r["result"]) for r in rows] == [
        ("ada.ipynb", "correct"),
        *[("ada.ipynb", "not attempted")] * 3,
        ("none.ipynb", "error"),
    ]
    done = subprocess.run([*run, "--solutions", lab], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(SystemExit):
        command.main(["--seconds", "0", lab])


def test_a_report_inside_a_lab() -> None:
    namespace: dict[str, Any] = {"shortest_time": lambda *a: 0, "layer_bytes": 3, "math": ast}
    exec(RIGHT, namespace)
    found = checks.report(namespace)
    assert [(f.exercise, f.status) for f in found] == [
        ("grouped_macs", "correct"),
        ("shortest_time", "wrong"),
    ]
