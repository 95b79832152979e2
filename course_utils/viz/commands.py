"""`course dashboard`: build a browsable dashboard of an SAE's latents, or serve it with the live views."""

from __future__ import annotations

import hashlib
import json
import webbrowser
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("saes", metavar="[SAE]...", nargs=-1)
@click.option("--model", "model_name", default="smollm2-135m", show_default=True, help="The language model, by name.")
@click.option("--out", type=click.Path(path_type=Path), help="An .html file for one page, or a folder for a site.")
@click.option("--latents", help="Which latents: 12 or 12,99 or 0-255 (all of them by default).")
@click.option(
    "--tokens",
    "n_tokens",
    default=100_000,
    show_default=True,
    type=click.IntRange(min=128),
    help="How much text to look for examples in.",
)
@click.option("--context", default=128, show_default=True, type=click.IntRange(8, 2048), help="Tokens a sequence.")
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='A JSON file: {"12": "rivers"}.',
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the language model. bfloat16 reads text twice as quickly where the processor can (auto: only there); "
    "activations differ by a percent or so.",
)
@click.option("--serve", "live", is_flag=True, help="Serve it on this machine, with a sentence to try and steering.")
@click.option("--port", default=0, show_default="a free one", type=click.IntRange(0, 65535))
@click.option("--open/--no-open", "show", default=False, help="Open it in the browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def dashboard(
    saes: tuple[str, ...],
    model_name: str,
    out: Path | None,
    latents: str | None,
    n_tokens: int,
    context: int,
    labels_file: Path | None,
    precision: str,
    live: bool,
    port: int,
    show: bool,
    as_json: bool,
) -> None:
    """Write (or serve) a dashboard of an SAE's latents: a shipped SAE by name, or a folder in SAELens' format.

    With several SAEs each gets a folder of its own, and latents link to those that fire like them in the others.

    \b
    course dashboard                              the shipped SAE, all latents, into ./dashboard
    course dashboard --latents 12 --out 12.html   one latent, one file
    course dashboard EARLY LATE --out layers      two sites that link to each other
    course dashboard --serve                      the site, and try sentences and steering
    """
    import torch

    from course_utils import settings
    from course_utils.lm.model import ModelUnavailable, load_model
    from course_utils.precision import resolve_precision, slow_precision
    from course_utils.viz.dashboard import build_dashboard, refuse_other_things

    if live and (len(saes) > 1 or (out is not None and out.suffix.lower() in (".html", ".htm"))):
        raise click.UsageError("--serve takes one SAE and a folder as --out (or neither)")
    precision = resolve_precision(precision)
    if slow := slow_precision(precision):
        click.echo(f"Note: {slow}.", err=True)
    coders = {Path(name).name: open_sae(name) for name in saes or ("middle",)}
    labels = _labels(labels_file)
    chosen = _numbers(latents, min(int(coder.W_dec.shape[0]) for coder in coders.values()))
    one = chosen[0] if chosen is not None and len(chosen) == 1 and not live else None
    if out is None and live:
        key = json.dumps([saes, model_name, latents, n_tokens, context, precision, sorted(labels.items())])
        out = settings.cache() / "dashboards" / hashlib.sha256(key.encode()).hexdigest()[:16]
    out = out or Path("dashboard" if one is None or len(coders) > 1 else f"latent_{one}.html")
    places = [out / name for name in coders] if len(coders) > 1 else [out]
    try:  # before the slow part
        for place in places:
            refuse_other_things(place)
        click.echo("Loading the language model ...", err=True)
        model = load_model(model_name, dtype=getattr(torch, precision))
    except (FileExistsError, ModelUnavailable) as error:
        raise click.ClickException(str(error)) from error
    tokens = corpus_tokens(model, n_tokens, context)
    built = []
    for name, coder in coders.items():
        many = len(coders) > 1
        links = _links(model, name, coders, tokens) if many else None
        which = chosen if one is None or many else one
        built.append(
            build_dashboard(out / name if many else out, model, coder, tokens, which, labels=labels, related=links)
        )
    if as_json:
        click.echo(json.dumps([{"path": str(d.path), "latents": d.latents} for d in built]))
    elif not live:
        for made in built:
            click.echo(f"{made.latents} latents: {made.path}")
    if live:
        _serve(out, model, next(iter(coders.values())), labels, port, show)
    elif show:
        webbrowser.open(built[0].path.resolve().as_uri())


def open_sae(name: str) -> Any:
    """A shipped SAE by name, or one from a folder in SAELens' format."""
    from course_utils.lm.saes import load_sae

    try:
        return load_sae(name)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise click.ClickException(str(error.args[0] if isinstance(error, KeyError) else error)) from error


def corpus_tokens(model: Any, n_tokens: int, context: int) -> Any:
    """About `n_tokens` tokens of the shipped text that no shipped SAE was trained on, as [sequences, context]."""
    from course_utils.lm.corpus import load_corpus

    return load_corpus("heldout").pack(model, context=context, max_tokens=n_tokens).tokens


def _links(model: Any, name: str, coders: dict[str, Any], tokens: Any) -> dict[int, list[dict[str, Any]]]:
    from course_utils.viz.dashboard import related_links

    others = {other: (coder, f"../{other}/index.html") for other, coder in coders.items() if other != name}
    return related_links(model, coders[name], others, tokens[: max(1, 50_000 // tokens.shape[1])])


def _serve(site: Path, model: Any, sae: Any, labels: dict[int, str], port: int, show: bool) -> None:
    from course_utils.viz.server import create_app, listen, serve

    app = create_app(site, model, sae, labels=labels)
    try:
        place = listen(port)
    except OSError as error:
        raise click.ClickException(f"port {port} is taken: choose another with --port, or leave it away") from error
    address = f"http://127.0.0.1:{place.getsockname()[1]}/"
    click.echo(f"{address}   (this machine only; Ctrl-C ends it)")
    if show:
        webbrowser.open(address)
    serve(app, place)


def _labels(path: Path | None) -> dict[int, str]:
    if path is None:
        return {}
    try:
        return {int(number): str(label) for number, label in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise click.ClickException(f'{path} should hold JSON like {{"12": "rivers"}}: {error}') from error


def _numbers(text: str | None, d_sae: int) -> list[int] | None:
    """`"3,7-9"` to [3, 7, 8, 9]."""
    if text is None:
        return None
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            numbers += range(int(first), int(last if dash else first) + 1)
    except ValueError as error:
        raise click.ClickException(f"--latents {text!r}: expected something like 12 or 3,7-9") from error
    if not numbers or min(numbers) < 0 or max(numbers) >= d_sae:
        raise click.ClickException(f"--latents {text!r}: latents lie in 0-{d_sae - 1}")
    return list(dict.fromkeys(numbers))
