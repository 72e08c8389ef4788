"""Execute the labs that changed.

`python -m tools.labs [NAME ...]` runs each lab in a fresh kernel of this interpreter and writes

    _build/labs/NAME.ipynb      the executed lab, ready for the book
    _build/labs/NAME.json       what it was made from and with, its seconds and its memory
    _build/results/NAME.json    what the lab recorded for its chapter and the scoreboard

A lab runs again when its notebook, anything in `helpers/`, the requirements, the version of Python or
that of a package that the requirements name changed, and only then. A lab that fails leaves no product and makes the exit code 1.
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("pyproject.toml", "requirements.txt", "constraints.txt")
OPTIONAL = ("onnx", "onnxruntime")  # what a lab uses if it is there
CELL_TIMEOUT = 600  # seconds
BUDGET = {"seconds": 90, "memory_mib": 240}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
NO_PROXY_HERE = "http://127.0.0.1:9"  # nothing listens there: a lab that asks the network fails


class LabError(Exception):
    """A lab cannot be executed or its result cannot be published; the text says why."""


class ThisInterpreter(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernelspecs the machine has."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        argv += ["--log-level=ERROR"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def names(root: Path) -> list[str]:
    """The names of the labs of a book, in order."""
    return sorted(path.stem for path in (root / "labs").glob("*.ipynb"))


def versions(root: Path) -> dict[str, str]:
    """The version of Python and of each package that can decide a lab's numbers."""
    path = root / "requirements.txt"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = {"Python": platform.python_version()}
    for package in [*re.findall(r"(?m)^[A-Za-z][\w.-]*", text), *OPTIONAL]:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, str]:
    """What the machine says of itself, and the profile that the labs run in."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        lines = ""
    model = re.search(r"(?m)^model name\s*: *(.+?) *$", lines)
    can_ask = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if can_ask else os.cpu_count()
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": model[1] if model else platform.processor() or "not named",
        "cores": str(cores),
        "profile": os.environ.get("COURSE_PROFILE", "quick"),
    }


def fingerprint(root: Path, name: str) -> str:
    """Hash everything that decides what the lab called `name` puts out."""
    paths = [root / "labs" / f"{name}.ipynb", Path(__file__)]
    paths += [root / file for file in REQUIREMENTS if (root / file).exists()]
    paths += [
        path
        for path in sorted((root / "helpers").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    profile = os.environ.get("COURSE_PROFILE", "quick")
    digest = hashlib.sha256(f"{sys.version} {profile} {sorted(versions(root).items())}".encode())
    for path in paths:
        inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        digest.update(f"\0{inside}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def card(root: Path, name: str) -> dict[str, Any] | None:
    """What `_build/labs/NAME.json` says, or None if that or the executed lab is missing."""
    path = root / "_build" / "labs" / f"{name}.json"
    if not path.exists() or not path.with_suffix(".ipynb").exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    results = root / "_build" / "results" / f"{name}.json"
    return None if found["results"] and not results.exists() else found


def fresh(root: Path, name: str) -> bool:
    """Say whether the executed lab is there and was made from the present files."""
    found = card(root, name)
    return found is not None and found["fingerprint"] == fingerprint(root, name)


def imports(notebook: nbformat.NotebookNode) -> str:
    """The import statements of a lab, those inside a `try` too, each on its own line.

    PyTorch's optimizers import a large part of it with their first step, which belongs here as well.
    """
    lines = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            source = re.sub(r"(?m)^\s*[%!].*$", "", cell.source)
            try:
                tree = ast.parse(source)
            except SyntaxError:
                continue  # the cell itself reports it when it runs
            kinds = (ast.Import, ast.ImportFrom)
            lines += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    lines += ["import torch._dynamo"] if "import torch" in lines else []
    return "\n".join(lines)


MEASURE = """
def _rss(field, pid="self"):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))
"""
BEFORE = (
    MEASURE
    + """
for _line in %r.splitlines():
    try:
        exec(_line, {})
    except Exception:
        pass
try:
    with open("/proc/self/clear_refs", "w") as _file:
        _file.write("5")
    print(_rss("VmRSS:"))
except OSError:
    print("nan")
