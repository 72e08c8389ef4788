"""What the tests need to know of the labs: their cells by heading and by tag."""

from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parent.parent
LABS = sorted((ROOT / "labs").glob("*.ipynb"))


def cells(path: Path) -> list[Any]:
    """The cells of a lab."""
    return list(nbformat.read(path, as_version=4).cells)


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def section(lab: list[Any], heading: str) -> list[Any]:
    """The cells from the heading `## heading` up to the next one of that level."""
    found, inside = [], False
    for cell in lab:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            inside = cell.source.split("\n")[0] == f"## {heading}"
        if inside:
            found.append(cell)
    return found
