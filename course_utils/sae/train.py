"""Training: one step, a whole run with progress and checkpoints that resume exactly, and early errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.io import atomic_path
from course_utils.memory import keep_freed_memory
from course_utils.precision import warn_if_slow
from course_utils.sae import distributed
from course_utils.sae.config import SAEConfig
from course_utils.sae.data import Activations, batches, width
from course_utils.sae.model import SAE, SAEOutput
from course_utils.sae.resample import resample_dead_latents

LARGE = 1 << 20
"""Decoder weights from which on freed memory is worth keeping: 4 MB."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer a finite number. The weights are those of the last good step."""


class SAETrainer:
    """Owns an SAE, its optimizer and the record of which latents fire; `step(batch)` does one update.

    Attributes:
        sae: the autoencoder being trained.
        step_number: updates done so far.
        silent_steps: `[d_sae]`, steps since each latent last fired.

    Example:
        >>> trainer = SAETrainer(SAEConfig(d_in=8, d_sae=16, k=2))
        >>> metrics = trainer.step(torch.randn(64, 8))
        >>> sorted(metrics)
        ['dead_fraction', 'l0', 'loss', 'lr', 'reconstruction']
    """

    def __init__(self, cfg: SAEConfig, sae: SAE | None = None) -> None:
        warn_if_slow(cfg.precision, cfg.device)
        self.cfg = cfg
        self.sae = (SAE(cfg) if sae is None else sae).train()
        if self.sae.W_dec.numel() > LARGE:
            keep_freed_memory()
        self.forward: Callable[..., SAEOutput] | nn.Module = distributed.wrap(self.sae)
        self.optimizer = torch.optim.Adam(self._optimized(), lr=cfg.lr, betas=cfg.betas, fused=_can_fuse(self.sae))
        self.step_number = 0
        self.silent_steps = torch.zeros(cfg.d_sae, dtype=torch.int32, device=cfg.device)
        self.generator = torch.Generator().manual_seed(cfg.seed + 1)
        self.input_scale = 1.0  # what inputs are multiplied by (cfg.normalize_input)

    def step(
        self,
        batch: Float[Tensor, "batch d_in"],
        added: Callable[[SAEOutput], dict[str, Tensor]] | None = None,
    ) -> dict[str, float]:
        """One update.

        Args:
            added: gives further parts of the loss, by name, for the autoencoder's output.

        Returns:
            `loss`, its parts, `l0` (active latents a sample), `dead_fraction` and `lr`.

        Errors:
            TrainingDiverged: when the loss is NaN or infinite, before the weights are touched.
        """
        x = batch.detach().to(self.cfg.device, self.sae.dtype, non_blocking=True)
        if self.step_number == 0:
            self._begin(x)
        if self.input_scale != 1.0:
            x = x * self.input_scale
        lr = self._set_learning_rate()
        dead = self.dead_latents()
        with self._precision():
            # with no dead latent the AuxK branch is skipped altogether
            output = self.forward(x, dead=dead, sparsity_scale=self.sparsity_scale(), step=self.step_number)
        if added is not None:
            output.losses.update(added(output))
        loss = output.loss
        if not torch.isfinite(loss):
            raise TrainingDiverged(self._explain(x, output))
        self.sae.zero_grad(set_to_none=True)
        loss.backward()
        if self.cfg.unit_norm_decoder:
            self.sae.project_decoder_gradient()
        if self.cfg.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.sae.parameters(), self.cfg.clip_grad_norm)
        assert self.sae.W_enc.grad is not None
        self.encoder_rows.grad = self.sae.W_enc.grad.T.contiguous()
        self.optimizer.step()
        if self.cfg.unit_norm_decoder:
            self.sae.normalise_decoder()
        self._record_firing(output)
        self.step_number += 1
        self._maybe_resample(x)
        parts = {name: float(part.detach()) for name, part in output.losses.items()}
        n_dead = 0 if dead is None else int(dead.sum())
        return {
            "loss": float(loss.detach()),
            **parts,
            "l0": float(output.l0),
            "dead_fraction": n_dead / self.cfg.d_sae,
            "lr": lr,
        }

    def dead_latents(self) -> Bool[Tensor, " d_sae"] | None:
        """Latents that have not fired once in `cfg.dead_after_steps` steps, or None when there are none."""
        if self.step_number < self.cfg.dead_after_steps:
            return None
        dead = self.silent_steps >= self.cfg.dead_after_steps
        return dead if bool(dead.any()) else None

    def sparsity_scale(self) -> float:
        """Factor on the sparsity penalty: 0 to 1 over `cfg.sparsity_warmup_steps`."""
        return min(1.0, (self.step_number + 1) / max(1, self.cfg.sparsity_warmup_steps))

    def learning_rate(self, step: int | None = None) -> float:
        """Linear warm-up, constant, linear decay to 0 over the last `cfg.lr_decay_share` of the steps."""
        step = self.step_number if step is None else step
        up = (step + 1) / max(1, self.cfg.lr_warmup_steps)
        decay_steps = self.cfg.lr_decay_share * self.cfg.steps
        down = (self.cfg.steps - step) / decay_steps if decay_steps >= 1 else 1.0
        # runs longer than announced go on at the last positive rate instead of standing still
        return self.cfg.lr * min(1.0, up, max(down, 1 / max(1.0, decay_steps)))

    def finished(self) -> SAE:
        """The autoencoder in the units of the raw inputs, in evaluation mode."""
        if self.input_scale != 1.0:
            self.sae.scale_input(self.input_scale)
            self.input_scale = 1.0
        return self.sae.eval()

    # checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "cfg": self.cfg.to_dict(),
            "sae": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step_number": self.step_number,
            "silent_steps": self.silent_steps,
            "generator": self.generator.get_state(),
            "input_scale": self.input_scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.sae.load_state_dict(state["sae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_number, self.input_scale = state["step_number"], state["input_scale"]
        self.silent_steps = state["silent_steps"].to(self.cfg.device)
        self.generator.set_state(state["generator"].cpu())

    def save_checkpoint(self, path: str | Path) -> None:
        """Write a checkpoint atomically (in a distributed run only the first process writes)."""
        if distributed.rank() == 0:
            atomic_path(path, lambda file: torch.save(self.state_dict(), file))

    @classmethod
    def load_checkpoint(cls, path: str | Path, *, device: str | None = None) -> SAETrainer:
        """A trainer that continues exactly where `save_checkpoint` left off."""
        state = torch.load(path, map_location=device or "cpu", weights_only=True)
        cfg = SAEConfig.from_dict(state["cfg"])
        trainer = cls(cfg.replace(device=device) if device else cfg)
        trainer.load_state_dict(state)
        return trainer

    # one step's pieces

    def _optimized(self) -> list[nn.Parameter]:
        """The parameters as the optimizer sees them: W_enc by its contiguous transpose, sharing memory.

        Fused Adam takes twice as long on a transposed tensor (13 ms against 6.5 for 5.3 million weights) and is silently
        wrong when a gradient's memory order differs from its parameter's.
        """
        self.encoder_rows = nn.Parameter(self.sae.W_enc.data.T)
        if not self.encoder_rows.is_contiguous():
            raise ValueError(
                "W_enc must be stored with a contiguous transpose; build the SAE with SAE(cfg) or SAE.load"
            )
        return [self.encoder_rows if name == "W_enc" else one for name, one in self.sae.named_parameters()]

    def _begin(self, x: Tensor) -> None:
        """From the first batch: the scale of the inputs and the decoder's bias."""
        if not bool(torch.isfinite(x).all()):
            raise TrainingDiverged(_bad_rows(x))
        mean, square = distributed.mean(x.mean(0)), distributed.mean(x.square().sum(1).mean())
        if self.cfg.normalize_input:
            self.input_scale = float((self.cfg.d_in / square.clamp_min(1e-12)).sqrt())
        if self.cfg.b_dec_init == "mean":
            self.sae.start_at_mean(mean * self.input_scale)

    def _precision(self) -> Any:
        if self.cfg.precision == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.cfg.device).type, getattr(torch, self.cfg.precision))

    def _set_learning_rate(self) -> float:
        lr = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _record_firing(self, output: SAEOutput) -> None:
        fired = distributed.any_process(output.fired())
        self.silent_steps.add_(1).masked_fill_(fired, 0)

    def _maybe_resample(self, x: Tensor) -> None:
        cfg = self.cfg
        if (
            cfg.resample == "none"
            or self.step_number % cfg.resample_every
            or self.step_number > cfg.resample_until * cfg.steps
        ):
            return
        dead = self.silent_steps >= min(cfg.dead_after_steps, cfg.resample_every)
        chosen = resample_dead_latents(
            self.sae,
            dead,
            x,
            optimizer=self.optimizer,
            stand_ins={"W_enc": self.encoder_rows},
            method=cfg.resample,
            encoder_scale=cfg.resample_encoder_scale,
            generator=self.generator,
        )
        self.silent_steps[chosen] = 0
        distributed.same_everywhere(self.sae)

    def _explain(self, x: Tensor, output: SAEOutput) -> str:
        """Why the loss may not be finite, and what to do."""
        if not bool(torch.isfinite(x).all()):
            return _bad_rows(x)
        where = f"step {self.step_number}: "
        if bad := [name for name, one in self.sae.named_parameters() if not bool(torch.isfinite(one).all())]:
            return (
                where
                + f"{', '.join(bad)} holds NaN or infinity: go back to the last checkpoint and lower lr (now {self.cfg.lr:g})"
            )
        parts = ", ".join(f"{name} {float(part.detach()):.3g}" for name, part in output.losses.items())
        return (
            where
            + f"the loss is not finite ({parts}) although inputs and weights are. The largest input is {float(x.abs().max()):.3g}: "
            "leave out positions with extreme norms (BOS), set normalize_input=True, lower lr, or use precision='float32'"
        )


