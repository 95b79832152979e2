"""Collect activations at any hook point of a language model, keep them on disk, and stream them shuffled into training.

What is left out, on purpose and counted: BOS positions (their norm is some 150 times the median, and one latent would
spend itself on them), padding, and *massive* tokens: a few others (a first delimiter, a stray newline) also serve as
attention sinks and carry norms above ten times the median (Sun et al. 2024, "Massive activations in large language
models"). In SmolLM2 that is about one token in several thousand, yet each would weigh as much as ten thousand ordinary
ones in a squared error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from course_utils.io import write_json
from course_utils.precision import warn_if_slow

MASSIVE_NORM_RATIO = 10.0
"""A token whose activation is longer than this many median lengths is left out (and counted)."""
SAVE_EVERY_S = 15.0  # how much work an interruption can cost
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class CollectedActivations:
    """Activations at one hook point, one row a token, in the order of the text.

    Attributes:
        acts: `[rows, d]` in the storage precision; backed by the file when one was given.
        sequence: `[rows]`, which row of the token tensor each activation comes from.
        position: `[rows]`, which column.
        hook_name: where they were read.
        dropped: how many positions were left out, by reason: `bos`, `padding`, `massive`.
        median_norm: the median length, on which the limit for massive tokens rests.
        seconds: time spent collecting (for all hook points of one call together).
    """

    acts: Float[Tensor, "rows d"]
    sequence: Int[Tensor, " rows"]
    position: Int[Tensor, " rows"]
    hook_name: str
    dropped: dict[str, int]
    median_norm: float
    seconds: float = 0.0
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.acts)

    @property
    def d(self) -> int:
        """Width of an activation."""
        return self.acts.shape[1]

    def shuffled(self, batch_size: int, *, seed: int = 0) -> Iterator[Float[Tensor, "batch d"]]:
        """One pass in a new order: float32 batches, every row once, the last batch as long as what is left.

        Rows of one sequence resemble one another, so a batch of neighbours would give a biased gradient. From a file, rows
        are read in ascending order within a batch: the order inside a batch does not matter and disks prefer it.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for rows in order.split(batch_size):
            yield self.acts[rows.sort().values].float()

    def tokens_of(self, tokens: Int[Tensor, "sequences context"]) -> Int[Tensor, " rows"]:
        """The token at each row."""
        return tokens[self.sequence.long(), self.position.long()]


