"""Lessons as files: read the sources in `solutions/`, and make the learner's copies in `notebooks/` through nbgrader."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterable
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
TO_WRITE = "# YOUR CODE HERE\nraise NotImplementedError()"
"""What stands in the learner's copy in place of a solution region."""
STUBS = Path(__file__).parent / "exercises" / "stubs.json"
"""The starting code of every answer cell, by exercise: a learner edits the notebook, but not this file."""
KEPT = ".kept"
"""Folder for learners' work that a release would replace. Hidden, and no lesson's folder: those are handed out."""


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


def choose(numbers: Iterable[str] | None = None) -> list[Source]:
    """The sources of some lessons, such as `["02"]` (or `["2"]`), or of all.

    Errors:
        ValueError: an unknown number, or no lesson at all; the message lists the numbers there are.
    """
    found = {source.number: source for source in sources()}
    wanted = [number.zfill(2) for number in numbers or found]
    unknown = [number for number in wanted if number not in found]
    if unknown or not found:
        folder = settings.root() / "solutions"
        raise ValueError(f"no lesson {', '.join(unknown)} in {folder}; there are: {', '.join(found) or 'none'}")
    return [source for number, source in found.items() if number in wanted]


def notebooks_folder() -> Path:
    """Where the learner's lessons lie: `notebooks/`, or the course's folder itself where a class got only the lessons."""
    folder = settings.root() / "notebooks"
    return folder if folder.is_dir() else settings.root()


def learners_notebooks() -> dict[str, Path]:
    """The learner's notebooks by lesson number. Exactly `SLUG/SLUG.ipynb`: no copy, backup or other file beside it."""
    paths = (folder / f"{folder.name}.ipynb" for folder in sorted(notebooks_folder().glob("[0-9][0-9]_*")))
    return {path.name[:2]: path for path in paths if path.is_file()}


def learners_notebook(number: str) -> Path:
    """The learner's notebook of one lesson.

    Errors:
        FileNotFoundError: there is none; the message says where it was looked for, and which lessons are there.
    """
    found = learners_notebooks()
    if number.zfill(2) not in found:
        there = f"there are: {', '.join(found)}" if found else "there is no lesson at all"
        raise FileNotFoundError(f"no notebook of lesson {number} in {notebooks_folder()}; {there}")
    return found[number.zfill(2)]


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
    return cell.cell_type == "code" and not str(cell.get("id", "")).startswith("setup-") and _is_lessons_own(cell, slug)


def without_solution(source: str) -> str:
    """An answer cell's source with each region between BEGIN and END SOLUTION unwritten, as in the learner's copy."""
    region = r"(?ms)^([ \t]*)### BEGIN SOLUTION$.*?### END SOLUTION$"
    return re.sub(region, lambda match: textwrap.indent(TO_WRITE, match[1]), source)


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


def release(
    numbers: list[str] | None = None, out: Path | None = None, say: Callable[[str], object] = print
) -> list[Path]:
    """Write the learner's notebooks through nbgrader's own generate_assignment. Running it again changes no byte.

    A notebook in which somebody has worked is kept before it is replaced.

    Args:
        numbers: lessons to release, such as `["02"]`; all by default.
        out: the folder to write to; `notebooks/` by default, and then the package's `stubs.json` is brought in step, too.
        say: told where work was kept.

    Returns:
        The notebooks written.

    Errors:
        ValueError: an unknown lesson number.
    """
    chosen = choose(numbers)
    own = out is None and settings.root().resolve() == Path(__file__).resolve().parent.parent
    out = out or settings.root() / "notebooks"
    written = []
    with tempfile.TemporaryDirectory() as work:
        source_folder = write_nbgrader_source(Path(work) / "source", chosen)
        for source in chosen:
            _generate_assignment(source_folder, Path(work) / "release", source.slug)
            made = Path(work) / "release" / source.slug / f"{source.slug}.ipynb"
            target = out / source.slug / f"{source.slug}.ipynb"
            if target.exists() and holds_work(target, made):
                say(f"{target} holds somebody's work; it is kept as {keep_copy(target, 'release', out / KEPT)}")
            written.append(_replace(made, target))
    if own:
        write_stubs(chosen)
    return written


