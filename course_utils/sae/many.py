"""Many small autoencoders trained as one: seeds and penalties side by side, each operation done once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from tqdm.auto import tqdm

from course_utils.sae.config import SAEConfig
from course_utils.sae.data import Activations, batches
from course_utils.sae.model import SAE, remove_parallel_gradient
from course_utils.sae.resample import resample_dead_latents
from course_utils.sae.train import SAETrainer, TrainingDiverged

MAY_DIFFER = ("seed", "l1_coefficient", "l0_coefficient", "metadata")


class ManySAEs:
    """`n` autoencoders of one shape and architecture; `step(batch)` updates all of them.

    The weights live in tensors with a leading axis of length `n`; `saes[i]` shows the i-th slice, sharing its memory. The plain
    dense code of the architecture runs under `torch.func.vmap`, so there is nothing to write again. AuxK is left out (the
    number of dead latents differs between instances): use `resample` for dead latents.

    Args:
        cfgs: configurations that differ in nothing but seed and penalty coefficients.
    """

    def __init__(self, cfgs: Sequence[SAEConfig]) -> None:
        if not cfgs:
            raise ValueError("no configuration: pass at least one SAEConfig")
        blank = {"seed": 0, "l1_coefficient": 1.0, "l0_coefficient": 1.0, "metadata": {}}
        if any(cfg.replace(**blank) != cfgs[0].replace(**blank) for cfg in cfgs):
            raise ValueError(f"configurations trained together may differ only in {', '.join(MAY_DIFFER)}")
        if cfgs[0].normalize_input:
            raise ValueError("normalize_input is not done here: scale the activations first")
        self.cfg = cfgs[0].replace(fast=False, aux_coefficient=0.0)
        self.saes = [SAE(cfg.replace(fast=False, aux_coefficient=0.0)) for cfg in cfgs]
        self.weights = {name: nn.Parameter(_stack(self.saes, name)) for name, _ in self.saes[0].named_parameters()}
        self.buffers = {name: _stack(self.saes, name) for name, _ in self.saes[0].named_buffers()}
        for i, sae in enumerate(self.saes):  # from here on the modules are windows on the stacked tensors
            for name, one in sae.named_parameters():
                one.data = self.weights[name].data[i].T if name == "W_enc" else self.weights[name].data[i]
            for name in self.buffers:
                setattr(sae, name, self.buffers[name][i])
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=self.cfg.lr, betas=self.cfg.betas, fused=True)
        self.schedule = SAETrainer(self.cfg.replace(d_in=1, d_sae=1, k=1, widths=()))  # its learning rate and warm-up
        self.silent_steps = torch.zeros(len(cfgs), self.cfg.d_sae, dtype=torch.int32, device=self.cfg.device)
        self.scales = torch.tensor([_penalty(cfg) / (_penalty(cfgs[0]) or 1.0) for cfg in cfgs], device=self.cfg.device)
        self.generator = torch.Generator().manual_seed(self.cfg.seed + 1)
        self.step_number = 0
        self._template = self.saes[0].train()

    def step(
        self, batch: Float[Tensor, "batch d_in"] | Float[Tensor, "n batch d_in"]
    ) -> dict[str, Float[Tensor, " n"]]:
        """One update of each, on a common batch or on one batch each; returns `loss`, its parts and `l0`, `[n]` each."""
        x = batch.detach().to(self.cfg.device, self.weights["W_dec"].dtype)
        if self.step_number == 0 and self.cfg.b_dec_init == "mean":
            self.weights["b_dec"].data.copy_(x.mean(-2))
        self.schedule.step_number = self.step_number
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate()
        scales = self.scales * self.schedule.sparsity_scale()
        each = (0, 0, 0 if x.ndim == 3 else None, 0)
        losses, fired, l0 = vmap(self._one, in_dims=each)(self.weights, self.buffers, x, scales)  # type: ignore[arg-type]
        total = torch.stack(list(losses.values())).sum(0)
        if not bool(torch.isfinite(total).all()):
            bad = (~torch.isfinite(total)).nonzero().squeeze(1).tolist()
            raise TrainingDiverged(
                f"step {self.step_number}: the loss of instances {bad} is not finite: lower lr, or look for NaN in the activations"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.sum().backward()
        with torch.no_grad():
            W_dec = self.weights["W_dec"]
            if self.cfg.unit_norm_decoder:
                remove_parallel_gradient(W_dec, W_dec.grad)  # type: ignore[arg-type]
            self.optimizer.step()
            if self.cfg.unit_norm_decoder:
                W_dec.div_(torch.linalg.vector_norm(W_dec, dim=-1, keepdim=True).clamp_min_(1e-12))
        self.silent_steps.add_(1).masked_fill_(fired, 0)
        self.step_number += 1
        self._maybe_resample(x)
        return {"loss": total.detach(), **{name: part.detach() for name, part in losses.items()}, "l0": l0}

    def _one(
        self, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, scale: Tensor
    ) -> tuple[dict[str, Tensor], Bool[Tensor, " d_sae"], Tensor]:
        """Losses of one instance; vmap adds the leading axis."""
        weights = {**weights, "W_enc": weights["W_enc"].T}
        output = functional_call(self._template, (weights, buffers), (x,), {"sparsity_scale": scale})
        return output.losses, output.fired(), output.l0

    def _maybe_resample(self, x: Tensor) -> None:
        cfg = self.cfg
        if (
            cfg.resample == "none"
            or self.step_number % cfg.resample_every
            or self.step_number > cfg.resample_until * cfg.steps
        ):
            return
        dead = self.silent_steps >= min(cfg.dead_after_steps, cfg.resample_every)
        for i, sae in enumerate(self.saes):
            chosen = resample_dead_latents(
                sae,
                dead[i],
                x[i] if x.ndim == 3 else x,
                method=cfg.resample,
                encoder_scale=cfg.resample_encoder_scale,
                generator=self.generator,
            )
            for name, weight in self.weights.items():
                for moment in (self.optimizer.state[weight]["exp_avg"], self.optimizer.state[weight]["exp_avg_sq"]):
                    if name != "b_dec":
                        moment[i][chosen] = 0
            self.silent_steps[i, chosen] = 0


@dataclass
class ManyResult:
    """What `train_many` returns: the autoencoders in evaluation mode, and metrics `[n]` every `log_every` steps."""

    saes: list[SAE]
    history: list[dict[str, Tensor | int]] = field(default_factory=list)


def train_many(
    activations: Activations, cfgs: Sequence[SAEConfig], *, progress: bool = True, log_every: int = 10
) -> ManyResult:
    """Train several small autoencoders on the same batches at once; for 16 toy ones less than twice the time of one.

    Example:
        >>> cfgs = [SAEConfig(d_in=8, d_sae=16, k=2, steps=20, batch_size=64, seed=seed) for seed in range(3)]
        >>> len(train_many(torch.randn(256, 8), cfgs, progress=False).saes)
        3
    """
    many = ManySAEs(cfgs)
    stream = batches(activations, many.cfg.batch_size, seed=many.cfg.seed)
    history: list[dict[str, Tensor | int]] = []
    for step in tqdm(range(1, many.cfg.steps + 1), desc=f"{len(cfgs)} SAEs", unit="step", disable=not progress):
        metrics = many.step(next(stream))
        if step % log_every == 0 or step == many.cfg.steps:
            history.append({"step": step, **metrics})
    return ManyResult([sae.eval() for sae in many.saes], history)


def _stack(saes: Sequence[SAE], name: str) -> Tensor:
    """One contiguous tensor with a leading axis; W_enc by rows of latents, as everywhere."""
    return torch.stack(
        [getattr(sae, name).detach().T if name == "W_enc" else getattr(sae, name).detach() for sae in saes]
    )


def _penalty(cfg: SAEConfig) -> float:
    return cfg.l0_coefficient if cfg.architecture == "jumprelu" else cfg.l1_coefficient
