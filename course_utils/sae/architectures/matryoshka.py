"""Matryoshka: nested dictionaries that must each reconstruct by themselves (Bussmann et al. 2025, arXiv:2503.17547)."""

from __future__ import annotations

from torch import Tensor

from course_utils.sae.architectures.batchtopk import BatchTopKSAE
from course_utils.sae.sparse import SparseLatents


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK latents; loss `sum over widths m of |x - (f_1..f_m W_dec_1..m + b_dec)|^2`.

    Early latents must do without later ones, so a general latent cannot hand its exceptions to specific ones (absorption).
    """

    def reconstruct(self, x: Tensor, latents: SparseLatents | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One reconstruction a width, each adding the next group of latents to the one before."""
        losses, x_hat, low = {}, self.b_dec, 0
        for width in self.cfg.widths:
            if isinstance(latents, SparseLatents):
                part = self.decode(latents.within(low, width)) - self.b_dec
            else:
                part = latents[:, low:width] @ self.W_dec[low:width]
            x_hat, low = x_hat + part, width
            losses[f"reconstruction_{width}"] = self.reconstruction_loss(x, x_hat)
        losses["reconstruction"] = losses.pop(f"reconstruction_{self.cfg.d_sae}")
        return x_hat, losses
