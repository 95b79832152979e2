"""What makes a latent fire: one streaming pass that finds the strongest examples, a fair sample, densities and histograms.

Memory does not grow with the amount of text: every latent keeps its `k` best contexts, a uniform sample of `sample` firings,
and a few counters, `latents * (k + sample) * window * 8` bytes in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from course_utils.features.cache import cached_arrays, fingerprint
from course_utils.features.stream import LatentBatch, hook_name_of, latent_stream

NO_TOKEN = -1
"""Fills a window where the sequence ends."""
BINS_PER_OCTAVE = 4
LOWEST_OCTAVE, HIGHEST_OCTAVE = -12, 16
HISTOGRAM_EDGES = 2.0 ** (
    np.arange((HIGHEST_OCTAVE - LOWEST_OCTAVE) * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE + LOWEST_OCTAVE
)
"""Edges of the activation histogram: four bins an octave, from 2^-12 to 2^16. Log-spaced, so one pass suffices."""
_SLICE = 32  # sequences merged at a time: bounds the [latents, k + 32, k + 32] comparison that removes repeats
MAX_CORRELATION_BYTES = 512 << 20


@dataclass(frozen=True)
class Example:
    """One context in which a latent fires."""

    latent: int
    value: float
    """Activation at the peak."""
    sequence: int
    position: int
    """Where the peak stands in the corpus: `tokens[sequence, position]`."""
    tokens: tuple[int, ...]
    acts: tuple[float, ...]
    """The latent's activation on each of `tokens`."""
    peak: int
    """Index of the peak inside `tokens`."""


@dataclass(frozen=True)
class QuantileExamples:
    """Examples whose activation lies between two quantiles of the latent's firings."""

    low: float
    high: float
    """Activation at the two ends of the band."""
    from_quantile: float
    to_quantile: float
    examples: list[Example]


