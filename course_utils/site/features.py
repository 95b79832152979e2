"""The feature browsers of the shipped autoencoders: a sample of latents at three depths of the model, linked across layers.

Built once and kept under `build/features` while weights, text and code stay the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import settings
from course_utils.io import atomic_write
from course_utils.site.execute import PACKAGE, Run

RECIPE = 1
"""Raised when this module chooses or links latents differently: kept browsers are then made again."""
CONTEXT = 128
LEAST_FIRINGS = 25
"""A latent that fired less often on the text shows too little to judge it."""
MATCH = 0.3
"""Latents of two layers are linked from this correlation on; two unrelated sparse latents have about 0."""
_CODE = ("viz/dashboard.py", "viz/browser", "features/examples.py", "features/stream.py", "features/logits.py",
         "features/relations.py", "lm/saes.py", "lm/corpus.py")  # fmt: skip
_LOADS = re.compile(r"""load_sae\(["'](\w+)["']\)""")
_MENTION = re.compile(r"\blatent +(\d+)\b")


@dataclass(frozen=True)
class Browser:
    """One autoencoder's browser, as the site's page of features lists it."""

    name: str
    hook: str
    href: str
    folder: Path
    latents: list[int]
    facts: dict[str, float]


def mentioned(runs: Sequence[Run]) -> dict[str, set[int]]:
    """By lesson, the latents of the middle layer that its outputs name: `latent 1234`. Only lessons that load it at the top."""
    found: dict[str, set[int]] = {}
    for run in runs:
        code = [cell for cell in run.notebook.cells if cell.cell_type == "code"]
        if "middle" in _LOADS.findall("".join(cell.source for cell in code[:3])):
            texts = (o.get("text", "") for cell in code for o in cell.get("outputs", []) if o.output_type == "stream")
            found[run.source.slug] = {int(number) for text in texts for number in _MENTION.findall(text)}
    return found


def build_browsers(count: int, wanted: set[int], *, quick: bool = False) -> list[Browser]:
    """The browsers of the early, the middle and the late autoencoder, with `count` latents each.

    Latents of the middle layer are an even sample of those that fire often enough, and the `wanted` ones. In the other layers the
    latents that fire most like them come first.
    """
    available = json.loads((PACKAGE / "assets" / "saes" / "saes.json").read_text(encoding="utf-8"))
    entries = {entry["alias"]: entry for entry in available.values()}
    n_tokens = 8_000 if quick else 24_000
    place = settings.root() / "build" / "features" / _key(count, wanted, n_tokens)
    if not (place / "browsers.json").exists():
        chosen = _build(place, list(entries), count, wanted, n_tokens)
        with atomic_write(place / "browsers.json") as file:  # last, so that an interrupted build is taken up again
            json.dump(chosen, file)
        for old in place.parent.iterdir():
            if old != place:
                shutil.rmtree(old, ignore_errors=True)
    chosen = json.loads((place / "browsers.json").read_text(encoding="utf-8"))
    return [
        Browser(
            name,
            entries[name]["hook_name"],
            f"features/{name}/index.html",
            place / name,
            chosen[name],
            _facts(entries[name]),
        )
        for name in sorted(chosen, key=lambda name: _layer(entries[name]["hook_name"]))
    ]


def _facts(entry: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(entry[key]) for key in ("l0", "fvu", "loss_versus_mean", "dead_fraction") if key in entry}


def _layer(hook: str) -> int:
    found = re.search(r"\d+", hook)
    return int(found[0]) if found else -1


def _key(count: int, wanted: set[int], n_tokens: int) -> str:
    digest = hashlib.sha256(json.dumps([RECIPE, count, sorted(wanted), n_tokens, CONTEXT]).encode())
    assets = [PACKAGE / "assets" / "saes" / "saes.json", PACKAGE / "assets" / "corpus.json"]
    for path in [*assets, *(PACKAGE / name for name in _CODE)]:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _build(place: Path, names: list[str], count: int, wanted: set[int], n_tokens: int) -> dict[str, list[int]]:
    from course_utils.features import scan_latents
    from course_utils.lm import load_corpus, load_model, load_sae
    from course_utils.viz.dashboard import build_dashboard, related_links

    model = load_model()
    saes = {name: load_sae(name) for name in names}
    tokens = load_corpus("heldout").pack(model, context=CONTEXT, max_tokens=n_tokens).tokens
    scans = {name: scan_latents(model, sae, tokens, k=10, sample=45) for name, sae in saes.items()}
    often = {name: scan.latents[scan.fired >= LEAST_FIRINGS].tolist() for name, scan in scans.items()}
    centre = "middle" if "middle" in saes else names[0]
    chosen = {centre: _sample(often[centre], count, sorted(wanted))}
    others = {name: (sae, f"../{name}/index.html") for name, sae in saes.items() if name != centre}
    ahead = related_links(model, saes[centre], others, tokens[: max(1, n_tokens // 4 // CONTEXT)], at_least=MATCH)
    links: dict[str, dict[int, list[dict[str, Any]]]] = {centre: {i: ahead.get(i, []) for i in chosen[centre]}}
    for name, (_, address) in others.items():
        back = _turned(links[centre], address, centre)
        chosen[name] = _sample(often[name], count, [i for i in back if i in set(often[name])])
        links[name] = {i: back[i] for i in chosen[name] if i in back}
        # a link to a latent that is not in its browser would lead nowhere
        there = {f"{address}#/latent/{i}" for i in chosen[name]}
        for near in links[centre].values():
            near[:] = [link for link in near if not link["href"].startswith(address) or link["href"] in there]
    for name, sae in saes.items():
        title = f"{name.capitalize()} layer: {model.cfg.model_name.split('/')[-1]} · {sae.cfg.hook_name}"
        build_dashboard(
            place / name, model, sae, tokens, chosen[name], related=links[name], title=title, scan=scans[name], bands=4
        )
    return chosen


def _sample(pool: list[int], count: int, first: list[int]) -> list[int]:
    """`first` and then latents spread evenly over the pool, `count` in all, in order."""
    kept = list(dict.fromkeys(first))[: max(count, 1)]
    rest = [i for i in pool if i not in set(kept)]
    missing = min(count - len(kept), len(rest))
    return sorted(kept + [rest[len(rest) * j // missing] for j in range(missing)])


def _turned(
    ahead: Mapping[int, Sequence[Mapping[str, Any]]], address: str, centre: str
) -> dict[int, list[dict[str, Any]]]:
    """Links in the other direction, best first."""
    back: dict[int, list[dict[str, Any]]] = {}
    for latent, near in ahead.items():
        for link in near:
            if link["href"].startswith(f"{address}#/latent/"):
                number = int(link["href"].rpartition("/")[2])
                href = f"../{centre}/index.html#/latent/{latent}"
                back.setdefault(number, []).append(
                    {"text": f"{centre} · {latent}", "href": href, "score": link["score"]}
                )
    for near in back.values():
        near.sort(key=lambda link: -link["score"])
    return back
