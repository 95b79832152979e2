"""Circuits made of latents: which of them carry a task, how faithful they are alone, what is left without them, and a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from course_utils.features.attribution import latent_to_latent_gradients
from course_utils.features.patching import Metric, last_logits, resid_at
from course_utils.features.stream import hook_layer, hook_name_of


@dataclass(frozen=True)
class LatentStates:
    """Some prompts at one hook point: the residual stream, the latents, and their means over reference prompts."""

    x: Float[Tensor, "prompts context d"]
    f: Float[Tensor, "prompts context d_sae"]
    x_mean: Float[Tensor, "context d"]
    """Mean over reference prompts position by position: what an ablated state still knows is the template."""
    f_mean: Float[Tensor, "context d_sae"]
    W_dec: Float[Tensor, "d_sae d"]

    @property
    def deviation(self) -> Float[Tensor, "prompts context d_sae"]:
        """Latents minus their means: what these prompts say beyond the template."""
        return self.f - self.f_mean


@torch.no_grad()
def latent_states(
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "prompts context"],
    reference: Int[Tensor, "others context"],
    *,
    hook_name: str | None = None,
) -> LatentStates:
    """Residual stream and latents of `tokens`, with position means over `reference` (prompts of the same shape)."""
    name = hook_name_of(sae, hook_name)
    x, other = resid_at(model, tokens, name), resid_at(model, reference, name)
    return LatentStates(x, sae.encode(x), other.mean(0), sae.encode(other).mean(0), sae.W_dec.detach().float())


def keep_only(
    states: LatentStates, latents: Sequence[int] | Tensor, *, error: bool = False
) -> Float[Tensor, "prompts context d"]:
    """The mean state plus what the given latents add to it: `x_mean + sum over C of (f_i - f_mean_i) W_dec[i]`.

    Args:
        error: also keep the part of the deviation that the SAE does not reconstruct.
    """
    chosen = torch.as_tensor(latents, dtype=torch.long)
    kept = states.x_mean + states.deviation[..., chosen] @ states.W_dec[chosen]
    if error:
        kept = kept + (states.x - states.x_mean - states.deviation @ states.W_dec)
    return kept


def remove(states: LatentStates, latents: Sequence[int] | Tensor) -> Float[Tensor, "prompts context d"]:
    """The real state with the given latents set to their means; everything else stays, the SAE's error included."""
    chosen = torch.as_tensor(latents, dtype=torch.long)
    return states.x - states.deviation[..., chosen] @ states.W_dec[chosen]


def circuit_scores(
    run: Callable[[Float[Tensor, "prompts context d"]], float | Tensor],
    states: LatentStates,
    latents: Sequence[int] | Tensor,
) -> tuple[float, float]:
    """(faithfulness, what is left) of a set of latents, on a scale where the mean state is 0 and the real one 1.

    Faithfulness is the score when only they deviate from their means; what is left is the score when all others do (Marks et
    al. 2024 call the second the faithfulness of the complement; a complete circuit leaves little).

    Args:
        run: from activations at the hook point to the task's metric.

    Errors:
        ValueError: the real and the mean state score the same, so there is nothing to explain.
    """
    empty = torch.zeros(0, dtype=torch.long)
    nothing, everything = float(run(keep_only(states, empty))), float(run(states.x))
    if abs(everything - nothing) < 1e-9:
        raise ValueError("the metric is the same on the real and on the mean state: nothing to attribute")
    scores = [
        (float(run(x)) - nothing) / (everything - nothing)
        for x in (keep_only(states, latents), remove(states, latents))
    ]
    return scores[0], scores[1]


def circuit_attribution(model: Any, states: LatentStates, metric: Metric, hook_name: str) -> Float[Tensor, " d_sae"]:
    """First-order estimate of what each latent's deviation adds to the mean metric, summed over positions.

    One backward pass, at the real state (Nanda 2023; Syed et al. 2023), where the reference is the mean and not zero.
    """
    x = states.x.detach().requires_grad_(True)
    with torch.enable_grad():
        value = metric(last_logits(model, x, hook_name)).mean()
        (gradient,) = torch.autograd.grad(value, x)
    return (states.deviation * (gradient @ states.W_dec.T)).sum(dim=(0, 1))


@dataclass(frozen=True)
class CircuitCurve:
    """Faithfulness and what is left against the number of latents, with random sets of the same sizes beside them."""

    sizes: list[int]
    faithfulness: list[float]
    left: list[float]
    random_faithfulness: Float[np.ndarray, "repeats sizes"]
    random_left: Float[np.ndarray, "repeats sizes"]
    all_latents: float
    """Faithfulness of all latents together: without the SAE's error."""
    error_only: float
    """Faithfulness of the SAE's error alone."""
    active: int
    """How many latents deviate at all on these prompts; random sets are drawn from them."""