@dataclass(frozen=True)
class LatentScan:
    """Everything one pass over a corpus tells about a set of latents. Row i of each array is latent `latents[i]`."""

    latents: Int[np.ndarray, " latents"]
    tokens_seen: int
    left: int
    fired: Int[np.ndarray, " latents"]
    """Number of tokens on which the latent is above zero."""
    total: Float[np.ndarray, " latents"]
    total_square: Float[np.ndarray, " latents"]
    maximum: Float[np.ndarray, " latents"]
    histogram: Int[np.ndarray, "latents bins"]
    top_value: Float[np.ndarray, "latents k"]
    top_place: Int[np.ndarray, "latents k 2"]
    top_tokens: Int[np.ndarray, "latents k window"]
    top_acts: Float[np.ndarray, "latents k window"]
    sample_value: Float[np.ndarray, "latents sample"]
    sample_place: Int[np.ndarray, "latents sample 2"]
    sample_tokens: Int[np.ndarray, "latents sample window"]
    sample_acts: Float[np.ndarray, "latents sample window"]
    co_moment: Float[np.ndarray, "latents latents"] | None = None
    """Sum over tokens of f_i * f_j, when correlations were asked for."""

    @property
    def density(self) -> Float[np.ndarray, " latents"]:
        """Fraction of tokens on which each latent fires."""
        return self.fired / max(self.tokens_seen, 1)

    @property
    def mean_when_active(self) -> Float[np.ndarray, " latents"]:
        return self.total / np.maximum(self.fired, 1)

    def row(self, latent: int) -> int:
        """Row of a latent in the arrays; KeyError when the scan did not include it."""
        found = np.flatnonzero(self.latents == latent)
        if not len(found):
            raise KeyError(f"latent {latent} is not in this scan of {len(self.latents)} latents")
        return int(found[0])

    def top(self, latent: int) -> list[Example]:
        """The strongest examples, best first."""
        return self._examples(latent, "top", range(self.top_value.shape[1]))

    def quantiles(self, latent: int, bands: int = 5, per_band: int = 4) -> list[QuantileExamples]:
        """Examples from `bands` equal shares of the firings, strongest band first; see `examples_by_quantile`."""
        row = self.row(latent)
        values, tokens = self.sample_value[row], self.sample_tokens[row]
        chosen = [int(i) for i in np.argsort(-values, kind="stable") if values[i] > 0]
        bands = min(bands, len(chosen))
        result: list[QuantileExamples] = []
        for band in range(bands):
            members = chosen[len(chosen) * band // bands : len(chosen) * (band + 1) // bands]
            # contexts that are the same up to the peak are one; an example is made of those that are shown only
            first: dict[bytes, int] = {}
            for i in members:
                first.setdefault(tokens[i, : self.left + 1].tobytes(), i)
            shown = list(first.values())
            if len(shown) > per_band:  # spread over the band rather than its strongest few
                shown = [shown[round(x)] for x in np.linspace(0, len(shown) - 1, per_band)]
            examples = self._examples(latent, "sample", shown)
            low, high = float(values[members[-1]]), float(values[members[0]])
            result.append(QuantileExamples(low, high, 1 - (band + 1) / bands, 1 - band / bands, examples))
        return result

    def correlated(self, latent: int, k: int = 8) -> list[tuple[int, float]]:
        """The latents whose activations correlate best with this one's (Pearson, over all counted tokens)."""
        if self.co_moment is None:
            raise ValueError("this scan holds no correlations: scan again with correlations=True")
        row, n = self.row(latent), max(self.tokens_seen, 1)
        mean = self.total / n
        deviation = np.sqrt(np.maximum(self.total_square / n - mean**2, 0))
        covariance = self.co_moment[row] / n - mean[row] * mean
        scale = deviation[row] * deviation
        correlation = np.where(scale > 0, covariance / np.where(scale > 0, scale, 1), 0.0)
        correlation[row] = -np.inf
        best = np.argsort(-correlation, kind="stable")[:k]
        return [(int(self.latents[i]), float(correlation[i])) for i in best if correlation[i] > 0]

    def _examples(self, latent: int, kind: str, order: Iterable[int]) -> list[Example]:
        row = self.row(latent)
        value, place = getattr(self, f"{kind}_value")[row], getattr(self, f"{kind}_place")[row]
        tokens, acts = getattr(self, f"{kind}_tokens")[row], getattr(self, f"{kind}_acts")[row]
        return [_example(latent, value[i], place[i], tokens[i], acts[i], self.left) for i in order if value[i] > 0]

    def arrays(self) -> dict[str, np.ndarray]:
        """The scan as plain arrays, for the disk cache."""
        return {f.name: np.asarray(v) for f in fields(self) if (v := getattr(self, f.name)) is not None}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> LatentScan:
        numbers = {name: int(arrays[name]) for name in ("tokens_seen", "left")}
        return cls(**{**arrays, **numbers})  # type: ignore[arg-type]


class LatentScanner:
    """Collects a `LatentScan` batch by batch. Knows nothing of models: feed it tokens and activations.

    Results do not depend on how the text is cut into batches.

    Args:
        n_latents: how many latents each batch holds.
        k: contexts kept for each latent. At most one a sequence, and a context that repeats (the same tokens up to and
            including the peak, as far as the window shows) is kept once, with its highest value.
        sample: firings kept as a uniform sample, from which quantile examples are drawn.
        left, right: tokens shown before and after the peak.
        correlations: also keep the latents x latents co-moment matrix.
    """

    def __init__(
        self,
        n_latents: int,
        *,
        k: int = 20,
        sample: int = 40,
        left: int = 20,
        right: int = 8,
        correlations: bool = False,
        seed: int = 0,
    ):
        if k < 1 or sample < 0 or left < 0 or right < 0:
            raise ValueError(
                f"k must be at least 1; sample, left and right at least 0: got {k=} {sample=} {left=} {right=}"
            )
        if correlations and n_latents**2 * 4 > MAX_CORRELATION_BYTES:
            raise ValueError(
                f"correlations of {n_latents} latents need {n_latents**2 * 4 / 2**30:.1f} GiB: choose fewer with latents=..."
            )
        self.n_latents, self.left, self.right, self.seed = n_latents, left, right, seed
        self.tokens_seen = 0
        self.sequences_seen = 0
        self._fired = torch.zeros(n_latents, dtype=torch.long)
        self._total = torch.zeros(n_latents, dtype=torch.double)
        self._total_square = torch.zeros(n_latents, dtype=torch.double)
        self._maximum = torch.zeros(n_latents)
        self._histogram = torch.zeros(n_latents, len(HISTOGRAM_EDGES) - 1, dtype=torch.long)
        self._co_moment = np.zeros((n_latents, n_latents), dtype=np.float32) if correlations else None
        window = left + 1 + right
        self._top = _Kept(n_latents, k, left, window, torch.float32)
        self._sample = _Kept(n_latents, sample, left, window, torch.long)
        generator = torch.Generator().manual_seed(0x5AE)
        self._hash_weights = torch.randint(-(2**62), 2**62, (left + 1,), generator=generator) | 1

    def update(
        self,
        tokens: Int[Tensor, "batch context"],
        acts: Float[Tensor, "batch context latents"],
        counted: Bool[Tensor, "batch context"] | None = None,
    ) -> None:
        """Take in a few more sequences. `counted` says which positions count (all by default)."""
        if acts.ndim != 3 or acts.shape[:2] != tokens.shape or acts.shape[2] != self.n_latents:
            raise ValueError(
                f"acts must be [batch, context, latents] = [{', '.join(map(str, tokens.shape))}, {self.n_latents}], "
                f"got {tuple(acts.shape)}"
            )
        acts, tokens = acts.detach().float().cpu(), tokens.cpu().long()
        if counted is None:
            counted = torch.ones_like(tokens, dtype=torch.bool)
        else:
            acts = acts * counted.cpu()[..., None]
        acts = acts.clamp_min(0)
        for start in range(0, len(tokens), _SLICE):
            part = slice(start, start + _SLICE)
            self._update_slice(tokens[part], acts[part], int(counted[part].sum()))

    def _update_slice(self, tokens: Tensor, acts: Tensor, counted: int) -> None:
        place, latent = acts.reshape(-1, self.n_latents).nonzero(as_tuple=True)
        values = acts.reshape(-1, self.n_latents)[place, latent]
        self._count(place, latent, values, counted)
        windows = _Windows(tokens, acts, self.left, self.right, self._hash_weights, self.sequences_seen)
        self._offer_top(acts, windows)
        if self._sample.size:
            self._offer_sample(place, latent, values, windows)
        self.sequences_seen += len(tokens)

    def _count(self, place: Tensor, latent: Tensor, values: Tensor, counted: int) -> None:
        n, double = self.n_latents, values.double()
        self.tokens_seen += counted
        self._fired += torch.bincount(latent, minlength=n)
        self._total.index_add_(0, latent, double)
        self._total_square.index_add_(0, latent, double**2)
        self._maximum.scatter_reduce_(0, latent, values, "amax")
        bins = self._histogram.shape[1]
        which = ((values.log2() - LOWEST_OCTAVE) * BINS_PER_OCTAVE).floor().long().clamp(0, bins - 1)
        self._histogram += torch.bincount(latent * bins + which, minlength=n * bins).view(n, bins)
        if self._co_moment is not None and len(values):
            rows = int(place.max()) + 1
            matrix = sparse.csr_matrix((values.numpy(), (place.numpy(), latent.numpy())), shape=(rows, n))
            product = (matrix.T @ matrix).tocoo()
            self._co_moment[product.row, product.col] += product.data

    def _offer_top(self, acts: Tensor, windows: _Windows) -> None:
        """Offer each sequence's strongest position of each latent."""
        best, position = acts.max(dim=1)  # [batch, latents]
        hopeful = (best > 0) & (best > self._top.key[:, -1])
        chosen = hopeful.any(dim=0).nonzero().squeeze(1)
        if len(chosen):
            keys = torch.where(hopeful, best, -1.0)[:, chosen].T
            sequences = torch.arange(len(acts)).expand_as(keys)
            self._top.offer(chosen, keys, sequences, position[:, chosen].T, windows, distinct=True)

    def _offer_sample(self, place: Tensor, latent: Tensor, values: Tensor, windows: _Windows) -> None:
        """Offer every firing under a pseudo-random key: those with the largest keys are a uniform sample."""
        context = windows.context
        sequence, position = place // context, place % context
        corpus_place = (sequence + self.sequences_seen) * 1_000_003 + position
        keys = _scramble(corpus_place * 2_654_435_761 + latent * 40_503 + self.seed * 97)
        hopeful = keys > self._sample.key[latent, -1]
        keys, latent, sequence, position = (x[hopeful] for x in (keys, latent, sequence, position))
        order = torch.argsort(keys, descending=True, stable=True)
        order = order[torch.argsort(latent[order], stable=True)]
        keys, latent, sequence, position = (x[order] for x in (keys, latent, sequence, position))
        chosen, which, counts = torch.unique_consecutive(latent, return_inverse=True, return_counts=True)
        if not len(chosen):
            return
        rank = torch.arange(len(latent)) - (counts.cumsum(0) - counts)[which]
        keep = rank < self._sample.size
        width = min(int(counts.max()), self._sample.size)
        table = torch.full((3, len(chosen), width), -1, dtype=torch.long)
        table[:, which[keep], rank[keep]] = torch.stack([keys, sequence, position])[:, keep]
        self._sample.offer(chosen, table[0], table[1].clamp_min(0), table[2].clamp_min(0), windows, distinct=False)

    def finish(self, latents: Sequence[int] | Tensor | None = None) -> LatentScan:
        """The scan so far; `latents` names the rows (0, 1, 2, ... by default)."""
        names = np.arange(self.n_latents) if latents is None else np.asarray(latents, dtype=np.int64)
        return LatentScan(
            latents=names,
            tokens_seen=self.tokens_seen,
            left=self.left,
            fired=self._fired.numpy().copy(),
            total=self._total.numpy().copy(),
            total_square=self._total_square.numpy().copy(),
            maximum=self._maximum.numpy().copy(),
            histogram=self._histogram.numpy().copy(),
            **self._top.arrays("top"),
            **self._sample.arrays("sample"),
            co_moment=None if self._co_moment is None else self._co_moment.copy(),
        )


class _Windows:
    """Cuts windows out of one slice of text, only where they are needed."""

    def __init__(self, tokens: Tensor, acts: Tensor, left: int, right: int, weights: Tensor, first_sequence: int):
        self.context, self.first_sequence, self.left = tokens.shape[1], first_sequence, left
        self.offsets = torch.arange(-left, right + 1)
        self.tokens = torch.nn.functional.pad(tokens, (left, right), value=NO_TOKEN)
        self.acts = acts
        past = self.tokens[:, : left + self.context].unfold(1, left + 1, 1)  # [batch, context, left + 1]
        self.hashes = ((past + 2) * weights).sum(-1)

    def cut(self, sequence: Tensor, position: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        columns = position[:, None] + self.offsets  # [n, window]
        tokens = self.tokens[sequence[:, None], columns + self.left]
        inside = (columns >= 0) & (columns < self.context)
        acts = self.acts[sequence[:, None], columns.clamp(0, self.context - 1), latent[:, None]]
        return tokens.int(), acts * inside


class _Kept:
    """For each latent the `size` entries with the largest key, sorted, with their windows."""

    def __init__(self, n_latents: int, size: int, left: int, window: int, key_dtype: torch.dtype):
        self.size, self.peak = size, left
        self.key = torch.full((n_latents, size), -1, dtype=key_dtype)
        self.hash = torch.zeros(n_latents, size, dtype=torch.long)
        self.place = torch.zeros(n_latents, size, 2, dtype=torch.int32)
        self.tokens = torch.full((n_latents, size, window), NO_TOKEN, dtype=torch.int32)
        self.acts = torch.zeros(n_latents, size, window)

    def offer(
        self, latents: Tensor, keys: Tensor, sequences: Tensor, positions: Tensor, windows: _Windows, *, distinct: bool
    ) -> None:
        """Merge candidates [chosen latents, n] into what is kept. A key of -1 marks an empty entry."""
        hashes = windows.hashes[sequences, positions]
        key = torch.cat([self.key[latents], keys.to(self.key.dtype)], dim=1)
        digest = torch.cat([self.hash[latents], hashes], dim=1)
        key, order = key.sort(dim=1, descending=True, stable=True)
        if distinct:
            digest_sorted = digest.gather(1, order)
            same = digest_sorted[:, :, None] == digest_sorted[:, None, :]
            repeated = same.tril(-1).any(dim=-1) & (key >= 0)
            key = torch.where(repeated, torch.full_like(key, -1), key)
            key, again = key.sort(dim=1, descending=True, stable=True)
            order = order.gather(1, again)
        key, order = key[:, : self.size], order[:, : self.size]
        old = order.clamp_max(self.size - 1)
        rows = latents[:, None].expand_as(old)
        place, tokens, acts = self.place[rows, old], self.tokens[rows, old], self.acts[rows, old]
        new_row, new_column = ((order >= self.size) & (key >= 0)).nonzero(as_tuple=True)
        candidate = order[new_row, new_column] - self.size
        sequence, position = sequences[new_row, candidate], positions[new_row, candidate]
        tokens[new_row, new_column], acts[new_row, new_column] = windows.cut(sequence, position, latents[new_row])
        place[new_row, new_column] = torch.stack([sequence + windows.first_sequence, position], dim=-1).int()
        self.key[latents], self.hash[latents] = key, digest.gather(1, order)
        self.place[latents], self.tokens[latents], self.acts[latents] = place, tokens, acts

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        value = torch.where(self.key >= 0, self.acts[..., self.peak], 0.0)
        return {
            f"{prefix}_value": value.numpy().copy(),
            f"{prefix}_place": self.place.numpy().copy(),
            f"{prefix}_tokens": self.tokens.numpy().copy(),
            f"{prefix}_acts": self.acts.numpy().copy(),
        }


def _scramble(x: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """A fixed pseudo-random number in [0, 2^62) for each integer (the SplitMix64 finaliser, on signed integers).

    Keys made this way depend on the place in the corpus only, so a sample is the same for every batch size.
    """
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (x ^ ((x >> 31) & ((1 << 33) - 1))) & ((1 << 62) - 1)


def _example(latent: int, value: float, place: np.ndarray, tokens: np.ndarray, acts: np.ndarray, left: int) -> Example:
    inside = tokens != NO_TOKEN
    return Example(
        latent=latent,
        value=float(value),
        sequence=int(place[0]),
        position=int(place[1]),
        tokens=tuple(tokens[inside].tolist()),
        acts=tuple(acts[inside].tolist()),
        peak=int(np.count_nonzero(inside[:left])),
    )


def _batches(tokens: Any, acts: Any) -> Iterable[LatentBatch]:
    if isinstance(acts, Tensor):
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        return [LatentBatch(tokens, acts, everywhere, 0)]
    return acts


def scan_stream(stream: Iterable[LatentBatch], latents: Sequence[int] | None = None, **options: Any) -> LatentScan:
    """A `LatentScan` of anything that yields `LatentBatch`es; `options` go to `LatentScanner`."""
    scanner: LatentScanner | None = None
    for batch in stream:
        scanner = scanner or LatentScanner(batch.acts.shape[-1], **options)
        scanner.update(batch.tokens, batch.acts, batch.counted)
    if scanner is None:
        raise ValueError("no text to scan: the stream was empty")
    return scanner.finish(latents)


def scan_latents(
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "sequences context"],
    latents: Sequence[int] | Tensor | None = None,
    *,
    k: int = 20,
    sample: int = 40,
    left: int = 20,
    right: int = 8,
    correlations: bool = False,
    seed: int = 0,
    hook_name: str | None = None,
    batch_size: int = 16,
    cache: bool = True,
    progress: bool = True,
) -> LatentScan:
    """Scan `tokens` once and collect examples, densities and histograms of many latents.

    The result is kept on disk (see `course_utils.features.cache`) under a key made from the weights of the SAE, the model, the
    tokens and every option, so the second call with the same inputs is instant and a changed input is never mistaken for it.

    Args:
        latents: which latents (all by default). See `LatentScanner` for `k`, `sample`, `left`, `right`, `correlations`.
        cache: False computes afresh and writes nothing.

    Example:
        scan = scan_latents(model, sae, tokens, latents=[12, 99])
        scan.density                    # fraction of tokens on which each fires
        scan.top(12)[0].value           # its strongest example
    """
    chosen = None if latents is None else [int(i) for i in latents]
    name = hook_name_of(sae, hook_name)

    def compute() -> dict[str, np.ndarray]:
        stream = latent_stream(model, sae, tokens, chosen, hook_name=name, batch_size=batch_size, progress=progress)
        options = {"k": k, "sample": sample, "left": left, "right": right, "correlations": correlations, "seed": seed}
        return scan_stream(stream, chosen, **options).arrays()

    if not cache:
        return LatentScan.from_arrays(compute())
    key = fingerprint("scan", 1, model, sae, tokens, chosen, name, k, sample, left, right, correlations, seed)
    return LatentScan.from_arrays(cached_arrays("scan", key, compute))


def max_activating_examples(
    tokens: Int[Tensor, "sequences context"],
    acts: Float[Tensor, "sequences context latents"] | Iterable[LatentBatch],
    k: int = 10,
    *,
    left: int = 20,
    right: int = 8,
) -> list[list[Example]]:
    """The `k` strongest contexts of each latent, best first; at most one a sequence, and no context twice.

    Args:
        acts: activations of one or more latents, or a stream of batches (`latent_stream(model, sae, tokens)`) for a corpus
            too large to hold them.
        left, right: tokens of context shown before and after the peak; cut at the ends of the sequence.

    Returns:
        one list for each latent; shorter than `k`, even empty, when the latent fires in fewer places.

    Example:
        >>> tokens = torch.arange(8).reshape(2, 4)
        >>> acts = torch.tensor([[0.0, 2, 0, 0], [0, 0, 0, 3.0]])[..., None]
        >>> [(e.value, e.position, e.tokens) for e in max_activating_examples(tokens, acts, left=1, right=1)[0]]
        [(3.0, 3, (6, 7)), (2.0, 1, (0, 1, 2))]
    """
    scan = scan_stream(_batches(tokens, acts), k=k, sample=0, left=left, right=right)
    return [scan.top(int(latent)) for latent in scan.latents]


def examples_by_quantile(
    tokens: Int[Tensor, "sequences context"],
    acts: Float[Tensor, "sequences context latents"] | Iterable[LatentBatch],
    bands: int = 5,
    per_band: int = 4,
    *,
    left: int = 20,
    right: int = 8,
    sample: int = 100,
    seed: int = 0,
) -> list[list[QuantileExamples]]:
    """Examples from weak to strong firings: the firings of a latent, ranked, are cut into `bands` equal shares.

    Looking only at the strongest examples makes a latent seem cleaner than it is (Bricken et al. 2023, "Towards
    Monosemanticity"). The quantiles are those of a uniform sample of `sample` firings a latent, so their error is about
    `sqrt(q (1 - q) / sample)`.

    Returns:
        for each latent its bands, strongest first.
    """
    scan = scan_stream(_batches(tokens, acts), k=1, sample=sample, left=left, right=right, seed=seed)
    return [scan.quantiles(int(latent), bands, per_band) for latent in scan.latents]


@dataclass(frozen=True)
class Density:
    """How often latents fire."""

    fired: Int[np.ndarray, " latents"]
    tokens_seen: int

    @property
    def density(self) -> Float[np.ndarray, " latents"]:
        """Fraction of tokens on which each latent is above zero."""
        return self.fired / max(self.tokens_seen, 1)

    @property
    def dead(self) -> Bool[np.ndarray, " latents"]:
        """Latents that never fired on this text. With N tokens, a latent of density 3/N is missed 5% of the time."""
        return self.fired == 0

    def dense(self, above: float = 0.1) -> Bool[np.ndarray, " latents"]:
        """Latents that fire on more than this fraction of tokens."""
        return self.density > above


def activation_density(acts: Float[Tensor, "*tokens latents"] | Iterable[Float[Tensor, "*tokens latents"]]) -> Density:
    """Count firings over all tokens, in one tensor or a stream of batches of any size.

    Every token weighs the same: counts are summed and divided once, because a mean of batch means would overweight the
    tokens of a short last batch.

    Example:
        >>> activation_density([torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0]])]).density.round(3)
        array([0.667, 0.   ])
    """
    fired, seen = None, 0
    for batch in [acts] if isinstance(acts, Tensor) else acts:
        if isinstance(batch, LatentBatch):
            count, n = (batch.acts > 0).flatten(0, -2).sum(0), int(batch.counted.sum())
        else:
            count, n = (batch > 0).flatten(0, -2).sum(0), batch.shape[:-1].numel()
        fired, seen = count.cpu() if fired is None else fired + count.cpu(), seen + n
    if fired is None:
        raise ValueError("no activations to count: the stream was empty")
    return Density(fired.numpy(), seen)
