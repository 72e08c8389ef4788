"""Grade notebooks: `python -m helpers.checks NOTEBOOK ... [--json]`.

The exit code is 0 if every exercise is correct, 1 if some is not, and 2 if a file could not be graded.
"""

import argparse
import json
import sys
from dataclasses import asdict

from helpers.checks.grading import SECONDS, NotebookError, Result, grade


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.checks",
        description="Say which exercises of a student's lab are correct.",
        epilog="Exit code: 0 all correct, 1 something is not, 2 a file could not be graded.",
    )
    parser.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help="what a student handed in")
    parser.add_argument("--json", action="store_true", help="print JSON, one object an exercise")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="limit for an exercise (default: %(default)g)",
    )
    parser.add_argument(
        "--solutions", action="store_true", help="let cells tagged `solution` count as answers"
    )
    options = parser.parse_args(arguments)
    if options.seconds <= 0:
        parser.error(f"--seconds must be positive, got {options.seconds:g}")
    results, unread = [], False
    for path in options.notebooks:
        try:
            found = grade(path, seconds=options.seconds, solutions=options.solutions)
        except NotebookError as error:
            unread, found = True, [Result(path, "", "", "error", str(error))]
        results += found
        if not options.json:
            show(found)
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    return 2 if unread else int(any(result.result != "correct" for result in results))


def show(results: list[Result]) -> None:
    """Print the results of one notebook as a table."""
    right, first = sum(result.result == "correct" for result in results), results[0]
    if not first.exercise:
        print(f"{first.notebook}: {first.message}", flush=True)
        return
    print(f"{first.notebook}: lab {first.lab}, {right} of {len(results)} correct")
    width = max(len(result.exercise) for result in results)
    for result in results:
        print(f"  {result.exercise:{width}}  {result.result:13}  {result.message}".rstrip())
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
