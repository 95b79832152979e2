"""A small disk cache for results that cost minutes: keyed by content, checksummed, written atomically.

Files live in `COURSE_CACHE` when that is set, otherwise in the user's cache folder. Deleting any of them is always safe.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from course_utils import settings
from course_utils.io import atomic_write, sha256, write_json

KEPT_BYTES = 1 << 30
"""Results kept for each kind: when they are more than this, the least recently used go first (the newest always stays)."""


def cache_folder() -> Path:
    """Where cached results live."""
    return settings.cache() / "features"


def fingerprint(*parts: Any) -> str:
    """A checksum of everything a result depends on: tensors, modules (by their weights), plain values.

    Large modules are summarised by each parameter's shape, sum and a strided sample of values: a second rather than half a
    minute for a language model, and any training step changes it.
    """
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
        digest.update(b"\x1f")
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    if isinstance(part, torch.nn.Module):
        digest.update(type(part).__name__.encode())
        for name, weight in sorted(part.state_dict().items()):
            if isinstance(weight, torch.Tensor):
                digest.update(name.encode())
                _feed(digest, weight if weight.numel() < 1 << 20 else _summary(weight))
        if hasattr(part, "W_dec"):  # an SAE: k, thresholds and scaling change what it computes
            digest.update(repr(getattr(part, "cfg", None)).encode())
    elif isinstance(part, torch.Tensor):
        array = part.detach().cpu().contiguous()
        digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    elif isinstance(part, np.ndarray):
        _feed(digest, torch.from_numpy(np.ascontiguousarray(part)))
    elif isinstance(part, Mapping):
        _feed(digest, [(key, part[key]) for key in sorted(part, key=str)])
    elif isinstance(part, Sequence) and not isinstance(part, str | bytes):
        for item in part:
            _feed(digest, item)
            digest.update(b"\x1e")
    elif hasattr(part, "W_dec"):  # an SAE that is no module
        _feed(digest, {name: v for name, v in vars(part).items() if not callable(v)})
    else:
        digest.update(repr(part).encode())


def _summary(weight: torch.Tensor) -> torch.Tensor:
    flat = weight.detach().reshape(-1)
    step = max(1, flat.numel() // 65_536)
    total = flat.double().sum() if flat.is_floating_point() else flat.sum().double()
    return torch.cat([flat[::step].double(), total.reshape(1).to(flat.device), torch.tensor([float(flat.numel())])])


def cached_arrays(kind: str, key: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays stored under `key`, or those `compute` returns, stored for the next time.

    A file that is missing, cut short or changed (its checksum disagrees) is computed again. A folder that cannot be written
    only costs the speed.
    """
    folder = cache_folder() / kind
    data, note = folder / f"{key[:40]}.npz", folder / f"{key[:40]}.json"
    try:
        if json.loads(note.read_text())["sha256"] == sha256(data):
            os.utime(data)
            with np.load(data, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError):
        pass
    arrays = compute()
    try:
        with atomic_write(data, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        write_json(note, {"sha256": sha256(data), "kind": kind, "key": key})
        _forget_oldest(folder)
    except OSError:
        pass
    return arrays


def _forget_oldest(folder: Path) -> None:
    newest_first = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for i, path in enumerate(newest_first):
        total += path.stat().st_size
        if i and total > KEPT_BYTES:
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
