"""Figures of lesson 01: concepts by neuron, cosines in many dimensions, packing, interference, steering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from course_utils.viz.theme import DIVERGING, PALETTE, style


def concept_heatmap(
    response: Any, concepts: Sequence[str], neurons: Sequence[int], title: str, *, subtitle: str = ""
) -> go.Figure:
    """Response of neurons (columns) to concepts (rows), in standard deviations of the neuron: `response [concepts, neurons]`."""
    heat = go.Heatmap(
        z=np.asarray(response), x=[str(neuron) for neuron in neurons], y=list(concepts), zmid=0, colorscale=DIVERGING,
        colorbar={"title": "response<br>(s.d.)"}, hovertemplate="neuron %{x}<br>%{y}: %{z:.2f}<extra></extra>",
    )  # fmt: skip
    figure = style(go.Figure(heat), title, subtitle=subtitle, x="neuron", y="", height=440)
    figure.update_xaxes(type="category")
    return figure


def cosine_histograms(cosines: Mapping[int, Any], title: str, *, subtitle: str = "") -> go.Figure:
    """Distribution of cosines between random directions, one line for each dimension d."""
    figure = go.Figure()
    for index, (d, values) in enumerate(cosines.items()):
        heights, edges = np.histogram(np.asarray(values), bins=80, range=(-1, 1), density=True)
        figure.add_scatter(
            x=(edges[1:] + edges[:-1]) / 2,
            y=heights,
            mode="lines",
            name=f"d = {d}",
            line={"color": PALETTE[index], "width": 2},
        )
    return style(figure, title, subtitle=subtitle, x="cosine of two random directions", y="density")


def lines(
    x: Sequence[float], curves: Mapping[str, Sequence[float]], title: str, *, subtitle: str = "", x_name: str = "", y_name: str = "",
    log_x: bool = False, log_y: bool = False, dashed: Sequence[str] = (),
) -> go.Figure:  # fmt: skip
    """Curves over one axis; the names in `dashed` (chance, theory, a control) are drawn dashed."""
    figure = go.Figure()
    for index, (name, values) in enumerate(curves.items()):
        line = {"color": PALETTE[index % len(PALETTE)], "width": 2, "dash": "dash" if name in dashed else "solid"}
        figure.add_scatter(x=list(x), y=[float(v) for v in values], mode="lines+markers", name=name, line=line)
    style(figure, title, subtitle=subtitle, x=x_name, y=y_name)
    if log_x:
        figure.update_xaxes(type="log")
    if log_y:
        figure.update_yaxes(type="log")
    return figure


def paired_bars(
    names: Sequence[str],
    groups: Mapping[str, Sequence[float]],
    title: str,
    *,
    subtitle: str = "",
    y: str = "",
    chance: float | None = None,
) -> go.Figure:
    """Bars side by side for every name, with the chance level as a line."""
    figure = go.Figure()
    for index, (group, values) in enumerate(groups.items()):
        figure.add_bar(x=list(names), y=[float(v) for v in values], name=group, marker_color=PALETTE[index])
    if chance is not None:
        figure.add_hline(y=chance, line={"dash": "dash", "color": "#555555"}, annotation_text="chance")
    style(figure, title, subtitle=subtitle, y=y)
    return figure
