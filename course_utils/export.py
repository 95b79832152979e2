"""One notebook as one HTML file for sharing, and a learner's notebooks as one zip file for handing in."""

from __future__ import annotations

import base64
import copy
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from course_utils.io import atomic_write
from course_utils.site.outputs import PLOTLY, WIDGET, needs_network, without_bars

DATES = (1980, 1, 1, 0, 0, 0)
"""Time stamped on files in a zip: the same work gives the same bytes."""
IMAGES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".svg": "svg+xml"}
PASTED = ("image/png", "image/jpeg", "image/gif")
"""Kinds of pictures that are taken over from a text cell's attachments."""


def run(notebook: Any, folder: Path) -> Any:
    """The notebook after running from top to bottom, each cell once. A cell that fails is shown with its error."""
    from course_utils.kernel import Runner

    ran = copy.deepcopy(notebook)
    resources = {"metadata": {"path": str(folder)}}
    Runner(ran, timeout=3600, allow_errors=True, resources=resources).execute()
    return ran


def to_html(notebook: Any, title: str, folder: Path | None = None) -> str:
    """A notebook with its outputs as one HTML page that needs nothing from elsewhere.

    Figures stay interactive (plotly's script is included once, if any figure needs it), formulas become MathML, pictures beside
    the notebook are put in, and the page follows the reader's light or dark setting. Widgets need a kernel: a line says so.

    Args:
        folder: where the notebook lies, for pictures that its text refers to.
    """
    import jinja2
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs
    from traitlets.config import Config

    shown = copy.deepcopy(notebook)
    figures = sum(_prepare(cell, folder) for cell in shown.cells)
    config = Config()
    config.HTMLExporter.exclude_input_prompt = config.HTMLExporter.exclude_output_prompt = True
    # nbconvert's "basic" page is the cells alone; the frame around them is ours, since its own fetches MathJax and requirejs
    exporter = HTMLExporter(config=config, template_name="basic")
    exporter.register_filter("markdown2html", _markdown)
    body, _ = exporter.from_notebook_node(shown)
    environment = jinja2.Environment(loader=jinja2.PackageLoader("course_utils"), autoescape=True)
    page = environment.get_template("export.html")
    script = get_plotlyjs().replace("</script", "<\\/script") if figures else ""
    return page.render(title=title, body=body, plotly=script, styles=_code_styles())


def write_html(notebook_path: Path, out: Path, execute: bool = False) -> Path:
    """Write `notebook_path` (a notebook, or a lesson's source in `solutions/`) as one HTML file.

    Errors:
        ValueError: the file is no notebook.
    """
    notebook = _read(notebook_path)
    if execute:
        notebook = run(notebook, notebook_path.resolve().parent)
    page = to_html(notebook, title_of(notebook, notebook_path.stem), notebook_path.resolve().parent)
    with atomic_write(out) as file:
        file.write(page)
    return out


def _read(path: Path) -> Any:
    from course_utils.lessons import read_notebook

    try:
        notebook = read_notebook(path)
    except Exception as error:  # nbformat and jupytext raise many kinds for a file that is no notebook
        raise ValueError(f"{path} cannot be read as a notebook ({type(error).__name__}: {error})") from None
    if not isinstance(notebook.get("cells"), list):
        raise ValueError(f"{path} cannot be read as a notebook (it has no cells)")
    return notebook


def has_results(notebook_path: Path) -> bool:
    """Whether any cell of a notebook shows a result."""
    from course_utils.lessons import read_notebook

    return any(cell.get("outputs") for cell in read_notebook(notebook_path).cells)


