"""The commands `course assets` and `course train`. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@click.command()
@click.option("--quiet", is_flag=True, help="Say nothing when all is well.")
@click.option("--rebuild", is_flag=True, help="Make corpus, messages and shipped SAEs again from packages (hours).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
def assets(quiet: bool, rebuild: bool, as_json: bool) -> None:
    """Fetch and verify the language model; check what ships with the course."""
    if rebuild:
        for module in ("course_utils.assets.build_corpus", "course_utils.assets.build_messages"):
            subprocess.run([sys.executable, "-m", module], check=True)
        subprocess.run([sys.executable, "-m", "course_utils.lm.train_lm_sae", "--shipped"], check=True)
    from course_utils.lm.model import ModelUnavailable, fetch_model

    try:
        folder = fetch_model(quiet=quiet or as_json)
    except ModelUnavailable as error:
        raise click.ClickException(str(error)) from None
    found = {"language model": str(folder), **{name: "intact" if ok else "DAMAGED" for name, ok in _shipped().items()}}
    if as_json:
        click.echo(json.dumps(found, indent=1))
    elif not quiet:
        for name, state in found.items():
            click.echo(f"{name:32} {state}")
    damaged = [name for name, state in found.items() if state == "DAMAGED"]
    if damaged:
        raise click.ClickException(
            f"damaged: {', '.join(damaged)}. Restore them with git, or run `course assets --rebuild`."
        )


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    """Train a sparse autoencoder on the language model (`course train --help` lists the options)."""
    from course_utils.lm.train_lm_sae import main

    main(list(arguments))


def _shipped() -> dict[str, bool]:
    """Every shipped file with a recorded checksum, and whether it still has it."""
    from course_utils.io import sha256

    record = ASSETS / "checksums.json"
    if not record.exists():
        return {}
    wanted = json.loads(record.read_text(encoding="utf-8"))
    return {name: (ASSETS / name).exists() and sha256(ASSETS / name) == digest for name, digest in wanted.items()}


def write_checksums() -> None:
    """Record the checksum of every shipped data file (run after making assets)."""
    from course_utils.io import sha256, write_json

    kept = (".zst", ".safetensors", ".json", ".npz")
    files = sorted(path for path in ASSETS.rglob("*") if path.suffix in kept and path.name != "checksums.json")
    write_json(ASSETS / "checksums.json", {str(path.relative_to(ASSETS)): sha256(path) for path in files})
