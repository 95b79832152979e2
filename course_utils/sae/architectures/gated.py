"""Gated: one path decides whether a latent is active, another how strongly (Rajamanoharan et al. 2024, arXiv:2404.16014)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from course_utils.sae.model import SAE, SAEOutput


class GatedSAE(SAE):
    """`f = [pi > 0] * ReLU(exp(r_mag) * (x - b_dec) W_enc + b_mag)` with the gate `pi = (x - b_dec) W_enc + b_gate`.

    The step has no gradient, so the gate learns from two losses of its own: L1 on `ReLU(pi)`, and the error of a
    reconstruction from `ReLU(pi)` through a *frozen* decoder.
    """

    per_latent = ("b_gate", "b_mag")

    def init_latent_parameters(self, kind: dict[str, Any]) -> None:
        """Two biases and the logarithm of the ratio between the two paths' encoders."""
        self.b_gate, self.b_mag, self.r_mag = (nn.Parameter(torch.zeros(self.cfg.d_sae, **kind)) for _ in range(3))

    def paths(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch d_sae"], Float[Tensor, "*batch d_sae"]]:
        """Gate pre-activations and magnitudes; both from one product."""
        shared = self.centre(x) @ self.W_enc
        return shared + self.b_gate, (shared * self.r_mag.exp() + self.b_mag).relu()

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Magnitudes where the gate is open."""
        gate, magnitude = self.paths(x)
        return magnitude * (gate > 0)

    def forward(
        self,
        x: Float[Tensor, "batch d_in"],
        *,
        dead: Bool[Tensor, " d_sae"] | None = None,
        sparsity_scale: float | Tensor = 1.0,
        step: int = 0,
    ) -> SAEOutput:
        """See `SAE.forward`."""
        gate, magnitude = self.paths(x)
        f, opened = magnitude * (gate > 0), gate.relu()
        x_hat = self.decode(f)
        via_gate = opened @ self.W_dec.detach() + self.b_dec.detach()
        losses = {
            "reconstruction": self.reconstruction_loss(x, x_hat),
            "l1": (opened * self.W_dec.detach().norm(dim=1)).sum(-1).mean() * self.cfg.l1_coefficient * sparsity_scale,
            "gate_reconstruction": self.reconstruction_loss(x, via_gate),
        }
        return SAEOutput(x_hat, losses, dense=f, pre=gate)
