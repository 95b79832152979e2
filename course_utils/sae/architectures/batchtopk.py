"""BatchTopK: the k * batch largest pre-activations of a whole batch (Bussmann et al. 2024, arXiv:2412.06410)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from course_utils.sae.architectures.topk import TopKSAE
from course_utils.sae.sparse import BatchTopK, Threshold


class BatchTopKSAE(TopKSAE):
    """TopK over the flattened batch while training; afterwards every pre-activation above one learned threshold.

    `encode` always uses the threshold, so that a sample's latents never depend on its neighbours; before the first
    training step the threshold is 0 (plain ReLU).
    """

    threshold: Float[Tensor, ""]

    def init_latent_parameters(self, kind: dict[str, Any]) -> None:
        """The threshold is a buffer: learned by a running mean, not by gradient."""
        super().init_latent_parameters(kind)
        self.register_buffer("threshold", torch.zeros((), device=kind["device"], dtype=torch.float32))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """`ReLU(z) * [z > threshold]`."""
        pre = self.centre(x) @ self.W_enc + self.b_enc
        return pre.relu() * (pre > self.threshold)

    def encode_plain(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """The flat top-k over the whole batch."""
        pre = (self.centre(x) @ self.W_enc + self.b_enc).relu()
        values, indices = pre.flatten().topk(self.cfg.k * pre.shape[0], sorted=False)
        return torch.zeros_like(pre).flatten().scatter(0, indices, values).view_as(pre)

    def training_selectors(self, batch: int) -> list[Any]:
        """Exact batch top-k, first from a floor a little under the running threshold, then from 0."""
        wanted = self.cfg.k * batch
        return [BatchTopK(wanted, floor=0.8 * float(self.threshold)), BatchTopK(wanted)]

    def inference_selectors(self) -> list[Any]:
        """Everything above the threshold."""
        return [Threshold(max(0.0, float(self.threshold)))]

    @torch.no_grad()
    def after_selection(self, values: Tensor) -> None:
        """Running mean of the smallest active value: the inference threshold."""
        if self.training:
            smallest = torch.where(values > 0, values, torch.inf).min().float()
            rate = torch.where(self.threshold == 0, 1.0, self.cfg.threshold_rate)  # the first batch counts in full
            self.threshold.add_(rate * (torch.where(smallest.isfinite(), smallest, self.threshold) - self.threshold))

    @torch.no_grad()
    def scale_input(self, factor: float) -> None:
        """See `SAE.scale_input`; the threshold shrinks by the same factor."""
        super().scale_input(factor)
        self.threshold.div_(factor)
