"""What a toy model is made of: sizes, how often each feature is active, how much it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Numbers = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class ToyModelConfig:
    """Sizes and data of `n_instances` toy models that are trained side by side as one batched model.

    `feature_probability` (chance that a feature is active, p = 1 - sparsity) and `importance` are numbers or anything that
    broadcasts to `[n_instances, n_features]`: a list or tensor of shape `[n_features]` says "per feature", one of shape
    `[n_instances, 1]` says "per instance".

    Example:
        >>> config = ToyModelConfig(n_features=5, d_hidden=2, n_instances=3, feature_probability=[[1.0], [0.3], [0.05]])
        >>> config.probabilities().shape
        torch.Size([3, 5])
    """

    n_features: int = 5
    d_hidden: int = 2
    n_instances: int = 1
    feature_probability: Numbers = 0.1
    importance: Numbers = 1.0
    n_correlated_pairs: int = 0
    """Features 0 and 1, 2 and 3, ... so many pairs are always active together."""
    n_anticorrelated_pairs: int = 0
    """The next so many pairs are never active together."""

    def __post_init__(self) -> None:
        for name in ("n_features", "d_hidden", "n_instances"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but a toy model needs at least 1")
        paired = 2 * (self.n_correlated_pairs + self.n_anticorrelated_pairs)
        if paired > self.n_features:
            raise ValueError(
                f"{self.n_correlated_pairs} correlated and {self.n_anticorrelated_pairs} anticorrelated pairs need "
                f"{paired} features, but n_features is {self.n_features}"
            )
        probabilities = self.probabilities()
        if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
            raise ValueError("feature_probability holds values outside [0, 1]")
        if not bool((self.importances() >= 0).all()):
            raise ValueError("importance holds negative values: the loss would reward errors there")

    def probabilities(
        self, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "instances features"]:
        """`feature_probability` written out for every instance and feature."""
        return self._expanded("feature_probability", device, dtype)

    def importances(
        self, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "instances features"]:
        """`importance` written out for every instance and feature."""
        return self._expanded("importance", device, dtype)

    def _expanded(self, name: str, device: torch.device | str | None, dtype: torch.dtype) -> Tensor:
        value = torch.as_tensor(getattr(self, name), dtype=dtype, device=device)
        wanted = (self.n_instances, self.n_features)
        try:
            return value.expand(wanted).contiguous()
        except RuntimeError:
            raise ValueError(
                f"{name} has shape {list(value.shape)}, which does not broadcast to [n_instances, n_features] = "
                f"{list(wanted)}. One value per instance has shape [{self.n_instances}, 1]: use `values[:, None]`."
            ) from None
