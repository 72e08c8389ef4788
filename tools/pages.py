"""Load every page of the book in headless Chromium and look at what a reader would see.

`python -m tools.pages [--screenshots]` serves `_build/html` on this machine, cuts every other host off,
and fails on a console error, a request to another host, mathematics that did not render, an image
without alt text or without content, and a Colab link that does not open an existing lab; on a page
of more than 3 MB, one that a phone shows cut off, something that a keyboard cannot reach or open, a
button that does not copy the code beside it, a solution that is not folded or does not unfold, a lab
that shows no picture where its panel would be; on what axe-core reports as a barrier in light or dark
colours, and on a search that finds nothing. What each page weighs goes to `_build/pages.json`.
"""

import argparse
import functools
import http.server
import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    TimeoutError,
    ViewportSize,
    sync_playwright,
)

from tools import book, stamp

ROOT = book.ROOT
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no other host is found
]
SCRIPT = Path(__file__).with_suffix(".js")
DESK, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
STILL = "document.getAnimations().every(one => one.playState !== 'running')"
MOST_BYTES = 3_000_000  # that one page loads, before compression
HARMFUL = {"moderate", "serious", "critical"}  # the impacts of axe-core that fail the check
WORD = "quantization"  # that a search must find
PATIENCE = 10_000  # milliseconds that a search may take


def chromium() -> str | None:
    """The Chromium of this machine, or None; the environment variable CHROMIUM names another."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    given = os.environ.get("CHROMIUM")
    return given or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/favicon.ico":  # a browser asks for it by itself
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

        def end_headers(self) -> None:
            self.send_header("Cache-Control", "max-age=3600")
            super().end_headers()

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def visit(running: Browser) -> Iterator[BrowserContext]:
    """A reader without a past: windows share what they have loaded, and nothing before."""
    context = running.new_context(viewport=DESK, color_scheme="light")
    context.add_init_script(path=SCRIPT)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    try:
        yield context
    finally:
        context.close()


@functools.cache
def axe() -> str:
    """The script of axe-core, which looks for barriers to readers with a disability."""
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def look(
    reader: BrowserContext,
    address: str,
    page: str,
    colab: set[str],
    picture: Path | None = None,
    weights: dict[str, dict[str, int]] | None = None,
) -> list[str]:
    """Load one page; return what is wrong with it. `colab` holds the links that may stand there.

    What the page weighs is added to `weights`.
    """
    faults: list[str] = []
    host = urlsplit(address).netloc

    def asked(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != host:
            faults.append(f"asks another host: {request.url}")

    def answered(response: Response) -> None:
        if response.status >= 400:
            faults.append(f"{response.status} for {response.url}")

    def said(message: ConsoleMessage) -> None:
        if message.type == "error":
            faults.append(f"console: {message.text}")

    tab = reader.new_page()
    tab.on("pageerror", lambda error: faults.append(f"script error: {error}"))
    tab.on("console", said)
    tab.on("request", asked)
    tab.on("response", answered)
    try:
        tab.goto(f"{address}/{page}.html", wait_until="load", timeout=60_000)
        seen = tab.evaluate("course.seen()")
        faults += judge(seen, colab)
        if weights is not None:
            weights[page] = weight(seen["loaded"])
        if page.startswith("labs/") and not seen["explore"]:
            faults.append("the Explore section shows no picture where the panel would be")
        if picture is not None:
            photograph(tab, picture)
        tab.set_viewport_size(PHONE)
        tab.wait_for_function(STILL)
        faults += judge_narrow(tab.evaluate("course.narrow()"))
        tab.set_viewport_size(DESK)
        faults += keyboard(tab)
        faults += solutions(tab)
        faults += copying(tab)
        faults += accessible(tab)
    finally:
        tab.close()
    return [f"{page}: {fault}" for fault in faults]


def photograph(tab: Page, picture: Path) -> None:
    """Save the whole page, and what its first window shows in dark colours and on a phone."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=picture, full_page=True)
    tab.emulate_media(color_scheme="dark")
    tab.screenshot(path=picture.with_stem(f"{picture.stem}-dark"))
    tab.emulate_media(color_scheme="light")
    tab.set_viewport_size(PHONE)
    tab.wait_for_function(STILL)  # the sidebar slides out
    tab.screenshot(path=picture.with_stem(f"{picture.stem}-phone"))


