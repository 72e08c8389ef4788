"""The guide for instructors names commands that exist, and its plan fits the labs."""

import re
from pathlib import Path

import pytest

from labs_found import LABS, ROOT, cells

GUIDE = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"(?ms)^\*\*(\d+)\. .+?(?=^\*\*\d+\. |\Z)", GUIDE)
TEXTS = re.findall(r"(?ms)^\*\*\d+\. .+?(?=\n\n|\Z)", GUIDE)


def test_commands_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    named = set(re.findall(r"`make ([a-z]+)", GUIDE))
    assert named
    assert named <= targets
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    for variable in ("PUBLISH", "SOLUTIONS"):
        assert f"`{variable}`" in GUIDE
        assert f"vars.{variable} ==" in workflow


def test_there_are_twelve_sessions() -> None:
    assert [int(number) for number in SESSIONS] == list(range(1, 13))
    assert 600 <= len(GUIDE.split()) <= 1300


def numbers(text: str) -> set[int]:
    """The exercises that a piece of text names: "2 to 4", "1, 3, 4", "2 to 4, and 5"."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_a_session_gives_out_every_exercise_of_its_lab(lab: Path) -> None:
    found = [text for text in TEXTS if f"/labs/{lab.stem}`" in text]
    if not found:
        assert lab.stem == "10_edge_recipe", "a model for the project, no session of its own"
        assert "{doc}`10_edge_recipe`" in GUIDE
        return
    (text,) = found
    text = text[text.index(f"/labs/{lab.stem}`") :]  # a session may hold two labs
    solved = re.search(r"Solve exercise (\d)", text)
    homework = re.search(r"Homework:(.+?)\.", text, re.DOTALL)
    assert solved is not None
    assert homework is not None
    given = {int(solved[1])} | numbers(homework[1])
    headings = re.findall(r"### Exercise (\d+)", "\n".join(cell.source for cell in cells(lab)))
    assert given == {int(number) for number in headings}
