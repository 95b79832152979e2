"""TopK: the k largest pre-activations of each sample, no penalty (Gao et al. 2024, arXiv:2406.04093), with AuxK."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from course_utils.sae.auxk import auxk_loss
from course_utils.sae.model import SAE, SAEOutput
from course_utils.sae.sparse import RowTopK, SparseLatents, sparse_encode


class TopKSAE(SAE):
    """`f = ReLU(TopK((x - b_dec) W_enc + b_enc))`; loss `|x - x_hat|^2`, plus AuxK for latents that stopped firing."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The dense latents, k of them above zero at most."""
        pre = self.centre(x) @ self.W_enc + self.b_enc
        values, indices = pre.topk(self.cfg.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, indices, values.relu())

    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents:
        """The same latents as values and indices."""
        return self.select(x, self.inference_selectors())

    def select(self, x: Float[Tensor, "batch d_in"], selectors: list[Any]) -> SparseLatents:
        """Pre-activations chunk by chunk, searched by `selectors`."""
        self.check_input(x)
        return sparse_encode(
            x, self.W_enc, self.b_enc, self.b_dec if self.cfg.apply_b_dec_to_input else None, selectors
        )

    def training_selectors(self, batch: int) -> list[Any]:
        """What selects the active latents of a training batch."""
        return self.inference_selectors()

    def inference_selectors(self) -> list[Any]:
        """What selects the active latents when samples must not depend on each other."""
        return [RowTopK(self.cfg.k)]

    def encode_plain(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """The training selection in dense PyTorch: the plain twin of the fast path."""
        return self.encode(x)

    def forward(
        self,
        x: Float[Tensor, "batch d_in"],
        *,
        dead: Bool[Tensor, " d_sae"] | None = None,
        sparsity_scale: float | Tensor = 1.0,
        step: int = 0,
    ) -> SAEOutput:
        """See `SAE.forward`."""
        if self.cfg.fast:
            sparse, dense = (
                self.select(x, self.training_selectors(len(x)) if self.training else self.inference_selectors()),
                None,
            )
            values = sparse.values
        else:
            sparse, dense = None, self.encode_plain(x) if self.training else self.encode(x)
            values = dense
        x_hat, losses = self.reconstruct(x, sparse if dense is None else dense)
        if dead is not None and self.cfg.aux_coefficient:
            losses["auxk"] = self.cfg.aux_coefficient * auxk_loss(self, x, x_hat, dead, step)
        self.after_selection(values)
        return SAEOutput(x_hat, losses, sparse=sparse, dense=dense)

    def reconstruct(self, x: Tensor, latents: SparseLatents | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction and its losses."""
        x_hat = self.decode(latents)
        return x_hat, {"reconstruction": self.reconstruction_loss(x, x_hat)}

    def after_selection(self, values: Tensor) -> None:
        """Called with the active values of every forward pass; BatchTopK learns its threshold here."""
