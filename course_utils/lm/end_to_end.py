"""Finetune an SAE for what the language model does with its reconstruction: the squared error, and the KL divergence of the output.

Squared error treats all directions alike; the model does not. A short run with the divergence added closes part of the gap in
loss that training on squared error alone leaves (Karvonen 2025, arXiv:2503.17272; from the start: Braun et al. 2024,
arXiv:2405.12241).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from course_utils.lm.activations import MASSIVE_NORM_RATIO, HookReader, _bos_id, _counted
from course_utils.lm.evaluate import _hook_name, _median_norm
from course_utils.sae.model import SAE, SAEOutput
from course_utils.sae.train import SAETrainer, TrainingResult

ROWS = 512  # tokens whose probabilities over the vocabulary are held at once


def finetune_end_to_end(
    model: Any,
    sae: SAE,
    tokens: Any,
    *,
    hook_name: str | None = None,
    steps: int | None = None,
    sequences: int = 8,
    lr: float = 3e-4,
    lr_warmup_steps: int = 20,
    precision: str = "float32",
    seed: int = 0,
    max_norm_ratio: float | None = MASSIVE_NORM_RATIO,
    progress: bool = True,
) -> TrainingResult:
    """Train `sae` further on `|x - x_hat|^2 + w KL(p || p_hat)`: p is the model's prediction, p_hat that with x_hat spliced in.

    The weight w makes both terms equally large in every step (Karvonen 2025), so neither needs a scale. Spliced in are the
    positions that an SAE is trained on; BOS and massive tokens keep their own activation. Every step runs the model twice and
    backwards through the layers above the hook point, a hundred times the cost of a plain step: some hundred steps are meant.

    Args:
        model: a TransformerLens model; a bfloat16 copy is quicker and good enough.
        sae: a trained autoencoder; it is changed in place.
        tokens: `[sequences, context]` ids or `PackedTokens`.
        steps: by default one pass over `tokens`.
        sequences: a step; a batch has `sequences * context` tokens.
        lr: falls linearly to 0 over the whole run, after `lr_warmup_steps` in which Adam's averages form.

    Returns:
        `TrainingResult`; its history has `kl`, the mean divergence in nats a token, beside the usual metrics.
    """
    name = hook_name or _hook_name(sae)
    ids = torch.as_tensor(getattr(tokens, "tokens", tokens))
    bos = _bos_id(model, tokens, None)
    counted = _counted(ids, None, bos)
    median = _median_norm(HookReader(model, [name]), name, ids, counted)
    steps = steps or max(1, len(ids) // sequences)
    # continued as it is: no new scale of the inputs, no new b_dec
    cfg = sae.cfg.replace(
        steps=steps, lr=lr, lr_warmup_steps=lr_warmup_steps, lr_decay_share=1.0, precision=precision,
        batch_size=sequences * ids.shape[1], normalize_input=False, b_dec_init="zeros",
    )  # fmt: skip
    trainer = SAETrainer(cfg, sae)
    result = TrainingResult(trainer.sae, trainer=trainer)
    bar = tqdm(_batches(ids, sequences, steps, seed), total=steps, desc="end to end", unit="step", disable=not progress)
    for rows in bar:
        batch = ids[rows]
        x, clean = run_clean(model, batch, name)
        where = counted[rows].to(x.device)
        if max_norm_ratio is not None:
            where = where & (x.float().norm(dim=-1) <= max_norm_ratio * median)
        found: dict[str, float] = {}
        added = Divergence(model, batch, name, x, clean, where, found)
        metrics = trainer.step(x[where].float(), added) | found
        result.history.append({"step": trainer.step_number, **metrics})
        bar.set_postfix(kl=f"{found['kl']:.3g}", reconstruction=f"{metrics['reconstruction']:.4g}", refresh=False)
    result.sae = trainer.finished()
    return result


@torch.no_grad()
def run_clean(
    model: Any, ids: Int[Tensor, "batch context"], name: str
) -> tuple[Float[Tensor, "batch context d"], Float[Tensor, "batch context vocabulary"]]:
    """The activations at a hook point and the logits of an undisturbed pass."""
    kept: list[Tensor] = []

    def keep(activation: Tensor, hook: Any) -> None:
        kept.append(activation)

    logits = model.run_with_hooks(ids, fwd_hooks=[(name, keep)], return_type="logits")
    return kept[0], logits


class Divergence:
    """What `finetune_end_to_end` adds to the loss of one step: called with the SAE's output, gives `{"kl": w KL}`."""

    def __init__(
        self,
        model: Any,
        ids: Int[Tensor, "batch context"],
        name: str,
        x: Float[Tensor, "batch context d"],
        clean: Float[Tensor, "batch context vocabulary"],
        where: Bool[Tensor, "batch context"],
        found: dict[str, float],
    ) -> None:
        self.model, self.ids, self.name, self.x, self.clean = model, ids, name, x, clean
        self.where, self.found = where, found

    def __call__(self, output: SAEOutput) -> dict[str, Tensor]:
        def splice(activation: Tensor, hook: Any) -> Tensor:
            return activation.index_put((self.where,), output.x_hat.to(activation.dtype))

        logits = self.model.run_with_hooks(self.ids, fwd_hooks=[(self.name, splice)], return_type="logits")
        kl = mean_divergence(self.clean[self.where], logits[self.where])
        self.found["kl"] = float(kl.detach())
        weight = (output.losses["reconstruction"] / kl.clamp_min(1e-12)).detach()
        return {"kl": weight * kl}


def mean_divergence(
    clean: Float[Tensor, "tokens vocabulary"], spliced: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, ""]:
    """`KL(softmax(clean) || softmax(spliced))` in nats, averaged over tokens; in float32, a few rows at a time."""
    total = spliced.new_zeros((), dtype=torch.float32)
    for target, guess in zip(clean.split(ROWS), spliced.split(ROWS), strict=True):
        log_p = target.float().log_softmax(-1)
        p = log_p.exp()
        total = total + torch.nn.functional.cross_entropy(guess.float(), p, reduction="sum") + (p * log_p).sum()
    return total / len(clean)


def _batches(ids: Tensor, sequences: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Rows of each step: every pass is a permutation, an incomplete last batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < steps:
        for rows in torch.randperm(len(ids), generator=generator).split(sequences):
            if len(rows) == min(sequences, len(ids)) and done < steps:
                done += 1
                yield rows
