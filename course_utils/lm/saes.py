"""The SAEs that ship with the course, by name: early, middle and late residual stream of the bundled model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from course_utils.io import sha256
from course_utils.lm.corpus import ASSETS
from course_utils.sae.model import SAE

SAES = ASSETS / "saes"


def available_saes() -> dict[str, dict[str, Any]]:
    """The shipped SAEs, name to `hook_name`, `alias` and the figures of the model card.

    Example:
        >>> sorted(entry["alias"] for entry in available_saes().values())
        ['early', 'late', 'middle']
    """
    note = SAES / "saes.json"
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}


def load_sae(name: str | os.PathLike[str] = "middle", *, device: str = "cpu", dtype: str | None = "float32") -> SAE:
    """A shipped SAE by name or alias (`"early"`, `"middle"`, `"late"`), or any folder in SAELens' format.

    `sae.cfg.metadata` says which model and hook point it reads (`hook_name`), and that BOS and massive tokens were left out
    of its training.

    Errors:
        KeyError: no SAE of that name, and no such folder.
        ValueError: the shipped weights were changed (checksum).

    Example:
        >>> load_sae("middle").cfg.hook_name
        'blocks.11.hook_resid_post'
    """
    if Path(name).is_dir():
        return SAE.load(Path(name), device=device, dtype=dtype)
    shipped = available_saes()
    full = next((key for key, entry in shipped.items() if str(name) in (key, entry["alias"])), None)
    if full is None:
        names = ", ".join(f"{entry['alias']} ({key})" for key, entry in shipped.items())
        raise KeyError(
            f"no SAE {str(name)!r}; there are: {names}; or pass a folder with cfg.json and sae_weights.safetensors"
        )
    folder = SAES / full
    if sha256(folder / "sae_weights.safetensors") != shipped[full]["sha256"]:
        raise ValueError(f"{folder} does not hold the weights that saes.json describes: check the course out again")
    return SAE.load(folder, device=device, dtype=dtype)
