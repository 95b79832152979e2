"""Lessons as files: read the sources in `solutions/`, and make the learner's copies in `notebooks/` through nbgrader."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import exercises, settings

HEADING = re.compile(r"^(#{2,4} Exercise (\d\d\.\d+)\b[^\n]*)$", re.MULTILINE)
TASK_HEADING = re.compile(r"^(#{2,4} Task (\d\d\.r\d+)\b[^\n]*)$", re.MULTILINE)
LAYOUT = "lines_to_next_cell"
"""jupytext's note on blank lines in the source file; notebooks have no use for it."""
SOLUTION_ONLY = "solution-only"
"""Tag of cells that stand in the solved lesson and are left out of the learner's copy."""
WRITTEN = "written"
"""Key of text cells in which the learner answers a hand-graded task: `# %% [markdown] written="09.r1"`."""
WRITE_HERE = "*Write here. Add cells below this one as you like: text, code, figures.*"
"""What such a cell holds in the learner's copy."""


@dataclass(frozen=True)
class Source:
    """One lesson's source file, `solutions/02_toy_superposition.py`."""

    path: Path

    @property
    def slug(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.slug[:2]

    @property
    def release_path(self) -> Path:
        return self.path.parent.parent / "notebooks" / self.slug / f"{self.slug}.ipynb"


def sources(folder: Path | None = None) -> list[Source]:
    """Every lesson source, in order."""
    folder = folder or settings.root() / "solutions"
    return [Source(path) for path in sorted(folder.glob("[0-9][0-9]_*.py"))]


def read_notebook(path: Path) -> Any:
    """A notebook object from an .ipynb file or a percent-format .py file; cells of a source gain nbgrader metadata."""
    import jupytext
    import nbformat

    if path.suffix == ".py":
        return with_metadata(jupytext.read(path, fmt="py:percent"), path.stem)
    return nbformat.read(path, as_version=4)


def cell_role(cell: Any) -> tuple[str, str]:
    """What a cell is for: `("answer", "02.3")`, `("check", "02.3")`, `("task", "09.r1")`, `("written", "09.r1")`, `("setup", "")`
    or `("other", "")`. A task is graded by hand; the learner's text stands in the written cell behind it."""
    metadata = cell.get("metadata", {})
    marking = metadata.get("nbgrader", {})
    name = str(marking.get("grade_id", "")) if isinstance(marking, dict) else ""
    for role in ("answer", "check", "task", WRITTEN):
        if name.startswith(f"{role}-"):
            return role, name.removeprefix(f"{role}-").replace("-", ".")
        if role in metadata:
            return role, str(metadata[role])
    if "setup" in metadata.get("tags", []):
        return "setup", ""
    return "other", ""


def with_metadata(notebook: Any, slug: str) -> Any:
    """Add what a source leaves out because the registry knows it: nbgrader metadata, stable cell ids, the line under a heading."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        role, exercise_id = cell_role(cell)
        cell.metadata.pop(LAYOUT, None)
        if role in ("answer", "check", "task"):
            cell.metadata = {**_other_metadata(cell), "nbgrader": _nbgrader_metadata(role, exercise_id)}
            cell.id = grade_id(role, exercise_id)
            if role == "task":
                cell.source = TASK_HEADING.sub(lambda match: f"{match[1]}\n{task_badge(match[2])}", cell.source)
            continue
        if role == WRITTEN:
            cell.id = grade_id(role, exercise_id)
            continue
        if cell.cell_type == "markdown":
            cell.source = HEADING.sub(lambda match: f"{match[1]}\n{badge(match[2])}", cell.source)
        digest = ("setup-" if role == "setup" else "") + _digest(slug, cell)
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{digest}-{seen[digest]}"
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def is_untouched_demonstration(cell: Any, slug: str) -> bool:
    """Whether a code cell is the lesson's own (not set-up, answer or check) and unchanged: its id is computed from its text."""
    return cell.cell_type == "code" and str(cell.get("id", "")).rpartition("-")[0] == _digest(slug, cell)


def without_solution(source: str) -> str:
    """An answer cell's source with each region between BEGIN and END SOLUTION unwritten, as in the learner's copy."""
    return re.sub(r"(?ms)^([ \t]*)### BEGIN SOLUTION$.*?### END SOLUTION$", r"\1raise NotImplementedError()", source)


def grade_id(role: str, exercise_id: str) -> str:
    """What nbgrader and the notebook call a cell, `check-02-3`: nbgrader allows no full stop there."""
    return f"{role}-{exercise_id.replace('.', '-')}"


def badge(exercise_id: str) -> str:
    """The line under an exercise's heading: difficulty, importance, minutes, points, where to find help."""
    exercise = exercises.get(exercise_id)

    def dots(n: int) -> str:
        return "●" * n + "○" * (5 - n)

    points = f"{exercise.points:g} point" + ("s" if exercise.points != 1 else "")
    return (
        f"\n*Difficulty {dots(exercise.difficulty)} · importance {dots(exercise.importance)} · about "
        f'{exercise.minutes} minutes · {points} · stuck? `hint("{exercise_id}")`*\n'
    )


def task_badge(task_id: str) -> str:
    """The line under a hand-graded task's heading."""
    points = exercises.get_task(task_id).points
    return f"\n*Graded by hand · {points:g} point{'s' if points != 1 else ''}*\n"


def release(numbers: list[str] | None = None, out: Path | None = None) -> list[Path]:
    """Write the learner's notebooks through nbgrader's own generate_assignment. Running it again changes no byte.

    Args:
        numbers: lessons to release, such as `["02"]`; all by default.
        out: the folder to write to; `notebooks/` by default.

    Returns:
        The notebooks written.
    """
    out = out or settings.root() / "notebooks"
    chosen = [source for source in sources() if numbers is None or source.number in numbers]
    written = []
    with tempfile.TemporaryDirectory() as work:
        source_folder = write_nbgrader_source(Path(work) / "source", chosen)
        for source in chosen:
            _generate_assignment(source_folder, Path(work) / "release", source.slug)
            target = out / source.slug / f"{source.slug}.ipynb"
            written.append(_replace(Path(work) / "release" / source.slug / f"{source.slug}.ipynb", target))
    return written


def write_nbgrader_source(folder: Path, chosen: list[Source] | None = None) -> Path:
    """nbgrader's source tree, made from `solutions/`: `folder/02_x/02_x.ipynb`. Teachers point nbgrader at it."""
    import nbformat

    from course_utils.io import atomic_write

    for source in chosen if chosen is not None else sources():
        notebook = read_notebook(source.path)
        notebook.cells = [cell for cell in notebook.cells if SOLUTION_ONLY not in cell.metadata.get("tags", [])]
        for cell in notebook.cells:
            if cell_role(cell)[0] == WRITTEN:
                cell.source = WRITE_HERE
        with atomic_write(folder / source.slug / f"{source.slug}.ipynb") as file:
            nbformat.write(notebook, file)
    return folder


@functools.cache
def answer_source(exercise_id: str) -> str:
    """The worked answer's source: the lesson's own solution cell, or the reference where `solutions/` is not at hand."""
    cell = _find_answer(exercise_id, [source.path for source in sources()])
    if cell is not None:
        lines = cell.source.splitlines()
        return "\n".join(line for line in lines if "### BEGIN SOLUTION" not in line and "### END SOLUTION" not in line)
    import inspect

    return inspect.getsource(exercises.get(exercise_id).reference)


@functools.cache
def answer_stub(exercise_id: str) -> str:
    """The answer cell as the learner finds it in `notebooks/`."""
    number = exercise_id.split(".")[0]
    cell = _find_answer(exercise_id, sorted((settings.root() / "notebooks").glob(f"{number}_*/*.ipynb")))
    if cell is None:
        raise FileNotFoundError(
            f"no notebook with exercise {exercise_id} under {settings.root() / 'notebooks'}: run `make release`"
        )
    return str(cell.source)


def _find_answer(exercise_id: str, paths: list[Path]) -> Any | None:
    for path in paths:
        if path.name.startswith(exercise_id.split(".")[0]):
            for cell in read_notebook(path).cells:
                if cell_role(cell) == ("answer", exercise_id):
                    return cell
    return None


def _digest(slug: str, cell: Any) -> str:
    return hashlib.sha256(f"{slug}{cell.cell_type}{cell.source}".encode()).hexdigest()[:12]


def _other_metadata(cell: Any) -> dict[str, Any]:
    return {key: value for key, value in cell.metadata.items() if key not in ("answer", "check", "task", "nbgrader")}


def _nbgrader_metadata(role: str, exercise_id: str) -> dict[str, Any]:
    metadata = {"grade_id": grade_id(role, exercise_id), "schema_version": 3, "task": False}
    if role == "answer":
        return {**metadata, "grade": False, "locked": False, "solution": True}
    if role == "task":
        points = exercises.get_task(exercise_id).points
        return {**metadata, "grade": False, "locked": True, "solution": False, "task": True, "points": points}
    points = exercises.get(exercise_id).points
    return {**metadata, "grade": True, "locked": True, "solution": False, "points": points}


def _generate_assignment(source: Path, release_folder: Path, slug: str) -> None:
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    config = Config()
    config.CourseDirectory.root = str(source.parent)
    config.CourseDirectory.source_directory = source.name
    config.CourseDirectory.release_directory = release_folder.name
    # nbgrader's --no-db: a release needs no gradebook, and without one nbgrader starts no other program
    config.GenerateAssignment.no_database = True
    config.SaveCells.enabled = False
    config.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError()"}
    result = NbGraderAPI(config=config).generate_assignment(slug, force=True, create=True)
    if not result["success"]:
        raise RuntimeError(f"nbgrader could not release {slug}:\n{result.get('log', '')}\n{result.get('error', '')}")


def _replace(made: Path, target: Path) -> Path:
    from course_utils.io import atomic_path

    return atomic_path(target, lambda temporary: shutil.copyfile(made, temporary))
