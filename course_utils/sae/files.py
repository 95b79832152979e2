"""SAELens' on-disk format, both ways: a folder with `cfg.json` and `sae_weights.safetensors`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from course_utils.io import atomic_path, write_json
from course_utils.sae.config import SAEConfig
from course_utils.sae.model import SAE

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
# BatchTopK and Matryoshka become JumpReLU once trained: one threshold, the same for every latent
STORED_AS = {"batchtopk": "jumprelu", "matryoshka": "jumprelu"}
# without a version of 6 or more, SAELens throws the metadata away and assumes that BOS is prepended
SAE_LENS_VERSION = "6.54.12"


def save_sae(sae: SAE, path: str | Path, *, dtype: str | None = None) -> Path:
    """Write `sae` so that `sae_lens.SAE.load_from_disk(path)` and `SAE.load(path)` both read it.

    Args:
        path: folder, made if needed; each file in it is replaced atomically.
        dtype: stored precision, "float16" or "bfloat16" for half the size; None keeps the weights' own.

    Returns:
        The folder.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    cfg = sae.cfg
    kind = dtype or cfg.dtype
    stored = STORED_AS.get(cfg.architecture, cfg.architecture)
    weights = {
        name: t.detach().cpu().to(getattr(torch, kind)).contiguous() for name, t in _tensors(sae, stored).items()
    }
    if kind == "float16" and (bad := [name for name, t in weights.items() if not t.isfinite().all()]):
        raise ValueError(
            f"{', '.join(bad)} does not fit into float16 (largest number 65,504): save with dtype='bfloat16'"
        )
    metadata = {
        "sae_lens_version": SAE_LENS_VERSION,
        "sae_lens_training_version": None,
        "prepend_bos": False,
        **cfg.metadata,
    }
    metadata["course_utils"] = cfg.to_dict()
    described: dict[str, Any] = {
        "architecture": stored,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": kind,
        "device": "cpu",
        "apply_b_dec_to_input": cfg.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if stored == "topk":
        described |= {"k": cfg.k, "rescale_acts_by_decoder_norm": False}
    atomic_path(path / WEIGHTS, lambda file: save_file(weights, file))
    write_json(path / CONFIG, described)
    return path


def load_sae(path: str | Path, *, device: str = "cpu", dtype: str | None = "float32") -> SAE:
    """Read a folder in SAELens' format, ours or theirs, in evaluation mode.

    Args:
        path: the folder.
        device: where to put the weights.
        dtype: precision to compute in; None keeps the stored one.

    Errors:
        FileNotFoundError: when a file is missing. ValueError: when the file asks for something not supported here.
    """
    path = Path(path)
    for name in (CONFIG, WEIGHTS):
        if not (path / name).exists():
            raise FileNotFoundError(f"{path / name} is missing: an SAE is a folder with {CONFIG} and {WEIGHTS}")
    described = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    weights = load_file(path / WEIGHTS, device=device)
    cfg = _config(described, device, dtype or described.get("dtype", "float32"))
    sae = SAE(cfg)
    sae.load_state_dict(_state(sae, weights, described), strict=True)
    return sae.eval()


def _tensors(sae: SAE, stored: str) -> dict[str, Tensor]:
    """The tensors SAELens expects for this architecture."""
    tensors = {name: getattr(sae, name) for name in ("W_enc", "W_dec", "b_dec")}
    if stored == "gated":
        return tensors | {name: getattr(sae, name) for name in ("b_gate", "b_mag", "r_mag")}
    tensors["b_enc"] = sae.b_enc  # type: ignore[assignment]
    if stored == "jumprelu":
        tensors["threshold"] = sae.threshold.expand(sae.cfg.d_sae)  # type: ignore[operator]
    return tensors


def _config(described: dict[str, Any], device: str, dtype: str) -> SAEConfig:
    """The configuration: ours where the file carries it, otherwise what SAELens wrote."""
    wanted = {"normalize_activations": "none", "reshape_activations": "none"}
    for key, value in wanted.items():
        if described.get(key, value) not in (value, None):
            raise ValueError(
                f"{key} = {described[key]!r} is not supported: fold it into the weights with sae_lens first, then save again"
            )
    architecture = described.get("architecture", "standard")
    metadata = dict(described.get("metadata") or {})
    ours = metadata.pop("course_utils", None)
    metadata.pop("sae_lens_version", None), metadata.pop("sae_lens_training_version", None)
    if ours:
        return SAEConfig.from_dict({**ours, "device": device, "dtype": dtype})
    common: dict[str, Any] = {"d_in": described["d_in"], "d_sae": described["d_sae"], "device": device, "dtype": dtype}
    common["apply_b_dec_to_input"] = described.get("apply_b_dec_to_input", True)
    if architecture == "topk":
        common["k"] = int(described.get("k", 100))  # SAELens' own default where the file does not say
    return SAEConfig(architecture=architecture, unit_norm_decoder=False, metadata=metadata, **common)


def _state(sae: SAE, weights: dict[str, Tensor], described: dict[str, Any]) -> dict[str, Tensor]:
    """Our state dictionary from SAELens' tensors."""
    weights = {name: tensor.to(sae.dtype) for name, tensor in weights.items()}
    if "threshold" in weights:
        threshold = weights.pop("threshold")
        if sae.cfg.architecture in STORED_AS:  # one number for all latents
            weights["threshold"] = threshold[0].float()
        else:
            # never below the smallest normal number, so that its logarithm stays finite
            weights["log_threshold"] = threshold.clamp_min(torch.finfo(sae.dtype).tiny).log()
    if described.get("rescale_acts_by_decoder_norm"):
        # selection there is by pre-activation times decoder length; the same map with unit rows needs no rescaling
        lengths = weights["W_dec"].norm(dim=1)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * lengths, weights["b_enc"] * lengths
        weights["W_dec"] = weights["W_dec"] / lengths[:, None]
    return {name: weights[name] for name in sae.state_dict()}
