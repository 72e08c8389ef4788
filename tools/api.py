"""The reference pages: which helpers stand on which page, and their docstrings as Sphinx reads them.

A page in `book/api/` names chapters in a line `% modules: NN_name ...`; `expand` puts the helpers of
those chapters there. As a Sphinx extension the module turns docstrings, which are written to be read
in an editor, into reStructuredText, and links "Chapter: NN_name." to that chapter.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHAPTER = re.compile(r"(?m)^\s*Chapter: (\w+)\.$")
LISTING = re.compile(r"(?m)^% modules: (.+)$")
BLOCKS = ("Args:", "Returns:", "Raises:")
NDARRAY = re.compile(
    r"~numpy\.ndarray\[(?:~typing\.Any|tuple\[~typing\.Any, \.\.\.\]), ~numpy\.dtype\[([^\[\]]*)\]\]"
)
SECTION = """## `{name}`

```{{eval-rst}}
.. automodule:: {name}
   :members:
   :exclude-members: main
```
"""


def modules(root: Path, folder: str = "helpers") -> Iterator[tuple[str, str]]:
    """Name and chapter of each module that has a section: a package with `__all__` is one for all
    that it hands on from its files."""
    for path in sorted((root / folder).iterdir()):
        package = path / "__init__.py"
        name = f"{folder}/{path.stem}".replace("/", ".")
        if path.name.startswith("_") or name == "helpers.checks":
            continue  # the checks' own page says what of them is meant for others
        if package.exists() and "__all__" not in package.read_text(encoding="utf-8"):
            yield from modules(root, f"{folder}/{path.name}")
        elif package.exists() or path.suffix == ".py":
            text = (package if package.exists() else path).read_text(encoding="utf-8")
            chapter = CHAPTER.search(ast.get_docstring(ast.parse(text)) or "") or CHAPTER.search(
                text
            )
            if chapter:
                yield name, chapter[1]
            if package.exists():  # what the package does not hand on has sections of its own
                yield from (
                    found
                    for found in modules(root, f"{folder}/{path.name}")
                    if found[0] not in text
                )


def expand(root: Path, text: str) -> str:
    """The text of a page with a section for each helper of the chapters that it names."""
    known = list(modules(root))

    def sections(line: re.Match[str]) -> str:
        found = [
            SECTION.format(name=name)
            for wanted in line[1].split()
            for name, chapter in known
            if chapter == wanted
        ]
        return "\n".join(found)

    return LISTING.sub(sections, text)


def restructured(lines: list[str], pages: set[str]) -> list[str]:
    """A docstring as reStructuredText: code spans, lists, "Raises:" blocks, examples, links."""
    found: list[str] = []
    kind = "text"  # what the present lines are: text, list, block (of "Raises:"), code
    for line in lines:
        words = line.strip()
        bullet = words.startswith("- ")
        before = kind
        if words.startswith(">>>"):
            kind = "code"
        elif kind == "code" and not words:
            pass
        elif kind == "code" and (line.startswith("    ") or found[-1].strip()):
            pass  # what an example prints belongs to it, up to the end of the paragraph
        elif bullet:
            kind = "list"
        elif words and not line.startswith("  "):
            kind = "text"
        elif line.startswith("    ") and kind == "text":
            kind = "block" if found and found[-1] in BLOCKS else "code"
        if kind != before:
            found += ["", "::", ""] if kind == "code" else [""]
        chapter = CHAPTER.fullmatch(line)
        if kind == "code":
            found.append(f"    {line}".rstrip())
        elif kind == "block" and words:
            found.append(("  " if line.startswith("     ") else "- ") + inline(words))
        elif chapter and f"book/{chapter[1]}" in pages:
            found.append(f"Chapter: :doc:`{chapter[1]} </book/{chapter[1]}>`.")
        else:
            found.append(inline(line))
    return found


def inline(line: str) -> str:
    """One line of a docstring with its code spans marked and everything else taken literally."""
    parts = re.split(r"`([^`]+)`", line)
    parts[::2] = [re.sub(r"([\\*|`]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"\\ ``{part}``\\ " for part in parts[1::2]]
    return "".join(parts)


def process_signature(
    app: Any,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """A signature that parses, and NumPy's types by the names that the code has for them."""
    from numpy.typing import ArrayLike
    from sphinx.util.typing import stringify_annotation

    array_like = stringify_annotation(ArrayLike, "smart")

    def readable(text: str | None) -> str | None:
        if text is None:
            return None
        text = text.replace(array_like, "~numpy.typing.ArrayLike")
        text = re.sub(r"<[^<>]+>", "...", text)  # a default such as <factory>
        return NDARRAY.sub(r"~numpy.typing.NDArray[\1]", text)

    return readable(signature), readable(returns)


def process_docstring(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = restructured(lines, set(app.env.found_docs))


def find_exported(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve `helpers.pruning.sparse.CSR` to where it is documented, `helpers.pruning.CSR`.

    A type that is not documented, but is there, stays text. Any other name is left as a fault.
    """
    from sphinx.util.nodes import make_refnode

    parts = node.get("reftarget", "").split(".")
    objects = env.domains["py"].objects
    for length in range(len(parts) - 2, 0, -1):
        entry = objects.get(".".join([*parts[:length], parts[-1]]))
        if entry is not None and parts[0] == "helpers":
            return make_refnode(
                app.builder, node["refdoc"], entry.docname, entry.node_id, content, parts[-1]
            )
    module = sys.modules.get(".".join(parts[:-1]))
    return content if parts[0] == "helpers" and hasattr(module, parts[-1]) else None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process_docstring)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("missing-reference", find_exported)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
