"""Grade the notebooks that students hand in, one process and one time limit for each exercise.

Of a notebook only two things count: the last definition of each exercise's function, and the
statements that bind the names this function uses. Check cells, outputs and everything else are
not run. The checks are the course's own, whatever the notebook says.

This runs other people's code. It survives endless loops, `sys.exit`, floods of output and greed for
memory, but it is no sandbox: grade strangers' work in a container or under an account of its own.
"""

import ast
import contextlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import re
import signal
import symtable
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from helpers import checks
from helpers.checks import Feedback

SECONDS = 30.0  # for one exercise; the slowest check of the course takes about one
MEMORY = 4 << 30  # bytes of data that one exercise may hold, where the system can limit it
START = 120.0  # seconds for a new process to import the checks on a busy machine


@dataclass(frozen=True)
class Result:
    """What became of one exercise of one notebook; "error" is what no check could judge."""

    notebook: str
    lab: str
    exercise: str
    result: str  # "correct", "wrong", "not attempted" or "error"
    message: str = ""


class NotebookError(ValueError):
    """A file is no notebook of this course; the text says why."""


def exercises() -> dict[str, list[str]]:
    """The names of the exercises of each lab, as `helpers/checks/` has them."""
    found: dict[str, list[str]] = {}
    for entry in pkgutil.iter_modules(checks.__path__):
        if entry.name in ("__main__", "grading"):
            continue
        module = importlib.import_module(f"helpers.checks.{entry.name}")
        chapter = re.search(r"Chapter: (\w+)\.\s*$", module.__doc__ or "")
        if chapter:
            found.setdefault(chapter[1], []).extend(
                name
                for name, value in vars(module).items()
                if hasattr(value, "__wrapped__") and value.__module__ == module.__name__
            )
    return dict(sorted(found.items()))


def report(namespace: Mapping[str, Any]) -> list[Feedback]:
    """The feedback of every exercise that `namespace` defines: in a lab, `check.report(globals())`."""
    names = [name for lab in exercises().values() for name in lab]
    found = [name for name in names if callable(namespace.get(name))]
    return [getattr(checks, name)(namespace[name]) for name in found]


@dataclass(frozen=True)
class _Statement:
    """One statement of the top level: the names it binds or changes, and those it reads."""

    cell: int
    text: str
    binds: frozenset[str]
    needs: frozenset[str]


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    """Names that the functions and classes inside `table` look up in the module."""
    for child in table.get_children():
        yield from (symbol.get_name() for symbol in child.get_symbols() if symbol.is_global())
        yield from _globals(child)


def _statement(cell: int, node: ast.stmt) -> _Statement:
    text = ast.unparse(node)
    table = symtable.symtable(text, "cell", "exec")
    symbols = table.get_symbols()
    binds = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    needs = {s.get_name() for s in symbols if s.is_referenced()} | set(_globals(table))
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    for target in targets:
        while isinstance(target, ast.Attribute | ast.Subscript):  # table[3] = 4 changes table
            target = target.value
        binds |= {target.id} if isinstance(target, ast.Name) else set()
    return _Statement(cell, text, frozenset(binds), frozenset(needs - binds))


def _python(source: str) -> str:
    """A cell without the lines that only IPython understands."""
    try:
        ast.parse(source)
    except SyntaxError:
        return re.sub(r"(?m)^(\s*)(?:[%!?].*|[\w.]+\?{1,2}\s*)$", r"\1pass", source)
    return source


