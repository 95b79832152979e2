"""Memorisation and double descent: a toy model trained on a fixed, finite set of points (Henighan et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm


@dataclass(frozen=True)
class MemoriseConfig:
    """One toy model, h = W x and x_hat = ReLU(W^T h + b), trained on `n_points` points drawn once."""

    n_points: int
    n_features: int = 1_000
    d_hidden: int = 2
    feature_probability: float = 0.01
    """About `n_features * feature_probability` features are active in a point."""
    steps: int = 5_000
    warmup: int = 500
    lr: float = 1e-2
    weight_decay: float = 1e-2
    batch_size: int = 2_000
    """The whole set is one batch up to this many points; beyond, each step draws this many of them."""
    seed: int = 0


@dataclass(frozen=True)
class Memorised:
    """What training on a fixed set left behind."""

    config: MemoriseConfig
    W: Float[Tensor, "d_hidden features"]
    b: Float[Tensor, " features"]
    h: Float[Tensor, "points d_hidden"]
    """Hidden vectors of the training points (the first 2000 of them)."""
    train_loss: float
    test_loss: float


def fixed_points(
    n_points: int, n_features: int, feature_probability: float, generator: torch.Generator
) -> Float[Tensor, "points features"]:
    """Sparse points of length one: uniform where active, then scaled; a point with no active feature stays zero."""
    shape = (n_points, n_features)
    x = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < feature_probability)
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def memorise(config: MemoriseConfig, progress: bool = False) -> Memorised:
    """Train on `config.n_points` fixed points with AdamW (warm-up, then cosine), and measure the loss on 5000 fresh ones.

    The loss is the squared error of a point, summed over features; an untrained model that outputs 0 has loss 1.
    """
    generator = torch.Generator().manual_seed(config.seed)
    x = fixed_points(config.n_points, config.n_features, config.feature_probability, generator)
    fresh = fixed_points(5_000, config.n_features, config.feature_probability, generator)
    scale = (2 / (config.d_hidden + config.n_features)) ** 0.5
    W = (torch.randn(config.d_hidden, config.n_features, generator=generator) * scale).requires_grad_()
    b = torch.zeros(config.n_features, requires_grad=True)
    optimizer = torch.optim.AdamW([W, b], lr=config.lr, weight_decay=config.weight_decay, fused=True)
    for step in tqdm(range(config.steps), desc=f"T={config.n_points}", disable=not progress, leave=False):
        optimizer.param_groups[0]["lr"] = config.lr * _schedule(step, config)
        batch = x
        if config.n_points > config.batch_size:
            batch = x[torch.randint(config.n_points, (config.batch_size,), generator=generator)]
        W.grad, b.grad = _gradients(batch, W.detach(), b.detach())
        optimizer.step()
    with torch.no_grad():
        return Memorised(config, W.detach(), b.detach(), (x[:2_000] @ W.T), _loss(x[:5_000], W, b), _loss(fresh, W, b))


def train_on_points(
    x: Float[Tensor, "points features"], d_hidden: int, steps: int, lr: float, weight_decay: float
) -> tuple[Float[Tensor, "d_hidden features"], Float[Tensor, " features"]]:
    """The plain loop of lesson 03: train h = W x, x_hat = ReLU(W^T h + b) on the same points in every step; returns W and b."""
    W = (torch.randn(d_hidden, x.shape[1]) * (2 / (d_hidden + x.shape[1])) ** 0.5).requires_grad_()
    b = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([W, b], lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        loss = ((x @ W.T @ W + b).relu() - x).square().sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return W.detach(), b.detach()


def _gradients(x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the mean loss by hand: with g = 2 (x_hat - x) [x_hat > 0] / T,  db = sum g,  dW = h^T g + (g W^T)^T x."""
    h = x @ W.T
    x_hat = torch.addmm(b, h, W).relu_()
    g = torch.sub(x_hat, x).mul_(torch.sign(x_hat)).mul_(2 / x.shape[0])
    return torch.addmm(h.T @ g, (g @ W.T).T, x), g.sum(dim=0)


def _loss(x: Tensor, W: Tensor, b: Tensor) -> float:
    return float(((x @ W.T @ W + b).relu() - x).square().sum(dim=-1).mean())


def _schedule(step: int, config: MemoriseConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())
