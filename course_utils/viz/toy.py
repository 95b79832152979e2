"""Figures for the toy models of superposition: feature arrows, W^T W, sweeps, phase diagrams, loss curves, a sparsity slider."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from course_utils.toy.phases import PhaseDiagram
from course_utils.toy.theory import PHASES
from course_utils.viz.theme import DIVERGING, PALETTE, SEQUENTIAL, style

PHASE_COLORS = {"ignored": "#D9D9D9", "dedicated": PALETTE[0], "superposition": PALETTE[1]}
"""Grey: nothing kept; blue: a dimension of its own; orange: shared."""


def feature_directions(
    W: Any,
    labels: Sequence[str],
    title: str,
    *,
    subtitle: str = "",
    importance: Any = None,
    columns: int = 5,
    limit: float = 1.45,
) -> go.Figure:
    """The columns of `W [panels, 2, features]` as arrows from the origin, one panel per instance; the circle has radius 1.

    Colour is importance (dark: important) if given, else the feature's place in the palette.
    """
    W = _numpy(W)
    panels, _, features = W.shape
    rows = math.ceil(panels / columns)
    figure = make_subplots(
        rows, min(columns, panels), subplot_titles=list(labels), horizontal_spacing=0.03, vertical_spacing=0.12
    )
    colors = _feature_colors(features, importance)
    angle = np.linspace(0, 2 * np.pi, 121)
    for panel in range(panels):
        at = {"row": panel // columns + 1, "col": panel % columns + 1}
        circle = {"color": "#CCCCCC", "width": 1}
        figure.add_scatter(x=np.cos(angle), y=np.sin(angle), mode="lines", line=circle, hoverinfo="skip", **at)
        for i in range(features):
            x, y = W[panel, :, i]
            figure.add_scatter(
                x=[0, x], y=[0, y], mode="lines+markers", line={"color": colors[i], "width": 3},
                marker={"size": [0, 9], "color": colors[i]}, name=f"feature {i}",
                hovertemplate=f"feature {i}<br>({x:.2f}, {y:.2f})<br>length {np.hypot(x, y):.2f}<extra></extra>", **at,
            )  # fmt: skip
    style(figure, title, subtitle=subtitle, height=140 + round(800 / columns) * rows, legend=False)
    figure.update_xaxes(
        range=[-limit, limit], showgrid=False, zerolinecolor="#DDDDDD", showticklabels=False, constrain="domain"
    )
    figure.update_yaxes(
        range=[-limit, limit], showgrid=False, zerolinecolor="#DDDDDD", showticklabels=False, constrain="domain"
    )
    for panel in range(panels):
        number = "" if panel == 0 else str(panel + 1)
        figure.layout[f"yaxis{number}"].update(scaleanchor=f"x{number}", scaleratio=1)
    figure.update_xaxes(title_text="hidden dimension 1", title_font_size=11, row=rows, title_standoff=2)
    figure.update_yaxes(title_text="hidden dimension 2", title_font_size=11, col=1, title_standoff=2)
    return figure


def gram_heatmaps(W: Any, labels: Sequence[str], title: str, *, subtitle: str = "", columns: int = 4) -> go.Figure:
    """W^T W of each instance in `W [panels, d_hidden, features]`: the diagonal is what is kept, the rest is interference."""
    W = _numpy(W)
    gram = np.einsum("pdi,pdj->pij", W, W)
    rows = math.ceil(len(gram) / columns)
    figure = make_subplots(
        rows, min(columns, len(gram)), subplot_titles=list(labels), horizontal_spacing=0.04, vertical_spacing=0.16
    )
    for panel, values in enumerate(gram):
        heat = go.Heatmap(
            z=values, coloraxis="coloraxis", hovertemplate="from feature %{x} to %{y}<br>%{z:.2f}<extra></extra>"
        )
        figure.add_trace(heat, row=panel // columns + 1, col=panel % columns + 1)
    style(figure, title, subtitle=subtitle, height=150 + round(760 / columns) * rows, legend=False)
    bar = {"title": {"text": "(WᵀW)ᵢⱼ<br> "}, "thickness": 14}
    figure.update_layout(coloraxis={"colorscale": DIVERGING, "cmin": -1.2, "cmax": 1.2, "cmid": 0, "colorbar": bar})
    figure.update_yaxes(autorange="reversed", constrain="domain", showgrid=False)
    figure.update_xaxes(constrain="domain", showgrid=False)
    for panel in range(len(gram)):
        number = "" if panel == 0 else str(panel + 1)
        figure.layout[f"yaxis{number}"].update(scaleanchor=f"x{number}", scaleratio=1)
    figure.update_xaxes(title_text="input feature j", title_font_size=11, row=rows, title_standoff=2)
    figure.update_yaxes(title_text="output feature i", title_font_size=11, col=1, title_standoff=2)
    return figure


def represented_bars(W: Any, labels: Sequence[str], title: str, *, subtitle: str = "", columns: int = 4) -> go.Figure:
    """||W_i||^2 of every feature as a bar, coloured by how much the other features overlap with it, one panel per instance."""
    import torch

    from course_utils.toy.geometry import superposition_per_feature

    represented, superposition = superposition_per_feature(torch.as_tensor(_numpy(W)))
    panels, features = represented.shape
    rows = math.ceil(panels / columns)
    figure = make_subplots(
        rows,
        min(columns, panels),
        subplot_titles=list(labels),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.16,
    )
    for panel in range(panels):
        bars = go.Bar(
            x=np.arange(features), y=represented[panel].numpy(),
            marker={"color": superposition[panel].numpy(), "coloraxis": "coloraxis"},
            hovertemplate="feature %{x}<br>squared length %{y:.2f}<br>overlap %{marker.color:.2f}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(bars, row=panel // columns + 1, col=panel % columns + 1)
    style(figure, title, subtitle=subtitle, height=130 + 200 * rows, legend=False)
    bar = {"title": {"text": "overlap with<br>the others<br> "}, "thickness": 14}
    figure.update_layout(coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": 2, "colorbar": bar}, bargap=0.15)
    figure.update_yaxes(range=[0, 1.6])
    figure.update_xaxes(title_text="feature (0 is the most important)", title_font_size=11, row=rows)
    figure.update_yaxes(title_text="‖Wᵢ‖²", col=1)
    return figure


def features_per_dimension(
    density: Any, W: Any, title: str, *, subtitle: str = "", represented: Any = None, onset: float | None = None
) -> go.Figure:
    """Features represented per dimension, ||W||_F^2 / d, against 1 / (1 - S) = 1 / p on a logarithmic axis.

    `represented` adds the count of features with ||W_i||^2 > 1/2, divided by d; `onset` marks a density with a dashed line.
    """
    density, W = _numpy(density).ravel(), _numpy(W)
    d = W.shape[1]
    figure = go.Figure()
    line = {"color": PALETTE[0], "width": 2.5}
    figure.add_scatter(
        x=1 / density, y=(W**2).sum(axis=(1, 2)) / d, mode="lines+markers", line=line, name="‖W‖² / d (soft count)"
    )
    if represented is not None:
        dots = {"color": PALETTE[1], "size": 9, "symbol": "diamond"}
        figure.add_scatter(
            x=1 / density,
            y=_numpy(represented) / d,
            mode="markers",
            marker=dots,
            name="features with ‖Wᵢ‖² > ½, over d",
        )
    figure.add_hline(y=1, line={"color": "#999999", "dash": "dot"})
    if onset is not None:
        figure.add_vline(x=1 / onset, line={"color": PALETTE[3], "dash": "dash"})
        label = f"superposition<br>from p = {onset:.2g}"
        figure.add_annotation(
            x=math.log10(1 / onset),
            y=0.98,
            yref="paper",
            text=label,
            showarrow=False,
            xanchor="left",
            xshift=6,
            align="left",
        )
    style(
        figure,
        title,
        subtitle=subtitle,
        x="1 / (1 − S) = 1 / p   (logarithmic; right is sparser)",
        y="features per dimension",
    )
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(legend={"x": 0.98, "y": 0.05, "xanchor": "right", "bgcolor": "rgba(255,255,255,0.8)"})
    return figure


def phase_diagrams(diagram: PhaseDiagram, title: str, *, subtitle: str = "") -> go.Figure:
    """Theory beside training, same axes; cells where they differ away from the boundaries carry a cross."""
    sizes = f"n = {diagram.n_features}, d = {diagram.n_features - 1}"
    figure = make_subplots(
        1, 2, subplot_titles=[f"theory ({sizes})", f"training ({sizes})"], horizontal_spacing=0.08, shared_yaxes=True
    )
    x, y = _numpy(diagram.importance), _numpy(diagram.density)
    for column, phase in enumerate((diagram.theory.phase, diagram.phase), start=1):
        figure.add_trace(_phase_heat(x, y, phase), row=1, col=column)
    wrong = _numpy((diagram.phase != diagram.theory.phase) & diagram.away)
    rows, columns = np.nonzero(wrong)
    cross = {"symbol": "x-thin", "size": 7, "color": "black", "line": {"width": 1.5}}
    figure.add_scatter(
        x=x[columns],
        y=y[rows],
        mode="markers",
        marker=cross,
        name="differs, away from boundaries",
        showlegend=bool(len(rows)),
        row=1,
        col=2,
    )
    for name, color in PHASE_COLORS.items():
        square = {"symbol": "square", "size": 13, "color": color}
        figure.add_scatter(
            x=[None], y=[None], mode="markers", marker=square, name=f"extra feature: {name}", row=1, col=1
        )
    style(figure, title, subtitle=subtitle, height=480)
    figure.update_xaxes(type="log", title_text="relative importance of the extra feature", showgrid=False, dtick=1)
    figure.update_yaxes(type="log", showgrid=False, dtick=1)
    figure.update_yaxes(title_text="density p = 1 − S", col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    return figure


def loss_curves(
    losses: Any, labels: Sequence[str], title: str, *, steps: Any = None, subtitle: str = "", log: bool = True
) -> go.Figure:
    """One line per instance of `losses [logs, instances]`."""
    losses = _numpy(losses)
    x = np.arange(1, len(losses) + 1) if steps is None else _numpy(steps)
    figure = go.Figure()
    for i, label in enumerate(labels):
        figure.add_scatter(
            x=x, y=losses[:, i], mode="lines", name=label, line={"width": 2, "color": PALETTE[i % len(PALETTE)]}
        )
    style(figure, title, subtitle=subtitle, x="training step", y="importance-weighted squared error" + " (log)" * log)
    if log:
        figure.update_yaxes(type="log", nticks=6, exponentformat="power")
    return figure


def magnitude_histogram(batch: Any, labels: Sequence[str], title: str, *, subtitle: str = "") -> go.Figure:
    """How large active features are, and how many are active in a sample: one colour per instance of `batch`."""
    batch = _numpy(batch)
    figure = make_subplots(
        1, 2, subplot_titles=["magnitude of active features", "active features in a sample"], horizontal_spacing=0.12
    )
    for i, label in enumerate(labels):
        color = PALETTE[i % len(PALETTE)]
        heights, edges = np.histogram(batch[i][batch[i] > 0], bins=20, range=(0, 1), density=True)
        figure.add_scatter(
            x=(edges[1:] + edges[:-1]) / 2,
            y=heights,
            mode="lines",
            line={"color": color, "shape": "hvh"},
            name=label,
            row=1,
            col=1,
        )
        counts = np.bincount((batch[i] > 0).sum(axis=1), minlength=batch.shape[2] + 1) / batch.shape[1]
        figure.add_bar(
            x=np.arange(len(counts)), y=counts, marker={"color": color}, name=label, showlegend=False, row=1, col=2
        )
    style(figure, title, subtitle=subtitle)
    figure.update_xaxes(title_text="magnitude", col=1)
    figure.update_yaxes(title_text="probability density", rangemode="tozero", col=1)
    figure.update_xaxes(title_text="number of active features", dtick=1, col=2)
    figure.update_yaxes(title_text="share of samples", col=2)
    return figure


def fate_map(
    importance: Any, density: Any, predicted: Any, trained: Any, title: str, *, subtitle: str = ""
) -> go.Figure:
    """Fate of one feature whose importance (columns) and density (rows) differ from the others': prediction beside training."""
    figure = make_subplots(
        1, 2, subplot_titles=["cheapest arrangement", "training"], horizontal_spacing=0.08, shared_yaxes=True
    )
    x, y = _numpy(importance), _numpy(density)
    inside = (1 / x >= y.min()) & (1 / x <= y.max())
    for column, phase in enumerate((predicted, trained), start=1):
        figure.add_trace(_phase_heat(x, y, phase), row=1, col=column)
        figure.add_scatter(
            x=x[inside], y=1 / x[inside], mode="lines", line={"color": "black", "dash": "dash", "width": 1.5},
            name="equal importance × density", showlegend=column == 1, row=1, col=column,
        )  # fmt: skip
    for name, color in PHASE_COLORS.items():
        square = {"symbol": "square", "size": 13, "color": color}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=square, name=name, row=1, col=1)
    style(figure, title, subtitle=subtitle, height=480)
    figure.update_xaxes(type="log", title_text="importance, relative to the others", showgrid=False, dtick=1)
    figure.update_yaxes(type="log", showgrid=False, tickvals=[0.1, 0.2, 0.5, 1, 2, 5, 10])
    figure.update_yaxes(title_text="density, relative to the others", col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    return figure


def directions_svg(W: Any, labels: Sequence[str], size: int = 150, scale: float = 48.0) -> str:
    """The same arrows as `feature_directions`, as a small stand-alone SVG for a text: `W [panels, 2, features]`."""
    W = _numpy(W)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size * len(W)} {size + 24}' font-family='sans-serif' font-size='13'>"
    ]
    parts.append(f"<rect width='{size * len(W)}' height='{size + 24}' fill='white'/>")
    for panel, (w, label) in enumerate(zip(W, labels)):
        x0, y0 = size * panel + size // 2, 24 + size // 2
        parts.append(f"<text x='{x0}' y='16' text-anchor='middle' fill='#222'>{label}</text>")
        parts.append(f"<circle cx='{x0}' cy='{y0}' r='{scale:.0f}' fill='none' stroke='#ccc'/>")
        for i, (x, y) in enumerate(w.T):
            x1, y1, color = round(x0 + scale * x), round(y0 - scale * y), PALETTE[i % len(PALETTE)]
            parts.append(
                f"<path d='M{x0} {y0}L{x1} {y1}' stroke='{color}' stroke-width='3'/><circle cx='{x1}' cy='{y1}' r='5' fill='{color}'/>"
            )
    return "".join(parts) + "</svg>"


