"""Circular features (Engels et al. 2024, arXiv:2405.14860): how much of the differences between days or months is one circle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Circle:
    """The part of `n` ordered class means that goes round once.

    Attributes:
        share: of the variance of the means about their mean.
        plane: `[2, d]`, orthonormal rows: the plane of the circle.
        line: share of the circle's own variance that the best single direction holds (1/2 for a true circle).
    """

    share: float
    plane: Float[Tensor, "2 d"]
    line: float


@torch.no_grad()
def circular_structure(means: Float[Tensor, "n d"]) -> Circle:
    """Take the means' lowest frequency around the cycle (their order is the order of the rows) by a discrete Fourier transform.

    In a random order every frequency gets the same share on average, so chance is `2 / (n - 1)`.
    """
    n = len(means)
    angle = 2 * torch.pi * torch.arange(n) / n
    waves = torch.stack([angle.cos(), angle.sin()]).to(means) * (2 / n) ** 0.5  # orthonormal over the n classes
    centred = means - means.mean(0)
    amplitudes = waves @ centred
    _, sizes, directions = torch.linalg.svd(amplitudes, full_matrices=False)
    power = sizes.square()
    total = centred.square().sum().clamp_min(1e-30)
    return Circle(float(power.sum() / total), directions, float(power[0] / power.sum().clamp_min(1e-30)))


@torch.no_grad()
def shares_of_random_orders(
    means: Float[Tensor, "n d"], draws: int = 2000, *, seed: int = 0
) -> Float[Tensor, " draws"]:
    """The circle's share after putting the classes in random orders: the chance level with its spread."""
    n = len(means)
    angle = 2 * torch.pi * torch.arange(n) / n
    waves = torch.stack([angle.cos(), angle.sin()]).to(means) * (2 / n) ** 0.5
    centred = means - means.mean(0)
    gram = centred @ centred.T
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(draws, n, generator=generator).argsort(dim=1)
    shuffled = gram[orders[:, :, None], orders[:, None, :]]
    return torch.einsum("ai,bij,aj->b", waves, shuffled, waves) / gram.trace().clamp_min(1e-30)


@dataclass(frozen=True)
class CircleWorld:
    """Activations with one circular feature among ordinary sparse ones.

    Attributes:
        plane: `[2, d]`; `directions`: `[features, d]`, orthogonal to it; `n`: points on the circle.
    """

    plane: Float[Tensor, "2 d"]
    directions: Float[Tensor, "features d"]
    n: int

    def sample(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Activations, and the class of each (-1 where the circular feature is absent, half of the time)."""
        which = torch.randint(self.n, (n,), generator=generator)
        there = torch.rand(n, generator=generator) < 0.5
        angle = 2 * torch.pi * which / self.n
        radius = there * (0.9 + 0.2 * torch.rand(n, generator=generator))
        on = torch.rand(n, len(self.directions), generator=generator) < 0.1
        values = on * (0.5 + torch.rand(on.shape, generator=generator))
        circle = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1) @ self.plane
        noise = 0.02 * torch.randn(n, self.plane.shape[1], generator=generator)
        return circle + values @ self.directions + noise, torch.where(there, which, -1)


def circle_world(d: int = 32, features: int = 20, n: int = 7, *, seed: int = 0) -> CircleWorld:
    """A circle of `n` classes and `features` ordinary features in `d` dimensions."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.linalg.qr(torch.randn(d, 2, generator=generator))[0].T
    directions = torch.randn(features, d, generator=generator)
    return CircleWorld(plane, nn.functional.normalize(directions - directions @ plane.T @ plane, dim=1), n)
