"""Pictures: plotly figures, token heatmaps, feature dashboards. Each part is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Dashboard": "dashboard",
    "agreement_figure": "circuits",
    "build_dashboard": "dashboard",
    "colored_tokens": "tokens",
    "colored_tokens_multi": "tokens",
    "contribution_figure": "circuits",
    "density_figure": "features",
    "control_figure": "circuits",
    "dose_response_figure": "circuits",
    "examples_html": "tokens",
    "faithfulness_figure": "circuits",
    "feature_graph_figure": "circuits",
    "interval_figure": "circuits",
    "logit_figure": "features",
    "patching_figure": "circuits",
    "related_links": "dashboard",
    "scores_figure": "features",
    "sentence_figure": "features",
    "steering_matrix": "circuits",
    "token_heatmap_html": "tokens",
    "token_share_figure": "features",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"course_utils.viz.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
