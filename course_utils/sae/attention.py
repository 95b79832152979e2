"""Which head a latent of an attention-output SAE comes from (Kissane et al. 2024, arXiv:2406.17759), and toy heads whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@torch.no_grad()
def head_attribution(
    z: Float[Tensor, "samples heads d_head"],
    W_O: Float[Tensor, "heads d_head d_model"],
    W_enc: Float[Tensor, "d_model latents"],
    latents: Float[Tensor, "samples latents"],
) -> Float[Tensor, "heads latents"]:
    """Each head's part of each latent's pre-activation, averaged over the samples on which the latent fires.

    The attention output is a sum over heads, `sum_h z_h W_O[h] + b_O`, and the pre-activation is linear in it; what the heads
    do not make up is a constant. Latents that never fire get 0.
    """
    fires = (latents > 0).to(z)
    count = fires.sum(0).clamp_min(1)
    mean_z = torch.einsum("nhe,nl->hle", z, fires) / count[:, None]
    return torch.einsum("hle,hed,dl->hl", mean_z, W_O, W_enc)


@torch.no_grad()
def top_head_share(
    attribution: Float[Tensor, "heads latents"],
) -> tuple[Int[Tensor, " latents"], Float[Tensor, " latents"]]:
    """The head with the largest part, and that part over the sum of all positive parts (0 where none is positive)."""
    positive = attribution.clamp_min(0)
    best = positive.max(dim=0)
    return best.indices, best.values / positive.sum(0).clamp_min(1e-12)


@dataclass(frozen=True)
class HeadWorld:
    """Heads that each write features of their own; some features are written by two heads together.

    Attributes:
        W_O: `[heads, d_head, d_model]`.
        writers: `[features, heads]`: which heads write which feature, as shares that sum to 1.
        codes: `[features, heads, d_head]`: where in a head's output a feature stands.
    """

    W_O: Float[Tensor, "heads d_head d_model"]
    writers: Float[Tensor, "features heads"]
    codes: Float[Tensor, "features heads d_head"]

    @property
    def directions(self) -> Float[Tensor, "features d_model"]:
        """What a feature adds to the attention output, all its heads together."""
        return torch.einsum("fh,fhe,hed->fd", self.writers, self.codes, self.W_O)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`z [n, heads, d_head]` with a constant offset in each head, and the features' values `[n, features]`."""
        on = torch.rand(n, len(self.writers), generator=generator) < 0.06
        values = on * (0.5 + torch.rand(on.shape, generator=generator))
        z = torch.einsum("nf,fh,fhe->nhe", values, self.writers, self.codes)
        return z + 0.3 * self.codes.mean(0) + 0.02 * torch.randn(z.shape, generator=generator), values

    def attention_output(self, z: Float[Tensor, "n heads d_head"]) -> Float[Tensor, "n d_model"]:
        """`sum_h z_h W_O[h]`."""
        return torch.einsum("nhe,hed->nd", z, self.W_O)


def head_world(
    d_model: int = 48, heads: int = 6, d_head: int = 8, single: int = 30, double: int = 6, *, seed: int = 0
) -> HeadWorld:
    """`single` features with one head each and `double` features that two heads write in equal parts. Heads differ in size."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.linspace(0.6, 1.6, heads)[torch.randperm(heads, generator=generator)]
    W_O = torch.randn(heads, d_head, d_model, generator=generator) / d_model**0.5
    codes = nn.functional.normalize(torch.randn(single + double, heads, d_head, generator=generator), dim=-1)
    writers = torch.zeros(single + double, heads)
    writers[torch.arange(single), torch.arange(single) % heads] = 1
    for row in range(single, single + double):
        writers[row, torch.randperm(heads, generator=generator)[:2]] = 0.5
    return HeadWorld(size[:, None, None] * W_O, writers, codes)
