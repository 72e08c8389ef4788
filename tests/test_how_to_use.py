"""The example in "How to use this course" prints what the page shows, and the README agrees with it."""

import ast
import re
from typing import Any

from helpers import checks
from labs_found import ROOT

PAGE = (ROOT / "book" / "how_to_use.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?m)^```(python|text)\n((?s:.*?))^```", PAGE)


def test_the_exercise_answers_as_the_page_shows() -> None:
    namespace: dict[str, Any] = {"check": checks}
    said, shown = [], []
    for kind, text in BLOCKS:
        if kind == "text":
            shown.append(text.strip())
            continue
        *statements, last = ast.parse(text).body
        exec(compile(ast.Module(statements, []), "page", "exec"), namespace)
        if isinstance(last, ast.Expr):
            said.append(repr(eval(compile(ast.Expression(last.value), "page", "eval"), namespace)))
        else:
            exec(compile(ast.Module([last], []), "page", "exec"), namespace)
    assert said == shown
    words = ("not attempted yet", "not yet. ", "correct")
    assert all(word in text for word, text in zip(words, said, strict=True))


def test_the_stub_is_that_of_the_lab() -> None:
    lab = (ROOT / "labs" / "01_cost.ipynb").read_text(encoding="utf-8")
    for line in BLOCKS[0][1].splitlines():
        assert line.replace('"', '\\"') in lab


def test_readme_and_page_name_the_same_commands() -> None:
    wanted = re.search(r"```bash\n(git clone(?s:.*?))```", PAGE)
    assert wanted is not None
    lines = [line.strip() for line in README.splitlines()]
    assert set(wanted[1].split("\n")) <= set(lines)
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    named = set(re.findall(r"`make ([a-z]+)", PAGE + README))
    assert named
    assert named <= targets
