"""Plots of pages: they take their colours from the page, and their parts lead into it."""

import re
import xml.etree.ElementTree as ET

import numpy as np

from dti_engine.html.plots import (
    Curve,
    Dot,
    Group,
    Line,
    _bar_range,
    curves,
    distribution,
    plot,
    scatter,
)


def _links(svg: str) -> list[tuple[str, str]]:
    """Return the links of the plot's parts, with the text under the pointer."""
    return re.findall(r'<a xlink:href="([^"]*)"><title>([^<]*)</title>', svg)


def test_a_plot_takes_its_colours_from_the_page() -> None:
    lines = [Line("one", [1.0, 2.0], "line-1"), Line("other", [2.0, 1.0], "line-ti", dashed=True)]
    svg = plot(lines, y_label="<angle>")
    assert svg.startswith("<svg")
    assert "var(--line-1)" in svg
    assert "var(--line-ti)" in svg
    assert "currentColor" in svg
    assert not re.findall("#[0-9a-f]{6}", svg)
    assert "&lt;angle&gt;" in svg


def test_each_dot_names_itself_and_leads_to_its_row_in_the_same_window() -> None:
    groups = [
        Group(
            "good", "line-1", [Dot(0.5, 0.9, 'a <b> & "c"', "#row-1"), Dot(0.6, 1, "d", "#row-2")]
        ),
        Group("bad", "flag", [Dot(0.1, 0.2, "e", "#row-3")]),
    ]
    svg = scatter(groups, x_label="x", y_label="y")
    assert _links(svg) == [
        ("#row-1", "a &lt;b&gt; &amp; &quot;c&quot;"),
        ("#row-2", "d"),
        ("#row-3", "e"),
    ]
    assert "target=" not in svg
    assert "var(--flag)" in svg
    ET.fromstring(svg)


def test_each_thread_leads_to_its_row_and_the_middle_is_among_them() -> None:
    one, other = Curve([(0, 1.0), (20, 0.8)], "one", "#row-1"), Curve([(0, 1.0)], "two", "#row-2")
    svg = curves(
        [Group("good", "line-1", [one]), Group("bad", "flag", [other])],
        [(0, 1.0), (20, 0.8)],
        y_label="y",
    )
    assert _links(svg)[0] == ("#row-1", "one")
    assert ">median</text>" in svg
    ET.fromstring(svg)


def test_a_distribution_takes_a_single_value_and_far_outliers() -> None:
    alone = distribution([Group("good", "line-1", [3.0])], x_label="x", y_label="y")
    wide = [
        Group("good", "line-1", [1 + i / 1e6 for i in range(2000)]),
        Group("bad", "flag", [9e6]),
    ]
    svg = distribution(wide, x_label="x", y_label="y")
    assert "var(--line-1)" in alone
    assert len(svg) < 100_000


def test_values_that_are_equal_but_for_rounding_fall_into_one_bar() -> None:
    svg = distribution([Group("all", "line-1", [1.7, 1.7 + 1e-9])], x_label="x", y_label="y")
    assert "e−" not in svg
    assert ">2</text>" in svg  # both in a bar, which is 2 high


def test_the_bars_of_a_histogram_add_up_to_all_values() -> None:
    random = np.random.default_rng(0)
    for _ in range(2000):
        values = random.normal(70, 10 ** random.uniform(-4, 2), random.integers(1, 40)).tolist()
        counts, edges = np.histogram(values, bins=9, range=_bar_range(values))
        assert counts.sum() == len(values)
        assert edges[-1] - edges[0] > 0.999
