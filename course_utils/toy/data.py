"""Sparse synthetic features whose truth is known: independent, firing together in pairs, never firing together, signed."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from course_utils.toy.config import ToyModelConfig


def generate_batch(
    batch_size: int,
    feature_probability: Float[Tensor, "instances features"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "instances batch features"]:
    """Independent sparse features: 0 with probability 1 - p, else uniform on [0, 1).

    One uniform number u gives both: x = ReLU(1 - u / p) is positive when u < p, and is then itself uniform.
    Device and dtype are those of `feature_probability`; `generator` must live on the same device.
    The distribution is that of Toy Models of Superposition (Elhage et al. 2022).

    Example:
        >>> x = generate_batch(1000, torch.tensor([[0.0, 0.2, 1.0]]), torch.Generator().manual_seed(0))
        >>> x.shape, int((x[..., 0] > 0).sum()), int((x[..., 2] > 0).sum())
        (torch.Size([1, 1000, 3]), 0, 1000)
    """
    p = _checked(feature_probability)[:, None, :]
    u = _uniform(p, batch_size, p.shape[-1], generator)
    return torch.relu(1 - u / p)


def generate_correlated_batch(
    batch_size: int,
    feature_probability: Float[Tensor, "instances features"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "instances batch features"]:
    """Features 2k and 2k+1 are active together or not at all; their magnitudes are independent.

    Each pair is active with the probability of its first feature; both must have the same.
    """
    p = _pair_probability(feature_probability)
    together = _uniform(p, batch_size, p.shape[-1], generator) < p
    magnitude = _uniform(p, batch_size, feature_probability.shape[-1], generator)
    return magnitude * together.repeat_interleave(2, dim=-1)


def generate_anticorrelated_batch(
    batch_size: int,
    feature_probability: Float[Tensor, "instances features"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "instances batch features"]:
    """Features 2k and 2k+1 are never active together; each is active with its probability p, at most 1/2."""
    p = _pair_probability(feature_probability)
    if bool((p > 0.5).any()):
        raise ValueError(f"features that exclude each other cannot both have probability {float(p.max()):.3g} > 0.5")
    u = _uniform(p, batch_size, p.shape[-1], generator)
    first, second = u < p, (u >= p) & (u < 2 * p)
    active = torch.stack([first, second], dim=-1).flatten(-2)
    return _uniform(p, batch_size, feature_probability.shape[-1], generator) * active


def generate_signed_batch(
    batch_size: int,
    feature_probability: Float[Tensor, "instances features"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "instances batch features"]:
    """Like `generate_batch`, with a random sign: uniform on (-1, 1) where active. For learning |x|."""
    x = generate_batch(batch_size, feature_probability, generator)
    sign = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) < 0.5
    return torch.where(sign, x, -x)


def generate_for(
    config: ToyModelConfig,
    batch_size: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "instances batch features"]:
    """A batch as `config` describes it: correlated pairs first, then anticorrelated ones, then independent features."""
    p = config.probabilities(device, dtype)
    a = 2 * config.n_correlated_pairs
    b = a + 2 * config.n_anticorrelated_pairs
    makers = (generate_correlated_batch, generate_anticorrelated_batch, generate_batch)
    parts = [
        make(batch_size, p[:, i:j], generator) for make, i, j in zip(makers, (0, a, b), (a, b, p.shape[1])) if j > i
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class IndependentStream:
    """Endless batches of independent features, written into one buffer: the same distribution as `generate_batch`, faster.

    On the CPU the random bits come from numpy's SFC64: torch's own generator makes one number after another and took more than
    half of a training step (2.7 ms against 1.0 ms for a million numbers on two cores).
    """

    def __init__(self, feature_probability: Float[Tensor, "instances features"], batch_size: int, seed: int) -> None:
        p = _checked(feature_probability)[:, None, :]
        self._batch = p.new_empty(p.shape[0], batch_size, p.shape[2])
        self._minus_inverse = -1 / p.clamp(min=1e-30)
        self._cpu = p.device.type == "cpu"
        if self._cpu:
            self._bits = np.random.Generator(np.random.SFC64(seed))
            # u = bits / 2^32 + 1/2, kept above zero so that p = 0 stays exactly silent
            self._constant = 1 + (0.5 + 2.0**-24) * self._minus_inverse
            self._minus_inverse = self._minus_inverse * 2.0**-32
        else:
            self._generator = torch.Generator(p.device).manual_seed(seed)
            self._constant = torch.ones_like(self._minus_inverse)

    def next(self) -> Float[Tensor, "instances batch features"]:
        """The next batch. The tensor is overwritten by the next call: clone it to keep it."""
        x = self._batch
        if self._cpu:
            words = self._bits.integers(0, 2**64, (x.numel() + 1) // 2, dtype=np.uint64)
            x.copy_(torch.from_numpy(words.view(np.int32)[: x.numel()]).view(x.shape))
        else:
            x.uniform_(generator=self._generator)
        return torch.addcmul(self._constant, x, self._minus_inverse, out=x).relu_()


def _checked(feature_probability: Tensor) -> Tensor:
    if feature_probability.ndim != 2:
        raise ValueError(
            f"feature_probability has shape {list(feature_probability.shape)}, expected [instances, features]. "
            "For one instance add an axis: `feature_probability[None]`."
        )
    return feature_probability


def _pair_probability(feature_probability: Tensor) -> Tensor:
    p = _checked(feature_probability)
    if p.shape[-1] % 2:
        raise ValueError(f"pairs need an even number of features, got {p.shape[-1]}")
    if not torch.equal(p[:, 0::2], p[:, 1::2]):
        raise ValueError("the two features of a pair must have the same probability")
    return p[:, None, 0::2]


def _uniform(p: Tensor, batch_size: int, features: int, generator: torch.Generator | None) -> Tensor:
    """Uniform on (0, 1]: never 0, so that a probability of 0 never fires."""
    return 1 - torch.rand(p.shape[0], batch_size, features, generator=generator, device=p.device, dtype=p.dtype)
