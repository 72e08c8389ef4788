"""The README's examples run as they stand there, and print what their comments say."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"(?m)^\*\*(.+?)\*\*.*\n\n```python\n((?s:.*?))^```", README)
START = re.findall(r"(?m)^```python\n((?s:.*?))^```", README)[0]
TECHNIQUES = (
    *("cost", "architecture", "binaryconnect", "pruning", "weight_sharing", "low_rank"),
    *("distillation", "slimming", "quantization", "qat", "edge_recipe", "fpga"),
)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each example prints, all run in turn in an empty folder."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    found = {}
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("readme"))
    try:
        exec(START, namespace)
        for title, source in BLOCKS:
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
                exec(compile(source, title, "exec"), namespace)
            found[title] = output.getvalue().splitlines()
    finally:
        os.chdir(before)
    return found


@pytest.mark.parametrize(("title", "source"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_an_example_prints_what_it_says(title: str, source: str, printed: dict) -> None:
    promised = re.findall(r"(?m)^print\(.*\)  # (.+)$", source)
    assert source.count("print(") == len(promised), "each print says what it prints"
    assert printed[title] == promised
    assert len(source.strip().splitlines()) <= 10
    assert max(map(len, source.splitlines())) <= 100


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_every_technique_has_an_example(technique: str) -> None:
    imports = rf"(?m)^from helpers(\.{technique}[\w.]* import| import (.*, )?{technique}\b)"
    assert any(re.search(imports, source) for _, source in BLOCKS)
