"""Train SAEs on a language model from end to end: corpus, activations, training, held-out evaluation, files, model card."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from course_utils import settings
from course_utils.io import atomic_write, sha256, write_json
from course_utils.lm.activations import CollectedActivations, collect_activations, layer_of, open_activations
from course_utils.lm.corpus import PackedTokens, Split, load_corpus
from course_utils.lm.end_to_end import finetune_end_to_end
from course_utils.lm.evaluate import evaluate_on_model
from course_utils.lm.model import BUNDLED, load_model
from course_utils.lm.saes import SAES
from course_utils.precision import quicker_precision, resolve_precision
from course_utils.sae.architectures import ARCHITECTURES
from course_utils.sae.config import SAEConfig
from course_utils.sae.model import SAE
from course_utils.sae.train import train_sae

SHIPPED = {
    "early": "blocks.3.hook_resid_post",
    "middle": "blocks.11.hook_resid_post",
    "late": "blocks.21.hook_resid_post",
}
"""The hook points of the SAEs that come with the course."""
CHUNK = 512  # sequences whose activations are cached together; the unit that workers take and that later runs share
SHIPPED_RECIPE: dict[str, Any] = {
    "context": 256,
    "architecture": "topk",
    "k": 32,
    "expansion": 8,
    "lr": 2e-3,
    "batch_size": 2048,
    "precision": "auto",  # those in the repository were trained with bfloat16
    "heldout_tokens": 32_768,
    "loss_tokens": 8_192,
    "config": {"lr_decay_share": 0.5},
}
SHIPPED_ROUNDS: dict[str, list[dict[str, Any]]] = {
    "early": [{"tokens": 11 * CHUNK * 256, "steps": 1800}],
    "middle": [
        {"tokens": 11 * CHUNK * 256, "steps": 3600},
        {"tokens": 23 * CHUNK * 256, "steps": 6000, "lr": 1e-3, "seed": 1, "config": {"lr_decay_share": 1.0}},
        {
            "tokens": 23 * CHUNK * 256,
            "steps": 6000,
            "lr": 1e-3,
            "seed": 2,
            "config": {"lr_decay_share": 1.0},
            "finetune_steps": 40,
        },
    ],
    "late": [{"tokens": 7 * CHUNK * 256, "steps": 1800}],
}
"""What differs from `SHIPPED_RECIPE` in each round of training; a later round goes on from the weights of the one before."""


@dataclass
class TrainedSAE:
    """One trained SAE with everything measured about it.

    Attributes:
        sae: the autoencoder, in evaluation mode.
        metrics: held-out figures, see `evaluate_on_model`.
        history: training metrics every few steps.
        seconds: time for `collect` (of all processes, all hook points together, now or in an earlier run), `train` and
            `evaluate`.
        folder: where it was saved, or None.
    """

    sae: Any
    hook_name: str
    metrics: dict[str, float]
    history: list[dict[str, float]]
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)
    folder: Path | None = None


def train_from_corpus(
    hook_names: str | Sequence[str] = SHIPPED["middle"],
    *,
    model_name: str = BUNDLED,
    tokens: int = 400_000,
    context: int = 256,
    sources: Sequence[str] | None = None,
    architecture: str = "topk",
    k: int = 32,
    expansion: float = 8,
    epochs: float = 3,
    steps: int | None = None,
    batch_size: int = 2048,
    lr: float = 1e-3,
    precision: Literal["auto", "float32", "bfloat16"] = "float32",
    collect_precision: Literal["auto", "float32", "bfloat16"] = "auto",
    workers: int = 1,
    seed: int = 0,
    heldout_tokens: int = 32_768,
    loss_tokens: int = 8_192,
    start: SAE | None = None,
    finetune_steps: int = 0,
    out: str | os.PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    command: str | None = None,
    config: dict[str, Any] | None = None,
    progress: bool = True,
) -> list[TrainedSAE]:
    """Train one SAE a hook point on the shipped corpus and measure it on held-out text.

    Activations of all hook points come from one pass over the text and are kept in the cache folder, so that a second
    call (or one after an interruption) goes on from there.

    Args:
        tokens: about how many tokens of training text.
        sources: only these sources of the corpus.
        expansion: latents per dimension of the activation.
        epochs: passes over the activations; `steps` says it in training steps instead.
        precision: of the products in training; "auto" is bfloat16 where the processor computes it quicker than float32.
        collect_precision: of the language model while collecting (evaluation is always in float32).
        workers: processes that collect, one thread each; two beat one process with two threads.
        start: go on from this SAE (it is changed) instead of new weights; one hook point only.
        finetune_steps: steps of `finetune_end_to_end` after training; each runs the whole language model on 2,048 tokens.
        out: folder in which each SAE gets its own; None saves nothing.
        names: folder names, one a hook point; by default made from the model and hook point.
        command: what to put into the model card as the way to make it again.
        config: further fields of `SAEConfig`.

    Returns:
        One `TrainedSAE` a hook point, in the given order.
    """
    hooks = [hook_names] if isinstance(hook_names, str) else list(hook_names)
    if architecture not in ARCHITECTURES:  # said before the long part begins
        raise ValueError(f"no architecture {architecture!r}; there are: {', '.join(ARCHITECTURES)}")
    if start is not None and len(hooks) > 1:
        raise ValueError(f"start= is one SAE, but there are {len(hooks)} hook points: train them one by one")
    precision, collect_precision = resolve_precision(precision), resolve_precision(collect_precision)
    names = list(names) if names else [default_name(model_name, hook) for hook in hooks]
    packed = _pack(load_tokenizer(model_name), "train", context, tokens, sources)
    collected = collect_parts(model_name, packed, hooks, collect_precision, workers, progress=progress)
    model = load_model(model_name)
    held = _pack(model.tokenizer, "heldout", context, heldout_tokens, sources)
    unseen = collect_parts(model_name, held, hooks, "float32", workers, progress=progress)
    results = []
    for hook, name in zip(hooks, names, strict=True):
        acts = torch.cat([part.acts for part in collected[hook]])
        metadata: dict[str, Any] = {
            "model_name": model_name,
            "hook_name": hook,
            "hook_layer": layer_of(hook),
            "context_size": context,
            "prepend_bos": True,
            "dataset_path": "course_utils/assets/corpus.jsonl.zst",
            "training_tokens": len(acts),
            "excluded": "BOS positions; tokens with a norm above ten times the median",
        }
        cfg = SAEConfig(
            d_in=acts.shape[1],
            d_sae=round(acts.shape[1] * expansion),
            architecture=architecture,
            k=k,
            lr=lr,
            batch_size=batch_size,
            steps=steps or max(1, int(len(acts) * epochs) // batch_size),
            precision=precision,
            seed=seed,
            metadata=metadata,
            **{"normalize_input": True, **(config or {})},
        )
        if start is not None:
            cfg = continued(start, cfg)
        metadata["rounds"] = [*(start.cfg.metadata.get("rounds", []) if start is not None else []), describe(cfg)]
        begun = time.monotonic()
        trained = train_sae(acts, cfg, sae=start, progress=progress)
        trained.sae.cfg = cfg
        if finetune_steps:
            low = load_model(model_name, dtype=getattr(torch, collect_precision))
            finetune_end_to_end(
                low, trained.sae, packed, hook_name=hook, steps=finetune_steps, precision=precision, progress=progress
            )
            metadata["rounds"].append(
                f"End to end: {finetune_steps:,} steps of 2,048 tokens with the KL divergence of the model's output added to the "
                "squared error (Karvonen 2025)"
            )
        train_seconds = time.monotonic() - begun
        begun = time.monotonic()
        metrics = evaluate_on_model(
            model, trained.sae, held, hook, activations=unseen[hook], loss_tokens=loss_tokens, progress=progress
        )
        seconds = {
            "collect": sum(part.seconds for part in collected[hook]),
            "train": train_seconds,
            "evaluate": time.monotonic() - begun,
        }
        result = TrainedSAE(trained.sae, hook, metrics, trained.history, len(acts), seconds)
        dropped = sum(part.dropped["massive"] for part in collected[hook])
        if out is not None:
            result.folder = save_with_card(result, Path(out) / name, cfg, packed, dropped, command)
        results.append(result)
    return results


def continued(start: SAE, cfg: SAEConfig) -> SAEConfig:
    """The settings for training `start` further: its own shape, and no new scale of the inputs or `b_dec`.

    Errors:
        ValueError: `start` has another shape than asked for.
    """
    for name in ("d_in", "d_sae", "architecture", "k"):
        if getattr(start.cfg, name) != getattr(cfg, name):
            raise ValueError(
                f"the SAE to go on from has {name} = {getattr(start.cfg, name)}, asked for is {getattr(cfg, name)}: "
                "ask for its own shape (architecture, k and expansion)"
            )
    return cfg.replace(normalize_input=False, b_dec_init="zeros", lr_warmup_steps=cfg.lr_warmup_steps or 50)


def describe(cfg: SAEConfig) -> str:
    """One round of training in words."""
    return (
        f"{cfg.steps:,} steps of {cfg.batch_size:,} on {cfg.metadata['training_tokens']:,} tokens, Adam at {cfg.lr:g} falling "
        f"linearly over the last {cfg.lr_decay_share:.0%}, seed {cfg.seed}, products in {cfg.precision}"
    )


def train_shipped(
    aliases: Sequence[str] = tuple(SHIPPED), *, workers: int = 2, out: Path = SAES, progress: bool = True
) -> list[TrainedSAE]:
    """Train the SAEs that come with the course, as they were trained, and write `saes.json`."""
    tokenizer = load_tokenizer(BUNDLED)
    # the three hook points in one pass first: the deeper ones cost as much as a pass each
    shared = _pack(
        tokenizer,
        "train",
        SHIPPED_RECIPE["context"],
        min(rounds[0]["tokens"] for rounds in SHIPPED_ROUNDS.values()),
        None,
    )
    collect_parts(BUNDLED, shared, list(SHIPPED.values()), quicker_precision(), workers, progress=progress)
    held = _pack(tokenizer, "heldout", SHIPPED_RECIPE["context"], SHIPPED_RECIPE["heldout_tokens"], None)
    collect_parts(BUNDLED, held, list(SHIPPED.values()), "float32", workers, progress=progress)
    results = []
    for alias in aliases:
        hook, rounds, sae = SHIPPED[alias], SHIPPED_ROUNDS[alias], None
        if alias != "late":  # early and middle go on together
            longer = _pack(tokenizer, "train", SHIPPED_RECIPE["context"], rounds[0]["tokens"], None)
            both = [SHIPPED["early"], SHIPPED["middle"]]
            collect_parts(BUNDLED, longer, both, quicker_precision(), workers, progress=progress)
        for number, changes in enumerate(rounds, 1):
            result = train_from_corpus(
                hook,
                start=sae,
                workers=workers,
                out=out if number == len(rounds) else None,
                command=f"course train --shipped {alias} --workers {workers}",
                progress=progress,
                **{**SHIPPED_RECIPE, **changes},
            )
            sae = result[0].sae
        results += result
    write_index(out)
    return results


def collect_parts(
    model_name: str,
    packed: PackedTokens,
    hooks: Sequence[str],
    precision: str,
    workers: int,
    *,
    progress: bool = True,
) -> dict[str, list[CollectedActivations]]:
    """Activations of `packed`, chunk by chunk, from the cache folder; what is not there yet is collected first.

    A run with more tokens finds the chunks of a shorter one, because the order of the sequences does not depend on how
    many are taken; a run with fewer hook points uses what was collected for more. With several workers the missing chunks
    are dealt out in turn, each worker being a process with one thread.
    """
    folder = settings.cache() / "activations" / f"{Path(model_name).name}-{packed.tokens.shape[1]}-{precision}"
    folder.mkdir(parents=True, exist_ok=True)
    chunks = packed.tokens.split(CHUNK)
    missing = [i for i, chunk in enumerate(chunks) if find_chunk(folder, chunk, hooks) is None]
    if missing:
        job = folder / f"job-{os.getpid()}.pt"
        torch.save({"chunks": [chunks[i] for i in missing], "bos": packed.bos, "hooks": list(hooks)}, job)
        try:
            _run_workers(job, model_name, precision, min(workers, len(missing)), progress)
        finally:
            job.unlink(missing_ok=True)
    places = [find_chunk(folder, chunk, hooks) for chunk in chunks]
    return {hook: [open_activations(place, hook) for place in places if place is not None] for hook in hooks}


def _run_workers(job: Path, model_name: str, precision: str, workers: int, progress: bool) -> None:
    command = [sys.executable, "-m", "course_utils.lm.train_lm_sae", str(job)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([*command, f"{part}/{workers}", model_name, precision], env=alone)
        for part in range(1, workers)
    ]
    threads = torch.get_num_threads()
    if running:
        torch.set_num_threads(1)  # three threads on two cores wait for each other: half the speed
    try:
        collect_share(job, 0, workers, model_name, precision, progress=progress)
        for process in running:
            if process.wait():
                raise RuntimeError("a collecting process failed (its message is above); what it had done is kept")
    except BaseException:
        for process in running:
            process.terminate()
        raise
    finally:
        torch.set_num_threads(threads)


def collect_share(path: Path, part: int, workers: int, model_name: str, precision: str, *, progress: bool) -> None:
    """One worker's share of the missing chunks, written into the folder that holds the job's file."""
    folder, job = path.parent, torch.load(path, weights_only=True)
    # a bfloat16 copy of the model is 1.2 times faster than autocast, 2.3 times faster than float32, and good enough: the
    # error is 0.0003 to 0.0004 of the variance, where a good SAE leaves 0.15 unexplained
    model = load_model(model_name, dtype=getattr(torch, precision))
    share = job["chunks"][part::workers]
    for number, chunk in enumerate(share):
        if progress:
            print(f"activations {number + 1} of {len(share)}" + (f", in {workers} processes" if workers > 1 else ""))
        place = folder / f"{_chunk_key(chunk)}-{hashlib.sha256(' '.join(job['hooks']).encode()).hexdigest()[:8]}"
        collect_activations(
            model, chunk, job["hooks"], bos=job["bos"], dtype="bfloat16", path=place, batch_size=4, progress=progress
        )


def find_chunk(folder: Path, chunk: Int[Tensor, "sequences context"], hooks: Sequence[str]) -> Path | None:
    """The folder that holds all of `hooks` for these sequences, complete; None where there is none."""
    for place in sorted(folder.glob(f"{_chunk_key(chunk)}-*")):
        try:
            meta = json.loads((place / "meta.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if meta["complete"] and set(hooks) <= set(meta["widths"]):
            return place
    return None


def _chunk_key(chunk: Int[Tensor, "sequences context"]) -> str:
    return hashlib.sha256(chunk.to(torch.int32).contiguous().numpy().tobytes()).hexdigest()[:24]


def default_name(model_name: str, hook_name: str) -> str:
    """Folder name of an SAE: `smollm2-135m-blocks.11.hook_resid_post`."""
    return f"{Path(model_name).name}-{hook_name}"


def load_tokenizer(model_name: str) -> Any:
    """A model's tokenizer, without loading the bundled model's weights."""
    if model_name != BUNDLED:
        return load_model(model_name).tokenizer
    from transformers import AutoTokenizer

    from course_utils.lm.model import fetch_model

    return AutoTokenizer.from_pretrained(fetch_model())


def _pack(tokenizer: Any, split: Split, context: int, tokens: int, sources: Sequence[str] | None) -> PackedTokens:
    return load_corpus(split, sources=sources).pack(tokenizer, context=context, max_tokens=tokens)


# ---------------------------------------------------------------- files and model card


def save_with_card(
    result: TrainedSAE,
    folder: Path,
    cfg: SAEConfig,
    packed: PackedTokens,
    dropped: int,
    command: str | None,
) -> Path:
    """Write the SAE as float16 in SAELens' format, and `README.md` beside it."""
    from course_utils.sae.files import save_sae

    save_sae(result.sae, folder, dtype="float16")
    with atomic_write(folder / "README.md") as file:
        file.write(model_card(result, folder.name, cfg, packed, dropped, command))
    write_json(folder / "metrics.json", {key: float(f"{value:.6g}") for key, value in result.metrics.items()})
    return folder


