"""Build the HTML book from the chapters and the executed labs, and refuse a book with a fault.

`python -m tools.book` puts `_config.yml`, `_toc.yml`, `book/`, the labs that `tools.labs` executed
and freshly drawn figures into `_build/stage`, runs jupyter-book on it with every warning an error,
finishes and checks the pages, and only then replaces `_build/html`. With nothing changed it does
nothing.
`--without-solutions` builds a second book, in `_build/html_student`, without the labs' solutions and
without the answers under the chapters' questions; the first one stays as it is.
`--links` asks every external address that the pages name whether it answers.
"""

import argparse
import hashlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import yaml
from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml

from tools import api, finish, labs

ROOT = labs.ROOT
GENERATED = {"genindex", "search", "index"}  # pages that Sphinx adds to those of the contents
ANSWER = re.compile(r"(?ms)^(:{3,})\{admonition\} Answer\n.*?^\1[ \t]*\n?")
CHAPTER = re.compile(r"\{doc\}`(?:[^`<>]*<)?/?(?:book/)?(\d\d[a-z]?_\w+)>?`")
TOOLS = ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme", "matplotlib")


class BookError(Exception):
    """The book cannot be built; the text says why."""


def pages(root: Path) -> list[str]:
    """The pages of the table of contents, in order, as paths without suffix."""
    try:
        found = list(parse_toc_yaml(root / "_toc.yml"))
    except (OSError, MalformedError) as error:
        raise BookError(f"_toc.yml: {error}") from error
    missing = [page for page in found if source(root, page) is None]
    if missing:
        raise BookError(f"_toc.yml names pages that do not exist: {', '.join(missing)}")
    return found


def source(root: Path, page: str) -> Path | None:
    """The file of a page."""
    for suffix in (".md", ".ipynb"):
        if (root / f"{page}{suffix}").exists():
            return root / f"{page}{suffix}"
    return None


def lab_pages(found: list[str]) -> list[str]:
    return [page.removeprefix("labs/") for page in found if page.startswith("labs/")]


