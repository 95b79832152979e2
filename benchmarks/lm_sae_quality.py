"""How good an SAE each library trains from the same activations of the bundled model, in the same steps, with the same k.

Each library uses its own trainer, with its own default learning rate and with other rates, and its own input scaling; the
best run of each counts. Everything is measured by the course's `evaluate_sae` on text that nobody trained on.
"""

from __future__ import annotations

import itertools
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks._common import import_dictionary_learning

RESULTS = Path(__file__).parent / "results"
HOOK = "blocks.11.hook_resid_post"
SEED = 0


class Scaled:
    """An autoencoder trained on `x * scale`, seen from the unscaled side."""

    def __init__(self, encode: Callable, decode: Callable, rows: Any, scale: float) -> None:
        self._encode, self._decode, self.W_dec, self.scale = encode, decode, rows, scale

    def encode(self, x: Any) -> Any:
        return self._encode(x * self.scale)

    def decode(self, f: Any) -> Any:
        return self._decode(f) / self.scale


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--tokens", default=131_072, help="Tokens of training text.")
@click.option("--heldout-tokens", default=32_768, help="Tokens of held-out text.")
@click.option("--loss-tokens", default=2_048, help="Held-out tokens for the loss recovered; 0 leaves it out.")
@click.option("--steps", default=400)
@click.option("--batch-size", default=2048)
@click.option("--d-sae", default=4608)
@click.option("--k", default=32)
@click.option("--rates", default="default,1e-3,2e-3", help="Learning rates to try for every library.")
@click.option("--only", default="", help="Libraries, by comma: ours,sae_lens,dictionary_learning.")
@click.option("--threads", default=2)
@click.option("--out", default="lm_sae_quality", help="Name of the files in benchmarks/results.")
def main(
    tokens: int,
    heldout_tokens: int,
    loss_tokens: int,
    steps: int,
    batch_size: int,
    d_sae: int,
    k: int,
    rates: str,
    only: str,
    threads: int,
    out: str,
) -> None:
    """Train with each library, measure, and write benchmarks/results/NAME.md and NAME.json."""
    import torch

    from course_utils.io import atomic_write, write_json
    from course_utils.lm import load_model, loss_recovered
    from course_utils.sae import evaluate_sae

    torch.set_num_threads(threads)
    packed, train, held = data(tokens, heldout_tokens)
    libraries = {"ours": ours, "sae_lens": sae_lens, "dictionary_learning": dictionary_learning}
    wanted = [name for name in only.split(",") if name] or list(libraries)
    rows, missing = [], {}
    for name, rate in itertools.product(wanted, rates.split(",")):
        try:
            started = time.perf_counter()
            coder, used = libraries[name](
                train, d_sae, k, steps, batch_size, None if rate == "default" else float(rate)
            )
            seconds = time.perf_counter() - started
        except ImportError as error:
            missing[name] = f"{error} (benchmarks/README.md says how to make the environment that has it)"
            continue
        row = {"library": name, "lr": used, "seconds": round(seconds, 1), **evaluate_sae(coder, held)}
        click.echo(f"{name:20} lr {used:.2g}: variance unexplained {row['fvu']:.4f}, dead {row['dead_fraction']:.2%}")
        rows.append((row, coder))
    best = {
        name: min((r for r in rows if r[0]["library"] == name), key=lambda r: r[0]["fvu"], default=None)
        for name in wanted
    }
    if loss_tokens:
        n = max(1, loss_tokens // packed.tokens.shape[1])
        mean = held.mean(0)
        model = load_model()
        for entry in filter(None, best.values()):
            loss = loss_recovered(model, entry[1], packed._take(range(n)), HOOK, mean=mean, progress=False)
            entry[0].update(loss_clean=loss.clean, loss_spliced=loss.spliced, loss_versus_mean=loss.versus_mean)
    result = {
        "command": "python -m benchmarks.lm_sae_quality " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}",
        "setting": {
            "hook": HOOK, "activations": len(train), "heldout": len(held), "loss_tokens": loss_tokens, "steps": steps,
            "batch_size": batch_size, "d_sae": d_sae, "k": k,
        },
        "best": [entry[0] for entry in best.values() if entry],
        "all": [row for row, _ in rows],
        "not_importable": missing,
    }  # fmt: skip
    text = report(result)
    click.echo(text)
    write_json(RESULTS / f"{out}.json", result)
    with atomic_write(RESULTS / f"{out}.md") as file:
        file.write(text)


