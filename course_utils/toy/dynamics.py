"""Learning dynamics: when a feature's dimensionality jumps from one level to another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def find_jumps(D: Float[Tensor, "snapshots features"], size: float = 0.15, window: int = 5) -> list[tuple[int, int]]:
    """Pairs (snapshot, feature) where a feature's level changes by more than `size` and stays changed.

    The level before is the mean of the `window` snapshots before t, the level after that of the `window` snapshots from t on.
    A jump's snapshot is the one with the largest difference; two jumps of one feature are at least `window` snapshots apart.
    """
    if D.shape[0] < 2 * window:
        return []
    means = D.unfold(0, window, 1).mean(-1)
    change = (means[window:] - means[:-window]).abs()
    found = []
    for feature in range(D.shape[1]):
        left = change[:, feature].clone()
        while left.numel() and float(left.max()) > size:
            peak = int(left.argmax())
            found.append((peak + window, feature))
            left[max(0, peak - window + 1) : peak + window] = 0
    return sorted(found)


def dimensionality_over_time(snapshots: list[Tensor], instance: int = 0) -> Float[Tensor, "snapshots features"]:
    """`feature_dimensionality` of one instance at every snapshot of a training run."""
    from course_utils.toy.geometry import feature_dimensionality

    return torch.stack([feature_dimensionality(W[instance : instance + 1])[0] for W in snapshots])
