"""Feature absorption (Chanin et al. 2024, arXiv:2409.14507), measured by who carries a missing parent, and a planted hierarchy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Absorption:
    """How a parent feature fares in an SAE, over the samples in which it is present.

    Attributes:
        silent: share of them on which the parent's own latent does not fire.
        absorbed: share of them on which it does not fire and one other latent writes the parent's direction instead.
        absorber: the latent that does so most often, -1 if none ever does.
    """

    silent: float
    absorbed: float
    absorber: int


@torch.no_grad()
def feature_absorption(
    latents: Float[Tensor, "samples d_sae"],
    W_dec: Float[Tensor, "d_sae d"],
    present: Bool[Tensor, " samples"],
    projection: Float[Tensor, " samples"],
    direction: Float[Tensor, " d"],
    parent_latent: int,
    *,
    share: float = 0.4,
) -> Absorption:
    """Count absorption of one parent feature.

    Args:
        present: samples in which the parent is active.
        projection: the activation's component along the parent's direction.
        direction: the parent's true direction (or a probe's), of any length.
        parent_latent: the latent that stands for the parent.
        share: of the projection that a single other latent must write to count as the absorber.
    """
    carried = latents * (W_dec @ direction / direction.norm())
    carried = carried.index_fill(1, torch.tensor([parent_latent]), -torch.inf)
    most, who = carried.max(dim=1)
    silent = present & (latents[:, parent_latent] <= 0)
    absorbed = silent & (most >= share * projection) & (projection > 0)
    n = present.sum().clamp_min(1)
    absorber = int(who[absorbed].bincount().argmax()) if bool(absorbed.any()) else -1
    return Absorption(float(silent.sum() / n), float(absorbed.sum() / n), absorber)


@dataclass(frozen=True)
class HierarchyWorld:
    """Parents and their children, all with directions at right angles.

    Attributes:
        parents: `[n_parents, d]`; `children`: `[n_parents, n_children, d]`; unit rows.
        linked: a child implies its parent; otherwise children come and go by themselves, as often (the control).
    """

    parents: Float[Tensor, "parents d"]
    children: Float[Tensor, "parents n_children d"]
    linked: bool = True
    parent_probability: float = 0.15
    child_share: float = 0.6

    @property
    def directions(self) -> Float[Tensor, "features d"]:
        """All features: the parents, then the children."""
        return torch.cat([self.parents, self.children.flatten(0, 1)])

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Activations `[n, d]`, and which features are on `[n, features]`. At most one child of each parent."""
        n_parents, n_children = self.children.shape[:2]
        parents = torch.rand(n, n_parents, generator=generator) < self.parent_probability
        source = parents if self.linked else torch.rand(n, n_parents, generator=generator) < self.parent_probability
        which = (torch.rand(n, n_parents, generator=generator) / self.child_share * n_children).long()
        children = (which[..., None] == torch.arange(n_children)) & source[..., None]
        on = torch.cat([parents, children.flatten(1)], dim=1)
        values = on * (0.8 + 0.4 * torch.rand(on.shape, generator=generator))
        return values @ self.directions, on


def hierarchy_world(
    d: int = 32, n_parents: int = 4, n_children: int = 5, *, linked: bool = True, seed: int = 0
) -> HierarchyWorld:
    """A hierarchy with random orthogonal directions."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, n_parents * (1 + n_children), generator=generator))[0].T
    return HierarchyWorld(basis[:n_parents], basis[n_parents:].view(n_parents, n_children, d), linked)
