"""The one address and the one setup cell reach every lab and page, and nothing else changes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from tools import stamp

OLD = "git clone https://github.com/OLD/NAME.git here\n"
LINK = "https://colab.research.google.com/github/OLD/NAME/blob/old/labs/01_cost.ipynb"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A course with one lab that was run, one chapter and a README."""
    for folder in ("labs", "book"):
        (tmp_path / folder).mkdir()
    config = {"repository": {"url": "https://github.com/someone/course", "branch": "trunk"}}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    setup = nbformat.v4.new_code_cell("old text", metadata={"tags": ["setup"], "scrolled": True})
    setup.outputs = [nbformat.v4.new_output("stream", text="an output\n")]
    setup.execution_count = 7
    title = nbformat.v4.new_markdown_cell(f"# 01 Costs\n[Colab]({LINK})", metadata={"lines": 2})
    cells = [title, setup]
    cells.append(nbformat.v4.new_code_cell("x = 1"))
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {"state": 1}})
    nbformat.write(notebook, tmp_path / "labs" / "01_cost.ipynb")
    for page in ("book/01_cost.md", "README.md"):
        (tmp_path / page).write_text(
            f"[Colab]({LINK}), [thop](https://github.com/some/where)\n{OLD}"
        )
    return tmp_path


def test_check_names_what_differs_and_changes_nothing(course: Path, capsys) -> None:
    before = (course / "README.md").read_text()
    assert stamp.main(["--root", str(course), "--check"]) == 1
    shown = capsys.readouterr().out
    for name in ("labs/01_cost.ipynb", "book/01_cost.md", "README.md"):
        assert name in shown
    assert (course / "README.md").read_text() == before


def test_stamp_writes_address_and_setup_cell(course: Path) -> None:
    assert stamp.main(["--root", str(course)]) == 0
    assert stamp.main(["--root", str(course), "--check"]) == 0
    new = "https://colab.research.google.com/github/someone/course/blob/trunk/labs/01_cost.ipynb"
    lab = nbformat.read(course / "labs" / "01_cost.ipynb", as_version=4)
    assert new in lab.cells[0].source
    assert lab.cells[1].source == stamp.setup_cell(course)
    assert "https://github.com/someone/course@trunk" in lab.cells[1].source
    assert lab.cells[2].source == "x = 1"
    for page in ("book/01_cost.md", "README.md"):
        text = f"[Colab]({new}), [thop](https://github.com/some/where)\n"
        text += "git clone https://github.com/someone/course here\n"
        assert (course / page).read_text() == text


def test_stamp_clears_what_a_run_left(course: Path) -> None:
    stamp.main(["--root", str(course)])
    stored = json.loads((course / "labs" / "01_cost.ipynb").read_text())
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    assert stored["cells"][1]["outputs"] == []
    assert stored["cells"][1]["execution_count"] is None
    assert stored["cells"][1]["metadata"] == {"tags": ["setup"]}
    assert stored["cells"][0]["metadata"] == {}
    ids = [cell["id"] for cell in stored["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("end", ["", "/", ".git"])
def test_the_address_may_be_copied_from_the_browser_or_the_clone(course: Path, end: str) -> None:
    config = {"repository": {"url": f"https://github.com/someone/course{end}", "branch": "trunk"}}
    (course / "_config.yml").write_text(yaml.safe_dump(config))
    assert stamp.repository(course) == ("https://github.com/someone/course", "trunk")


@pytest.mark.parametrize("url", ["https://example.org/a/b", "git@github.com:a/b", "a/b"])
def test_an_address_that_colab_cannot_open_is_refused(course: Path, url: str) -> None:
    (course / "_config.yml").write_text(yaml.safe_dump({"repository": {"url": url, "branch": "m"}}))
    with pytest.raises(ValueError, match=r"repository\.url"):
        stamp.main(["--root", str(course)])


RUN = """
import importlib.metadata, importlib.util, subprocess, sys, types
calls = []
subprocess.run = lambda command, **words: calls.append(command)
{world}
cell = open(sys.argv[1]).read()
try:
    for _ in range({times}):
        exec(cell, {{}})
except ModuleNotFoundError as error:
    print("refused:", error)
print("pip:", calls)
"""
ABSENT = "importlib.metadata.distributions = lambda: []\n"
COLAB = (
    "google = types.ModuleType('google'); google.__path__ = []\nsys.modules['google'] = google\n"
)
COLAB += "sys.modules['google.colab'] = types.ModuleType('google.colab')\n"
COLAB += "for name in ('google', 'google.colab'):\n"
COLAB += "    sys.modules[name].__spec__ = importlib.util.spec_from_loader(name, None)\n"
HERE = Path(__file__).resolve().parent.parent


def run_setup(tmp_path: Path, world: str, times: int = 1, **variables: str) -> str:
    """Run the setup cell in a process of its own where pip only records what it is asked for."""
    (tmp_path / "cell.py").write_text(stamp.setup_cell(HERE))
    (tmp_path / "run.py").write_text(RUN.format(world=world, times=times))
    environment = {k: v for k, v in os.environ.items() if k != "COURSE_REPOSITORY"}
    done = subprocess.run(
        [sys.executable, "run.py", "cell.py"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(HERE), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_setup_on_a_laptop_with_the_package_prints_versions(tmp_path: Path) -> None:
    shown = run_setup(tmp_path, "", times=2)
    assert "pip: []" in shown
    assert shown.count("network-compression-fpga") == 2
    assert "torch" in shown


def test_setup_on_a_laptop_without_the_package_says_what_to_do(tmp_path: Path) -> None:
    shown = run_setup(tmp_path, ABSENT)
    assert "refused: This notebook's Python does not have the course" in shown
    assert f"{sys.executable} -m pip install -e ." in shown
    assert "pip: []" in shown


def test_setup_in_colab_installs_from_the_stamped_address(tmp_path: Path) -> None:
    url, branch = stamp.repository(HERE)
    shown = run_setup(tmp_path, ABSENT + COLAB)
    assert f"'git+{url}@{branch}'" in shown
    assert "torch" not in shown.split("pip:")[1], "nothing that Colab has is asked for"


def test_setup_in_colab_leaves_an_installed_package_alone(tmp_path: Path) -> None:
    assert "pip: []" in run_setup(tmp_path, COLAB)


@pytest.mark.parametrize("address", ["https://host/team/course.git", "a clone"])
def test_setup_takes_the_repository_from_the_environment(tmp_path: Path, address: str) -> None:
    shown = run_setup(tmp_path, ABSENT, COURSE_REPOSITORY=address)
    clone = (tmp_path / "a clone").resolve().as_uri()
    wanted = address if "://" in address else clone
    assert f"'git+{wanted}'" in shown


def test_setup_refuses_another_package_called_helpers(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("def versions(): pass\n")
    with pytest.raises(AssertionError, match="another `helpers`"):
        run_setup(tmp_path, "")


def test_every_lab_and_page_of_this_course_is_stamped() -> None:
    differing = [
        path.name
        for path, text in stamp.stamped(HERE).items()
        if path.read_text(encoding="utf-8") != text
    ]
    assert differing == [], "run: python tools/stamp.py"


def test_stamping_survives_the_formatter(course: Path) -> None:
    """What ruff makes of a stamped lab is what the stamp makes of it."""
    stamp.main(["--root", str(course)])
    shutil.copy(HERE / "pyproject.toml", course)
    subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--quiet", "labs"], cwd=course, check=True
    )
    assert stamp.main(["--root", str(course), "--check"]) == 0
