"""How features lie in the hidden space: which are represented, how much they overlap, their dimensionality, named shapes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

REPRESENTED = 0.5
"""A feature counts as represented when ||W_i||^2 exceeds this: trained values gather near 0 and near 1."""

_TINY = 1e-6
"""Squared norm below which a feature has no direction to speak of."""


class FeatureOverlap(NamedTuple):
    """What `superposition_per_feature` returns."""

    represented: Float[Tensor, "instances features"]
    """||W_i||^2: about 1 where the model keeps the feature, about 0 where it does not."""
    superposition: Float[Tensor, "instances features"]
    """Sum over j != i of (unit W_i . W_j)^2: 0 for a feature with a direction of its own."""


def represented_features(W: Float[Tensor, "instances d_hidden features"]) -> Float[Tensor, "instances features"]:
    """||W_i||^2 of every feature (column of W)."""
    return W.square().sum(dim=1)


def superposition_per_feature(W: Float[Tensor, "instances d_hidden features"]) -> FeatureOverlap:
    """How strongly each feature is represented, and how much the others lie in its way (Elhage et al. 2022).

    Example:
        >>> W = torch.tensor([[[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]]])  # an antipodal pair and a feature by itself
        >>> superposition_per_feature(W).superposition
        tensor([[1., 1., 0.]])
    """
    represented = represented_features(W)
    return FeatureOverlap(represented, (_overlaps(W).sum(dim=-1) - represented).clamp(min=0))


def superposition_onset(
    W: Float[Tensor, "instances d_hidden features"], feature_probability: Float[Tensor, " instances"]
) -> tuple[Int[Tensor, " instances"], float]:
    """How many features each instance represents (||W_i||^2 > 1/2), and where superposition begins in a sweep.

    The onset is the largest feature probability whose instance represents more features than it has dimensions; 0.0 if none does.

    Example:
        >>> W = torch.tensor([[[1.0, 0.0]], [[1.0, -1.0]]])
        >>> superposition_onset(W, torch.tensor([1.0, 0.1]))
        (tensor([1, 2]), 0.10000000149011612)
    """
    counts = (represented_features(W) > REPRESENTED).sum(dim=1)
    return counts, max(feature_probability[counts > W.shape[1]].tolist(), default=0.0)


def feature_dimensionality(W: Float[Tensor, "instances d_hidden features"]) -> Float[Tensor, "instances features"]:
    """D_i = ||W_i||^2 / sum over j of (unit W_i . W_j)^2: the share of a dimension feature i has; 0 for a dead feature.

    Over the features of an instance the sum is at most d_hidden, and equal to it where the directions form tight frames.
    Toy Models of Superposition (Elhage et al. 2022), "The geometry of superposition".

    Example:
        >>> feature_dimensionality(torch.tensor([[[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]]))
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    represented = represented_features(W)
    total = _overlaps(W).sum(dim=-1)
    alive = represented > _TINY
    return torch.where(alive, represented / torch.where(alive, total, torch.ones_like(total)), torch.zeros_like(total))


def polysemanticity_of_neurons(
    W_in: Float[Tensor, "instances d_hidden features"],
) -> Float[Tensor, "instances d_hidden"]:
    """How many features each neuron answers to: the participation ratio (sum w^2)^2 / sum w^4 of its input weights.

    1 for a neuron with one feature, k for k equally strong ones, 0 for a dead neuron.
    """
    square = W_in.square()
    total, fourth = square.sum(dim=-1), square.square().sum(dim=-1)
    alive = total > _TINY
    return torch.where(
        alive, total.square() / torch.where(alive, fourth, torch.ones_like(fourth)), torch.zeros_like(total)
    )


def data_point_dimensionality(h: Float[Tensor, "instances points d_hidden"]) -> Float[Tensor, "instances points"]:
    """The same measure for the hidden vectors h_t of data points: ||h_t||^2 / sum over u of (unit h_t . h_u)^2 (Henighan et al. 2023)."""
    return feature_dimensionality(h.mT)


class Shape(NamedTuple):
    """One of the arrangements features settle into: so many features share so many dimensions."""

    name: str
    n_features: int
    n_dimensions: int

    @property
    def dimensionality(self) -> Fraction:
        """The dimensionality of each of its features."""
        return Fraction(self.n_dimensions, self.n_features)


SHAPES = (
    Shape("dedicated", 1, 1),
    Shape("digon", 2, 1),
    Shape("triangle", 3, 2),
    Shape("tetrahedron", 4, 3),
    Shape("pentagon", 5, 2),
    Shape("square antiprism", 8, 3),
)
"""The sticky arrangements of Toy Models of Superposition, by number of features and dimensions."""


@dataclass(frozen=True)
class Cluster:
    """A group of features that overlap with each other and with no others."""

    name: str
    """`dedicated`, `digon`, ... , `ignored`, or `other` for a shape without a name."""
    features: tuple[int, ...]
    n_dimensions: int
    dimensionality: float
    """Mean dimensionality of its features."""


def name_geometry(W: Float[Tensor, "d_hidden features"], overlap: float = 0.15) -> list[Cluster]:
    """Group one instance's features into clusters of overlapping directions, and name each cluster's shape.

    Two features belong together when |cosine| > `overlap`, directly or through others; features with ||W_i||^2 <= 1/2 are
    `ignored`, one cluster for all of them. The shape follows from the number of features and the rank (sum of D_i, rounded).
    """
    if W.ndim != 2:
        raise ValueError(
            f"W has shape {list(W.shape)}, expected one instance's [d_hidden, features]: use `W[instance]`"
        )
    norms = W.norm(dim=0)
    alive = norms.square() > REPRESENTED
    unit = W / norms.clamp(min=_TINY)
    linked = ((unit.T @ unit).abs() > overlap) & alive[:, None] & alive[None, :]
    share = feature_dimensionality(W[None])[0]
    clusters = [_cluster(group, share) for group in _components(linked, alive)]
    dead = tuple(torch.nonzero(~alive).flatten().tolist())
    if dead:
        clusters.append(Cluster("ignored", dead, 0, float(share[~alive].mean())))
    return clusters


def _cluster(group: list[int], share: Tensor) -> Cluster:
    total = float(share[group].sum())
    rank = max(1, round(total))
    names = {(shape.n_features, shape.n_dimensions): shape.name for shape in SHAPES}
    return Cluster(names.get((len(group), rank), "other"), tuple(group), rank, total / len(group))


def _components(linked: Tensor, alive: Tensor) -> list[list[int]]:
    """Connected groups of a symmetric adjacency matrix, in order of their first member."""
    left = torch.nonzero(alive).flatten().tolist()
    groups = []
    while left:
        group, edge = {left[0]}, [left[0]]
        while edge:
            for neighbour in torch.nonzero(linked[edge.pop()]).flatten().tolist():
                if neighbour not in group:
                    group.add(neighbour)
                    edge.append(neighbour)
        groups.append(sorted(group))
        left = [feature for feature in left if feature not in group]
    return groups


def _overlaps(W: Tensor) -> Tensor:
    """(unit W_i . W_j)^2 for all i, j; a row of zeros where W_i has no length."""
    norms = W.norm(dim=1, keepdim=True)
    unit = torch.where(norms.square() > _TINY, W / norms.clamp(min=_TINY), torch.zeros_like(W))
    return (unit.mT @ W).square()
