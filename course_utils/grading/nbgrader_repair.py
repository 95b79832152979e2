"""nbgrader preprocessors that mend damaged submissions, run them safely and keep one honest score a check cell.

nbgrader 0.9.6 by itself stops grading a whole class at one copied check cell, loses a check cell that was deleted,
gives no points where a warning is printed and full points where a check prints no number. `nbgrader_config.py` puts
these preprocessors in its pipeline; submissions themselves are never changed, only nbgrader's copies of them.
"""

from __future__ import annotations

import math
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.preprocessors.execute import Execute
from traitlets import Bool

NOTES = "course-notes"
"""Id of the cell that tells teacher and learner what was mended."""


class RepairSubmission(NbGraderPreprocessor):
    """Give every graded and answer cell back what the release gave it: one cell an id, its type, its points, its place.

    Copies: the last one counts, as in a notebook run from top to bottom; earlier copies become ordinary cells.
    Deleted check cells come back behind their answer. Lost markings are found again by cell id or by the check's text.
    """

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        info = resources["nbgrader"]
        with Gradebook(info["db_url"]) as gradebook:
            wanted = _released_cells(gradebook.find_notebook(info["notebook"], info["assignment"]))
        _own_ids(nb)
        said = [*_mark(nb, wanted), *_put_back(nb, wanted)]
        for sentence in said:
            self.log.warning("%s: %s", info["student"], sentence)
        add_notes(nb, said)
        return nb, resources


class SkipDemonstrations(NbGraderPreprocessor):
    """Leave the lesson's own demonstration cells out of grading: plots and long runs that no answer needs.

    A cell is the lesson's own if its text is still the one that its id was computed from; cells that a learner wrote
    or changed always run.
    """

    skip = Bool(True, help="Whether unchanged demonstration cells are left out when autograding.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        from course_utils.lessons import is_untouched_demonstration

        for cell in nb.cells if self.skip else []:
            if is_untouched_demonstration(cell, resources["nbgrader"]["notebook"]):
                cell.metadata["tags"] = [*cell.metadata.get("tags", []), "skip-execution"]
        return nb, resources


class RunSubmission(Execute):
    """nbgrader's Execute with a seed that learners do not know, private settings folders, and a kernel that may die."""

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        with tempfile.TemporaryDirectory() as private:
            # a private IPYTHONDIR: start-up files that one submission writes must not run in the next one
            settings = {
                "COURSE_SEED": str(class_seed(Path(resources["nbgrader"]["db_url"].removeprefix("sqlite:///")).parent)),
                "COURSE_SOLUTIONS": "off",
                "COURSE_HOME": f"{private}/course",
                "IPYTHONDIR": f"{private}/ipython",
            }
            with utils.setenv(**settings):
                try:
                    return super().preprocess(nb, resources)
                except DeadKernelError:
                    said = "The notebook's kernel ended early (`exit()`, or no memory left): later cells did not run."
                    self.log.warning("%s: %s", resources["nbgrader"]["student"], said)
                    add_notes(nb, [said])
                    return nb, resources


class KeepOneScore(NbGraderPreprocessor):
    """Leave each check cell with one number between 0 and its points, or with an error: nothing else earns points."""

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict[str, Any], cell_index: int
    ) -> tuple[NotebookNode, dict[str, Any]]:
        if not utils.is_grade(cell) or utils.is_solution(cell) or cell.cell_type != "code":
            return cell, resources
        if any(output.output_type == "error" for output in cell.outputs):
            return cell, resources
        results = [output for output in cell.outputs if output.output_type == "execute_result"]
        if results and 0 <= _number(results[-1]) <= float(cell.metadata.nbgrader["points"]):
            warnings_and_forgeries = [o for o in cell.outputs if o.get("name") == "stderr" or o in results[:-1]]
            cell.outputs = [output for output in cell.outputs if output not in warnings_and_forgeries]
        else:
            said = "This check gave no score, so it earns nothing. Did an earlier cell stop the notebook?"
            cell.outputs.append(new_output("error", ename="NoScore", evalue=said, traceback=[said]))
        return cell, resources


def class_seed(course_folder: Path) -> int:
    """The seed a class is graded with: `COURSE_SEED` if set, else drawn once and kept in `.course/seed`, out of git."""
    from course_utils import settings
    from course_utils.io import atomic_write

    if (named := settings.seed()) is not None:
        return named
    path = course_folder / ".course" / "seed"
    if not path.exists():
        with atomic_write(path) as file:
            file.write(f"{secrets.randbelow(2**31)}\n")
    return int(path.read_text(encoding="utf-8"))


