"""The shipped double-descent run: losses and geometry for many sizes of the training set. `python -m course_utils.toy.double_descent`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from tqdm.auto import tqdm

from course_utils.io import write_json
from course_utils.toy.geometry import data_point_dimensionality, feature_dimensionality
from course_utils.toy.memorise import MemoriseConfig, Memorised, memorise

SHIPPED = Path(__file__).parent.parent / "assets" / "runs" / "double_descent.json"
SIZES = (3, 5, 8, 15, 30, 50, 80, 120, 160, 200, 300, 500, 1000, 2000)
DECAYS = (0.0, 1.0)
SEEDS = (0, 1, 2)


def row(result: Memorised) -> dict[str, Any]:
    """What a figure needs of one run, as plain numbers."""
    features = feature_dimensionality(result.W[None])[0]
    points = data_point_dimensionality(result.h[None])[0]
    return {
        "points": result.config.n_points,
        "seed": result.config.seed,
        "weight_decay": result.config.weight_decay,
        "train_loss": round(result.train_loss, 5),
        "test_loss": round(result.test_loss, 5),
        "features": [round(float(value), 4) for value in features.sort(descending=True).values[:40]],
        "points_dimensionality": [round(float(value), 4) for value in points.sort(descending=True).values[:40]],
    }


def load() -> dict[str, Any]:
    """The shipped run: `{"config": {...}, "command": str, "rows": [...]}`."""
    return json.loads(SHIPPED.read_text(encoding="utf-8"))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--features", default=600, show_default=True)
@click.option("--probability", default=0.016, show_default=True)
@click.option("--steps", default=2_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=SHIPPED, show_default=False, help="JSON file to write.")
def main(features: int, probability: float, steps: int, out: Path) -> None:
    """Train on every size (three seeds; other weight decays with one seed) and write what the lesson plots."""
    shared: dict[str, Any] = {
        "n_features": features,
        "feature_probability": probability,
        "steps": steps,
        "warmup": steps // 10,
    }
    plan: list[dict[str, Any]] = [{"n_points": size, "seed": seed} for size in SIZES for seed in SEEDS]
    plan += [{"n_points": size, "weight_decay": decay} for decay in DECAYS for size in SIZES]
    rows = [row(memorise(MemoriseConfig(**shared, **one))) for one in tqdm(plan, desc="double descent", unit="run")]
    command = (
        f"python -m course_utils.toy.double_descent --features {features} --probability {probability} --steps {steps}"
    )
    write_json(out, {"config": shared, "command": command, "rows": rows})
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