def _read(path: Path, solutions: bool) -> list[str]:
    """The code cells that count, in order."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8-sig"))["cells"]
        kept = []
        for cell in cells:
            tags = cell.get("metadata", {}).get("tags", [])
            if cell["cell_type"] == "code" and (solutions or "solution" not in tags):
                kept.append(_python("".join(cell["source"])))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise NotebookError(f"not a notebook of format 4 ({reason})") from error
    return kept


def _parsed(cells: list[str]) -> tuple[list[_Statement], dict[int, str]]:
    """The statements of all cells, and what is wrong with the cells that do not parse."""
    found, broken = [], {}
    for index, source in enumerate(cells):
        try:
            found += [_statement(index, node) for node in ast.parse(source).body]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            broken[index] = f"{error}"
    return found, broken


def _program(name: str, statements: list[_Statement]) -> str:
    """The statements that make the last definition of `name` work, as one text; "" without any."""
    cell = max((s.cell for s in statements if name in s.binds), default=None)
    if cell is None:
        return ""
    chosen: set[int] = set()
    done: set[str] = set()
    wanted = {name}
    while wanted - done:
        word = min(wanted - done)
        done.add(word)
        binding = [index for index, s in enumerate(statements) if word in s.binds]
        earlier = [index for index in binding if statements[index].cell <= cell]
        for index in earlier or binding:
            chosen.add(index)
            wanted |= statements[index].needs
    return "\n".join(statements[index].text for index in sorted(chosen))


def _lab(path: Path, cells: list[str]) -> str:
    """The lab that a notebook belongs to, by the exercises it defines or else by the file's name."""
    known, text = exercises(), "\n".join(cells)
    defined = set(re.findall(r"(?m)^(?:def )?(\w+)\b", text))
    found = max(known, key=lambda lab: len(defined & set(known[lab])))
    if defined & set(known[found]):
        return found
    for lab in known:
        if lab in path.stem:
            return lab
    raise NotebookError(f"no exercise of the labs {', '.join(known)} in it")


def _judge(program: str, name: str) -> tuple[str, str]:
    """Result and message of one exercise; runs in the process that may be lost."""
    check = getattr(checks, name)
    namespace: dict[str, Any] = {"__name__": "lab"}
    where = "the cells before it"
    try:
        exec(compile(program, "notebook", "exec"), namespace)
        where = "your function"
        function = namespace.get(name)
        if not callable(function):
            return "wrong", f"{name} is no function but {type(function).__name__}"
        feedback = check(function)
    except BaseException as error:
        return "error", f"{where} stopped with {type(error).__name__}: {error}"
    return feedback.status, feedback.message


def _process(connection: Connection, folder: str, program: str, name: str) -> None:
    """Judge one exercise in a process of its own, silent and in an empty folder."""
    if os.name == "posix":
        import resource

        os.setsid()  # so that what it starts ends with it
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.chdir(folder)
    connection.send_bytes(b"ready")
    result, message = _judge(program, name)
    connection.send_bytes(json.dumps([result, message[:1000]]).encode())


def _run(program: str, name: str, seconds: float) -> tuple[Any, str]:
    """Result and message of one exercise from a new process, whatever happens there."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["helpers.checks.grading"])
    here, there = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = context.Process(target=_process, args=(there, folder, program, name), daemon=True)
        process.start()
        there.close()
        try:
            if not here.poll(START) or here.recv_bytes() != b"ready":
                return "error", "the process did not start"
            if not here.poll(seconds):
                return "error", f"no answer within {seconds:g} s"
            result, message = json.loads(here.recv_bytes())
            return result, message
        except (EOFError, OSError):
            return "error", "your code ended the process or used up its memory"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.name == "posix":
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
            here.close()


def grade(path: str | Path, *, seconds: float = SECONDS, solutions: bool = False) -> list[Result]:
    """One `Result` for each exercise of the lab that the notebook at `path` belongs to.

    An exercise may take `seconds` on the wall clock. Cells tagged `solution` do not count, unless
    `solutions` asks for them: with it, a lab of the course is correct throughout.

    Raises NotebookError for a file that is no notebook, or not one of this course.
    """
    path = Path(path)
    cells = _read(path, solutions)
    lab = _lab(path, cells)
    statements, broken = _parsed(cells)
    results = []
    for name in exercises()[lab]:
        program = _program(name, statements)
        attempts = [index for index in broken if re.search(rf"\b{name}\b *[(=]", cells[index])]
        if attempts and attempts[-1] > max(
            (s.cell for s in statements if name in s.binds), default=-1
        ):
            result, message = "error", f"its cell is not Python: {broken[attempts[-1]]}"
        elif program:
            result, message = _run(program, name, seconds)
        else:
            result, message = "not attempted", "nothing in the notebook defines it"
        results.append(Result(str(path), lab, name, result, message))
    return results
