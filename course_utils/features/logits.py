"""Which output tokens a latent pushes up or down along the direct path, with the final norm taken into account.

A latent adds `f * W_dec[i]` to the residual stream. Before the unembedding the stream passes the final norm, which is not
linear: it divides by the size of the whole stream and multiplies by a learned gain for each dimension. Multiplying
`W_dec[i] @ W_U` leaves all of that out. Here the gain is folded in, and when text is given the norm is replaced by its mean
Jacobian on that text, so the numbers are logits per unit of activation, exact to first order for the direct path. What later
layers do with the latent is not in them: for that, intervene (`course_utils.features.steer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_utils.features.stream import activations_at, counted_positions
from course_utils.sae.sparse import row_topk


@dataclass(frozen=True)
class FinalNorm:
    """The linear map that stands for the final norm: `direction @ matrix`, then the unembedding."""

    matrix: Float[Tensor, "d_model d_model"]
    measured: bool
    """True: mean Jacobian on text, so effects are logits per unit of activation. False: gain only, arbitrary scale."""


@dataclass(frozen=True)
class LogitEffects:
    """Direct effect of latents on the output, in logits per unit of activation, relative to the mean over the vocabulary."""

    latents: Int[Tensor, " latents"]
    top_tokens: Int[Tensor, "latents k"]
    top_values: Float[Tensor, "latents k"]
    bottom_tokens: Int[Tensor, "latents k"]
    bottom_values: Float[Tensor, "latents k"]
    histogram: Int[Tensor, "latents bins"]
    edges: Float[Tensor, "latents bins_plus_1"]
    deviation: Float[Tensor, " latents"]
    """Standard deviation over the vocabulary: a top value of less than about five of these says little."""
    measured: bool


def _gain(model: Any) -> Float[Tensor, " d_model"]:
    norm, width = model.ln_final, model.W_U.shape[0]
    kind = str(getattr(model.cfg, "normalization_type", "") or "")
    weight = getattr(norm, "weight", getattr(norm, "w", None))
    if kind.endswith("Pre") or weight is None:  # already folded into W_U
        return torch.ones(width)
    offset = 1.0 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 0.0
    return weight.detach().float() + offset


def _centres(model: Any) -> bool:
    return not str(getattr(model.cfg, "normalization_type", "RMS")).startswith("RMS")


def _centring(width: int) -> Tensor:
    return torch.eye(width) - 1.0 / width


@torch.no_grad()
def norm_jacobian(
    residual: Float[Tensor, "tokens d_model"], gain: Float[Tensor, " d_model"], *, centre: bool, eps: float
) -> Float[Tensor, "d_model d_model"]:
    """Mean Jacobian of RMSNorm (or LayerNorm, `centre=True`) over `residual`, for row vectors: `d_out = d_in @ J`.

    For y = g x / r with r = sqrt(mean x^2 + eps):  dy = g (d / r - x (x . d) / (n r^3)).
    """
    width = residual.shape[-1]
    x = residual.double()
    if centre:
        x = x - x.mean(-1, keepdim=True)
    r = (x.pow(2).mean(-1) + eps).sqrt()
    outer = torch.einsum("ti,tj,t->ij", x, x, 1 / (width * r**3 * len(x))) if len(x) < 64 else _outer(x, r)
    jacobian = torch.eye(width, dtype=torch.double) * (1 / r).mean() - outer
    if centre:
        jacobian = _centring(width).double() @ jacobian
    return (jacobian * gain.double()).float()


def _outer(x: Tensor, r: Tensor) -> Tensor:
    scaled = x / (x.shape[-1] * r**3 * len(x))[:, None]
    return x.T @ scaled


@torch.no_grad()
def final_norm(model: Any, tokens: Int[Tensor, "sequences context"] | None = None, max_tokens: int = 512) -> FinalNorm:
    """The final norm as a linear map: its mean Jacobian over `tokens`, or only its gain when no text is given.

    Some hundred tokens are plenty (the scale of logit effects is then good to about 2%): they pass through the whole model.
    """
    gain, width = _gain(model).cpu(), model.W_U.shape[0]
    if tokens is None:
        matrix = torch.diag(gain)
        return FinalNorm(_centring(width) @ matrix if _centres(model) else matrix, False)
    rows = max(1, max_tokens // tokens.shape[1])
    hook = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    spread = tokens[:: max(1, len(tokens) // rows)][:rows]  # not the first ones: texts come in order of kind
    residual = activations_at(model, spread, hook).float().cpu()
    residual = residual[counted_positions(residual)]
    eps = float(getattr(model.cfg, "eps", 1e-5) or 1e-5)
    return FinalNorm(norm_jacobian(residual, gain, centre=_centres(model), eps=eps), True)


def _histogram(values: Float[Tensor, " n"], bins: int) -> Int[Tensor, " bins"]:
    """Counts between the smallest and the largest value. Row by row: it reads each value once, and makes no copy of them all."""
    return values.histc(bins).long()


def _largest(effects: Float[Tensor, "latents d_vocab"], k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first, by the search in groups that training uses: a fifth of the time of `topk`."""
    values, indices = row_topk(effects, k)
    values, order = values.sort(dim=-1, descending=True)
    return values, indices.gather(-1, order)


@torch.no_grad()
def logit_effects(
    model: Any,
    sae: Any,
    latents: Sequence[int] | Tensor,
    k: int = 10,
    *,
    norm: FinalNorm | None = None,
    bins: int = 60,
    chunk: int = 128,
) -> LogitEffects:
    """Tokens whose logits each latent raises and lowers most through the direct path.

    Args:
        sae: anything with `W_dec [d_sae, d_model]` that writes to the residual stream.
        norm: from `final_norm(model, tokens)`; without it the gain is folded in but the scale is arbitrary.
        chunk: latents at a time; memory is about `chunk * d_vocab * 8` bytes.

    The mean over the vocabulary is removed: softmax does not see a shift shared by all tokens.
    """
    norm = norm or final_norm(model)
    chosen = torch.as_tensor(latents, dtype=torch.long).reshape(-1)
    unembed = model.W_U.detach().float()
    if sae.W_dec.shape[1] != unembed.shape[0]:
        raise ValueError(
            f"the SAE writes {sae.W_dec.shape[1]} dimensions, the unembedding reads {unembed.shape[0]}: "
            "direct logit effects need an SAE on something added to the residual stream"
        )
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(chosen), chunk):
        directions = sae.W_dec.detach().float()[chosen[start : start + chunk].to(sae.W_dec.device)]
        effects = (directions @ norm.matrix.to(directions)) @ unembed
        effects -= effects.mean(-1, keepdim=True)
        top, bottom = _largest(effects, k), _largest(-effects, k)
        low, high = effects.amin(-1), effects.amax(-1)
        counts = torch.stack([_histogram(row, bins) for row in effects])
        edges = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, bins + 1, device=effects.device)
        deviation = torch.linalg.vector_norm(effects, dim=-1) / (effects.shape[-1] - 1) ** 0.5  # their mean is 0
        parts.append((top[1], top[0], bottom[1], -bottom[0], counts, edges, deviation))
    names = ("top_tokens", "top_values", "bottom_tokens", "bottom_values", "histogram", "edges", "deviation")
    joined = {name: torch.cat(column).cpu() for name, column in zip(names, zip(*parts, strict=True), strict=True)}
    return LogitEffects(latents=chosen, measured=norm.measured, **joined)