def model_card(
    result: TrainedSAE,
    name: str,
    cfg: SAEConfig,
    packed: PackedTokens,
    dropped: int,
    command: str | None,
) -> str:
    """What was trained on what, how good it is, and how to make it again."""
    m, shares = result.metrics, {s: packed.sources.count(s) / len(packed) for s in dict.fromkeys(packed.sources)}
    ranked = ", ".join(f"{source} {share:.1%}" for source, share in sorted(shares.items(), key=lambda x: -x[1]))
    mixture = textwrap.fill(ranked, 118, subsequent_indent="  ", break_on_hyphens=False)
    threads, rounds = torch.get_num_threads(), cfg.metadata["rounds"]
    held, asked, massive = int(m["activations"]), int(m["loss_tokens"]), int(m["dropped_massive"])
    minutes = {what: f"{seconds / 60:.1f}" for what, seconds in result.seconds.items()}
    command = command or "course_utils.lm.train_lm_sae.train_from_corpus(...)"
    rows = [
        ("latents active a token (L0)", f"{m['l0']:.1f}"),
        ("variance unexplained (about the mean)", f"{m['fvu']:.4f}"),
        ("cosine of activation and reconstruction", f"{m['cosine']:.4f}"),
        ("length of reconstruction over length of activation", f"{m['length_ratio']:.4f}"),
        ("dead latents (none active on the held-out tokens)", f"{m['dead_fraction']:.2%}"),
        ("dense latents (active on more than 10% of tokens)", f"{m['dense_fraction']:.2%}"),
        ("cross-entropy, nats a token: model as it is", f"{m['loss_clean']:.4f}"),
        ("... reconstruction spliced in", f"{m['loss_spliced']:.4f}"),
        ("... mean-ablated", f"{m['loss_mean']:.4f}"),
        ("... zero-ablated", f"{m['loss_zero']:.4f}"),
        ("loss recovered against mean ablation", f"{m['loss_versus_mean']:.4f}"),
        ("loss recovered against zero ablation", f"{m['loss_versus_zero']:.4f}"),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    steps = "\n".join(f"  {number}. {text}." for number, text in enumerate(rounds, 1))
    return f"""# {name}

A sparse autoencoder of `{cfg.metadata["hook_name"]}` of {cfg.metadata["model_name"]}: {cfg.architecture}, k = {cfg.k},
{cfg.d_sae:,} latents ({cfg.d_sae / cfg.d_in:g} times the {cfg.d_in} dimensions), stored as float16 in SAELens' format.

```python
from course_utils.lm import load_sae
sae = load_sae("{name}")  # or sae_lens.SAE.load_from_disk(this folder)
```

## Held-out measurements

On {held:,} tokens of documents it was not trained on ({asked:,} for cross-entropies), the language model in
float32. Replaced are the positions an SAE is trained on: BOS and tokens with a norm above ten times the median ({massive} here)
keep their activation.

| | |
|---|---|
{table}

## Training

- Data: {result.tokens:,} tokens of the course's corpus (`course_utils/assets/corpus.jsonl.zst`, train split), contexts of
  {packed.tokens.shape[1]} tokens. Sources:
  {mixture}.
- Left out: BOS positions, and {dropped} tokens with a norm above ten times the median.
- Rounds of training (in the first, inputs are scaled to a mean squared length of d_in, the scale folded into the weights
  afterwards):
{steps}
- Time on two CPU cores shared with much other work: collecting {minutes["collect"]} process-minutes (for all hook points of
  the pass together), training {minutes["train"]} min in {threads} thread(s).

Make it again:

```
{command}
```

## Limits

One small model, a few million tokens, mostly English prose and code of a few kinds: a latent's meaning should be checked on
other text before it is relied on. Licence: CC0-1.0.
"""


def write_index(folder: Path = SAES) -> dict[str, Any]:
    """Write `saes.json`: every SAE in `folder` with its hook point, alias, checksum and main figures."""
    index = {}
    aliases = {hook: alias for alias, hook in SHIPPED.items()}
    for path in sorted(folder.glob("*/cfg.json")):
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        metrics = json.loads((path.parent / "metrics.json").read_text(encoding="utf-8"))
        kept = ("l0", "fvu", "cosine", "dead_fraction", "loss_versus_mean", "loss_versus_zero")
        index[path.parent.name] = {
            "alias": aliases.get(metadata["hook_name"], ""),
            "hook_name": metadata["hook_name"],
            "model_name": metadata["model_name"],
            "sha256": sha256(path.parent / "sae_weights.safetensors"),
            **{key: metrics[key] for key in kept},
        }
    write_json(folder / "saes.json", dict(sorted(index.items(), key=lambda item: layer_of(item[1]["hook_name"]) or 0)))
    return index


def main(arguments: Sequence[str]) -> None:
    """A collecting worker, started by `_run_workers`: the job's file, its share as `1/2`, the model, the precision."""
    job, part, model_name, precision = arguments
    torch.set_num_threads(1)
    number, of = (int(n) for n in part.split("/"))
    collect_share(Path(job), number, of, model_name, precision, progress=False)


if __name__ == "__main__":
    main(sys.argv[1:])
