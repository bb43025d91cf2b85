import itertools
import warnings

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lungadv import plots
from lungadv.training.strategies import STRATEGIES


@pytest.fixture
def folder(tmp_path):
    """A folder that stands for a run's figures."""

    class Folder:
        figures = tmp_path

    plots.style()
    yield Folder
    plt.close("all")


def drawn(width, points):
    """A figure that fills `width` inches when saved, with one word of a size in its middle."""
    figure = plt.figure(figsize=(width, 2))
    inner = figure.add_axes((0, 0, 1, 1), xticks=[], yticks=[])
    inner.spines[:].set_visible(True)
    inner.text(0.5, 0.5, "word", fontsize=points)
    inner.text(0.2, 0.2, " ", fontsize=1)  # nothing to read
    inner.text(0.2, 0.2, "hidden", fontsize=1, visible=False)
    return figure


@pytest.mark.parametrize(
    ("width", "points", "readable"),
    [  # a page is 7.2 inches wide, a column 3.5; 0.2 of what is saved is the margin
        (10, 6 * 10.2 / 7.2 + 0.05, True),
        (10, 6 * 10.2 / 7.2 - 0.05, False),
        (5, 6 * 5.2 / 3.5 + 0.05, True),
        (5, 6 * 5.2 / 3.5 - 0.05, False),
        (7, 6.1, True),
    ],
)
def test_words_under_6_points_in_print_are_told(folder, width, points, readable):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plots.save(folder, drawn(width, points), "fig")
    assert [str(warning.message) for warning in told] == ([] if readable else ["fig: in print under 6 pt: word"])


def test_lines_of_strategies_can_be_told_apart_without_colour():
    looks = [plots.line_look(name) for name in STRATEGIES]
    assert len({(look["marker"], look["ls"]) for look in looks}) == len(STRATEGIES)


def test_the_legends_of_the_learning_curves_cover_no_curve():
    updates = pd.DataFrame({"update": range(100), "loss": 0.5})
    checks = pd.DataFrame({"update": [0, 50, 99], "nll": 0.4, "auc": [0.5, 0.99, 1.0]})
    figure = plots.learning_curves({name: (updates, checks) for name in STRATEGIES})
    figure.draw_without_rendering()
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert sorted(text.get_text() for legend in legends for text in legend.get_texts()) == sorted(STRATEGIES)
    boxes = [legend.get_window_extent() for legend in legends]
    assert not any(box.overlaps(axis.bbox) for box in boxes for axis in figure.axes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert plots.small_text(figure) == []


def test_numbers_of_a_log_axis_have_no_small_exponents(folder):
    figure, axis = plt.subplots(figsize=(2, 1.5))
    axis.set(xscale="log", xlim=(0.002, 900), yscale="log", ylim=(0.2, 0.9))
    figure.draw_without_rendering()
    shown = [label.get_text() for label in (*axis.get_xticklabels(which="both"), *axis.get_yticklabels(which="both"))]
    assert any("0.01" in text for text in shown) and any("0.4" in text for text in shown)
    assert not any("^" in text for text in shown)
