"""Figures for sparse autoencoders: latents locking on, shrinkage, L1 beside TopK, Pareto curves, densities, stability, hierarchies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from course_utils.viz.theme import DIVERGING, INK, PALETTE, style

MARKERS = ("circle", "square", "diamond", "cross", "triangle-up", "star")
DEAD = "#BBBBBB"


def latents_locking_on(
    snapshots: Mapping[str, Any], true_directions: Any, steps: Sequence[int], title: str, *, subtitle: str = ""
) -> go.Figure:
    """An animation: decoder rows in two dimensions, moving onto the true directions (dashed) as training goes on.

    `snapshots` maps a panel's name to rows `[time, latents, 2]`; `steps` names the times. A latent turns from grey to blue once
    its cosine with a true direction exceeds 0.95. Play it, or move the slider.
    """
    truth = _unit(_numpy(true_directions))
    panels = {name: _numpy(rows) for name, rows in snapshots.items()}
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.06)
    for column in range(1, len(panels) + 1):
        x, y = _rays(1.15 * truth)
        figure.add_scatter(
            x=x, y=y, mode="lines", line={"color": "#999999", "dash": "dot", "width": 2}, name="true feature",
            showlegend=column == 1, hoverinfo="skip", row=1, col=column,
        )  # fmt: skip
    moving = list(range(len(figure.data), len(figure.data) + 2 * len(panels)))
    for column, rows in enumerate(panels.values(), start=1):
        for trace, (name, color) in zip(
            _latent_traces(rows[0], truth), (("matched", PALETTE[0]), ("not matched", DEAD))
        ):
            figure.add_scatter(
                **trace, mode="lines+markers", line={"color": color, "width": 3}, marker={"size": 8}, name=f"latent, {name}",
                showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
    figure.frames = [
        go.Frame(
            name=str(step),
            traces=moving,
            data=[go.Scatter(**trace) for rows in panels.values() for trace in _latent_traces(rows[t], truth)],
        )
        for t, step in enumerate(steps)
    ]
    style(figure, title, subtitle=subtitle, height=560)
    figure.update_xaxes(range=[-1.3, 1.3], title_text="dimension 1", zeroline=True)
    figure.update_yaxes(range=[-1.3, 1.3], zeroline=True)
    figure.update_yaxes(title_text="dimension 2", col=1)
    for column in range(1, len(panels) + 1):
        number = "" if column == 1 else str(column)
        figure.update_layout({f"yaxis{number}": {"scaleanchor": f"x{number}", "scaleratio": 1}})
    figure.update_layout(
        legend={"orientation": "h", "y": -0.13, "x": 0.5, "xanchor": "center"},
        margin={"b": 150},
        updatemenus=[_play_button()],
        sliders=[_slider(steps)],
    )
    return figure


def shrinkage(sizes: Any, found: Mapping[str, tuple[Any, float]], title: str, *, subtitle: str = "") -> go.Figure:
    """A latent's activation against the true size of its feature; dashed: what the L1 formula predicts.

    `found` maps a name to (latents `[samples]`, predicted shift). The dotted diagonal is a perfect answer.
    """
    sizes = _numpy(sizes)
    order = np.argsort(sizes)
    figure = go.Figure()
    figure.add_scatter(
        x=[0, sizes.max()], y=[0, sizes.max()], mode="lines", line={"color": "#888888", "dash": "dot"}, name="perfect"
    )
    for color, (name, (latents, shift)) in zip(PALETTE, found.items()):
        figure.add_scatter(
            x=sizes, y=_numpy(latents), mode="markers", marker={"size": 5, "opacity": 0.45, "color": color}, name=name
        )
        if shift:
            line = np.maximum(sizes[order] - shift, 0)
            figure.add_scatter(
                x=sizes[order], y=line, mode="lines", line={"color": color, "dash": "dash"}, name=f"size − λ/2 ({name})"
            )
    return style(
        figure, title, subtitle=subtitle, x="true size of the feature", y="activation of its latent", height=440
    )


def comparison_table(rows: Sequence[Mapping[str, Any]], title: str, *, subtitle: str = "") -> go.Figure:
    """A table with one line per method; the keys of the first row are the column heads."""
    heads = list(rows[0])
    cells = [[row.get(head, "") for row in rows] for head in heads]
    band = ["#FFFFFF" if i % 2 else "#F3F6F9" for i in range(len(rows))]
    table = go.Table(
        columnwidth=[2.4, *(max(1.0, max(map(len, head.split())) / 9) for head in heads[1:])],
        header={
            "values": [f"<b>{head}</b>" for head in heads], "align": "left", "fill_color": "#DCE6EE",
            "font": {"size": 13, "color": INK}, "height": 44,
        },
        cells={
            "values": cells, "align": "left", "fill_color": [band], "font": {"size": 13, "color": INK}, "height": 28,
        },
    )  # fmt: skip
    figure = style(go.Figure(table), title, subtitle=subtitle, height=170 + 29 * len(rows))
    return figure.update_layout(margin={"l": 10, "r": 10, "b": 10})


def pareto_curves(
    points: Mapping[str, Sequence[Mapping[str, float]]], title: str, *, subtitle: str = "", recovered_of: int = 0
) -> go.Figure:
    """Fraction of variance unexplained against active latents a sample, one line per architecture; lower left is better.

    Each point is a mapping with `l0`, `fvu`, `setting` and, where truth is known, `recovered`. With `recovered_of` features a
    second panel shows how many of them each point recovers.
    """
    panels = 2 if recovered_of else 1
    figure = make_subplots(1, panels, horizontal_spacing=0.1)
    for color, marker, (name, line) in zip(PALETTE, MARKERS, points.items()):
        line = sorted(line, key=lambda point: point["l0"])
        look = {
            "mode": "lines+markers", "line": {"color": color}, "marker": {"symbol": marker, "size": 9}, "name": name,
            "legendgroup": name, "x": [point["l0"] for point in line], "text": [str(point["setting"]) for point in line],
        }  # fmt: skip
        figure.add_scatter(
            **look, y=[point["fvu"] for point in line], row=1, col=1,
            hovertemplate="%{text}<br>L0 %{x:.2f}<br>unexplained %{y:.3f}",
        )  # fmt: skip
        if recovered_of:
            spread = [point.get("recovered_spread", 0.0) for point in line]
            figure.add_scatter(
                **look, y=[point["recovered"] for point in line], showlegend=False, row=1, col=2,
                error_y={"type": "data", "array": spread, "thickness": 1, "width": 3},
                hovertemplate="%{text}<br>L0 %{x:.2f}<br>recovered %{y:.1f}",
            )  # fmt: skip
    style(figure, title, subtitle=subtitle, x="active latents a sample (L0)", height=460)
    figure.update_yaxes(title_text="variance unexplained", rangemode="tozero", col=1)
    if recovered_of:
        figure.update_yaxes(title_text=f"features recovered, of {recovered_of}", range=[0, 1.08 * recovered_of], col=2)
    return figure.update_layout(legend={"orientation": "h", "y": -0.2})


def latent_densities(densities: Mapping[str, Any], title: str, *, subtitle: str = "", floor: float = 1e-4) -> go.Figure:
    """Histograms of log10(share of samples on which a latent is active); latents never active stand in a bar of their own."""
    figure = make_subplots(len(densities), 1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=list(densities))
    low = math.log10(floor)
    edges = np.arange(low, 0.0001, 0.25)
    top = 0
    for row, (color, density) in enumerate(zip(PALETTE, densities.values()), start=1):
        density = _numpy(density)
        alive = density[density > 0]
        counts, _ = np.histogram(np.clip(np.log10(alive), low, 0), bins=np.append(edges[:-1], 0.0001))
        dead = int((density == 0).sum())
        centres = edges[:-1] + 0.125
        top = max(top, dead, int(counts.max(initial=0)))
        figure.add_bar(
            x=centres, y=counts, width=0.22, marker_color=color, showlegend=False, row=row, col=1,
            hovertemplate="log10 density %{x:.2f}<br>%{y} latents<extra></extra>",
        )  # fmt: skip
        figure.add_bar(
            x=[low - 0.5], y=[dead], width=0.4, marker_color=DEAD, showlegend=False, row=row, col=1, text=[f"{dead} dead"],
            textposition="outside", cliponaxis=False, hovertemplate="never active: %{y} latents<extra></extra>",
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, y="latents", height=150 + 150 * len(densities))
    figure.update_yaxes(range=[0, 1.25 * top])
    ticks = list(range(math.ceil(low), 1))
    names = ["never<br>active", *(f"10<sup>{t}</sup>" if t else "1" for t in ticks)]
    figure.update_xaxes(tickvals=[low - 0.5, *ticks], ticktext=names, range=[low - 0.9, 0.15])
    figure.update_xaxes(title_text="share of samples on which the latent is active", row=len(densities))
    return figure.update_layout(bargap=0)


def stability_curves(
    matched: Mapping[str, Any], title: str, *, subtitle: str = "", chance: Any = None, threshold: float = 0.9
) -> go.Figure:
    """Cosines of matched latents of two seeds, largest first, one curve per method; `chance` is drawn in grey."""
    figure = go.Figure()
    for color, marker, (name, cosines) in zip(PALETTE, MARKERS, matched.items()):
        values = np.sort(_numpy(cosines))[::-1]
        share = (values > threshold).mean()
        figure.add_scatter(
            x=np.arange(1, len(values) + 1), y=values, mode="lines+markers", marker={"symbol": marker, "size": 6},
            line={"color": color}, name=f"{name}: {share:.0%} agree",
            hovertemplate="partner %{x}<br>cosine %{y:.3f}<extra></extra>",
        )  # fmt: skip
    if chance is not None:
        values = np.sort(_numpy(chance))[::-1]
        figure.add_scatter(
            x=np.arange(1, len(values) + 1), y=values, mode="lines", line={"color": "#888888", "dash": "dot"},
            name=f"two random dictionaries: {(values > threshold).mean():.0%}",
        )  # fmt: skip
    figure.add_hline(y=threshold, line={"color": "#BBBBBB", "dash": "dash"}, annotation_text=f"cosine {threshold:g}")
    style(figure, title, subtitle=subtitle, x="pairs of latents, best match first", y="cosine of the two decoder rows")
    return figure.update_layout(legend={"orientation": "h", "y": -0.22})


def hierarchy_heatmaps(
    cosines: Mapping[str, Any], features: Sequence[str], title: str, *, subtitle: str = "", children_from: int = 0
) -> go.Figure:
    """Cosine of every latent (rows) with every true feature (columns), one panel per autoencoder.

    Rows are ordered by the feature they match best. A line divides parents from children (`children_from` is the first child).
    """
    figure = make_subplots(1, len(cosines), subplot_titles=list(cosines), horizontal_spacing=0.05)
    for column, values in enumerate(map(_numpy, cosines.values()), start=1):
        values = values[np.argsort(values.argmax(1), kind="stable")]
        figure.add_heatmap(
            z=values, x=list(features), coloraxis="coloraxis", row=1, col=column,
            hovertemplate="latent %{y}, feature %{x}<br>cosine %{z:.2f}<extra></extra>",
        )  # fmt: skip
        figure.update_yaxes(dtick=1 if len(values) <= 20 else 10, row=1, col=column)
        if children_from:
            figure.add_vline(x=children_from - 0.5, line={"color": INK, "width": 1.5}, row=1, col=column)
    style(figure, title, subtitle=subtitle, x="true feature", height=500)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_yaxes(title_text="latent, ordered by best match", col=1)
    figure.update_xaxes(tickangle=90, showgrid=False, tickfont={"size": 10}, dtick=1)
    bar = {"title": {"text": "cosine"}, "thickness": 14}
    return figure.update_layout(coloraxis={"colorscale": DIVERGING, "cmid": 0, "cmin": -1, "cmax": 1, "colorbar": bar})


def absorption_bars(
    shares: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, *, subtitle: str = ""
) -> go.Figure:
    """How often the parent's latent is silent: with a child present, and with the parent alone; dots are single seeds.

    `shares` maps a method to (shares with a child, shares with the parent alone), one number per seed.
    """
    figure = go.Figure()
    names = list(shares)
    for which, (label, color) in enumerate(
        (("a child is present (absorbed)", PALETTE[3]), ("the parent is alone", PALETTE[0]))
    ):
        values = [np.asarray(shares[name][which], dtype=float) for name in names]
        figure.add_bar(
            x=names, y=[v.mean() for v in values], name=label, marker_color=color, opacity=0.75, offsetgroup=which
        )
        figure.add_scatter(
            x=[name for name, v in zip(names, values) for _ in v], y=np.concatenate(values), mode="markers", name="seeds",
            marker={"color": INK, "size": 6, "symbol": "circle-open"}, showlegend=which == 0, offsetgroup=which,
        )  # fmt: skip
    style(figure, title, subtitle=subtitle, y="share of samples, parent silent", height=440)
    figure.update_yaxes(range=[0, 1])
    return figure.update_layout(barmode="group", scattermode="group", legend={"orientation": "h", "y": -0.2})


def _latent_traces(rows: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """Rays of the latents that match a true direction, and of the others."""
    matched = (_unit(rows) @ truth.T).max(1) > 0.95
    return [dict(zip("xy", _rays(rows[chosen]))) for chosen in (matched, ~matched)]


def _rays(points: np.ndarray) -> tuple[list[float | None], list[float | None]]:
    x: list[float | None] = []
    y: list[float | None] = []
    for a, b in points:
        x += [0.0, round(float(a), 4), None]
        y += [0.0, round(float(b), 4), None]
    return x, y


def _play_button() -> dict[str, Any]:
    play = {"frame": {"duration": 120, "redraw": True}, "transition": {"duration": 0}, "fromcurrent": True}
    stop = {"frame": {"duration": 0}, "mode": "immediate"}
    return {
        "type": "buttons", "direction": "left", "x": 0.0, "y": -0.24, "xanchor": "left", "yanchor": "top", "showactive": False,
        "buttons": [
            {"label": "▶ play", "method": "animate", "args": [None, play]},
            {"label": "❚❚ stop", "method": "animate", "args": [[None], stop]},
        ],
    }  # fmt: skip


def _slider(steps: Sequence[int]) -> dict[str, Any]:
    jump = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    return {
        "x": 0.22, "len": 0.78, "y": -0.2, "currentvalue": {"prefix": "training step "}, "pad": {"t": 10},
        "steps": [{"label": str(step), "method": "animate", "args": [[str(step)], jump]} for step in steps],
    }  # fmt: skip


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _numpy(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
