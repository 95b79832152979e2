"""Figures about steering and circuits: dose and response, agreement, patching heatmaps, faithfulness, and the graph of a circuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from course_utils.features.circuits import CircuitCurve, FeatureGraph
from course_utils.viz.theme import DIVERGING, INK, PALETTE, style
from course_utils.viz.tokens import visible

GREY = "#999999"


def dose_response_figure(
    alphas: Sequence[float],
    effect: Sequence[float],
    perplexity: Sequence[float],
    control_effect: Any,
    control_perplexity: Any,
    title: str,
    *,
    subtitle: str = "",
    effect_name: str = "effect",
) -> go.Figure:
    """Effect (left) and what it costs (right: perplexity, log axis) against the dose; grey: random directions.

    Args:
        control_effect, control_perplexity: `[controls, doses]`.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.13)
    panels = ((1, effect, np.asarray(control_effect)), (2, perplexity, np.asarray(control_perplexity)))
    for column, values, controls in panels:
        for row, control in enumerate(controls):
            figure.add_scatter(
                x=list(alphas), y=control, mode="lines", line={"color": GREY, "width": 1.2, "dash": "dot"},
                name="random directions, same norm", legendgroup="control", showlegend=column == 1 and row == 0,
                row=1, col=column,
            )  # fmt: skip
        figure.add_scatter(
            x=list(alphas), y=list(values), mode="lines+markers", line={"color": PALETTE[0], "width": 3},
            name="the latent", legendgroup="latent", showlegend=column == 1, row=1, col=column,
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="dose: length of what is added", height=430)
    figure.update_yaxes(title_text=effect_name, col=1)
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000]
    figure.update_yaxes(title_text="perplexity of other text", type="log", tickvals=ticks, ticktext=ticks, col=2)
    return figure.update_layout(legend={"orientation": "h", "y": -0.22})


def steering_matrix(
    change: Any, low: Any, high: Any, steered: Sequence[str], asked: Sequence[str], title: str, *, subtitle: str = ""
) -> go.Figure:
    """Change of each answer (columns) under each steering (rows), the interval in every cell; bold where it excludes zero."""
    change, low, high = (np.asarray(part, dtype=float) for part in (change, low, high))
    text = []
    for row in zip(change, low, high):
        cells = [(f"{c:+.2f}", f"{a:+.2f} … {b:+.2f}", a > 0 or b < 0) for c, a, b in zip(*row)]
        text.append([f"<b>{c}</b><br>{span}" if clear else f"{c}<br>{span}" for c, span, clear in cells])
    limit = float(np.abs(change).max()) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=change, x=list(asked), y=list(steered), text=text, texttemplate="%{text}", colorscale=DIVERGING,
            zmid=0, zmin=-1.6 * limit, zmax=1.6 * limit, colorbar={"title": "change"}, xgap=3, ygap=3,
            hovertemplate="%{y}<br>answer: %{x}<br>%{z:+.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    return style(
        figure, title, subtitle=subtitle, x="log-odds of the answer", y="what was added", height=190 + 62 * len(change)
    )


def interval_figure(
    rows: Mapping[str, Sequence[tuple[str, float, float, float]]],
    title: str,
    *,
    subtitle: str = "",
    x: str = "change of the log-odds",
) -> go.Figure:
    """Points with intervals: `rows` maps a series to (name, value, low, high) entries."""
    figure = go.Figure()
    names = [entry[0] for entry in next(iter(rows.values()))]
    for i, (series, entries) in enumerate(rows.items()):
        offset = (i - (len(rows) - 1) / 2) * 0.22
        figure.add_scatter(
            x=[e[1] for e in entries],
            y=[names.index(e[0]) + offset for e in entries],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [e[3] - e[1] for e in entries],
                "arrayminus": [e[1] - e[2] for e in entries],
            },
            mode="markers",
            marker={"size": 9, "color": PALETTE[i] if i < len(rows) - 1 or len(rows) == 1 else GREY},
            name=series,
        )
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    style(figure, title, subtitle=subtitle, x=x, y="", height=200 + 62 * len(names))
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed", zeroline=False)
    return figure.update_layout(legend={"orientation": "h", "y": -0.25})


def agreement_figure(
    estimated: Any,
    measured: Any,
    title: str,
    *,
    subtitle: str = "",
    names: Sequence[str] | None = None,
    x: str = "estimated",
    y: str = "measured",
) -> go.Figure:
    """Estimate against measurement, one point each, with the line on which they agree."""
    a, b = np.asarray(estimated, dtype=float), np.asarray(measured, dtype=float)
    low, high = float(min(a.min(), b.min())), float(max(a.max(), b.max()))
    pad = 0.06 * (high - low or 1)
    line = [low - pad, high + pad]
    figure = go.Figure()
    figure.add_scatter(x=line, y=line, mode="lines", line={"color": GREY, "dash": "dot"}, name="agreement")
    figure.add_scatter(
        x=a, y=b, mode="markers", marker={"color": PALETTE[0], "size": 8, "opacity": 0.65}, text=list(names or []),
        hovertemplate="%{text}<br>estimated %{x:.3f}<br>measured %{y:.3f}<extra></extra>", name="latents",
    )  # fmt: skip
    return style(figure, title, subtitle=subtitle, x=x, y=y, height=460, legend=False)


