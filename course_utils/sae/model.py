"""What every sparse autoencoder has in common: weights, `encode`, `decode`, a named result, files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from course_utils.sae.architectures import architecture_class
from course_utils.sae.config import SAEConfig
from course_utils.sae.sparse import SparseLatents

SEED_SALT = 0x5AE_0000
ROWS = 512  # rows of W_dec worked on at once, few enough to stay in cache between two operations


@dataclass(frozen=True)
class SAEOutput:
    """The result of one forward pass.

    Attributes:
        x_hat: the reconstruction, `[batch, d_in]`.
        losses: the parts of the loss, each a scalar: the mean over the batch of a sum over dimensions or latents.
            `reconstruction` is always there; the others depend on the architecture.
        sparse: the active latents as values and indices (topk family), otherwise None.
        dense: the latents `[batch, d_sae]` (other architectures), otherwise None; `latents` serves both.
        pre: pre-activations `[batch, d_sae]` where they exist as one tensor (not in the fast topk family).
    """

    x_hat: Float[Tensor, "batch d_in"]
    losses: dict[str, Float[Tensor, ""]]
    sparse: SparseLatents | None = None
    dense: Float[Tensor, "batch d_sae"] | None = None
    pre: Float[Tensor, "batch d_sae"] | None = None

    @property
    def loss(self) -> Float[Tensor, ""]:
        """The training loss: the sum of its parts."""
        return torch.stack(list(self.losses.values())).sum() if len(self.losses) > 1 else self.losses["reconstruction"]

    @property
    def latents(self) -> Float[Tensor, "batch d_sae"]:
        """The latents as a dense tensor, built on request in the topk family."""
        if self.dense is not None:
            return self.dense
        assert self.sparse is not None
        return self.sparse.to_dense()

    @property
    def l0(self) -> Float[Tensor, ""]:
        """Active latents a sample, on average."""
        if self.sparse is not None:
            return (self.sparse.values > 0).sum() / self.sparse.batch
        assert self.dense is not None
        return (self.dense > 0).sum() / len(self.dense)

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Which latents were active at least once in this batch."""
        if self.sparse is not None:
            return self.sparse.fired()
        assert self.dense is not None
        return self.dense.detach().sum(0) > 0  # latents are never negative; a sum is quicker than `any`


