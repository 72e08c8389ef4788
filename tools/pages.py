"""Load every page of the book in headless Chromium and look at what a reader would see.

`python -m tools.pages [--screenshots]` serves `_build/html` on this machine, cuts every other host off,
and fails on a console error, a request to another host, mathematics that did not render, an image
without alt text or without content, and a Colab link that does not open an existing lab.
"""

import argparse
import functools
import http.server
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Route, sync_playwright

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
]
SEEN = """
async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const article = document.querySelector("article, main") || document.body;
  const visible = article.cloneNode(true);
  visible.querySelectorAll("pre, code, script, style, mjx-container").forEach(e => e.remove());
  return {
    title: document.title,
    wide: document.documentElement.scrollWidth - window.innerWidth,
    formulas: document.querySelectorAll(".math").length,
    rendered: document.querySelectorAll(".math mjx-container").length,
    errors: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => e.textContent),
    raw: visible.textContent.match(/\\$[^$\\n]+\\$|\\\\\\(|\\\\\\[|\\{\\{|:::|```|\\{[a-z-]+\\}`/g) || [],
    images: [...document.querySelectorAll("img")].map(e => (
      {source: e.getAttribute("src"), alt: e.alt, complete: e.complete, width: e.naturalWidth})),
    colab: [...document.querySelectorAll("a[href*='colab.research']")].map(e => e.href),
  };
}
"""


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


def look(
    running: Browser, address: str, page: str, colab: set[str], picture: Path | None = None
) -> list[str]:
    """Load one page; return what is wrong with it. `colab` holds the links that may stand there."""
    faults: list[str] = []
    host = urlsplit(address).netloc
    context = running.new_context(viewport={"width": 1280, "height": 900})

    def only_here(route: Route) -> None:
        if urlsplit(route.request.url).netloc == host:
            route.continue_()
        else:
            faults.append(f"asks another host: {route.request.url}")
            route.abort()

    context.route("**/*", only_here)
    tab = context.new_page()
    tab.on("pageerror", lambda error: faults.append(f"script error: {error}"))
    tab.on(
        "console",
        lambda message: (
            faults.append(f"console: {message.text}") if message.type == "error" else None
        ),
    )
    tab.on(
        "response",
        lambda response: (
            faults.append(f"{response.status} for {response.url}")
            if response.status >= 400
            else None
        ),
    )
    try:
        tab.goto(f"{address}/{page}.html", wait_until="networkidle", timeout=60_000)
        seen = tab.evaluate(SEEN)
        faults += judge(seen, colab)
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            tab.screenshot(path=str(picture), full_page=True)
    finally:
        context.close()
    return [f"{page}: {fault}" for fault in faults]


def judge(seen: dict[str, Any], colab: set[str]) -> Iterator[str]:
    """What is wrong with a loaded page, from what the browser reports of it."""
    if seen["rendered"] != seen["formulas"]:
        yield f"{seen['rendered']} of {seen['formulas']} formulas rendered"
    if seen["wide"] > 0:
        yield f"the page is {seen['wide']} pixels wider than the window"
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


def expected_links(root: Path, page: str) -> set[str]:
    """The Colab links that a page must have: a lab its own, a chapter that of its lab."""
    name = page.split("/")[-1]
    known = (root / "labs" / f"{name}.ipynb").exists()
    return {stamp.colab_address(root, name)} if known else set()


def check(running: Browser, root: Path, html: Path, screenshots: Path | None = None) -> list[str]:
    """Load every page of the table of contents; return everything that is wrong."""
    faults: list[str] = []
    colab = {stamp.colab_address(root, path.stem) for path in (root / "labs").glob("*.ipynb")}
    with served(html) as address:
        for page in book.pages(root):
            picture = screenshots / f"{page.replace('/', '-')}.png" if screenshots else None
            faults += look(running, address, page, colab, picture)
            text = (html / f"{page}.html").read_text(encoding="utf-8")
            for link in expected_links(root, page):
                if f'href="{link}"' not in text:
                    faults.append(f"{page}: the Colab link {link} is missing")
    return faults


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
    if chromium() is None:
        print("pages: no Chromium found (install it, or name it in CHROMIUM)", file=sys.stderr)
        return 1
    pictures = root / "_build" / "screenshots" if options.screenshots else None
    with browser() as running:
        faults = check(running, root, html, pictures)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"pages: {len(book.pages(root))} loaded in Chromium, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
