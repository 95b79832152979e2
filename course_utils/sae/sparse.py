"""Sparse latents and the products with them: decoding by gather, gradients over active latents only, exact top-k.

Every function here that is fast has a plain twin (`*_plain`), the definition in dense PyTorch; tests hold them equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Pre-activations that are computed and searched at once, in bytes: 512 float32 rows of 4,608 latents, or 1,024 in bfloat16.
# So the search reads them from cache, and the full matrix of pre-activations never exists.
CHUNK_BYTES = 512 * 4608 * 4


@dataclass
class SparseLatents:
    """Active latents of a batch, row after row (compressed sparse rows).

    Attributes:
        values: `[active]`, not negative.
        indices: `[active]`, which latent each value belongs to.
        offsets: `[batch + 1]`: row `i` owns `values[offsets[i]:offsets[i + 1]]`. In topk each row owns exactly k.
        d_sae: number of latents.
    """

    values: Float[Tensor, " active"]
    indices: Int[Tensor, " active"]
    offsets: Int[Tensor, " batch_plus_1"]
    d_sae: int
    _by_latent: tuple[Tensor, Tensor, Tensor] | None = field(default=None, repr=False, compare=False)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.offsets) - 1

    def rows(self) -> Int[Tensor, " active"]:
        """The sample each value belongs to."""
        counts = self.offsets.diff()
        return torch.repeat_interleave(
            torch.arange(self.batch, device=counts.device), counts, output_size=len(self.indices)
        )

    def to_dense(self) -> Float[Tensor, "batch d_sae"]:
        """The same latents as a dense tensor; gradients flow through."""
        dense = self.values.new_zeros(self.batch * self.d_sae)
        return dense.index_put((self.rows() * self.d_sae + self.indices,), self.values).view(self.batch, self.d_sae)

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Which latents are above zero in at least one sample."""
        positive = (self.values.detach() > 0).float()
        return positive.new_zeros(self.d_sae).index_add_(0, self.indices, positive) > 0

    def within(self, low: int, high: int) -> SparseLatents:
        """Only the latents `low <= index < high`, keeping their numbers; gradients flow through the values."""
        keep = (self.indices >= low) & (self.indices < high)
        kept_before = F.pad(keep.cumsum(0), (1, 0))
        return SparseLatents(self.values[keep], self.indices[keep], kept_before[self.offsets], self.d_sae)

    def by_latent(self) -> tuple[Int[Tensor, " active"], Int[Tensor, " active"], Int[Tensor, " d_sae_plus_1"]]:
        """The transpose: a permutation that sorts by latent, the sample of each sorted entry, where each latent starts.

        Made once and kept, since the decoder's and the encoder's gradients both need it.
        """
        if self._by_latent is None:
            # PyTorch sorts short integers by counting, four times quicker than long ones
            keys = self.indices.to(torch.int16) if self.d_sae < 2**15 else self.indices
            order = keys.sort(stable=True).indices
            counts = torch.bincount(self.indices, minlength=self.d_sae)
            self._by_latent = order, self.rows().index_select(0, order), F.pad(counts.cumsum(0), (1, 0))
        return self._by_latent

    @classmethod
    def from_dense(cls, dense: Float[Tensor, "batch d_sae"]) -> SparseLatents:
        """The entries of `dense` above zero; gradients flow through."""
        rows, indices = (dense.detach() > 0).nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(dense))
        return cls(dense[rows, indices], indices, F.pad(counts.cumsum(0), (1, 0)), dense.shape[1])

    @classmethod
    def from_rows(cls, values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], d_sae: int) -> SparseLatents:
        """The same number of entries in every row."""
        batch, k = values.shape
        offsets = torch.arange(0, batch * k + 1, k, device=values.device)
        return cls(values.flatten(), indices.flatten(), offsets, d_sae)


