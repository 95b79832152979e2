"""Language models, text, activations, and SAEs trained on them. Names are imported when first used: `import` stays quick."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "activations": (
        "ActivationBuffer",
        "CollectedActivations",
        "HookReader",
        "collect_activations",
        "open_activations",
    ),
    "corpus": ("Corpus", "Document", "PackedTokens", "corpus_sources", "load_corpus"),
    "end_to_end": ("finetune_end_to_end",),
    "evaluate": ("LossRecovered", "evaluate_on_model", "loss_recovered"),
    "messages": ("Messages", "best_single_token", "load_messages", "messages_manifest"),
    "saes": ("available_saes", "load_sae"),
    "train_lm_sae": ("TrainedSAE", "train_from_corpus"),
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
