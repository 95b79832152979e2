"""AuxK: dead latents learn to reconstruct what the living ones leave over (Gao et al. 2024, section A.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

if TYPE_CHECKING:
    from course_utils.sae.model import SAE


def auxk_loss(
    sae: SAE,
    x: Float[Tensor, "batch d_in"],
    x_hat: Float[Tensor, "batch d_in"],
    dead: Bool[Tensor, " d_sae"],
    step: int = 0,
) -> Float[Tensor, ""]:
    """Squared error of the residual `x - x_hat` reconstructed from the `aux_k` most active dead latents.

    Only the dead latents learn from it: the residual and `b_dec` are constants. It is estimated on every n-th row
    (`cfg.aux_fraction`), a different set each step: dead latents need a direction, not a precise gradient, and Adam
    sets the size of their steps. Exact with `aux_fraction=1`.
    """
    n_dead = int(dead.sum())
    if n_dead == 0:
        return x.new_zeros(())
    every = max(1, round(1 / sae.cfg.aux_fraction))
    rows = slice(step % every, None, every) if len(x) >= every else slice(None)
    x, residual = x[rows], (x - x_hat)[rows].detach()
    chosen = dead.nonzero().squeeze(1)
    W_enc, W_dec = sae.W_enc.T[chosen], sae.W_dec[chosen]
    centred = x - sae.b_dec.detach() if sae.cfg.apply_b_dec_to_input else x
    pre = centred @ W_enc.T + sae.b_enc[chosen]  # type: ignore[operator]
    k = min(sae.cfg.aux_k or max(1, sae.cfg.d_in // 2), n_dead)
    if k < n_dead:
        edge = pre.detach().kthvalue(n_dead - k + 1, dim=-1, keepdim=True).values
        pre = pre * (pre >= edge)
    reconstruction = pre.relu() @ W_dec
    # few dead latents cannot be asked to carry the whole residual
    return min(1.0, n_dead / k) * sae.reconstruction_loss(residual, reconstruction)
