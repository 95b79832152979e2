"""TopK: the k largest pre-activations of each sample, no penalty (Gao et al. 2024, arXiv:2406.04093), with AuxK."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from course_utils.sae.auxk import auxk_loss, auxk_plain, most_active, sample_for_auxk
from course_utils.sae.model import SAE, SAEOutput
from course_utils.sae.sparse import DeadSample, RowTopK, SparseLatents, sparse_decode, sparse_encode


class TopKSAE(SAE):
    """`f = ReLU(TopK((x - b_dec) W_enc + b_enc))`; loss `|x - x_hat|^2`, plus AuxK for latents that stopped firing."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The dense latents, k of them above zero at most."""
        pre = self.centre(x) @ self.W_enc + self.b_enc
        values, indices = pre.topk(self.cfg.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, indices, values.relu())

    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents:
        """The same latents as values and indices."""
        return self.select(x, self.inference_selectors())[0]

    def select(
        self, x: Float[Tensor, "batch d_in"], selectors: list[Any], dead: DeadSample | None = None
    ) -> tuple[SparseLatents, Tensor | None]:
        """Pre-activations chunk by chunk, searched by `selectors`; and those of dead latents for AuxK."""
        self.check_input(x)
        b_dec = self.b_dec if self.cfg.apply_b_dec_to_input else None
        return sparse_encode(x, self.W_enc, self.b_enc, b_dec, selectors, dead)

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
        sample = sample_for_auxk(self.cfg, dead, len(x), step)
        if not self.cfg.fast:
            return self.forward_plain(x, sample)
        selectors = self.training_selectors(len(x)) if self.training else self.inference_selectors()
        latents, dead_pre = self.select(x, selectors, sample)
        dead_f = None if dead_pre is None else most_active(dead_pre, self.cfg)
        x_hat, losses, aux_hat = self.reconstruct(x, latents, dead_f, sample)
        if sample is not None and aux_hat is not None:
            losses["auxk"] = auxk_loss(self, x, x_hat, aux_hat, sample)
        self.after_selection(latents.values)
        return SAEOutput(x_hat, losses, sparse=latents)

    def forward_plain(self, x: Float[Tensor, "batch d_in"], dead: DeadSample | None) -> SAEOutput:
        """`forward` in dense PyTorch: the definition that the fast path is tested against."""
        f = self.encode_plain(x) if self.training else self.encode(x)
        x_hat, losses = self.reconstruct_plain(x, f)
        if dead is not None:
            losses["auxk"] = auxk_plain(self, x, x_hat, dead)
        self.after_selection(f)
        return SAEOutput(x_hat, losses, dense=f)

    def reconstruct(
        self, x: Tensor, latents: SparseLatents, dead_f: Tensor | None, dead: DeadSample | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The reconstruction, its losses, and AuxK's reconstruction."""
        x_hat, aux_hat = sparse_decode(latents, self.W_dec, self.b_dec, dead_f, dead)
        return x_hat, {"reconstruction": self.reconstruction_loss(x, x_hat)}, aux_hat

    def reconstruct_plain(self, x: Tensor, f: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction from dense latents and its losses."""
        x_hat = self.decode(f)
        return x_hat, {"reconstruction": self.reconstruction_loss(x, x_hat)}

    def after_selection(self, values: Tensor) -> None:
        """Called with the active values of every forward pass; BatchTopK learns its threshold here."""
