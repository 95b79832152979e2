"""One look for every figure: colours that colour-blind readers can tell apart, takeaway titles, named axes."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7A6A00", "#333333")
"""Lines and categories, in the order to use them: Okabe and Ito's set, yellow darkened so that it shows on white."""

SEQUENTIAL = "Viridis"
"""From little to much: readable in grey and by colour-blind readers."""

DIVERGING = "RdBu"
"""Around zero: red is negative, blue positive. Use it with `zmid=0` (or `cmid`)."""

INK, GRID, PAPER = "#222222", "#E5E5E5", "#FFFFFF"
FONT = "Inter, Helvetica, Arial, sans-serif"


def style(
    figure: go.Figure,
    title: str,
    *,
    subtitle: str = "",
    x: str | None = None,
    y: str | None = None,
    width: int | None = None,
    height: int = 420,
    legend: bool | None = None,
) -> go.Figure:
    """Give a figure the course's look, in place, and return it.

    `title` is a sentence that states the takeaway; `subtitle` says what was measured; `x` and `y` name the axes with their units.

    Example:
        >>> import plotly.graph_objects as go
        >>> figure = style(go.Figure(go.Scatter(y=[3, 1, 2])), "Loss falls", x="training step", y="loss")
        >>> figure.layout.xaxis.title.text
        'training step'
    """
    text = f"<b>{title}</b>" + (f"<br><span style='font-size:13px;color:#555'>{subtitle}</span>" if subtitle else "")
    top = 66 + 22 * text.count("<br>")
    figure.update_layout(
        title={"text": text, "x": 0.0, "xanchor": "left", "xref": "paper", "font": {"size": 17}, "y": 1.0,
               "yref": "container", "yanchor": "top", "pad": {"t": 20}},
        template="plotly_white",
        font={"family": FONT, "size": 13, "color": INK},
        colorway=list(PALETTE),
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        height=height,
        margin={"t": top, "l": 64, "r": 24, "b": 56},
        hoverlabel={"font": {"family": FONT}},
    )  # fmt: skip
    figure.update_annotations(font_size=13)
    axis: dict[str, Any] = {"gridcolor": GRID, "zerolinecolor": "#BBBBBB", "automargin": True, "title_standoff": 8}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    if x is not None:
        figure.update_xaxes(title_text=x)
    if y is not None:
        figure.update_yaxes(title_text=y)
    if width is not None:
        figure.update_layout(width=width)
    if legend is not None:
        figure.update_layout(showlegend=legend)
    return figure
