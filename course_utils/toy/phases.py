"""Which phase training lands in, a whole phase diagram from one batched training run, and its agreement with theory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from course_utils.toy.config import ToyModelConfig
from course_utils.toy.geometry import REPRESENTED, superposition_per_feature
from course_utils.toy.models import ToyModel, importance_weighted_loss
from course_utils.toy.theory import PHASES, TheoreticalPhases, theoretical_phase_diagram
from course_utils.toy.training import train_toy_model

AWAY = 0.1
"""A cell is away from the boundaries when the second best strategy costs at least this share more than the best."""


def classify_solution(W: Float[Tensor, "instances d_hidden features"], feature: int = -1) -> Int[Tensor, " instances"]:
    """The phase of one feature (the last, unless told) in each instance, as its number in `PHASES`.

    ignored (0): ||W_i||^2 <= 1/2. Otherwise superposition (2) when the others' overlap with it, sum (unit W_i . W_j)^2, exceeds
    1/2, else dedicated (1).
    """
    represented, superposition = superposition_per_feature(W)
    kept, crowded = represented[:, feature] > REPRESENTED, superposition[:, feature] > REPRESENTED
    return torch.where(kept, torch.where(crowded, 2, 1), 0)


@dataclass
class PhaseDiagram:
    """Theory and training on the same grid: rows are densities, columns relative importances."""

    importance: Float[Tensor, " importances"]
    density: Float[Tensor, " densities"]
    n_features: int
    theory: TheoreticalPhases
    phase: Int[Tensor, "densities importances"]
    """What training found, as numbers into `PHASES`."""
    loss: Float[Tensor, "densities importances"]
    """Expected loss of the trained model of each cell."""
    W: Float[Tensor, "densities importances d_hidden features"]

    @property
    def away(self) -> Bool[Tensor, "densities importances"]:
        """Cells away from the boundaries: the second best strategy costs at least 10% more than the best."""
        return self.theory.margin >= AWAY

    @property
    def agreement(self) -> float:
        """Share of the cells away from the boundaries where training found the phase that theory predicts."""
        return float((self.phase == self.theory.phase)[self.away].float().mean())


def phase_diagram(
    importance: Float[Tensor, " importances"] | None = None,
    density: Float[Tensor, " densities"] | None = None,
    n_features: int = 2,
    *,
    classify: Callable[[Tensor], Tensor] = classify_solution,
    seeds: int = 8,
    steps: int = 1_000,
    batch_size: int = 128,
    lr: float = 0.01,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> PhaseDiagram:
    """Train n features in n - 1 dimensions on a grid of relative importance x density, all cells at once, and classify them.

    The other features have importance 1. Each cell is trained from `seeds` starts and the one of lowest `expected_loss` counts:
    small models get stuck. Defaults: 20 importances from 0.1 to 10, 20 densities from 0.01 to 1, both logarithmic.
    """
    importance = torch.logspace(-1, 1, 20) if importance is None else importance
    density = torch.logspace(-2, 0, 20) if density is None else density
    config = _grid_config(importance, density, n_features, seeds)
    generator = torch.Generator(device or "cpu").manual_seed(seed)
    model = ToyModel(config, generator, device)
    train_toy_model(model, steps=steps, batch_size=batch_size, lr=lr, seed=seed, progress=progress)
    loss = expected_loss(model, seed=seed).view(seeds, -1).cpu()
    best = loss.argmin(dim=0)
    W = model.W.detach().cpu().view(seeds, -1, n_features - 1, n_features)[best, torch.arange(best.numel())]
    shape = (len(density), len(importance))
    return PhaseDiagram(
        importance,
        density,
        n_features,
        theoretical_phase_diagram(importance, density, n_features),
        classify(W).view(shape),
        loss.amin(dim=0).view(shape),
        W.view(*shape, n_features - 1, n_features),
    )


def _grid_config(importance: Tensor, density: Tensor, n_features: int, seeds: int) -> ToyModelConfig:
    """One instance a cell and seed, ordered [seed, density, importance]."""
    cells = len(importance) * len(density)
    relative = importance.repeat(len(density))
    weights = torch.ones(cells, n_features)
    weights[:, -1] = relative
    probability = density.repeat_interleave(len(importance))[:, None]
    return ToyModelConfig(
        n_features=n_features,
        d_hidden=n_features - 1,
        n_instances=seeds * cells,
        feature_probability=probability.repeat(seeds, 1),
        importance=weights.repeat(seeds, 1),
    )


@torch.no_grad()
def expected_loss(model: ToyModel, points: int = 1024, seed: int = 0) -> Float[Tensor, " instances"]:
    """Expected loss of a model of at most 10 independent features, with far less noise than a random batch has.

    Every pattern of active features (there are 2^n) is evaluated on the same `points` random magnitudes and counted with its
    exact probability. At p = 0.01 a plain batch would need 10,000 samples to see one pair of active features.
    """
    config = model.config
    n = config.n_features
    if n > 10 or config.n_correlated_pairs or config.n_anticorrelated_pairs:
        raise ValueError("expected_loss counts all 2^n patterns: use it for at most 10 independent features")
    p = config.probabilities(model.W.device, model.W.dtype)
    importance = config.importances(p.device, p.dtype)
    generator = torch.Generator(p.device).manual_seed(seed)
    u = torch.rand(1, points, n, generator=generator, device=p.device, dtype=p.dtype)
    total = torch.zeros(config.n_instances, device=p.device, dtype=p.dtype)
    for pattern in itertools.product((0.0, 1.0), repeat=n):
        active = torch.tensor(pattern, device=p.device, dtype=p.dtype)
        chance = torch.where(active > 0, p, 1 - p).prod(dim=-1)
        x = (u * active).expand(config.n_instances, -1, -1)
        total += chance * importance_weighted_loss(x, model(x), importance)
    return total


def phase_names(phase: Int[Tensor, "*grid"]) -> list[str]:
    """The names of phase numbers, flattened."""
    return [PHASES[number] for number in phase.flatten().tolist()]


__all__ = ["AWAY", "PhaseDiagram", "classify_solution", "expected_loss", "phase_diagram", "phase_names"]