for _name in ("_rss", "_line", "_file", "_name"):
    globals().pop(_name, None)
"""
)
AFTER = MEASURE + "try:\n    print(_rss('VmHWM:'))\nexcept OSError:\n    print('nan')\n"


def ask(client: NotebookClient, code: str) -> float:
    """Run a hidden cell that prints one number."""
    cell = nbformat.v4.new_code_cell(code)
    client.nb.cells.append(cell)
    client.execute_cell(cell, len(client.nb.cells) - 1, store_history=False)
    client.nb.cells.pop()
    return float("".join(output.get("text", "") for output in cell.outputs))


def run(
    root: Path,
    name: str,
    results: Path,
    where: Path | None = None,
    variables: Mapping[str, str] | None = None,
    first: str = "",
) -> tuple[nbformat.NotebookNode, float, float | None]:
    """Execute one lab; return the notebook, its seconds and its peak growth in MiB.

    It runs in a new folder inside `where` (default: the system's temporary one), with the
    environment `variables` set, after the hidden code `first`.
    """
    path = root / "labs" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_manager_class=ThisInterpreter,
        record_timing=False,
        coalesce_streams=True,
        force_raise_errors=True,
    )
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    environment["COURSE_RESULTS"] = str(results)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment[variable] = NO_PROXY_HERE
    environment |= variables or {}
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=where) as folder:
        started = time.perf_counter()
        with client.setup_kernel(cwd=folder, env=environment):
            before = ask(client, f"{first}\n{BEFORE % imports(notebook)}")
            for index, cell in enumerate(notebook.cells):
                try:
                    client.execute_cell(cell, index)
                except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                    raise LabError(explain(path, index, cell, error)) from None
            after = ask(client, AFTER)
        seconds = time.perf_counter() - started
        left = sorted(found.name for found in Path(folder).iterdir())
    if left:
        raise LabError(f"{path}: left files in the folder it ran in: {', '.join(left)}")
    growth = after - before
    return notebook, seconds, None if growth != growth else max(growth, 0.0)


def explain(path: Path, index: int, cell: nbformat.NotebookNode, error: Exception) -> str:
    """Name the failing cell, show its source and the traceback."""
    source = "\n".join(f"    {line}" for line in cell.source.splitlines())
    traceback = str(error)
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            traceback = "\n".join(output.traceback)
    traceback = re.sub(r"\x1b\[[0-9;]*m", "", traceback)
    return f"{path}: cell {index} failed\n{source}\n{traceback}"


def publish(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Turn an executed lab into what the book can show without a kernel or a network.

    Widgets and progress bars are dropped, the setup cell is folded. The alt text that `helpers.plots.show` puts into an
    output's metadata becomes the cell metadata that MyST-NB reads; since that is one text for a
    cell, each further figure of a cell moves to a cell of its own without input.
    """
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    cells = []
    for index, cell in enumerate(notebook.cells):
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        if "setup" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = ["setup", "hide-input"]
        outputs, cell.outputs = [kept for kept in cell.outputs if shown(kept)], []
        target = cell
        for output in outputs:
            if "data" in output and any(kind.startswith("image/") for kind in output.data):
                alt = image_alt(output)
                if not alt:
                    raise LabError(
                        f"{path}: cell {index} shows a figure without alt text; "
                        "show it with plots.show(figure, alt=...)"
                    )
                if "mystnb" in target.metadata:
                    tags = [*cell.metadata.get("tags", []), "remove-input"]
                    target = nbformat.v4.new_code_cell("# one more figure", metadata={"tags": tags})
                    cells.append(target)
                target.metadata["mystnb"] = {"image": {"alt": alt}}
            target.outputs.append(output)
    notebook.cells = cells


def shown(output: nbformat.NotebookNode) -> bool:
    """Say whether the book shows an output: neither a widget nor a progress bar."""
    if output.output_type == "stream" and output.name == "stderr":
        return not re.search(r"\r|\d+%\||it/s|s/it", output.text)
    return WIDGET_VIEW not in output.get("data", {})


def image_alt(output: nbformat.NotebookNode) -> str:
    """The alt text of an image output, or ""."""
    for kind in output.data:
        if kind.startswith("image/"):
            alt = output.metadata.get(kind, {}).get("alt", "")
            return " ".join(str(alt).split())
    return ""


def discard(root: Path, name: str) -> None:
    """Remove every product of a lab."""
    for file in (f"labs/{name}.ipynb", f"labs/{name}.json", f"results/{name}.json"):
        (root / "_build" / file).unlink(missing_ok=True)


def strip_solutions(notebook: nbformat.NotebookNode) -> None:
    """Leave out the cells tagged `solution`: the folded text, its code and what that put out."""
    notebook.cells = [
        cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])
    ]


