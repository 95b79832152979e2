"""How much of a latent is just "this token": the share of its activation that the current token alone explains."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_utils.features.examples import _batches
from course_utils.features.stream import LatentBatch


def token_only_share(
    tokens: Int[Tensor, "sequences context"] | None,
    acts: Float[Tensor, "sequences context latents"] | Iterable[LatentBatch],
) -> Float[np.ndarray, " latents"]:
    """Share of each latent's variance that the identity of the current token explains, on text not used to find out.

    The prediction for a token is the latent's mean activation on that token in one half of the sequences; it is scored on the
    other half (1 - squared error / variance), both ways round. Scored on the same half, every rare token would "explain"
    itself: with each token seen once the share would be 1 for noise. Can be slightly below zero for a latent that the token
    does not predict at all. NaN for a latent that never fires.

    Memory: `2 * distinct tokens * latents * 8` bytes, so pass a few hundred latents.

    Args:
        tokens: token ids (None when `acts` is a stream, which brings its own).
    """
    sums: list[dict[int, int]] = [{}, {}]  # token -> row, for each half
    totals = [np.zeros((0, 0)), np.zeros((0, 0))]
    counts = [np.zeros(0), np.zeros(0)]
    square: list[np.ndarray | float] = [0.0, 0.0]
    parity = 0
    for batch in _batches(tokens, acts):
        for half in (0, 1):
            picked = (torch.arange(len(batch.tokens)) + parity) % 2 == half
            mask = batch.counted.cpu() & picked[:, None]
            values, ids = batch.acts.detach().cpu()[mask].double().numpy(), batch.tokens.cpu()[mask].numpy()
            totals[half], counts[half] = _accumulate(sums[half], totals[half], counts[half], ids, values)
            square[half] = square[half] + (values**2).sum(axis=0)
        parity += len(batch.tokens)
    if not len(counts[0]) or not len(counts[1]):
        raise ValueError("need at least two sequences: one half predicts the other")
    errors = _held_out_error(sums, totals, counts, square, 0) + _held_out_error(sums, totals, counts, square, 1)
    variance = sum(square[half] - totals[half].sum(axis=0) ** 2 / counts[half].sum() for half in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, 1 - errors / variance, np.nan)


def _accumulate(
    rows: dict[int, int], total: np.ndarray, count: np.ndarray, ids: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    unique, inverse, n = np.unique(ids, return_inverse=True, return_counts=True)
    for token in unique.tolist():
        rows.setdefault(token, len(rows))
    if len(rows) > len(count):  # grow by half, so that growing stays cheap
        size = max(len(rows), len(count) * 3 // 2)
        grown = np.zeros((size, values.shape[1]))
        grown[: len(total)] = total if total.size else 0
        total, count = grown, np.concatenate([count, np.zeros(size - len(count))])
    where = np.array([rows[token] for token in unique.tolist()], dtype=int)
    part = np.zeros((len(unique), values.shape[1]))
    np.add.at(part, inverse, values)
    total[where] += part
    count[where] += n
    return total, count


def _held_out_error(
    rows: list[dict[int, int]], totals: list[np.ndarray], counts: list[np.ndarray], square: list, scored: int
) -> np.ndarray:
    """Squared error on half `scored` of the token means of the other half (overall mean for a token not seen there)."""
    other = 1 - scored
    overall = totals[other].sum(axis=0) / counts[other].sum()
    error = np.array(square[scored], dtype=float)
    for token, row in rows[scored].items():
        there = rows[other].get(token)
        guess = overall if there is None else totals[other][there] / counts[other][there]
        error = error - 2 * guess * totals[scored][row] + counts[scored][row] * guess**2
    return error
