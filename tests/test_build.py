"""The build's gate, proven on small books: each fault that a reader would meet turns it red."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tools import book, labs

ROOT = Path(__file__).resolve().parent.parent
FIGURE = """
import io, matplotlib.pyplot as plt
from IPython.display import Image, display
for slope in (1, 2):
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([0, slope])
    file = io.BytesIO()
    figure.savefig(file)
    plt.close(figure)
    metadata = {"image/png": {"alt": f"A line\\nof slope {slope}"}}
    display(Image(file.getvalue()), metadata=metadata)
"""
MEASURE = """
import json, os
import helpers
if "COURSE_RESULTS" in os.environ:
    with open(os.path.join(os.environ["COURSE_RESULTS"], "01_demo.json"), "w") as file:
        row = {"method": "int8", "network": "Tiny", "accuracy": 0.98765, "parameters": 1000}
        row |= {"macs": 20000, "bits": 8.0, "bytes": 1000}
        json.dump({"lab": "01_demo", "rows": [row], "measured": {"macs": helpers.MACS}}, file)
print("the lab counted", helpers.MACS)
"""
WIDGETS = """
import ipywidgets
from tqdm.auto import tqdm
for _ in tqdm(range(3)):
    pass
ipywidgets.interact(lambda k: print("inside the widget", k), k=(1, 3));
"""
CHAPTER = """# Demo

{{ scoreboard }}

{{ labs }}

{{ versions }}

The lab counted {{ lab01.macs }} operations, or $\\sum_i x_i$ {cite}`someone`.
See {doc}`/labs/01_demo`, [the lab](../labs/01_demo.ipynb) and {numref}`fig-demo`.

```{figure} figures/01_demo.svg
:alt: A rising line
:name: fig-demo

A figure
```
"""
DRAW = """
import matplotlib.pyplot as plt
def line():
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([1, 2])
    return figure
FIGURES = {"01_demo": line}
"""
BIB = "@misc{someone, author = {Some One}, title = {A title}, year = {2020}}\n"


def write_lab(course: Path, *sources: str) -> None:
    cells = [nbformat.v4.new_markdown_cell("# 01 Demo\n\nA formula: $x^2$.")]
    cells += [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), course / "labs" / "01_demo.ipynb")


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A small sound course: one chapter, one lab, a reference page."""
    for folder in ("labs", "book/figures", "helpers"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "_config.yml", tmp_path)
    parts = [{"file": "book/01_demo", "sections": [{"file": "labs/01_demo"}]}]
    contents = {"format": "jb-book", "root": "book/intro", "chapters": parts}
    contents["chapters"].append({"file": "book/references"})
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False))
    (tmp_path / "helpers" / "__init__.py").write_text('MACS = "1,234"\n')
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "book" / "intro.md").write_text("# Start\n\nText.\n")
    (tmp_path / "book" / "01_demo.md").write_text(CHAPTER)
    (tmp_path / "book" / "references.md").write_text("# References\n\n```{bibliography}\n```\n")
    (tmp_path / "book" / "references.bib").write_text(BIB)
    (tmp_path / "book" / "figures" / "01_demo.py").write_text(DRAW)
    write_lab(tmp_path, MEASURE, FIGURE)
    return tmp_path


def run_labs(course: Path, *names: str) -> int:
    return labs.main([*names, "--root", str(course)])


def build(course: Path) -> int:
    return book.main(["--root", str(course)])


def executed(course: Path) -> Path:
    return course / "_build" / "labs" / "01_demo.ipynb"


def pretend_executed(course: Path) -> None:
    """Put the products of a lab in place without running a kernel, to test the book alone."""
    for folder in ("labs", "results"):
        (course / "_build" / folder).mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(course / "labs" / "01_demo.ipynb", as_version=4)
    labs.publish(executed(course), notebook)
    nbformat.write(notebook, executed(course))
    result = {"lab": "01_demo", "rows": [], "measured": {"macs": "1,234"}}
    (course / "_build" / "results" / "01_demo.json").write_text(json.dumps(result))
    card = {"fingerprint": labs.fingerprint(course, "01_demo"), "results": True}
    executed(course).with_suffix(".json").write_text(json.dumps(card))


