"""Figures for lesson 04, sparse autoencoders on data with known truth: training, matching, recovery, trade-offs, pursuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from course_utils.sae.numpy_sae import cosine_similarities, match_features
from course_utils.viz.theme import PALETTE, SEQUENTIAL, style

CHANCE_GREY = "#666666"


def readout_histograms(
    readouts: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, *, subtitle: str = "", bins: int = 60
) -> go.Figure:
    """Dot products `x · v` [samples, n] split by whether the feature is active (coefficient above 0), one panel an entry."""
    figure = make_subplots(1, len(readouts), subplot_titles=list(readouts), horizontal_spacing=0.07, shared_yaxes=True)
    edges = np.linspace(-4, 5, bins + 1)
    for column, (readout, coefficients) in enumerate(readouts.values(), start=1):
        active = coefficients > 0
        for color, name, values in (
            (PALETTE[5], "feature is off", readout[~active]),
            (PALETTE[3], "feature is active", readout[active]),
        ):
            density = np.histogram(values, bins=edges, density=True)[0]
            figure.add_scatter(
                x=(edges[:-1] + edges[1:]) / 2, y=density, mode="lines", fill="tozeroy", name=name, legendgroup=name,
                showlegend=column == 1, line={"color": color, "width": 2}, row=1, col=column,
                hovertemplate=f"{name}<br>x · v = %{{x:.2f}}<br>density %{{y:.3f}}<extra></extra>",
            )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="x · v", height=390)
    figure.update_yaxes(title_text="density", col=1)
    return _legend_below(figure)


def training_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]], title: str, *, subtitle: str = ""
) -> go.Figure:
    """Loss, L0 and variance unexplained against the training step, one line per run; directions recovered if recorded."""
    panels = {
        "loss": "loss (log scale)",
        "l0": "L0 (active latents a sample)",
        "fvu": "variance unexplained (log scale)",
        "recovered": "directions at cosine > 0.9",
    }
    panels = {key: label for key, label in panels.items() if all(key in history for history in histories.values())}
    figure = make_subplots(1, len(panels), horizontal_spacing=0.08, subplot_titles=list(panels.values()))
    for color, (name, history) in zip(PALETTE, histories.items()):
        for column, key in enumerate(panels, start=1):
            figure.add_scatter(
                x=history["step"], y=history[key], mode="lines", line={"color": color, "width": 2}, name=name,
                legendgroup=name, showlegend=column == 1, row=1, col=column,
                hovertemplate=f"{name}<br>step %{{x}}<br>{key} %{{y:.3g}}<extra></extra>",
            )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="training step", height=390)
    figure.update_annotations(font_size=12)
    for column, key in enumerate(panels, start=1):
        if key in ("loss", "fvu"):  # they fall by orders of magnitude in the first steps
            figure.update_yaxes(type="log", dtick="D2", row=1, col=column)
        else:
            figure.update_yaxes(rangemode="tozero", row=1, col=column)
    return _legend_below(figure)


def match_heatmaps(
    dictionaries: Mapping[str, np.ndarray], directions: np.ndarray, title: str, *, subtitle: str = ""
) -> go.Figure:
    """Cosine of every true direction (row) with every dictionary row (column), one panel a dictionary.

    Columns are in the order of the Hungarian matching, so that a recovered feature is a bright entry on the diagonal; rows without a
    partner follow in any order.
    """
    figure = make_subplots(1, len(dictionaries), subplot_titles=list(dictionaries), horizontal_spacing=0.06)
    for column, dictionary in enumerate(dictionaries.values(), start=1):
        matched = match_features(dictionary, directions).assignment
        matched = matched[matched >= 0]
        rest = np.setdiff1d(np.arange(len(dictionary)), matched)
        cosines = cosine_similarities(dictionary, directions)[:, np.concatenate([matched, rest])]
        figure.add_heatmap(
            z=cosines, coloraxis="coloraxis", row=1, col=column,
            hovertemplate="true direction %{y}<br>latent %{x} (in matched order)<br>cosine %{z:.3f}<extra></extra>",
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="latent, in matched order", height=430)
    figure.update_layout(
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1, "colorbar": {"title": "cosine", "thickness": 14}}
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    figure.update_yaxes(title_text="true direction", col=1)
    return figure


def recovery_against_lambda(
    lams: Sequence[float],
    recovered: Sequence[float],
    n_directions: int,
    chance: Mapping[str, float],
    title: str,
    *,
    subtitle: str = "",
) -> go.Figure:
    """Directions recovered against lambda (log scale), with the chance levels as dashed lines."""
    figure = go.Figure()
    figure.add_scatter(
        x=list(lams), y=list(recovered), mode="lines+markers", line={"color": PALETTE[0], "width": 3}, marker_size=9,
        name="trained", hovertemplate="λ = %{x:.3g}<br>%{y} recovered<extra></extra>",
    )  # fmt: skip
    for dash, (name, level) in zip(("dash", "dot", "dashdot"), chance.items()):
        figure.add_scatter(
            x=[min(lams), max(lams)], y=[level, level], mode="lines", name=f"chance: {name} ({level:.1f})",
            line={"color": CHANCE_GREY, "dash": dash, "width": 2}, hoverinfo="skip",
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="λ (log scale)", y=f"directions at cosine > 0.9, of {n_directions}")
    figure.update_xaxes(type="log", tickvals=list(lams), ticktext=[f"{lam:g}" for lam in lams])
    figure.update_yaxes(range=[0, 1.06 * n_directions])
    return _legend_below(figure)


def sparsity_curve(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    *,
    points: Mapping[str, tuple[float, float]] | None = None,
    subtitle: str = "",
) -> go.Figure:
    """Variance unexplained against L0: one line per family (L0s, FVUs), single points beside them. Down and left is better."""
    figure = go.Figure()
    for color, (name, (l0s, fvus)) in zip(PALETTE, curves.items()):
        figure.add_scatter(
            x=list(l0s), y=list(fvus), mode="lines+markers", name=name, line={"color": color, "width": 2.5}, marker_size=8,
            hovertemplate=f"{name}<br>L0 %{{x:.2f}}<br>unexplained %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    symbols = ("star", "diamond", "x", "square", "cross")
    for symbol, color, (name, (l0, fvu)) in zip(symbols, PALETTE[len(curves) :], (points or {}).items()):
        figure.add_scatter(
            x=[l0], y=[fvu], mode="markers", name=name, marker={"size": 15, "symbol": symbol, "color": color},
            hovertemplate=f"{name}<br>L0 %{{x:.2f}}<br>unexplained %{{y:.4f}}<extra></extra>",
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="L0 (active latents a sample)", y="variance unexplained (log scale)")
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(type="log", dtick=1, minor={"dtick": "D1", "showgrid": True, "gridcolor": "#F2F2F2"})
    return _legend_below(figure)


def shrinkage_scatter(
    true: np.ndarray, found: Mapping[str, np.ndarray], title: str, *, subtitle: str = "", n_points: int = 1200
) -> go.Figure:
    """True coefficient against latent value where both are positive, one panel an encoder; the line is where they are equal."""
    figure = make_subplots(1, len(found), subplot_titles=list(found), horizontal_spacing=0.06, shared_yaxes=True)
    limit = float(true.max())
    for column, (color, values) in enumerate(zip(PALETTE, found.values()), start=1):
        both = (true > 0) & (values > 0)
        x, y = true[both], values[both]
        keep = np.linspace(0, len(x) - 1, min(n_points, len(x))).astype(int)
        figure.add_scatter(
            x=[0, limit], y=[0, limit], mode="lines", line={"color": "#999999", "dash": "dash"}, row=1, col=column,
            hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(
            x=x[keep].round(3), y=y[keep].round(3), mode="markers", marker={"color": color, "size": 4, "opacity": 0.45},
            row=1, col=column, hovertemplate="true %{x:.2f}<br>latent %{y:.2f}<extra></extra>",
        )  # fmt: skip
    width = 560 if len(found) == 1 else None
    style(figure, title, subtitle=subtitle, x="true coefficient", height=400, width=width, legend=False)
    figure.update_yaxes(title_text="latent value", col=1)
    return figure


def recovery_bars(
    rows: Mapping[str, tuple[float, float]], n_directions: int, title: str, *, subtitle: str = ""
) -> go.Figure:
    """Directions matched above 0.9 (wide, light) and above 0.99 (narrow, dark), one bar a method."""
    names = list(rows)
    loose, strict = zip(*rows.values())
    figure = go.Figure()
    figure.add_bar(y=names, x=loose, orientation="h", name="cosine > 0.9", marker_color=PALETTE[5], width=0.75)
    figure.add_bar(y=names, x=strict, orientation="h", name="cosine > 0.99", marker_color=PALETTE[0], width=0.35)
    style(
        figure, title, subtitle=subtitle, x=f"true directions matched, of {n_directions}", height=150 + 40 * len(rows)
    )
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(range=[0, 1.03 * n_directions])
    figure.update_yaxes(autorange="reversed", title_text="")
    return _legend_below(figure)


def support_curve(
    steps: Sequence[int],
    f1: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    title: str,
    *,
    subtitle: str = "",
) -> go.Figure:
    """How well the active set is found (F1) against the number of encoder steps; dashed lines for encoders without steps."""
    figure = go.Figure()
    for color, (name, values) in zip(PALETTE, f1.items()):
        figure.add_scatter(
            x=list(steps), y=list(values), mode="lines+markers", name=name, line={"color": color, "width": 3}, marker_size=8,
            hovertemplate=f"{name}<br>%{{x}} steps<br>F1 %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    for color, dash, (name, level) in zip(PALETTE[len(f1) :], ("dash", "dot", "dashdot"), levels.items()):
        figure.add_scatter(
            x=[min(steps), max(steps)], y=[level, level], mode="lines", name=f"{name} ({level:.2f})",
            line={"color": color, "dash": dash, "width": 2.5}, hoverinfo="skip",
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="encoder steps (log scale)", y="F1 of the active set (1 is perfect)")
    figure.update_xaxes(type="log", tickvals=list(steps), ticktext=[str(step) for step in steps])
    figure.update_yaxes(range=[0, 1.02])
    return _legend_below(figure)


def _legend_below(figure: go.Figure) -> go.Figure:
    """The legend under the axes, where it covers nothing, and room for it."""
    figure.update_layout(
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        margin_b=95,
    )
    return figure
