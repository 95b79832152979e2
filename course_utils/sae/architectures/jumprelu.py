"""JumpReLU: a learned threshold for each latent and an L0 penalty (Rajamanoharan et al. 2024, arXiv:2407.14435)."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from course_utils.sae.model import SAE, SAEOutput


class JumpReLUSAE(SAE):
    """`f = z * [z > threshold]` with `z = ReLU((x - b_dec) W_enc + b_enc)`; loss `|x - x_hat|^2 + l0_coefficient * |f|_0`."""

    per_latent = ("b_enc",)

    def init_latent_parameters(self, kind: dict[str, Any]) -> None:
        """The threshold is positive because its logarithm is what is learned."""
        super().init_latent_parameters(kind)
        self.log_threshold = nn.Parameter(torch.full((self.cfg.d_sae,), math.log(self.cfg.threshold_init), **kind))

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """Of each latent, positive."""
        return self.log_threshold.exp()

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """`z * [z > threshold]`."""
        z = (self.centre(x) @ self.W_enc + self.b_enc).relu()
        return z * (z > self.threshold)

    def forward(
        self,
        x: Float[Tensor, "batch d_in"],
        *,
        dead: Bool[Tensor, " d_sae"] | None = None,
        sparsity_scale: float | Tensor = 1.0,
        step: int = 0,
    ) -> SAEOutput:
        """See `SAE.forward`."""
        pre = self.centre(x) @ self.W_enc + self.b_enc
        z, threshold = pre.relu(), self.threshold
        f = JumpReLU.apply(z, threshold, self.cfg.bandwidth)
        x_hat = self.decode(f)
        l0 = Heaviside.apply(z, threshold, self.cfg.bandwidth).sum(-1).mean() * self.cfg.l0_coefficient * sparsity_scale
        return SAEOutput(x_hat, {"reconstruction": self.reconstruction_loss(x, x_hat), "l0": l0}, dense=f, pre=pre)

    @torch.no_grad()
    def scale_input(self, factor: float) -> None:
        """See `SAE.scale_input`; thresholds shrink by the same factor."""
        super().scale_input(factor)
        self.log_threshold.sub_(math.log(factor))


class Heaviside(torch.autograd.Function):
    """`[z > threshold]`. Its true gradient is 0; the threshold learns from a window of width `bandwidth` around it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return (z > threshold).to(z.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.bandwidth = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        z, threshold = ctx.saved_tensors
        inside = ((z - threshold).abs() < ctx.bandwidth / 2).to(z.dtype)
        return None, -(inside * gradient).sum_to_size(threshold.shape) / ctx.bandwidth, None


class JumpReLU(torch.autograd.Function):
    """`z * [z > threshold]`, with the same straight-through estimate for the threshold."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return z * (z > threshold)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.bandwidth = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        z, threshold = ctx.saved_tensors
        inside = ((z - threshold).abs() < ctx.bandwidth / 2).to(z.dtype)
        d_threshold = -(threshold / ctx.bandwidth) * (inside * gradient).sum_to_size(threshold.shape)
        return gradient * (z > threshold), d_threshold, None
