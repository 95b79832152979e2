"""`course assets` (fetch the model, check or rebuild what ships) and `course train` (an SAE from the corpus)."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--rebuild", is_flag=True, help="Make the corpus, messages, shipped SAEs and evidence again (hours).")
@click.option("--quiet", is_flag=True, help="Say only what is wrong; a model that cannot be fetched is no error.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def assets(rebuild: bool, quiet: bool, as_json: bool) -> None:
    """Fetch the language model if it is not here, and check every shipped file against its checksum."""
    from course_utils.lm.model import ModelUnavailable, fetch_model

    if rebuild:
        _rebuild()
    state: dict[str, Any] = {"model": None, "files": shipped_files()}
    try:
        state["model"] = str(fetch_model(quiet=quiet))
    except ModelUnavailable as error:
        state["model_missing"] = str(error)
        if not quiet and not as_json:
            raise click.ClickException(str(error)) from error
        click.echo(f"Note: {error} (Lessons 02 to 04 and 09's toy sections need no language model.)", err=True)
    wrong = [name for name, good in state["files"].items() if not good]
    if as_json:
        click.echo(json.dumps(state, indent=1))
    elif not quiet:
        click.echo(f"language model: {state['model']}")
        click.echo(f"shipped files: {len(state['files']) - len(wrong)} of {len(state['files'])} are as they should be")
    if wrong:
        raise click.ClickException(
            f"changed or missing: {', '.join(wrong)}. Check the course out again, or pass --rebuild."
        )


def shipped_files() -> dict[str, bool]:
    """Each shipped binary file, and whether its bytes are those that its manifest describes."""
    from course_utils.io import sha256
    from course_utils.lm.corpus import ASSETS

    expected = {}
    for name in ("corpus", "messages"):
        manifest = json.loads((ASSETS / f"{name}.json").read_text(encoding="utf-8"))
        expected[f"{name}.jsonl.zst"] = manifest["sha256"]
    index = ASSETS / "saes" / "saes.json"
    if index.exists():
        for name, entry in json.loads(index.read_text(encoding="utf-8")).items():
            expected[f"saes/{name}/sae_weights.safetensors"] = entry["sha256"]
    evidence = ASSETS / "evidence" / "evidence.json"
    expected["evidence/evidence.npz"] = json.loads(evidence.read_text(encoding="utf-8"))["sha256"]
    return {name: (ASSETS / name).exists() and sha256(ASSETS / name) == checksum for name, checksum in expected.items()}


def _rebuild() -> None:
    """Each step is a command of its own, printed so that it can be run alone."""
    steps = [
        ["course_utils.assets.build_messages"],
        ["course_utils.assets.build_corpus"],
        ["course_utils.cli", "train", "--shipped", "all", "--workers", "2"],
        ["course_utils.assets.build_evidence"],
    ]
    for step in steps:
        click.echo(f"python -m {shlex.join(step)}")
        if subprocess.call([sys.executable, "-m", *step]):
            raise click.ClickException(f"python -m {shlex.join(step)} failed (its message is above)")


@click.command()
@click.option(
    "--hook", "hooks", multiple=True, default=["blocks.11.hook_resid_post"], show_default=True, help="Hook point(s)."
)
@click.option("--model", "model_name", default="smollm2-135m", show_default=True, help="Model name or folder.")
@click.option("--tokens", default=400_000, show_default=True, help="Tokens of training text.")
@click.option(
    "--source", "sources", multiple=True, help="Only these sources of the corpus, such as python or 'handbook-*'."
)
@click.option(
    "--architecture", default="topk", show_default=True, help="topk, batchtopk, jumprelu, gated, standard, matryoshka."
)
@click.option("--k", default=32, show_default=True, help="Active latents a token.")
@click.option("--expansion", default=8.0, show_default=True, help="Latents per dimension.")
@click.option("--epochs", default=3.0, show_default=True, help="Passes over the activations.")
@click.option("--lr", default=None, type=float, help="Learning rate of Adam.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the products in training; auto takes bfloat16 where the processor is quicker in it.",
)
@click.option("--workers", default=1, show_default=True, help="Processes that collect activations, one thread each.")
@click.option("--seed", default=0, show_default=True)
@click.option("--start", "start_folder", help="Go on from this SAE (a folder, or a shipped one's name).")
@click.option("--finetune-steps", default=0, show_default=True, help="Then train end to end for so many steps.")
@click.option(
    "--shipped",
    multiple=True,
    type=click.Choice(["early", "middle", "late", "all"]),
    help="Make these SAEs of the course again, into its assets; only --workers counts then.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("saes"), show_default=True, help="Where to save.")
@click.option("--json", "as_json", is_flag=True, help="Print the held-out figures as JSON.")
def train(
    hooks: tuple[str, ...],
    out: Path,
    as_json: bool,
    lr: float | None,
    start_folder: str | None,
    shipped: tuple[str, ...],
    **options: Any,
) -> None:
    """Train sparse autoencoders on a language model: collect activations, train, measure on held-out text, save.

    An interrupted run goes on where it stopped. Each SAE gets a folder in SAELens' format with a model card.
    """
    from course_utils.lm.model import ModelUnavailable
    from course_utils.lm.saes import load_sae
    from course_utils.lm.train_lm_sae import SHIPPED, train_from_corpus, train_shipped

    given = shlex.join(sys.argv[1:]) if Path(sys.argv[0]).name == "course" else "train ..."
    if lr is not None:
        options["lr"] = lr
    options["sources"] = list(options["sources"]) or None
    try:
        if shipped:
            chosen = tuple(SHIPPED) if "all" in shipped else shipped
            results = train_shipped(chosen, workers=options["workers"], progress=not as_json)
        else:
            start = load_sae(start_folder) if start_folder else None
            results = train_from_corpus(
                list(hooks), start=start, out=out, command=f"course {given}", progress=not as_json, **options
            )
    except (ModelUnavailable, KeyError, ValueError) as error:
        raise click.ClickException(str(error.args[0] if error.args else error)) from error
    if as_json:
        click.echo(
            json.dumps([{"hook_name": r.hook_name, "folder": str(r.folder), **r.metrics} for r in results], indent=1)
        )
        return
    for result in results:
        m = result.metrics
        click.echo(
            f"{result.hook_name}: L0 {m['l0']:.1f}, variance unexplained {m['fvu']:.4f}, dead {m['dead_fraction']:.2%}, "
            f"loss recovered {m['loss_versus_mean']:.4f} (mean ablation)\n  {result.folder}"
        )
