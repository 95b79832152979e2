"""Run a language model and an SAE over text in batches and hand out the latents: the one place where features meets a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm


@dataclass(frozen=True)
class LatentBatch:
    """Latents of a few sequences. `acts` is zero wherever `counted` is false."""

    tokens: Int[Tensor, "batch context"]
    acts: Float[Tensor, "batch context latents"]
    counted: Bool[Tensor, "batch context"]
    """Which positions count: not the first one, and no position whose residual norm is an extreme outlier."""
    first_sequence: int
    """Index of the batch's first sequence in the whole token tensor."""


def hook_name_of(sae: Any, hook_name: str | None = None) -> str:
    """The hook point an SAE reads: `hook_name` when given, otherwise what the SAE's configuration says.

    Errors:
        ValueError: when neither names one.
    """
    if hook_name:
        return hook_name
    cfg = getattr(sae, "cfg", None)
    metadata = getattr(cfg, "metadata", None)
    for source in (cfg, metadata, sae):
        found = source.get("hook_name") if isinstance(source, dict) else getattr(source, "hook_name", None)
        if found:
            return str(found)
    raise ValueError('this SAE does not say which hook point it reads: pass hook_name="blocks.11.hook_resid_post", say')


def hook_layer(hook_name: str) -> int:
    """The layer number in a hook name: `blocks.11.hook_resid_post` -> 11."""
    match = re.search(r"blocks\.(\d+)\.", hook_name)
    if match is None:
        raise ValueError(f"no layer in hook name {hook_name!r}: expected something like blocks.11.hook_resid_post")
    return int(match.group(1))


@torch.no_grad()
def activations_at(
    model: Any, tokens: Int[Tensor, "batch context"], hook_name: str
) -> Float[Tensor, "batch context d"]:
    """Activations at one hook point; the model stops right after that layer, so early layers are cheap."""
    layer = hook_layer(hook_name)
    if layer + 1 == model.cfg.n_layers:  # stopping after the last layer would still unembed: a tenth of the whole cost
        return _caught(model, tokens, hook_name)
    _, cache = model.run_with_cache(tokens, names_filter=hook_name, stop_at_layer=layer + 1)
    if hook_name in cache:
        return cache[hook_name]
    values = list(cache.values())  # an alias: the cache may use the other name of the same point
    if not values:
        raise KeyError(f"the model has no hook point {hook_name!r}; see model.hook_dict for those it has")
    return values[-1]


class _Caught(Exception):
    """Carries activations out of a forward pass that need not go on."""


def _caught(model: Any, tokens: Tensor, hook_name: str) -> Tensor:
    def catch(value: Tensor, hook: Any) -> None:
        raise _Caught(value)

    try:
        model.run_with_hooks(tokens, fwd_hooks=[(hook_name, catch)])
    except _Caught as caught:
        return caught.args[0]
    raise KeyError(f"the model has no hook point {hook_name!r}; see model.hook_dict for those it has")


def counted_positions(
    activations: Float[Tensor, "batch context d"], skip_first: int = 1, max_norm_ratio: float | None = 10.0
) -> Bool[Tensor, "batch context"]:
    """Positions that should count.

    The first position (BOS, or whatever stands there) and a few others serve as attention sinks: their residual norm is
    a hundred times the median, and a latent that reads them says nothing about text.
    """
    norms = activations.norm(dim=-1)
    counted = torch.ones_like(norms, dtype=torch.bool)
    counted[:, :skip_first] = False
    if max_norm_ratio is not None and counted.any():
        counted &= norms <= max_norm_ratio * norms[counted].median()
    return counted