def strategy_costs(
    p: Any, costs: Any, title: str, *, subtitle: str = "", trained: tuple[Any, Any] | None = None
) -> go.Figure:
    """Expected loss of each strategy against density, on logarithmic axes; `costs` maps a phase's name to its losses.

    `trained`: densities and measured losses of trained models, drawn as circles.
    """
    p = _numpy(p)
    figure = go.Figure()
    for name in PHASES:
        color = "#777777" if name == "ignored" else PHASE_COLORS[name]
        dash = "dot" if name == "ignored" else "solid"
        figure.add_scatter(
            x=p, y=_numpy(costs[name]), mode="lines", name=name, line={"color": color, "width": 3, "dash": dash}
        )
    if trained is not None:
        dots = {"color": "black", "size": 7, "symbol": "circle-open", "line": {"width": 2}}
        figure.add_scatter(
            x=_numpy(trained[0]), y=_numpy(trained[1]), mode="markers", name="trained models", marker=dots
        )
    style(figure, title, subtitle=subtitle, x="density p = 1 − S (left is sparser)", y="expected loss")
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    figure.update_layout(legend={"x": 0.02, "y": 0.98, "bgcolor": "rgba(255,255,255,0.8)"})
    return figure


def sparsity_explorer(density: Any, W: Any, losses: Any = None) -> Any:
    """An ipywidgets slider over instances of different sparsity: arrows (or bars, if d > 2) beside W^T W.

    `density [instances]`, `W [instances, d_hidden, features]`. Needs a running notebook; returns the widget.
    """
    import ipywidgets as widgets
    from IPython.display import display

    density, W = _numpy(density).ravel(), _numpy(W)
    options = [(f"S = {1 - p:.3f}", i) for i, p in enumerate(density)]
    slider = widgets.SelectionSlider(
        options=options, description="sparsity", continuous_update=True, layout=widgets.Layout(width="560px")
    )

    def draw(index: int) -> None:
        display(sparsity_frame(density[index], W[index], None if losses is None else float(losses[index])))

    return widgets.VBox([slider, widgets.interactive_output(draw, {"index": slider})])


