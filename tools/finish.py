"""What the theme leaves undone in the finished pages: names for screen readers, and a lighter page.

`tools.book` calls `finish` on the folder that Sphinx wrote. `tools.pages` sees in a browser whether
each of these repairs still does what it is for.
"""

import html as markup
import re
from pathlib import Path

ICONS = Path("_static") / "scripts" / "fontawesome.js"
# An icon of that script: name, width, height, other names, code point, one or two outlines.
ICON = re.compile(r'"?([a-z0-9-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')
# A page of the contents that has pages under it, and the arrow that unfolds them.
BRANCH = re.compile(r"(<a [^>]*>)([^\n]*?)(</a><details(?: open=\"open\")?><summary)>")
# The parameters of a long signature, which Sphinx writes as a list of definitions without terms.
PARAMETERS = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>')
# What renders formulas, a megabyte, on a page that may have none.
MATHEMATICS = re.compile(
    r" *<script[^>]*>window\.MathJax = .*?</script>\n| *<script[^>]*mathjax[^>]*></script>\n"
)
FORMULA = re.compile(r'class="[^"]*\bmath\b')
REPAIRS = {
    # The brand and the buttons above the contents belong to no landmark.
    '<div class="sidebar-primary-items__start sidebar-primary__section">': (
        '<div class="sidebar-primary-items__start sidebar-primary__section" role="region" '
        'aria-label="Book">'
    ),
    # The label hides the visible text, "Show the code".
    '<summary aria-label="Toggle hidden content">': "<summary>",
    # An entry of a list is an item; the role that docutils writes is no longer in use.
    'role="doc-biblioentry"': 'role="listitem"',
    # A page other than that of the search loads the index of all words for nothing.
    **{
        f'    <script src="../{file}"></script>\n': ""
        for file in ("_static/searchtools.js", "_static/language_data.js", "searchindex.js")
    },
    # pandas puts empty headers above the index of a table.
    "<th></th>": "<td></td>",
}


def finish(html: Path) -> None:
    """Mend every page of the book in `html`, then drop the icons that no page shows."""
    used: set[str] = set()
    for path in sorted(html.rglob("*.html")):
        text = mend(path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
        used |= icons(text)
    for path in (html / "_static").glob("scripts/*.js"):
        if path.name != ICONS.name:
            used |= icons(path.read_text(encoding="utf-8"))
    if (html / ICONS).exists():
        script = (html / ICONS).read_text(encoding="utf-8")
        (html / ICONS).write_text(only(script, used), encoding="utf-8")


def mend(text: str) -> str:
    """One page with the repairs in it."""
    if not FORMULA.search(text):
        text = MATHEMATICS.sub("", text)
    for old, new in REPAIRS.items():
        text = text.replace(old, new)
    return PARAMETERS.sub(listed, BRANCH.sub(named, text))


def listed(parameters: re.Match[str]) -> str:
    """The parameters of a signature as the list that they are."""
    items = parameters[1].replace("<dd>", "<li>").replace("</dd>", "</li>")
    return f'<ul class="parameters">\n{items}</ul>'


def named(branch: re.Match[str]) -> str:
    """A branch of the contents whose arrow says what it unfolds."""
    title = markup.unescape(re.sub(r"<[^>]*>", "", branch[2]))
    return f'{branch[1]}{branch[2]}{branch[3]} aria-label="{markup.escape(f"Under {title}")}">'


def icons(text: str) -> set[str]:
    """The names of the icons that a page or a script mentions."""
    return set(re.findall(r"\bfa-([a-z0-9-]+)", text))


def only(script: str, used: set[str]) -> str:
    """Font Awesome's script with the icons of `used` and no others."""

    def kept(icon: re.Match[str]) -> str:
        names = {icon[1], *re.findall(r'"([a-z0-9-]+)"', icon[2])}
        return icon[0] if names & used else ""

    return ICON.sub(kept, script)
