"""Feature dashboards: one self-contained HTML file, or a browsable site of thousands of latents, both opened from disk.

The page is `browser/page.html` with its style and script; data travel beside it as JSON that is only ever shown as text.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import html
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from course_utils.features import (
    HISTOGRAM_EDGES,
    Example,
    LatentScan,
    LogitEffects,
    final_norm,
    hook_name_of,
    latent_stream,
    logit_effects,
    match_across,
    nearest_decoder_neighbours,
    scan_latents,
    token_strings,
)
from course_utils.io import atomic_write

LATENTS_PER_FILE = 32
ROWS_PER_INDEX_FILE = 2000
MOST_IN_ONE_FILE = 200
_MARKER = "course-dashboard.json"


@dataclass(frozen=True)
class Dashboard:
    """A dashboard on disk. In a notebook it shows itself."""

    path: Path
    """The HTML file to open."""
    latents: int

    def _repr_html_(self) -> str:
        if self.path.name == "index.html" and (self.path.parent / _MARKER).exists():
            name = html.escape(str(self.path), quote=True)
            return f'<p>{self.latents} latents: open <a href="{name}"><code>{name}</code></a> in a browser.</p>'
        source = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{source}" style="width:100%;height:780px;border:1px solid #8884;border-radius:8px"></iframe>'


def build_dashboard(
    out: str | Path,
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "sequences context"],
    latents: int | Sequence[int] | None = None,
    *,
    labels: Mapping[int, str] | None = None,
    related: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    title: str | None = None,
    scan: LatentScan | None = None,
    hook_name: str | None = None,
    examples: int = 12,
    bands: int = 5,
    per_band: int = 3,
    left: int = 20,
    right: int = 8,
    correlations: bool | None = None,
    cache: bool = True,
    progress: bool = True,
) -> Dashboard:
    """Write the dashboard of one latent, some, or all of an SAE.

    Args:
        out: a name ending in `.html` for one self-contained file (up to 200 latents, meant for one), or a folder for a site:
            `index.html` and a `data` folder. A folder that holds an earlier dashboard is replaced as a whole.
        tokens: the text to look for examples in.
        latents: one latent, several, or all (None).
        labels: a short name for some latents, shown and searched.
        related: for a latent, links to the same concept elsewhere: `{"text": "layer 5, latent 88", "href": "...", "score": 0.8}`.
        scan: a scan made earlier over the same latents, instead of scanning `tokens`.
        examples, bands, per_band: strongest examples shown; quantile bands, and examples in each.
        correlations: whether to look for latents that fire together (by default when there are 2 to 8,192).

    Example:
        build_dashboard("latent_12.html", model, sae, tokens, 12)
        build_dashboard("site", model, sae, tokens)     # then open site/index.html
    """
    out = Path(out)
    d_sae = int(sae.W_dec.shape[0])
    chosen = _chosen(latents, d_sae)
    single = _is_page(out)
    refuse_other_things(out)  # before the slow part
    if single and len(chosen) > MOST_IN_ONE_FILE:
        raise ValueError(f"{len(chosen)} latents are too many for one file: give a folder name instead of {out.name!r}")
    if scan is None:
        scan = scan_latents(
            model,
            sae,
            tokens,
            None if len(chosen) == d_sae else chosen,
            k=examples,
            sample=max(60, bands * per_band * 3),
            left=left,
            right=right,
            correlations=(1 < len(chosen) <= 8192) if correlations is None else correlations,
            hook_name=hook_name,
            cache=cache,
            progress=progress,
        )
    norm = final_norm(
        model, tokens, max_tokens=256
    )  # these pass the whole model: half of what the rest of this function takes
    records = latent_records(
        scan,
        model,
        sae,
        chosen,
        norm=norm,
        labels=labels,
        related=related,
        bands=bands,
        per_band=per_band,
        progress=progress,
    )
    about = {
        "title": title or f"{_model_name(model)} · {hook_name_of(sae, hook_name)}",
        "model": _model_name(model),
        "hook": hook_name_of(sae, hook_name),
        "d_sae": d_sae,
        "tokens": scan.tokens_seen,
        "count": len(chosen),
        "bos": str(getattr(model.tokenizer, "bos_token", "") or ""),
    }
    write = write_page if single else write_site
    with _without_collection():
        return write(out, about, records)


@contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage collection meanwhile: records are plain data without cycles, and one look through all objects that the
    libraries hold takes a quarter of a second."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _chosen(latents: int | Sequence[int] | None, d_sae: int) -> list[int]:
    chosen = (
        list(range(d_sae)) if latents is None else [latents] if isinstance(latents, int) else [int(i) for i in latents]
    )
    wrong = [i for i in chosen if not 0 <= i < d_sae]
    if wrong or not chosen:
        raise ValueError(f"latents must lie in 0 … {d_sae - 1}, got {wrong[:5] or 'none'}")
    return list(dict.fromkeys(chosen))


def _model_name(model: Any) -> str:
    name = str(getattr(getattr(model, "cfg", None), "model_name", "") or "model")
    return Path(name).name or "model"  # a local folder's path says nothing to a reader


def latent_records(
    scan: LatentScan,
    model: Any,
    sae: Any,
    latents: Sequence[int],
    *,
    norm: Any = None,
    labels: Mapping[int, str] | None = None,
    related: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    bands: int = 5,
    per_band: int = 3,
    neighbours: int = 8,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """What the page shows of each latent, as plain data with the text of every token spelled out."""
    spell = partial(token_strings, model.tokenizer)
    labels, related = labels or {}, related or {}
    norm = norm or final_norm(model)
    bar = tqdm(total=len(latents), desc="writing latents", unit="latent", disable=not progress or len(latents) < 200)
    writes_residual = sae.W_dec.shape[1] == model.W_U.shape[0]
    density, mean_when_active = scan.density, scan.mean_when_active  # of all latents, each time they are asked for
    for start in range(0, len(latents), 512):
        part = list(latents[start : start + 512])
        effects = logit_effects(model, sae, part, k=10, norm=norm) if writes_residual else None
        near, cosine = nearest_decoder_neighbours(sae, part, min(neighbours, sae.W_dec.shape[0] - 1))
        for i, latent in enumerate(part):
            row = scan.row(latent)
            yield {
                "id": latent,
                "label": str(labels.get(latent, "")),
                "density": _round(density[row]),
                "fired": int(scan.fired[row]),
                "max": _round(scan.maximum[row]),
                "mean": _round(mean_when_active[row]),
                "histogram": _trimmed_histogram(scan.histogram[row]),
                "logits": _logits(effects, i, spell) if effects is not None else None,
                "top": [_example(e, spell) for e in scan.top(latent)],
                "bands": [
                    {
                        "low": _round(band.low),
                        "high": _round(band.high),
                        "from": _round(band.from_quantile),
                        "to": _round(band.to_quantile),
                        "examples": [_example(e, spell) for e in band.examples],
                    }
                    for band in scan.quantiles(latent, bands, per_band)
                ],
                "near": [[int(j), _round(c)] for j, c in zip(near[i], cosine[i], strict=True)],
                "together": [[j, _round(r)] for j, r in scan.correlated(latent)] if scan.co_moment is not None else [],
                "related": [dict(link) for link in related.get(latent, ())],
            }
            bar.update()
    bar.close()


def _round(x: float) -> float:
    """Four significant digits: what a reader can use, in a third of the bytes."""
    return float(f"{float(x):.4g}")


Spell = Callable[[Sequence[int]], list[str]]
"""Token ids to their texts."""


def _example(example: Example, spell: Spell) -> dict[str, Any]:
    return {
        "t": spell(example.tokens),
        "a": [float(f"{a:.3g}") if a else 0 for a in example.acts],
        "p": example.peak,
        "at": [example.sequence, example.position],
        "v": _round(example.value),
    }


def _trimmed_histogram(counts: Int[np.ndarray, " bins"]) -> dict[str, Any]:
    filled = np.flatnonzero(counts)
    if not len(filled):
        return {"edges": [], "counts": []}
    first, last = int(filled[0]), int(filled[-1])
    edges = [_round(x) for x in HISTOGRAM_EDGES[first : last + 2]]
    return {"edges": edges, "counts": [int(c) for c in counts[first : last + 1]]}


def _logits(effects: LogitEffects, i: int, spell: Spell) -> dict[str, Any]:
    def table(tokens: Tensor, values: Tensor) -> list[list[Any]]:
        return [[word, _round(v)] for word, v in zip(spell(tokens[i].tolist()), values[i].tolist(), strict=True)]

    return {
        "top": table(effects.top_tokens, effects.top_values),
        "bottom": table(effects.bottom_tokens, effects.bottom_values),
        "counts": effects.histogram[i].tolist(),
        "low": _round(float(effects.edges[i, 0])),
        "high": _round(float(effects.edges[i, -1])),
        "sd": _round(float(effects.deviation[i])),
        "measured": effects.measured,
    }


def index_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a latent in the index: what can be searched and sorted."""
    peaks = [e["t"][e["p"]] for e in record["top"]]
    fires_on = sorted(dict.fromkeys(peaks), key=lambda word: -peaks.count(word))[:3]
    promotes = [word for word, _ in (record["logits"] or {"top": []})["top"][:3]]
    keys = ("id", "label", "density", "max")
    return {**{key: record[key] for key in keys}, "on": fires_on, "up": promotes}


