"""Give dead latents a new start: random directions, or inputs the autoencoder reconstructs badly; Adam's moments reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from course_utils.sae.model import SAE


@torch.no_grad()
def resample_dead_latents(
    sae: SAE,
    dead: Bool[Tensor, " d_sae"],
    x: Float[Tensor, "batch d_in"],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    method: str = "loss_weighted",
    encoder_scale: float | None = None,
    generator: torch.Generator | None = None,
    stand_ins: dict[str, nn.Parameter] | None = None,
) -> Int[Tensor, " resampled"]:
    """Replace the weights of dead latents, in place, and forget what the optimizer remembers of them.

    Args:
        sae: the autoencoder.
        dead: which latents to replace: those that did not fire once in a whole window of steps.
        x: inputs to measure losses on (`loss_weighted`), and to say what scale new encoder columns need.
        optimizer: its moments for the replaced rows, columns and biases are set to 0. Without that, the next steps would
            push the new weights along the old ones' way.
        method: "simple": random unit vectors. "loss_weighted": for each dead latent an input drawn with probability
            proportional to its squared loss, minus `b_dec`, normalised (Bricken et al. 2023, appendix on resampling).
        encoder_scale: length of the new encoder columns over the living ones' mean length; None means 0.2, or 1 in the topk
            family, where a short encoder would never be selected.
        generator: source of randomness, on the CPU.
        stand_ins: parameters the optimizer holds in place of the SAE's own, by name (SAETrainer's transpose of `W_enc`).

    Returns:
        The numbers of the replaced latents.
    """
    chosen = dead.nonzero().squeeze(1)
    if len(chosen) == 0:
        return chosen
    directions = _new_directions(sae, len(chosen), x, method, generator)
    directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    lengths = sae.W_enc.norm(dim=0)[~dead]
    if encoder_scale is None:
        encoder_scale = 1.0 if sae.cfg.uses_k else 0.2
    length = encoder_scale * float(lengths.mean()) if len(lengths) else 1.0
    sae.W_dec[chosen] = directions
    sae.W_enc.T[chosen] = directions * length
    for name, fresh in fresh_latent_values(sae).items():
        getattr(sae, name)[chosen] = fresh
    if optimizer is not None:
        reset_moments(sae, optimizer, chosen, stand_ins)
    return chosen


def fresh_latent_values(sae: SAE) -> dict[str, float]:
    """The value every per-latent parameter starts from."""
    fresh = {name: 0.0 for name in (*sae.per_latent, "r_mag") if hasattr(sae, name)}
    if hasattr(sae, "log_threshold"):
        fresh["log_threshold"] = float(torch.tensor(sae.cfg.threshold_init).log())
    return fresh


@torch.no_grad()
def reset_moments(
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    latents: Int[Tensor, " n"],
    stand_ins: dict[str, nn.Parameter] | None = None,
) -> None:
    """Set the optimizer's moving averages to 0 for everything that belongs to these latents."""
    for name, own in sae.named_parameters():
        parameter = (stand_ins or {}).get(name, own)
        for moment in optimizer.state.get(parameter, {}).values() if name != "b_dec" else ():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                (moment.T if moment.shape == (sae.cfg.d_in, sae.cfg.d_sae) and name == "W_enc" else moment)[latents] = 0


def _new_directions(sae: SAE, n: int, x: Tensor, method: str, generator: torch.Generator | None) -> Tensor:
    if method == "simple":
        return torch.randn(n, sae.cfg.d_in, generator=generator).to(sae.W_dec)
    if method != "loss_weighted":
        raise ValueError(f'no resampling method {method!r}: use "simple" or "loss_weighted"')
    x = x.to(sae.W_dec)
    was_training = sae.training
    loss = (sae.eval()(x).x_hat - x).float().square().sum(1)
    sae.train(was_training)
    weights = loss.square().cpu()
    if not float(weights.sum()) > 0:  # everything is reconstructed exactly: any input is as good as another
        weights = torch.ones_like(weights)
    drawn = torch.multinomial(weights, n, replacement=n > int((weights > 0).sum()), generator=generator)
    return x[drawn.to(x.device)] - sae.b_dec
