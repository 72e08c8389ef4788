"""The CI script goes on after a failed step, says which failed, and ends red; the workflows run it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
STEPS = ["lint", "data subset", "labs", "book", "pages in Chromium", "labs as in Colab"]
STEPS += ["tests and nbval"]


@pytest.fixture
def ci(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run `.ci/run` where every program only says what it was asked, and one command fails."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    programs = tmp_path / "programs"
    programs.mkdir()
    environment = tmp_path / ".venv" / "bin"
    environment.mkdir(parents=True)
    for path in [programs / "make", programs / "apt-get", environment / "python"]:
        path.write_text(
            '#!/bin/sh\necho "$(basename "$0") $*"\ncase "$*" in *$FAILING*) exit 1; esac\n'
        )
        path.chmod(0o755)

    def run(failing: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "FAILING": failing, "PATH": f"{programs}:{os.environ['PATH']}"}
        command = ["bash", str(tmp_path / ".ci" / "run")]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)

    return run


def test_all_steps_run_and_the_end_is_green(ci) -> None:
    done = ci("nothing at all")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.split("=== summary ===")[1]
    assert all(f"{step:22} passed" in summary for step in ["environment", *STEPS])
    assert "FAILED" not in done.stdout


@pytest.mark.parametrize(
    ("failing", "name"),
    [
        ("lint", "lint"),
        ("fashion_subset.py --check", "data subset"),
        ("book", "book"),
        ("tools.pages", "pages in Chromium"),
        ("colab", "labs as in Colab"),
        ("test", "tests and nbval"),
    ],
)
def test_a_failed_step_is_named_and_the_end_is_red(ci, failing: str, name: str) -> None:
    done = ci(failing)
    assert done.returncode == 1
    summary = done.stdout.split("=== summary ===")[1]
    assert f"{name:22} FAILED" in summary
    assert summary.count("FAILED") == 2, "this step and the whole"
    assert "=== tests and nbval ===" in done.stdout, "the steps after it run all the same"


def test_without_an_environment_nothing_else_is_tried(ci) -> None:
    done = ci("environment")
    assert done.returncode == 1
    assert "=== lint ===" not in done.stdout


@pytest.mark.parametrize("name", ["ci", "weekly"])
def test_workflows_are_sound(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    workflow = yaml.safe_load(text)
    when = workflow[True]  # YAML reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    if name == "ci":
        assert set(when) == {"push", "pull_request"}
        assert "bash .ci/run" in text
        check, publish = (workflow["jobs"][job] for job in ("check", "publish"))
        steps = [str(step) for step in check["steps"]]
        places = [
            next(number for number, step in enumerate(steps) if word in step)
            for word in ("bash .ci/run", "make book SOLUTIONS=0", "upload-pages-artifact")
        ]
        assert places == sorted(places), "what is published has passed, and is built before"
        upload = check["steps"][places[-1]]
        assert "'_build/html_student' || '_build/html'" in upload["with"]["path"]
        for part in (upload, publish):
            assert "vars.PUBLISH == 'true'" in part["if"], "a fork publishes only if asked"
            assert "default_branch" in part["if"]
        assert publish["needs"] == "check"
    else:
        assert "schedule" in when
        newest, oldest = (workflow["jobs"][job] for job in ("newest", "oldest"))
        assert newest["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
        for job in (newest, oldest):
            commands = [step["run"] for step in job["steps"] if "run" in step]
            assert any(command.startswith("python -m tools.robust") for command in commands)
            assert any(command.startswith("python -m pytest tests") for command in commands)


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """The line of the workflow that makes exact versions of them reads every requirement."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "weekly.yml").read_text())
    steps = workflow["jobs"]["oldest"]["steps"]
    (line,) = (step["run"] for step in steps if "sed " in step.get("run", ""))
    done = subprocess.run(
        ["bash", "-euc", line.replace("tee oldest.txt", "cat")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    made = {Requirement(text).name: Requirement(text) for text in done.stdout.splitlines()}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(text.split(" #")[0]) for text in lines if not text.startswith("#")]
    assert sorted(made) == sorted(need.name for need in wanted)
    for need in wanted:
        (bound,) = need.specifier
        assert bound.operator == ">="
        assert str(made[need.name].specifier) == f"=={bound.version}"