def to_json(data: Any) -> str:
    """JSON that can stand inside a script element or file: `<`, `>`, `&` and line separators are written as escapes."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    # a lone surrogate cannot be written as UTF-8
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def render_page(
    about: Mapping[str, Any], *, latents: Sequence[Mapping[str, Any]] = (), files: Mapping[str, Any] | None = None
) -> str:
    """The HTML of a page.

    Args:
        latents: records to carry inside the page.
        files: names of the data files of a site, loaded as needed.

    The page's content policy lets only its own script run (by checksum; a site also its data files) and forbids every
    connection but, when served, to its own server.
    """
    folder = resources.files("course_utils.viz") / "browser"
    style, script, page = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html"))
    boot = {"about": dict(about), "files": files, "latents": list(latents), "index": [index_row(r) for r in latents]}
    checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = f"'sha256-{checksum}'" + (" 'self' file:" if files else "")
    connect = "'self'" if about.get("live") else "'none'"
    policy = (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(str(about.get("title", "Latents"))),
        "STYLE": style,
        "BOOT": to_json(boot),
        "SCRIPT": script,
    }
    # one pass, so that nothing inside a part is taken for a place to fill
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match.group(1)], page)


def write_page(out: str | Path, about: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> Dashboard:
    """Everything in one HTML file."""
    kept = list(records)
    path = Path(out)
    with atomic_write(path) as file:
        file.write(render_page(about, latents=kept))
    return Dashboard(path, len(kept))


def write_site(out: str | Path, about: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> Dashboard:
    """A folder: `index.html`, index files of 2,000 rows, data files of 32 latents. Written beside, then moved into place."""
    out = Path(out)
    refuse_other_things(out)
    work = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(work, ignore_errors=True)
    (work / "data").mkdir(parents=True)
    try:
        rows, count = _write_latents(work, records)
        names: list[str] = []
        for start in range(0, len(rows), ROWS_PER_INDEX_FILE):
            names.append(f"index-{len(names)}")
            _write_data(work, names[-1], rows[start : start + ROWS_PER_INDEX_FILE])
        files = {"index": names, "per_file": LATENTS_PER_FILE}
        (work / "index.html").write_text(render_page(about, files=files), encoding="utf-8")
        (work / _MARKER).write_text(json.dumps({"about": dict(about), "files": files}), encoding="utf-8")
        old = out.with_name(f".{out.name}.{os.getpid()}.old")
        if out.exists():
            os.replace(out, old)
        os.replace(work, out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Dashboard(out / "index.html", count)


def refuse_other_things(site: str | Path) -> None:
    """Raise FileExistsError if a site written to this place would replace something that is no dashboard."""
    site = Path(site)
    if _is_page(site):
        return
    if site.exists() and not (site / _MARKER).exists() and (not site.is_dir() or any(site.iterdir())):
        raise FileExistsError(f"{site} exists and is no dashboard: choose another name, or remove it first")


def _is_page(out: Path) -> bool:
    return out.suffix.lower() in (".html", ".htm")


def marker_of(site: str | Path) -> dict[str, Any]:
    """What a site says about itself: `about` and `files`.

    Errors:
        FileNotFoundError: the folder holds no dashboard.
    """
    path = Path(site) / _MARKER
    if not path.exists():
        raise FileNotFoundError(f"{site} holds no dashboard: build one with build_dashboard({str(site)!r}, ...)")
    return json.loads(path.read_text(encoding="utf-8"))


def _write_latents(work: Path, records: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    rows: list[dict[str, Any]] = []
    waiting: list[Mapping[str, Any]] = []
    files = 0
    for record in records:
        rows.append({**index_row(record), "file": files})
        waiting.append(record)
        if len(waiting) == LATENTS_PER_FILE:
            _write_data(work, f"latents-{files}", waiting)
            waiting, files = [], files + 1
    if waiting:
        _write_data(work, f"latents-{files}", waiting)
    return rows, len(rows)


def _write_data(work: Path, name: str, data: Any) -> None:
    """A script rather than JSON: a page opened from disk may load scripts beside it but not fetch files."""
    text = f"courseDashboard({json.dumps(name)},{to_json(data)});\n"
    (work / "data" / f"{name}.js").write_text(text, encoding="utf-8")


def related_links(
    model: Any,
    sae: Any,
    others: Mapping[str, tuple[Any, str]],
    tokens: Int[Tensor, "sequences context"],
    *,
    at_least: float = 0.3,
    k: int = 1,
    labels: Mapping[str, Mapping[int, str]] | None = None,
    progress: bool = False,
) -> dict[int, list[dict[str, Any]]]:
    """Links from each latent to the latents of other SAEs that fire most like it over the same text: the same concept at
    other layers.

    Args:
        others: by name, the SAE and where its dashboard lives (`"../layer-5/index.html"`, relative to this one).
        at_least: correlations below this are not shown; two unrelated sparse latents have about 0.
        k: links to each other SAE.

    Returns:
        what `build_dashboard(related=...)` takes.
    """
    links: dict[int, list[dict[str, Any]]] = {}
    for name, (other, address) in others.items():
        ours = latent_stream(model, sae, tokens, progress=progress)
        best, value = match_across(ours, latent_stream(model, other, tokens), k)
        known = (labels or {}).get(name, {})
        for latent, (columns, scores) in enumerate(zip(best, value, strict=True)):
            for column, score in zip(columns.tolist(), scores.tolist(), strict=True):
                if score >= at_least:
                    text = f"{name} · {column}" + (f" · {known[column]}" if column in known else "")
                    link = {"text": text, "href": f"{address}#/latent/{column}", "score": round(score, 3)}
                    links.setdefault(latent, []).append(link)
    return links
