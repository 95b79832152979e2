"""Exercises 05.13 to 05.16: collecting activations, shuffling them, measuring an autoencoder, comparing several.

A part of lesson 05 in a file of its own; `lesson_05` calls `add_to(lesson)` at its place. Probes use a tiny stand-in for a
language model with TransformerLens' `run_with_cache`, so that a check takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.grading import Between, Draw, Exact, Lesson

BOS = 0


class TinyModel:
    """Embedding and twelve blocks, with hook points named as in TransformerLens. Counts how deep it was run."""

    def __init__(self, draw: Draw) -> None:
        def weights(*shape: int) -> Tensor:
            return torch.from_numpy(draw.rng.normal(0, 0.5, size=shape).astype(np.float32))

        self.embedding = weights(50, 6).requires_grad_()
        self.blocks = [(weights(6, 6), weights(6, 6)) for _ in range(12)]
        self.deepest = 0

    def run_with_cache(
        self, tokens: Tensor, names_filter: Any = None, stop_at_layer: int | None = None, **_: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        cache, wanted = {}, _filter(names_filter)

        def keep(name: str, value: Tensor) -> None:
            if wanted(name):
                cache[name] = value

        x = self.embedding[tokens]
        keep("hook_embed", x)
        for layer, (attention, mlp) in enumerate(self.blocks[:stop_at_layer]):
            self.deepest = max(self.deepest, layer + 1)
            keep(f"blocks.{layer}.hook_resid_pre", x)
            # a running mean over positions, so that padding on the right cannot change what comes before it
            seen = x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None]
            out = torch.tanh(seen @ attention)
            keep(f"blocks.{layer}.hook_attn_out", out)
            x = x + out
            out = torch.tanh(x @ mlp)
            keep(f"blocks.{layer}.hook_mlp_out", out)
            x = x + out
            keep(f"blocks.{layer}.hook_resid_post", x)
        return x, cache

    def eval(self) -> TinyModel:
        return self


def _filter(names_filter: Any) -> Any:
    if names_filter is None:
        return lambda name: True
    if callable(names_filter):
        return names_filter
    names = [names_filter] if isinstance(names_filter, str) else list(names_filter)
    return lambda name: name in names


def collect(model: Any, tokens: Tensor, hook_name: str, bos: int, mask: Tensor) -> Tensor:
    """Reference of 05.13: activations at `hook_name` for all real tokens except BOS, detached, `[rows, d]`."""
    layer = int(hook_name.split(".")[1]) if hook_name.startswith("blocks.") else 0
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=hook_name, stop_at_layer=layer + 1)
    return cache[hook_name][mask & (tokens != bos)]


def shuffling_buffer(
    chunks: Iterable[Tensor], capacity: int, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Reference of 05.14: fill to `capacity` rows, mix, hand out half, fill up again; every row once."""
    source = iter(chunks)
    rows: list[Tensor] = []
    held, exhausted = 0, False
    while True:
        while held < capacity and not exhausted:
            chunk = next(source, None)
            if chunk is None:
                exhausted = True
            else:
                rows.append(chunk)
                held += len(chunk)
        if not held:
            return
        mixed = torch.cat(rows)
        mixed = mixed[torch.randperm(len(mixed), generator=generator)]
        give = len(mixed) if exhausted else max(batch_size, len(mixed) // 2 // batch_size * batch_size)
        yield from mixed[:give].split(batch_size)
        rows, held = [mixed[give:]], len(mixed) - give


def sae_metrics(batches: list[tuple[Tensor, Tensor, Tensor]], cross_entropy: dict[str, float]) -> dict[str, float]:
    """Reference of 05.15: L0, variance unexplained about the mean, cosine, dead fraction, loss recovered twice."""
    x, x_hat, f = (torch.cat(parts) for parts in zip(*batches))
    residual, total = (x - x_hat).square().sum(), (x - x.mean(dim=0)).square().sum()
    c = cross_entropy
    return {
        "l0": float((f > 0).sum(dim=1).float().mean()),
        "fvu": float(residual / total),
        "cosine": float(torch.cosine_similarity(x, x_hat, dim=1).mean()),
        "dead_fraction": float((~(f > 0).any(dim=0)).float().mean()),
        "loss_recovered_zero": (c["zero"] - c["spliced"]) / (c["zero"] - c["clean"]),
        "loss_recovered_mean": (c["mean"] - c["spliced"]) / (c["mean"] - c["clean"]),
    }


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Reference of 05.16: numbers of the points (L0, FVU) that no other point beats, by rising L0."""
    front = [
        i
        for i, (l0, fvu) in enumerate(points)
        if not any(a <= l0 and b <= fvu and (a < l0 or b < fvu) for a, b in points)
    ]
    return sorted(front, key=lambda i: points[i])


def add_to(lesson: Lesson) -> None:
    """Define exercises 13 to 16 of lesson 05."""
    _add_collection(lesson)
    _add_buffer(lesson)
    _add_metrics(lesson)
    _add_front(lesson)


def _texts(draw: Draw) -> tuple[Tensor, Tensor]:
    """Token ids with BOS in front, the same id used as padding behind, and the mask that tells them apart."""
    tokens = draw.rng.integers(1, 50, size=(4, 9))
    tokens[:, 0] = BOS
    lengths = draw.rng.integers(5, 9, size=4)
    mask = np.arange(9)[None] < lengths[:, None]
    tokens[~mask] = 7  # an id that occurs in the text too: only the mask says what is padding
    return draw.lend(tokens), draw.lend(mask)


def _add_collection(lesson: Lesson) -> None:
    exercise = lesson.exercise(
        13,
        title="Collect activations from a language model",
        answer="collect",
        reference=collect,
        points=3,
        difficulty=3,
        importance=5,
        minutes=15,
        hints=(
            "`model.run_with_cache(tokens, names_filter=hook_name, stop_at_layer=...)` gives (output, cache); "
            "the layer's number stands in the hook's name.",
            "`stop_at_layer=n` runs blocks 0 … n-1. To read something inside block 11, block 11 must run.",
            "Keep the positions where `mask & (tokens != bos)`: indexing [batch, positions, d] with it gives [rows, d]. "
            "Work under `torch.no_grad()`.",
        ),
    )

    @exercise.case("the residual stream after block 1", weight=2)
    def _(f, draw):
        tokens, mask = _texts(draw)
        return f(TinyModel(draw), tokens, "blocks.1.hook_resid_post", BOS, mask)

    @exercise.case("the residual stream after block 11: a layer's number may have two digits")
    def _(f, draw):
        tokens, mask = _texts(draw)
        return f(TinyModel(draw), tokens, "blocks.11.hook_resid_post", BOS, mask)

    @exercise.case("the MLP's output in block 0")
    def _(f, draw):
        tokens, mask = _texts(draw)
        return f(TinyModel(draw), tokens, "blocks.0.hook_mlp_out", BOS, mask)

    @exercise.case("no BOS row and no padding row", rule=Exact())
    def _(f, draw):
        tokens, mask = _texts(draw)
        return len(f(TinyModel(draw), tokens, "blocks.2.hook_attn_out", BOS, mask))

    @exercise.case("texts packed behind each other: BOS in the middle, too, and no row lost without one", rule=Exact())
    def _(f, draw):
        tokens, mask = _texts(draw)
        packed = tokens.clone()
        packed[1:, 3] = BOS
        lengths = {"BOS in the middle": BOS, "bos=-1 (no token is BOS)": -1}
        return {
            name: len(f(TinyModel(draw), packed, "blocks.0.hook_attn_out", bos, mask)) for name, bos in lengths.items()
        }

    @exercise.case("blocks behind the hook point are not run", rule=Exact())
    def _(f, draw):
        tokens, mask = _texts(draw)
        model = TinyModel(draw)
        f(model, tokens, "blocks.0.hook_resid_post", BOS, mask)
        return model.deepest

    @exercise.case("the result holds no graph", rule=Exact())
    def _(f, draw):
        tokens, mask = _texts(draw)
        return bool(f(TinyModel(draw), tokens, "blocks.1.hook_resid_post", BOS, mask).requires_grad)

    def run(model, tokens, hook_name, layers=None):
        stop = layers if layers is not None else int(hook_name.split(".")[1]) + 1
        return model.run_with_cache(tokens, names_filter=hook_name, stop_at_layer=stop)[1][hook_name]

    @exercise.mistake(
        "BOS is kept. Its activation is enormous, and latents of the autoencoder will spend themselves on it."
    )
    def bos_kept(model, tokens, hook_name, bos, mask):
        return run(model, tokens, hook_name).detach()[mask]

    @exercise.mistake(
        "The first position of each row is dropped, whatever stands there. BOS is a *token*: compare with `bos`, since packed "
        "texts have it in the middle too, and some rows do not begin with it."
    )
    def first_position_dropped(model, tokens, hook_name, bos, mask):
        kept = mask.clone()
        kept[:, 0] = False
        return run(model, tokens, hook_name).detach()[kept]

    @exercise.mistake("Padding is counted: the mask says which positions are text.")
    def padding_counted(model, tokens, hook_name, bos, mask):
        return run(model, tokens, hook_name).detach()[tokens != bos]

    @exercise.mistake(
        "The activations are not detached: they keep the whole model's graph alive, and memory grows with every batch."
    )
    def not_detached(model, tokens, hook_name, bos, mask):
        return run(model, tokens, hook_name)[mask & (tokens != bos)]

    @exercise.mistake(
        "More blocks are run than the hook point needs. Read the layer from the hook's name (a fixed number fits one hook only) and "
        "pass it as `stop_at_layer`: that saves most of the time."
    )
    def whole_model(model, tokens, hook_name, bos, mask):
        return run(model, tokens, hook_name, layers=len(model.blocks)).detach()[mask & (tokens != bos)]

    @exercise.mistake(
        "One character of the hook's name is taken for the layer: right for block 1, wrong for block 11. Split the name at its "
        "dots, `int(hook_name.split('.')[1])`."
    )
    def one_digit_of_the_layer(model, tokens, hook_name, bos, mask):
        return run(model, tokens, hook_name, layers=int(hook_name[7]) + 1).detach()[mask & (tokens != bos)]

    @exercise.mistake("Another hook point is read: `resid_pre` is the stream *before* the block.")
    def before_the_block(model, tokens, hook_name, bos, mask):
        other = ".".join([*hook_name.split(".")[:2], "hook_resid_pre"])
        return run(model, tokens, other).detach()[mask & (tokens != bos)]

    @exercise.mistake(
        "This reads one layer too early: `stop_at_layer` counts blocks that are run, the hook's name counts from 0."
    )
    def one_layer_early(model, tokens, hook_name, bos, mask):
        parts = hook_name.split(".")
        parts[1] = str(max(0, int(parts[1]) - 1))
        return run(model, tokens, ".".join(parts)).detach()[mask & (tokens != bos)]

    @exercise.alternative
    def one_text_at_a_time(model, tokens, hook_name, bos, mask):
        layer = int(hook_name.split(".")[1])
        rows = []
        for text, real in zip(tokens, mask):
            _, cache = model.run_with_cache(text[None], names_filter=lambda n: n == hook_name, stop_at_layer=layer + 1)
            acts = cache[hook_name].detach()[0]
            rows += [acts[i] for i in range(len(text)) if real[i] and text[i] != bos]
        return torch.stack(rows)


def _add_buffer(lesson: Lesson) -> None:
    exercise = lesson.exercise(
        14,
        title="A shuffling activation buffer",
        answer="shuffling_buffer",
        reference=shuffling_buffer,
        points=3,
        difficulty=4,
        importance=3,
        minutes=20,
        hints=(
            "Write a generator (`yield`). Two alternating phases: fill up from `chunks`, hand out batches.",
            "Fill until `capacity` rows are held or the source is empty; mix all rows; hand out about half of them; "
            "keep the rest and fill up again.",
            "When the source is empty, hand out everything that is left, the last batch as short as it must be. "
            "`yield from mixed[:give].split(batch_size)`.",
        ),
    )

    def numbered(draw: Draw, chunks: int = 40, size: int = 8) -> list[Tensor]:
        return [
            torch.arange(i * size, (i + 1) * size, dtype=torch.float32)[:, None].repeat(1, 3) for i in range(chunks)
        ]

    def seeded(draw: Draw) -> torch.Generator:
        return torch.Generator().manual_seed(int(draw.rng.integers(2**31)))

    @exercise.case("every row comes exactly once", weight=2, rule=Exact(), essential=True)
    def _(f, draw):
        rows = torch.cat(list(f(numbered(draw), 128, 16, seeded(draw))))
        return {"rows": len(rows), "each once": bool((rows[:, 0].sort().values == torch.arange(320)).all())}

    @exercise.case("rows of one chunk end up far apart", rule=Between(20, 400, " rows"))
    def _(f, draw):
        order = torch.cat(list(f(numbered(draw), 128, 16, seeded(draw))))[:, 0]
        place = order.argsort().float()
        return float((place[1:] - place[:-1]).abs().mean())

    @exercise.case("no more than the capacity is read before the first batch", rule=Between(16, 144, " rows"))
    def _(f, draw):
        read = []

        def source():
            for chunk in numbered(draw):
                read.append(len(chunk))
                yield chunk

        next(iter(f(source(), 128, 16, seeded(draw))))
        return sum(read)

    # measured: reference 128 and 64, the alternative below 128 and 16; handing out all it holds 128 and 128, reading all the
    # rest after the first batches 256 and 64. Chunks of 8 rows: a buffer may exceed its capacity by less than two of them.
    @exercise.case(
        "the buffer stays within its capacity, and keeps rows back when it fills up",
        rule={
            "most rows held": Between(16, 144, " rows"),
            "rows handed out before it fills up again": Between(1, 96, " rows"),
        },
    )
    def _(f, draw):
        read = given = most = before_refilling = 0

        def source():
            nonlocal read, most, before_refilling
            for chunk in numbered(draw):
                before_refilling = before_refilling or given
                read += len(chunk)
                most = max(most, read - given)
                yield chunk

        for batch in f(source(), 128, 16, seeded(draw)):
            given += len(batch)
        return {"most rows held": most, "rows handed out before it fills up again": before_refilling}

    @exercise.case("batches have the size asked for, but for the last", rule=Exact())
    def _(f, draw):
        sizes = [len(batch) for batch in f(numbered(draw, 25), 64, 16, seeded(draw))]
        return {"full": all(size == 16 for size in sizes[:-1]), "last": sizes[-1]}

    @exercise.case("another generator, another order", rule=Exact())
    def _(f, draw):
        first, second, again = (
            torch.cat(list(f(numbered(draw), 128, 16, torch.Generator().manual_seed(seed))))[:, 0] for seed in (1, 2, 1)
        )
        return {
            "another generator gives another order": bool((first != second).any()),
            "the same generator gives the same order": bool((first == again).all()),
        }

    @exercise.mistake("Nothing is shuffled: neighbouring tokens of one text stand side by side in a batch.")
    def never_shuffled(chunks, capacity, batch_size, generator):
        held = torch.cat(list(_within(chunks, capacity)))
        yield from held.split(batch_size)

    def _within(chunks, capacity):
        yield from chunks

    @exercise.mistake(
        "Rows are mixed inside each chunk only; a chunk comes from one text, so batches still hold neighbours."
    )
    def mixed_within_chunks(chunks, capacity, batch_size, generator):
        held: list[Tensor] = []
        for chunk in chunks:
            held.append(chunk[torch.randperm(len(chunk), generator=generator)])
            rows = torch.cat(held)
            while len(rows) >= batch_size:
                yield rows[:batch_size]
                rows = rows[batch_size:]
            held = [rows]
        if len(held[0]):
            yield held[0]

    @exercise.mistake("What is left when the source runs dry is thrown away.")
    def rest_lost(chunks, capacity, batch_size, generator):
        rows: list[Tensor] = []
        for chunk in chunks:
            rows.append(chunk)
            if sum(map(len, rows)) >= capacity:
                mixed = torch.cat(rows)
                mixed = mixed[torch.randperm(len(mixed), generator=generator)]
                half = len(mixed) // 2 // batch_size * batch_size
                yield from mixed[:half].split(batch_size)
                rows = [mixed[half:]]

    @exercise.mistake("Everything is read into memory first; a buffer exists because that does not fit.")
    def reads_everything(chunks, capacity, batch_size, generator):
        rows = torch.cat(list(chunks))
        yield from rows[torch.randperm(len(rows), generator=generator)].split(batch_size)

    @exercise.mistake("The order does not come from `generator`: pass it on, `torch.randperm(n, generator=generator)`.")
    def generator_not_used(chunks, capacity, batch_size, generator):
        yield from shuffling_buffer(
            chunks, capacity, batch_size, torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        )

    @exercise.mistake(
        "All rows held are handed out before it fills up again, so rows of one filling never meet rows of the next. Hand out "
        "about half and keep the rest."
    )
    def hands_out_everything(chunks, capacity, batch_size, generator):
        for part in _buffers(chunks, capacity):
            yield from part[torch.randperm(len(part), generator=generator)].split(batch_size)

    @exercise.mistake(
        "The first filling stops at `capacity`, but later everything that is left is read into memory. Stop at `capacity` every time."
    )
    def reads_the_rest_later(chunks, capacity, batch_size, generator):
        source = iter(chunks)
        rows: list[Tensor] = []
        while sum(map(len, rows)) < capacity and (chunk := next(source, None)) is not None:
            rows.append(chunk)
        mixed = torch.cat(rows)
        mixed = mixed[torch.randperm(len(mixed), generator=generator)]
        half = len(mixed) // 2 // batch_size * batch_size
        yield from mixed[:half].split(batch_size)
        rest = torch.cat([mixed[half:], *source])
        yield from rest[torch.randperm(len(rest), generator=generator)].split(batch_size)

    @exercise.mistake("Rows are drawn with replacement: some come twice, others never.")
    def with_replacement(chunks, capacity, batch_size, generator):
        for part in _buffers(chunks, capacity):
            yield from part[torch.randint(len(part), (len(part),), generator=generator)].split(batch_size)

    def _buffers(chunks, capacity):
        rows: list[Tensor] = []
        for chunk in chunks:
            rows.append(chunk)
            if sum(map(len, rows)) >= capacity:
                yield torch.cat(rows)
                rows = []
        if rows:
            yield torch.cat(rows)

    @exercise.alternative
    def a_list_of_rows(chunks, capacity, batch_size, generator):
        held: list[Tensor] = []
        for chunk in chunks:
            held.extend(chunk)
            while len(held) >= capacity:
                order = torch.randperm(len(held), generator=generator).tolist()
                yield torch.stack([held[i] for i in order[:batch_size]])
                held = [held[i] for i in order[batch_size:]]
        order = torch.randperm(len(held), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield torch.stack([held[i] for i in order[start : start + batch_size]])


def _add_metrics(lesson: Lesson) -> None:
    exercise = lesson.exercise(
        15,
        title="Measure an autoencoder",
        answer="sae_metrics",
        reference=sae_metrics,
        points=4,
        difficulty=3,
        importance=5,
        minutes=20,
        hints=(
            "Batches differ in size: join them first, or add up sums and counts. A mean of means is not the mean.",
            "The variance is about the mean of each dimension: `(x - x.mean(dim=0)).square().sum()`.",
            "Loss recovered against an ablation: (ablated - spliced) / (ablated - clean). 1 is perfect, 0 no better than ablating.",
        ),
    )

    def batches(draw: Draw, sizes: tuple[int, ...] = (40, 40, 7)) -> list[tuple[Tensor, Tensor, Tensor]]:
        made = []
        dead = draw.rng.permutation(12)[:3]
        for index, size in enumerate(sizes):
            # a mean of its own for each dimension: one mean for all of them would be wrong
            x = draw.rng.normal([3, 0, -2, 1, 5, 2], 1.0 + index, size=(size, 6))
            f = np.maximum(draw.rng.normal(-0.5 + 0.4 * index, 1, size=(size, 12)), 0)
            f[:, dead] = 0
            x_hat = x * 0.9 + draw.rng.normal(0, 0.3 * (1 + index), size=x.shape)
            made.append(tuple(draw.lend(part.astype(np.float32)) for part in (x, x_hat, f)))
        return made

    def entropies(draw: Draw) -> dict[str, float]:
        clean, rise, more, most = draw.rng.uniform([3, 0.05, 2, 5], [3.4, 0.6, 4, 9])
        return {"clean": clean, "spliced": clean + rise, "mean": clean + more, "zero": clean + most}

    for key, phrase, weight in (
        ("l0", "latents active a token (L0)", 1.0),
        ("fvu", "fraction of variance unexplained", 2.0),
        ("cosine", "cosine of activation and reconstruction", 1.0),
        ("dead_fraction", "fraction of dead latents", 1.0),
        ("loss_recovered_zero", "loss recovered against zero ablation", 1.0),
        ("loss_recovered_mean", "loss recovered against mean ablation", 1.0),
    ):

        @exercise.case(phrase, weight=weight)
        def _(f, draw, key=key):
            return float(f(batches(draw), entropies(draw))[key])

    def changed(**other: Any) -> Any:
        def metrics(batches, cross_entropy):
            result = sae_metrics(batches, cross_entropy)
            return {**result, **{key: change(batches, cross_entropy) for key, change in other.items()}}

        return metrics

    def mean_of_means(batches, cross_entropy):
        each = [sae_metrics([batch], cross_entropy) for batch in batches]
        return {key: sum(result[key] for result in each) / len(each) for key in each[0]}

    def joined(batches):
        return (torch.cat(parts) for parts in zip(*batches))

    def about_zero(batches, c):
        x, x_hat, _ = joined(batches)
        return float((x - x_hat).square().sum() / x.square().sum())

    def one_mean(batches, c):
        x, x_hat, _ = joined(batches)
        return float((x - x_hat).square().sum() / (x - x.mean()).square().sum())

    def dead_somewhere(batches, c):
        _, _, f = joined(batches)
        return float((f == 0).any(dim=0).float().mean())

    exercise.mistake(
        "The variance is taken about zero; with a large mean almost everything then looks explained. Subtract the mean of each dimension.",
        name="variance_about_zero",
    )(changed(fvu=about_zero))
    exercise.mistake(
        "One mean is taken over all dimensions together. Each dimension has its own: x.mean(dim=0).",
        name="one_mean_for_all_dimensions",
    )(changed(fvu=one_mean))
    exercise.mistake(
        "You return the variance explained; `fvu` is what is left unexplained, 1 minus that.",
        name="explained_for_unexplained",
    )(changed(fvu=lambda b, c: 1 - sae_metrics(b, c)["fvu"]))
    exercise.mistake("Batches of unequal size count equally: this is a mean of means.", name="mean_of_batch_means")(
        mean_of_means
    )
    exercise.mistake(
        "Loss recovered is upside down: it should be 1 when splicing costs nothing.", name="ratio_upside_down"
    )(
        changed(
            loss_recovered_zero=lambda b, c: (c["zero"] - c["clean"]) / (c["zero"] - c["spliced"]),
            loss_recovered_mean=lambda b, c: (c["mean"] - c["clean"]) / (c["mean"] - c["spliced"]),
        )
    )
    exercise.mistake(
        "This is the share of the loss that is *lost*: one minus it is recovered. 1 should mean that splicing costs nothing.",
        name="share_lost",
    )(
        changed(
            loss_recovered_zero=lambda b, c: (c["spliced"] - c["clean"]) / (c["zero"] - c["clean"]),
            loss_recovered_mean=lambda b, c: (c["spliced"] - c["clean"]) / (c["mean"] - c["clean"]),
        )
    )
    exercise.mistake(
        "The two ablations are exchanged. Name the ablation you compare with: zero is the easier one to beat.",
        name="wrong_ablation",
    )(
        changed(
            loss_recovered_zero=lambda b, c: (c["mean"] - c["spliced"]) / (c["mean"] - c["clean"]),
            loss_recovered_mean=lambda b, c: (c["zero"] - c["spliced"]) / (c["zero"] - c["clean"]),
        )
    )
    exercise.mistake(
        "A latent counts as dead if it is silent on *any* token; dead means silent on *all* of them.",
        name="dead_at_any_token",
    )(changed(dead_fraction=dead_somewhere))

    @exercise.alternative
    def running_sums(batches, cross_entropy):
        n = sum(len(x) for x, _, _ in batches)
        mean = sum(x.double().sum(0) for x, _, _ in batches) / n
        alive = torch.zeros(batches[0][2].shape[1], dtype=torch.bool)
        sums = dict.fromkeys(("active", "error", "variance", "cosine"), 0.0)
        for x, x_hat, f in batches:
            alive |= (f > 0).any(0)
            sums["active"] += float((f > 0).sum())
            sums["error"] += float((x - x_hat).double().pow(2).sum())
            sums["variance"] += float((x.double() - mean).pow(2).sum())
            sums["cosine"] += float(((x * x_hat).sum(1) / x.norm(dim=1) / x_hat.norm(dim=1)).sum())
        lost = {key: cross_entropy[key] - cross_entropy["clean"] for key in ("spliced", "mean", "zero")}
        return {
            "l0": sums["active"] / n,
            "fvu": sums["error"] / sums["variance"],
            "cosine": sums["cosine"] / n,
            "dead_fraction": 1 - float(alive.float().mean()),
            "loss_recovered_zero": 1 - lost["spliced"] / lost["zero"],
            "loss_recovered_mean": 1 - lost["spliced"] / lost["mean"],
        }


def _add_front(lesson: Lesson) -> None:
    exercise = lesson.exercise(
        16,
        title="The sparsity-fidelity front",
        answer="pareto_front",
        reference=pareto_front,
        points=2,
        difficulty=2,
        importance=3,
        minutes=10,
        hints=(
            "A point is beaten when another is at least as good in both numbers and better in one.",
            "Both L0 and the variance unexplained are better when smaller.",
            "Keep i if no (a, b) has a <= l0 and b <= fvu with one of the two strictly smaller; then sort by L0.",
        ),
    )

    def listed(found: Any) -> str:
        if any(np.ndim(i) for i in found):
            return "points, not indices"
        return " ".join(str(int(i)) for i in found)

    @exercise.case("random autoencoders", weight=2, rule=Exact())
    def _(f, draw):
        points = draw.rng.uniform(size=(25, 2)).tolist()
        return listed(f([tuple(point) for point in points]))

    @exercise.case("equal L0: only the better one stays", rule=Exact())
    def _(f, draw):
        a, b = sorted(draw.rng.uniform(0.1, 0.4, size=2).tolist())
        return listed(f([(32.0, b), (32.0, a), (64.0, a / 2), (64.0, a / 2 + 0.1)]))

    @exercise.case("one clear winner", rule=Exact())
    def _(f, draw):
        points = draw.rng.uniform(0.2, 1, size=(10, 2))
        points[6] = 0.1
        return listed(f([tuple(point) for point in points.tolist()]))

    @exercise.case("two equal points both stay", rule=Exact())
    def _(f, draw):
        a, b = draw.rng.uniform(0.2, 0.5, size=2).tolist()
        return len(f([(a, b), (a, b), (a + 0.1, b + 0.1)]))

    @exercise.mistake("The front keeps the worst points: smaller is better for both numbers.")
    def larger_is_better(points):
        return pareto_front_of([(-a, -b) for a, b in points])

    def pareto_front_of(points):
        return pareto_front(points)

    @exercise.mistake(
        "A point is thrown out only when it is beaten strictly in *both* numbers; equal in one and worse in the other is beaten too."
    )
    def strictly_in_both(points):
        kept = [i for i, (l0, fvu) in enumerate(points) if not any(a < l0 and b < fvu for a, b in points)]
        return sorted(kept, key=lambda i: points[i])

    @exercise.mistake(
        "Of points equal in one number the worse stays: it is beaten by being no better in one and worse in the other. Use `<=` "
        "in both and `<` in one."
    )
    def equal_l0_kept(points):
        kept = [i for i, (l0, fvu) in enumerate(points) if not any(a < l0 and b < fvu for a, b in points)]
        return sorted(kept, key=lambda i: points[i][0])

    @exercise.mistake("The points themselves are returned; return their indices in the list that was passed in.")
    def points_for_indices(points):
        return [points[i] for i in pareto_front(points)]

    @exercise.mistake(
        "Only the single best reconstruction is returned; the front holds the best one for every sparsity."
    )
    def best_fvu_only(points):
        return [min(range(len(points)), key=lambda i: points[i][1])]

    @exercise.mistake("The right points, but not sorted by L0.")
    def unsorted(points):
        return sorted(pareto_front(points))

    @exercise.mistake("The right points, but sorted from the largest L0 to the smallest: begin with the sparsest.")
    def sorted_backwards(points):
        return pareto_front(points)[::-1]

    @exercise.alternative
    def by_sweeping(points):
        order = sorted(range(len(points)), key=lambda i: points[i])
        best, kept = float("inf"), []
        for i in order:
            if points[i][1] < best or (kept and points[i] == points[kept[-1]]):
                kept.append(i)
                best = min(best, points[i][1])
        return kept


__all__ = ["TinyModel", "add_to", "collect", "pareto_front", "sae_metrics", "shuffling_buffer"]
