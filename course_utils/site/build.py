"""Build the site: run the solved lessons (once per source), render every page, write search data and shared files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from pygments.formatters import HtmlFormatter
from tqdm.auto import tqdm

from course_utils import exercises, lessons, settings
from course_utils.io import atomic_write
from course_utils.site.markdown import code_html, slug, to_html

HERE = Path(__file__).parent
PLOTLY = "application/vnd.plotly.v1+json"
# Older first: an output is shown in the richest form that works without a kernel.
FORMS = (PLOTLY, "text/html", "image/svg+xml", "image/png", "text/markdown", "text/latex", "text/plain")


@dataclass(frozen=True)
class Page:
    """One lesson, rendered."""

    number: str
    title: str
    href: str
    body: str
    headings: list[tuple[str, str]]
    words: list[tuple[str, str, str]]
    """(anchor, heading, text) of every section, for search."""


def build_site(out: Path, numbers: list[str] | None = None, execute: bool = True) -> Path:
    """Write the site to `out` and return its index page. Opens from disk; no page asks another machine for anything.

    Raises:
        RuntimeError: a lesson's cell fails; the message names the lesson and shows the traceback.
    """
    sources = [source for source in lessons.sources() if numbers is None or source.number in numbers]
    pages = [render(source, executed(source, execute)) for source in tqdm(sources, desc="lessons", unit="lesson")]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True)
    shared: dict[str, Any] = {"pages": pages, "features": _features_page(out)}
    _write_shared_files(out, pages)
    for index, page in enumerate(pages):
        neighbours = {
            "previous": pages[index - 1] if index else None,
            "following": pages[index + 1] if index + 1 < len(pages) else None,
        }
        _write(out / page.href, environment.get_template("lesson.html").render(page=page, **neighbours, **shared))
    rows = [_index_row(page) for page in pages]
    _write(out / "index.html", environment.get_template("index.html").render(rows=rows, **shared))
    return out / "index.html"


def executed(source: lessons.Source, execute: bool = True) -> Any:
    """The solved lesson with its outputs, from `build/executed` where the same source ran before."""
    notebook = lessons.read_notebook(source.path)
    digest = hashlib.sha256("\x00".join(cell.source for cell in notebook.cells).encode()).hexdigest()[:16]
    kept = settings.root() / "build" / "executed" / f"{source.slug}-{digest}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    if not execute:
        return notebook
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    environment = {**os.environ, "COURSE_PROGRESS": "off"}
    try:
        NotebookClient(notebook, timeout=3600, kernel_name="python3", record_timing=False).execute(env=environment)
    except CellExecutionError as error:
        raise RuntimeError(f"{source.path.name} does not run:\n{error}") from None
    with atomic_write(kept) as file:
        nbformat.write(notebook, file)
    return notebook


def render(source: lessons.Source, notebook: Any) -> Page:
    """One lesson's notebook as a page: text, code, outputs; worked answers folded."""
    parts, words, headings = [], [], []
    anchor, heading, text = "", exercises_title(source), ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            html = to_html(cell.source)
            parts.append(f'<section class="text">{html}</section>')
            for level, found, title in re.findall(r'<h([1-4]) id="([^"]*)">(.*?)<a class="anchor"', html):
                words.append((anchor, heading, text))
                anchor, heading, text = found, _plain(title), ""
                if level in "23":
                    headings.append((found, heading))
            text += " " + _plain(html)
        elif cell.cell_type == "code":
            parts.append(_code_cell(cell))
    words.append((anchor, heading, text))
    return Page(source.number, exercises_title(source), f"{source.slug}.html", "\n".join(parts), headings, words)


def exercises_title(source: lessons.Source) -> str:
    if source.number in exercises.lesson_numbers():
        return exercises.get_lesson(source.number).title
    return source.slug[3:].replace("_", " ")


