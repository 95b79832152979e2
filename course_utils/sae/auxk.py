"""AuxK: dead latents learn to reconstruct what the living ones leave over (Gao et al. 2024, section A.2).

The loss is the squared error of the residual `x - x_hat` reconstructed from the `aux_k` most active dead latents. Only the
dead latents learn from it: the residual and `b_dec` are constants. It is estimated on every n-th row (`cfg.aux_fraction`), a
different set each step: dead latents need a direction rather than a precise gradient, and Adam sets the size of their
steps. It is exact with `aux_fraction=1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from course_utils.sae.config import SAEConfig
from course_utils.sae.sparse import DeadSample

if TYPE_CHECKING:
    from course_utils.sae.model import SAE


def sample_for_auxk(cfg: SAEConfig, dead: Bool[Tensor, " d_sae"] | None, batch: int, step: int) -> DeadSample | None:
    """The dead latents and this step's rows; None when AuxK has nothing to do."""
    if dead is None or not cfg.aux_coefficient or not bool(dead.any()):
        return None
    every = max(1, round(1 / cfg.aux_fraction))
    rows = slice(step % every, None, every) if batch >= every else slice(None)
    return DeadSample(dead.nonzero().squeeze(1), rows)


def most_active(pre: Float[Tensor, "rows dead"], cfg: SAEConfig) -> Float[Tensor, "rows dead"]:
    """ReLU of the `aux_k` largest pre-activations of each row, 0 elsewhere."""
    k = aux_k(cfg, pre.shape[1])
    if k == pre.shape[1]:
        return pre.relu()
    edge = pre.detach().topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True).clamp_min(0)
    return pre * (pre >= edge)


def aux_k(cfg: SAEConfig, n_dead: int) -> int:
    """Dead latents a reconstruction may use: `cfg.aux_k`, or half the input dimensions as in the paper."""
    return min(cfg.aux_k or max(1, cfg.d_in // 2), n_dead)


def auxk_loss(
    sae: SAE,
    x: Float[Tensor, "batch d_in"],
    x_hat: Float[Tensor, "batch d_in"],
    aux_hat: Float[Tensor, "rows d_in"],
    dead: DeadSample,
) -> Float[Tensor, ""]:
    """The weighted loss, given the residual's reconstruction; smaller when few dead latents must carry it all."""
    residual = (x[dead.rows] - x_hat[dead.rows]).detach()
    share = len(dead.latents) / (sae.cfg.aux_k or max(1, sae.cfg.d_in // 2))
    return sae.cfg.aux_coefficient * min(1.0, share) * sae.reconstruction_loss(residual, aux_hat)


def auxk_plain(sae: SAE, x: Tensor, x_hat: Tensor, dead: DeadSample) -> Float[Tensor, ""]:
    """The same loss through ordinary autograd: the plain twin of what rides along in the sparse kernels."""
    centred = x[dead.rows] - sae.b_dec.detach() if sae.cfg.apply_b_dec_to_input else x[dead.rows]
    pre = centred @ sae.W_enc[:, dead.latents] + sae.b_enc[dead.latents]  # type: ignore[operator, index]
    return auxk_loss(sae, x, x_hat, most_active(pre, sae.cfg) @ sae.W_dec[dead.latents], dead)