def title_of(notebook: Any, otherwise: str) -> str:
    """The first heading of a notebook."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := re.search(r"^# (.+)$", cell.source, re.MULTILINE)):
            return match[1].strip()
    return otherwise


def reset_answer(notebook_path: Path, exercise_id: str) -> Path | None:
    """Put an exercise's starting code back into its answer cell; nothing else in the notebook changes.

    Returns:
        a copy of the notebook as it was, beside it; None if the cell held its starting code already.

    Errors:
        ValueError: the file is no notebook, or has no answer cell for this exercise.
    """
    import nbformat

    from course_utils import exercises
    from course_utils.lessons import cell_role, keep_copy

    if notebook_path.suffix != ".ipynb":
        raise ValueError(f"{notebook_path} is no notebook (.ipynb)")
    stub = exercises.get(exercise_id).stub
    notebook = _read(notebook_path)
    cells = [cell for cell in notebook.cells if cell_role(cell) == ("answer", exercise_id)]
    if not cells:
        raise ValueError(f"{notebook_path} has no answer cell for {exercise_id}")
    if all(cell.source == stub for cell in cells):
        return None
    kept = keep_copy(notebook_path, f"reset-{exercise_id.replace('.', '-')}")
    for cell in cells:
        cell.source, cell.outputs, cell.execution_count = stub, [], None
    with atomic_write(notebook_path) as file:
        nbformat.write(notebook, file)
    return kept


def write_zip(notebooks: Iterable[Path], out: Path, root: Path) -> list[str]:
    """Put notebooks into one zip file under their paths below `root`, and return those names. Links are left out.

    Only notebooks go in, with their outputs: nothing of the learner's other files leaves the machine by accident.

    Errors:
        ValueError: no notebook was given.
    """
    chosen = [path for path in sorted(notebooks) if path.is_file() and not path.is_symlink()]
    if not chosen:
        raise ValueError("there is no notebook to put into the zip file")
    names = []
    with atomic_write(out, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in chosen:
            inside = path.resolve().is_relative_to(root.resolve())
            name = path.resolve().relative_to(root.resolve()).as_posix() if inside else path.name
            info = zipfile.ZipInfo(name, DATES)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
            names.append(name)
    return names


def _prepare(cell: Any, folder: Path | None) -> int:
    """Make one cell ready for a page of its own; returns how many plotly figures it shows."""
    if cell.cell_type == "markdown":
        cell.source = _pictures_inside(cell.source, folder, cell.get("attachments", {}))
        return 0
    count = 0
    for output in cell.get("outputs", []):
        data = output.get("data")
        if not data:
            if output.get("output_type") == "stream":
                output["text"] = without_bars(output["text"])
            continue
        if PLOTLY in data:
            count += 1
            output["data"] = {"text/html": _figure(data[PLOTLY])}
        elif WIDGET in data and re.search(r"\d+%\|", _joined(data.get("text/plain", ""))):
            output["data"] = {"text/plain": ""}  # a progress bar
        elif WIDGET in data:
            output["data"] = {"text/html": "<p><em>This control works in the notebook, where a kernel runs.</em></p>"}
        elif needs_network(_joined(data.get("text/html", ""))):
            text = "An output that would load something from the network was left out."
            output["data"] = {"text/html": f"<p><em>{text}</em></p>"}
    if cell.cell_type == "code":
        bars_and_warnings = [
            o for o in cell.outputs if o.get("name") == "stderr" or o.get("data") == {"text/plain": ""}
        ]
        cell.outputs = [o for o in cell.outputs if o not in bars_and_warnings]
    return count


def _figure(figure: dict[str, Any]) -> str:
    content = json.dumps(
        {name: figure.get(name, default) for name, default in (("data", []), ("layout", {}), ("frames", []))}
    )
    title = ((figure.get("layout") or {}).get("title") or {}).get("text") or "figure"
    label = escape(re.sub(r"<[^>]+>", " ", str(title)), quote=True)
    safe = content.replace("<", "\\u003c")
    return (
        f'<figure class="plot" role="img" aria-label="{label}"><script type="application/json">{safe}</script>'
        "<noscript>This figure needs JavaScript.</noscript></figure>"
    )


def _markdown(source: str) -> str:
    from course_utils.site.markdown import to_html as convert

    return convert(source)


def _pictures_inside(text: str, folder: Path | None, attachments: Mapping[str, Any]) -> str:
    """Pictures pasted into a cell or beside the notebook become part of the page; others from elsewhere become links."""

    def put_in(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        if target.startswith("attachment:"):
            pasted = _pasted(attachments.get(unquote(target.removeprefix("attachment:"))))
            return f"![{words}]({pasted})" if pasted else f"*(a picture that cannot be shown here: {words})*"
        if target.startswith(("http:", "https:", "//")):
            return f"[{words or 'picture'}]({target})"
        path = (folder / target).resolve() if folder else None
        kind = IMAGES.get(Path(target).suffix.lower())
        if path is None or kind is None or not path.is_file() or not path.is_relative_to(folder.resolve()):  # type: ignore[union-attr]
            return match[0]
        return f"![{words}](data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()})"

    return re.sub(r"!\[([^\]]*)\]\(([^)\s]+)\)", put_in, text)


def _pasted(attachment: Any) -> str | None:
    """The data address of a picture that was pasted into a cell (the notebook keeps it there as base64)."""
    for kind in PASTED:
        data = re.sub(r"\s", "", _joined(attachment.get(kind, ""))) if isinstance(attachment, Mapping) else ""
        if re.fullmatch(r"[A-Za-z0-9+/]+=*", data):
            return f"data:{kind};base64,{data}"
    return None


def _code_styles() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = HtmlFormatter(style="friendly"), HtmlFormatter(style="github-dark")
    styles = "".join(light.get_style_defs(scope) for scope in (".highlight", ".code"))
    night = "".join(dark.get_style_defs(scope) for scope in (".highlight", ".code"))
    return styles + "@media (prefers-color-scheme: dark) {" + night + "}"


def _joined(text: Any) -> str:
    return "".join(text) if isinstance(text, list) else str(text)
