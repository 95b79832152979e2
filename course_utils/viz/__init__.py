"""Pictures: plotly figures, token heatmaps, feature dashboards. Each part is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Dashboard": "dashboard",
    "build_dashboard": "dashboard",
    "colored_tokens": "tokens",
    "colored_tokens_multi": "tokens",
    "density_figure": "features",
    "examples_html": "tokens",
    "logit_figure": "features",
    "related_links": "dashboard",
    "scores_figure": "features",
    "sentence_figure": "features",
    "token_share_figure": "features",
    "token_heatmap_html": "tokens",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"course_utils.viz.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