@pytest.mark.slow
def test_a_sound_course_builds_and_the_second_time_does_nothing(course: Path, capsys) -> None:
    write_lab(course, MEASURE, FIGURE, WIDGETS)
    assert run_labs(course) == 0
    assert build(course) == 0
    html = course / "_build" / "html"
    assert "The lab counted 1,234 operations" in (html / "book" / "01_demo.html").read_text()
    chapter = (html / "book" / "01_demo.html").read_text()
    for cell in ("int8", "Tiny", "98.77", "20,000", "MiB over the imports", "sphinx-book-theme"):
        assert cell in chapter, "the scoreboard, the running times and the versions arrive"
    assert chapter.count('href="../labs/01_demo.html"') >= 4
    lab = (html / "labs" / "01_demo.html").read_text()
    assert "the lab counted 1,234" in lab
    for slope in (1, 2):
        assert f'alt="A line of slope {slope}"' in lab, "the alt text of each figure arrives"
    assert lab.count("inside the widget") == 1, "the source is shown, the widget is not"
    for word in ("jupyter.widget", "require.min.js", "cdn."):
        assert word not in lab
    before = {path: path.stat().st_mtime_ns for path in html.rglob("*.html")}
    capsys.readouterr()
    assert run_labs(course) == 0
    assert build(course) == 0
    assert capsys.readouterr().out.count("nothing changed") == 2
    assert {path: path.stat().st_mtime_ns for path in html.rglob("*.html")} == before


def test_what_a_lab_costs_is_measured(course: Path) -> None:
    write_lab(
        course,
        MEASURE,
        "import numpy\nblock = numpy.ones(100 * 2**20, dtype='uint8')",
        "import platform\nprint([numpy.__version__, platform.python_version()])",
    )
    assert run_labs(course) == 0
    card = json.loads(executed(course).with_suffix(".json").read_text())
    assert 0 < card["seconds"] < 60
    with_what = card["made_with"]
    shown = nbformat.read(executed(course), as_version=4).cells[-1].outputs[0].text
    assert shown == f"{[with_what['numpy'], with_what['Python']]}\n", "as the kernel says it"
    assert {"processor", "architecture", "cores", "profile"} <= set(with_what)
    if Path("/proc/self/clear_refs").exists():
        assert 95 < card["memory_mib"] < 200, "100 MiB over the imports"


def test_a_failing_lab_turns_the_build_red_and_leaves_no_product(course: Path, capsys) -> None:
    assert run_labs(course) == 0
    write_lab(course, MEASURE, "total = 1\ntotal / 0  # the cell that fails", "print('after')")
    assert run_labs(course) == 1
    shown = capsys.readouterr().err
    assert "01_demo.ipynb: cell 2 failed" in shown
    assert "the cell that fails" in shown
    assert "ZeroDivisionError: division by zero" in shown
    assert not executed(course).exists()
    assert not executed(course).with_suffix(".json").exists()
    assert not (course / "_build" / "results" / "01_demo.json").exists()
    assert sorted(p.name for p in (course / "_build").iterdir()) == ["labs", "results"]
    assert build(course) == 1, "no book from a lab that failed"
    assert "labs changed since they were executed: 01_demo" in capsys.readouterr().err


def test_a_cell_allowed_to_raise_still_fails(course: Path) -> None:
    path = course / "labs" / "01_demo.ipynb"
    lab = nbformat.read(path, as_version=4)
    lab.cells.append(nbformat.v4.new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}))
    nbformat.write(lab, path)
    assert run_labs(course) == 1


def test_other_labs_go_on_after_a_failure(course: Path) -> None:
    write_lab(course, "1 / 0")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("2 + 2")])
    nbformat.write(notebook, course / "labs" / "02_next.ipynb")
    assert run_labs(course) == 1
    assert (course / "_build" / "labs" / "02_next.ipynb").exists()


