"""Figures carry alternative text, are closed after showing, and differ without colour."""

import base64

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from helpers import plots

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(plots, "display", lambda data, **rest: calls.append((data, rest)))
    return calls


def test_show_puts_the_alt_text_into_the_metadata_and_closes(shown) -> None:
    figure, axis = plt.subplots()
    axis.plot([1, 2], [3, 4])
    plots.show(figure, alt="A rising line.")
    data, rest = shown[0]
    assert rest == {"raw": True, "metadata": {"image/png": {"alt": "A rising line."}}}
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize("alt", ["", "  \n", None])
def test_show_refuses_an_empty_alt(shown, alt) -> None:
    figure, _ = plt.subplots()
    with pytest.raises(ValueError, match="alt"):
        plots.show(figure, alt=alt)
    assert shown == []
    plt.close(figure)


def test_same_figure_gives_the_same_bytes(shown) -> None:
    for _ in range(2):
        figure, axis = plt.subplots()
        axis.plot([1, 2], [3, 4])
        plots.show(figure, alt="A rising line.")
    assert shown[0] == shown[1]


def test_lines_of_the_style_differ_without_colour() -> None:
    with mpl.rc_context():
        plots.style()
        figure, axis = plt.subplots()
        lines = [axis.plot([0, 1], [k, k])[0] for k in range(7)]
        looks = {(str(line.get_linestyle()), line.get_marker()) for line in lines}
        dashes = {str(line._dash_pattern) for line in lines}
        colours = {line.get_color() for line in lines}
        plt.close(figure)
    assert len({look[1] for look in looks}) == 7
    assert len(dashes) == 7
    assert len(colours) == 7


def test_bars_draw_values_and_refuse_unequal_lengths() -> None:
    figure, axis = plt.subplots()
    drawn = plots.bars(axis, ["a", "b"], [1.0, 10.0], xlabel="MACs (millions)", log=True)
    assert [bar.get_width() for bar in drawn] == [1.0, 10.0]
    assert axis.get_xlabel() == "MACs (millions)"
    assert axis.get_xscale() == "log"
    assert [t.get_text() for t in axis.texts] == ["1", "10"]
    with pytest.raises(ValueError, match="length"):
        plots.bars(axis, ["a"], [1.0, 2.0], xlabel="x")
    plt.close(figure)


def test_label_line_stands_at_the_last_point() -> None:
    figure, axis = plt.subplots()
    (line,) = axis.plot([0, 5], [1, 2])
    plots.label_line(axis, line, "roof")
    assert axis.texts[0].xy == (5, 2)
    assert axis.texts[0].get_color() == line.get_color()
    plt.close(figure)


def test_images_share_one_scale_and_refuse_other_shapes() -> None:
    figure = plots.images([np.zeros((2, 3)), np.full((2, 3), 9.0)], ["a", "b"], label="code")
    assert isinstance(figure, Figure)
    limits = {axis.images[0].get_clim() for axis in figure.axes if axis.images}
    assert limits == {(0.0, 9.0)}
    plt.close(figure)
    with pytest.raises(ValueError, match="shapes"):
        plots.images([np.zeros((1, 2, 3))])
    with pytest.raises(ValueError, match="shapes"):
        plots.images([])