@torch.no_grad()
def circuit_curve(
    run: Callable[[Float[Tensor, "prompts context d"]], float | Tensor],
    states: LatentStates,
    order: Sequence[int],
    sizes: Sequence[int],
    *,
    repeats: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> CircuitCurve:
    """`circuit_scores` of the first n latents of `order`, for each n in `sizes`, and of random sets of active latents."""
    active = (states.deviation.abs() > 1e-6).any(dim=0).any(dim=0).nonzero()[:, 0].numpy()
    rng = np.random.default_rng(seed)
    nothing, everything = float(run(keep_only(states, []))), float(run(states.x))

    def scaled(x: Tensor) -> float:
        return (float(run(x)) - nothing) / (everything - nothing)

    faithful, left, random_faithful, random_left = [], [], [], []
    for n in tqdm(sizes, desc="circuits", unit="size", disable=not progress):
        faithful.append(scaled(keep_only(states, order[:n])))
        left.append(scaled(remove(states, order[:n])))
        # every latent draws a number: one that is active only by rounding does not change who else is drawn
        numbers = rng.random((repeats, states.deviation.shape[-1]))[:, active]
        draws = [torch.from_numpy(active[one.argsort()[:n]]) for one in numbers]
        random_faithful.append([scaled(keep_only(states, draw)) for draw in draws])
        random_left.append([scaled(remove(states, draw)) for draw in draws])
    return CircuitCurve(
        list(sizes),
        faithful,
        left,
        np.array(random_faithful).T,
        np.array(random_left).T,
        scaled(keep_only(states, torch.from_numpy(active))),
        scaled(keep_only(states, [], error=True)),
        len(active),
    )


@dataclass(frozen=True)
class FeatureNode:
    """A latent at one position of a prompt."""

    layer: int
    position: int
    latent: int
    activation: float
    effect: float
    """First-order estimate of what its deviation adds to the metric."""
    label: str = ""

    @property
    def key(self) -> tuple[int, int, int]:
        return self.layer, self.position, self.latent


@dataclass(frozen=True)
class FeatureEdge:
    """How much one node's deviation adds to another node's activation, to first order."""

    source: tuple[int, int, int]
    target: tuple[int, int, int]
    weight: float


@dataclass(frozen=True)
class FeatureGraph:
    """A small circuit of latents on one prompt."""

    tokens: list[str]
    nodes: list[FeatureNode]
    edges: list[FeatureEdge]
    layers: list[int] = field(default_factory=list)


def feature_graph(
    model: Any,
    saes: Sequence[Any],
    tokens: Int[Tensor, "1 context"],
    reference: Int[Tensor, "others context"],
    metric: Metric,
    *,
    roots: int = 4,
    parents: int = 3,
    per_layer: int = 8,
    hook_names: Sequence[str] | None = None,
) -> FeatureGraph:
    """The strongest chain of latents behind a metric on one prompt, in the manner of Marks et al. (2024).

    Starts from the `roots` active nodes (position, latent) of the last SAE with the largest effect on the metric, and goes down SAE
    by SAE: each node gets the `parents` nodes whose deviations from the reference mean add most to it, by gradient; at most
    `per_layer` nodes a layer go on. Everything here is first order: check the edges you care about by intervening.

    Args:
        saes: from the earliest to the latest layer.
    """
    names = [hook_name_of(sae, hook_names[i] if hook_names else None) for i, sae in enumerate(saes)]
    states = [
        latent_states(model, sae, tokens, reference, hook_name=name) for sae, name in zip(saes, names, strict=True)
    ]
    layers = [hook_layer(name) for name in names]
    effects = [_node_effects(model, state, metric, name, tokens) for state, name in zip(states, names)]
    # a latent that is silent here has no gradient with respect to what comes before it: only active ones become nodes
    active = [state.f[0] > 0 for state in states]
    nodes: dict[tuple[int, int, int], FeatureNode] = {}

    def add(level: int, position: int, latent: int) -> tuple[int, int, int]:
        node = FeatureNode(
            layers[level],
            position,
            latent,
            float(states[level].f[0, position, latent]),
            float(effects[level][position, latent]),
        )
        nodes.setdefault(node.key, node)
        return node.key

    frontier = [add(len(saes) - 1, *place) for place in _largest(effects[-1] * active[-1], roots)]
    edges = []
    for level in range(len(saes) - 1, 0, -1):
        if not frontier:
            break
        gradients = latent_to_latent_gradients(
            model,
            saes[level - 1],
            saes[level],
            tokens,
            [(key[1], key[2]) for key in frontier],
            upstream_hook=names[level - 1],
            downstream_hook=names[level],
        )
        found = []
        for key, gradient in zip(frontier, gradients, strict=True):
            weights = gradient * states[level - 1].deviation[0] * active[level - 1]
            found += [(key, place, float(weights[place])) for place in _largest(weights, parents)]
        found.sort(key=lambda entry: -abs(entry[2]))
        frontier = []
        for key, place, weight in found:
            source = (layers[level - 1], *place)
            if source not in frontier and len(frontier) >= per_layer:
                continue
            if source not in frontier:
                frontier.append(add(level - 1, *place))
            edges.append(FeatureEdge(source, key, weight))
    words = [model.tokenizer.decode([i]) for i in tokens[0].tolist()]
    return FeatureGraph(words, list(nodes.values()), edges, layers)


def _node_effects(
    model: Any, state: LatentStates, metric: Metric, name: str, tokens: Tensor
) -> Float[Tensor, "context d_sae"]:
    x = state.x.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(metric(last_logits(model, x, name, tokens=tokens)).mean(), x)
    return (state.deviation * (gradient @ state.W_dec.T))[0]


def _largest(values: Float[Tensor, "context d_sae"], k: int) -> list[tuple[int, int]]:
    """Places of the k largest absolute values that are not zero."""
    best = values.abs().flatten().topk(k).indices
    places = [divmod(int(i), values.shape[1]) for i in best]
    return [place for place in places if float(values[place]) != 0]