CHANGES: dict[str, Callable[[Path], object]] = {
    "helpers": lambda course: (course / "helpers" / "__init__.py").write_text('MACS = "99"\n'),
    "new helper": lambda course: (course / "helpers" / "data.bin").write_bytes(b"1"),
    "requirements": lambda course: (course / "requirements.txt").write_text("numpy>=2\n"),
    "constraints": lambda course: (course / "constraints.txt").write_text("numpy==2.0\n"),
    "the lab": lambda course: write_lab(course, MEASURE, "print('another cell')"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_lab_is_stale_when_something_it_depends_on_changed(course: Path, change: str) -> None:
    pretend_executed(course)
    assert labs.fresh(course, "01_demo")
    CHANGES[change](course)
    assert not labs.fresh(course, "01_demo")


def test_a_lab_is_stale_when_a_package_has_another_version(course: Path, monkeypatch) -> None:
    pretend_executed(course)
    real = metadata.version
    for package, stale in (("sphinx", False), ("numpy", True)):
        other = {package: "0.0.1"}
        monkeypatch.setattr(
            metadata, "version", lambda name, new=other: new.get(name) or real(name)
        )
        assert labs.fresh(course, "01_demo") is not stale, package


def two_cards(course: Path, **other: str) -> str:
    """The table of versions where lab 02 was executed with something else than lab 01."""
    for name, changed in {"01_demo": {}, "02_next": other}.items():
        (course / "labs" / f"{name}.ipynb").touch()
        file = course / "_build" / "labs" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".ipynb").touch()
        with_what = {"torch": "2.4.0", "cores": "2", **changed}
        card = {"results": False, "made_with": with_what, "seconds": 1.5, "memory_mib": 7}
        file.write_text(json.dumps(card))
    return book.versions(course, ["labs/01_demo", "labs/02_next"])


def test_the_versions_are_those_of_the_run(course: Path) -> None:
    rows = two_cards(course).splitlines()
    assert "| torch | 2.4.0 | labs |" in rows
    assert f"| sphinx | {metadata.version('sphinx')} | pages |" in rows
    assert len(rows) == 2 + 2 + len(book.TOOLS)


def test_labs_of_different_versions_are_told_apart(course: Path) -> None:
    rows = two_cards(course, torch="2.14.1").splitlines()
    assert "| torch | 2.4.0 (lab 01); 2.14.1 (lab 02) | labs |" in rows
    assert "| cores | 2 | labs |" in rows


def test_the_times_are_summed(course: Path) -> None:
    two_cards(course)
    rows = book.running_times(course, ["labs/01_demo", "labs/02_next", "book/intro"]).splitlines()
    assert rows[-1] == "| all labs: sum, and the largest | 3.0 | 7 |"
    assert len(rows) == 2 + 2 + 1


@pytest.mark.parametrize("file", ["book/intro.md", "_config.yml", "helpers/__pycache__/x.pyc"])
def test_a_lab_stays_fresh_when_something_else_changed(course: Path, file: str) -> None:
    pretend_executed(course)
    (course / file).parent.mkdir(exist_ok=True)
    (course / file).write_text("another text")
    assert labs.fresh(course, "01_demo")


def test_a_changed_helper_runs_the_lab_again(course: Path, capsys) -> None:
    assert run_labs(course) == 0
    CHANGES["helpers"](course)
    capsys.readouterr()
    assert run_labs(course) == 0
    assert "running" in capsys.readouterr().out
    assert "the lab counted 99" in executed(course).read_text()
    assert run_labs(course) == 0
    assert "nothing changed" in capsys.readouterr().out


def test_lost_results_run_the_lab_again(course: Path) -> None:
    pretend_executed(course)
    (course / "_build" / "results" / "01_demo.json").unlink()
    assert not labs.fresh(course, "01_demo")


def test_a_figure_without_alt_text_is_refused(course: Path, capsys) -> None:
    write_lab(course, MEASURE, FIGURE.replace(", metadata=metadata", ""))
    assert run_labs(course) == 1
    assert "cell 2 shows a figure without alt text" in capsys.readouterr().err


def test_the_book_folds_the_setup_cell(course: Path) -> None:
    cell = nbformat.v4.new_code_cell("import helpers", metadata={"tags": ["setup"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    labs.publish(course, notebook)
    assert cell.metadata["tags"] == ["setup", "hide-input"]


def test_a_lab_that_leaves_files_is_refused(course: Path, capsys) -> None:
    write_lab(course, "open('left.txt', 'w').close()")
    assert run_labs(course) == 1
    assert "left files in the folder it ran in: left.txt" in capsys.readouterr().err


def test_a_lab_has_no_network(course: Path) -> None:
    write_lab(course, "import urllib.request\nurllib.request.urlopen('http://example.org')")
    assert run_labs(course) == 1


def test_an_unknown_lab_is_named(course: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        run_labs(course, "07_none")
    assert "no lab called '07_none'; the labs are 01_demo" in capsys.readouterr().err


ANSWERED = """
## Check your understanding

**1.** What is asked first?

:::{admonition} Answer
:class: dropdown
The quagga of the chapter, $z$.
:::

**2.** And second?

::::{admonition} Answer
:class: dropdown
A quagga with

:::{note}
a note.
:::
::::

The end of the chapter.
"""


def test_a_measured_per_cent_is_written_as_in_the_text(course: Path) -> None:
    pretend_executed(course)
    result = {"lab": "01_demo", "rows": [], "measured": {"a": "-1.25%", "b": "5 % to 7%", "c": "%"}}
    (course / "_build" / "results" / "01_demo.json").write_text(json.dumps(result))
    shown = book.substitutions(course, book.pages(course))["lab01"]
    assert shown == {"a": "-1.25\u00a0%", "b": "5 % to 7\u00a0%", "c": "%"}


def test_a_chapter_ends_with_those_that_refer_to_it(tmp_path: Path) -> None:
    texts = {
        "01_one": "# One\n\nNames {doc}`two <02_two>` and {doc}`/labs/03_three`.\n",
        "02_two": "# Two\n\nNames {doc}`01_one`.\n",
        "03_three": "# Three\n\nNames {doc}`/book/01_one`, {doc}`02_two` and {doc}`03_three`.\n",
        "intro": "# Intro\n\nNames {doc}`03_three`.\n",
    }
    (tmp_path / "book").mkdir()
    for name, text in texts.items():
        (tmp_path / "book" / f"{name}.md").write_text(text)
    book.refer_back(tmp_path)
    added = {
        name: (tmp_path / "book" / f"{name}.md").read_text().removeprefix(text.rstrip())
        for name, text in texts.items()
    }
    back = "\n\n**See also**: {doc}`03_three`.\n"
    assert added == {"01_one": back, "02_two": back, "03_three": "\n", "intro": "\n"}


@pytest.fixture
def solved(course: Path) -> Path:
    """The small course with a solved exercise and answers; every solution is about a quagga."""
    path = course / "labs" / "01_demo.ipynb"
    lab = nbformat.read(path, as_version=4)
    stub = "def stripes():\n    raise NotImplementedError"
    folded = "<details>\n<summary>Solution</summary>\n\nThe quagga of the text.\n</details>"
    both = {"tags": ["solution", "hide-cell"]}
    show = FIGURE.replace("A line", "A quagga")
    lab.cells += [
        nbformat.v4.new_code_cell(stub, metadata={"tags": ["exercise"]}),
        nbformat.v4.new_markdown_cell(folded, metadata={"tags": ["solution"]}),
        nbformat.v4.new_code_cell("print('qua' + 'gga', 17)  # the quagga of the code" + show),
        nbformat.v4.new_markdown_cell("## After the exercise"),
    ]
    lab.cells[-2].metadata = nbformat.from_dict(both)
    nbformat.write(lab, path)
    (course / "book" / "01_demo.md").write_text(CHAPTER + ANSWERED)
    return course


def quaggas(folder: Path) -> list[str]:
    """The files below `folder` that give a solution away, in text or in the name of a tag."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and b"quagga" in path.read_bytes().lower()
    )


def test_an_instructor_can_leave_the_solutions_out(solved: Path) -> None:
    lab = nbformat.read(solved / "labs" / "01_demo.ipynb", as_version=4)
    left = solved / "_build" / "student" / "renamed.ipynb"
    left.parent.mkdir(parents=True)
    left.write_text("a lab of another name")
    assert labs.main(["--root", str(solved), "--student"]) == 0
    written = nbformat.read(solved / "_build" / "student" / "01_demo.ipynb", as_version=4)
    kept = [cell.source for cell in (*lab.cells[:-3], lab.cells[-1])]
    assert [cell.source for cell in written.cells] == kept
    assert quaggas(solved / "_build" / "student") == []
    assert not left.exists()


@pytest.mark.slow
def test_the_students_book_has_no_trace_of_a_solution(solved: Path, capsys) -> None:
    assert run_labs(solved) == 0
    assert build(solved) == 0
    full, student = solved / "_build" / "html", solved / "_build" / "html_student"
    shown = {"labs/01_demo.html", "_sources/labs/01_demo.ipynb", "book/01_demo.html"}
    assert shown | {"_sources/book/01_demo.md", "searchindex.js"} <= set(quaggas(full))
    assert book.main(["--root", str(solved), "--without-solutions"]) == 0
    assert (student / "labs" / "01_demo.html").exists()
    assert quaggas(student) == []
    chapter = (student / "book" / "01_demo.html").read_text()
    for kept in ("What is asked first?", "And second?", "The end of the chapter."):
        assert kept in chapter
    lab = (student / "labs" / "01_demo.html").read_text()
    for kept in ("NotImplementedError", "After the exercise", "A line of slope 2"):
        assert kept in lab
    images = {path.name for path in (student / "_images").glob("*.png")}
    assert len(images) == 2, "the figures that a solution draws are gone as well"
    capsys.readouterr()
    assert build(solved) == 0
    assert "nothing changed" in capsys.readouterr().out, "the full book stands beside it"
    assert "book/01_demo.html" in quaggas(full)
    (solved / "book" / "01_demo.md").write_text(CHAPTER + ANSWERED + "More quagga text.\n")
    assert book.main(["--root", str(solved), "--without-solutions"]) == 0
    assert "book/01_demo.html" in quaggas(student), "a changed chapter builds this book again"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("book/01_demo.md", "```{admonition} Answer\n:class: dropdown\nQuagga.\n```\n"),
        ("book/intro.md", ":::{dropdown} Solution\nQuagga.\n:::\n"),
    ],
)
def test_an_answer_in_another_form_is_refused(course: Path, file: str, text: str, capsys) -> None:
    pretend_executed(course)
    (course / file).write_text(f"# Title\n\n{text}")
    assert book.main(["--root", str(course), "--without-solutions"]) == 1
    assert "an answer not in the form of the others" in capsys.readouterr().err


def test_an_untagged_solution_is_refused(course: Path, capsys) -> None:
    path = course / "labs" / "01_demo.ipynb"
    lab = nbformat.read(path, as_version=4)
    lab.cells.append(
        nbformat.v4.new_markdown_cell("<details>\n<summary>Solution</summary></details>")
    )
    nbformat.write(lab, path)
    pretend_executed(course)
    assert book.main(["--root", str(course), "--without-solutions"]) == 1
    assert "a solution without the tag" in capsys.readouterr().err


def text_of(file: str, text: str) -> Callable[[Path], object]:
    return lambda course: (course / file).open("a").write(text)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "undefined number": (text_of("book/01_demo.md", "\n{{ lab01.nothing }}\n"), "nothing"),
    "undefined lab": (text_of("book/intro.md", "\n{{ lab77.macs }}\n"), "lab77"),
    "unknown page": (text_of("book/intro.md", "\n{doc}`02_none`\n"), "02_none"),
    "unknown label": (text_of("book/intro.md", "\n{ref}`no-such-label`\n"), "no-such-label"),
    "unknown file": (text_of("book/intro.md", "\n[there](none.md)\n"), "none.md"),
    "unknown place": (text_of("book/intro.md", "\n[there](01_demo.md#no-place)\n"), "no-place"),
    "unknown citation": (text_of("book/intro.md", "\n{cite}`nobody`\n"), "nobody"),
    "missing figure": (text_of("book/intro.md", "\n![alt](figures/none.svg)\n"), "none.svg"),
    "Sphinx warning": (text_of("book/intro.md", "\n#### A heading too deep\n"), "H1 to H4"),
    "unknown helper": (text_of("book/intro.md", "\n{py:func}`helpers.none`\n"), "helpers.none"),
    "unknown module": (
        text_of("book/intro.md", "\n```{eval-rst}\n.. automodule:: helpers.gone\n```\n"),
        "module 'gone'",
    ),
    "image without alt text": (
        text_of("book/intro.md", "\n![](figures/01_demo.svg)\n"),
        "alt text",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_book_is_refused_and_the_old_one_stays(course: Path, fault: str, capsys) -> None:
    pretend_executed(course)
    old = course / "_build" / "html"
    old.mkdir()
    (old / "index.html").write_text("the book of yesterday")
    breakage, message = FAULTS[fault]
    breakage(course)
    assert build(course) == 1
    assert message in capsys.readouterr().err
    assert (old / "index.html").read_text() == "the book of yesterday"
    left = {path.name for path in (course / "_build").iterdir()}
    assert left <= {"labs", "results", "html", "stage", "book.log"}, "no half book lies about"


TECHNIQUE = '''"""A technique with *args, a |bar| and a trailing_.

Chapter: 01_demo.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass
class _Hidden:
    """Not for readers."""


@dataclass
class Pair:
    """Two things: `left` and more.

    - the list that follows a paragraph;
    - with `code`.
    """

    left: list[int] = field(default_factory=list)


def widen(x: ArrayLike, by: Callable[[Pair], _Hidden] | None = np.sum) -> NDArray[np.int64]:
    """Widen `x`s by a factor.

    >>> widen(1)
    array([1])

    Raises:
        ValueError: if `x` is empty, or
            worse.
    """


def bare(x: int) -> int:
    return x
'''


@pytest.mark.slow
def test_the_reference_is_made_from_the_docstrings(course: Path) -> None:
    """A reference page builds without a warning, and links to the chapter."""
    (course / "helpers" / "technique").mkdir()
    (course / "helpers" / "technique" / "__init__.py").write_text(
        '"""The technique.\n\nChapter: 01_demo.\n"""\n'
        "from helpers.technique.inner import Pair, bare, widen\n"
        '__all__ = ["Pair", "bare", "widen"]\n'
    )
    (course / "helpers" / "technique" / "inner.py").write_text(TECHNIQUE)
    (course / "helpers" / "other.py").write_text('"""Another chapter.\n\nChapter: 02_none.\n"""\n')
    (course / "book" / "api").mkdir()
    page = "# Reference\n\nText before.\n\n% modules: 01_demo 02_none\n\nText after.\n"
    (course / "book" / "api" / "page.md").write_text(page)
    contents = yaml.safe_load((course / "_toc.yml").read_text())
    contents["chapters"].append({"file": "book/api/page"})
    (course / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False))
    pretend_executed(course)
    assert build(course) == 0
    html = (course / "_build" / "html" / "book" / "api" / "page.html").read_text()
    places = set(re.findall(r'id="(helpers[\w.]+)"', html))
    assert {"helpers.technique.Pair", "helpers.technique.widen"} <= places
    assert not {"helpers.technique.bare", "helpers.technique._Hidden"} & places
    article = html[html.index("<article") : html.index("</article>")]
    text = " ".join(unescape(re.sub(r"<[^>]+>", "", article)).split())
    assert "x: ArrayLike, by: Callable[[Pair], _Hidden] | None =" in text
    assert "NDArray[int64]" in text
    assert ">>> widen(1) array([1])" in text
    for part in (
        "Text before.",
        "Text after.",
        "Widen xs by a factor",
        "worse.",
        "Chapter: 02_none",
    ):
        assert part in text
    assert "typing." not in text


@pytest.mark.parametrize("page", ["book/01_demo.md", "labs/01_demo.ipynb"])
def test_a_missing_page_is_refused(course: Path, page: str, capsys) -> None:
    pretend_executed(course)
    (course / page).unlink()
    assert build(course) == 1
    assert f"pages that do not exist: {page.rsplit('.', 1)[0]}" in capsys.readouterr().err


def test_a_book_of_stale_labs_is_refused(course: Path, capsys) -> None:
    pretend_executed(course)
    CHANGES["helpers"](course)
    assert build(course) == 1
    assert "make labs" in capsys.readouterr().err


def test_figures_are_the_same_bytes_every_time(course: Path) -> None:
    for folder in ("one", "two"):
        assert book.draw(course, course / folder) == ["01_demo"]
    one, two = ((course / folder / "01_demo.svg").read_bytes() for folder in ("one", "two"))
    assert one == two


PAGES = {
    "missing": ({}, ["intro: in the table of contents but not in the book"]),
    "extra": ({"intro": "", "draft": ""}, ["draft: in the book but not in the table of contents"]),
    "traceback": (
        {"intro": "<pre>Traceback (most recent call last)</pre>"},
        ["intro: shows a traceback"],
    ),
    "no alt": ({"intro": '<img src="index.html">'}, ["intro: image index.html has no alt text"]),
    "dead link": (
        {"intro": '<a href="gone.html">'},
        ["link to gone.html, which is not in the book"],
    ),
    "dead place": (
        {"intro": '<h1 id="here"><a href="#here"><a href="#there">'},
        ["intro: link to #there, but that page has no such place"],
    ),
    "sound": ({"intro": '<a href="https://example.org/x#y"><a href="index.html">'}, []),
}


@pytest.mark.parametrize("case", PAGES)
def test_the_gate_reads_the_finished_pages(tmp_path: Path, case: str) -> None:
    written, expected = PAGES[case]
    for name, text in {"index": "", **written}.items():
        (tmp_path / f"{name}.html").write_text(text)
    found = list(book.faults(tmp_path, ["intro"]))
    assert bool(found) == bool(expected)
    for message in expected:
        assert any(message in fault for fault in found), found


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., list[str]]:
    """Run make beside an environment whose Python only notes what it is asked to do.

    It says of itself that it is newer than any version, except that in the variable OLD.
    """
    for file in ("Makefile", "pyproject.toml", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path)
    log, python = tmp_path / "log", tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || {{ echo "$@" >> {log}; exit 0; }}\n'
        'case "$2" in *"(${OLD:-9, 99})"*) exit 1; esac\n'
    )
    python.chmod(0o755)

    def run(*arguments: str, **variables: str) -> list[str]:
        log.write_text("")
        known = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "VENV", "PYTHON")}
        known = {k: v for k, v in known.items() if not k.startswith("MAKE")}
        command = ["make", "--silent", *arguments]
        subprocess.run(command, cwd=tmp_path, env={**known, **variables}, check=True)
        return log.read_text().splitlines()

    return run


def test_make_installs_only_when_the_requirements_changed(recorded, tmp_path: Path) -> None:
    first = recorded("book", "VENV=env")
    assert "-m pip install" in first[0]
    assert "-c constraints.txt -e .[book,test]" in first[0]
    assert first[1:] == ["-m tools.labs", "-m tools.book"]
    os.utime(tmp_path / "constraints.txt")
    assert recorded("book", "VENV=env") == first[1:], "a new date is no new content"
    (tmp_path / "constraints.txt").write_text("numpy==2.0\n")
    assert recorded("book", "VENV=env") == first
    assert len(list((tmp_path / "env").glob(".installed-*"))) == 1


@pytest.mark.parametrize(("value", "option"), [("0", " --without-solutions"), ("1", ""), ("", "")])
def test_make_can_leave_the_solutions_out(recorded, value: str, option: str) -> None:
    assert recorded("book", "VENV=env", f"SOLUTIONS={value}")[-1] == f"-m tools.book{option}"


def test_make_takes_the_active_environment(recorded, tmp_path: Path) -> None:
    assert recorded("labs", VIRTUAL_ENV=str(tmp_path / "env"))[-1] == "-m tools.labs"


def test_make_test_runs_nbval_on_the_labs(recorded) -> None:
    (command,) = recorded("test", "VENV=env")[1:]
    assert command.startswith("-m pytest labs tests --nbval-lax --nbval-current-env")


def test_make_lab_needs_a_name(recorded, capfd) -> None:
    assert recorded("lab", "NAME=01_cost", "VENV=env")[-1] == "-m tools.labs 01_cost"
    with pytest.raises(subprocess.CalledProcessError):
        recorded("lab", "VENV=env")
    assert "which lab?" in capfd.readouterr().err


def test_make_refuses_an_old_python(recorded, tmp_path: Path, capfd) -> None:
    (tmp_path / "old").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "old").chmod(0o755)
    with pytest.raises(subprocess.CalledProcessError):
        recorded("labs", "VENV=none", "PYTHON=./old")
    assert "needs Python 3.10 or newer" in capfd.readouterr().err


def test_make_refuses_an_old_environment(recorded, capfd) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        recorded("labs", "VENV=env", OLD="3, 10")
    assert "the environment env has a Python older than 3.10" in capfd.readouterr().err


def test_python_3_10_gets_the_newest_versions_that_it_can_have(recorded) -> None:
    """Half of the exact versions ask for Python 3.11."""
    older = recorded("labs", "VENV=env", OLD="3, 11")[0]
    assert older == "-m pip install --quiet --disable-pip-version-check -e .[book,test]"


def test_the_exact_versions_install_on_debian() -> None:
    """Debian 12 has Python 3.11.2, and some releases ask for a later one."""
    pinned = re.findall(r"(?m)^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text())
    assert len(pinned) > 100
    for name, version in pinned:
        try:
            known = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        if known["Version"] == version:
            assert SpecifierSet(known.get("Requires-Python") or "").contains("3.11.2"), name


def test_make_creates_the_environment(recorded, tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] || exec {sys.executable} "$@"\n'
        f'echo "$@" >> {tmp_path}/log; mkdir -p "$3"; cp -r {tmp_path}/env/bin "$3/"\n'
    )
    fake.chmod(0o755)
    found = recorded("labs", "VENV=new", "PYTHON=./fake")
    assert found[0] == "-m venv new"
    assert "-m pip install" in found[1]
    assert recorded("labs", "VENV=new", "PYTHON=./fake") == ["-m tools.labs"]
