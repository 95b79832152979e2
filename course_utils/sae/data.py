"""Batches for training: from tensors, memory-mapped arrays or iterators, in an order that depends on the seed and step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Activations = Tensor | np.ndarray | Iterable[Tensor] | Callable[[], Iterable[Tensor]]


def batches(
    activations: Activations,
    batch_size: int,
    *,
    seed: int = 0,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """An endless stream of batches (an iterator's own length for iterators), from batch number `start` on.

    Args:
        activations: a tensor or array `[samples, d_in]`, shuffled anew each epoch (a memory-mapped array is read batch by
            batch and never loaded whole); an iterable of batches; or a function that returns a fresh iterable, which can
            be repeated and resumed.
        batch_size: samples a batch. For iterables their own batches are taken as they come.
        seed: of the shuffling; batch `i` depends only on `seed` and `i`, which is what makes resuming exact.
        start: number of batches to skip.
        part: (rank, processes): this process gets its share of every batch.
    """
    rank, processes = part
    if isinstance(activations, (Tensor, np.ndarray)):
        if activations.ndim != 2:
            raise ValueError(
                f"activations have shape {tuple(activations.shape)}: two axes are needed, [samples, d_in]; "
                "flatten batch and position first, for example with activations.flatten(0, -2)"
            )
        for rows in _shuffled_rows(len(activations), batch_size, seed, start):
            yield _take(activations, rows[rank::processes])
        return
    source = activations() if callable(activations) else activations
    for batch in islice(source, start, None):
        yield torch.as_tensor(batch)[rank::processes]


def _shuffled_rows(n: int, batch_size: int, seed: int, start: int) -> Iterator[Tensor]:
    """Row numbers of each batch; an epoch is one permutation, and its incomplete last batch is left out."""
    batch_size = min(batch_size, n)
    per_epoch = n // batch_size
    epoch, position = divmod(start, per_epoch)
    while True:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for i in range(position, per_epoch):
            yield order[i * batch_size : (i + 1) * batch_size]
        epoch, position = epoch + 1, 0


def _take(activations: Any, rows: Tensor) -> Tensor:
    if isinstance(activations, Tensor):
        return activations[rows.to(activations.device)]
    ascending = np.sort(rows.numpy())  # a memory-mapped file is read forwards; order inside a batch does not matter
    return torch.from_numpy(np.ascontiguousarray(activations[ascending]))


def width(activations: Activations) -> int | None:
    """`d_in` where it can be told without reading anything."""
    return int(activations.shape[-1]) if isinstance(activations, (Tensor, np.ndarray)) else None
