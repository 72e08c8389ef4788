"""The house rules that can be read off the files: arrows, chapters, lengths, safe reading."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HELPERS = ROOT / "helpers"
GROUND = {
    "data", "models", "training", "cost", "report", "plots", "checks", "zoo", "food11", "files",
}  # fmt: skip
CHAPTERS = (
    "01_cost",
    "02_architecture",
    "03_binaryconnect",
    "04_pruning",
    "05_weight_sharing",
    "06_low_rank",
    "07_distillation",
    "08_slimming",
    "09_quantization",
    "09b_qat",
    "10_edge_recipe",
    "11_fpga_datapath",
    "12_fpga_pipeline",
    "13_scoreboard",
)
MODULES = sorted(
    path for path in HELPERS.rglob("*.py") if path.relative_to(HELPERS).parts[0] != "embedded"
)
PROGRAMS = [
    path
    for folder in ("helpers", "tools", "tests", "book")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part(path: Path) -> str:
    """The module or package of `helpers` that a file belongs to."""
    return path.relative_to(HELPERS).parts[0].removesuffix(".py")


def chapter(docstring: str | None) -> str | None:
    """The chapter that the last line of a docstring names."""
    found = re.fullmatch(r"Chapter: (\w+)\.", (docstring or "").strip().split("\n")[-1].strip())
    return found[1] if found else None


def floor(path: Path) -> str:
    """The floor of the house: "ground", the chapter of a technique, "fpga", or "package"."""
    name = part(path)
    if name == "__init__":
        return "package"
    if name in GROUND or name == "fpga":
        return "fpga" if name == "fpga" else "ground"
    return chapter(ast.get_docstring(ast.parse(path.read_text()))) or "no chapter"


def imported(tree: ast.AST) -> set[str]:
    """The parts of `helpers` that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "a relative import hides its arrow: write helpers.NAME"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = {name.split(".")[1] for name in found if name.startswith("helpers.")}
    return {
        name for name in parts if (HELPERS / name).is_dir() or (HELPERS / f"{name}.py").exists()
    }


FLOORS = {part(path): floor(path) for path in MODULES}
MAY_IMPORT = {
    "package": {"ground"},
    "ground": {"ground"},
    "fpga": {"ground", "fpga", "09_quantization"},
    **{name: {"ground", name} for name in CHAPTERS},
    # Deep Compression is a sequence: what is pruned is shared, then coded.
    "05_weight_sharing": {"ground", "05_weight_sharing", "04_pruning"},
    # Training through a quantizer starts from the grids and the traced network.
    "09b_qat": {"ground", "09b_qat", "09_quantization"},
    # The recipe is a sequence of techniques.
    "10_edge_recipe": {
        *("ground", "10_edge_recipe", "07_distillation", "08_slimming"),
        *("09_quantization", "09b_qat"),
    },
}


def wrong_arrows(path: Path, text: str) -> list[str]:
    allowed = MAY_IMPORT[floor(path)]
    return [name for name in sorted(imported(ast.parse(text))) if FLOORS[name] not in allowed]


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_arrows_point_down(path: Path) -> None:
    assert floor(path) in MAY_IMPORT, (
        f"{named(path)}: the docstring must end with 'Chapter: NN_name.'"
    )
    assert wrong_arrows(path, path.read_text()) == []


def test_the_arrow_test_sees_an_arrow_that_points_up() -> None:
    text = "def f():\n    from helpers import fpga, data\n"
    assert wrong_arrows(HELPERS / "models.py", text) == ["fpga"]
    assert wrong_arrows(HELPERS / "models.py", "import helpers.data") == []


def test_only_labs_and_the_bench_stand_above_the_house() -> None:
    for path in PROGRAMS:
        if HELPERS in path.parents:
            tree = ast.parse(path.read_text())
            names = {
                node.module.split(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module
            }
            assert not names & {"tools", "tests", "book", "labs"}, named(path)


def public(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_helper_names_its_chapter(path: Path) -> None:
    if part(path) in ("__init__", "checks"):
        pytest.skip("belongs to every chapter")
    tree = ast.parse(path.read_text())
    general = chapter(ast.get_docstring(tree))
    for node in public(tree):
        if node.name == "main":
            continue
        text = ast.get_docstring(node)
        assert text, f"{named(path)}: {node.name} has no docstring"
        assert (chapter(text) or general) in CHAPTERS, (
            f"{named(path)}: the docstring of {node.name}, or of its module, must end with "
            f"'Chapter: NN_name.', one of {', '.join(CHAPTERS)}"
        )


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_helper_fits_in_the_head(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 350, f"{named(path)} has {lines} lines: split it by what it does"


def test_labs_chapters_and_contents_go_together() -> None:
    labs = {path.stem for path in (ROOT / "labs").glob("*.ipynb")}
    chapters = {path.stem for path in (ROOT / "book").glob("[0-9][0-9]*_*.md")}
    contents = (ROOT / "_toc.yml").read_text()
    assert labs == chapters
    assert labs <= set(CHAPTERS)
    for name in labs:
        lines = [line.strip() for line in contents.splitlines()]
        pages = [line.split("file: ")[1] for line in lines if "file: " in line]
        assert f"book/{name}" in pages, f"_toc.yml lacks book/{name}"
        assert pages[pages.index(f"book/{name}") + 1] == f"labs/{name}", (
            "the lab follows its chapter"
        )


def unsafe(text: str) -> list[str]:
    """Calls that read a file by running what it says."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            found += [f"import {name}" for name in names & {"pickle", "dill", "marshal"}]
            if getattr(node, "module", None) == "joblib":
                found += [f"joblib.{name}" for name in names & {"load", "dump"}]
        if isinstance(node, ast.Call):
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            called = ast.unparse(node.func)
            if called == "torch.load" and keywords.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if keywords.get("allow_pickle") == "True":
                found.append(f"{called} with allow_pickle=True")
            if called in ("joblib.load", "joblib.dump"):
                found.append(called)
            if called.endswith(("extractall", "yaml.load", "yaml.unsafe_load")):
                found.append(called)
    return sorted(found)


@pytest.mark.parametrize("path", [p for p in PROGRAMS if "tests" not in p.parts], ids=named)
def test_no_file_is_read_with_pickle(path: Path) -> None:
    assert unsafe(path.read_text()) == []


def test_the_pickle_test_sees_unsafe_reading() -> None:
    text = "import pickle\ntorch.load('a')\nnp.load('b', allow_pickle=True)\nz.extractall('c')"
    assert len(unsafe(text)) == 4
    assert len(unsafe("from joblib import Parallel, load\njoblib.load('a')")) == 2
    assert unsafe("from joblib import Parallel, delayed") == []
    assert unsafe("torch.load('a', weights_only=True); np.load('b', allow_pickle=False)") == []
