"""What an SAE keeps of a language model's behaviour: cross-entropy with the reconstruction spliced in, against ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from course_utils.lm.activations import (
    MASSIVE_NORM_RATIO,
    CollectedActivations,
    HookReader,
    _bos_id,
    _counted,
    collect_activations,
)
from course_utils.lm.corpus import PackedTokens
from course_utils.sae.metrics import evaluate_sae


@dataclass(frozen=True)
class LossRecovered:
    """Cross-entropies in nats a token, and how much of the ablation's damage the SAE avoids.

    `versus_zero = (zero - spliced) / (zero - clean)` and `versus_mean` likewise with the mean ablation: 1 means that the
    model cannot tell the reconstruction from the original, 0 that it might as well have been ablated. Mean ablation is the
    stricter baseline when ablating to zero breaks the model more.
    """

    clean: float
    spliced: float
    zero: float
    mean: float
    tokens: int

    @property
    def versus_zero(self) -> float:
        return (self.zero - self.spliced) / (self.zero - self.clean)

    @property
    def versus_mean(self) -> float:
        return (self.mean - self.spliced) / (self.mean - self.clean)

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, ratios included."""
        return {**asdict(self), "versus_zero": self.versus_zero, "versus_mean": self.versus_mean}


@torch.no_grad()
def loss_recovered(
    model: Any,
    sae: Any,
    tokens: Any,
    hook_name: str | None = None,
    *,
    attention_mask: Bool[Tensor, "sequences context"] | None = None,
    mean: Float[Tensor, " d"] | None = None,
    max_norm_ratio: float | None = MASSIVE_NORM_RATIO,
    batch_size: int = 4,
    progress: bool = True,
) -> LossRecovered:
    """Splice the SAE's reconstruction into the model and measure the loss it costs, beside zero- and mean-ablation.

    All three interventions replace the same positions: those an SAE is trained on. BOS, padding and massive tokens keep
    their own activation, because the SAE never saw their like. Loss is averaged over tokens (not over batches) that follow
    a replaced position.

    Args:
        model: a TransformerLens model. sae: anything with `encode` and `decode`.
        tokens: `[sequences, context]` ids or `PackedTokens`; use held-out text.
        hook_name: where; by default what the SAE's configuration says.
        attention_mask: True where there is text; needed for padded tokens.
        mean: what mean-ablation writes; by default the mean over the replaced positions of `tokens`.

    Returns:
        `LossRecovered`.

    Example:
        >>> loss_recovered(load_model(), load_sae("middle"), packed).versus_mean    # doctest: +SKIP
    """
    name = hook_name or _hook_name(sae)
    ids = torch.as_tensor(getattr(tokens, "tokens", tokens))
    bos = _bos_id(model, tokens, None)
    counted = _counted(ids, attention_mask, bos)
    text = torch.ones_like(counted) if attention_mask is None else attention_mask.bool()
    read = HookReader(model, [name])
    median = _median_norm(read, name, ids, counted)
    if mean is None:
        mean = _mean(read, name, ids, counted, median, max_norm_ratio)
    totals = dict.fromkeys(("clean", "spliced", "zero", "mean"), 0.0)
    n = 0
    for start in tqdm(range(0, len(ids), batch_size), desc="loss recovered", unit="batch", disable=not progress):
        batch, mask = ids[start : start + batch_size], counted[start : start + batch_size]
        kept: dict[str, Tensor] = {}

        def intervene(activation: Tensor, hook: Any, kind: str, mask: Tensor = mask, kept: dict = kept) -> Tensor:
            if "where" not in kept:
                where = mask.to(activation.device)
                if max_norm_ratio is not None:
                    norms = activation.float().flatten(2).norm(dim=-1)
                    where = where & (norms <= max_norm_ratio * median)
                kept["where"] = where
            return _replaced(activation, kept["where"], kind, sae, mean)

        for kind in ("spliced", "clean", "zero", "mean"):
            hooks = [] if kind == "clean" else [(name, _with_kind(intervene, kind))]
            logits = model.run_with_hooks(batch.to(read.device), fwd_hooks=hooks, return_type="logits")
            losses, counts = _token_losses(logits, batch, kept["where"], text[start : start + batch_size], bos)
            totals[kind] += losses
        n += counts
    if not n:
        raise ValueError("no position counts: every token is BOS, padding or massive")
    return LossRecovered(**{kind: total / n for kind, total in totals.items()}, tokens=n)


