"""The reference pages: every helper stands on one, and every docstring arrives whole."""

import ast
import importlib
import re
from pathlib import Path
from types import FunctionType

import docutils.core
import pytest
from docutils import nodes

from tools import api

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "book" / "api").glob("*.md"))
MODULES = sorted(path for path in (ROOT / "helpers").rglob("*.py") if "embedded" not in path.parts)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def docstrings(path: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = (
        ast.get_docstring(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kinds)
    )
    return [text for text in found if text]


def parsed(text: str, pages: set[str] | None = None) -> nodes.document:
    settings = {"report_level": 5, "file_insertion_enabled": False}
    source = "\n".join(api.restructured(text.split("\n"), pages or set()))
    return docutils.core.publish_doctree(source, settings_overrides=settings)


def squashed(text: str) -> str:
    return re.sub(r"[\s`]|(?m:^ *-) ", "", text)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_docstrings_arrive_whole(path: Path) -> None:
    for text in docstrings(path):
        tree = parsed(text)
        assert not list(tree.findall(nodes.system_message)), text
        assert squashed(tree.astext()) == squashed(text)
        spans = len(re.findall(r"`[^`]+`", re.sub(r"(?m)^ *>>>.*$", "", text)))
        if not list(tree.findall(nodes.literal_block)):
            assert len(list(tree.findall(nodes.literal))) == spans, text


def test_every_helper_stands_on_one_page() -> None:
    listed = [
        word
        for page in PAGES
        for line in api.LISTING.findall(page.read_text())
        for word in line.split()
    ]
    assert len(listed) == len(set(listed)), "a chapter named twice"
    units = dict(api.modules(ROOT))
    assert set(units.values()) <= set(listed), "name the new chapter in a page of book/api"
    text = "".join(api.expand(ROOT, page.read_text()) for page in PAGES)
    shown = re.findall(r"automodule:: (\S+)", text)
    assert sorted(shown) == sorted([*units, "helpers.checks", "helpers.checks.grading"])
    for path in MODULES:
        name = dotted(path)
        if name.startswith("helpers.checks") or not docstrings(path):
            continue
        package = path.parent / "__init__.py"
        handed_on = dotted(package) in units and f"from {name} import" in package.read_text()
        below = any(unit.startswith(f"{name}.") for unit in units)
        assert name in units or handed_on or below, f"{name} is on no page of book/api"


def test_nothing_is_documented_twice() -> None:
    """autodoc takes `__all__` if there is one, or else what the module itself defines."""
    shown = []
    for name, _ in api.modules(ROOT):
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", vars(module)):
            thing = getattr(module, public)
            own = "__all__" in vars(module) or getattr(thing, "__module__", None) == name
            if own and not public.startswith("_") and isinstance(thing, type | FunctionType):
                shown.append(f"{thing.__module__}.{thing.__qualname__}")
    assert "helpers.models.weight_layers" in shown
    shown = [name for name in shown if not name.endswith(".main")]
    assert sorted(shown) == sorted(set(shown))


def test_every_page_is_in_the_contents() -> None:
    contents = (ROOT / "_toc.yml").read_text()
    for page in PAGES:
        assert f"- file: book/api/{page.stem}\n" in contents


CASES = {
    "chapter": ("A.\n\nChapter: 01_cost.", "Chapter: :doc:`01_cost </book/01_cost>`."),
    "chapter to come": ("A.\n\nChapter: 02_none.", "Chapter: 02\\_none."),
    "span in a word": ("all `x`s", "all \\ ``x``\\ s"),
    "operators": ("a * b ** c | d `e`", "a \\* b \\*\\* c \\| d \\ ``e``\\ "),
}


@pytest.mark.parametrize("case", CASES)
def test_lines(case: str) -> None:
    text, line = CASES[case]
    got = api.restructured(text.split("\n"), {"book/01_cost"})[-1]
    assert got == line.replace("02\\_", "02_"), got


def test_blocks() -> None:
    text = "Do it.\n\n>>> f(1)\n2\n\nThen:\n- one\n  goes on\n- two\nText.\n\n    as it `stands`\n\nRaises:\n    A: b\n        c\n    D: e"
    tree = parsed(text)
    assert [block.astext() for block in tree.findall(nodes.literal_block)] == [
        ">>> f(1)\n2",
        "as it `stands`",
    ]
    items = [" ".join(item.astext().split()) for item in tree.findall(nodes.list_item)]
    assert items == ["one goes on", "two", "A: b c", "D: e"]
