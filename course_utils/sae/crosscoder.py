"""Crosscoders: one set of latents for several layers or models (Lindsey et al. 2024, "Sparse crosscoders"), and worlds to test them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from course_utils.sae.coder import Coder
from course_utils.sae.config import SAEConfig


class Crosscoder(Coder):
    """`f = act(sum_s x_s W_enc[s] + b_enc)`, `x_hat_s = f W_dec[s] + b_dec[s]` for each source s (a layer, or a model).

    Rows are the sources' activations side by side, `[x_0, x_1, ...]`. The L1 penalty weights a latent by the *sum* of its
    decoder lengths over the sources; `penalty="concatenated"` weights it by the length of all of them together, which
    makes it an ordinary SAE on the joined activations.

    Example:
        >>> coder = Crosscoder(SAEConfig(d_in=8, d_sae=16, k=2), n_sources=2)
        >>> coder.encode(torch.randn(5, 16)).shape, coder.decoders.shape
        (torch.Size([5, 16]), torch.Size([2, 16, 8]))
    """

    def __init__(self, cfg: SAEConfig, n_sources: int = 2, *, penalty: Literal["sum", "concatenated"] = "sum") -> None:
        width = n_sources * cfg.d_in
        super().__init__(cfg, width, width)
        self.n_sources, self.penalty = n_sources, penalty

    def split(self, rows: Float[Tensor, "batch row"]) -> tuple[Float[Tensor, "batch row"], Float[Tensor, "batch row"]]:
        """A crosscoder writes what it reads."""
        return rows, rows

    @property
    def row_width(self) -> int:
        """All sources side by side."""
        return self.d_read

    @property
    def decoders(self) -> Float[Tensor, "sources d_sae d_in"]:
        """`W_dec`, source by source."""
        return self.W_dec.view(-1, self.n_sources, self.cfg.d_in).transpose(0, 1)

    def decoder_lengths(self) -> Float[Tensor, " d_sae"]:
        """What one unit of each latent costs in the L1 penalty."""
        lengths = self.decoders.norm(dim=-1)
        return lengths.sum(0) if self.penalty == "sum" else lengths.square().sum(0).sqrt()

    @torch.no_grad()
    def relative_length(self) -> Float[Tensor, " d_sae"]:
        """Share of the last source in each latent's decoder lengths: 0 only the first writes it, 1/2 both, 1 only the last.

        For two sources.
        """
        first, last = self.decoders.norm(dim=-1)[[0, -1]]
        return last / (first + last).clamp_min(1e-12)


@dataclass(frozen=True)
class TwoSourceWorld:
    """Features that two models (or layers) share, and features that only one of them has.

    Attributes:
        directions: `[2, features, d]`: how each source writes each feature; a zero row where it does not have it.
        probability: `[features]`.
    """

    directions: Float[Tensor, "2 features d"]
    probability: Float[Tensor, " features"]

    @property
    def present(self) -> Bool[Tensor, "2 features"]:
        """Which source has which feature."""
        return self.directions.norm(dim=-1) > 0

    def sample(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n row"], Float[Tensor, "n features"]]:
        """`n` rows `[x_0, x_1]` and the features' values."""
        shape = n, len(self.probability)
        on = torch.rand(shape, generator=generator) < self.probability
        values = on * (0.5 + torch.rand(shape, generator=generator))
        return torch.cat([values @ one for one in self.directions], dim=1), values


def two_models(
    d: int = 32, shared: int = 24, only_first: int = 6, only_second: int = 6, *, weak: float = 1.0, seed: int = 0
) -> TwoSourceWorld:
    """Two models with unrelated directions. In the second one the last third of the shared features is `weak` times as long."""
    generator = torch.Generator().manual_seed(seed)
    n = shared + only_first + only_second
    directions = nn.functional.normalize(torch.randn(2, n, d, generator=generator), dim=-1)
    directions[1, shared - shared // 3 : shared] *= weak
    directions[1, shared : shared + only_first] = 0
    directions[0, shared + only_first :] = 0
    return TwoSourceWorld(directions, torch.full((n,), 0.06))


def two_layers(
    d: int = 32, kept: int = 16, turned: int = 8, erased: int = 6, born: int = 6, *, seed: int = 0
) -> TwoSourceWorld:
    """Two layers of a residual stream: features kept as they are, turned to a new direction, erased between, born between."""
    generator = torch.Generator().manual_seed(seed)
    n = kept + turned + erased + born
    directions = nn.functional.normalize(torch.randn(2, n, d, generator=generator), dim=-1)
    directions[1, :kept] = directions[0, :kept]
    directions[1, kept + turned : kept + turned + erased] = 0
    directions[0, kept + turned + erased :] = 0
    return TwoSourceWorld(directions, torch.full((n,), 0.06))
