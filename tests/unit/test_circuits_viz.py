"""Figures about steering and circuits: they show what they are given, and name their axes."""

from __future__ import annotations

import numpy as np

from course_utils import viz
from course_utils.features import CircuitCurve, FeatureEdge, FeatureGraph, FeatureNode


def named(figure):
    return figure.layout.title.text and figure.layout.xaxis.title.text is not None


def a_graph():
    nodes = [
        FeatureNode(layer, position, latent, 3.0, effect, f"word {latent}")
        for layer, position, latent, effect in ((3, 1, 7, 0.1), (3, 1, 9, -0.2), (11, 2, 4, 0.5), (21, 2, 8, 1.0))
    ]
    edges = [
        FeatureEdge((3, 1, 7), (11, 2, 4), 2.0),
        FeatureEdge((3, 1, 9), (11, 2, 4), -1.0),
        FeatureEdge((11, 2, 4), (21, 2, 8), 0.5),
    ]
    return FeatureGraph(["<s>", " a", " b"], nodes, edges, [3, 11, 21])


def test_the_graph_has_a_line_an_edge_a_marker_a_node_and_a_slider():
    figure = viz.feature_graph_figure(a_graph(), "A circuit", strongest=(1, 3))
    assert len(figure.data) == 4
    assert len(figure.data[-1].x) == 4
    places = set(zip(figure.data[-1].x, figure.data[-1].y))
    assert len(places) == 4  # no node stands on another
    assert [step.label for step in figure.layout.sliders[0].steps] == ["1", "3"]
    assert sum(figure.layout.sliders[0].steps[0].args[0]["visible"]) == 1
    assert "+2.00" in "".join(trace.hovertext for trace in figure.data[:3])


def test_faithfulness_shows_the_curve_and_the_random_band():
    curve = CircuitCurve([1, 4], [0.2, 0.6], [0.9, 0.8], np.zeros((2, 2)), np.ones((2, 2)), 0.9, 0.3, 50)
    figure = viz.faithfulness_figure({"layer 11": curve}, "Faithful")
    assert named(figure)
    assert list(figure.data[1].y) == [0.2, 0.6]
    assert list(figure.data[3].y) == [0.9, 0.8]


def test_other_figures_name_their_axes():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(2, 3))
    figures = [
        viz.dose_response_figure([0, 1], [0, 1], [9, 12], [[0, 0.1]], [[9, 10]], "t", effect_name="e"),
        viz.steering_matrix(matrix, matrix - 0.1, matrix + 0.1, ["a", "b"], ["x", "y", "z"], "t"),
        viz.interval_figure({"up": [("a", 1.0, 0.5, 1.5)], "down": [("a", -1.0, -1.5, -0.5)]}, "t"),
        viz.agreement_figure([0, 1], [0, 2], "t"),
        viz.contribution_figure(["a", "b"], [1, -1], "t", x="logits"),
        viz.control_figure(2.0, [0.1, -0.1, 0.3], "t", x="effect"),
        viz.patching_figure(rng.uniform(size=(2, 4)), ["<s>", " a", " b", " c"], [0, 5], "t", first=1),
    ]
    assert all(named(figure) for figure in figures)
    assert list(figures[-1].layout.xaxis.ticktext) == [" a", " b", " c"]