def sparsity_frame(p: float, W: Any, loss: float | None = None) -> go.Figure:
    """One position of the slider: the features of one model as arrows (or bars), and its W^T W."""
    W = _numpy(W)
    flat = W.shape[0] == 2
    first = "feature directions" if flat else "‖Wᵢ‖² of each feature"
    figure = make_subplots(1, 2, subplot_titles=[first, "WᵀW"], horizontal_spacing=0.14)
    kept = (W**2).sum(axis=0)
    if flat:
        angle = np.linspace(0, 2 * np.pi, 121)
        circle = {"color": "#CCCCCC", "width": 1}
        figure.add_scatter(x=np.cos(angle), y=np.sin(angle), mode="lines", line=circle, hoverinfo="skip", row=1, col=1)
        for i, (x, y) in enumerate(W.T):
            color = PALETTE[i % len(PALETTE)]
            figure.add_scatter(
                x=[0, x], y=[0, y], mode="lines+markers", line={"color": color, "width": 3},
                marker={"size": [0, 9], "color": color}, name=f"feature {i}", row=1, col=1,
            )  # fmt: skip
    else:
        figure.add_bar(x=np.arange(W.shape[1]), y=kept, marker={"color": PALETTE[0]}, row=1, col=1)
    heat = go.Heatmap(z=W.T @ W, colorscale=DIVERGING, zmin=-1.2, zmax=1.2, colorbar={"thickness": 14})
    figure.add_trace(heat, row=1, col=2)
    measured = f" · loss {loss:.4f}" if loss is not None else ""
    title = f"{(kept > 0.5).sum()} of {W.shape[1]} features in {W.shape[0]} dimensions"
    style(
        figure,
        title,
        subtitle=f"sparsity S = {1 - p:.3f}, density p = {p:.3f}{measured}",
        height=400,
        width=760,
        legend=False,
    )
    if flat:
        limits = {"range": [-1.4, 1.4], "showgrid": False, "constrain": "domain"}
        figure.update_xaxes(title_text="hidden dimension 1", row=1, col=1, **limits)
        figure.update_yaxes(title_text="hidden dimension 2", scaleanchor="x", row=1, col=1, **limits)
    figure.update_xaxes(title_text="input feature j", constrain="domain", showgrid=False, row=1, col=2)
    figure.update_yaxes(
        title_text="output feature i",
        autorange="reversed",
        scaleanchor="x2",
        constrain="domain",
        showgrid=False,
        row=1,
        col=2,
    )
    return figure


