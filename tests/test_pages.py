"""The page checks in real Chromium: each fault is seen, and the built book has none."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

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


@pytest.fixture
def reader(chromium: Browser) -> Iterator[BrowserContext]:
    with pages.visit(chromium) as context:
        yield context


def load(reader: BrowserContext, folder: Path, body: str, name: str = "page") -> list[str]:
    """What the check finds in a page with one heading and `body`."""
    html = '<!DOCTYPE html><html lang="en"><head><title>A page</title></head>'
    html += f"<body><main><h1>A page</h1>{body}</main></body></html>"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / f"{name}.html").write_text(html)
    with pages.served(folder) as address:
        return pages.look(reader, address, name, {COLAB})


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


MOUSE = "<p style='cursor: pointer' onclick='this.remove()'>away</p>"
STUCK = "<details onkeydown='event.preventDefault()'><summary>Answer</summary><p>42</p></details>"
SHUT = "<details><summary tabindex='-1' inert>Answer</summary><p>42</p></details>"
HIDDEN_FOCUS = "<article><a href='#x' id='x' style='outline: none'>here</a></article>"
DEAD_ADMONITION = (
    "<div class='dropdown admonition'><p class='admonition-title'>Answer</p>"
    "<p style='display: none'>42</p></div>"
)
FAULTS |= {
    "not on a phone": ("<p style='width: 600px'>x</p>", "on a phone the page is"),
    "cut off": (
        "<div style='overflow: hidden'><p style='width: 600px'>x</p></div>",
        "on a phone this sticks out of the window: <p",
    ),
    "broken words": (
        "<table style='width: 9em; table-layout: fixed; overflow-wrap: anywhere'><thead><tr>"
        "<th style='width: 2em'>what</th><th>why</th></tr></thead><tbody><tr>"
        "<td>123456789</td><td>int8</td></tr></tbody></table>",
        "words in tables are broken: ",
    ),
    "tiny text": ("<p style='font-size: 11px'>x</p>", "this text is under 12 pixels: <p"),
    "mouse only": (MOUSE, "answers to a mouse only: <p"),
    "fold does not open": (STUCK, "does not open by keyboard: <summary"),
    "fold out of reach": (SHUT, "cannot have the keyboard's focus: <summary"),
    "answer without button": (DEAD_ADMONITION, "does not open by keyboard: <p"),
    "focus not to be seen": (HIDDEN_FOCUS, "does not show the keyboard's focus: <a"),
    "no copy button": ("<div class='cell_input'><pre>x = 1</pre></div>", "1 code cells have no"),
    "dead copy button": (
        "<div class='cell_input'><pre>x = 1</pre><button class='copybtn'>copy</button></div>",
        "a button copies '' and not 'x = 1'",
    ),
    "copies something else": (
        "<div class='cell_input'><pre>x = 1</pre><button class='copybtn' "
        "onclick='navigator.clipboard.writeText(`x`)'>copy</button></div>",
        "a button copies 'x' and not 'x = 1'",
    ),
    "open solution": ("<div class='tag_solution'><pre>y = 1</pre></div>", "is not folded: y = 1"),
    "empty solution": (
        "<div class='tag_solution'><details><summary>Show</summary>"
        "<div style='display: none'><pre>y = 1</pre></div></details></div>",
        "does not show its code: y = 1",
    ),
    "pale text": ("<p style='color: #aaa'>Too pale to read.</p>", "light colours, color-contrast"),
    "pale in the dark": (
        "<style>@media (prefers-color-scheme: dark) { p { color: #ccc } }</style><p>Pale.</p>",
        "dark colours, color-contrast",
    ),
    "nameless button": ("<button></button>", "critical barrier in light colours, button-name"),
    "pale code": (
        "<div class='highlight'><pre><span class='k'>if</span> <span class='k'>if</span> "
        "<span class='c' style='color: #bbb'># pale</span></pre></div>",
        "light colours, color-contrast",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen(reader: BrowserContext, tmp_path: Path, fault: str) -> None:
    body, message = FAULTS[fault]
    found = load(reader, tmp_path, body)
    assert any(message in line for line in found), found


SOUND = f"""
<script src='script.js'></script>
<article><p><a href='{COLAB}'>Colab</a> <code>a $b$ in code</code> It costs $5.</p></article>
<img alt='A box' src="{IMAGE}">
<div style='overflow-x: auto' tabindex='0'><p style='width: 600px'>scrolls by itself</p></div>
<details><summary>Answer</summary><p>42</p></details>
<div class='cell_input'><pre>x = 1</pre><button class='copybtn'
  onclick='navigator.clipboard.writeText("x = 1\\n")'>copy</button></div>
