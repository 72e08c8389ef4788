"""The tool that runs labs again and again sees a lab whose numbers depend on where or how it runs."""

from pathlib import Path

import nbformat
import pytest

from tools import robust

RECORD = """
import json, os
with open(os.path.join(os.environ["COURSE_RESULTS"], "01_demo.json"), "w") as file:
    json.dump({"lab": "01_demo", "rows": [], "measured": {"key": str(VALUE)}}, file)
"""


def write(course: Path, *sources: str, tag: str = "") -> None:
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    for cell in cells:
        cell.metadata["tags"] = [tag] if tag else []
    (course / "labs").mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), course / "labs" / "01_demo.ipynb")


def check(course: Path, *options: str) -> int:
    return robust.main(["--root", str(course), "--times", "2", *options])


def test_a_sound_lab_passes_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    write(tmp_path, "print(sum(range(10)))", RECORD.replace("VALUE", "45"))
    assert check(tmp_path, "--keep", str(tmp_path / "kept")) == 0
    shown = capsys.readouterr().out
    assert "01_demo: 2 runs, all the same" in shown
    assert "(1 threads, " in shown
    assert "(2 threads, " in shown
    assert len(list((tmp_path / "kept").glob("01_demo-*.ipynb"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "labs"]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import random; print(random.random())", "cell 0: "),
        ("import os; print(os.environ['OMP_NUM_THREADS'])", "cell 0: "),
        ("import os; print(os.getcwd())", "cell 0: "),
        (RECORD.replace("VALUE", "os.urandom(8)"), "measured key: "),
        ("import tempfile; tempfile.mkstemp();", "left behind temporary/"),
        ("import pathlib; (pathlib.Path.home() / 'notes').touch()", "left behind home/notes"),
        ("open('x', 'w').close()", "left files in the folder it ran in: x"),
        ("import os; assert os.environ['OMP_NUM_THREADS'] == '1'", "run 1 (2 threads"),
    ],
    ids=["chance", "threads", "folder", "results", "temporary", "home", "here", "one run fails"],
)
def test_a_lab_that_is_not_robust_is_named(
    tmp_path: Path, source: str, complaint: str, capsys
) -> None:
    write(tmp_path, source)
    assert check(tmp_path) == 1
    found = capsys.readouterr().err
    assert complaint in found
    assert "01_demo run" in found


def test_what_a_timed_cell_shows_and_a_time_that_is_recorded_may_differ(tmp_path: Path) -> None:
    shown = "import os; print(os.urandom(8))"
    write(tmp_path, shown, RECORD.replace("VALUE", "os.urandom(8)").replace('"key"', '"time_x"'))
    assert check(tmp_path) == 1
    write(
        tmp_path,
        shown,
        RECORD.replace("VALUE", "os.urandom(8)").replace('"key"', '"time_x"'),
        tag="timed",
    )
    assert check(tmp_path) == 0


def test_free_threads_lift_the_limit_of_the_lab_and_check_its_assertions_only(
    tmp_path: Path, capsys
) -> None:
    lab = "import torch\ntorch.set_num_threads(1)\nprint(torch.get_num_threads())"
    write(tmp_path, lab)
    free = ["--times", "1", "--threads", "2", "--free-threads"]
    assert check(tmp_path, *free, "--keep", str(tmp_path / "k")) == 0
    executed = nbformat.read(tmp_path / "k" / "01_demo-0.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text == "2\n"
    write(tmp_path, f"{lab}\nassert torch.get_num_threads() == 1")
    assert check(tmp_path, *free) == 1
    assert "cell 0 failed" in capsys.readouterr().err


def test_each_lab_meets_every_thread_number_and_different_places() -> None:
    runs = robust.plan(["a", "b"], 5, [1, 2], free=False, seed=0)
    assert [run.lab for run in runs] != sorted(run.lab for run in runs)
    for name in "ab":
        mine = sorted((run for run in runs if run.lab == name), key=lambda run: run.number)
        assert [run.number for run in mine] == [0, 1, 2, 3, 4]
        assert [run.threads for run in mine] == [1, 2, 1, 2, 1]
        assert len({run.place for run in mine}) == 5
    assert runs == robust.plan(["a", "b"], 5, [1, 2], free=False, seed=0)
    assert runs != robust.plan(["a", "b"], 5, [1, 2], free=False, seed=1)


@pytest.mark.parametrize("option", [["--times", "0"], ["--threads", "0"], ["--jobs", "0"], ["02"]])
def test_a_wrong_option_is_refused(tmp_path: Path, option: list[str], capsys) -> None:
    write(tmp_path, "1")
    with pytest.raises(SystemExit):
        robust.main(["--root", str(tmp_path), *option])
    assert capsys.readouterr().err.strip()
