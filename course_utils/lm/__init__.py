"""Language models, text, activations, and SAEs trained on them. Names are imported when first used: `import` stays quick."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "model": ("BUNDLED", "ModelUnavailable", "fetch_model", "load_model", "model_folder"),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