def gather_sum(
    table: Float[Tensor, "n d"],
    indices: Int[Tensor, " active"],
    offsets: Int[Tensor, " m_plus_1"],
    weights: Float[Tensor, " active"],
) -> Float[Tensor, "m d"]:
    """Row `i` is the sum of `weights[j] * table[indices[j]]` over its own entries: a sparse matrix times `table`."""
    return F.embedding_bag(
        indices, table, offsets, mode="sum", per_sample_weights=weights.to(table.dtype), include_last_offset=True
    )


def gather_dot(
    left: Float[Tensor, "batch d"], table: Float[Tensor, "d_sae d"], latents: SparseLatents
) -> Float[Tensor, " active"]:
    """For every active entry (row, index): `left[row] . table[index]`, the sampled entries of `left @ table.T`.

    The kernel behind embedding_bag's own gradient; nothing else in PyTorch computes sampled products without a copy of
    every gathered row (7 ms against 270 ms for gather and bmm at 2048 x 32 x 576). It walks latent by latent, so that each
    row of the large table is read once; in narrow types it is slower, so it always runs in the table's own precision.
    """
    order, rows, offsets = latents.by_latent()
    by_latent = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        table, left.contiguous(), rows, offsets[:-1], latents.indices[order], 0
    )
    return torch.empty_like(by_latent).index_copy_(0, order, by_latent)


def gather_dot_plain(left: Tensor, table: Tensor, latents: SparseLatents) -> Tensor:
    """Plain twin of `gather_dot`."""
    return (left @ table.T)[latents.rows(), latents.indices]


@dataclass
class DeadSample:
    """Which latents are dead, and the rows of the batch on which AuxK is estimated."""

    latents: Int[Tensor, " dead"]
    rows: slice


