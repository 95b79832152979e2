"""Build the site: run the solved lessons, render every page, write search data and shared files, put all in place at once."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from pygments.formatters import HtmlFormatter

from course_utils import lessons, settings
from course_utils.site.execute import LessonError, Run, run_lessons
from course_utils.site.features import Browser, build_browsers, mentioned
from course_utils.site.lesson import Page, render
from course_utils.site.outputs import needs_network

HERE = Path(__file__).parent
MARKER = "course-site.json"
LATENTS = 256
"""Latents in each feature browser."""
TEXT_KEPT = 6000
"""Characters of a section that search looks through."""
PICTURES = {
    "geometry.png": (
        "Every feature's share of a dimension against sparsity: shares gather at simple fractions",
        "Two hundred features in twenty dimensions, trained at twenty sparsities, gather at simple fractions of a dimension.",
        "03",
    ),
    "steering.png": (
        "Adding a direction found in a lesson makes German words likely; a random direction does not",
        "A direction found on one set of texts, added to the model's residual stream, beside a random direction of the same length.",
        "01",
    ),
    "check.png": (
        "Two cards: an answer recognised as a known mistake, and a right one",
        "Every exercise is checked the moment you run it, and the check says what is wrong.",
        "02",
    ),
}
"""Pictures of the front page, from `docs/`: what they show, the caption, the lesson they come from."""


def build_site(
    out: Path,
    numbers: Sequence[str] | None = None,
    *,
    quick: bool | None = None,
    execute: bool = True,
    latents: int = LATENTS,
) -> Path:
    """Write the site to `out` and return its front page. It opens from disk, and no page asks another machine for anything.

    The whole site is built beside `out` and then renamed: readers see the old one or the new one.

    Args:
        numbers: lessons to show, such as `["02", "03"]`; all by default.
        quick: run lessons with short demonstrations; by default what `COURSE_QUICK` says.
        execute: if False, nothing runs: lessons that never ran appear without outputs.
        latents: how many latents each feature browser holds; 0 leaves the browsers out.

    Raises:
        LessonError: a lesson does not run (the message names lesson, cell and line), or an output would need a network.
        FileExistsError: `out` holds something that is not an earlier site.
        ValueError: an unknown lesson number.
    """
    out = Path(out).absolute()
    if out.exists() and not (out / MARKER).exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is no site of this course: choose another --out, or remove it first")
    quick = settings.quick() if quick is None else quick
    runs = run_lessons(lessons.choose(numbers), quick=quick, execute=execute)
    named = mentioned(runs)
    browsers = build_browsers(latents, set().union(*named.values()), quick=quick) if latents else []
    pages = [_with_latent_links(render(run), run, named, browsers) for run in runs]
    for page in pages:
        if found := needs_network(page.body):
            raise LessonError(f"lesson {page.number} holds something that loads from another machine: {found}")
    work = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(work, ignore_errors=True)
    try:
        _write_site(work, pages, browsers, quick)
        _put_in_place(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out / "index.html"


def _write_site(work: Path, pages: list[Page], browsers: list[Browser], quick: bool) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pictures: list[dict[str, Any]] = [
        {"file": name, "alt": alt, "caption": caption, "page": next((p for p in pages if p.number == number), None)}
        for name, (alt, caption, number) in PICTURES.items()
        if (settings.root() / "docs" / name).exists()
    ]
    shared: dict[str, Any] = {"pages": pages, "browsers": browsers, "quick": quick, "pictures": pictures}
    _write_assets(work / "assets", pages, [picture["file"] for picture in pictures], browsers)
    for browser in browsers:
        shutil.copytree(browser.folder, work / "features" / browser.name)
    for index, page in enumerate(pages):
        neighbours = {
            "previous": pages[index - 1] if index else None,
            "following": pages[index + 1] if index + 1 < len(pages) else None,
        }
        html = environment.get_template("lesson.html").render(page=page, **neighbours, **shared)
        _write(work / page.href, html)
    _write(work / "index.html", environment.get_template("index.html").render(**shared))
    if browsers:
        _write(work / "features.html", environment.get_template("features.html").render(**shared))
    _write(work / MARKER, json.dumps({"lessons": [page.number for page in pages], "quick": quick}))


def _put_in_place(work: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        os.replace(out, old)
    os.replace(work, out)
    shutil.rmtree(old, ignore_errors=True)


def _with_latent_links(page: Page, run: Run, named: dict[str, set[int]], browsers: list[Browser]) -> Page:
    """Where a lesson's output names a latent that the browser holds, a link goes there."""
    from dataclasses import replace

    middle = next((browser for browser in browsers if browser.name == "middle"), None)
    if middle is None or run.source.slug not in named:
        return page
    there = set(middle.latents)

    def link(match: re.Match[str]) -> str:
        if int(match[1]) not in there:
            return match[0]
        return f'<a href="{middle.href}#/latent/{match[1]}">{match[0]}</a>'

    def in_output(match: re.Match[str]) -> str:
        return re.sub(r"\blatent +(\d+)\b", link, match[0])

    return replace(page, body=re.sub(r'<pre class="output".*?</pre>', in_output, page.body, flags=re.DOTALL))


def _write_assets(folder: Path, pages: list[Page], pictures: list[str], browsers: list[Browser]) -> None:
    from plotly.offline import get_plotlyjs

    _write(folder / "style.css", stylesheet())
    for name in ("site.js", "theme.js"):
        shutil.copyfile(HERE / name, folder / name)
    if any(page.figures for page in pages):
        _write(folder / "plotly.min.js", get_plotlyjs())
    for name in pictures:
        shutil.copyfile(settings.root() / "docs" / name, folder / name)
    # a script, not JSON: pages opened from disk may not fetch files
    _write(
        folder / "search.js", f"window.SEARCH = {json.dumps(search_entries(pages, browsers), ensure_ascii=False)};\n"
    )


def stylesheet() -> str:
    """The site's style: one set of colours for light, one for dark, used by the reader's setting or by the button."""
    light = HtmlFormatter(style="friendly").get_style_defs(".code")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".code")
    dark += (HERE / "dark.css").read_text(encoding="utf-8")
    dark = dark.replace("pre { line-height: 125%; }", "")
    style = (HERE / "style.css").read_text(encoding="utf-8")
    return (
        f"{light}\n{style}\n@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{\n{dark}\n}} }}\n"
        f":root[data-theme=dark] {{\n{dark}\n}}\n"
    )


def search_entries(pages: list[Page], browsers: list[Browser]) -> list[dict[str, str]]:
    """What search knows: every section of every lesson, and the feature browsers."""
    entries = [
        {
            "page": page.href,
            "lesson": f"{page.number} {page.title}",
            "anchor": section.anchor,
            "heading": section.heading or page.title,
            "text": section.text[:TEXT_KEPT],
            "code": section.code[:TEXT_KEPT],
        }
        for page in pages
        for section in page.sections
    ]
    for browser in browsers:
        heading = f"Feature browser, {browser.name} layer"
        text = f"{len(browser.latents)} latents of the autoencoder at {browser.hook}: where each fires, which words it promotes."
        entries.append(
            {"page": browser.href, "lesson": "Features", "anchor": "", "heading": heading, "text": text, "code": ""}
        )
    return entries


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # a lone surrogate in a learner's or a model's text cannot be written as UTF-8
    path.write_bytes(text.encode("utf-8", "replace"))


__all__ = ["LATENTS", "LessonError", "build_site"]
