"""A lab works the way Colab meets it: alone in an empty folder, without the course's package.

The environment is new and has Colab's usual packages and what they need, nothing else; they are
linked from the environment that runs the tests, so that torch is not downloaded again. The setup
cell has to get the rest from a clone of this repository, which takes a package index.
The numbers are those of the book, if this machine has executed the lab for it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from labs_found import LABS, ROOT
from tools import labs
from tools.robust import untimed

pytestmark = [pytest.mark.colab, pytest.mark.slow]

USUAL = (
    "torch", "torchvision", "numpy", "pandas", "matplotlib", "scikit-learn", "ipywidgets", "tqdm",
    "safetensors", "ipykernel", "nbclient",
)  # fmt: skip
OURS = "network-compression-fpga"
RUN = """
import sys, nbformat
from nbclient import NotebookClient
lab = nbformat.read(sys.argv[1], as_version=4)
setup = next(i for i, cell in enumerate(lab.cells) if "setup" in cell.metadata.get("tags", []))
again = nbformat.v4.new_code_cell(lab.cells[setup].source)  # it may be run twice
lab.cells.insert(setup + 1, again)
NotebookClient(lab, timeout=600, kernel_name="python3").execute()
print(again.outputs[0].text)
"""
WHERE = f"""
import importlib.metadata as metadata, helpers
print(helpers.__file__)
print(metadata.distribution("{OURS}").read_text("direct_url.json"))
"""


def closure(names: tuple[str, ...]) -> list[metadata.Distribution]:
    """The distributions called `names` and everything that they need on this machine."""
    waiting, found = list(names), {}
    while waiting:
        name = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # optional on this platform
        key = distribution.metadata["Name"].lower().replace("_", "-")
        if key in found:
            continue
        found[key] = distribution
        needs = [Requirement(text) for text in distribution.requires or []]
        waiting += [
            need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})
        ]
    return list(found.values())


def link(distribution: metadata.Distribution, site: Path) -> None:
    """Put the files of a distribution into another environment without copying where possible."""
    for file in distribution.files or []:
        if ".." in file.parts or "__pycache__" in file.parts:
            continue  # scripts belong to the other environment
        source, target = Path(str(file.locate())), site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    """A new virtual environment with Colab's usual packages; yields its interpreter."""
    (ROOT / "_build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".colab-", dir=ROOT / "_build") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        for distribution in closure(USUAL):
            link(distribution, Path(site.stdout.strip()))
        yield python


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository in its present state, committed or not."""
    folder = tmp_path_factory.mktemp("clone")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    commit = ["git", *author, "commit", "--quiet", "--allow-empty", "-m", "The present state"]
    subprocess.run(commit, cwd=folder, check=True)
    return folder


def installed(python: Path) -> dict[str, str]:
    """Names and versions of what an environment has."""
    code = "from importlib.metadata import distributions as d\n"
    code += "for f in d(): print(f.metadata['Name'].lower(), f.version)"
    shown = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return dict(line.split() for line in shown.stdout.splitlines())


def run(python: Path, folder: Path, *arguments: str, **variables: str) -> str:
    keep = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    keep |= {"JUPYTER_DATA_DIR": str(folder.parent / "jupyter"), **variables}
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=folder, env=keep, capture_output=True, text=True)
    assert done.returncode == 0, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    return done.stdout


def recorded(path: Path) -> dict[str, Any]:
    """What a lab recorded for the book, without the numbers that hang on time."""
    return untimed(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_lab_in_an_empty_folder(environment: Path, clone: Path, tmp_path: Path, lab: Path) -> None:
    run(environment, tmp_path, "-m", "pip", "uninstall", "--quiet", "--yes", OURS)
    before = installed(environment)
    assert OURS not in before
    assert not set(before) & {"onnx", "onnxruntime", "fvcore", "hypothesis"}, "not Colab's usual"
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(lab, empty)
    results = tmp_path / "results"
    variables = {"COURSE_REPOSITORY": str(clone), "COURSE_RESULTS": str(results)}
    versions = run(environment, empty, "-c", RUN, lab.name, **variables)
    assert OURS in versions
    after = installed(environment)
    assert {name: after[name] for name in before} == before, "nothing Colab has was replaced"
    where, address = run(environment, empty, "-c", WHERE).splitlines()
    assert Path(where).is_relative_to(environment.parent.parent)
    assert clone.as_uri() in address
    assert sys.prefix not in where
    assert [path.name for path in empty.iterdir()] == [lab.name]
    if labs.fresh(ROOT, lab.stem):
        book = recorded(ROOT / "_build" / "results" / f"{lab.stem}.json")
        assert recorded(results / f"{lab.stem}.json") == book