class _SparseDecode(torch.autograd.Function):
    """`f W_dec + b_dec` for sparse `f`, all three gradients over active entries only.

    The AuxK reconstruction `dead_f W_dec[dead]` rides along: added inside, its gradient touches only the dead rows, while
    summing two full gradients of `W_dec` outside would cost more than the products themselves.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        latents: SparseLatents,
        dtype: torch.dtype,
        dead_f: Tensor | None,
        dead: DeadSample | None,
    ) -> tuple[Tensor, Tensor | None]:
        # a narrow table halves the memory traffic that gathering consists of; sums are kept in float32 all the same
        x_hat = gather_sum(W_dec.to(dtype), latents.indices, latents.offsets, values).to(b_dec.dtype).add_(b_dec)
        dead_rows = None if dead is None else W_dec[dead.latents].to(dtype)
        ctx.save_for_backward(values, W_dec, dead_f, dead_rows)
        ctx.latents, ctx.dtype, ctx.dead = latents, dtype, dead
        return x_hat, None if dead_f is None or dead_rows is None else (dead_f.to(dtype) @ dead_rows).to(x_hat.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, d_aux: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, W_dec, dead_f, dead_rows = ctx.saved_tensors
        latents, needed = ctx.latents, ctx.needs_input_grad
        gradient = gradient.to(W_dec.dtype)
        d_values = gather_dot(gradient, W_dec, latents) if needed[0] else None
        d_W = d_dead_f = None
        if needed[1]:
            order, rows, offsets = latents.by_latent()
            d_W = gather_sum(gradient.to(ctx.dtype), rows, offsets, values.index_select(0, order)).to(W_dec.dtype)
        if dead_f is not None and d_aux is not None:
            d_aux = d_aux.to(ctx.dtype)
            d_dead_f = (d_aux @ dead_rows.T).to(dead_f.dtype)
            if d_W is not None:
                d_W.index_add_(0, ctx.dead.latents, (dead_f.to(ctx.dtype).T @ d_aux).to(d_W.dtype))
        return d_values, d_W, gradient.sum(0) if needed[2] else None, None, None, d_dead_f, None


def sparse_decode(
    latents: SparseLatents,
    W_dec: Float[Tensor, "d_sae d_in"],
    b_dec: Float[Tensor, " d_in"],
    dead_f: Float[Tensor, "rows dead"] | None = None,
    dead: DeadSample | None = None,
) -> tuple[Float[Tensor, "batch d_in"], Float[Tensor, "rows d_in"] | None]:
    """`latents @ W_dec + b_dec` by gathering the active rows of `W_dec`; also `dead_f @ W_dec[dead]` where asked for."""
    return _SparseDecode.apply(latents.values, W_dec, b_dec, latents, compute_dtype(W_dec), dead_f, dead)


def compute_dtype(weights: Tensor) -> torch.dtype:
    """The dtype of products: autocast's where it is on for this device, otherwise the weights' own."""
    kind = weights.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weights.dtype


# ---- encoding: pre-activations chunk by chunk, and the selection ---------------------------------------------------------


GROUP = 16  # latents searched as one
_SEARCHES = (((8, 4), 4), ((4, 4), 2))
"""How a row may be searched: in groups of 32, then of 8, then one by one, if there are at least 4 k groups; or with 16 and 4."""
_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def row_topk(pre: Float[Tensor, "batch n"], k: int) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The k largest entries of each row with their indices, in no order; exact for entries above zero.

    The k largest entries lie in the k groups with the largest maxima, so only those groups are searched, and within them
    again only k smaller groups. A group is every (n / size)-th entry, so that the maxima of neighbouring groups are taken side
    by side: 512 x 4608 take 2 ms against 7 for `topk` (two threads). Floats above zero keep their order when their bits are
    read as integers, which compare quicker. Ties may be broken differently than by `topk`, and a row with fewer than k entries
    above zero is filled up with any others: they end as zeros after the ReLU.
    """
    sizes = _search(pre.shape[1], k) if pre.device.type == "cpu" and pre.dtype in _BITS else ()
    if not sizes:
        return pre.topk(k, dim=-1, sorted=False)  # type: ignore[return-value]
    tables = [pre.contiguous().view(_BITS[pre.dtype])]
    for size in sizes:
        tables.append(tables[-1].view(len(pre), size, -1).amax(1))
    indices = _positions_of_largest(tables.pop(), k)
    for size, table in zip(reversed(sizes), reversed(tables), strict=True):
        starts = torch.arange(0, table.shape[1], table.shape[1] // size)
        members = (indices[:, None, :] + starts[:, None]).flatten(1)
        indices = members.gather(1, _positions_of_largest(table.gather(1, members), k))
    return pre.gather(1, indices), indices


def _positions_of_largest(rows: Int[Tensor, "batch n"], k: int) -> Int[Tensor, "batch k"]:
    """Where the k largest numbers of each row stand.

    A number of 16 bits and its position fit into one integer of 32, and NumPy parts such integers with vector instructions:
    1 ms for 2048 x 256, against 5 for `topk` (two threads).
    """
    if rows.dtype != torch.int16 or rows.shape[1] >= 2**16 or torch.compiler.is_compiling():
        return rows.topk(k, dim=-1, sorted=False).indices
    keys = (rows.to(torch.int32) << 16) | torch.arange(rows.shape[1], dtype=torch.int32)
    found = keys.numpy()
    found.partition(rows.shape[1] - k, axis=1)
    return torch.from_numpy(found[:, -k:] & 0xFFFF).long()


def _search(n: int, k: int) -> tuple[int, ...]:
    """The group sizes to search with; none where the plain `topk` is as quick."""
    for sizes, least in _SEARCHES:
        groups, rest = divmod(n, math.prod(sizes))
        if not rest and groups >= least * k:
            return sizes
    return ()


def positions_above(pre: Float[Tensor, "batch n"], floor: float) -> Int[Tensor, " found"]:
    """Flat positions of all entries above `floor`, in order; groups whose maximum is not above it are skipped."""
    if pre.device.type != "cpu" or pre.shape[1] % GROUP:
        return (pre.reshape(-1) > floor).nonzero().squeeze(1)
    groups = (F.max_pool1d(pre, GROUP).view(-1) > floor).nonzero().squeeze(1)
    candidates = pre.reshape(-1, GROUP).index_select(0, groups)
    inside = (candidates.view(-1) > floor).nonzero().squeeze(1)
    return groups[inside // GROUP] * GROUP + inside % GROUP


class RowTopK:
    """Selects the k largest pre-activations of every sample (Gao et al. 2024)."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, pre: Float[Tensor, "chunk d_sae"]) -> None:
        """Search one chunk; the pre-activations may be overwritten afterwards."""
        self.parts.append(row_topk(pre, self.k))

    def result(self, d_sae: int) -> SparseLatents | None:
        """The selection over all chunks, with ReLU."""
        values, indices = (torch.cat(part) for part in zip(*self.parts))
        return SparseLatents.from_rows(values.relu_(), indices, d_sae)


class BatchTopK:
    """Selects the `k * batch` largest positive pre-activations of the whole batch, exactly, in one streaming pass.

    The flat top-k over all entries is most of the cost of a plain BatchTopK step. Here each chunk contributes only its
    entries above `floor`; whenever twice the wanted number has gathered, the list is cut to the wanted number and `floor`
    rises to its smallest entry. Any entry of the final selection is among the largest so far at every moment, so nothing
    is lost. A good first `floor` (the previous batches' threshold) only saves work: when it was too high, fewer than
    wanted are found, and `result` says so by None; the caller starts again from 0.
    """

    def __init__(self, wanted: int, floor: float = 0.0) -> None:
        self.wanted, self.first_floor, self.floor = wanted, floor, floor
        self.values: list[Tensor] = []
        self.positions: list[Tensor] = []  # row * d_sae + latent, over the whole batch
        self.rows = self.found = 0

    def add(self, pre: Float[Tensor, "chunk d_sae"]) -> None:
        """Search one chunk; the pre-activations may be overwritten afterwards."""
        positions = positions_above(pre, self.floor)
        self.values.append(pre.reshape(-1)[positions])
        self.positions.append(positions + self.rows * pre.shape[1])
        self.rows += len(pre)
        self.found += len(positions)
        if self.found > 2 * self.wanted:
            self.cut()

    def cut(self) -> None:
        """Keep the `wanted` largest gathered so far, in their order; of equal ones at the edge the first."""
        values, positions = torch.cat(self.values), torch.cat(self.positions)
        if len(values) > self.wanted:
            edge = values.topk(self.wanted, sorted=False).values.min()
            keep = values > edge
            ties = (values == edge).nonzero().squeeze(1)
            keep[ties[: self.wanted - int(keep.sum())]] = True
            values, positions = values[keep], positions[keep]
            self.floor = float(edge)
        self.values, self.positions, self.found = [values], [positions], len(values)

    def result(self, d_sae: int) -> SparseLatents | None:
        """The selection over all chunks, or None when the first floor was too high for it to be exact."""
        self.cut()
        if self.found < self.wanted and self.first_floor > 0:
            return None
        values, positions = self.values[0], self.positions[0]
        rows = positions.div(d_sae, rounding_mode="floor")
        offsets = F.pad(torch.bincount(rows, minlength=self.rows).cumsum(0), (1, 0))
        return SparseLatents(values, positions - rows * d_sae, offsets, d_sae)


class Threshold:
    """Selects every pre-activation above one learned number (BatchTopK at inference)."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.parts: list[SparseLatents] = []

    def add(self, pre: Float[Tensor, "chunk d_sae"]) -> None:
        """Search one chunk."""
        self.parts.append(SparseLatents.from_dense(pre * (pre > self.threshold)))

    def result(self, d_sae: int) -> SparseLatents | None:
        """The selection over all chunks."""
        counts = torch.cat([part.offsets.diff() for part in self.parts])
        values = torch.cat([part.values for part in self.parts])
        return SparseLatents(
            values, torch.cat([part.indices for part in self.parts]), F.pad(counts.cumsum(0), (1, 0)), d_sae
        )


def select_latents(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    selectors: list[Any],
) -> SparseLatents:
    """Pre-activations `x W_enc + b_enc` in cache-sized chunks, searched at once by the first selector that succeeds."""
    d_sae = W_enc.shape[1]
    size = max(1, CHUNK_BYTES // (d_sae * x.element_size())) if x.device.type == "cpu" else len(x)
    pre = torch.empty(
        min(size, len(x)), d_sae, dtype=x.dtype, device=x.device
    )  # one buffer stays in cache: 10% of the product
    for selector in selectors:
        for chunk in x.split(size):
            selector.add(torch.addmm(b_enc, chunk, W_enc, out=pre[: len(chunk)]))
        if (found := selector.result(d_sae)) is not None:
            return found
    raise AssertionError("the last selector must always succeed")


class _SparseEncode(torch.autograd.Function):
    """Selected latents of `(x - b_dec) W_enc + b_enc`; gradients over the selected entries only.

    The gradient of `b_dec` needs no product of batch size: it is `-W_enc (sum over the batch of d_pre)`. Pre-activations
    of dead latents on a few rows ride along for AuxK, as in `_SparseDecode`; `b_dec` does not learn from those.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor | None,
        selectors: list[Any],
        dtype: torch.dtype,
        dead: DeadSample | None,
    ) -> tuple[Tensor, SparseLatents, Tensor | None]:
        centred = (x if b_dec is None else x - b_dec).to(dtype)
        narrow, bias = W_enc.to(dtype), b_enc.to(dtype)
        latents = select_latents(centred, narrow, bias, selectors)
        latents.values = latents.values.to(W_enc.dtype)
        dead_pre = None
        if dead is not None:
            dead_pre = (centred[dead.rows] @ narrow.T[dead.latents].T + bias[dead.latents]).to(W_enc.dtype)
        ctx.save_for_backward(centred, W_enc, latents.values)
        ctx.latents, ctx.kind, ctx.dead = latents, x.dtype, dead
        return latents.values, latents, dead_pre

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, d_values: Tensor, _: Any, d_dead: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        centred, W_enc, values = ctx.saved_tensors
        latents, needed, dead = ctx.latents, ctx.needs_input_grad, ctx.dead
        d_pre = d_values * (values > 0)  # ReLU
        order, rows, offsets = latents.by_latent()
        d_b = torch.zeros(latents.d_sae, dtype=d_pre.dtype, device=d_pre.device).index_add_(0, latents.indices, d_pre)
        d_b_dec = -(W_enc @ d_b) if needed[3] else None
        d_x = gather_sum(W_enc.T, latents.indices, latents.offsets, d_pre).to(ctx.kind) if needed[0] else None
        d_rows = None
        if needed[1]:
            d_rows = gather_sum(centred, rows, offsets, d_pre.index_select(0, order)).to(W_enc.dtype)
        if dead is not None and d_dead is not None:
            if d_rows is not None:
                from_dead = d_dead.to(centred.dtype).T @ centred[dead.rows]
                d_rows.index_add_(0, dead.latents, from_dead.to(d_rows.dtype))
            d_b.index_add_(0, dead.latents, d_dead.sum(0))
        return d_x, None if d_rows is None else d_rows.T, d_b if needed[2] else None, d_b_dec, None, None, None


def sparse_encode(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_in"] | None,
    selectors: list[Any],
    dead: DeadSample | None = None,
) -> tuple[SparseLatents, Float[Tensor, "rows dead"] | None]:
    """The selected latents of `(x - b_dec) W_enc + b_enc`, without ever holding all pre-activations.

    Args:
        selectors: what to select: `RowTopK`, `BatchTopK`, `Threshold`; later ones stand in when an earlier one gives up.
        dead: latents and rows for AuxK.

    Returns:
        The latents, and the pre-activations of dead latents on the chosen rows (None without `dead`).
    """
    values, latents, dead_pre = _SparseEncode.apply(x, W_enc, b_enc, b_dec, selectors, compute_dtype(W_enc), dead)
    latents.values = values  # the tensor that carries the gradient
    return latents, dead_pre