def fingerprint(root: Path, found: list[str]) -> str:
    """Hash everything that decides what the book looks like."""
    paths = [root / "_config.yml", root / "_toc.yml"]
    paths += [Path(str(module.__file__)) for module in (sys.modules[__name__], api, finish, labs)]
    for folder in ("book", "helpers"):
        paths += [
            path
            for path in sorted((root / folder).rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        ]
    for name in lab_pages(found):
        paths += [root / "_build" / "labs" / f"{name}{suffix}" for suffix in (".ipynb", ".json")]
        results = root / "_build" / "results" / f"{name}.json"
        paths += [results] if results.exists() else []
    digest = hashlib.sha256(" ".join(metadata.version(tool) for tool in TOOLS).encode())
    for path in paths:
        inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        digest.update(f"\0{inside}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def results(root: Path, name: str) -> dict[str, Any]:
    """What a lab recorded: its rows of the scoreboard and its measured numbers."""
    path = root / "_build" / "results" / f"{name}.json"
    if not path.exists():
        return {"rows": [], "measured": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def scoreboard(root: Path, found: list[str]) -> list[dict[str, Any]]:
    """The rows of all labs with the name of their lab, each method and network once.

    A lab may show its baseline again; the first lab's row stands.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name in lab_pages(found):
        for row in results(root, name)["rows"]:
            rows.setdefault((row["method"], row["network"]), {"lab": name, **row})
    return list(rows.values())


def substitutions(root: Path, found: list[str]) -> dict[str, Any]:
    """What the labs measured, as a chapter names it.

    `{{ lab01.key }}` is a number of lab 01 (with a space before a per cent sign, as in the text),
    `{{ scoreboard }}` a table of the rows of all labs, `{{ labs }}` one of what each lab took to
    run, and `{{ versions }}` one of what they ran with.
    """
    known: dict[str, Any] = {}
    for name in lab_pages(found):
        measured = results(root, name)["measured"]
        known[f"lab{name.split('_')[0]}"] = {
            key: re.sub(r"(?<=\d)%", "\N{NO-BREAK SPACE}%", str(value))
            for key, value in measured.items()
        }
    rows = [
        f"| [{row['lab'].split('_')[0]}](../labs/{row['lab']}.ipynb) | {row['method']} "
        f"| {row['network']} | {100 * row['accuracy']:.2f} | {row['parameters']:,} "
        f"| {row['macs']:,} | {row['bits']:.4g} | {row['bytes']:,} |"
        for row in scoreboard(root, found)
    ]
    head = ["lab", "method", "network", "accuracy (%)", "parameters", "MACs"]
    known["scoreboard"] = table([*head, "bits", "bytes"], rows, words=3)
    known["labs"] = running_times(root, found)
    known["versions"] = versions(root, found)
    return known


def running_times(root: Path, found: list[str]) -> str:
    """A table of the seconds and the memory of each lab, and of all."""
    cards = {name: labs.card(root, name) or {} for name in lab_pages(found)}
    rows = []
    for name, taken in cards.items():
        memory = taken.get("memory_mib")
        rows.append(
            f"| [{name}](../labs/{name}.ipynb) | {taken.get('seconds', '?')} "
            f"| {'?' if memory is None else memory} |"
        )
    seconds = [taken["seconds"] for taken in cards.values() if "seconds" in taken]
    peaks = [taken["memory_mib"] for taken in cards.values() if taken.get("memory_mib")]
    rows.append(
        f"| all labs: sum, and the largest | {sum(seconds):.1f} | {max(peaks, default='?')} |"
    )
    return table(["lab", "seconds", "MiB over the imports"], rows, words=1)


def versions(root: Path, found: list[str]) -> str:
    """A table of what the labs were executed with, and of the tools that made the pages.

    Where the labs were not all executed with the same, it says which was.
    """
    with_what: dict[str, dict[str, list[str]]] = {}
    for name in lab_pages(found):
        for what, value in (labs.card(root, name) or {}).get("made_with", {}).items():
            with_what.setdefault(what, {}).setdefault(value, []).append(name.split("_")[0])
    rows = []
    for what, values in with_what.items():
        told = [
            value if len(values) == 1 else f"{value} (lab {', '.join(numbers)})"
            for value, numbers in values.items()
        ]
        rows.append(f"| {what} | {'; '.join(told)} | labs |")
    rows += [f"| {tool} | {metadata.version(tool)} | pages |" for tool in TOOLS]
    return table(["what", "version", "made"], rows, words=3)


def table(head: list[str], rows: list[str], words: int) -> str:
    """A Markdown table whose first `words` columns are text and the others numbers."""
    rule = ["---" if column < words else "---:" for column in range(len(head))]
    return "\n".join([f"| {' | '.join(head)} |", f"| {' | '.join(rule)} |", *rows])


def draw(root: Path, folder: Path, rows: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Draw each figure of `book/figures/*.py` as SVG, the same bytes every time.

    A function with a parameter gets the rows of the scoreboard.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sys.path.insert(0, str(root))
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for path in sorted((root / "book" / "figures").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"figures_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, function in module.FIGURES.items():
            figure = function(rows) if inspect.signature(function).parameters else function()
            with matplotlib.rc_context({"svg.hashsalt": name}):
                figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)
            drawn.append(name)
    return drawn


def leave_out_solutions(folder: Path) -> None:
    """Take the solutions out of the staged labs and the answers out of the staged chapters."""
    for path in sorted((folder / "labs").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        labs.strip_solutions(notebook)
        if any("<summary>Solution" in cell.source for cell in notebook.cells):
            raise BookError(f"labs/{path.stem}: a solution without the tag `solution`")
        nbformat.write(notebook, path)
    for path in sorted(folder.rglob("*.md")):
        text = ANSWER.sub("", path.read_text(encoding="utf-8"))
        if re.search(r"(?im)^\W*\{(admonition|dropdown)\} *(answer|solution)", text):
            raise BookError(f"{path.relative_to(folder)}: an answer not in the form of the others")
        path.write_text(text, encoding="utf-8")


def refer_back(folder: Path) -> None:
    """End each staged chapter with those that refer to it and that it does not name itself."""
    chapters = {path.stem: path for path in sorted((folder / "book").glob("[0-9][0-9]*_*.md"))}
    texts = {name: path.read_text(encoding="utf-8") for name, path in chapters.items()}
    named = {name: {name, *CHAPTER.findall(text)} for name, text in texts.items()}
    for name, path in chapters.items():
        others = [other for other in chapters if name in named[other] and other not in named[name]]
        if others:
            listed = ", ".join(f"{{doc}}`{other}`" for other in others)
            path.write_text(
                f"{texts[name].rstrip()}\n\n**See also**: {listed}.\n", encoding="utf-8"
            )


def stage(root: Path, found: list[str], folder: Path, solutions: bool = True) -> None:
    """Lay out in `folder` everything that jupyter-book reads."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config.setdefault("parse", {})["myst_substitutions"] = substitutions(root, found)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        root / "book", folder / "book", ignore=shutil.ignore_patterns("*.py", "__pycache__")
    )
    (folder / "_config.yml").write_text(
        yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8"
    )
    shutil.copy(root / "_toc.yml", folder / "_toc.yml")
    if (root / "book" / "course.css").exists():
        (folder / "_static").mkdir()
        shutil.move(folder / "book" / "course.css", folder / "_static" / "course.css")
    (folder / "labs").mkdir()
    for name in lab_pages(found):
        if not labs.fresh(root, name):
            raise BookError(f"labs/{name} has not been executed since it changed: run `make labs`")
        shutil.copy(root / "_build" / "labs" / f"{name}.ipynb", folder / "labs")
    refer_back(folder)
    for path in sorted((folder / "book" / "api").glob("*.md")):
        path.write_text(api.expand(root, path.read_text(encoding="utf-8")), encoding="utf-8")
    if not solutions:
        leave_out_solutions(folder)
    used = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.md"))
    for name in draw(root, folder / "book" / "figures", scoreboard(root, found)):
        if f"figures/{name}.svg" not in used:
            print(f"note: no chapter shows figures/{name}.svg")


def sphinx(root: Path, folder: Path, output: Path, log: Path, builder: str = "html") -> bool:
    """Run jupyter-book with every warning an error; the whole text goes to `log`."""
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [str(folder), "--builder", builder]
    command += ["--path-output", str(output), "-W", "-n", "--keep-going", "--all"]
    environment = dict(os.environ, PYTHONWARNINGS="ignore::DeprecationWarning", NO_COLOR="1")
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(ROOT)])  # helpers, tools.api
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(
            command, cwd=root, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    return done.returncode == 0


def complaints(log: Path) -> list[str]:
    """The lines of the log that say what is wrong."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8"))
    lines = text.splitlines()
    found = [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL|\bbroken +http", line)]
    return found or lines[-30:]


class Page(HTMLParser):
    """What the gate wants to know of one HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tracebacks = "Traceback (most recent call last)" in text or "output traceback" in text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.ids.update(value for key in ("id", "name") if (value := known.get(key)))
        if tag == "img":
            self.images.append(known)
        address = known.get("src") if tag in ("img", "script") else known.get("href")
        if address:
            self.links.append(address)


def faults(html: Path, found: list[str]) -> Iterator[str]:
    """Everything that is wrong with the finished pages of `html`."""
    built = {
        path.relative_to(html).with_suffix("").as_posix()
        for path in html.rglob("*.html")
        if "_static" not in path.relative_to(html).parts
    }
    for page in sorted(set(found) - built):
        yield f"{page}: in the table of contents but not in the book"
    for page in sorted(built - set(found) - GENERATED):
        yield f"{page}: in the book but not in the table of contents"
    if len(built & set(found)) != len(found):
        yield f"{len(built & set(found))} pages for {len(found)} entries of the table of contents"
    parsed = {page: Page((html / f"{page}.html").read_text(encoding="utf-8")) for page in built}
    for page in found:
        if page in parsed:
            yield from page_faults(html, page, parsed)


def page_faults(html: Path, page: str, parsed: dict[str, Page]) -> Iterator[str]:
    if parsed[page].tracebacks:
        yield f"{page}: shows a traceback"
    for image in parsed[page].images:
        if not (image.get("alt") or "").strip():
            yield f"{page}: image {image.get('src')} has no alt text"
    for address in parsed[page].links:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        path = unquote(parts.path)
        target = (html / page).parent / path if path else html / f"{page}.html"
        if not target.exists():
            yield f"{page}: link to {address}, which is not in the book"
            continue
        name = os.path.relpath(target, html).removesuffix(".html")
        fragment = unquote(parts.fragment)
        if fragment and target.suffix == ".html" and fragment not in parsed[name].ids:
            yield f"{page}: link to {address}, but that page has no such place"


def products(root: Path, solutions: bool = True) -> tuple[Path, Path]:
    """The folder of the book's pages, and the file that says what they were made from."""
    suffix = "" if solutions else "_student"
    return root / "_build" / f"html{suffix}", root / "_build" / f"book{suffix}.json"


def build(root: Path, solutions: bool = True) -> bool:
    """Build the book if something changed; say whether there was anything to do."""
    found = pages(root)
    target, note = products(root, solutions)
    stale = [name for name in lab_pages(found) if not labs.fresh(root, name)]
    if stale:
        raise BookError(f"labs changed since they were executed: {', '.join(stale)} (`make labs`)")
    wanted = {"fingerprint": fingerprint(root, found), "pages": len(found)}
    if note.exists() and target.is_dir() and json.loads(note.read_text()) == wanted:
        return False
    folder, log = root / "_build" / "stage", root / "_build" / "book.log"
    folder.parent.mkdir(exist_ok=True)
    stage(root, found, folder, solutions)
    with tempfile.TemporaryDirectory(prefix=".book-", dir=root / "_build") as temporary:
        if not sphinx(root, folder, Path(temporary), log):
            raise BookError("\n".join([*complaints(log), f"(the whole log: {log})"]))
        html = Path(temporary) / "_build" / "html"
        finish.finish(html)
        wrong = list(faults(html, found))
        if wrong:
            raise BookError("\n".join(wrong))
        note.unlink(missing_ok=True)
        if target.exists():
            target.rename(Path(temporary) / "old")
        html.rename(target)
    note.write_text(json.dumps(wanted) + "\n")
    return True


def check_links(root: Path) -> None:
    """Ask every external address of the book whether it answers."""
    found = pages(root)
    log = root / "_build" / "links.log"
    with tempfile.TemporaryDirectory(prefix=".links-", dir=root / "_build") as temporary:
        folder = Path(temporary) / "stage"
        stage(root, found, folder)
        if not sphinx(root, folder, Path(temporary), log, builder="linkcheck"):
            raise BookError("\n".join(complaints(log)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the course")
    parser.add_argument("--links", action="store_true", help="check the external links instead")
    parser.add_argument(
        "--without-solutions", action="store_true", help="build the students' book instead"
    )
    options = parser.parse_args(arguments)
    root: Path = options.root.resolve()
    target, note = products(root, not options.without_solutions)
    try:
        if options.links:
            check_links(root)
            print("book: every external link answers")
            return 0
        changed = build(root, not options.without_solutions)
    except BookError as error:
        print(f"{error}\nbook: FAILED", file=sys.stderr)
        return 1
    result: dict[str, Any] = json.loads(note.read_text())
    state = "built" if changed else "nothing changed"
    print(f"book: {state}, {result['pages']} pages in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
