"""Execute each lab again and again under changing circumstances and compare what it puts out.

`python -m tools.robust [NAME ...]` runs each lab `--times` times in a random order, each time in a
new folder with an awkward name, with an empty home folder and with as many threads as `--threads`
says in turn. A lab passes if

- every run gives the same outputs and records the same results, but for the cells tagged `timed`,
  which show times, and the results with the word `time` or `timed` in their key, and
- no run leaves anything in its working, its temporary or its home folder, other than the caches of
  the libraries it imports.

`--free-threads` lifts the labs' own limit of one thread for PyTorch. Sums are then made in another
order, numbers may differ, and only the labs' assertions are checked.
"""

import argparse
import difflib
import json
import os
import random
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from tools import labs

PLACES = ("plain", "with spaces", "größe-数据", "a/b/c/d", "100%", "it's", "[0-9]*")
CACHES = re.compile(r"\.(ipython|jupyter|cache|config|local|ses)|torchinductor_.*")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FREE = "import torch as _t; _t.set_num_threads({}); _t.set_num_threads = lambda count: None; del _t"
TIMED = re.compile(r"(\w+_)?timed?(_\w+)?")


@dataclass(frozen=True)
class Run:
    """One execution of a lab: which, where, and with how many threads."""

    lab: str
    number: int
    place: str
    threads: int
    free: bool


@dataclass(frozen=True)
class Outcome:
    """What a run put out, cell by cell without the timed ones, what it recorded and left behind."""

    run: Run
    seconds: float
    outputs: dict[str, str]
    results: dict[str, Any]
    left: list[str]


def plan(names: list[str], times: int, threads: list[int], free: bool, seed: int) -> list[Run]:
    """All runs in a random order; each lab meets the places and thread numbers in turn."""
    generator = random.Random(seed)
    runs = []
    for name in names:
        places = generator.sample(PLACES, len(PLACES))
        for number in range(times):
            place = places[number % len(places)]
            runs.append(Run(name, number, place, threads[number % len(threads)], free))
    generator.shuffle(runs)
    return runs


def shown(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The outputs of each cell that is not tagged `timed`, as text; figures as their bytes."""
    found = {}
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or "timed" in cell.metadata.get("tags", []):
            continue
        kept = [dict(output) for output in cell.outputs if labs.shown(output)]
        for output in kept:
            output.pop("execution_count", None)
        text = json.dumps(kept, sort_keys=True, indent=1, ensure_ascii=False)
        found[f"cell {index}"] = re.sub(r" at 0x[0-9a-f]+", "", text)
    return found


def untimed(results: dict[str, Any]) -> dict[str, Any]:
    """What a lab recorded, without the numbers that hang on time."""
    measured = results.get("measured", {})
    kept = {key: measured[key] for key in measured if not TIMED.fullmatch(key)}
    return {**results, "measured": kept}


def execute(root: Path, run: Run, keep: Path | None) -> Outcome:
    """Run one lab as `run` says, or raise `labs.LabError`."""
    with tempfile.TemporaryDirectory(prefix="robust-") as folder:
        base = Path(folder)
        work = base / "work" / run.place
        home, temporary, results = base / "home", base / "temporary", base / "results"
        for path in (work, home, temporary, results):
            path.mkdir(parents=True)
        variables = {"HOME": str(home), "TMPDIR": str(temporary)}
        variables |= {name: str(run.threads) for name in THREADS}
        first = FREE.format(run.threads) if run.free else ""
        notebook, seconds, _ = labs.run(root, run.lab, results, work, variables, first)
        left = [
            path.relative_to(base).as_posix()
            for path in (*work.iterdir(), *temporary.iterdir(), *home.iterdir())
            if not CACHES.fullmatch(path.name)
        ]
        recorded = results / f"{run.lab}.json"
        found = json.loads(recorded.read_text(encoding="utf-8")) if recorded.exists() else {}
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, keep / f"{run.lab}-{run.number}.ipynb")
        (keep / f"{run.lab}-{run.number}.json").write_text(json.dumps(found, indent=1))
    return Outcome(run, seconds, shown(notebook), untimed(found), left)


def differences(one: Outcome, other: Outcome) -> list[str]:
    """What another run of the same lab put out or recorded differently, a line each."""
    found = []
    for cell in sorted({*one.outputs, *other.outputs}):
        before, after = (outcome.outputs.get(cell, "").splitlines() for outcome in (one, other))
        if before != after:
            lines = difflib.unified_diff(before, after, lineterm="", n=0)
            changed = [line[:120] for line in lines if re.match(r"[-+](?![-+])", line)]
            found.append(f"{cell}: {' | '.join(changed[:4])}")
    for part in sorted({*one.results, *other.results}):
        first, second = one.results.get(part), other.results.get(part)
        if isinstance(first, dict) and isinstance(second, dict):
            keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
            found += [f"{part} {key}: {first.get(key)} | {second.get(key)}" for key in keys]
        elif first != second:
            found.append(f"{part}: {first} | {second}")
    return found


def verdict(outcomes: list[Outcome]) -> list[str]:
    """Everything that is wrong with the runs of one lab."""
    found = []
    first = min(outcomes, key=lambda outcome: outcome.run.number)
    for outcome in outcomes:
        name = f"{outcome.run.lab} run {outcome.run.number}"
        if outcome.left:
            found.append(f"{name}: left behind {', '.join(outcome.left)}")
        if not outcome.run.free:
            found += [f"{name}: {line}" for line in differences(first, outcome)]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME", help="labs to run (default: all)")
    parser.add_argument("--root", type=Path, default=labs.ROOT, help="folder of the course")
    parser.add_argument("--times", type=int, default=5, help="runs of each lab (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the random order (default: 0)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--free-threads", action="store_true", help="PyTorch may use them too")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--keep", type=Path, help="folder for the executed labs and results")
    options = parser.parse_args(arguments)
    if min(options.times, options.jobs, *options.threads) < 1:
        parser.error("--times, --threads and --jobs must be at least 1")
    root: Path = options.root.resolve()
    known = labs.names(root)
    for name in options.names:
        if name not in known:
            parser.error(f"no lab called {name!r}; the labs are {', '.join(known) or 'none yet'}")
    print(
        ", ".join(f"{name} {version}" for name, version in labs.versions(root).items()), flush=True
    )
    runs = plan(
        options.names or known, options.times, options.threads, options.free_threads, options.seed
    )
    done: dict[str, list[Outcome]] = {}
    wrong: list[str] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        running = {pool.submit(execute, root, run, options.keep): run for run in runs}
        for future in as_completed(running):
            run = running[future]
            where = f"{run.lab} run {run.number} ({run.threads} threads, in {run.place!r})"
            try:
                outcome = future.result()
            except labs.LabError as error:
                wrong.append(f"{where}: FAILED")
                print(f"{error}\n{where}: FAILED", file=sys.stderr, flush=True)
                continue
            done.setdefault(run.lab, []).append(outcome)
            print(f"{where}: {outcome.seconds:.1f} s", flush=True)
    for name in sorted(done):
        found = verdict(done[name])
        wrong += found
        print(f"{name}: {len(done[name])} runs, {'differences' if found else 'all the same'}")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