def judge(seen: dict[str, Any], colab: set[str]) -> Iterator[str]:
    """What is wrong with a loaded page, from what the browser reports of it."""
    if seen["rendered"] != seen["formulas"]:
        yield f"{seen['rendered']} of {seen['formulas']} formulas rendered"
    if seen["wide"] > 0:
        yield f"the page is {seen['wide']} pixels wider than the window"
    total = sum(weight(seen["loaded"]).values())
    if total > MOST_BYTES:
        yield f"the page loads {total:,} bytes, more than {MOST_BYTES:,}"
    for text in seen["errors"]:
        yield f"mathematics has an error: {text}"
    for text in seen["raw"]:
        yield f"raw markup on the page: {text}"
    for image in seen["images"]:
        if not image["alt"].strip():
            yield f"image {image['source']} has no alt text"
        if not image["complete"] or not image["width"]:
            yield f"image {image['source']} does not show"
    for link in sorted(set(seen["colab"]) - colab):
        yield f"Colab link to {link}, which is no lab of this repository"
    for code in seen["unfolded"]:
        yield f"a solution is not folded: {code[:100]}"
    if seen["uncopied"]:
        yield f"{seen['uncopied']} code cells have no copy button"
    for element in seen["mouse"]:
        yield f"answers to a mouse only: {element}"