def holds_work(path: Path, made: Path) -> bool:
    """Whether a notebook holds more than lessons start with: an answer, a text, or a cell that somebody wrote or changed.

    Args:
        made: the notebook as it is released now; starting code of the last release (`stubs.json`) counts as none, too.
    """
    now = {cell.id: cell.source for cell in read_notebook(made).cells if "id" in cell}
    before = {grade_id("answer", exercise_id): stub for exercise_id, stub in _stubs().items()}
    try:
        cells = read_notebook(path).cells
    except Exception:  # a damaged file may hold somebody's work
        return True
    return any(
        cell.source not in (now.get(cell.get("id")), before.get(cell.get("id")))
        and not _is_lessons_own(cell, path.stem)
        and cell_role(cell)[0] not in ("check", "task")
        for cell in cells
    )


def keep_copy(path: Path, reason: str, folder: Path | None = None) -> Path:
    """Copy a notebook to `NAME.before-REASON.ipynb` (with a number where that is taken), beside it or in `folder`."""
    from course_utils.io import atomic_write

    folder, count = folder or path.parent, 1
    kept = folder / f"{path.stem}.before-{reason}.ipynb"
    while kept.exists():
        count += 1
        kept = folder / f"{path.stem}.before-{reason}.{count}.ipynb"
    with atomic_write(kept, "wb") as file:
        file.write(path.read_bytes())
    return kept


def starting_code(chosen: Iterable[Source]) -> dict[str, str]:
    """The answer cells of some lessons as learners first see them, by exercise."""
    found = {}
    for source in chosen:
        for cell in read_notebook(source.path).cells:
            role, exercise_id = cell_role(cell)
            if role == "answer":
                found[exercise_id] = without_solution(cell.source)
    return found


def write_stubs(chosen: Iterable[Source]) -> None:
    """Bring `stubs.json` in step with some lessons' sources; what it says about other lessons stays."""
    from course_utils.io import write_json

    chosen = list(chosen)
    others = {source.number for source in sources()} - {source.number for source in chosen}
    kept = {exercise_id: stub for exercise_id, stub in _stubs().items() if exercise_id[:2] in others}
    stubs = {**kept, **starting_code(chosen)}
    order = sorted(stubs, key=lambda exercise_id: [int(part) for part in exercise_id.split(".")])
    write_json(STUBS, {exercise_id: stubs[exercise_id] for exercise_id in order})
    answer_stub.cache_clear()


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
    """The answer cell as the learner first finds it: from the package, or for a lesson of one's own from `solutions/`.

    Errors:
        FileNotFoundError: neither knows the exercise.
    """
    if exercise_id in _stubs():
        return _stubs()[exercise_id]
    cell = _find_answer(exercise_id, [source.path for source in sources()])
    if cell is None:
        raise FileNotFoundError(f"the starting code of {exercise_id} is not part of this installation of the course")
    return without_solution(cell.source)


def _stubs() -> dict[str, str]:
    return json.loads(STUBS.read_text(encoding="utf-8")) if STUBS.exists() else {}


def _find_answer(exercise_id: str, paths: list[Path]) -> Any | None:
    for path in paths:
        if path.name.startswith(exercise_id.split(".")[0]):
            for cell in read_notebook(path).cells:
                if cell_role(cell) == ("answer", exercise_id):
                    return cell
    return None


def _is_lessons_own(cell: Any, slug: str) -> bool:
    """Whether a cell's text is the one that its id was computed from."""
    return str(cell.get("id", "")).removeprefix("setup-").rpartition("-")[0] == _digest(slug, cell)


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
    config.ClearSolutions.code_stub = {"python": TO_WRITE}
    result = NbGraderAPI(config=config).generate_assignment(slug, force=True, create=True)
    if not result["success"]:
        raise RuntimeError(f"nbgrader could not release {slug}:\n{result.get('log', '')}\n{result.get('error', '')}")


def _replace(made: Path, target: Path) -> Path:
    from course_utils.io import atomic_path

    return atomic_path(target, lambda temporary: shutil.copyfile(made, temporary))