def data(tokens: int, heldout_tokens: int) -> tuple[Any, Any, Any]:
    """(held-out tokens, training activations, held-out activations), from the cache that `course train` fills and uses."""
    import torch

    from course_utils.lm import load_corpus
    from course_utils.lm.model import BUNDLED
    from course_utils.lm.train_lm_sae import collect_parts, load_tokenizer
    from course_utils.precision import quicker_precision

    tokenizer, found = load_tokenizer(BUNDLED), []
    for split, n, precision in (("train", tokens, quicker_precision()), ("heldout", heldout_tokens, "float32")):
        packed = load_corpus(split).pack(tokenizer, context=256, max_tokens=n)
        parts = collect_parts(BUNDLED, packed, [HOOK], precision, 1)[HOOK]
        found.append(torch.cat([part.acts.float() for part in parts]))
    return packed, *found


def batches(x: Any, batch_size: int) -> Iterator[Any]:
    """The same endless stream of shuffled batches for everyone."""
    from course_utils.sae.data import batches as stream

    return stream(x, batch_size, seed=SEED)


def ours(x: Any, d_sae: int, k: int, steps: int, batch_size: int, lr: float | None) -> tuple[Any, float]:
    """This library."""
    from course_utils.sae import SAEConfig, train_sae

    changes = {} if lr is None else {"lr": lr}
    cfg = SAEConfig(
        x.shape[1], d_sae, k=k, steps=steps, batch_size=batch_size, normalize_input=True, seed=SEED, **changes
    )
    return train_sae(x, cfg, progress=False).sae, cfg.lr


def sae_lens(x: Any, d_sae: int, k: int, steps: int, batch_size: int, lr: float | None) -> tuple[Any, float]:
    """SAELens' TopK training SAE under its own trainer, with the decay of its tutorials (the last fifth)."""
    import torch
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(SEED)
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=d_sae, k=k, normalize_activations="expected_average_only_in")
    )
    cfg = SAETrainerConfig(
        total_training_samples=steps * batch_size,
        train_batch_size_samples=batch_size,
        lr_decay_steps=steps // 5,
        dead_feature_window=200,
        n_batches_for_norm_estimate=20,
        lr_end=0.0,  # asked for, though its default schedule has no use for it
        logger=LoggingConfig(log_to_wandb=False),
        **({} if lr is None else {"lr": lr}),
    )
    trained = SAETrainer(cfg, sae, batches(x, batch_size)).fit().eval()
    return trained, cfg.lr


def dictionary_learning(x: Any, d_sae: int, k: int, steps: int, batch_size: int, lr: float | None) -> tuple[Any, float]:
    """dictionary_learning's TopK trainer; inputs scaled to unit mean squared length, as its training loop does."""
    import_dictionary_learning()
    from dictionary_learning.trainers.top_k import TopKTrainer

    scale = float(x.square().sum(1).mean().rsqrt())
    trainer = TopKTrainer(
        steps=steps, activation_dim=x.shape[1], dict_size=d_sae, k=k, layer=11, lm_name="smollm2-135m", lr=lr,
        warmup_steps=min(1000, steps // 10), decay_start=int(0.8 * steps), threshold_start_step=steps // 2, seed=SEED,
        device="cpu",
    )  # fmt: skip
    for step, batch in zip(range(steps), batches(x, batch_size), strict=False):
        trainer.update(step, batch * scale)
    coder = trainer.ae.eval()
    return Scaled(
        lambda y: coder.encode(y, use_threshold=False), coder.decode, coder.decoder.weight.T, scale
    ), trainer.lr


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    s = result["setting"]
    head = (
        f"# SAEs on the bundled language model, by library\n\n`{result['command']}`, {result['date']}, {result['machine']}. "
        f"Activations of `{s['hook']}`: {s['activations']:,} to train on, {s['heldout']:,} held out; {s['steps']} steps of "
        f"{s['batch_size']}, {s['d_sae']} latents, k = {s['k']}. Each library's best of its learning rates:\n\n"
        "| library | lr | variance unexplained | cosine | dead | loss, spliced (clean) | loss recovered (mean ablation) | s |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    rows = "".join(
        f"| {r['library']} | {r['lr']:.2g} | {r['fvu']:.4f} | {r['cosine']:.4f} | {r['dead_fraction']:.2%} | "
        + (
            f"{r['loss_spliced']:.4f} ({r['loss_clean']:.4f}) | {r['loss_versus_mean']:.4f}"
            if "loss_spliced" in r
            else "not measured | not measured"
        )
        + f" | {r['seconds']} |\n"
        for r in result["best"]
    )
    every = "\nAll runs:\n\n| library | lr | variance unexplained | dead | s |\n|---|---|---|---|---|\n" + "".join(
        f"| {r['library']} | {r['lr']:.2g} | {r['fvu']:.4f} | {r['dead_fraction']:.2%} | {r['seconds']} |\n"
        for r in result["all"]
    )
    skipped = "".join(f"\nNot measured: {name}: {reason}\n" for name, reason in result["not_importable"].items())
    return head + rows + every + skipped


if __name__ == "__main__":
    main()
