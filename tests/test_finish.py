"""What is mended in the finished pages; the browser's checks say whether it helps."""

from pathlib import Path

from tools import finish

BRANCH = (
    '<li><a class="reference internal" href="#">Sizes &amp; <em>costs</em></a>'
    '<details open="open"><summary><span><i class="fa-solid fa-chevron-down"></i></span></summary>'
)
SCRIPT = (
    'x({"angle-left":[320,512,[8249],"f104","M41.4z"],bars:[448,512,["navicon"],"f0c9","M0z"],'
    'moon:[384,512,[127769,9214],"f186",["M1z","M2z"]],house:[576,512,[],"f015","M3z"]}),run()'
)


def test_the_arrow_of_a_branch_says_what_it_unfolds() -> None:
    mended = finish.mend(f"{BRANCH}\n{BRANCH.replace('Sizes', 'Bits')}")
    assert mended.count('<summary aria-label="Under Sizes &amp; costs"><span>') == 1
    assert mended.count('<summary aria-label="Under Bits &amp; costs"><span>') == 1
    assert finish.mend(mended) == mended


def test_other_folds_keep_the_words_that_they_show() -> None:
    solution = "<details><summary>Solution</summary>"
    assert finish.mend(solution) == solution
    assert finish.mend('<summary aria-label="Toggle hidden content">') == "<summary>"


def test_an_empty_header_of_a_table_is_a_cell() -> None:
    assert finish.mend("<th></th><th>MACs</th>") == "<td></td><th>MACs</th>"


def test_only_the_search_loads_the_index_of_words() -> None:
    tag = '    <script src="{}searchindex.js"></script>\n'
    assert finish.mend(tag.format("../")) == ""
    assert finish.mend(tag.format("")) == tag.format("")


def test_only_icons_that_a_page_or_script_mentions_stay(tmp_path: Path) -> None:
    folder = tmp_path / "_static" / "scripts"
    folder.mkdir(parents=True)
    (folder / "fontawesome.js").write_text(SCRIPT)
    (folder / "theme.js").write_text("button.className = 'fas fa-moon'")
    (tmp_path / "index.html").write_text('<i class="fas fa-angle-left"></i>')
    (tmp_path / "page.html").write_text('<i class="fa-solid fa-navicon fa-lg"></i>')
    finish.finish(tmp_path)
    expected = SCRIPT.replace('house:[576,512,[],"f015","M3z"]', "")
    assert (folder / "fontawesome.js").read_text() == expected
    (tmp_path / "page.html").write_text("nothing")
    finish.finish(tmp_path)
    assert "bars" not in (folder / "fontawesome.js").read_text()
    assert "run()" in (folder / "fontawesome.js").read_text()


def test_the_parameters_of_a_signature_are_a_list() -> None:
    parameter = '<dd><em class="sig-param"><span class="n">x</span></em>,</dd>\n'
    terms = "<dl>\n<dt>x</dt>\n<dd>y</dd>\n</dl>"
    text = finish.mend(f"<dt>f(\n<dl>\n{2 * parameter}</dl>\n)</dt>{terms}")
    assert text.count("<li>") == text.count("</li>") == 2
    assert '<ul class="parameters">' in text
    assert terms in text, "other lists of definitions stay"


def test_a_page_without_formulas_does_not_load_what_renders_them() -> None:
    scripts = '    <script>window.MathJax = {"options": {}}</script>\n'
    scripts += '    <script defer="defer" src="../_static/mathjax/tex-chtml.js"></script>\n'
    other = "    <script>let x = 1</script>\n"
    formula = '<span class="math notranslate nohighlight">'
    assert finish.mend(f"{other}{scripts}{other}") == other + other
    assert finish.mend(scripts + formula) == scripts + formula
    ignored = '<section class="tex2jax_ignore mathjax_ignore">'
    assert finish.mend(scripts + ignored) == ignored
