"""Each exercise: the stub is not attempted, the solution passes and so do unusual ones, wrong ones fail."""

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import helpers.checks as checks
from labs_found import LABS, ROOT, cells, tags

CARELESS = (
    ("returns nothing", lambda *arguments, **words: None),
    ("returns zero", lambda *arguments, **words: 0),
    ("returns its argument", lambda *arguments, **words: arguments[0] if arguments else None),
)


@dataclass(frozen=True)
class Exercise:
    lab: Path
    name: str
    stub: str
    check: str
    solution: str
    before: str  # imports, functions, classes and constants of the lab up to here

    def function(self, source: str) -> Any:
        """The student's function as the cell `source` defines it."""
        namespace: dict[str, Any] = {"__name__": "lab"}
        exec(self.before, namespace)
        exec(source, namespace)
        return namespace[self.name]


def definitions(source: str) -> list[str]:
    """The statements of a cell that define something without running an experiment."""
    kept = []
    for node in ast.parse(source).body:
        constant = False
        if isinstance(node, ast.Assign):
            try:
                ast.literal_eval(node.value)
                constant = True
            except ValueError:
                pass
        kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        if constant or isinstance(node, kinds):
            kept.append(ast.unparse(node))
    return kept


def exercises(path: Path) -> list[Exercise]:
    """The exercises of a lab: stub, check and solution cells in turn."""
    found, before, stub, check = [], [], "", ""
    for cell in cells(path):
        if cell.cell_type != "code" or "setup" in tags(cell):
            continue
        if "exercise" in tags(cell):
            stub = cell.source
        elif "check" in tags(cell):
            check = cell.source
        elif "solution" in tags(cell):
            name = next(
                node.name for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)
            )
            text = "\n".join(before)
            found.append(Exercise(path, name, stub, check, cell.source, text))
        else:
            before += definitions(cell.source)
    return found


EXERCISES = [exercise for path in LABS for exercise in exercises(path)]


def wrong_answers(lab: Path) -> ModuleType:
    """`tests/exercises/NAME.py` of the lab NN_NAME."""
    path = ROOT / "tests" / "exercises" / f"{lab.stem.split('_', 1)[1]}.py"
    spec = importlib.util.spec_from_file_location(f"wrong_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=EXERCISES, ids=lambda exercise: f"{exercise.lab.stem}-{exercise.name}")
def exercise(request: pytest.FixtureRequest) -> Exercise:
    return request.param


def test_stub_reads_as_not_attempted(exercise: Exercise) -> None:
    body = ast.parse(exercise.stub).body
    function = next(node for node in body if isinstance(node, ast.FunctionDef))
    assert ast.get_docstring(function), "the stub's docstring says what to write"
    assert [ast.unparse(line) for line in function.body[1:]] == ["raise NotImplementedError"]
    check = getattr(checks, exercise.name)
    assert check(exercise.function(exercise.stub)).status == "not attempted"


def test_check_cell_calls_the_check_of_that_name(exercise: Exercise) -> None:
    assert f"check.{exercise.name}({exercise.name})" in exercise.check


def test_solution_is_correct(exercise: Exercise) -> None:
    feedback = getattr(checks, exercise.name)(exercise.function(exercise.solution))
    assert feedback.correct, repr(feedback)


def test_wrong_answers_are_wrong_and_get_a_hint(exercise: Exercise) -> None:
    answers = wrong_answers(exercise.lab).WRONG_ANSWERS
    typical = answers.get(exercise.name, [])
    assert len(typical) >= 2, f"tests/exercises needs typical wrong answers for {exercise.name}"
    for label, function in [*typical, *CARELESS]:
        feedback = getattr(checks, exercise.name)(function)
        assert feedback.status == "wrong", f"{label}: {feedback!r}"
        assert len(feedback.message) > 10, f"{label}: a wrong answer gets a hint"


def test_unusual_right_answers_are_correct(exercise: Exercise) -> None:
    answers = getattr(wrong_answers(exercise.lab), "RIGHT_ANSWERS", {})
    for label, function in answers.get(exercise.name, []):
        feedback = getattr(checks, exercise.name)(function)
        assert feedback.correct, f"{label}: {feedback!r}"


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_wrong_answers_belong_to_exercises(lab: Path) -> None:
    known = {exercise.name for exercise in exercises(lab)}
    module = wrong_answers(lab)
    assert set(module.WRONG_ANSWERS) == known
    assert set(getattr(module, "RIGHT_ANSWERS", {})) <= known


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_a_lab_has_three_exercises(lab: Path) -> None:
    assert len(exercises(lab)) >= 3