@torch.no_grad()
def latent_stream(
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "sequences context"],
    latents: Sequence[int] | Tensor | None = None,
    *,
    hook_name: str | None = None,
    batch_size: int = 16,
    skip_first: int = 1,
    max_norm_ratio: float | None = 10.0,
    progress: bool = False,
) -> Iterator[LatentBatch]:
    """Yield the latents of `tokens`, a few sequences at a time; nothing is kept, so the corpus may be of any size.

    Args:
        latents: which latents to return (all of them by default), in this order.
        batch_size: sequences a step. Memory is about `batch_size * context * d_sae * 4` bytes.
        skip_first: leading positions of each sequence that never count. BOS never counts, wherever it stands.
        max_norm_ratio: positions with an activation norm above this many medians do not count; None keeps them.
    """
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be [sequences, context], got shape {tuple(tokens.shape)}")
    name = hook_name_of(sae, hook_name)
    columns = None if latents is None else torch.as_tensor(latents, dtype=torch.long)
    bos = getattr(getattr(model, "tokenizer", None), "bos_token_id", None)
    starts = range(0, len(tokens), batch_size)
    for start in tqdm(starts, desc="reading text", unit="batch", disable=not progress or len(starts) < 4):
        batch = tokens[start : start + batch_size]
        activations = activations_at(model, batch, name).float()
        counted = counted_positions(activations, skip_first, max_norm_ratio)
        if bos is not None:  # it also stands between two documents that share a sequence
            counted &= (batch != bos).to(counted.device)
        acts = encode_some(sae, activations, columns)
        acts = torch.where(counted[..., None], acts, acts.new_zeros(()))
        yield LatentBatch(batch, acts, counted, start)


def encode_some(
    sae: Any, activations: Float[Tensor, "batch context d"], columns: Int[Tensor, " latents"] | None
) -> Float[Tensor, "batch context latents"]:
    """The latents `columns` (all by default), in that order.

    An autoencoder of the TopK family has few active latents a token, so only those are looked at: a dense matrix of all
    4,608 takes three times as long as their pre-activations.
    """
    if columns is None or not hasattr(sae, "inference_selectors"):
        acts = sae.encode(activations)
        return acts if columns is None else acts[..., columns.to(acts.device)]
    found = sae.encode_sparse(activations.flatten(0, -2))
    column_of = torch.full((found.d_sae,), -1, device=found.indices.device)
    column_of[columns.to(column_of.device)] = torch.arange(len(columns), device=column_of.device)
    column = column_of[found.indices]
    wanted = column >= 0
    acts = found.values.new_zeros(found.batch, len(columns))
    acts[found.rows()[wanted], column[wanted]] = found.values[wanted]
    return acts.view(*activations.shape[:-1], len(columns))


def tokenise(model: Any, text: str, max_tokens: int | None = None) -> Int[Tensor, "1 context"]:
    """Token ids of a text with the beginning-of-sequence token in front, at most `max_tokens` long."""
    tokens = model.to_tokens(text, prepend_bos=True)
    return tokens if max_tokens is None else tokens[:, :max_tokens]


def token_strings(tokenizer: Any, ids: Sequence[int] | Tensor) -> list[str]:
    """Each token as text, exactly as it stands in the text (leading space included).

    A token that is only part of a character (an emoji often takes two to four tokens) is shown by its bytes, `\\xf0\\x9f`,
    because decoding it alone would give a replacement character and hide which bytes it holds.
    """
    known = _KNOWN.setdefault(tokenizer, {-1: ""})  # decoding one token takes a tokenizer longer than all else here
    numbers = ids.tolist() if isinstance(ids, Tensor) else ids
    try:
        return [known[number] for number in numbers]
    except KeyError:  # some are new
        whole = [max(-1, int(number)) for number in numbers]
        known.update({number: _token_string(tokenizer, number) for number in set(whole) if number not in known})
        return [known[number] for number in whole]


_KNOWN: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()


def _token_string(tokenizer: Any, number: int) -> str:
    text = tokenizer.decode([number])
    if "\ufffd" in text:
        text = _bytes_of(tokenizer.convert_ids_to_tokens([number])[0]) or text
    return text


def _byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte, inverted."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _byte_alphabet()


def _bytes_of(raw: str | None) -> str | None:
    if not raw or any(character not in _BYTES for character in raw):
        return None
    return "".join(chr(_BYTES[c]) if 0x20 <= _BYTES[c] < 0x7F else f"\\x{_BYTES[c]:02x}" for c in raw)
