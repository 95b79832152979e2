"""Lesson 03's large sweep at equal final loss: 200 features in 20 dimensions, 20 sparsities, one batched model.

    python -m benchmarks.toy_geometry

Plain: autograd, batches of 1,024, Adam at a constant 1e-3, 10,000 steps, the way such sweeps are usually published. Ours: gradients
written out by hand, batches of 256, a rate that falls from 5e-3 by a cosine, and several numbers of steps. Every model is then
judged on the same 20,000 fresh samples a sparsity. Processor seconds, one thread.
"""

from __future__ import annotations

import time
from typing import Any

import click

from benchmarks._common import provenance, write

STEPS = (500, 1_000, 2_000, 5_000, 10_000)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--plain-steps", default=10_000, show_default=True)
@click.option("--seeds", default=3, show_default=True, help="Starts of each of our runs; plain runs once.")
def main(plain_steps: int, seeds: int) -> None:
    """Measure, and write benchmarks/results/toy_geometry.md and .json."""
    import torch

    torch.set_num_threads(1)
    rows = []
    for steps in STEPS:
        for seed in range(seeds):
            rows.append({"what": "ours", "steps": steps, "seed": seed, **run(steps, 256, 5e-3, "cosine", seed, True)})
        click.echo(f"ours, {steps} steps: {rows[-1]['cpu']:.0f} s, loss {rows[-1]['loss']:.4f}")
    plain = run(plain_steps, 1024, 1e-3, "constant", 0, False)
    rows.append({"what": "plain", "steps": plain_steps, "seed": 0, **plain})
    data = provenance("toy_geometry")
    text = table(rows, data)
    click.echo(text)
    write("toy_geometry", text, {**data, "rows": rows})


def run(steps: int, batch_size: int, lr: float, schedule: str, seed: int, fast: bool) -> dict[str, float]:
    """One sweep: processor seconds of training, and the mean loss of its 20 models on the common samples."""
    import torch

    from course_utils.toy import ToyModelConfig, train_toy_model
    from course_utils.toy.models import importance_weighted_loss

    config = ToyModelConfig(200, 20, 20, torch.logspace(0, -1, 20)[:, None])
    started = time.process_time()
    model: Any = train_toy_model(
        config, steps=steps, batch_size=batch_size, lr=lr, schedule=schedule, seed=seed, fast=fast
    ).model
    seconds = time.process_time() - started
    generator, total, parts = torch.Generator().manual_seed(12345), torch.zeros(20), 20
    with torch.no_grad():
        for _ in range(parts):
            x = model.sample(1000, generator)
            total += importance_weighted_loss(x, model(x), torch.ones(20, 200))
    return {"cpu": seconds, "loss": float(total.mean()) / parts}


def table(rows: list[dict[str, Any]], data: dict[str, str]) -> str:
    """The Markdown that goes into the report."""
    plain = next(row for row in rows if row["what"] == "plain")
    lines = [
        "## Toy models: the geometry sweep at equal final loss",
        "",
        f"`{data['command']}`, {data['date']}, {data['machine']}. Loss: mean over 20 sparsities on common fresh samples; range over "
        "starts.",
        "",
        "| | steps | CPU seconds | final loss | plain takes |",
        "|---|---|---|---|---|",
    ]
    for steps in sorted({row["steps"] for row in rows if row["what"] == "ours"}):
        mine = [row for row in rows if row["what"] == "ours" and row["steps"] == steps]
        losses, cpu = [row["loss"] for row in mine], sum(row["cpu"] for row in mine) / len(mine)
        lines.append(
            f"| ours | {steps:,} | {cpu:.1f} | {min(losses):.4f} to {max(losses):.4f} | {plain['cpu'] / cpu:.1f} times as long |"
        )
    lines.append(f"| plain autograd, batch 1,024 | {plain['steps']:,} | {plain['cpu']:.0f} | {plain['loss']:.4f} | |")
    enough = [
        s for s in STEPS if all(r["loss"] <= plain["loss"] for r in rows if r["what"] == "ours" and r["steps"] == s)
    ]
    if enough:
        cpu = [r["cpu"] for r in rows if r["what"] == "ours" and r["steps"] == enough[0]]
        ratio = plain["cpu"] / (sum(cpu) / len(cpu))
        lines += [
            "",
            f"With {enough[0]:,} steps every start of ours ends at or below the plain sweep's loss; plain takes {ratio:.0f} times as "
            "long.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
