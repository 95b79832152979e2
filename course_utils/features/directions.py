"""Neurons and directions, before any autoencoder: what a neuron responds to, how directions overlap, probes, steering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def top_activating_tokens(
    acts: Float[Tensor, "sequences context neurons"], neuron: int, k: int
) -> list[tuple[int, int]]:
    """The k places (sequence, position) where `neuron` responds most, largest first."""
    response = acts[:, :, neuron]
    places = response.flatten().topk(min(k, response.numel())).indices.tolist()
    return [divmod(place, response.shape[1]) for place in places]


class Selectivity(NamedTuple):
    """What `concept_selectivity` returns."""

    response: Float[Tensor, "concepts neurons"]
    """(mean on texts with the concept - mean on texts without) / standard deviation over all texts."""
    n_concepts: Float[Tensor, " neurons"]
    """For how many concepts the response exceeds the threshold."""


def concept_selectivity(
    acts: Float[Tensor, "texts neurons"], labels: Bool[Tensor, "texts concepts"], threshold: float = 0.5
) -> Selectivity:
    """How strongly each neuron responds to each labelled concept, in standard deviations of that neuron; 0 for a silent neuron."""
    having = labels.to(acts.dtype)
    with_concept = having.T @ acts / having.sum(dim=0)[:, None]
    without = (1 - having).T @ acts / (1 - having).sum(dim=0)[:, None]
    spread = acts.std(dim=0, unbiased=False)
    response = torch.where(
        spread > 1e-8, (with_concept - without) / spread.clamp(min=1e-8), torch.zeros_like(with_concept)
    )
    return Selectivity(response, (response > threshold).sum(dim=0).to(acts.dtype))


def cosine_similarity_matrix(W: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Cosines between all rows of W. A row of zeros has cosine 0 with everything, itself included.

    For random unit vectors the off-diagonal has mean 0 and standard deviation 1 / sqrt(d).
    """
    unit = torch.nn.functional.normalize(W, dim=-1)
    return unit @ unit.T


def almost_orthogonal_capacity(candidates: Float[Tensor, "candidates d"], eps: float) -> list[int]:
    """Greedy packing: go through the candidates in order, keep one if |cosine| with every kept one is at most `eps`.

    Returns the kept rows' numbers. A lower bound on how many directions fit; by Johnson and Lindenstrauss (1984) the
    number that fit grows at least as exp(c eps^2 d).
    """
    unit = torch.nn.functional.normalize(candidates, dim=-1)
    kept: list[int] = []
    directions = torch.empty_like(unit)
    for index, direction in enumerate(unit):
        if not kept or float((directions[: len(kept)] @ direction).abs().max()) <= eps:
            directions[len(kept)] = direction
            kept.append(index)
    return kept


def expected_interference(W: Float[Tensor, "d n"], p: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Expected squared disturbance of each feature by the others: p_i * sum over j != i of p_j (W_i . W_j)^2.

    Column i of W is feature i's direction, p_i the probability that it is active; features are independent and of size 1.
    """
    overlap = (W.T @ W).square()
    both = p[:, None] * p[None, :]
    return (overlap * both).sum(dim=1) - torch.diagonal(overlap) * p.square()


class Probe(NamedTuple):
    """What `linear_probe` returns."""

    direction: Float[Tensor, " d"]
    """Difference of class means on the training part, of length 1."""
    auc: float
    """Area under the ROC curve on the held-out part: 0.5 is chance, ties count half."""


def linear_probe(
    train: Float[Tensor, "texts d"], train_labels: Bool[Tensor, " texts"], test: Float[Tensor, "held_out d"],
    test_labels: Bool[Tensor, " held_out"],
) -> Probe:  # fmt: skip
    """A concept's direction as the difference of means, and how well it tells held-out texts apart."""
    direction = torch.nn.functional.normalize(train[train_labels].mean(dim=0) - train[~train_labels].mean(dim=0), dim=0)
    return Probe(direction, auc(test @ direction, test_labels))


def auc(scores: Float[Tensor, " n"], labels: Bool[Tensor, " n"]) -> float:
    """The chance that a random positive scores above a random negative; ties count half."""
    positive, negative = scores[labels], scores[~labels]
    difference = positive[:, None] - negative[None, :]
    return float(((difference > 0).double() + 0.5 * (difference == 0)).mean())


def steer_along(direction: Float[Tensor, " d_model"], alpha: float) -> Callable[..., Tensor]:
    """A hook that adds `alpha` times the unit vector along `direction` at every position; the activation itself is not changed."""
    unit = torch.nn.functional.normalize(direction, dim=0)

    def hook(activation: Float[Tensor, "... d_model"], hook: Any = None) -> Tensor:
        return activation + alpha * unit.to(activation.device, activation.dtype)

    return hook


def rotate_residual_basis(
    W_write: Float[Tensor, "d_mlp d_model"], W_read: Float[Tensor, "d_model d_mlp"], R: Float[Tensor, "d_model d_model"]
) -> tuple[Float[Tensor, "d_mlp d_model"], Float[Tensor, "d_model d_mlp"]]:
    """Turn the residual stream's basis by the orthogonal R: what is written is multiplied by R, what is read by its transpose.

    With row vectors, x = m W_write; x R is then read by R^T W_read, so every read value stays as it was.
    """
    return W_write @ R, R.T @ W_read
