"""Figures of lesson 08: ranked matches, shares by kind, decoder maps, bars with controls, circles and their tuning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from course_utils.viz.theme import INK, PALETTE, SEQUENTIAL, style


def ranked_matches(
    curves: Mapping[str, Any], title: str, *, subtitle: str = "", x: str, y: str, threshold: float = 0.9
) -> go.Figure:
    """One line a method: its matches with the truth, best first. A dotted line marks what counts as found."""
    figure = go.Figure()
    for name, values in curves.items():
        ranked = np.sort(np.asarray(values, dtype=float))[::-1]
        figure.add_scatter(
            x=np.arange(1, len(ranked) + 1), y=ranked, mode="lines+markers", marker={"size": 5},
            name=f"{name}: {int((ranked > threshold).sum())} of {len(ranked)} above {threshold:g}",
        )  # fmt: skip
    figure.add_hline(y=threshold, line_dash="dot", line_color="#888888")
    style(figure, title, subtitle=subtitle, x=x, y=y, legend=True)
    figure.update_yaxes(rangemode="tozero")
    return figure.update_layout(legend={"x": 0.01, "y": 0.02, "xanchor": "left", "yanchor": "bottom"})


def shares_by_kind(
    panels: Mapping[str, Mapping[str, Any]], title: str, *, subtitle: str = "", x: str, bounds: Sequence[float] = ()
) -> go.Figure:
    """Dots on a line from 0 to 1, a row for each kind of feature, a panel for each method; `bounds` are drawn in."""
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), shared_yaxes=True, horizontal_spacing=0.03)
    for column, kinds in enumerate(panels.values(), start=1):
        for row, (kind, values) in enumerate(kinds.items()):
            values = np.asarray(values, dtype=float)
            # spread the dots by their rank, so that equal values stay visible
            height = row + 0.3 * ((np.arange(len(values)) * 0.618) % 1 - 0.5)
            figure.add_scatter(
                x=values, y=height, mode="markers", name=kind, showlegend=False,
                marker={"size": 9, "color": PALETTE[row], "opacity": 0.7}, row=1, col=column,
                hovertemplate=f"{kind}: %{{x:.2f}}<extra></extra>",
            )  # fmt: skip
        for bound in bounds:
            figure.add_vline(x=bound, line_dash="dot", line_color="#888888", row=1, col=column)
    names = list(next(iter(panels.values())))
    style(figure, title, subtitle=subtitle, x=x, height=170 + 62 * len(names))
    figure.update_xaxes(range=[-0.05, 1.05])
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    return figure


def bars_with_control(
    series: Mapping[str, Mapping[str, Sequence[float] | float]],
    title: str,
    *,
    subtitle: str = "",
    y: str,
    x: str | None = None,
) -> go.Figure:
    """Grouped bars. Several numbers for one bar are drawn as dots on it; its height is their mean."""
    figure = go.Figure()
    for i, (name, values) in enumerate(series.items()):
        means = [float(np.mean(value)) for value in values.values()]
        figure.add_bar(
            x=list(values), y=means, name=name, marker_color=PALETTE[i], offsetgroup=str(i), opacity=0.85,
            text=[f"{mean:.2f}" for mean in means], textposition="outside", cliponaxis=False,
        )  # fmt: skip
    top = max(float(np.mean(v)) for values in series.values() for v in values.values())
    most = max(float(np.max(v)) for values in series.values() for v in values.values())
    count = len(series)
    categories = list(next(iter(series.values())))
    for i, (name, values) in enumerate(series.items()):
        for at, value in enumerate(values.values()):
            if np.size(value) > 1:
                figure.add_scatter(
                    x=np.full(np.size(value), at + (i - (count - 1) / 2) * 0.8 / count + 0.2 / count), y=np.asarray(value),
                    mode="markers", marker={"color": INK, "size": 6, "opacity": 0.6}, showlegend=False, xaxis="x2",
                    hovertemplate=f"{name}: %{{y:.2f}}<extra></extra>",
                )  # fmt: skip
    style(figure, title, subtitle=subtitle, x=x, y=y, legend=len(series) > 1)
    axis = {"overlaying": "x", "range": [-0.5, len(categories) - 0.5], "visible": False}
    figure.update_layout(barmode="group", xaxis2=axis, legend={"orientation": "h", "x": 0, "y": -0.16})
    figure.update_xaxes(range=[-0.5, len(categories) - 0.5])
    figure.update_yaxes(range=[0, 1.15 * max(top, most)])
    return figure


def decoder_maps(maps: Mapping[str, Any], title: str, *, subtitle: str = "", names: Sequence[str]) -> go.Figure:
    """`[source, target]` matrices side by side: how much latents of one layer write to another."""
    figure = make_subplots(1, len(maps), subplot_titles=list(maps), horizontal_spacing=0.08, shared_yaxes=True)
    highest = max(float(np.max(np.asarray(m))) for m in maps.values())
    for column, matrix in enumerate(maps.values(), start=1):
        values = np.asarray(matrix, dtype=float)
        figure.add_heatmap(
            z=values, x=list(names), y=list(names), zmin=0, zmax=highest, colorscale=SEQUENTIAL, row=1, col=column,
            text=[[f"{v:.2f}" for v in row] for row in values], texttemplate="%{text}", showscale=False,
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="writes to", height=360)
    figure.update_yaxes(autorange="reversed")
    return figure.update_yaxes(title_text="reads from", row=1, col=1)


def rings(panels: Mapping[str, tuple[Any, Sequence[str]]], title: str, *, subtitle: str = "") -> go.Figure:
    """Class means in the plane of their circle, joined in their cyclic order. Each panel: points `[n, 2]` and labels."""
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.06)
    for column, (points, labels) in enumerate(panels.values(), start=1):
        points = np.asarray(points, dtype=float)
        closed = np.concatenate([points, points[:1]])
        at: dict[str, Any] = {"row": 1, "col": column, "showlegend": False}
        figure.add_scatter(
            x=closed[:, 0], y=closed[:, 1], mode="lines", line={"color": "#BBBBBB"}, hoverinfo="skip", **at
        )
        figure.add_scatter(
            x=points[:, 0], y=points[:, 1], mode="markers+text", text=list(labels), textposition="top center", **at,
            marker={"size": 10, "color": np.arange(len(points)), "colorscale": "Phase"},
            textfont={"size": 11},
        )  # fmt: skip
        reach = 1.35 * float(np.abs(points).max())
        figure.update_xaxes(range=[-reach, reach], row=1, col=column)
        figure.update_yaxes(range=[-reach, reach], scaleanchor=f"x{column if column > 1 else ''}", row=1, col=column)
    style(figure, title, subtitle=subtitle, height=460, x="first direction of the plane")
    return figure.update_yaxes(title_text="second direction", row=1, col=1)


def curves_over_layers(
    layers: Sequence[int], curves: Mapping[str, tuple[Any, Any]], title: str, *, subtitle: str = "", y: str
) -> go.Figure:
    """A measured line for each name, and dotted in the same colour the 99th percentile of its control."""
    figure = go.Figure()
    for i, (name, (values, control)) in enumerate(curves.items()):
        color = PALETTE[i]
        figure.add_scatter(x=list(layers), y=np.asarray(values), mode="lines+markers", name=name, line={"color": color})
        figure.add_scatter(
            x=list(layers), y=np.asarray(control), mode="lines", name=f"{name}: 99% of random orders below",
            line={"color": color, "dash": "dot"},
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="layer", y=y, legend=True)
    return figure.update_yaxes(rangemode="tozero")


def tuning_curves(values: Any, labels: Sequence[str], title: str, *, subtitle: str = "") -> go.Figure:
    """Mean activation of each latent (a line) on each class."""
    figure = go.Figure()
    for i, row in enumerate(np.asarray(values, dtype=float)):
        figure.add_scatter(
            x=list(labels), y=row, mode="lines+markers", name=f"latent {chr(65 + i)}", line={"color": PALETTE[i % 8]}
        )
    return style(figure, title, subtitle=subtitle, x="class on the circle", y="mean activation", legend=True)


def head_map(
    share: Any, title: str, *, subtitle: str = "", x: str = "latent, sorted by its largest head", y: str = "head"
) -> go.Figure:
    """`[heads, latents]`: each head's share of each latent, between -1 and 1."""
    figure = go.Figure(
        go.Heatmap(z=np.asarray(share), colorscale="RdBu", zmid=0, zmin=-1, zmax=1, colorbar={"title": "share"})
    )
    style(figure, title, subtitle=subtitle, x=x, y=y, height=360)
    return figure.update_yaxes(dtick=1, autorange="reversed")