<div class='tag_solution'><details><summary>Show</summary><pre>y = 1</pre></details></div>
<label style='cursor: pointer'><input type='checkbox'> a box</label>
<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>
"""


def test_a_sound_page_has_no_fault(reader: BrowserContext, tmp_path: Path) -> None:
    (tmp_path / "script.js").write_text("console.log('fine')")
    assert load(reader, tmp_path, SOUND) == []


def test_a_heavy_page_is_seen(reader: BrowserContext, tmp_path: Path) -> None:
    (tmp_path / "script.js").write_text(f"/* {'x' * 2_900_000} */")
    assert load(reader, tmp_path, SOUND) == []
    (tmp_path / "script.js").write_text(f"/* {'x' * 3_000_000} */")
    (fault,) = load(reader, tmp_path, SOUND, "heavier")
    assert "bytes, more than 3,000,000" in fault


def test_pages_are_weighed(reader: BrowserContext, tmp_path: Path) -> None:
    """A page's own bytes are those of its text and pictures; what lies in _static is shared."""
    files = {"own.svg": 700, "_static/a.css": 1500, "_static/b.js": 2500, "_static/c.woff2": 3500}
    files["_static/mathjax/d.js"] = 4500
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(" " * size)
    body = "<link rel='stylesheet' href='_static/a.css'><script src='_static/b.js'></script>"
    body += "<script src='_static/mathjax/d.js'></script><img alt='x' src='own.svg'>"
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><title>A page</title>{body}")
    weights: dict[str, dict[str, int]] = {}
    with pages.served(tmp_path) as address:
        pages.look(reader, address, "page", set(), weights=weights)
    own = (tmp_path / "page.html").stat().st_size + 700
    shared = {"styles": 1500, "scripts": 2500, "mathematics": 4500}
    assert weights == {"page": {"own": own, **shared}}
    assert list(pages.told({**weights, "other": {"own": 50_000, "styles": 9_000}})) == [
        "other: 50 KB of its own, 59 KB with the shared",
        "page: 1 KB of its own, 9 KB with the shared",
        "median of 2 pages: 1 KB of its own",
        "shared: at most 16 KB (mathematics 4, scripts 2, styles 9)",
    ]


def test_a_lab_shows_a_picture_where_its_panel_would_be(reader, tmp_path: Path) -> None:
    missing = "labs/demo: the Explore section shows no picture where the panel would be"
    for explore in ("", "<section id='explore'><h2>Explore</h2></section>"):
        assert load(reader, tmp_path, explore, "labs/demo") == [missing]
    shown = f"<section id='explore'><h2>Explore</h2><img alt='A box' src=\"{IMAGE}\"></section>"
    assert load(reader, tmp_path, shown, "labs/demo2") == []


def test_a_search_must_find_something(reader: BrowserContext, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pages, "PATIENCE", 500)
    (tmp_path / "search.html").write_text("<ul class='search'></ul>")
    assert pages.search(reader, tmp_path.as_uri()) == [
        "search: quantization is nowhere to be found in file: pages"
    ]
    script = """<ul class='search'></ul><script>
        if (new URL(location).searchParams.get("q") == "quantization")
            document.querySelector("ul").innerHTML = "<li><a href='#'>A page</a></li>";
    </script>"""
    (tmp_path / "search.html").write_text(script)
    monkeypatch.undo()
    assert pages.search(reader, tmp_path.as_uri()) == []


def test_a_chapter_and_its_lab_must_link_to_colab() -> None:
    assert pages.expected_links(ROOT, "book/notation") == set()
    for lab in (ROOT / "labs").glob("*.ipynb"):
        for page in (f"book/{lab.stem}", f"labs/{lab.stem}"):
            (link,) = pages.expected_links(ROOT, page)
            assert link.endswith(f"/labs/{lab.stem}.ipynb")


def test_no_chromium_no_axe_and_no_book_are_said_plainly(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    assert pages.main(["--root", str(tmp_path)]) == 1
    assert "run `make book`" in capsys.readouterr().err
    (tmp_path / "_build" / "html").mkdir(parents=True)
    monkeypatch.setattr(pages, "find_spec", lambda name: None)
    assert pages.main(["--root", str(tmp_path)]) == 1
    assert "axe-core is missing" in capsys.readouterr().err
    monkeypatch.undo()
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