def without_solutions(root: Path) -> list[Path]:
    """Write each lab without its solutions to `_build/student`, for a class that hands work in."""
    folder = root / "_build" / "student"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.ipynb"):
        path.unlink()  # a lab that was renamed leaves nothing behind
    written = []
    for name in names(root):
        notebook = nbformat.read(root / "labs" / f"{name}.ipynb", as_version=4)
        strip_solutions(notebook)
        nbformat.write(notebook, folder / f"{name}.ipynb")
        written.append(folder / f"{name}.ipynb")
    return written


def execute(root: Path, name: str) -> dict[str, Any]:
    """Run the lab called `name` and put its products in place, or raise `LabError`."""
    before = fingerprint(root, name)
    discard(root, name)
    build = root / "_build"
    for folder in ("labs", "results"):
        (build / folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".running-", dir=build) as temporary:
        results = Path(temporary) / "results"
        results.mkdir()
        notebook, seconds, memory = run(root, name, results)
        publish(root / "labs" / f"{name}.ipynb", notebook)
        recorded = results / f"{name}.json"
        found: dict[str, Any] = {
            "lab": name,
            "seconds": round(seconds, 1),
            "memory_mib": None if memory is None else round(memory),
            "results": recorded.exists(),
            "made_with": {**machine(), **versions(root)},
            "fingerprint": before,
        }
        nbformat.write(notebook, Path(temporary) / f"{name}.ipynb")
        (Path(temporary) / f"{name}.json").write_text(
            json.dumps(found, indent=1) + "\n", encoding="utf-8"
        )
        if recorded.exists():
            shutil.move(recorded, build / "results" / f"{name}.json")
        for suffix in (".ipynb", ".json"):
            os.replace(Path(temporary) / f"{name}{suffix}", build / "labs" / f"{name}{suffix}")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME", help="labs to run (default: all)")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the course")
    parser.add_argument("--force", action="store_true", help="run even if nothing changed")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(os.cpu_count() or 1, 4),
        help="labs that run at a time (default: %(default)s); most use one thread",
    )
    parser.add_argument(
        "--student", action="store_true", help="write labs without solutions instead of running"
    )
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    root = options.root.resolve()
    if options.student:
        print("\n".join(str(path) for path in without_solutions(root)))
        return 0
    known = names(root)
    for name in options.names:
        if name not in known:
            parser.error(f"no lab called {name!r}; the labs are {', '.join(known) or 'none yet'}")
    for path in (root / "_build" / "labs").glob("*.ipynb"):
        if path.stem not in known:
            discard(root, path.stem)
    failures, wanted = [], []
    for name in options.names or known:
        if not options.force and fresh(root, name):
            print(f"{name}: nothing changed", flush=True)
        else:
            wanted.append(name)
    if wanted:
        print(f"running {len(wanted)} labs, up to {options.jobs} at a time", flush=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        running = {pool.submit(execute, root, name): name for name in wanted}
        for future in as_completed(running):
            name = running[future]
            try:
                found = future.result()
            except LabError as error:
                failures.append(name)
                print(f"{error}\n{name}: FAILED", file=sys.stderr, flush=True)
                continue
            over = [key for key, most in BUDGET.items() if (found[key] or 0) > most]
            note = f"  (over the budget of {BUDGET})" if over else ""
            memory = "?" if found["memory_mib"] is None else found["memory_mib"]
            print(f"{name}: {found['seconds']} s, {memory} MiB over the imports{note}", flush=True)
    if failures:
        print(f"labs that failed: {', '.join(sorted(failures))}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