def collect_activations(
    model: Any,
    tokens: Any,
    hook_name: str | Sequence[str],
    *,
    attention_mask: Bool[Tensor, "sequences context"] | None = None,
    drop_bos: bool = True,
    bos: int | None = None,
    max_norm_ratio: float | None = MASSIVE_NORM_RATIO,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    precision: Literal["float32", "bfloat16"] = "float32",
    path: str | os.PathLike[str] | None = None,
    resume: bool = True,
    max_rows: int | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> Any:
    """Run `model` over `tokens` and keep its activations at one or several hook points.

    The forward pass stops at the deepest layer that is needed. With several hook points everything is read in one pass, and
    row `i` is the same token in each of them.

    Args:
        model: a TransformerLens model.
        tokens: `[sequences, context]` token ids, or `PackedTokens`.
        hook_name: `"blocks.11.hook_resid_post"`, `"blocks.3.hook_mlp_out"`, `"blocks.3.mlp.hook_post"`,
            `"blocks.3.hook_attn_out"`, `"blocks.3.attn.hook_z"` (heads joined into one axis) or any other; a list gives a
            dictionary.
        attention_mask: True where there is text. Needed when `tokens` are padded (the padding token's id does not do: in
            SmolLM2 it also ends a turn of a chat). Padding must be on the right, where it cannot change the rest.
        drop_bos: leave out every position that holds BOS.
        bos: its id; by default the tokenizer's.
        max_norm_ratio: leave out tokens longer than this many median lengths at any of the hook points; None keeps them.
            The median is that of the first batch, so that a resumed run decides alike.
        dtype: storage. bfloat16 halves the file and keeps the range of float32; float16 overflows above 65,504.
        precision: of the forward pass. `benchmarks/results` has what bfloat16 gains and costs; where the processor is slow
            in it, a warning says how slow.
        path: a folder to write to. The result is then memory-mapped, and may be larger than memory.
        resume: go on from an interrupted run in `path` (with the same tokens, model and settings), or use a finished one.
        max_rows: stop when this many rows are collected.
        batch_size: sequences a forward pass.
        progress: show a bar with tokens per second.

    Returns:
        One `CollectedActivations`, or a dictionary by hook name when a list was given.

    Errors:
        ValueError: for tokens that are not two-dimensional, padding on the left, or a folder made with other settings.
        KeyError: for a hook point the model does not have.

    Example:
        >>> found = collect_activations(model, packed, "blocks.11.hook_resid_post", path="acts")  # doctest: +SKIP
        >>> found.acts.shape, found.dropped                                                      # doctest: +SKIP
    """
    names = [hook_name] if isinstance(hook_name, str) else list(hook_name)
    ids = torch.as_tensor(getattr(tokens, "tokens", tokens))
    counted = _counted(ids, attention_mask, _bos_id(model, tokens, bos) if drop_bos else None)
    capture = HookReader(model, names, precision)
    settings = {
        "hooks": names,
        "dtype": dtype,
        "precision": precision,
        "max_norm_ratio": max_norm_ratio,
        "max_rows": max_rows,
        "batch_size": batch_size,
        "tokens": _fingerprint(ids, counted),
        "model": _model_fingerprint(model),
    }
    capacity = min(int(counted.sum()), max_rows or ids.numel())
    first = capture(ids[:1])
    table = _Table(path, settings, {name: first[name].shape[-1] for name in names}, capacity, dtype, resume)
    if not table.complete:
        _fill(table, capture, ids, counted, batch_size, max_norm_ratio, max_rows, progress)
    if "dropped" not in table.state:
        seen = counted[: table.state["sequences_done"]]
        pads = 0 if attention_mask is None else int((~attention_mask.bool())[: len(seen)].sum())
        left_out = seen.numel() - int(seen.sum()) - pads
        table.state["dropped"] = {"bos": left_out, "padding": pads, "massive": table.state["massive"]}
        table.write_note()
    result = table.finish()
    return result[names[0]] if isinstance(hook_name, str) else result


class HookReader:
    """Reads hook points with a forward pass that goes no deeper than needed.

    Example:
        >>> read = HookReader(model, ["blocks.3.hook_mlp_out"])     # doctest: +SKIP
        >>> read(tokens)["blocks.3.hook_mlp_out"].shape             # doctest: +SKIP
    """

    def __init__(self, model: Any, names: Sequence[str], precision: Literal["float32", "bfloat16"] = "float32") -> None:
        known = getattr(model, "hook_dict", {})
        if missing := [name for name in names if known and name not in known]:
            raise KeyError(f"the model has no hook point {missing[0]!r}; see model.hook_dict for those it has")
        self.model, self.names = model, list(names)
        self.source = {name: _earliest_twin(name) if _earliest_twin(name) in known else name for name in names}
        layers = [layer_of(source) for source in self.source.values()]
        self.stop_at_layer = None if None in layers else max(layers) + 1  # type: ignore[type-var, operator]
        self.device = next(model.parameters()).device
        self.precision = precision
        warn_if_slow(precision, str(self.device))

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "batch context"]) -> dict[str, Float[Tensor, "batch context d"]]:
        """Activations by hook name; head axes are joined into one."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(activation: Tensor, hook: Any) -> None:
                found[name] = activation.detach()

            return hook

        low = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if low else nullcontext():
            self.model.run_with_hooks(
                tokens.to(self.device),
                fwd_hooks=[(source, keep(source)) for source in dict.fromkeys(self.source.values())],
                stop_at_layer=self.stop_at_layer,
                return_type=None,
            )
        return {name: found[source].flatten(2) for name, source in self.source.items()}


def layer_of(hook_name: str) -> int | None:
    """The block a hook point belongs to; -1 for those before the first block, None for those after the last.

    Example:
        >>> layer_of("blocks.11.hook_resid_post"), layer_of("hook_embed"), layer_of("ln_final.hook_normalized")
        (11, -1, None)
    """
    if match := re.match(r"blocks\.(\d+)\.", hook_name):
        return int(match.group(1))
    return -1 if re.match(r"(hook_)?(pos_)?embed|rotary", hook_name) else None


def _earliest_twin(name: str) -> str:
    """What enters block L is what left block L - 1: reading it there saves running block L."""
    match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", name)
    return f"blocks.{int(match.group(1)) - 1}.hook_resid_post" if match and int(match.group(1)) else name


def _counted(ids: Tensor, attention_mask: Tensor | None, bos: int | None) -> Bool[Tensor, "sequences context"]:
    if ids.ndim != 2:
        raise ValueError(f"tokens must be [sequences, context], got shape {tuple(ids.shape)}")
    counted = torch.ones_like(ids, dtype=torch.bool)
    if attention_mask is not None:
        mask = attention_mask.bool()
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask has shape {tuple(mask.shape)}, tokens have {tuple(ids.shape)}")
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError(
                "text follows padding in attention_mask: pad on the right (tokenizer.padding_side = 'right'), where padding "
                "cannot change the activations of the text before it"
            )
        counted &= mask
    if bos is not None:
        counted &= ids != bos
    return counted


def _bos_id(model: Any, tokens: Any, bos: int | None) -> int | None:
    if bos is not None:
        return bos
    if (packed := getattr(tokens, "bos", None)) is not None:
        return packed
    return getattr(getattr(model, "tokenizer", None), "bos_token_id", None)


def _fill(
    table: _Table,
    capture: HookReader,
    ids: Tensor,
    counted: Tensor,
    batch_size: int,
    max_norm_ratio: float | None,
    max_rows: int | None,
    progress: bool,
) -> None:
    """Run what is left of the tokens through the model, batch by batch, into the table."""
    state = table.state
    saved = time.monotonic()
    total = int(counted.sum()) if max_rows is None else max_rows
    with tqdm(
        total=total,
        initial=min(state["rows"], total),
        desc="activations",
        unit="token",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        while state["sequences_done"] < len(ids) and not (max_rows and state["rows"] >= max_rows):
            begun = time.monotonic()
            start = state["sequences_done"]
            batch, mask = ids[start : start + batch_size], counted[start : start + batch_size]
            found = capture(batch)
            keep, massive = _without_massive(found, mask, state["median_norm"], max_norm_ratio)
            rows = keep.nonzero()
            if max_rows:
                rows = rows[: max_rows - state["rows"]]
            table.append({name: a[rows[:, 0], rows[:, 1]] for name, a in found.items()}, rows, start)
            state["massive"] += massive
            state["sequences_done"] = start + len(batch)
            state["seconds"] += time.monotonic() - begun
            bar.update(len(rows) + massive)
            if time.monotonic() - saved > SAVE_EVERY_S:
                table.save()
                saved = time.monotonic()
    table.complete = True
    table.save()


def _without_massive(
    found: dict[str, Tensor], mask: Tensor, medians: dict[str, float], ratio: float | None
) -> tuple[Bool[Tensor, "batch context"], int]:
    """Which positions to keep, and how many counted ones were massive at any hook point."""
    keep = mask.clone()
    for name, activations in found.items():
        norms = activations.float().norm(dim=-1).cpu()
        if name not in medians:
            if not bool(mask.any()):
                continue
            medians[name] = float(norms[mask].median())
        if ratio is not None:
            keep &= norms <= ratio * medians[name]
    return keep, int(mask.sum() - keep.sum())


class _Table:
    """Rows of several hook points, in memory or in files that grow and can be taken up again."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        settings: dict[str, Any],
        widths: dict[str, int],
        capacity: int,
        dtype: str,
        resume: bool,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.settings, self.widths, self.capacity, self.dtype = settings, widths, capacity, DTYPES[dtype]
        self.state: dict[str, Any] = {"rows": 0, "sequences_done": 0, "massive": 0, "median_norm": {}, "seconds": 0.0}
        self.complete = False
        self.mapped: list[np.memmap] = []
        if self.path is not None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_up(resume)
        self.columns = {
            name: self._column(_file_name(name), (capacity, width), self.dtype) for name, width in widths.items()
        }
        self.index = self._column("index", (capacity, 2), torch.int32)

    def _take_up(self, resume: bool) -> None:
        note = self.path / "meta.json"  # type: ignore[operator]
        if not note.exists():
            return
        meta = json.loads(note.read_text(encoding="utf-8"))
        if not resume:
            note.unlink()
            return
        if meta["settings"] != json.loads(json.dumps(self.settings)):
            differing = [key for key in self.settings if meta["settings"].get(key) != self.settings[key]]
            raise ValueError(
                f"{self.path} holds activations collected with other {', '.join(differing)}: name another folder, or pass "
                "resume=False to replace them"
            )
        self.state, self.complete = meta["state"], meta["complete"]
        sizes = {**{_file_name(name): width * self.dtype.itemsize for name, width in self.widths.items()}, "index": 8}
        for name, row_bytes in sizes.items():
            file = self.path / f"{name}.bin"  # type: ignore[operator]
            if not file.exists() or file.stat().st_size < self.state["rows"] * row_bytes:
                raise ValueError(f"{file} is missing or cut short: pass resume=False to collect again")

    def _column(self, name: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        if self.path is None:
            return torch.empty(shape, dtype=dtype)
        rows = self.state["rows"] if self.complete else shape[0]
        file = self.path / f"{name}.bin"
        if not self.complete:
            with open(file, "ab") as grown:
                grown.truncate(max(rows * shape[1] * dtype.itemsize, 1))  # sparse: takes no room until written
        if rows == 0:
            return torch.empty((0, shape[1]), dtype=dtype)
        mapped = np.memmap(
            file, dtype=np.uint8, mode="c" if self.complete else "r+", shape=(rows * shape[1] * dtype.itemsize,)
        )
        if not self.complete:
            self.mapped.append(mapped)
        return torch.from_numpy(mapped).view(dtype).view(rows, shape[1])

    def append(self, values: dict[str, Tensor], rows: Tensor, first_sequence: int) -> None:
        begin, end = self.state["rows"], self.state["rows"] + len(rows)
        for name, column in self.columns.items():
            column[begin:end] = values[name].to(column.dtype).cpu()
            if column.dtype == torch.float16 and not bool(column[begin:end].isfinite().all()):
                raise ValueError(f"an activation at {name} does not fit into float16 (65,504): use dtype='bfloat16'")
        self.index[begin:end, 0] = (rows[:, 0] + first_sequence).int().cpu()
        self.index[begin:end, 1] = rows[:, 1].int().cpu()
        self.state["rows"] = end

    def save(self) -> None:
        """Make what was written so far survive: data first, then the note that says how much of it counts."""
        if self.path is None:
            return
        for mapped in self.mapped:
            mapped.flush()
        if self.complete:
            self._trim()
        self.write_note()

    def write_note(self) -> None:
        """Say on disk what is there and how it was made."""
        if self.path is None:
            return
        note = {"complete": self.complete, "state": self.state, "settings": self.settings, "widths": self.widths}
        write_json(self.path / "meta.json", note)

    def _trim(self) -> None:
        """Cut the files to the rows that were kept, and map them again read-only in effect (changes stay in memory)."""
        sizes = {_file_name(name): column.shape[1] * column.element_size() for name, column in self.columns.items()}
        sizes["index"] = self.index.shape[1] * self.index.element_size()
        self.columns, self.mapped = {}, []  # nothing may be mapped while a file shrinks
        self.index = torch.empty(0)
        for name, row_bytes in sizes.items():
            os.truncate(self.path / f"{name}.bin", max(row_bytes * self.state["rows"], 1))  # type: ignore[operator]
        self.columns = {
            name: self._column(_file_name(name), (self.state["rows"], width), self.dtype)
            for name, width in self.widths.items()
        }
        self.index = self._column("index", (self.state["rows"], 2), torch.int32)

    def finish(self) -> dict[str, CollectedActivations]:
        n = self.state["rows"]
        sequence, position = self.index[:n, 0], self.index[:n, 1]
        return {
            name: CollectedActivations(
                column[:n],
                sequence,
                position,
                name,
                dict(self.state["dropped"]),
                self.state["median_norm"].get(name, float("nan")),
                self.state["seconds"],
                self.path,
            )
            for name, column in self.columns.items()
        }


def open_activations(path: str | os.PathLike[str], hook_name: str | None = None) -> CollectedActivations:
    """Open a folder that `collect_activations` filled, without the model.

    Args:
        hook_name: which hook point; may be left out when there is only one.

    Errors:
        FileNotFoundError: no finished collection there. KeyError: not that hook point.
    """
    note = Path(path) / "meta.json"
    if not note.exists():
        raise FileNotFoundError(
            f"{path} holds no activations: collect_activations(model, tokens, hook, path=...) makes them"
        )
    meta = json.loads(note.read_text(encoding="utf-8"))
    if not meta["complete"]:
        raise FileNotFoundError(f"{path} holds an interrupted collection: call collect_activations again to finish it")
    names = list(meta["widths"])
    if hook_name is None and len(names) > 1:
        raise KeyError(f"{path} holds several hook points, choose one: {', '.join(names)}")
    name = hook_name or names[0]
    if name not in names:
        raise KeyError(f"{path} holds no {name!r}, only {', '.join(names)}")
    settings = meta["settings"]
    table = _Table(path, settings, {name: meta["widths"][name]}, meta["state"]["rows"], settings["dtype"], True)
    return table.finish()[name]


def _file_name(hook_name: str) -> str:
    return re.sub(r"[^\w.]", "_", hook_name)


def _fingerprint(ids: Tensor, counted: Tensor) -> str:
    digest = hashlib.sha256(f"{tuple(ids.shape)}".encode())
    digest.update(ids.to(torch.int32).cpu().contiguous().numpy().tobytes())
    digest.update(np.packbits(counted.cpu().numpy()).tobytes())
    return digest.hexdigest()[:32]


def _model_fingerprint(model: Any) -> str:
    """A few numbers that change when any weight is trained or swapped: enough to refuse to mix two models' activations."""
    digest = hashlib.sha256(str(getattr(getattr(model, "cfg", None), "model_name", "")).split("/")[-1].encode())
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().reshape(-1)[:: max(1, weight.numel() // 64)][:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


# ---------------------------------------------------------------- streaming


@dataclass
class ActivationBuffer:
    """Endless shuffled batches of fresh activations, for training on more than fits in memory or on disk.

    Holds `capacity` rows. When half of them are used up, the model refills the buffer from the next sequences and the whole
    is shuffled again, so each batch mixes tokens from hundreds of sequences while only `capacity * d * 4` bytes are held.

    Iterating starts from the first sequence; it goes on to further epochs over the tokens, in another order of sequences
    each time, unless `epochs` says when to stop. Pass `buffer.stream` (a function) to `train_sae` for exact resuming.

    Example:
        >>> buffer = ActivationBuffer(model, packed, "blocks.11.hook_resid_post", batch_size=2048)   # doctest: +SKIP
        >>> train_sae(buffer.stream, SAEConfig(d_in=576, d_sae=4608, steps=1000))                     # doctest: +SKIP
    """

    model: Any
    tokens: Any
    hook_name: str
    batch_size: int = 2048
    capacity: int = 65_536
    sequences_per_pass: int = 16
    epochs: int | None = None
    seed: int = 0
    drop_bos: bool = True
    max_norm_ratio: float | None = MASSIVE_NORM_RATIO
    attention_mask: Tensor | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    dropped: dict[str, int] = field(default_factory=lambda: {"massive": 0})

    def __post_init__(self) -> None:
        if self.capacity < 2 * self.batch_size:
            raise ValueError(
                f"capacity = {self.capacity} holds fewer than two batches of {self.batch_size}: nothing would be mixed; raise "
                f"it to {8 * self.batch_size} or more"
            )

    def __iter__(self) -> Iterator[Float[Tensor, "batch d"]]:
        return self.stream()

    def stream(self) -> Iterator[Float[Tensor, "batch d"]]:
        """A fresh run of batches, the same every time it is called (given the same seed)."""
        generator = torch.Generator().manual_seed(self.seed)
        fresh = self._fresh_rows(generator)
        held: Tensor | None = None
        ended = False
        while True:
            parts, count = ([] if held is None else [held]), (0 if held is None else len(held))
            while count < self.capacity and not ended:
                rows = next(fresh, None)
                if rows is None:
                    ended = True
                else:
                    parts.append(rows)
                    count += len(rows)
            if count == 0:
                return
            pool = torch.cat(parts)
            pool = pool[torch.randperm(len(pool), generator=generator).to(pool.device)]
            use = len(pool) if ended else max(self.batch_size, len(pool) // 2)
            whole = use // self.batch_size * self.batch_size
            yield from pool[:whole].split(self.batch_size)
            if ended:
                if whole < len(pool):
                    yield pool[whole:]
                return
            held = pool[whole:].clone()

    def _fresh_rows(self, generator: torch.Generator) -> Iterator[Float[Tensor, "rows d"]]:
        read = HookReader(self.model, [self.hook_name], self.precision)
        ids = torch.as_tensor(getattr(self.tokens, "tokens", self.tokens))
        bos = _bos_id(self.model, self.tokens, None) if self.drop_bos else None
        counted = _counted(ids, self.attention_mask, bos)
        if not bool(counted.any()):
            raise ValueError("no position counts: every token is BOS or padding")
        medians: dict[str, float] = {}
        epoch = 0
        while self.epochs is None or epoch < self.epochs:
            order = torch.randperm(len(ids), generator=generator)
            for chosen in order.split(self.sequences_per_pass):
                found = read(ids[chosen])
                keep, massive = _without_massive(found, counted[chosen], medians, self.max_norm_ratio)
                self.dropped["massive"] += massive
                yield found[self.hook_name][keep.to(found[self.hook_name].device)].float()
            epoch += 1
