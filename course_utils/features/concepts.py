"""From a sentence or a concept to latents: heatmaps over a sentence, and search by contrast or by AUC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor
from tqdm.auto import tqdm

from course_utils.features.stream import activations_at, counted_positions, hook_name_of, token_strings, tokenise


@dataclass(frozen=True)
class SentenceHeatmap:
    """Latents (rows) against the tokens of one text (columns)."""

    tokens: list[str]
    latents: list[int]
    acts: Float[np.ndarray, "latents tokens"]


@torch.no_grad()
def text_latents(
    model: Any, sae: Any, text: str, *, hook_name: str | None = None, max_tokens: int = 256
) -> tuple[Int[Tensor, " tokens"], Float[Tensor, "tokens d_sae"]]:
    """Token ids of a text (BOS in front) and all latents on each; zero on BOS, which does not count."""
    tokens = tokenise(model, text, max_tokens)
    activations = activations_at(model, tokens, hook_name_of(sae, hook_name)).float()
    acts = sae.encode(activations) * counted_positions(activations)[..., None]
    return tokens[0], acts[0]


def sentence_heatmap(
    model: Any,
    sae: Any,
    text: str,
    latents: Sequence[int] | None = None,
    k: int = 12,
    *,
    hook_name: str | None = None,
    max_tokens: int = 256,
) -> SentenceHeatmap:
    """Activations of some latents on every token of `text`.

    Args:
        latents: which rows; by default the `k` with the largest activation anywhere in the text, in the order in which
            they peak, so that the picture reads from left to right.
    """
    ids, acts = text_latents(model, sae, text, hook_name=hook_name, max_tokens=max_tokens)
    if latents is None:
        peak, place = acts.max(dim=0)
        best = [int(i) for i in peak.topk(min(k, len(peak))).indices if peak[i] > 0]
        latents = sorted(best, key=lambda i: (int(place[i]), -float(peak[i])))
    rows = acts[:, torch.as_tensor(list(latents), dtype=torch.long)].T
    return SentenceHeatmap(token_strings(model.tokenizer, ids), [int(i) for i in latents], rows.cpu().numpy())


@torch.no_grad()
def pooled_latents(
    model: Any,
    sae: Any,
    texts: Sequence[str],
    pool: Literal["max", "mean"] = "max",
    *,
    hook_name: str | None = None,
    max_tokens: int = 128,
    progress: bool = True,
) -> Float[Tensor, "texts d_sae"]:
    """One vector a text: each latent's largest (or mean) activation over its tokens, BOS left out."""
    rows = []
    for text in tqdm(texts, desc="encoding texts", disable=not progress or len(texts) < 40):
        _, acts = text_latents(model, sae, text, hook_name=hook_name, max_tokens=max_tokens)
        body = acts[1:] if len(acts) > 1 else acts
        rows.append(body.amax(0) if pool == "max" else body.mean(0))
    return torch.stack(rows)


@dataclass(frozen=True)
class ConceptLatents:
    """Latents that tell a concept from its contrast, best first."""

    latents: list[int]
    scores: list[float]
    """AUC, or standardised difference of means, by the method asked for."""
    auc: Float[np.ndarray, " d_sae"]
    contrast: Float[np.ndarray, " d_sae"]


def concept_auc(
    positive: Float[np.ndarray, "positives latents"], negative: Float[np.ndarray, "negatives latents"]
) -> Float[np.ndarray, " latents"]:
    """Area under the ROC curve of each latent: the chance that a positive text scores above a negative one, ties half.

    By ranks (Mann-Whitney), so the many exact zeros of a sparse latent are treated as the ties they are.

    Example:
        >>> concept_auc(np.array([[3.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 0.0]]))
        array([1. , 0.5])
    """
    n, m = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]), axis=0)
    return (ranks[:n].sum(axis=0) - n * (n + 1) / 2) / (n * m)


def find_latents_for_concept(
    positive: Float[Tensor, "positives latents"],
    negative: Float[Tensor, "negatives latents"],
    k: int = 10,
    method: Literal["auc", "contrast"] = "auc",
) -> ConceptLatents:
    """Latents that fire on texts with a concept and not on texts without it.

    Args:
        positive, negative: one row a text (`pooled_latents`). Contrast pairs that differ only in the concept give the
            cleanest answer; labelled texts the most honest one.
        method: "auc" ranks by the area under the ROC curve, "contrast" by the difference of means over the pooled
            standard deviation. With thousands of latents the best of them looks good by chance: score it on other texts.
    """
    pos, neg = np.asarray(positive.detach().cpu(), np.float64), np.asarray(negative.detach().cpu(), np.float64)
    if pos.ndim != 2 or neg.ndim != 2 or pos.shape[1] != neg.shape[1] or not len(pos) or not len(neg):
        raise ValueError(
            f"positive and negative must be [texts, latents] with the same latents, got {pos.shape} and {neg.shape}"
        )
    if method not in ("auc", "contrast"):
        raise ValueError(f'method must be "auc" or "contrast", got {method!r}')
    auc = concept_auc(pos, neg)
    variance = (pos.var(0) * len(pos) + neg.var(0) * len(neg)) / (len(pos) + len(neg))
    difference = pos.mean(0) - neg.mean(0)
    # a latent that is constant within both groups is infinitely well separated in theory; the floor keeps it finite
    floor = 1e-3 * max(float(np.abs(difference).max()), 1e-12)
    contrast = difference / np.sqrt(variance + floor**2)
    score = auc if method == "auc" else contrast
    best = np.lexsort((-contrast if method == "auc" else -auc, -score))[:k]
    return ConceptLatents([int(i) for i in best], [float(score[i]) for i in best], auc, contrast)
