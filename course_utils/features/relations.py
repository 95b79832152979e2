"""Which latents belong together: by the directions they write, and by when they fire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from course_utils.features.examples import LatentScan
from course_utils.features.stream import LatentBatch


@torch.no_grad()
def nearest_decoder_neighbours(
    sae: Any, latents: Sequence[int] | Tensor, k: int = 8, *, other: Any | None = None, chunk: int = 512
) -> tuple[Int[Tensor, "latents k"], Float[Tensor, "latents k"]]:
    """The `k` latents whose decoder directions have the largest cosine with each latent's, and those cosines.

    Args:
        other: look among the latents of another SAE that writes the same space (another layer, another seed). Without it the
            latent itself is left out.

    Two random directions have cosine 0 with standard deviation 1/sqrt(d), 0.04 in 576 dimensions: the best of 4,608 reaches
    about 0.15 by chance.
    """
    own = torch.nn.functional.normalize(sae.W_dec.detach().float(), dim=-1)
    pool = own if other is None else torch.nn.functional.normalize(other.W_dec.detach().float(), dim=-1)
    if own.shape[1] != pool.shape[1]:
        raise ValueError(f"the two SAEs write different spaces: {own.shape[1]} and {pool.shape[1]} dimensions")
    chosen = torch.as_tensor(latents, dtype=torch.long).reshape(-1)
    indices, values = [], []
    for part in chosen.split(chunk):
        cosine = own[part] @ pool.T
        if other is None:
            cosine[torch.arange(len(part)), part] = -torch.inf
        best = cosine.topk(min(k, cosine.shape[1] - (other is None)))
        indices.append(best.indices)
        values.append(best.values)
    return torch.cat(indices), torch.cat(values)


def correlated_latents(scan: LatentScan, latents: Sequence[int], k: int = 8) -> list[list[tuple[int, float]]]:
    """For each latent the `k` whose activations correlate best with it, as (latent, Pearson r) pairs.

    Needs a scan made with `correlations=True`. Correlation sees what decoder cosines cannot: two latents with orthogonal
    directions that always fire together.
    """
    return [scan.correlated(int(latent), k) for latent in latents]


def match_across(
    stream_a: Iterable[LatentBatch], stream_b: Iterable[LatentBatch], k: int = 3
) -> tuple[Int[np.ndarray, "latents_a k"], Float[np.ndarray, "latents_a k"]]:
    """For each latent of one SAE the latents of another whose activations correlate best, over the same text.

    The two streams must run over the same tokens in the same batches: two layers, two seeds or two sizes.

    Returns:
        columns of the second stream and their Pearson correlations, best first.
    """
    cross: np.ndarray | None = None
    sums: list[np.ndarray] = []
    seen = 0
    for a, b in zip(stream_a, stream_b, strict=True):
        if a.tokens.shape != b.tokens.shape or not torch.equal(a.tokens, b.tokens):
            raise ValueError("the two streams must read the same tokens in the same batches")
        both = a.counted & b.counted
        fa, fb = a.acts[both].float().cpu(), b.acts[both].float().cpu()
        new = [x.sum(0, dtype=torch.double).numpy() for x in (fa, fa**2, fb, fb**2)]
        sums = [s + x for s, x in zip(sums, new, strict=True)] if sums else new
        product = (sparse.csr_matrix(fa.T.numpy()) @ sparse.csr_matrix(fb.numpy())).tocoo()
        cross = np.zeros(product.shape, np.float32) if cross is None else cross
        cross[product.row, product.col] += product.data
        seen += int(both.sum())
    if cross is None or seen == 0:
        raise ValueError("no text to compare: the streams were empty")
    mean_a, square_a, mean_b, square_b = (s / seen for s in sums)
    deviation_a = np.sqrt(np.maximum(square_a - mean_a**2, 0))
    deviation_b = np.sqrt(np.maximum(square_b - mean_b**2, 0))
    best = np.zeros((len(mean_a), min(k, len(mean_b))), dtype=np.int64)
    value = np.zeros(best.shape)
    for row in range(len(mean_a)):
        scale = deviation_a[row] * deviation_b
        covariance = cross[row] / seen - mean_a[row] * mean_b
        correlation = np.where(scale > 0, covariance / np.where(scale > 0, scale, 1), 0.0)
        best[row] = np.argsort(-correlation, kind="stable")[:k]
        value[row] = correlation[best[row]]
    return best, value
