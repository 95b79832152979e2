"""What transcoders, crosscoders and cross-layer transcoders share, so that `train_sae` can train them like any SAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from course_utils.sae.config import SAEConfig
from course_utils.sae.model import SAE, SEED_SALT, SAEOutput


class Coder(SAE):
    """Sparse latents that read one thing and write another.

    A training row holds what is read, then what must be written: `[batch, d_read + d_write]`. `train_sae(rows, cfg, sae=coder)`
    trains it. `cfg.architecture` chooses the sparsity: "standard" (ReLU and an L1 penalty weighted by decoder lengths) or
    "topk". The decoder's rows are free to have any length: set `unit_norm_decoder=False`.

    Attributes:
        W_enc: `[d_read, d_sae]`, stored column by column as in `SAE`.
        W_dec: `[d_sae, d_write]`; `b_enc [d_sae]`, `b_dec [d_write]`.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Coder:
        return object.__new__(cls)  # not by cfg.architecture, as SAE does

    def __init__(self, cfg: SAEConfig, d_read: int, d_write: int, *, decoder_scale: float = 0.1) -> None:
        nn.Module.__init__(self)
        if cfg.architecture not in ("standard", "topk"):
            raise ValueError(
                f"{type(self).__name__} is 'standard' or 'topk', not {cfg.architecture!r}: set cfg.architecture"
            )
        if cfg.normalize_input or cfg.resample != "none":
            raise ValueError(
                f"{type(self).__name__} cannot use normalize_input or resample: leave them at their defaults"
            )
        self.cfg, self.d_read, self.d_write = cfg, d_read, d_write
        generator = torch.Generator().manual_seed(cfg.seed + SEED_SALT)
        reads = nn.functional.normalize(torch.randn(cfg.d_sae, d_read, generator=generator), dim=1)
        writes = nn.functional.normalize(torch.randn(cfg.d_sae, d_write, generator=generator), dim=1)
        kind: dict[str, Any] = {"device": cfg.device, "dtype": getattr(torch, cfg.dtype)}
        self.W_enc = nn.Parameter(reads.to(**kind).T)
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae, **kind))
        self.W_dec = nn.Parameter((decoder_scale * writes).to(**kind))
        self.b_dec = nn.Parameter(torch.zeros(d_write, **kind))

    # what a subclass may change

    def split(
        self, rows: Float[Tensor, "batch row"]
    ) -> tuple[Float[Tensor, "batch d_read"], Float[Tensor, "batch d_write"]]:
        """What is read and what must be written."""
        return rows[..., : self.d_read], rows[..., self.d_read :]

    def pre_activations(self, read: Float[Tensor, "batch d_read"]) -> Float[Tensor, "batch d_sae"]:
        """`read W_enc + b_enc`."""
        return read @ self.W_enc + self.b_enc

    def predict(
        self, latents: Float[Tensor, "batch d_sae"], read: Float[Tensor, "batch d_read"]
    ) -> Float[Tensor, "batch d_write"]:
        """What is written: `latents W_dec + b_dec`."""
        return latents @ self.W_dec + self.b_dec

    def decoder_lengths(self) -> Float[Tensor, " d_sae"]:
        """What one unit of each latent costs in the L1 penalty."""
        return self.W_dec.norm(dim=1)

    # shared

    @property
    def row_width(self) -> int:
        """Numbers in one training row."""
        return self.d_read + self.d_write

    def encode(self, read: Float[Tensor, "*batch d_read"]) -> Float[Tensor, "*batch d_sae"]:
        """The latents: ReLU, or the k largest of each sample after ReLU."""
        pre = self.pre_activations(read)
        if self.cfg.architecture == "standard":
            return pre.relu()
        values, indices = pre.topk(self.cfg.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, indices, values.relu())

    def forward(
        self,
        rows: Float[Tensor, "batch row"],
        *,
        dead: Bool[Tensor, " d_sae"] | None = None,
        sparsity_scale: float | Tensor = 1.0,
        step: int = 0,
    ) -> SAEOutput:
        """The prediction, and the parts of the loss; `dead` and `step` are accepted for the trainer and not used."""
        read, write = self.split(rows)
        latents = self.encode(read)
        predicted = self.predict(latents, read)
        losses = {"reconstruction": self.reconstruction_loss(write, predicted)}
        if self.cfg.architecture == "standard":
            l1 = (latents * self.decoder_lengths()).sum(-1).mean()
            losses["l1"] = self.cfg.l1_coefficient * sparsity_scale * l1
        return SAEOutput(predicted, losses, dense=latents)

    @torch.no_grad()
    def start_at_mean(self, mean: Float[Tensor, " row"]) -> None:
        """The decoder's bias begins at the mean of what must be written."""
        self.b_dec.copy_(self.split(mean[None])[1][0])

    def save(self, path: str | Path, *, dtype: str | None = None) -> Path:
        """Refuses with a TypeError: SAELens' format holds autoencoders only."""
        raise TypeError(f"SAELens' files have no {type(self).__name__}: use torch.save(coder.state_dict(), path)")


@torch.no_grad()
def evaluate_coder(coder: Coder, rows: Float[Tensor, "samples row"]) -> dict[str, float]:
    """Measure a trained coder on held-out rows.

    Returns:
        l0: active latents a sample.
        fvu: fraction of the variance of what must be written, about its mean, that is left unexplained.
        dead_fraction: share of latents active on no sample.
    """
    read, write = coder.split(rows)
    latents = coder.encode(read)
    error = (coder.predict(latents, read) - write).square().sum()
    return {
        "l0": float((latents > 0).sum(-1).float().mean()),
        "fvu": float(error / (write - write.mean(0)).square().sum()),
        "dead_fraction": float((~(latents > 0).any(0)).float().mean()),
    }
