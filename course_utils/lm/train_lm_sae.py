"""Train SAEs on a language model from end to end: corpus, activations, training, held-out evaluation, files, model card.

python -m course_utils.lm.train_lm_sae --hook blocks.11.hook_resid_post --tokens 400000 --out my_saes
python -m course_utils.lm.train_lm_sae --shipped            # what made the SAEs that come with the course
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
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
from course_utils.lm.evaluate import evaluate_on_model
from course_utils.lm.model import BUNDLED, load_model
from course_utils.lm.saes import SAES
from course_utils.sae.config import SAEConfig
from course_utils.sae.train import train_sae

SHIPPED = {
    "early": "blocks.3.hook_resid_post",
    "middle": "blocks.11.hook_resid_post",
    "late": "blocks.21.hook_resid_post",
}
"""The hook points of the SAEs that come with the course."""
SHIPPED_TOKENS = {"early": 11 * 512 * 256, "middle": 11 * 512 * 256, "late": 7 * 512 * 256}
SHIPPED_RECIPE: dict[str, Any] = {
    "context": 256,
    "architecture": "topk",
    "k": 32,
    "expansion": 8,
    "lr": 2e-3,
    "batch_size": 2048,
    "precision": "bfloat16",
    "heldout_tokens": 32_768,
    "loss_tokens": 8_192,
    "config": {"lr_decay_share": 0.5},
}
SHIPPED_STEPS = {"early": 1800, "middle": 3600, "late": 1800}


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
    precision: Literal["float32", "bfloat16"] = "float32",
    collect_precision: Literal["float32", "bfloat16"] = "bfloat16",
    workers: int = 1,
    seed: int = 0,
    heldout_tokens: int = 32_768,
    loss_tokens: int = 8_192,
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
        precision: of the products in training. bfloat16 is quicker where the processor has it.
        collect_precision: of the language model while collecting (evaluation is always in float32).
        workers: processes that collect, one thread each; two beat one process with two threads.
        out: folder in which each SAE gets its own; None saves nothing.
        names: folder names, one a hook point; by default made from the model and hook point.
        command: what to put into the model card as the way to make it again.
        config: further fields of `SAEConfig`.

    Returns:
        One `TrainedSAE` a hook point, in the given order.
    """
    hooks = [hook_names] if isinstance(hook_names, str) else list(hook_names)
    names = list(names) if names else [default_name(model_name, hook) for hook in hooks]
    packed = _pack(load_tokenizer(model_name), "train", context, tokens, sources)
    collected = collect_parts(model_name, packed, hooks, collect_precision, workers, progress=progress)
    model = load_model(model_name)
    held = _pack(model.tokenizer, "heldout", context, heldout_tokens, sources)
    unseen = collect_parts(model_name, held, hooks, "float32", workers, progress=progress)
    results = []
    for hook, name in zip(hooks, names, strict=True):
        acts = torch.cat([part.acts for part in collected[hook]])
        metadata = {
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
        begun = time.monotonic()
        trained = train_sae(acts, cfg, progress=progress)
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


def train_shipped(
    aliases: Sequence[str] = tuple(SHIPPED), *, workers: int = 2, out: Path = SAES, progress: bool = True
) -> list[TrainedSAE]:
    """Train the SAEs that come with the course, as they were trained, and write `saes.json`."""
    tokenizer = load_tokenizer(BUNDLED)
    # the three hook points in one pass first: the deeper ones cost as much as a pass each
    shared = _pack(tokenizer, "train", SHIPPED_RECIPE["context"], min(SHIPPED_TOKENS.values()), None)
    collect_parts(BUNDLED, shared, list(SHIPPED.values()), "bfloat16", workers, progress=progress)
    held = _pack(tokenizer, "heldout", SHIPPED_RECIPE["context"], SHIPPED_RECIPE["heldout_tokens"], None)
    collect_parts(BUNDLED, held, list(SHIPPED.values()), "float32", workers, progress=progress)
    results = []
    for alias in aliases:
        tokens, hook = SHIPPED_TOKENS[alias], SHIPPED[alias]
        if alias != "late":  # early and middle go on together
            longer = _pack(tokenizer, "train", SHIPPED_RECIPE["context"], tokens, None)
            collect_parts(
                BUNDLED, longer, [SHIPPED["early"], SHIPPED["middle"]], "bfloat16", workers, progress=progress
            )
        results += train_from_corpus(
            hook,
            tokens=tokens,
            steps=SHIPPED_STEPS[alias],
            workers=workers,
            out=out,
            command=f"python -m course_utils.lm.train_lm_sae --shipped {alias}",
            progress=progress,
            **SHIPPED_RECIPE,
        )
    write_index(out)
    return results


CHUNK = 512  # sequences whose activations are cached together; the unit that workers take and that later runs share


def collect_parts(
    model_name: str,
    packed: PackedTokens,
    hooks: Sequence[str],
    precision: Literal["float32", "bfloat16"],
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
    command = [sys.executable, "-m", "course_utils.lm.train_lm_sae", "--collect", str(job)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([*command, f"{part}/{workers}", model_name, precision], env=alone)
        for part in range(1, workers)
    ]
    try:
        collect_share(job, 0, workers, model_name, precision, progress=progress)
        for process in running:
            if process.wait():
                raise RuntimeError("a collecting process failed (its message is above); what it had done is kept")
    except BaseException:
        for process in running:
            process.terminate()
        raise


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
    threads, epochs = torch.get_num_threads(), cfg.steps * cfg.batch_size / result.tokens
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
    steps = f"{cfg.steps:,} steps of {cfg.batch_size:,}, Adam at {cfg.lr:g}, seed {cfg.seed}"
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
  {packed.tokens.shape[1]} tokens, seen {epochs:.1f} times. Sources:
  {mixture}.
- Left out: BOS positions, and {dropped} tokens with a norm above ten times the median.
- {steps}, the rate falling linearly over the last {cfg.lr_decay_share:.0%}; inputs scaled to a mean
  squared length of d_in while training, the scale folded into the weights afterwards; products in {cfg.precision}.
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


# ---------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.lm.train_lm_sae", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--hook", action="append", help="hook point; may be given several times")
    parser.add_argument(
        "--shipped",
        nargs="*",
        choices=list(SHIPPED),
        help="make the shipped SAEs (or those named) again, into the assets",
    )
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--tokens", type=int, default=400_000, help="tokens of training text (default: 400,000)")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--architecture", default="topk")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--expansion", type=float, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--workers", type=int, default=1, help="collecting processes, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss-tokens", type=int, default=8_192, help="held-out tokens for the loss recovered")
    parser.add_argument("--heldout-tokens", type=int, default=32_768, help="held-out tokens for the other figures")
    parser.add_argument("--out", type=Path, default=Path("saes"))
    parser.add_argument("--collect", nargs=4, help=argparse.SUPPRESS)  # a worker's job: file, part, model, precision
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.collect:
        job, part, model_name, precision = options.collect
        torch.set_num_threads(1)
        number, of = (int(n) for n in part.split("/"))
        collect_share(Path(job), number, of, model_name, precision, progress=False)
        return
    if options.shipped is not None:
        _print_results(train_shipped(options.shipped or list(SHIPPED), workers=options.workers))
        return
    results = train_from_corpus(
        options.hook or SHIPPED["middle"],
        model_name=options.model,
        tokens=options.tokens,
        context=options.context,
        architecture=options.architecture,
        k=options.k,
        expansion=options.expansion,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        precision=options.precision,
        workers=options.workers,
        seed=options.seed,
        loss_tokens=options.loss_tokens,
        heldout_tokens=options.heldout_tokens,
        out=options.out,
        command=f"python -m course_utils.lm.train_lm_sae {shlex.join(given)}".strip(),
    )
    _print_results(results)


def _print_results(results: Sequence[TrainedSAE]) -> None:
    for result in results:
        m = result.metrics
        print(
            f"{result.hook_name}: L0 {m['l0']:.1f}, variance unexplained {m['fvu']:.4f}, cosine {m['cosine']:.4f}, dead "
            f"{m['dead_fraction']:.2%}, loss recovered {m['loss_versus_mean']:.4f} (mean) {m['loss_versus_zero']:.4f} (zero) "
            f"-> {result.folder}"
        )


if __name__ == "__main__":
    main()
