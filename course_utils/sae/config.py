"""Settings of one sparse autoencoder and of its training: one flat dataclass, every field with its reason."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass
class SAEConfig:
    """What to build and how to train it. Only `d_in` and `d_sae` have no default.

    Example:
        >>> SAEConfig(d_in=16, d_sae=32, architecture="topk", k=3).k
        3
        >>> SAEConfig(d_in=16, d_sae=32, k=64)
        Traceback (most recent call last):
            ...
        ValueError: k = 64 active latents, but there are only d_sae = 32: choose a smaller k or a larger d_sae
    """

    d_in: int
    d_sae: int
    architecture: str = "topk"  # standard, topk, batchtopk, gated, jumprelu or matryoshka

    # sparsity
    k: int = 32  # active latents a sample (topk), or on average over a batch (batchtopk, matryoshka)
    l1_coefficient: float = 1.0  # standard and gated: weight of sum |f_i| ||W_dec_i|| beside the summed squared error
    l0_coefficient: float = 1.0  # jumprelu: weight of the number of active latents
    sparsity_warmup_steps: int = 0  # the coefficient grows linearly from 0, so that latents are not killed at the start
    bandwidth: float = 0.05  # jumprelu: width of the window in which the threshold has a gradient
    threshold_init: float = (
        0.01  # jumprelu: first threshold of every latent (always positive: its logarithm is learned)
    )
    widths: tuple[int, ...] = ()  # matryoshka: nested dictionary sizes; empty means 1/16, 1/4 and all of d_sae
    threshold_rate: float = 0.02  # batchtopk, matryoshka: rate of the running mean behind the inference threshold

    # the map itself
    apply_b_dec_to_input: bool = True  # encode x - b_dec rather than x
    unit_norm_decoder: bool = True  # rows of W_dec have length 1; the gradient along them is removed

    # latents that stopped firing
    dead_after_steps: int = 200  # a latent is dead when it has not fired once in this many steps
    aux_coefficient: float = 1 / 32  # topk family: weight of the AuxK loss; 0 switches it off
    aux_k: int | None = None  # latents an AuxK reconstruction may use; None means d_in // 2
    aux_fraction: float = 0.125  # share of the batch on which AuxK is estimated (1 is exact and several times dearer)
    resample: Literal["none", "simple", "loss_weighted"] = "none"
    resample_every: int = 500  # steps between resamplings
    resample_until: float = 0.8  # no resampling after this share of the run, so that the last latents can settle
    resample_encoder_scale: float | None = (
        None  # length of new encoder columns over the mean living one; None: 0.2 (L1), 1 (topk family)
    )

    # optimisation
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 2048
    steps: int = 1000
    lr_warmup_steps: int = 0
    lr_decay_share: float = 0.2  # the last share of the steps, in which the rate falls linearly to 0
    clip_grad_norm: float | None = None
    b_dec_init: Literal["mean", "zeros"] = "mean"  # "mean": the mean of the first batch
    normalize_input: bool = False  # train on inputs scaled to mean squared length d_in; folded away when training ends

    # numbers and machine
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"  # of the weights
    precision: Literal["float32", "bfloat16"] = (
        "float32"  # of the products; bfloat16 keeps the weights above as masters
    )
    fast: bool = True  # topk family: sparse kernels; False is the plain dense twin

    metadata: dict[str, Any] = field(default_factory=dict)  # model_name, hook_name, dataset, ... kept in the saved file

    def __post_init__(self) -> None:
        from course_utils.sae.architectures import ARCHITECTURES

        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"no architecture {self.architecture!r}; there are: {', '.join(ARCHITECTURES)}")
        if self.d_in < 1 or self.d_sae < 1:
            raise ValueError(f"d_in = {self.d_in} and d_sae = {self.d_sae} must both be at least 1")
        if self.uses_k and not 1 <= self.k <= self.d_sae:
            if self.k < 1:
                raise ValueError(f"k = {self.k}: at least one latent must be active")
            raise ValueError(
                f"k = {self.k} active latents, but there are only d_sae = {self.d_sae}: choose a smaller k or a larger d_sae"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.architecture == "matryoshka":
            self.widths = tuple(self.widths) or _default_widths(self.d_sae)
            if list(self.widths) != sorted(set(self.widths)) or self.widths[0] < 1 or self.widths[-1] != self.d_sae:
                raise ValueError(f"widths {self.widths} must grow and end with d_sae = {self.d_sae}")
        if not 0 < self.aux_fraction <= 1:
            raise ValueError(f"aux_fraction = {self.aux_fraction} must lie in (0, 1]")
        self.betas = (self.betas[0], self.betas[1])

    @property
    def uses_k(self) -> bool:
        """Whether the number of active latents is set by `k`."""
        return self.architecture in ("topk", "batchtopk", "matryoshka")

    @property
    def hook_name(self) -> str | None:
        """Where in a language model the activations come from, from `metadata`."""
        return self.metadata.get("hook_name")

    def replace(self, **changes: Any) -> SAEConfig:
        """A copy with some fields changed (checked again)."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SAEConfig:
        """The reverse of `to_dict`; keys it does not know are refused by name."""
        known = {one.name for one in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"SAEConfig has no field {', '.join(unknown)}")
        data = {**data, "widths": tuple(data.get("widths", ())), "betas": tuple(data.get("betas", (0.9, 0.999)))}
        return cls(**data)


def _default_widths(d_sae: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, d_sae // 16), max(1, d_sae // 4), d_sae}))
