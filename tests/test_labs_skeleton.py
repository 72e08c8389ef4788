"""Every lab has the same skeleton, so that a student finds each thing where it was last time."""

import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from labs_found import LABS, ROOT, cells, section, tags
from tools import stamp

FIRST = ["What you will be able to do", "Setup"]
LAST = ["Exercises", "Explore", "What we measured", "Where next"]
TAGS = {
    "setup", "exercise", "check", "solution", "hide-cell", "hide-input", "remove-input",
    "skip-execution", "nbval-skip", "timed",
}  # fmt: skip
MYST = re.compile(r"(?m)^\s*(:{3,}|[`~]{3,}\{)|\{[a-z:-]+\}`|\{\{")


@pytest.fixture(params=LABS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def headings(lab: list, level: int) -> list[str]:
    pattern = re.compile(rf"^{'#' * level} (.+)$", re.MULTILINE)
    texts = [re.sub(r"(?s)```.*?```", "", c.source) for c in lab if c.cell_type == "markdown"]
    return [heading.strip() for text in texts for heading in pattern.findall(text)]


def code(lab: list) -> list:
    return [cell for cell in lab if cell.cell_type == "code"]


def test_title_cell(path: Path) -> None:
    lab = cells(path)
    title = lab[0].source
    assert lab[0].cell_type == "markdown"
    assert re.match(rf"# {path.stem.split('_')[0]} \S", title), (
        "the title starts with the number of the lab"
    )
    link = f"[Open this lab in Colab]({stamp.colab_address(ROOT, path.stem)})"
    assert link in title
    assert re.search(r"About \d+ s on two CPU cores", title)
    assert f"../book/{path.stem}.md" in "".join(cell.source for cell in lab), "link to the chapter"
    assert len(headings(lab, 1)) == 1


def test_headings(path: Path) -> None:
    found = headings(cells(path), 2)
    assert found[: len(FIRST)] == FIRST
    assert found[-len(LAST) :] == LAST
    numbered = found[len(FIRST) : -len(LAST)]
    assert numbered
    assert [heading.split(".")[0] for heading in numbered] == [
        str(number) for number in range(1, len(numbered) + 1)
    ]


def test_setup_cell(path: Path) -> None:
    lab = cells(path)
    assert [cell.source for cell in lab if "setup" in tags(cell)] == [stamp.setup_cell(ROOT)]
    assert code(section(lab, "Setup"))[0].source == stamp.setup_cell(ROOT)
    assert code(lab)[0].source == stamp.setup_cell(ROOT), "nothing runs before the setup cell"


def test_tags(path: Path) -> None:
    for cell in cells(path):
        assert tags(cell) <= TAGS, f"unknown tags: {tags(cell) - TAGS}"
        assert ("skip-execution" in tags(cell)) == ("nbval-skip" in tags(cell)), (
            "a cell to skip needs both: nbval ignores the one, MyST-NB the other"
        )


def test_cell_sizes(path: Path) -> None:
    sizes = [
        len([line for line in c.source.split("\n") if line.strip()]) for c in code(cells(path))
    ]
    assert max(sizes) <= 40
    assert statistics.median(sizes) <= 6
    assert sum(size <= 20 for size in sizes) >= 0.9 * len(sizes), sorted(sizes)


def test_stored_clean(path: Path) -> None:
    lab = nbformat.read(path, as_version=4)
    assert set(lab.metadata) == {"kernelspec", "language_info"}
    assert lab.metadata.kernelspec.name == "python3"
    for cell in code(lab.cells):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_plain_markdown(path: Path) -> None:
    for cell in cells(path):
        if cell.cell_type == "markdown":
            assert not MYST.search(cell.source), f"MyST shows as raw text in Colab:\n{cell.source}"


def test_code_is_plain_python(path: Path) -> None:
    for cell in code(cells(path)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Assert):
                assert node.msg is not None, f"no message: assert {ast.unparse(node.test)}"


def test_parts_do_their_work(path: Path) -> None:
    lab = cells(path)
    explore = "".join(cell.source for cell in code(section(lab, "Explore")))
    assert "widgets." in explore or "interact" in explore, "Explore has one panel"
    assert "show(" in explore, "a static figure carries the point without a kernel"
    everything = "".join(cell.source for cell in code(lab))
    assert "Scoreboard(" in everything
    assert "plt.show(" not in everything, "plots.show(figure, alt=...) gives a figure its alt text"
    assert any("assert " in cell.source for cell in code(lab))


def test_exercises_are_laid_out_alike(path: Path) -> None:
    lab = section(cells(path), "Exercises")
    titles = headings(lab, 3)
    assert len(titles) >= 3
    for number, title in enumerate(titles, 1):
        assert title.startswith(f"Exercise {number}: ")
    kinds = []
    for cell in lab:
        if cell.cell_type == "code":
            kinds.append(next(iter(tags(cell) & {"exercise", "check", "solution"}), "other"))
            if "solution" in tags(cell):
                assert "hide-cell" in tags(cell), "the book folds the solution"
        elif "solution" in tags(cell):
            assert re.match(r"<details>\s*<summary>Solution</summary>", cell.source)
            assert cell.source.rstrip().endswith("</details>")
            kinds.append("details")
    assert kinds == ["exercise", "check", "details", "solution"] * len(titles)
