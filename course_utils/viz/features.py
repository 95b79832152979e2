"""Figures about latents: a sentence against latents, densities, logit effects, layers compared, scored explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from course_utils.features import ExplanationScore, SentenceHeatmap
from course_utils.viz.theme import PALETTE, SEQUENTIAL, style
from course_utils.viz.tokens import visible


def sentence_figure(
    heat: SentenceHeatmap, labels: Mapping[int, str] | None = None, title: str | None = None
) -> go.Figure:
    """Latents (rows) over the tokens of a sentence (columns)."""
    names = [f"{i} · {labels[i]}" if labels and i in labels else str(i) for i in heat.latents]
    figure = go.Figure(
        go.Heatmap(
            z=heat.acts,
            x=list(range(len(heat.tokens))),
            y=names,
            colorscale=SEQUENTIAL,
            colorbar={"title": "activation"},
            customdata=np.tile([visible(t) for t in heat.tokens], (len(names), 1)),
            hovertemplate="latent %{y}<br>token “%{customdata}”<br>activation %{z:.2f}<extra></extra>",
        )
    )
    figure.update_yaxes(type="category", autorange="reversed")
    figure.update_xaxes(
        tickvals=list(range(len(heat.tokens))), ticktext=[visible(t) for t in heat.tokens], tickangle=-45
    )
    height = 190 + 24 * len(names)
    return style(figure, title or "Which latents fire on which token", x="token", y="latent", height=height)


def density_figure(density: Float[np.ndarray, " latents"], title: str | None = None) -> go.Figure:
    """Histogram of log10 densities; latents that never fired are counted in the subtitle, since they have no logarithm."""
    density = np.asarray(density)
    alive = density[density > 0]
    dead, dense = int((density == 0).sum()), int((density > 0.1).sum())
    figure = go.Figure(
        go.Histogram(
            x=np.log10(alive),
            nbinsx=60,
            marker_color=PALETTE[0],
            hovertemplate="10<sup>%{x}</sup><br>%{y} latents<extra></extra>",
        )
    )
    figure.add_vline(x=-1, line_dash="dot", line_color=PALETTE[3], annotation_text="dense: over 10% of tokens")
    middle = (
        f"Half of the latents fire on less than {np.median(alive):.2%} of tokens" if len(alive) else "No latent fires"
    )
    subtitle = f"{len(density):,} latents: {dead:,} never fired on this text, {dense:,} fire on more than 10% of tokens"
    return style(
        figure,
        title or middle,
        subtitle=subtitle,
        x="log10 of the share of tokens on which a latent fires",
        y="latents",
    )


def logit_figure(words: Sequence[str], values: Sequence[float], title: str) -> go.Figure:
    """Tokens that a latent raises (blue) and lowers (vermilion), as bars."""
    order = np.argsort(values)
    numbers = np.asarray(values)[order]
    figure = go.Figure(
        go.Bar(
            x=numbers,
            y=[f"{visible(words[i])!r}" for i in order],
            orientation="h",
            marker_color=[PALETTE[0] if v >= 0 else PALETTE[3] for v in numbers],
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    figure.update_yaxes(type="category")
    return style(
        figure, title, x="logits per unit of activation (direct path)", y="token", height=160 + 20 * len(order)
    )


def token_share_figure(shares: Mapping[str, Float[np.ndarray, " latents"]], title: str | None = None) -> go.Figure:
    """Per layer, the distribution over latents of the share that the current token alone explains."""
    figure = go.Figure()
    for i, (name, share) in enumerate(shares.items()):
        kept = np.asarray(share)[~np.isnan(share)]
        figure.add_trace(
            go.Violin(
                y=np.clip(kept, -0.2, 1),
                name=name,
                box_visible=True,
                points=False,
                line_color=PALETTE[i % len(PALETTE)],
                spanmode="hard",
            )
        )
    middles = ", ".join(f"{name}: {np.nanmedian(share):.2f}" for name, share in shares.items())
    return style(
        figure,
        title or "How much of a latent is only the current token",
        subtitle=f"median share: {middles}",
        x="layer",
        y="held-out variance the token explains",
        legend=False,
    )


def scores_figure(scores: Mapping[str, ExplanationScore], title: str | None = None) -> go.Figure:
    """Balanced accuracy of explanations with their intervals, beside what shuffled labels give."""
    names, kept = list(scores), list(scores.values())
    bars: dict[str, Any] = {
        "type": "data",
        "symmetric": False,
        "array": [s.high - s.balanced_accuracy for s in kept],
        "arrayminus": [s.balanced_accuracy - s.low for s in kept],
    }
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=[s.balanced_accuracy for s in kept],
            y=names,
            error_x=bars,
            mode="markers",
            marker={"size": 10, "color": PALETTE[0]},
            name="explanation",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[s.shuffled_high for s in kept],
            y=names,
            mode="markers",
            marker={"size": 10, "symbol": "line-ns-open", "color": PALETTE[3]},
            name="97.5% of shuffled labels",
        )
    )
    figure.update_xaxes(range=[0.3, 1.02])
    figure.update_yaxes(type="category", autorange="reversed")
    beaten = sum(s.beats_chance for s in kept)
    return style(
        figure,
        title or f"{beaten} of {len(kept)} explanations predict unseen text better than chance",
        subtitle="bars: 95% bootstrap interval over held-out contexts",
        x="balanced accuracy",
        y="",
        height=180 + 34 * len(kept),
    )
