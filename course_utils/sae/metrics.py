"""How good an SAE is: sparsity, reconstruction, dead and dense latents, recovery of known directions, chance, stability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

DENSE_ABOVE = 0.1  # a latent active on more than this share of samples counts as dense


@torch.no_grad()
def evaluate_sae(
    sae: Any,
    activations: Float[Tensor, "samples d_in"] | np.ndarray,
    *,
    batch_size: int = 2048,
    true_directions: Float[Tensor, "features d_in"] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Measure `sae` on held-out activations. Anything with `encode`, `decode` and `W_dec` will do, SAELens' too.

    Returns:
        l0: active latents a sample.
        fvu: fraction of variance unexplained, `sum |x - x_hat|^2 / sum |x - mean(x)|^2` (0 perfect, 1 as good as the mean).
        mse: mean over samples of the squared error summed over dimensions.
        cosine: mean cosine similarity of `x` and `x_hat` over samples that are not all zero; `length_ratio` likewise.
        length_ratio: mean of `|x_hat| / |x|`: below 1 when an L1 penalty shrinks the latents.
        dead_fraction: share of latents active on no sample (a statement about this many samples).
        dense_fraction: share of latents active on more than 10% of samples.
        With `true_directions` also `matched_cosine`, `recovered_0.9`, `recovered_0.99` (see `match_directions`) and
        `chance_random`, `chance_data` (see `chance_baselines`).
    """
    samples = torch.as_tensor(activations)
    total = dict.fromkeys(("l0", "error", "directed", "cosine", "ratio"), 0.0)
    # sums about a reference close to the mean: with a large common offset, sums of raw squares would lose all precision
    reference = samples[: min(len(samples), batch_size)].to(sae.W_dec).double().mean(0)
    first, second = torch.zeros_like(reference), 0.0
    active = torch.zeros(sae.W_dec.shape[0], dtype=torch.float64, device=sae.W_dec.device)
    for batch in samples.split(batch_size):
        x = batch.to(sae.W_dec)
        latents = sae.encode(x)
        x_hat = sae.decode(latents)
        on = latents > 0
        active += on.sum(0)
        total["l0"] += float(on.sum())
        total["error"] += float((x - x_hat).double().square().sum())
        lengths, rebuilt = x.float().norm(dim=1), x_hat.float().norm(dim=1)
        there = lengths > 0  # a sample of zeros has no direction
        total["directed"] += float(there.sum())
        total["cosine"] += float(torch.cosine_similarity(x.float(), x_hat.float(), dim=1)[there].sum())
        total["ratio"] += float((rebuilt / lengths)[there].sum())
        offset = x.double() - reference
        first += offset.sum(0)
        second += float(offset.square().sum())
    n = len(samples)
    variance = second - float(first.square().sum()) / n
    result = {
        "l0": total["l0"] / n,
        "fvu": total["error"] / max(variance, 1e-30),
        "mse": total["error"] / n,
        "cosine": total["cosine"] / max(total["directed"], 1),
        "length_ratio": total["ratio"] / max(total["directed"], 1),
        "dead_fraction": float((active == 0).double().mean()),
        "dense_fraction": float((active > DENSE_ABOVE * n).double().mean()),
    }
    if true_directions is not None:
        result |= recovery(sae.W_dec, true_directions)
        chance = chance_baselines(samples, true_directions, sae.W_dec.shape[0], seed=seed)
        result |= {"chance_random": chance["random"], "chance_data": chance["data"]}
    return result


def match_directions(
    found: Float[Tensor, "a d"], wanted: Float[Tensor, "b d"]
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """Give each wanted direction a found one of its own, so that the sum of cosines is largest (Hungarian assignment).

    Returns:
        The index into `found` for each wanted direction (-1 where `found` has too few) and the cosine (0 there).
    """
    found, wanted = _unit(found), _unit(wanted)
    cosine = (wanted @ found.T).cpu().numpy()
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    index = torch.full((len(wanted),), -1, dtype=torch.long)
    value = torch.zeros(len(wanted))
    index[rows] = torch.as_tensor(columns)
    value[rows] = torch.as_tensor(cosine[rows, columns], dtype=value.dtype)
    return index, value


def recovery(found: Float[Tensor, "a d"], wanted: Float[Tensor, "b d"]) -> dict[str, float]:
    """Mean matched cosine and the number of wanted directions matched above 0.9 and above 0.99."""
    _, cosine = match_directions(found, wanted)
    return {
        "matched_cosine": float(cosine.mean()),
        "recovered_0.9": float((cosine > 0.9).sum()),
        "recovered_0.99": float((cosine > 0.99).sum()),
    }


def chance_baselines(
    activations: Float[Tensor, "samples d"],
    wanted: Float[Tensor, "features d"],
    n_latents: int,
    *,
    threshold: float = 0.9,
    repeats: int = 10,
    seed: int = 0,
) -> dict[str, float]:
    """Wanted directions that dictionaries with no training at all match above `threshold`, on average.

    Returns:
        `random`: dictionaries of random directions. `data`: dictionaries of random data points (in few dimensions and with
        few active features these already look like the features).
    """
    generator = torch.Generator().manual_seed(seed)
    activations = torch.as_tensor(activations).float().cpu()
    usable = activations[activations.norm(dim=1) > 0]
    counts: dict[str, list[float]] = {"random": [], "data": []}
    for _ in range(repeats):
        random = torch.randn(n_latents, wanted.shape[1], generator=generator)
        data = usable[torch.randint(len(usable), (n_latents,), generator=generator)]
        for name, dictionary in (("random", random), ("data", data)):
            _, cosine = match_directions(dictionary, wanted)
            counts[name].append(float((cosine > threshold).sum()))
    return {name: float(np.mean(values)) for name, values in counts.items()}


def seed_stability(saes: Sequence[Any], *, threshold: float = 0.7) -> dict[str, float]:
    """How far SAEs trained from different seeds agree, over all pairs, by Hungarian matching of decoder directions.

    Returns:
        `mean_cosine` of matched latents and `shared_fraction`, the share of latents with a match above `threshold`.
    """
    if len(saes) < 2:
        raise ValueError(f"stability compares seeds, so at least two SAEs are needed; got {len(saes)}")
    cosines = [
        match_directions(a.W_dec.detach(), b.W_dec.detach())[1] for i, a in enumerate(saes) for b in saes[i + 1 :]
    ]
    together = torch.cat(cosines)
    return {"mean_cosine": float(together.mean()), "shared_fraction": float((together > threshold).float().mean())}


def _unit(directions: Tensor) -> Tensor:
    directions = torch.as_tensor(directions).detach().float()
    return directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
