"""Meta-SAEs: an SAE on the decoder directions of an SAE (Bussmann et al. 2024, Leask et al. 2025, arXiv:2502.04878)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from course_utils.sae.config import SAEConfig
from course_utils.sae.train import train_sae


@dataclass(frozen=True)
class Families:
    """What a meta-SAE says about a dictionary.

    Attributes:
        strength: `[latents, meta]`: length of what each meta-latent contributes to each latent's unit direction.
        member: `[latents, meta]`: whether that is at least the asked share of the latent's strongest contribution.
        fvu: fraction of the variance of the unit directions, about their mean, left unexplained.
    """

    strength: Float[Tensor, "latents meta"]
    member: Bool[Tensor, "latents meta"]
    fvu: float


def train_meta_sae(W_dec: Float[Tensor, "latents d"], d_meta: int, k: int, *, steps: int = 1000, seed: int = 0) -> Any:
    """A TopK SAE with `d_meta` latents on the unit rows of `W_dec`, by the course's trainer."""
    rows = nn.functional.normalize(W_dec.detach().float(), dim=1)
    cfg = SAEConfig(
        d_in=rows.shape[1],
        d_sae=d_meta,
        k=k,
        steps=steps,
        batch_size=min(512, len(rows)),
        lr=3e-3,
        seed=seed,
        dead_after_steps=100,
        resample="simple",
        resample_every=max(100, steps // 8),
        resample_until=0.6,
    )
    return train_sae(rows, cfg, progress=False).sae


@torch.no_grad()
def meta_families(W_dec: Float[Tensor, "latents d"], meta: Any, *, share: float = 0.5) -> Families:
    """Decompose every latent's unit direction into meta-latents.

    Args:
        W_dec: decoder of the SAE under study; rows of any length.
        meta: an SAE that reads `[*, d]`, with `encode`, `decode` and `W_dec`.
        share: of a latent's strongest contribution, from which it counts as a member.
    """
    rows = nn.functional.normalize(W_dec.detach().float(), dim=1)
    latents = meta.encode(rows)
    strength = latents * meta.W_dec.norm(dim=1)
    member = (strength > 0) & (strength >= share * strength.amax(dim=1, keepdim=True))
    error = (rows - meta.decode(latents)).square().sum()
    return Families(strength, member, float(error / (rows - rows.mean(0)).square().sum()))


@dataclass(frozen=True)
class ComposedDictionary:
    """Latent directions that are sums of a few parts, as in "red" + "square".

    Attributes:
        W_dec: `[latents, d]`, rows of random lengths.
        parts: `[n_parts, d]`, unit rows.
        member: `[latents, n_parts]`, which parts a latent is made of.
    """

    W_dec: Float[Tensor, "latents d"]
    parts: Float[Tensor, "parts d"]
    member: Bool[Tensor, "latents parts"]


def composed_dictionary(
    latents: int = 500, d: int = 64, n_parts: int = 24, *, noise: float = 0.3, seed: int = 0
) -> ComposedDictionary:
    """Each latent is the sum of one, two or three random parts and a direction of its own of length `noise`.

    (Were every latent one colour plus one shape, the parts would be known only up to a shift from all colours to all shapes.)
    """
    generator = torch.Generator().manual_seed(seed)
    parts = nn.functional.normalize(torch.randn(n_parts, d, generator=generator), dim=1)
    how_many = torch.randint(1, 4, (latents, 1), generator=generator)
    rank = torch.rand(latents, n_parts, generator=generator).argsort(dim=1).argsort(dim=1)
    member = rank < how_many
    own = noise * nn.functional.normalize(torch.randn(latents, d, generator=generator), dim=1)
    lengths = torch.exp(0.5 * torch.randn(latents, 1, generator=generator))
    return ComposedDictionary(lengths * (member.float() @ parts + own), parts, member)


@torch.no_grad()
def gaussian_twin(W_dec: Float[Tensor, "latents d"], *, seed: int = 0) -> Float[Tensor, "latents d"]:
    """Directions with the mean and covariance of the unit rows of `W_dec`, and nothing else of it: a control for meta-SAEs."""
    rows = nn.functional.normalize(W_dec.detach().float(), dim=1)
    centred = rows - rows.mean(0)
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(len(rows), len(rows), generator=generator) / len(rows) ** 0.5
    return rows.mean(0) + mixing @ centred