def weight(loaded: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The bytes that a page loads, before compression: its own, and by kind what all pages share."""
    suffixes = {".css": "styles", ".js": "scripts"}
    found: Counter[str] = Counter()
    for path, size in loaded:
        if not path.startswith("/_static/"):
            kind = "own"
        elif "mathjax" in path.lower():
            kind = "mathematics"
        else:
            kind = suffixes.get(Path(path).suffix, "fonts and the rest")
        found[kind] += size
    return dict(found)


def told(weights: dict[str, dict[str, int]]) -> Iterator[str]:
    """The weights in a few lines: own ones of the heaviest pages, and what all pages share."""
    own = sorted(((parts.get("own", 0), page) for page, parts in weights.items()), reverse=True)
    for size, page in own[:5]:
        total = sum(weights[page].values())
        yield f"{page}: {size / 1000:,.0f} KB of its own, {total / 1000:,.0f} KB with the shared"
    middle = own[len(own) // 2][0]
    shared: dict[str, int] = {}
    for parts in weights.values():
        for kind, size in parts.items():
            shared[kind] = max(shared.get(kind, 0), size)
    shared.pop("own", None)
    kinds = ", ".join(f"{kind} {size / 1000:,.0f}" for kind, size in sorted(shared.items()))
    total = sum(shared.values())
    yield f"median of {len(own)} pages: {middle / 1000:,.0f} KB of its own"
    yield f"shared: at most {total / 1000:,.0f} KB ({kinds})"


def judge_narrow(seen: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a page on a phone."""
    if seen["wide"] > 0:
        yield f"on a phone the page is {seen['wide']} pixels wider than the window"
    for element in seen["cut"]:
        yield f"on a phone this sticks out of the window: {element}"
    if seen["broken"]:
        words = ", ".join(seen["broken"][:5])
        yield f"on a phone {len(seen['broken'])} words in tables are broken: {words}"
    for element in seen["tiny"]:
        yield f"on a phone this text is under 12 pixels: {element}"


def keyboard(tab: Page) -> Iterator[str]:
    """Open everything folded with the Enter key; say what cannot be reached, seen or opened."""
    for stops in ("stops", "folds"):
        for number in range(tab.evaluate(f"course.{stops}().length")):
            this = f"course.{stops}()[{number}]"
            name = tab.evaluate(f"{this}.outerHTML.slice(0, 100)")
            focus = tab.evaluate(f"course.focus({this})")
            if not focus["reached"]:
                yield f"cannot have the keyboard's focus: {name}"
            elif not focus["shown"]:
                yield f"does not show the keyboard's focus: {name}"
            if stops == "folds" and not tab.evaluate(f"course.opened({this})"):
                tab.keyboard.press("Enter")
                try:
                    tab.wait_for_function(f"course.opened({this})", timeout=2000)
                except TimeoutError:
                    yield f"does not open by keyboard: {name}"


def solutions(tab: Page) -> Iterator[str]:
    """After everything folded was opened: what does not show its code."""
    for code in tab.evaluate("course.unshown()"):
        yield f"a solution that was unfolded does not show its code: {code}"


def copying(tab: Page) -> Iterator[str]:
    """Press the copy button of a cell and compare the clipboard with the cell."""
    button = tab.evaluate_handle("course.copying()").as_element()
    if button is None:
        return
    code = button.evaluate("e => e.parentElement.querySelector('pre').textContent")
    tab.evaluate("navigator.clipboard.writeText('')")
    button.click()
    with suppress(TimeoutError):
        tab.wait_for_function("async () => await navigator.clipboard.readText()", timeout=2000)
    copied = tab.evaluate("navigator.clipboard.readText()")
    if copied.strip() != code.strip():
        yield f"a button copies {copied[:50]!r} and not {code[:50]!r}"


def accessible(tab: Page) -> Iterator[str]:
    """What axe-core finds: by every rule, then again how well the dark colours can be read."""
    tab.evaluate("course.thin()")
    tab.evaluate(axe())
    seen = {"light": tab.evaluate("course.barriers()")}
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function("['dark', undefined].includes(document.documentElement.dataset.theme)")
    tab.wait_for_function(STILL)  # a colour half-way to another has any contrast
    seen["dark"] = tab.evaluate("course.barriers({runOnly: ['color-contrast']})")
    for colours, barriers in seen.items():
        for barrier in barriers:
            if barrier["impact"] in HARMFUL:
                yield (
                    f"{barrier['impact']} barrier in {colours} colours, {barrier['id']}: "
                    f"{barrier['help']}; {barrier['count']} times, first {barrier['first']}"
                )


def search(reader: BrowserContext, address: str) -> list[str]:
    """Search the book for a word that it is full of."""
    tab = reader.new_page()
    try:
        tab.goto(f"{address}/search.html?q={WORD}", timeout=60_000)
        tab.wait_for_selector("ul.search li a", timeout=PATIENCE)
    except TimeoutError:
        return [f"search: {WORD} is nowhere to be found in {urlsplit(address).scheme}: pages"]
    finally:
        tab.close()
    return []


def expected_links(root: Path, page: str) -> set[str]:
    """The Colab links that a page must have: a lab its own, a chapter that of its lab."""
    name = page.split("/")[-1]
    known = (root / "labs" / f"{name}.ipynb").exists()
    return {stamp.colab_address(root, name)} if known else set()


def check(
    root: Path,
    html: Path,
    screenshots: Path | None = None,
    weights: dict[str, dict[str, int]] | None = None,
) -> list[str]:
    """Load every page of the table of contents; return everything that is wrong.

    A browser for each processor, up to four, takes its share of the pages. What each page weighs is
    added to `weights`.
    """
    names = book.pages(root)
    colab = {stamp.colab_address(root, path.stem) for path in (root / "labs").glob("*.ipynb")}
    found: dict[str, list[str]] = {page: [] for page in [*names, "search"]}
    browsers = min(os.cpu_count() or 1, 4)

    def look_at(share: list[str]) -> None:
        with browser() as running, visit(running) as reader:
            for page in share:
                picture = screenshots / f"{page.replace('/', '-')}.png" if screenshots else None
                found[page] = look(reader, address, page, colab, picture, weights)

    def look_for(address: str) -> None:
        with browser() as running, visit(running) as reader:
            found["search"] += search(reader, address)

    with served(html) as address, ThreadPoolExecutor(browsers) as pool:
        list(pool.map(look_at, [names[start::browsers] for start in range(browsers)]))
        list(pool.map(look_for, [address, html.as_uri()]))
    for page in names:
        text = (html / f"{page}.html").read_text(encoding="utf-8")
        for link in expected_links(root, page):
            if f'href="{link}"' not in text:
                found[page].append(f"{page}: the Colab link {link} is missing")
    return [fault for page in found for fault in found[page]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the course")
    parser.add_argument("--screenshots", action="store_true", help="save _build/screenshots/*.png")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    html = root / "_build" / "html"
    if not html.is_dir():
        print("pages: there is no book yet; run `make book`", file=sys.stderr)
        return 1
    if find_spec("axe_playwright_python") is None:
        print("pages: axe-core is missing: pip install -e '.[test]'", file=sys.stderr)
        return 1
    if chromium() is None:
        print("pages: no Chromium found (install it, or name it in CHROMIUM)", file=sys.stderr)
        return 1
    pictures = root / "_build" / "screenshots" if options.screenshots else None
    weights: dict[str, dict[str, int]] = {}
    faults = check(root, html, pictures, weights)
    (root / "_build" / "pages.json").write_text(
        json.dumps(weights, indent=1, sort_keys=True) + "\n"
    )
    print("\n".join(told(weights)))
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"pages: {len(book.pages(root))} loaded in Chromium, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