def _phase_heat(x: np.ndarray, y: np.ndarray, phase: Any) -> go.Heatmap:
    colors = [PHASE_COLORS[name] for name in PHASES]
    scale = [[edge / 3, colors[i]] for i in range(3) for edge in (i, i + 1)]
    names = np.array(PHASES)[_numpy(phase)]
    return go.Heatmap(
        x=x, y=y, z=_numpy(phase), zmin=-0.5, zmax=2.5, colorscale=scale, showscale=False, text=names, xgap=1, ygap=1,
        hovertemplate="importance %{x:.2f}<br>density %{y:.3f}<br>%{text}<extra></extra>",
    )  # fmt: skip


def _feature_colors(features: int, importance: Any) -> list[str]:
    if importance is None:
        return [PALETTE[i % len(PALETTE)] for i in range(features)]
    from plotly.colors import sample_colorscale

    values = _numpy(importance).ravel()
    span = max(float(values.max() - values.min()), 1e-9)
    return sample_colorscale(SEQUENTIAL, [float(0.85 * (values.max() - v) / span) for v in values])


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


__all__ = [
    "PHASE_COLORS",
    "directions_svg",
    "fate_map",
    "feature_directions",
    "features_per_dimension",
    "gram_heatmaps",
    "loss_curves",
    "magnitude_histogram",
    "phase_diagrams",
    "represented_bars",
    "sparsity_explorer",
    "sparsity_frame",
    "strategy_costs",
]
