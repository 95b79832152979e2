"""Transcoders: from an MLP's input to its output (Dunefsky et al. 2024, arXiv:2406.11944), and a toy MLP whose rules are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from course_utils.sae.coder import Coder
from course_utils.sae.config import SAEConfig


class Transcoder(Coder):
    """`f = act(x W_enc + b_enc)`, `y_hat = f W_dec + b_dec`, plus `x W_skip` with a skip connection (Paulo et al. 2025,
    arXiv:2501.18823). Rows are `[x, y]`: the MLP's input and output.

    Example:
        >>> coder = Transcoder(SAEConfig(d_in=8, d_sae=16, k=2), d_out=6, skip=True)
        >>> coder(torch.randn(5, 14)).x_hat.shape
        torch.Size([5, 6])
    """

    def __init__(self, cfg: SAEConfig, d_out: int | None = None, *, skip: bool = False) -> None:
        d_out = cfg.d_in if d_out is None else d_out
        super().__init__(cfg, cfg.d_in, d_out)
        # from zero: whatever the latents can do, they get the first chance to do
        self.W_skip = nn.Parameter(torch.zeros(cfg.d_in, d_out)) if skip else None

    def predict(
        self, latents: Float[Tensor, "batch d_sae"], read: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "batch d_out"]:
        """The MLP's output as the transcoder sees it."""
        straight = 0 if self.W_skip is None else read @ self.W_skip
        return super().predict(latents, read) + straight


@dataclass(frozen=True)
class RuleWorld:
    """Sparse features, rules about pairs of them, and what each rule writes. The truth a transcoder should find.

    Attributes:
        directions: `[features, d]`, how a feature stands in the MLP's input.
        pairs: `[rules, 2]`: rule r is `relu(a + b - 1)` of its two features' values, an AND.
        writes: `[rules, d]`, unit rows: what a rule adds to the output.
        linear: `[d, d]`: a linear part of the output, which needs no rule.
    """

    directions: Float[Tensor, "features d"]
    pairs: Tensor
    writes: Float[Tensor, "rules d"]
    linear: Float[Tensor, "d d"]

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """`n` inputs `[n, d]`, the rules' values `[n, rules]` and the outputs `[n, d]`."""
        features = len(self.directions)
        on = torch.rand(n, features, generator=generator) < 0.2
        values = on * (0.6 + 0.4 * torch.rand(n, features, generator=generator))
        rules = (values[:, self.pairs].sum(-1) - 1).relu()
        x = values @ self.directions
        return x, rules, rules @ self.writes + x @ self.linear


def rule_world(d: int = 32, features: int = 24, rules: int = 30, *, linear: float = 0.0, seed: int = 0) -> RuleWorld:
    """A random world of AND rules. `linear` is the size of the linear part of the output (0: none)."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(d, features, generator=generator))[0].T
    every = torch.combinations(torch.arange(features))
    pairs = every[torch.randperm(len(every), generator=generator)[:rules]]
    writes = nn.functional.normalize(torch.randn(rules, d, generator=generator), dim=1)
    return RuleWorld(directions, pairs, writes, linear * torch.randn(d, d, generator=generator) / d**0.5)
