"""Figures of the worked portfolio (lesson 09): a transition, a recovery, latents explained and tested, layers compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from course_utils.viz.theme import PALETTE, style


def transition_figure(
    probability: Float[np.ndarray, " runs"],
    represented: Float[np.ndarray, "seeds runs"],
    saved: Float[np.ndarray, "seeds runs"],
    n_dimensions: int,
    n_features: int,
    title: str,
    *,
    subtitle: str = "",
) -> go.Figure:
    """Features represented, and loss over the loss without superposition, against 1/p: the mean over seeds and every seed."""
    x = 1 / np.asarray(probability, dtype=float)
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.13)
    for column, (values, colour) in enumerate(((represented, PALETTE[0]), (saved, PALETTE[2])), 1):
        for row in np.asarray(values, dtype=float):
            figure.add_scatter(x=x, y=row, mode="markers", marker={"size": 6, "color": colour, "opacity": 0.35},
                               showlegend=False, hoverinfo="skip", row=1, col=column)  # fmt: skip
        figure.add_scatter(x=x, y=np.mean(values, axis=0), mode="lines", line={"color": colour, "width": 3},
                           showlegend=False, customdata=probability,
                           hovertemplate="p = %{customdata:.3f}<br>mean %{y:.2f}<extra></extra>", row=1, col=column)  # fmt: skip
    for level, words in ((n_dimensions, "dimensions"), (n_features, "features")):
        figure.add_hline(y=level, line_dash="dot", line_color="#777777", row=1, col=1,
                         annotation_text=f"{level} {words}", annotation_position="bottom right")  # fmt: skip
    figure.add_hline(y=1, line_dash="dot", line_color="#777777", row=1, col=2,
                     annotation_text="no superposition", annotation_position="top right")  # fmt: skip
    style(figure, title, subtitle=subtitle, height=430)
    ticks = {"type": "log", "tickvals": [1, 2, 5, 10, 20, 50, 100], "title_text": "1 / feature probability (log scale)"}
    figure.update_xaxes(**ticks)
    figure.update_yaxes(title_text="features with ‖W‖² > ½", range=[0, n_features + 1], row=1, col=1)
    figure.update_yaxes(title_text="loss / loss without superposition", range=[0, 1.25], row=1, col=2)
    return figure


def recovery_figure(
    n_features: Sequence[int], curves: Mapping[str, Float[np.ndarray, "repeats settings"]], dimensions: int, title: str,
    *, subtitle: str = "",
) -> go.Figure:  # fmt: skip
    """Share of features recovered against their number: the trained autoencoder beside its chance levels, every repeat a dot."""
    figure = go.Figure()
    marks = ("circle", "square", "diamond", "cross")
    for i, (name, values) in enumerate(curves.items()):
        table, colour = np.asarray(values, dtype=float), PALETTE[(0, 3, 7, 4)[i % 4]]
        figure.add_scatter(x=list(n_features), y=table.mean(axis=0), mode="lines+markers", name=name,
                           line={"color": colour, "dash": "solid" if i == 0 else "dot"},
                           marker={"symbol": marks[i % 4], "size": 9})  # fmt: skip
        for row in table:
            figure.add_scatter(x=list(n_features), y=row, mode="markers", showlegend=False, hoverinfo="skip",
                               marker={"color": colour, "size": 5, "opacity": 0.4, "symbol": marks[i % 4]})  # fmt: skip
    figure.add_vline(x=dimensions, line_dash="dot", line_color="#999999", annotation_text=f"{dimensions} dimensions",
                     annotation_position="bottom right")  # fmt: skip
    style(figure, title, subtitle=subtitle, x="features in the data", y="share recovered (cosine > 0.9)")
    figure.update_yaxes(range=[-0.03, 1.05])
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    return figure


def evidence_figure(rows: Sequence[Mapping[str, Any]], title: str, *, subtitle: str = "") -> go.Figure:
    """One line a latent. Left: its explanation's balanced accuracy with interval, beside the best single token and shuffled labels.
    Right: what its tokens lose when it is removed, with interval, beside random directions.

    Each row: `name`, `score`, `score_low`, `score_high`, `shuffled`, `best_token`, `support`, `support_low`, `support_high`, `controls`.
    """
    names = [row["name"] for row in rows]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06, column_widths=[0.5, 0.5])

    def interval(key: str, colour: str, label: str, column: int) -> None:
        middle = [row[key] for row in rows]
        bars = {
            "type": "data", "symmetric": False, "thickness": 2,
            "array": [row[f"{key}_high"] - row[key] for row in rows],
            "arrayminus": [row[key] - row[f"{key}_low"] for row in rows],
        }  # fmt: skip
        figure.add_scatter(x=middle, y=names, error_x=bars, mode="markers", marker={"size": 11, "color": colour},
                           name=label, row=1, col=column)  # fmt: skip

    figure.add_scatter(x=[row["shuffled"] for row in rows], y=names, mode="markers", name="97.5% of shuffled labels",
                       marker={"symbol": "line-ns-open", "size": 14, "color": PALETTE[3], "line": {"width": 3}}, row=1, col=1)  # fmt: skip
    figure.add_scatter(x=[row["best_token"] for row in rows], y=names, mode="markers", name="best single token",
                       marker={"symbol": "diamond-open", "size": 10, "color": PALETTE[7], "line": {"width": 2}}, row=1, col=1)  # fmt: skip
    interval("score", PALETTE[0], "explanation (95% interval)", 1)
    spots = [(value, row["name"]) for row in rows for value in row["controls"]]
    figure.add_scatter(x=[value for value, _ in spots], y=[name for _, name in spots], mode="markers",
                       name="a random direction removed", row=1, col=2,
                       marker={"size": 7, "color": PALETTE[3], "opacity": 0.6, "symbol": "x-thin-open", "line": {"width": 2}})  # fmt: skip
    interval("support", PALETTE[2], "the latent removed (95% interval)", 2)
    style(figure, title, subtitle=subtitle, height=230 + 44 * len(rows))
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title_text="balanced accuracy on unseen text", range=[0.45, 1.02], row=1, col=1)
    figure.update_xaxes(title_text="log-probability its five tokens lose (nats)", rangemode="tozero", row=1, col=2)
    figure.update_layout(legend={"orientation": "h", "y": -0.16, "yanchor": "top"}, margin={"b": 110})
    return figure


def comparison_figure(
    groups: Mapping[str, Float[np.ndarray, " latents"]], title: str, *, subtitle: str = "", y: str = ""
) -> go.Figure:
    """One column a group: every latent a dot, a box over them."""
    figure = go.Figure()
    for i, (name, values) in enumerate(groups.items()):
        figure.add_box(
            y=np.asarray(values), name=name, boxpoints="all", jitter=0.6, pointpos=0, fillcolor="rgba(0,0,0,0)",
            marker={"size": 4, "opacity": 0.45, "color": PALETTE[i % len(PALETTE)]}, line={"width": 2},
        )  # fmt: skip
    return style(figure, title, subtitle=subtitle, x="where the autoencoder reads", y=y, legend=False, height=470)
