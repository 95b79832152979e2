"""The toy models of superposition, many instances at once: linear hidden layer, ReLU hidden layer, absolute value."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from course_utils.toy.config import ToyModelConfig
from course_utils.toy.data import generate_for, generate_signed_batch


def importance_weighted_loss(
    x: Float[Tensor, "instances batch features"],
    x_hat: Float[Tensor, "instances batch features"],
    importance: Float[Tensor, "instances features"],
) -> Float[Tensor, " instances"]:
    """Squared error weighted by importance: summed over features, averaged over the batch, one loss per instance."""
    return (importance[:, None, :] * (x - x_hat) ** 2).sum(dim=-1).mean(dim=-1)


class ToyModel(nn.Module):
    """h = W x, x_hat = ReLU(W^T h + b): n features squeezed through d dimensions (Elhage et al. 2022).

    Parameters: `W [instances, d_hidden, features]` (column i is the direction of feature i) and `b [instances, features]`.
    """

    W: Float[nn.Parameter, "instances d_hidden features"]
    b: Float[nn.Parameter, "instances features"]

    def __init__(
        self,
        config: ToyModelConfig,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = config
        shape = (config.n_instances, config.d_hidden, config.n_features)
        self.W = nn.Parameter(_xavier(shape, generator, device, dtype))
        self.b = nn.Parameter(torch.zeros(config.n_instances, config.n_features, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "instances batch features"]) -> Float[Tensor, "instances batch features"]:
        h = x @ self.W.mT
        return torch.relu(h @ self.W + self.b[:, None, :])

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """A batch of the features this model is to learn."""
        return generate_for(self.config, batch_size, generator, self.W.device, self.W.dtype)

    def target(self, x: Tensor) -> Tensor:
        """What the output should be for input `x`."""
        return x


class NeuronModel(ToyModel):
    """h = ReLU(W x), x_hat = ReLU(W^T h + b): the ReLU gives the hidden layer a privileged basis, so it has neurons."""

    def forward(self, x: Float[Tensor, "instances batch features"]) -> Float[Tensor, "instances batch features"]:
        h = torch.relu(x @ self.W.mT)
        return torch.relu(h @ self.W + self.b[:, None, :])


class AbsModel(nn.Module):
    """h = ReLU(W_in x), y = ReLU(W_out h + b), to compute y = |x| of sparse signed features: computation in superposition.

    Parameters: `W_in [instances, d_hidden, features]`, `W_out [instances, features, d_hidden]`, `b [instances, features]`.
    """

    W_in: Float[nn.Parameter, "instances d_hidden features"]
    W_out: Float[nn.Parameter, "instances features d_hidden"]
    b: Float[nn.Parameter, "instances features"]

    def __init__(
        self,
        config: ToyModelConfig,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = config
        instances, d, n = config.n_instances, config.d_hidden, config.n_features
        self.W_in = nn.Parameter(_xavier((instances, d, n), generator, device, dtype))
        self.W_out = nn.Parameter(_xavier((instances, n, d), generator, device, dtype))
        self.b = nn.Parameter(torch.zeros(instances, n, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "instances batch features"]) -> Float[Tensor, "instances batch features"]:
        h = torch.relu(x @ self.W_in.mT)
        return torch.relu(h @ self.W_out.mT + self.b[:, None, :])

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Sparse features uniform on (-1, 1)."""
        p = self.config.probabilities(self.W_in.device, self.W_in.dtype)
        return generate_signed_batch(batch_size, p, generator)

    def target(self, x: Tensor) -> Tensor:
        """What the output should be for input `x`: its absolute value."""
        return x.abs()


def _xavier(
    shape: tuple[int, int, int],
    generator: torch.Generator | None,
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> Tensor:
    """Normal with variance 2 / (fan in + fan out), for every instance separately."""
    std = (2 / (shape[1] + shape[2])) ** 0.5
    return torch.randn(shape, generator=generator, device=device, dtype=dtype) * std