def evaluate_on_model(
    model: Any,
    sae: Any,
    tokens: Any,
    hook_name: str | None = None,
    *,
    activations: Sequence[CollectedActivations] | None = None,
    loss_tokens: int | None = 8_192,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, float]:
    """Every figure of a model card on held-out text: `evaluate_sae` on its activations, then the loss recovered.

    Args:
        activations: those of `tokens`, where they have been collected already.
        loss_tokens: tokens for the second half, which needs four full forward passes; None takes all of them.

    Returns:
        `evaluate_sae`'s metrics, `activations` (how many), `dropped_massive`, and `loss_*` from `LossRecovered`.
    """
    name = hook_name or _hook_name(sae)
    if activations is None:
        activations = [collect_activations(model, tokens, name, batch_size=batch_size, progress=progress)]
    acts = torch.cat([part.acts.float() for part in activations])
    result = evaluate_sae(sae, acts)
    massive = sum(part.dropped["massive"] for part in activations)
    result |= {"activations": float(len(acts)), "dropped_massive": float(massive)}
    ids = torch.as_tensor(getattr(tokens, "tokens", tokens))
    rows = len(ids) if loss_tokens is None else max(1, loss_tokens // ids.shape[1])
    part = tokens._take(range(min(rows, len(ids)))) if isinstance(tokens, PackedTokens) else ids[:rows]
    loss = loss_recovered(model, sae, part, name, mean=acts.mean(0), progress=progress)
    return result | {f"loss_{key}": float(value) for key, value in loss.as_dict().items()}


def _with_kind(intervene: Any, kind: str) -> Any:
    return lambda activation, hook: intervene(activation, hook, kind)


def _replaced(activation: Tensor, where: Tensor, kind: str, sae: Any, mean: Tensor) -> Tensor:
    flat = activation.flatten(2)
    rows = flat[where]
    if kind == "spliced":
        new = sae.decode(sae.encode(rows.float()))
    else:
        new = torch.zeros_like(rows) if kind == "zero" else mean.to(rows).expand_as(rows)
    flat = flat.clone()
    flat[where] = new.to(flat.dtype)
    return flat.reshape(activation.shape)


def _token_losses(
    logits: Float[Tensor, "batch context vocabulary"],
    ids: Int[Tensor, "batch context"],
    where: Bool[Tensor, "batch context"],
    text: Bool[Tensor, "batch context"],
    bos: int | None,
) -> tuple[float, int]:
    """Summed cross-entropy of the text tokens that follow the positions `where`, and their number."""
    ids = ids.to(logits.device)
    ask = where[:, :-1] & text[:, 1:].to(logits.device)  # padding is nothing to foretell
    if bos is not None:
        ask &= ids[:, 1:] != bos  # the beginning of another document cannot be foretold
    targets = ids[:, 1:][ask]
    losses = torch.nn.functional.cross_entropy(logits[:, :-1][ask].float(), targets, reduction="sum")
    return float(losses), len(targets)


def _median_norm(read: HookReader, name: str, ids: Tensor, counted: Tensor) -> float:
    first = min(4, len(ids))
    norms = read(ids[:first])[name].float().norm(dim=-1).cpu()
    chosen = norms[counted[:first]]
    return float(chosen.median()) if len(chosen) else float("inf")


def _mean(
    read: HookReader, name: str, ids: Tensor, counted: Tensor, median: float, ratio: float | None
) -> Float[Tensor, " d"]:
    total, n = torch.zeros(1), 0
    for batch, mask in zip(ids.split(8), counted.split(8), strict=True):
        found = read(batch)[name].float().cpu()
        keep = mask if ratio is None else mask & (found.norm(dim=-1) <= ratio * median)
        total = total + found[keep].double().sum(0)
        n += int(keep.sum())
    return (total / max(n, 1)).float()


def _hook_name(sae: Any) -> str:
    cfg = getattr(sae, "cfg", None)
    metadata = getattr(cfg, "metadata", None) or {}
    name = metadata.get("hook_name") if isinstance(metadata, dict) else getattr(metadata, "hook_name", None)
    if not name:
        raise ValueError(
            'this SAE does not say which hook point it reads: pass hook_name="blocks.11.hook_resid_post", say'
        )
    return str(name)