@dataclass
class TrainingResult:
    """What `train_sae` returns.

    Attributes:
        sae: the trained autoencoder, in evaluation mode, in the units of the raw inputs.
        history: one dictionary of metrics every `log_every` steps, each with its `step`.
        trainer: for continuing.
    """

    sae: SAE
    history: list[dict[str, float]] = field(default_factory=list)
    trainer: SAETrainer | None = None


def train_sae(
    activations: Activations,
    cfg: SAEConfig,
    *,
    sae: SAE | None = None,
    progress: bool = True,
    log_every: int = 10,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    on_step: Callable[[SAETrainer, dict[str, float]], None] | None = None,
) -> TrainingResult:
    """Train a sparse autoencoder for `cfg.steps` steps of `cfg.batch_size` samples.

    Args:
        activations: a tensor or (memory-mapped) array `[samples, d_in]`, an iterable of batches, or a function that
            returns a fresh iterable of batches.
        cfg: what to train and how.
        sae: train this one instead of `SAE(cfg)`: a transcoder or crosscoder, whose rows are wider (see `Coder`).
        progress: show a bar.
        log_every: steps between entries of the history.
        checkpoint: file to write every `checkpoint_every` steps. If it exists already, training goes on from it, exactly
            as if it had never stopped (for a plain iterator: give a fresh one; batches already used are skipped).
        on_step: called after every step with the trainer and the step's metrics.

    Errors:
        TrainingDiverged: when the loss is no longer finite; the message says what to do.

    Example:
        >>> result = train_sae(torch.randn(256, 8), SAEConfig(d_in=8, d_sae=16, k=2, steps=20, batch_size=64), progress=False)
        >>> result.sae.encode(torch.randn(3, 8)).shape
        torch.Size([3, 16])
    """
    wanted = cfg.d_in if sae is None else sae.row_width
    if (found := width(activations)) not in (None, wanted):
        said = (
            f"cfg.d_in is {wanted}: set d_in={found}" if sae is None else f"{type(sae).__name__} reads rows of {wanted}"
        )
        raise ValueError(f"activations have {found} dimensions, but {said}")
    if checkpoint is not None and sae is not None:
        raise ValueError("a checkpoint remembers only what SAE(cfg) builds: leave out checkpoint=, or sae=")
    resumed = checkpoint is not None and Path(checkpoint).exists()
    trainer = SAETrainer.load_checkpoint(checkpoint, device=cfg.device) if resumed else SAETrainer(cfg, sae)  # type: ignore[arg-type]
    if resumed and trainer.cfg.replace(metadata={}) != cfg.replace(metadata={}):
        raise ValueError(
            f"the checkpoint {checkpoint} was made with another configuration: delete it or name another file"
        )
    result = TrainingResult(trainer.sae, trainer=trainer)
    part = distributed.rank(), distributed.world_size()
    stream = batches(activations, cfg.batch_size, seed=cfg.seed, start=trainer.step_number, part=part)
    for metrics in _steps(trainer, stream, progress and part[0] == 0):
        done = trainer.step_number
        if done % log_every == 0 or done == cfg.steps:
            result.history.append({"step": done, **metrics})
        if checkpoint is not None and (done % checkpoint_every == 0 or done == cfg.steps):
            trainer.save_checkpoint(checkpoint)
        if on_step is not None:
            on_step(trainer, metrics)
    result.sae = trainer.finished()
    return result


