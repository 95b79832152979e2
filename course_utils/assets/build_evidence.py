"""Make `evidence/`: where the shipped SAEs' latents fire in held-back text, and what removing latents of the middle one does.

    python -m course_utils.assets.build_evidence

Needs the language model; a few minutes on two cores.
"""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from course_utils import features
from course_utils.features.held_back import ENOUGH, FOLDER, STRONG, split_open
from course_utils.features.removal import OnePosition
from course_utils.io import atomic_write, sha256, write_json
from course_utils.lm import load_corpus, load_model, load_sae

CONTEXT = 64
SEQUENCES = 320
PLACES = 8
"""Strong firings at which a latent is removed, at most."""
CONTROLS = 3
"""At so many of them a random direction is removed instead, for comparison."""
KEPT = 32
"""Tokens kept for each latent."""
SEED = 90210


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make `evidence/` again: where latents fire in held-back text, and what removing them does. A few minutes."""
    model = load_model()
    packed = load_corpus("heldout").pack(model, context=CONTEXT, seed=None)
    _, held_back = split_open(packed.sources)
    rows = np.random.default_rng(SEED).permutation(held_back)[:SEQUENCES]
    tokens = packed.tokens[torch.from_numpy(np.sort(rows))]
    ids, local = np.unique(tokens.numpy(), return_inverse=True)
    words = [""] * len(ids)
    for i, number in enumerate(ids.tolist()):
        words[i] = "" if number == packed.bos else model.tokenizer.decode([number])
    arrays: dict[str, Any] = {
        "words": np.frombuffer(json.dumps(words, ensure_ascii=False).encode(), dtype=np.uint8),
        "tokens": local.reshape(tokens.shape).astype(np.uint16),
    }
    acts = {alias: strong_firings(model, load_sae(alias), tokens) for alias in ("early", "middle", "late")}
    for alias, found in acts.items():
        flat = np.concatenate([latent * tokens.numel() + places for latent, places in enumerate(found)])
        arrays[f"{alias}_steps"] = byte_planes(np.diff(flat, prepend=0))
        arrays["d_sae"] = np.array(len(found))
    arrays |= effects(model, load_sae("middle"), tokens, acts["middle"])
    with atomic_write(FOLDER / "evidence.npz", "wb") as file:
        np.savez_compressed(file, **arrays)
    note = {
        "sha256": sha256(FOLDER / "evidence.npz"),
        "made_by": "python -m course_utils.assets.build_evidence",
        "text": f"{SEQUENCES} sequences of {CONTEXT} tokens from the last third of each source of the corpus' held-out split",
        "latents_with_effects": len(arrays["effect_latents"]),
        "licence": "the text as in LICENSES.md; the measurements CC0-1.0",
    }
    write_json(FOLDER / "evidence.json", note)
    print(
        f"{(FOLDER / 'evidence.npz').stat().st_size / 1e6:.2f} MB, {note['latents_with_effects']} latents with effects"
    )


def byte_planes(steps: np.ndarray) -> np.ndarray:
    """Low bytes in one row, high bytes in the next: they compress to two thirds. Every step is below 65,536."""
    return np.stack([steps & 255, steps >> 8]).astype(np.uint8)


def strong_firings(model: Any, sae: Any, tokens: Int[Tensor, "sequences context"]) -> list[np.ndarray]:
    """For each latent the flat positions at which it exceeds a quarter of its largest activation here."""
    acts = torch.cat([batch.acts.half() for batch in features.latent_stream(model, sae, tokens, progress=True)])
    flat = acts.flatten(0, 1).float()
    threshold = STRONG * flat.amax(dim=0)
    return [np.flatnonzero((flat[:, i] > max(float(threshold[i]), 1e-6)).numpy()) for i in range(flat.shape[1])]


@torch.no_grad()
def effects(
    model: Any, sae: Any, tokens: Int[Tensor, "sequences context"], firings: list[np.ndarray]
) -> dict[str, Any]:
    """For every latent with enough strong firings: the tokens that lose most when it is removed there, and a random control."""
    rng = np.random.default_rng(SEED + 1)
    latents = [i for i, places in enumerate(firings) if len(places) >= ENOUGH]
    print(f"{len(latents)} latents fire strongly often enough")
    chosen = {i: rng.choice(firings[i], min(PLACES, len(firings[i])), replace=False).tolist() for i in latents}
    jobs = sorted((place, i, n < CONTROLS) for i in latents for n, place in enumerate(chosen[i]))
    sums = {i: torch.zeros(model.W_U.shape[1]) for i in latents}
    random = {i: torch.zeros(model.W_U.shape[1]) for i in latents}
    generator = torch.Generator().manual_seed(SEED + 2)
    context, together = tokens.shape[1], 4
    runner = OnePosition(model, features.hook_layer(sae.cfg.hook_name))
    for start in tqdm(range(0, len(tokens), together), desc="removing latents"):
        mine = [(place - start * context, i, c) for place, i, c in jobs if 0 <= place // context - start < together]
        x = features.activations_at(model, tokens[start : start + together], sae.cfg.hook_name).float()
        clean = sae.encode(x)
        places = sorted({place for place, _, _ in mine})
        before = runner.in_pieces(x, torch.tensor(places), x.flatten(0, 1)[places])
        index = {place: k for k, place in enumerate(places)}
        shaken = [job for job in mine if job[2]]
        for part, total, share, noisy in ((mine, sums, PLACES, False), (shaken, random, CONTROLS, True)):
            where, which = (torch.tensor([job[n] for job in part]) for n in (0, 1))
            change = clean.flatten(0, 1)[where, which][:, None] * sae.W_dec.detach()[which]
            if noisy:
                noise = torch.randn(change.shape, generator=generator)
                change = noise * change.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
            after = runner.in_pieces(x, where, x.flatten(0, 1)[where] - change)
            for k, (place, i, _) in enumerate(part):
                total[i] += (before[index[place]] - after[k]) / min(share, len(chosen[i]))
    best = {i: sums[i].topk(KEPT) for i in latents}
    # a mean over few places scatters more than one over many: bring the control to the number of places of the support
    scale = [(min(CONTROLS, len(chosen[i])) / len(chosen[i])) ** 0.5 for i in latents]
    control = [float(random[i].abs().quantile(0.975)) * factor for i, factor in zip(latents, scale, strict=True)]
    return {
        "effect_latents": np.array(latents, dtype=np.uint16),
        "effect_tokens": np.array([best[i].indices.numpy() for i in latents], dtype=np.uint16),
        "effect_support": np.array([best[i].values.numpy() for i in latents], dtype=np.float16),
        "effect_control": np.array(control, dtype=np.float16),
        "effect_places": np.array([len(chosen[i]) for i in latents], dtype=np.uint8),
    }


if __name__ == "__main__":
    main()
