"""Which latents an output comes from: direct logit attribution, attribution patching, weights and gradients between latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_utils.features.logits import _centres, _centring, _gain
from course_utils.features.stream import activations_at, hook_name_of


@torch.no_grad()
def direct_logit_attribution(
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "batch context"],
    answer: Int[Tensor, " batch"],
    wrong: Int[Tensor, " batch"],
    *,
    position: int = -1,
    hook_name: str | None = None,
) -> Float[Tensor, "batch d_sae"]:
    """Each latent's direct contribution to the logit difference answer - wrong at one position.

    The final norm's divisor is frozen at the value it has on each input (as in Elhage et al. 2021), so contributions of all
    latents, the SAE's error and bias, and everything written after this layer add up to the logit difference exactly.
    """
    hook_name = hook_name_of(sae, hook_name)
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    final = activations_at(model, tokens, last).float()[:, position]
    acts = sae.encode(activations_at(model, tokens, hook_name).float())[:, position]
    gain = _gain(model).to(final)
    centred = final - final.mean(-1, keepdim=True) if _centres(model) else final
    divisor = (centred.pow(2).mean(-1) + float(getattr(model.cfg, "eps", 1e-5) or 1e-5)).sqrt()
    difference = (model.W_U[:, answer] - model.W_U[:, wrong]).T.float() * gain  # [batch, d_model]
    if _centres(model):
        difference = difference @ _centring(difference.shape[-1]).to(difference)
    return acts * (difference @ sae.W_dec.detach().float().T) / divisor[:, None]


@dataclass(frozen=True)
class Attribution:
    """Estimated effect of removing each latent at each position, with what is needed to check it."""

    effect: Float[Tensor, "batch context d_sae"]
    """First-order estimate of metric(latent removed) - metric(as it is)."""
    acts: Float[Tensor, "batch context d_sae"]
    metric: Float[Tensor, ""]


def attribution_patching(
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "batch context"],
    metric: Callable[[Float[Tensor, "batch context vocab"]], Float[Tensor, ""]],
    *,
    hook_name: str | None = None,
) -> Attribution:
    """The effect of ablating every latent at every position, estimated with one backward pass (Nanda 2023; Syed et al. 2023).

    To first order, removing f_i W_dec[i] changes the metric by - f_i * (W_dec[i] . d metric / d x). Real ablation costs one
    forward pass for each latent; compare a few of them before believing the rest.
    """
    seen: dict[str, Tensor] = {}

    def hook(x: Tensor, hook: Any = None) -> Tensor:
        seen["x"] = x.detach().requires_grad_(True)
        return seen["x"]

    with torch.enable_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=[(hook_name_of(sae, hook_name), hook)])
        value = metric(logits)
        (gradient,) = torch.autograd.grad(value, seen["x"])
    with torch.no_grad():
        acts = sae.encode(seen["x"].detach().float())
        effect = -acts * (gradient.float() @ sae.W_dec.detach().float().T)
    return Attribution(effect, acts, value.detach())


@torch.no_grad()
def ablation_effect(
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "batch context"],
    metric: Callable[[Float[Tensor, "batch context vocab"]], Float[Tensor, ""]],
    latents: Sequence[int],
    *,
    positions: Sequence[int] | slice | None = None,
    hook_name: str | None = None,
) -> Float[Tensor, " latents"]:
    """metric(latent removed) - metric(as it is), by really removing each latent: one forward pass a latent."""
    from course_utils.features.steer import ablate_latent

    name, base = hook_name_of(sae, hook_name), metric(model(tokens))
    effects = []
    for latent in latents:
        hook = ablate_latent(sae, int(latent), positions=positions)
        effects.append(metric(model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])) - base)
    return torch.stack(effects)


@torch.no_grad()
def virtual_weights(
    upstream: Any, downstream: Any, latents: Sequence[int] | None = None
) -> Float[Tensor, "upstream downstream"]:
    """How much one unit of an upstream latent adds to each downstream latent's pre-activation along the residual stream alone.

    `W_dec[upstream] @ W_enc[downstream]`: exact for the path that skips every layer in between, and silent about all others.
    """
    rows = upstream.W_dec.detach() if latents is None else upstream.W_dec.detach()[list(latents)]
    if rows.shape[1] != downstream.W_enc.shape[0]:
        raise ValueError(
            f"the SAEs live in different spaces: {rows.shape[1]} and {downstream.W_enc.shape[0]} dimensions"
        )
    return rows.float() @ downstream.W_enc.detach().float()


def latent_to_latent_gradients(
    model: Any,
    upstream: Any,
    downstream: Any,
    tokens: Int[Tensor, "1 context"],
    targets: Sequence[tuple[int, int]],
    *,
    upstream_hook: str | None = None,
    downstream_hook: str | None = None,
) -> Float[Tensor, "targets context d_sae"]:
    """Gradient of downstream latents with respect to every upstream latent at every position, through the real model.

    Args:
        targets: (position, downstream latent) pairs; one backward pass each.

    Returns:
        d f_down / d f_up, where raising an upstream latent means adding its decoder direction (its error term stays). Multiply
        by the upstream activations to get edges of a feature circuit (Marks et al. 2024).
    """
    first, second = hook_name_of(upstream, upstream_hook), hook_name_of(downstream, downstream_hook)
    seen: dict[str, Tensor] = {}

    def enter(x: Tensor, hook: Any = None) -> Tensor:
        seen["x"] = x.detach().requires_grad_(True)
        return seen["x"]

    def leave(x: Tensor, hook: Any = None) -> None:
        seen["y"] = x

    with torch.enable_grad():
        model.run_with_hooks(tokens, fwd_hooks=[(first, enter), (second, leave)])
        latents = downstream.encode(seen["y"].float())
        rows = []
        for position, latent in targets:
            (gradient,) = torch.autograd.grad(latents[0, position, latent], seen["x"], retain_graph=True)
            rows.append(gradient[0].float() @ upstream.W_dec.detach().float().T)
    return torch.stack(rows)
