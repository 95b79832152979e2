"""The exact expected loss of each way to squeeze n features into n - 1 dimensions, and the phase diagram that follows.

Setting: features are 0 with probability 1 - p, else uniform on [0, 1]; the first features have importance 1, the last (the
"extra") has importance r. Three things can happen to the extra feature (Toy Models of Superposition, "phase change"):

- ignored: it gets no direction, and its output is the best constant, b = E[x] = p/2.
  What is left is its variance:  r V(p),  V(p) = p/3 - p^2/4.
- dedicated: it has a dimension of its own. One of the others is then ignored, V(p), or (n = 3) the two others share
  a dimension as an antipodal pair.
- superposition: it is stored as the opposite of another feature, W = (1, -1). One active feature is read without error; when both
  are, each output misses by min(x_1, x_2), and E[min^2] = 1/6:  p^2 (1 + r) / 6.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

PHASES = ("ignored", "dedicated", "superposition")
"""What can happen to the extra feature; a phase's number is its place here."""


def ignored_loss(p: Tensor | float) -> Tensor:
    """Variance of a sparse uniform feature, p/3 - p^2/4: the loss of a feature of importance 1 that is never stored."""
    p = torch.as_tensor(p)
    return p / 3 - p**2 / 4


def antipodal_loss(
    p_i: Tensor | float, p_j: Tensor | float, importance_i: Tensor | float, importance_j: Tensor | float
) -> Tensor:
    """Loss of two features that share one dimension as opposites: p_i p_j (I_i + I_j) / 6."""
    return torch.as_tensor(p_i) * torch.as_tensor(p_j) * (importance_i + torch.as_tensor(importance_j)) / 6


def triangle_loss(p: Tensor | float, total_importance: Tensor | float) -> Tensor:
    """Loss of three features at 120 degrees in a plane: sum(I) (p^2 (1 - p) / 8 + p^3 / 6). Never the best of the strategies."""
    p = torch.as_tensor(p)
    return total_importance * (p**2 * (1 - p) / 8 + p**3 / 6)


def expected_loss_of_strategies(
    importance: Float[Tensor, "*grid"] | float, p: Float[Tensor, "*grid"] | float, n_features: int = 2
) -> dict[str, Float[Tensor, "*grid"]]:
    """Exact expected loss of each phase for n=2, d=1 or n=3, d=2.

    `importance` is the extra feature's, relative to the others' 1; `p` is every feature's probability of being active. They
    broadcast. Returns a mapping from the names in `PHASES` to losses.

    Example:
        >>> {name: round(float(loss), 4) for name, loss in expected_loss_of_strategies(1.0, 0.1).items()}
        {'ignored': 0.0308, 'dedicated': 0.0308, 'superposition': 0.0033}
    """
    importance, p = torch.broadcast_tensors(torch.as_tensor(importance), torch.as_tensor(p))
    if n_features not in (2, 3):
        raise ValueError(f"n_features is {n_features}; the strategies are worked out for 2 (d=1) and 3 (d=2)")
    alone = ignored_loss(p)
    dedicated = alone if n_features == 2 else torch.minimum(alone, antipodal_loss(p, p, 1.0, 1.0))
    return {
        "ignored": importance * alone,
        "dedicated": dedicated.clone(),
        "superposition": antipodal_loss(p, p, 1.0, importance),
    }


class TheoreticalPhases(NamedTuple):
    """What `theoretical_phase_diagram` returns."""

    phase: Int[Tensor, "densities importances"]
    """Number (place in `PHASES`) of the cheapest strategy."""
    loss: Float[Tensor, "densities importances"]
    margin: Float[Tensor, "densities importances"]
    """How much worse the second best is: its loss over the best one's, minus 1. Near 0 at a boundary."""


def theoretical_phase_diagram(
    importance: Float[Tensor, " importances"], p: Float[Tensor, " densities"], n_features: int = 2
) -> TheoreticalPhases:
    """The cheapest strategy on a grid: rows are densities `p`, columns relative importances."""
    losses = expected_loss_of_strategies(importance[None, :], p[:, None], n_features)
    stacked = torch.stack([losses[name] for name in PHASES])
    best = stacked.sort(dim=0)
    return TheoreticalPhases(best.indices[0], best.values[0], best.values[1] / best.values[0].clamp(min=1e-12) - 1)


class Allocation(NamedTuple):
    """How n features in n - 1 dimensions share them most cheaply."""

    fate: tuple[str, ...]
    """For every feature its phase: `ignored`, `dedicated` or `superposition`."""
    loss: float


def best_allocation(importance: Float[Tensor, " features"], p: Float[Tensor, " features"]) -> Allocation:
    """The cheapest way to put n features, each with its own importance and probability, into n - 1 dimensions.

    One feature too many: either one is ignored, I_k V(p_k), or two are an antipodal pair, p_i p_j (I_i + I_j) / 6. All others have
    a dimension of their own and cost nothing.
    """
    n = importance.shape[0]
    options: list[tuple[float, dict[int, str]]] = []
    for i in range(n):
        options.append((float(importance[i] * ignored_loss(p[i])), {i: "ignored"}))
        for j in range(i + 1, n):
            cost = float(antipodal_loss(p[i], p[j], importance[i], importance[j]))
            options.append((cost, {i: "superposition", j: "superposition"}))
    loss, changed = min(options, key=lambda option: option[0])
    return Allocation(tuple(changed.get(i, "dedicated") for i in range(n)), loss)
