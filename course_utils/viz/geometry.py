"""Figures of lesson 03: sticky dimensionalities, polytopes, neurons as stacks of features, double descent, jumps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from course_utils.toy.geometry import SHAPES
from course_utils.viz.theme import PALETTE, SEQUENTIAL, style


def dimensionality_scatter(density: Any, D: Any, soft: Any, title: str, *, subtitle: str = "") -> go.Figure:
    """Every feature's dimensionality against 1 / (1 - S), the shapes' fractions as lines, d / ||W||^2 as a curve.

    `density [instances]`, `D [instances, features]`, `soft [instances]` = d_hidden / ||W||_F^2.
    """
    density, D, soft = (np.asarray(value, dtype=float) for value in (density, D, soft))
    x = np.repeat(1 / density, D.shape[1]) * np.exp(np.random.default_rng(0).normal(0, 0.008, D.size))
    figure = go.Figure()
    levels = [float(shape.dimensionality) for shape in SHAPES]
    for shape, level in zip(SHAPES, levels, strict=True):
        crowd = sum(np.sign(level - other) for other in levels if abs(level - other) < 0.04)
        figure.add_hline(y=level, line={"color": "#BBBBBB", "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=1.0, xref="paper", y=level, text=f"{shape.dimensionality} {shape.name}", showarrow=False, xanchor="left",
            yshift=6 * crowd, font={"size": 11, "color": "#555555"},
        )  # fmt: skip
    figure.add_scatter(
        x=x, y=D.ravel(), mode="markers", marker={"size": 4, "color": PALETTE[0], "opacity": 0.35}, name="one feature",
        hovertemplate="1/(1-S) = %{x:.2f}<br>dimensionality %{y:.3f}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=1 / density,
        y=soft,
        mode="lines+markers",
        line={"color": PALETTE[3], "width": 2},
        name="d / ‖W‖² (mean share)",
    )
    style(figure, title, subtitle=subtitle, x="1 / (1 − S), log scale (sparser →)", y="dimensionality Dᵢ", height=520)
    figure.update_xaxes(type="log")
    figure.update_layout(margin={"r": 140}, legend={"orientation": "h", "y": -0.16})
    return figure


def polytopes(
    directions: Sequence[Any], names: Sequence[str], title: str, *, subtitle: str = "", close: float = 0.3
) -> go.Figure:
    """Feature directions in three dimensions, one panel a model: arrows from the origin, turn them with the mouse.

    Lines join features whose directions are neighbours: the polytope's edges, as far as the eye needs them.
    """
    count = len(directions)
    figure = make_subplots(
        1, count, specs=[[{"type": "scene"}] * count], subplot_titles=list(names), horizontal_spacing=0.01
    )
    for panel, W in enumerate(directions, start=1):
        W = np.asarray(W, dtype=float)
        arrows = np.full((3, 3 * W.shape[1]), np.nan)
        arrows[:, 0::3], arrows[:, 1::3] = 0.0, W
        figure.add_trace(
            go.Scatter3d(x=arrows[0], y=arrows[1], z=arrows[2], mode="lines", line={"color": "#999999", "width": 4}, hoverinfo="skip"),
            row=1, col=panel,
        )  # fmt: skip
        edges = _edges(W, close)
        figure.add_trace(
            go.Scatter3d(x=edges[0], y=edges[1], z=edges[2], mode="lines", line={"color": PALETTE[5], "width": 3}, hoverinfo="skip"),
            row=1, col=panel,
        )  # fmt: skip
        marker = {"size": 5, "color": [PALETTE[i % len(PALETTE)] for i in range(W.shape[1])]}
        figure.add_trace(
            go.Scatter3d(
                x=W[0], y=W[1], z=W[2], mode="markers", marker=marker, text=[f"feature {i}" for i in range(W.shape[1])],
                hovertemplate="%{text}<extra></extra>",
            ),
            row=1, col=panel,
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, height=380, legend=False)
    hidden = {"visible": False, "range": [-1.2, 1.2]}
    camera = {"eye": {"x": 0.95, "y": 0.95, "z": 0.55}}
    figure.update_scenes(xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="cube", camera=camera)
    return figure


def neuron_stacks(panels: Sequence[Any], names: Sequence[str], title: str, *, subtitle: str = "") -> go.Figure:
    """Each neuron as a bar of its input weights stacked by feature: one colour is a monosemantic neuron, many are not.

    `panels`: arrays `[d_hidden, features]`. Weights of either sign count by their size; hover tells the sign. Bars are sorted by
    their strongest feature and labelled with the neuron's number. More features than the palette has colours get a scale, dark
    for the first and light for the last, so that no two look alike.
    """
    figure = make_subplots(1, len(panels), subplot_titles=list(names), shared_yaxes=True, horizontal_spacing=0.02)
    for column, W in enumerate(panels, start=1):
        W = np.asarray(W, dtype=float)
        count = W.shape[1]
        colours = PALETTE if count <= len(PALETTE) else sample_colorscale(SEQUENTIAL, count)
        # the most important feature of a neuron comes first, so that dominance is visible at a glance
        order = np.argsort([-np.abs(row).argmax() for row in W])[::-1]
        for feature in range(count):
            figure.add_bar(
                x=[str(neuron) for neuron in order], y=np.abs(W[order, feature]), customdata=W[order, feature],
                marker_color=colours[feature], marker_line={"width": 0.5, "color": "white"},
                hovertemplate=f"neuron %{{x}}, feature {feature}: %{{customdata:.2f}}<extra></extra>", row=1, col=column,
            )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="neuron", height=380, legend=False)
    figure.update_xaxes(type="category")  # numbers would put the bars back into their order
    figure.update_yaxes(title_text="|input weight|, stacked by feature", col=1)
    figure.update_layout(barmode="stack")
    return figure


def double_descent(rows: Sequence[dict[str, Any]], title: str, *, subtitle: str = "") -> go.Figure:
    """Train and test loss against the number of points (median over seeds, every seed as a dot), geometry of points and features below."""
    sizes = sorted({row["points"] for row in rows})
    figure = make_subplots(
        3, 1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.46, 0.27, 0.27],
        subplot_titles=["loss", "dimensionality of data points (hidden vectors)", "dimensionality of features (largest 40)"],
    )  # fmt: skip
    for key, color in (("train_loss", PALETTE[0]), ("test_loss", PALETTE[3])):
        # a log axis has no zero: losses below a thousandth are drawn there
        median = [max(1e-3, np.median([row[key] for row in rows if row["points"] == size])) for size in sizes]
        name = key.replace("_", " ")
        figure.add_scatter(
            x=sizes, y=median, mode="lines", line={"color": color, "width": 2.5}, name=name, row=1, col=1
        )
        figure.add_scatter(
            x=[row["points"] for row in rows], y=[max(1e-3, row[key]) for row in rows], mode="markers", showlegend=False,
            marker={"color": color, "size": 5, "opacity": 0.5}, hovertemplate=f"T=%{{x}}<br>{name} %{{y:.3f}}<extra></extra>",
            row=1, col=1,
        )  # fmt: skip
    for place, (key, color) in enumerate((("points_dimensionality", PALETTE[0]), ("features", PALETTE[3])), start=2):
        x = [row["points"] for row in rows for _ in row[key]]
        y = [value for row in rows for value in row[key]]
        marker = {"color": color, "size": 4, "opacity": 0.3}
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, showlegend=False, row=place, col=1)
    style(figure, title, subtitle=subtitle, height=720)
    figure.update_xaxes(type="log")
    figure.update_xaxes(title_text="number of training points T (log)", row=3, col=1)
    figure.update_yaxes(title_text="squared error per point (log)", type="log", row=1, col=1)
    figure.update_yaxes(title_text="Dₜ", row=2, col=1)
    figure.update_yaxes(title_text="Dᵢ", row=3, col=1)
    return figure


def decay_curves(rows: Sequence[dict[str, Any]], title: str, *, subtitle: str = "") -> go.Figure:
    """Test loss against the number of points, one line per weight decay (one seed)."""
    figure = go.Figure()
    for index, decay in enumerate(sorted({row["weight_decay"] for row in rows})):
        chosen = sorted(
            (row["points"], row["test_loss"]) for row in rows if row["weight_decay"] == decay and row["seed"] == 0
        )
        x, y = zip(*chosen)
        figure.add_scatter(
            x=x, y=y, mode="lines+markers", name=f"weight decay {decay:g}", line={"color": PALETTE[index], "width": 2}
        )
    style(figure, title, subtitle=subtitle, x="number of training points T (log)", y="test loss (log)")
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    return figure


def dimensionality_paths(
    steps: Sequence[int],
    D: Any,
    loss_steps: Sequence[int],
    losses: Any,
    found: Sequence[tuple[int, int]],
    title: str,
    *,
    subtitle: str = "",
) -> go.Figure:
    """Each feature's dimensionality during training with its jumps marked, the loss below."""
    D = np.asarray(D, dtype=float)
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.05)
    for i in range(D.shape[1]):
        line = {"color": PALETTE[i % len(PALETTE)], "width": 1.5}
        figure.add_scatter(
            x=list(steps), y=D[:, i], mode="lines", line=line, name=f"feature {i}", showlegend=False, row=1, col=1
        )
    marker = {"symbol": "diamond-open", "size": 9, "color": "#222222"}
    figure.add_scatter(
        x=[steps[t] for t, _ in found],
        y=[D[t, i] for t, i in found],
        mode="markers",
        marker=marker,
        name="jump",
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=list(loss_steps),
        y=np.asarray(losses),
        mode="lines",
        line={"color": "#222222"},
        showlegend=False,
        row=2,
        col=1,
    )
    style(figure, title, subtitle=subtitle, height=520)
    figure.update_xaxes(title_text="training step", row=2, col=1)
    figure.update_yaxes(title_text="dimensionality Dᵢ", row=1, col=1)
    figure.update_yaxes(title_text="loss", row=2, col=1)
    return figure


def _edges(W: np.ndarray, close: float) -> np.ndarray:
    """Segments between neighbouring tips: pairs whose distance is within `close` of the nearest one's."""
    tips = W.T
    distance = np.linalg.norm(tips[:, None] - tips[None], axis=-1) + 1e9 * np.eye(len(tips))
    limit = distance.min(axis=1) * (1 + close)
    segments = []
    for i in range(len(tips)):
        for j in range(i + 1, len(tips)):
            if distance[i, j] <= max(limit[i], limit[j]):
                segments += [tips[i], tips[j], np.full(3, np.nan)]
    return np.array(segments).T if segments else np.zeros((3, 0))