def contribution_figure(names: Sequence[str], values: Sequence[float], title: str, *, subtitle: str = "", x: str = ""):
    """Signed contributions as bars, the largest on top."""
    figure = go.Figure(
        go.Bar(
            x=list(values), y=list(names), orientation="h",
            marker_color=[PALETTE[0] if v >= 0 else PALETTE[3] for v in values],
            hovertemplate="%{y}: %{x:+.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(type="category", autorange="reversed")
    return style(figure, title, subtitle=subtitle, x=x, y="", height=180 + 24 * len(names))


def faithfulness_figure(
    curves: Mapping[str, CircuitCurve], title: str, *, subtitle: str = "", completeness: bool = True
) -> go.Figure:
    """Left: score when only the chosen latents deviate from their means. Right: score when all others do. Band: random sets."""
    panels = ("only these latents are kept", "only these latents are removed")[: 2 if completeness else 1]
    figure = make_subplots(1, len(panels), subplot_titles=panels, horizontal_spacing=0.1, shared_yaxes=True)
    for color, (name, curve) in zip(PALETTE, curves.items()):
        parts = (
            (curve.faithfulness, curve.random_faithfulness, curve.all_latents),
            (curve.left, curve.random_left, None),
        )
        for column, (ours, random, ceiling) in enumerate(parts[: len(panels)], start=1):
            sizes = curve.sizes
            figure.add_scatter(
                x=[*sizes, *sizes[::-1]], y=[*random.max(axis=0), *random.min(axis=0)[::-1]], fill="toself",
                mode="none", fillcolor=_faded(color), hoverinfo="skip", legendgroup=name,
                name=f"{name}: random sets of active latents", showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
            figure.add_scatter(
                x=sizes, y=ours, mode="lines+markers", line={"color": color, "width": 3}, legendgroup=name, name=name,
                showlegend=column == 1, row=1, col=column,
                hovertemplate="%{x} latents: %{y:.2f}<extra></extra>",
            )  # fmt: skip
            if ceiling is not None:
                figure.add_hline(
                    y=ceiling, line={"color": color, "dash": "dash", "width": 1}, row=1, col=column,
                    annotation_text=f"all latents, no error: {ceiling:.2f}", annotation_position="top left",
                )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="latents (log scale)", height=470)
    figure.update_xaxes(type="log", dtick=1)
    sizes = sorted({n for curve in curves.values() for n in curve.sizes})
    figure.update_xaxes(tickvals=sizes, ticktext=[str(n) for n in sizes])
    figure.update_yaxes(title_text="score (0: mean state, 1: real state)", col=1)
    return figure.update_layout(legend={"orientation": "h", "y": -0.2})


def patching_figure(
    recovered: Any, tokens: Sequence[str], layers: Sequence[int], title: str, *, subtitle: str = "", first: int = 0
) -> go.Figure:
    """Layers (upwards) by positions: share of the clean answer that one patched state brings back.

    Args:
        first: positions before this one are left out of the picture (nothing there differs).
    """
    values = np.asarray(recovered)[:, first:]
    figure = go.Figure(
        go.Heatmap(
            z=values, x=list(range(values.shape[1])), y=[str(layer) for layer in layers], colorscale=DIVERGING, zmid=0,
            zmin=-1, zmax=1, colorbar={"title": "recovered"}, text=np.round(values, 2),
            texttemplate="%{text:.2f}" if values.size <= 200 else None,
            customdata=np.tile([visible(t) for t in tokens[first:]], (len(values), 1)),
            hovertemplate="layer %{y}, “%{customdata}”<br>%{z:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(tickvals=list(range(values.shape[1])), ticktext=[visible(t) for t in tokens[first:]])
    figure.update_yaxes(type="category")
    return style(
        figure, title, subtitle=subtitle, x="token of the prompt", y="after layer", height=200 + 26 * len(values)
    )


def feature_graph_figure(
    graph: FeatureGraph, title: str, *, subtitle: str = "", strongest: Sequence[int] = (6, 12, 24, 48)
) -> go.Figure:
    """A circuit of latents: layers upwards, the prompt from left to right; hover over nodes and edges, drag the slider for more.

    Blue adds, vermilion takes away; an edge's width is the size of its contribution relative to the largest between its layers.
    """
    place = _layout(graph)
    edges = sorted(graph.edges, key=lambda edge: -abs(edge.weight) / _scale(graph, edge))
    figure = go.Figure()
    for edge in edges:
        (x0, y0), (x1, y1) = place[edge.source], place[edge.target]
        share = abs(edge.weight) / _scale(graph, edge)
        figure.add_scatter(
            x=np.linspace(x0, x1, 9), y=np.linspace(y0, y1, 9), mode="lines", opacity=0.35 + 0.55 * share,
            line={"color": PALETTE[0] if edge.weight > 0 else PALETTE[3], "width": 1 + 5 * share},
            hovertext=f"latent {edge.source[2]} (layer {edge.source[0]}) → latent {edge.target[2]} (layer {edge.target[0]})"
            f"<br>adds {edge.weight:+.2f}", hoverinfo="text", showlegend=False,
        )  # fmt: skip
    nodes = graph.nodes
    largest = max(abs(node.effect) for node in nodes) or 1.0
    figure.add_scatter(
        x=[place[n.key][0] for n in nodes], y=[place[n.key][1] for n in nodes], mode="markers+text",
        text=[n.label or str(n.latent) for n in nodes], textposition="top center", textfont={"size": 11},
        marker={
            "size": [13 + 13 * abs(n.effect) / largest for n in nodes],
            "color": [n.effect for n in nodes], "colorscale": DIVERGING, "cmid": 0, "cmin": -largest, "cmax": largest,
            "line": {"color": INK, "width": 1}, "colorbar": {"title": "adds to<br>the metric", "thickness": 12},
        },
        hovertext=[
            f"layer {n.layer}, on “{visible(graph.tokens[n.position])}”<br>latent {n.latent}"
            + (f": {n.label}" if n.label else "") + f"<br>activation {n.activation:.1f}<br>adds {n.effect:+.3f} to the metric"
            for n in nodes
        ],
        hoverinfo="text", showlegend=False,
    )  # fmt: skip
    counts = sorted({min(n, len(edges)) for n in strongest})
    steps = [
        {"label": str(n), "method": "restyle",
         "args": [{"visible": [True] * n + [False] * (len(edges) - n)}, list(range(len(edges)))]}
        for n in counts
    ]  # fmt: skip
    columns, ticks = _columns(graph)
    style(figure, title, subtitle=subtitle, height=620)
    figure.update_xaxes(
        title_text="token of the prompt (position)", tickvals=ticks,
        ticktext=[f"{visible(graph.tokens[position])}<br>({position})" for position in columns], showgrid=False, zeroline=False,
    )  # fmt: skip
    figure.update_yaxes(
        title_text="", tickvals=list(range(len(graph.layers))), ticktext=[f"layer {layer}" for layer in graph.layers],
        range=[-0.4, len(graph.layers) - 0.5], showgrid=False, zeroline=False,
    )  # fmt: skip
    return figure.update_layout(
        sliders=[{
            "steps": steps, "active": len(steps) - 1, "y": -0.14, "len": 0.6, "pad": {"t": 30},
            "currentvalue": {"prefix": "strongest edges shown: "},
        }],
        margin={"b": 150}, plot_bgcolor="#FAFAFA",
    )  # fmt: skip


def _columns(graph: FeatureGraph) -> tuple[list[int], list[float]]:
    """Positions that hold nodes, and where each column's middle stands; a crowded column is wider."""
    columns = sorted({node.position for node in graph.nodes})
    widths = []
    for position in columns:
        rows = [sum(n.position == position and n.layer == layer for n in graph.nodes) for layer in graph.layers]
        widths.append(max(1.0, float(max(rows))))
    edges = np.concatenate([[0.0], np.cumsum(widths)])
    return columns, [float(x) for x in (edges[:-1] + edges[1:]) / 2]


def _layout(graph: FeatureGraph) -> dict[tuple[int, int, int], tuple[float, float]]:
    columns, middles = _columns(graph)
    place: dict[tuple[int, int, int], tuple[float, float]] = {}
    for row, layer in enumerate(graph.layers):
        for position, middle in zip(columns, middles):
            here = sorted(
                (n for n in graph.nodes if (n.layer, n.position) == (layer, position)), key=lambda n: n.latent
            )
            for i, node in enumerate(here):
                shift = i - (len(here) - 1) / 2
                # neighbours stand at two heights, so that their labels do not run into each other
                place[node.key] = (middle + shift, row + (0.16 if i % 2 else 0.0))
    return place


def _scale(graph: FeatureGraph, edge: Any) -> float:
    """The largest edge between the same two layers: activations of different layers have different sizes."""
    same = [e for e in graph.edges if (e.source[0], e.target[0]) == (edge.source[0], edge.target[0])]
    return max(abs(e.weight) for e in same) or 1.0


def _faded(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def control_figure(
    effect: float, controls: Sequence[float], title: str, *, subtitle: str = "", x: str = ""
) -> go.Figure:
    """Effects of random directions as a histogram, and the direction's own effect as a line."""
    figure = go.Figure(
        go.Histogram(
            x=list(controls), nbinsx=24, marker_color=GREY, name="random directions, same norm",
            hovertemplate="%{x}: %{y}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(
        x=effect, line={"color": PALETTE[0], "width": 3}, annotation_text="the latent", annotation_font_color=PALETTE[0],
        annotation_position="top left" if effect > float(np.mean(controls)) else "top right",
    )  # fmt: skip
    low, high = min(effect, *controls), max(effect, *controls)
    pad = 0.08 * (high - low or 1)
    figure.update_xaxes(range=[low - pad, high + pad])
    return style(figure, title, subtitle=subtitle, x=x, y="random directions", height=340, legend=False)