class SAE(nn.Module):
    """A sparse autoencoder: latents `f = encode(x)`, reconstruction `x_hat = decode(f) = f W_dec + b_dec`.

    `SAE(cfg)` gives an instance of the class registered for `cfg.architecture`.

    Attributes:
        W_enc: `[d_in, d_sae]`. Stored column by column (its transpose is contiguous), because the gradient of a sparse
            autoencoder's encoder is a sum over few latents, each one column.
        W_dec: `[d_sae, d_in]`, rows of length 1 while training unless `cfg.unit_norm_decoder` is off.
        b_dec: `[d_in]`, and `b_enc: [d_sae]` (two biases and a scale instead in the gated architecture).

    Example:
        >>> sae = SAE(SAEConfig(d_in=8, d_sae=32, k=4))
        >>> x = torch.randn(5, 8)
        >>> sae.encode(x).shape, sae(x).x_hat.shape
        (torch.Size([5, 32]), torch.Size([5, 8]))
    """

    cfg: SAEConfig
    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    per_latent: tuple[str, ...] = ("b_enc",)  # names of the parameters [d_sae] besides the two matrices

    def __new__(cls, cfg: SAEConfig | None = None) -> SAE:
        # `SAE(cfg)` builds the architecture's own class; copying and unpickling call __new__ without a configuration
        return super().__new__(architecture_class(cfg.architecture) if cls is SAE and cfg is not None else cls)

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        kind: dict[str, Any] = {"device": cfg.device, "dtype": getattr(torch, cfg.dtype)}
        # salted: toy data made with the same small seed must not hand its true directions to the initial dictionary
        generator = torch.Generator().manual_seed(cfg.seed + SEED_SALT)
        directions = torch.randn(cfg.d_sae, cfg.d_in, generator=generator)
        directions = directions / directions.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(directions.to(**kind))
        # tied at the start: a latent begins by reading the direction it writes (Gao et al. 2024, section A.1)
        self.W_enc = nn.Parameter(directions.clone().to(**kind).T)
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in, **kind))
        self.init_latent_parameters(kind)

    def init_latent_parameters(self, kind: dict[str, Any]) -> None:
        """Create the parameters that have one number a latent; architectures without a plain `b_enc` override this."""
        self.b_enc = nn.Parameter(torch.zeros(self.cfg.d_sae, **kind))

    # what an architecture defines

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The latents of `x`, dense, sample by sample (never depending on the rest of the batch once trained)."""
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch d_in"],
        *,
        dead: Bool[Tensor, " d_sae"] | None = None,
        sparsity_scale: float | Tensor = 1.0,
        step: int = 0,
    ) -> SAEOutput:
        """Encode, decode and the parts of the loss.

        Args:
            x: inputs.
            dead: latents that have not fired for long, for the architectures that revive them with an AuxK loss.
            sparsity_scale: factor on the sparsity penalty, for warming it up.
            step: number of the training step; it picks the rows on which AuxK is estimated.
        """
        raise NotImplementedError

    # shared by all

    def decode(self, latents: Float[Tensor, "*batch d_sae"] | SparseLatents) -> Float[Tensor, "*batch d_in"]:
        """`latents @ W_dec + b_dec`; sparse latents are decoded by gathering rows of `W_dec`."""
        if isinstance(latents, SparseLatents):
            from course_utils.sae.sparse import sparse_decode

            return sparse_decode(latents, self.W_dec, self.b_dec)[0]
        return latents @ self.W_dec + self.b_dec

    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> SparseLatents:
        """The active latents of `x` as values and indices; the topk family never builds the dense tensor."""
        return SparseLatents.from_dense(self.encode(x))

    def centre(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """What the encoder reads: `x - b_dec`, or `x` where the configuration says so."""
        self.check_input(x)
        return x - self.b_dec if self.cfg.apply_b_dec_to_input else x

    def check_input(self, x: Tensor) -> None:
        """Refuse inputs of another width or kind, naming both sizes."""
        if x.shape[-1] != self.cfg.d_in:
            raise ValueError(
                f"the last axis of x has {x.shape[-1]} numbers (x is {tuple(x.shape)}), but this SAE reads "
                f"d_in = {self.cfg.d_in}: pass activations of its own hook point, or build it with d_in={x.shape[-1]}"
            )
        if not x.is_floating_point():
            raise TypeError(
                f"x has dtype {x.dtype}: an SAE reads floating-point activations, so convert it with x.float()"
            )

    def reconstruction_loss(self, x: Tensor, x_hat: Tensor) -> Float[Tensor, ""]:
        """Squared error, summed over dimensions, averaged over the batch; in float32 at least."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return nn.functional.mse_loss(x_hat.to(wide), x.to(wide), reduction="sum") / x[..., 0].numel()

    @property
    def row_width(self) -> int:
        """Numbers in one training row."""
        return self.cfg.d_in

    @torch.no_grad()
    def start_at_mean(self, mean: Float[Tensor, " d_in"]) -> None:
        """Begin training from the mean of the first batch."""
        self.b_dec.copy_(mean)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give every row of `W_dec` length 1 (the encoder stays as it is)."""
        self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True).clamp_min_(1e-12))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from the gradient of each row of `W_dec` the part along that row, which could only change its length."""
        if self.W_dec.grad is not None:
            remove_parallel_gradient(self.W_dec, self.W_dec.grad)

    @torch.no_grad()
    def scale_input(self, factor: float) -> None:
        """Change the units: afterwards `encode(x) = old encode(factor * x) / factor`, and so for the reconstruction.

        Both matrices stay as they are (all architectures are positively homogeneous); biases and thresholds shrink.
        """
        for name in ("b_dec", *self.per_latent):
            getattr(self, name).div_(factor)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.W_dec.dtype

    def save(self, path: str | Path, *, dtype: str | None = None) -> Path:
        """Write a folder in SAELens' format; `dtype="float16"` halves it. See `course_utils.sae.files`."""
        from course_utils.sae.files import save_sae

        return save_sae(self, path, dtype=dtype)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", dtype: str | None = "float32") -> SAE:
        """Read a folder written by `save` or by SAELens. See `course_utils.sae.files`."""
        from course_utils.sae.files import load_sae

        return load_sae(path, device=device, dtype=dtype)


def remove_parallel_gradient(
    W_dec: Float[Tensor, "*n d_sae d_in"], gradient: Float[Tensor, "*n d_sae d_in"]
) -> Float[Tensor, "*n d_sae d_in"]:
    """In place: subtract from each row of `gradient` its projection on the same (unit) row of `W_dec`."""
    for rows, directions in zip(gradient.split(ROWS, dim=-2), W_dec.split(ROWS, dim=-2)):
        along = torch.linalg.vecdot(rows, directions).unsqueeze(-1)
        rows.addcmul_(along, directions, value=-1)
    return gradient
