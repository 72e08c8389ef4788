"""Write what every lab has in common into every lab, and the repository's address into all pages.

`_config.yml` alone knows the address. `python tools/stamp.py` writes into each lab the setup cell,
into each lab, page and the README the Colab links, into pages the address after `git clone`, and
clears what a run leaves behind in a notebook (outputs, execution counts, widget state). `--check`
changes nothing and exits with 1 if something would change.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com/github"
COLAB_LINK = re.compile(
    r"https://colab\.research\.google\.com/github/[^/\s]+/[^/\s]+/blob/[^/\s]+/labs/"
)
CLONE = re.compile(r"(?<=git clone )https://github\.com/[\w.-]+/[\w.-]+")
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

SETUP_CELL = """\
import importlib
import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

PACKAGE = "network-compression-fpga"
source = os.environ.get("COURSE_REPOSITORY")
if not source and util.find_spec("google") and util.find_spec("google.colab"):
    source = "{repository}"
if PACKAGE not in {{found.metadata["Name"] for found in metadata.distributions()}}:
    if not source:
        raise ModuleNotFoundError(
            "This notebook's Python does not have the course. Choose the kernel of the course's "
            f"environment, or in the course's folder run:\\n{{sys.executable}} -m pip install -e ."
        )
    address = source if "://" in source else Path(source).resolve().as_uri()
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", f"git+{{address}}"], check=True)
    importlib.invalidate_caches()

import helpers

assert getattr(helpers, "COURSE", "") == PACKAGE, f"another `helpers`: {{helpers.__file__}}"
helpers.versions()"""


def repository(root: Path) -> tuple[str, str]:
    """The address of the repository and its branch, from `_config.yml`."""
    known = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    url, branch = known["url"].rstrip("/").removesuffix(".git"), known["branch"]
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise ValueError(
            f"_config.yml: repository.url is {url!r}; Colab opens https://github.com/OWNER/REPOSITORY"
        )
    return url, branch


def colab_address(root: Path, lab: str) -> str:
    """Where Colab opens the lab of that name."""
    url, branch = repository(root)
    return f"{COLAB}/{url.removeprefix('https://github.com/')}/blob/{branch}/labs/{lab}.ipynb"


def setup_cell(root: Path) -> str:
    """The text of the setup cell, with the address in it."""
    url, branch = repository(root)
    return SETUP_CELL.format(repository=f"{url}@{branch}")


def stamped_lab(root: Path, path: Path) -> str:
    """The text that the lab at `path` should have."""
    notebook = nbformat.read(path, as_version=4)
    prefix = colab_address(root, path.stem).removesuffix(f"{path.stem}.ipynb")
    notebook.metadata = nbformat.from_dict(KERNEL)
    notebook.nbformat_minor = 5
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:03d}"
        cell.source = COLAB_LINK.sub(prefix, cell.source)
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        if "setup" in (tags or []):
            cell.source = setup_cell(root)
        cell.outputs, cell.execution_count = [], None
    return str(nbformat.writes(notebook, version=nbformat.NO_CONVERT)) + "\n"


def stamped(root: Path) -> dict[Path, str]:
    """The text that each lab and page should have."""
    prefix = colab_address(root, "").removesuffix(".ipynb")
    wanted = {path: stamped_lab(root, path) for path in sorted((root / "labs").glob("*.ipynb"))}
    for path in [*sorted((root / "book").glob("*.md")), root / "README.md"]:
        if path.exists():
            text = COLAB_LINK.sub(prefix, path.read_text(encoding="utf-8"))
            wanted[path] = CLONE.sub(repository(root)[0], text)
    return wanted


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the course")
    parser.add_argument("--check", action="store_true", help="only say what would change")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    changed = {
        path: text
        for path, text in stamped(root).items()
        if path.read_text(encoding="utf-8") != text
    }
    for path, text in changed.items():
        print(
            f"{path.relative_to(root)}: {'differs from' if options.check else 'set to'} the stamp"
        )
        if not options.check:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
    if options.check and changed:
        print("run: python tools/stamp.py", file=sys.stderr)
        return 1
    print(f"stamp: {len(changed)} files {'differ' if options.check else 'changed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
