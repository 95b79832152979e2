"""Matryoshka: nested dictionaries that must each reconstruct by themselves (Bussmann et al. 2025, arXiv:2503.17547)."""

from __future__ import annotations

import torch
from torch import Tensor

from course_utils.sae.architectures.batchtopk import BatchTopKSAE
from course_utils.sae.sparse import DeadSample, SparseLatents, sparse_decode


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK latents; loss `sum over widths m of |x - (f_1..f_m W_dec_1..m + b_dec)|^2`.

    Early latents must do without later ones, so a general latent cannot hand its exceptions to specific ones (absorption).
    """

    def reconstruct(
        self, x: Tensor, latents: SparseLatents, dead_f: Tensor | None, dead: DeadSample | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """One reconstruction a width, each adding the next group of latents to the one before."""
        losses: dict[str, Tensor] = {}
        x_hat, aux_hat, low, nothing = self.b_dec, None, 0, torch.zeros_like(self.b_dec)
        for width in self.cfg.widths:
            last = (dead_f, dead) if width == self.cfg.d_sae else (None, None)
            part, aux_hat = sparse_decode(latents.within(low, width), self.W_dec, nothing, *last)
            x_hat, low = x_hat + part, width  # type: ignore[assignment]
            losses[f"reconstruction_{width}"] = self.reconstruction_loss(x, x_hat)
        losses["reconstruction"] = losses.pop(f"reconstruction_{self.cfg.d_sae}")
        return x_hat, losses, aux_hat

    def reconstruct_plain(self, x: Tensor, f: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same from dense latents."""
        parts = {m: f[:, :m] @ self.W_dec[:m] + self.b_dec for m in self.cfg.widths}
        losses = {f"reconstruction_{m}": self.reconstruction_loss(x, x_hat) for m, x_hat in parts.items()}
        losses["reconstruction"] = losses.pop(f"reconstruction_{self.cfg.d_sae}")
        return parts[self.cfg.d_sae], losses