def _code_cell(cell: Any) -> str:
    role, exercise_id = lessons.cell_role(cell)
    code = code_html(cell.source)
    outputs = "".join(_output(output) for output in cell.get("outputs", []))
    if role == "answer":
        label = f"Worked answer to {exercise_id}"
        return f'<details class="answer"><summary>{label}</summary>{code}</details>{outputs}'
    if role in ("check", "setup") or len(cell.source.splitlines()) > 12:
        label = {"check": f"Check {exercise_id}", "setup": "Set-up"}.get(role, "Code")
        return f'<details class="{role}"><summary>{label}</summary>{code}</details>{outputs}'
    return f'<div class="cell">{code}</div>{outputs}'


def _output(output: Any) -> str:
    if output.output_type == "stream":
        return f'<pre class="output">{escape(_without_bars(output.text))}</pre>' if output.name == "stdout" else ""
    if output.output_type == "error":
        return f'<pre class="output error">{escape(output.ename)}: {escape(output.evalue)}</pre>'
    data = output.get("data", {})
    if any("widget" in kind for kind in data):
        return '<p class="widget">This control is interactive in the notebook; the figure shows its first position.</p>'
    for form in FORMS:
        if form in data:
            return _shown(form, data[form])
    return ""


def _shown(form: str, value: Any) -> str:
    if form == PLOTLY:
        figure = json.dumps(
            {"data": value["data"], "layout": value.get("layout", {}), "frames": value.get("frames", [])}
        )
        title = ((value.get("layout", {}).get("title") or {}).get("text")) or "figure"
        label = escape(_plain(str(title)), quote=True)
        figure = figure.replace("</", "<\\/")
        return (
            f'<figure class="plot" role="img" aria-label="{label}">'
            f'<script type="application/json">{figure}</script></figure>'
        )
    if form == "image/png":
        return f'<figure><img alt="figure made by the code above" src="data:image/png;base64,{value}"></figure>'
    if form in ("text/html", "image/svg+xml"):
        return f'<div class="output html">{value}</div>'
    if form in ("text/markdown", "text/latex"):
        return f'<div class="output">{to_html(value)}</div>'
    return f'<pre class="output">{escape(value)}</pre>'


def _without_bars(text: str) -> str:
    """Keep what a terminal would show after carriage returns."""
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.split("\n"))


def _index_row(page: Page) -> dict[str, Any]:
    if page.number not in exercises.lesson_numbers():
        return {"page": page, "count": 0, "points": 0, "minutes": 0}
    listed = exercises.for_lesson(page.number)
    return {
        "page": page,
        "count": len(listed),
        "points": sum(exercise.points for exercise in listed),
        "minutes": sum(exercise.minutes for exercise in listed),
    }


def _features_page(out: Path) -> str | None:
    return "features/index.html" if (out / "features" / "index.html").exists() else None


def _write_shared_files(out: Path, pages: list[Page]) -> None:
    from plotly.offline import get_plotlyjs

    light, dark = HtmlFormatter(style="friendly"), HtmlFormatter(style="github-dark")
    style = (HERE / "style.css").read_text(encoding="utf-8")
    style += light.get_style_defs(".code")
    style += "@media (prefers-color-scheme: dark) {" + dark.get_style_defs(".code") + "}"
    _write(out / "style.css", style)
    shutil.copyfile(HERE / "site.js", out / "site.js")
    if not (out / "plotly.min.js").exists():
        _write(out / "plotly.min.js", get_plotlyjs())
    entries = [
        {
            "page": page.href,
            "lesson": f"{page.number} {page.title}",
            "anchor": anchor,
            "heading": heading,
            "text": text[:4000],
        }
        for page in pages
        for anchor, heading, text in page.words
        if text.strip()
    ]
    # a script, not JSON: pages opened from disk may not fetch files
    _write(out / "search.js", f"window.SEARCH = {json.dumps(entries, ensure_ascii=False)};")


def _plain(html: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))).strip()


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text)


__all__ = ["build_site", "executed", "render", "slug"]