def _steps(trainer: SAETrainer, stream: Iterator[Tensor], progress: bool) -> Iterator[dict[str, float]]:
    """Run to `cfg.steps`, or to the end of the data, with a progress bar."""
    total = trainer.cfg.steps
    with tqdm(total=total, initial=trainer.step_number, desc="SAE", unit="step", disable=not progress) as bar:
        while trainer.step_number < total:
            batch = next(stream, None)
            if batch is None:
                if trainer.step_number == 0:
                    raise ValueError(
                        "the iterator of batches gave nothing: pass a fresh one, or a function that makes one"
                    )
                break
            metrics = trainer.step(batch)
            bar.update()
            bar.set_postfix(
                loss=f"{metrics['loss']:.3g}",
                l0=f"{metrics['l0']:.1f}",
                dead=f"{metrics['dead_fraction']:.1%}",
                refresh=False,
            )
            yield metrics


def _bad_rows(x: Tensor) -> str:
    bad = (~torch.isfinite(x).all(1)).nonzero().squeeze(1)
    return (
        f"the batch holds NaN or infinity in {len(bad)} of {len(x)} rows (first: row {int(bad[0])}): "
        "look at how the activations were made (float16 overflow is the usual cause; collect them in bfloat16 or float32)"
    )


def _can_fuse(sae: nn.Module) -> bool:
    """Whether Adam's fused kernel takes these parameters (2.8 times faster than the separate operations on a CPU)."""
    return all(one.is_floating_point() and one.device.type in ("cpu", "cuda") for one in sae.parameters())
