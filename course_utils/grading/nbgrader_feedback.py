"""The page a learner gets back from nbgrader: one self-contained HTML file with scores, answers, cards and comments.

nbgrader's own page repeats the whole lesson and loads scripts from the network; this one shows the exercises and opens
anywhere. Text and HTML from a submission are cleaned: nothing in the page can run.
"""

from __future__ import annotations

import re
from typing import Any

import bleach
import jinja2
from bleach.css_sanitizer import CSSSanitizer
from nbconvert.exporters import Exporter
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode

from course_utils.grading.nbgrader_repair import NOTES
from course_utils.lessons import HEADING, TASK_HEADING, WRITE_HERE, WRITTEN, cell_role
from course_utils.lessons import grade_id as name_of

LONGEST_OUTPUT = 2000
"""Characters of printed text shown under one answer."""

_TAGS = {"div", "span", "strong", "em", "code", "pre", "ul", "ol", "li", "p", "br", "table", "tr", "td", "th"}
_STYLES = CSSSanitizer(
    allowed_css_properties=[
        "background", "border-left", "border-radius", "color", "float", "font-family", "font-size", "height",
        "line-height", "list-style", "margin", "max-width", "opacity", "padding", "text-align", "white-space", "width",
    ]
)  # fmt: skip


class FeedbackPage(Exporter):
    """nbgrader's `GenerateFeedback.exporter_class`: from a graded notebook to one HTML page."""

    file_extension = ".html"
    output_mimetype = "text/html"

    def from_notebook_node(  # type: ignore[override]
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kwargs: Any
    ) -> tuple[str, dict[str, Any]]:
        nb, resources = super().from_notebook_node(nb, resources, **kwargs)
        resources["output_extension"] = self.file_extension
        environment = jinja2.Environment(loader=jinja2.PackageLoader("course_utils.grading"), autoescape=True)
        page = environment.get_template("nbgrader_feedback.html")
        info = resources.get("nbgrader", {})
        return page.render(info=info, notes=_notes(nb), exercises=exercise_rows(nb)), resources


def exercise_rows(nb: NotebookNode) -> list[dict[str, Any]]:
    """One row an exercise with a check cell or a hand-graded task, in the notebook's order, with all that is shown of it."""
    headings = {match[2]: match[1].lstrip("# ") for cell in nb.cells for match in HEADING.finditer(cell.source)}
    marked = {
        cell.metadata.nbgrader.grade_id: cell for cell in nb.cells if "grade_id" in cell.metadata.get("nbgrader", {})
    }
    rows = []
    for grade_id, cell in marked.items():
        if cell.metadata.nbgrader.get("task"):
            rows.append(_task_row(nb, cell))
        if not cell.metadata.nbgrader.get("grade"):
            continue
        exercise_id = cell_role(cell)[1] or grade_id
        answer = marked.get(name_of("answer", exercise_id))
        rows.append(
            {
                "id": exercise_id,
                "title": headings.get(exercise_id, grade_id),
                "score": float(cell.metadata.nbgrader.get("score") or 0),
                "points": float(cell.metadata.nbgrader.get("points") or 0),
                "answer": answer.source if answer else "",
                "printed": _printed(answer) if answer else "",
                "card": _card(cell),
                "errors": _errors(cell),
                "comment": _comment(cell) or (_comment(answer) if answer else ""),
            }
        )
    return rows


def _task_row(nb: NotebookNode, cell: NotebookNode) -> dict[str, Any]:
    """A hand-graded task: its title, the learner's text, the score and the comment a person gave."""
    task_id = cell_role(cell)[1]
    heading = TASK_HEADING.search(cell.source)
    written = [other.source for other in nb.cells if cell_role(other) == (WRITTEN, task_id)]
    return {
        "id": task_id or cell.metadata.nbgrader.grade_id,
        "title": heading[1].lstrip("# ") if heading else cell.metadata.nbgrader.grade_id,
        "score": float(cell.metadata.nbgrader.get("score") or 0),
        "points": float(cell.metadata.nbgrader.get("points") or 0),
        "answer": "\n\n".join(text for text in written if text != WRITE_HERE),
        "printed": "",
        "card": "",
        "errors": "",
        "comment": _comment(cell),
    }


def clean_html(html: str) -> str:
    """Keep what a card is made of; scripts, links, pictures and event handlers become text or vanish."""
    allowed = {"*": ["style", "role", "aria-label", "aria-valuenow", "aria-valuemin", "aria-valuemax"]}
    return bleach.clean(html, tags=_TAGS, attributes=allowed, css_sanitizer=_STYLES)


def _card(cell: NotebookNode) -> str:
    for output in reversed(cell.get("outputs", [])):
        if output.output_type == "execute_result" and "text/html" in output.data:
            return clean_html("".join(output.data["text/html"]))
    return ""


def _errors(cell: NotebookNode) -> str:
    errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
    return "\n".join(
        error.evalue if error.ename == "NoScore" else f"{error.ename}: {strip_ansi(error.evalue)}" for error in errors
    )


def _printed(cell: NotebookNode) -> str:
    texts = ["".join(o.text) for o in cell.get("outputs", []) if o.output_type == "stream"]
    text = strip_ansi("".join(texts)) + _errors(cell)
    return text if len(text) <= LONGEST_OUTPUT else text[:LONGEST_OUTPUT] + "\n…"


def _comment(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("comment") or "")


def _notes(nb: NotebookNode) -> list[str]:
    cells = [cell for cell in nb.cells if cell.get("id") == NOTES]
    return [re.sub("`", "", line[2:]) for cell in cells for line in cell.source.splitlines() if line.startswith("- ")]
