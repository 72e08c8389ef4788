"""The page checks in real Chromium: each fault is seen, and the built book has none."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tools import book, pages

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/labs/01_cost.ipynb"
IMAGE = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='9' height='9'%3E%3C/svg%3E"
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A running Chromium; without one the tests are skipped, in CI they fail."""
    if pages.chromium() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs Chromium for the page checks")
        pytest.skip("no Chromium on this machine: install it, or name it in CHROMIUM")
    with pages.browser() as running:
        yield running


def load(chromium: Browser, folder: Path, body: str) -> list[str]:
    html = f"<!DOCTYPE html><html><head><title>A page</title></head><body>{body}</body></html>"
    (folder / "page.html").write_text(html)
    with pages.served(folder) as address:
        return pages.look(chromium, address, "page", {COLAB})


FAULTS = {
    "console error": ("<script>console.error('something broke')</script>", "something broke"),
    "script error": ("<script>undefinedFunction()</script>", "undefinedFunction is not defined"),
    "foreign script": ("<script src='https://cdn.example.org/x.js'></script>", "cdn.example.org"),
    "foreign image": (f"<img alt='x' src='http://example.org/{COLAB[-5:]}.png'>", "example.org"),
    "foreign request": ("<script>fetch('https://example.org/a').catch(() => 0)</script>", "host"),
    "missing file": ("<img alt='x' src='none.png'>", "404 for"),
    "no alt text": (f'<img src="{IMAGE}">', "has no alt text"),
    "empty alt text": (f'<img alt=" " src="{IMAGE}">', "has no alt text"),
    "formula": ("<span class='math'>\\(x^2\\)</span>", "0 of 1 formulas rendered"),
    "too wide": ("<div style='width: 2000px'>x</div>", "pixels wider than the window"),
    "raw dollars": ("<p>The value $x^2$ is raw.</p>", "raw markup on the page: $x^2$"),
    "raw MyST": ("<p>See {doc}`01_cost`.</p>", "raw markup on the page: {doc}`"),
    "raw number": ("<p>It counted {{ lab01.macs }}.</p>", "raw markup on the page: {{"),
    "other Colab": (f"<a href='{COLAB.replace('OWNER', 'me')}'>x</a>", "no lab of this repository"),
    "no such lab": (f"<a href='{COLAB.replace('01', '99')}'>x</a>", "no lab of this repository"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen(chromium: Browser, tmp_path: Path, fault: str) -> None:
    body, message = FAULTS[fault]
    found = load(chromium, tmp_path, body)
    assert any(message in line for line in found), found


def test_a_sound_page_has_no_fault(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "script.js").write_text("console.log('fine')")
    body = f"<h1>A page</h1><script src='script.js'></script><img alt='A box' src=\"{IMAGE}\">"
    body += f"<a href='{COLAB}'>Colab</a><code>a $b$ in code</code> It costs $5."
    assert load(chromium, tmp_path, body) == []


def built() -> Path:
    html = ROOT / "_build" / "html"
    if not html.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("CI builds the book before it checks the pages")
        pytest.skip("there is no book yet: run `make book`")
    return html


@pytest.mark.slow
def test_every_page_of_the_book(chromium: Browser) -> None:
    assert pages.check(chromium, ROOT, built()) == []


def test_a_chapter_and_its_lab_must_link_to_colab() -> None:
    assert pages.expected_links(ROOT, "book/notation") == set()
    for lab in (ROOT / "labs").glob("*.ipynb"):
        for page in (f"book/{lab.stem}", f"labs/{lab.stem}"):
            (link,) = pages.expected_links(ROOT, page)
            assert link.endswith(f"/labs/{lab.stem}.ipynb")


def test_no_chromium_and_no_book_are_said_plainly(tmp_path: Path, monkeypatch, capsys) -> None:
    assert pages.main(["--root", str(tmp_path)]) == 1
    assert "run `make book`" in capsys.readouterr().err
    (tmp_path / "_build" / "html").mkdir(parents=True)
    monkeypatch.setattr(pages, "chromium", lambda: None)
    assert pages.main(["--root", str(tmp_path)]) == 1
    assert "no Chromium found" in capsys.readouterr().err


def test_the_browser_is_found_by_name_or_variable(monkeypatch) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(shutil, "which", {"chromium-browser": "/opt/browser"}.get)
    assert pages.chromium() == "/opt/browser"
    monkeypatch.setenv("CHROMIUM", "/elsewhere")
    assert pages.chromium() == "/elsewhere"


def test_the_pages_are_those_of_the_contents() -> None:
    assert book.pages(ROOT)[0] == "book/intro"
