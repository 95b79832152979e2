"""Change a latent inside the running model: add its direction, set it to a value, remove it. What the SAE misses stays.

Every hook works on the activations themselves: `x + (wanted - f) W_dec[i]`. The part of x that the SAE does not reconstruct
(its error) is never replaced, so the effect seen is the latent's and not that of swapping x for an imperfect copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_utils.features.stream import hook_name_of

Hook = Callable[..., Tensor]


def _positions(x: Tensor, positions: Sequence[int] | slice | None) -> Tensor:
    """Boolean [context]: where the hook acts."""
    where = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    if positions is None:
        where[:] = True
    elif isinstance(positions, slice):
        where[positions] = True
    else:
        where[list(positions)] = True
    return where


def steering_hook(
    sae: Any,
    latent: int,
    alpha: float | Float[Tensor, " batch"],
    *,
    positions: Sequence[int] | slice | None = None,
    unit: bool = False,
) -> Hook:
    """A hook that adds `alpha * W_dec[latent]` to the activations.

    Args:
        alpha: in units of the latent's activation: 0 changes nothing, the latent's usual maximum is a strong push. One number,
            or one for each row of the batch, which runs a whole dose-response curve in one pass.
        positions: where to add it (everywhere by default).
        unit: bring the direction to length one first, so that `alpha` is the length of the push whatever the decoder row's.

    Example:
        model.run_with_hooks(tokens, fwd_hooks=[(hook_name, steering_hook(sae, 12, 8.0))])
    """
    direction = sae.W_dec[latent].detach()
    if unit:
        direction = direction / direction.norm()

    def hook(x: Float[Tensor, "batch context d"], hook: Any = None) -> Float[Tensor, "batch context d"]:
        dose = torch.as_tensor(alpha, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
        return x + dose * direction.to(x) * _positions(x, positions)[:, None]

    return hook


def clamp_latent(
    sae: Any,
    latent: int | Sequence[int],
    value: float | Sequence[float],
    *,
    positions: Sequence[int] | slice | None = None,
) -> Hook:
    """A hook that sets one latent (or several) to `value` and keeps everything else, the SAE's error included."""
    latents = torch.as_tensor([latent] if isinstance(latent, int) else list(latent), dtype=torch.long)
    wanted = torch.as_tensor(value, dtype=torch.float32).reshape(-1).expand(len(latents))

    def hook(x: Float[Tensor, "batch context d"], hook: Any = None) -> Float[Tensor, "batch context d"]:
        now = sae.encode(x.float())[..., latents.to(x.device)]
        change = (wanted.to(now) - now) @ sae.W_dec.detach()[latents.to(sae.W_dec.device)].to(now)
        return x + (change * _positions(x, positions)[:, None]).to(x.dtype)

    return hook


def ablate_latent(sae: Any, latent: int | Sequence[int], *, positions: Sequence[int] | slice | None = None) -> Hook:
    """A hook that removes one latent (or several): `clamp_latent` to zero."""
    return clamp_latent(sae, latent, 0.0, positions=positions)


@torch.no_grad()
def continuations(
    model: Any,
    sae: Any,
    prompt: str,
    latent: int,
    alphas: Sequence[float],
    max_new_tokens: int = 30,
    *,
    hook_name: str | None = None,
    max_prompt_tokens: int = 128,
) -> list[list[int]]:
    """Greedy continuations of `prompt`, one for each strength in `alphas`, steered together in one batch.

    The direction is added at every position of the prompt but the first (BOS carries an attention sink) and at every new
    token.

    Returns:
        for each strength the new token ids, cut at the end-of-text token.
    """
    tokens = model.to_tokens(prompt, prepend_bos=True)[:, :max_prompt_tokens]
    rows = tokens.expand(len(alphas), -1)
    dose = torch.tensor(list(alphas), dtype=torch.float32)
    direction = sae.W_dec[latent].detach()

    def hook(x: Tensor, hook: Any = None) -> Tensor:
        push = dose.to(x)[: x.shape[0], None, None] * direction.to(x)
        first = x.shape[1] > 1  # with a key-value cache later calls hold one new token only
        return torch.cat([x[:, :1], x[:, 1:] + push], dim=1) if first else x + push

    with model.hooks(fwd_hooks=[(hook_name_of(sae, hook_name), hook)]):
        out = model.generate(
            rows, max_new_tokens=max_new_tokens, do_sample=False, verbose=False, stop_at_eos=False, return_type="tokens"
        )
    end = getattr(model.tokenizer, "eos_token_id", None)
    result = []
    for row in out[:, rows.shape[1] :].tolist():
        result.append(row[: row.index(end)] if end in row else row)
    return result


@contextmanager
def splice(model: Any, sae: Any, *, hook_name: str | None = None) -> Iterator[None]:
    """Within the block the model computes with the SAE's reconstruction in place of the activations, BOS excepted."""

    def hook(x: Tensor, hook: Any = None) -> Tensor:
        rebuilt = sae.decode(sae.encode(x.float())).to(x.dtype)
        return torch.cat([x[:, :1], rebuilt[:, 1:]], dim=1)

    with model.hooks(fwd_hooks=[(hook_name_of(sae, hook_name), hook)]):
        yield


def random_control(sae: Any, latent: int, seed: int = 0) -> Float[Tensor, " d"]:
    """A random direction with the same norm as the latent's: what steering with any direction does."""
    direction = sae.W_dec[latent].detach()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(direction.shape, generator=generator).to(direction)
    return noise * direction.norm() / noise.norm()


def dose_response(
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "1 context"],
    latent: int,
    alphas: Sequence[float],
    metric: Callable[[Float[Tensor, "doses context vocab"]], Float[Tensor, " doses"]],
    *,
    hook_name: str | None = None,
) -> Float[Tensor, " doses"]:
    """A metric of the logits at each steering strength, all strengths in one batch."""
    hook = steering_hook(sae, latent, torch.tensor(list(alphas)), positions=slice(1, None))
    with torch.no_grad():
        rows = tokens.expand(len(alphas), -1)
        logits = model.run_with_hooks(rows, fwd_hooks=[(hook_name_of(sae, hook_name), hook)])
    return metric(logits)