def add_notes(nb: NotebookNode, sentences: Iterable[str]) -> None:
    """Say at the top of nbgrader's copy what was mended, for the formgrader and the feedback page."""
    lines = [f"- {sentence}" for sentence in sentences]
    if not lines:
        return
    if nb.cells and nb.cells[0].get("id") == NOTES:
        nb.cells[0].source += "\n" + "\n".join(lines)
        return
    nb.cells.insert(0, new_markdown_cell("**Notes from grading**\n\n" + "\n".join(lines), id=NOTES))


def _released_cells(notebook: Any) -> dict[str, NotebookNode]:
    """Every marked cell of the release by grade id, as the gradebook recorded it."""
    points = {cell.name: cell.max_score for cell in notebook.grade_cells}
    solutions = {cell.name for cell in notebook.solution_cells}
    tasks = {cell.name: cell.max_score for cell in notebook.task_cells}
    released = {}
    for cell in notebook.source_cells:
        metadata = {
            "grade_id": cell.name,
            "grade": cell.name in points,
            "solution": cell.name in solutions,
            "task": cell.name in tasks,
            "locked": cell.locked,
            "schema_version": 3,
            "cell_type": cell.cell_type,
            "checksum": cell.checksum,
        }
        if cell.name in points or cell.name in tasks:
            metadata["points"] = {**points, **tasks}[cell.name]
        released[cell.name] = NotebookNode(cell_type=cell.cell_type, source=cell.source, metadata=metadata)
    return released


def _own_ids(nb: NotebookNode) -> None:
    seen: set[str] = set()
    for cell in nb.cells:
        if cell.get("id") in seen:
            cell["id"] = secrets.token_hex(4)
        seen.add(cell.get("id", ""))


def _mark(nb: NotebookNode, wanted: dict[str, NotebookNode]) -> list[str]:
    found: dict[str, list[NotebookNode]] = {}
    bare = []
    for cell in nb.cells:
        marking = cell.metadata.pop("nbgrader", None)
        named = marking.get("grade_id") if isinstance(marking, dict) else None
        if isinstance(named, str) and named in wanted:
            found.setdefault(named, []).append(cell)
        else:
            bare.append(cell)
    for grade_id, released in wanted.items():
        if grade_id not in found:  # its marking is lost (some editors drop metadata): look for the cell itself
            found[grade_id] = [cell for cell in bare if _looks_like(cell, released)]
    said = []
    for grade_id, cells in found.items():
        if len(cells) > 1:
            said.append(f"The cell `{grade_id}` stands {len(cells)} times in this notebook; the last one counts.")
        if cells:
            said += _restore(cells[-1], wanted[grade_id])
    return said


def _looks_like(cell: NotebookNode, released: NotebookNode) -> bool:
    same_text = cell.source.strip() == released.source.strip()
    return cell.get("id") == released.metadata["grade_id"] or (bool(released.metadata["locked"]) and same_text)


def _restore(cell: NotebookNode, released: NotebookNode) -> list[str]:
    """Marking, type and (where learners may not write) text as released. Says what a person should know."""
    grade_id = released.metadata["grade_id"]
    cell.metadata["nbgrader"] = NotebookNode(released.metadata)
    if cell.cell_type != released.cell_type:
        cell.cell_type = released.cell_type
        cell.update({"outputs": [], "execution_count": None} if released.cell_type == "code" else {})
    if released.metadata["locked"] and cell.source != released.source:
        cell.source = released.source
        return [f"The locked cell `{grade_id}` had been edited; its own text is back."]
    return []


def _put_back(nb: NotebookNode, wanted: dict[str, NotebookNode]) -> list[str]:
    said = []
    for grade_id, released in wanted.items():
        places = {cell.metadata.get("nbgrader", {}).get("grade_id"): i for i, cell in enumerate(nb.cells)}
        if not (released.metadata["grade"] or released.metadata["task"]) or grade_id in places:
            continue
        make = new_code_cell if released.cell_type == "code" else new_markdown_cell
        cell = make(released.source, metadata={"nbgrader": NotebookNode(released.metadata)})
        # behind its answer; without one, behind everything the learner defines
        after = places.get(grade_id.replace("check-", "answer-"), len(nb.cells) - 1)
        nb.cells.insert(after + 1, cell)
        said.append(f"The cell `{grade_id}` was missing; it has been put back.")
    return said


def _number(output: NotebookNode) -> float:
    try:
        value = float("".join(output.data.get("text/plain", "")))
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0
