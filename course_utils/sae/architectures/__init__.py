"""The registry of architectures: one file and one line here for each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_utils.sae.model import SAE

ARCHITECTURES: dict[str, str] = {
    "standard": "course_utils.sae.architectures.standard:StandardSAE",
    "topk": "course_utils.sae.architectures.topk:TopKSAE",
    "batchtopk": "course_utils.sae.architectures.batchtopk:BatchTopKSAE",
    "gated": "course_utils.sae.architectures.gated:GatedSAE",
    "jumprelu": "course_utils.sae.architectures.jumprelu:JumpReLUSAE",
    "matryoshka": "course_utils.sae.architectures.matryoshka:MatryoshkaSAE",
}


def architecture_class(name: str) -> type[SAE]:
    """The class behind an architecture's name."""
    module, _, attribute = ARCHITECTURES[name].partition(":")
    return getattr(import_module(module), attribute)
