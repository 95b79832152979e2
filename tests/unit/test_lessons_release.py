"""Every lesson and its learner's copy: in step, without answers, and in agreement with the registry."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import nbformat
import pytest

from course_utils import exercises, lessons
from course_utils.lessons import Source, cell_role, grade_id

SOURCES = lessons.sources()
SHORTEST_SECRET = 30
"""Characters from which on a line of an answer is telling; shorter ones may stand in a lesson for good reasons."""

each_lesson = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.slug)


def answer_lines(source: Source) -> list[str]:
    """The telling lines of the source's solution regions."""
    found = []
    for region in re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", source.path.read_text("utf-8"), re.DOTALL):
        found += [line.strip() for line in region.splitlines() if len(line.strip()) >= SHORTEST_SECRET]
    return found


def copy_of(source: Source):
    return nbformat.read(source.release_path, as_version=4)


@each_lesson
def test_the_learners_copy_is_in_step(source: Source, tmp_path: Path):
    (made,) = lessons.release([source.number], out=tmp_path)
    assert made.read_bytes() == source.release_path.read_bytes(), "solutions/ has changed: run `make release`"


@each_lesson
def test_no_answer_leaks_into_the_learners_copy(source: Source):
    text = "\n".join(cell.source for cell in copy_of(source).cells)
    raw = source.release_path.read_text(encoding="utf-8")
    assert [line for line in answer_lines(source) if line in text] == []
    for marker in ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TEST", "AUTOTEST"):
        assert marker not in raw


@each_lesson
def test_cells_for_the_solved_lesson_stay_there(source: Source):
    nb = lessons.read_notebook(source.path)
    only = [cell.source for cell in nb.cells if lessons.SOLUTION_ONLY in cell.metadata.get("tags", [])]
    released = {cell.source for cell in copy_of(source).cells}
    assert not released & set(only)


@each_lesson
def test_the_copy_carries_no_outputs(source: Source):
    for cell in copy_of(source).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@each_lesson
def test_cell_ids_are_unique_and_stable(source: Source):
    ids = [cell.id for cell in copy_of(source).cells]
    assert len(set(ids)) == len(ids)
    again = lessons.read_notebook(source.path).cells
    assert [cell.id for cell in again if lessons.SOLUTION_ONLY not in cell.metadata.get("tags", [])] == ids
    nbformat.validate(copy_of(source))


@each_lesson
def test_the_lesson_holds_exactly_the_registrys_exercises(source: Source):
    cells = copy_of(source).cells
    registered = [exercise.id for exercise in exercises.for_lesson(source.number)]
    for role in ("answer", "check"):
        assert sorted(exercise_id for kind, exercise_id in map(cell_role, cells) if kind == role) == sorted(registered)
    for exercise_id in registered:
        order = [cell_role(cell) for cell in cells]
        assert order.index(("answer", exercise_id)) < order.index(("check", exercise_id))
    assert exercises.get_lesson(source.number).slug == source.slug


@each_lesson
def test_points_and_headings_are_the_registrys(source: Source):
    cells = copy_of(source).cells
    headings = dict(
        re.findall(r"^#{2,4} Exercise (\d\d\.\d+): (.+)$", "\n".join(c.source for c in cells), re.MULTILINE)
    )
    for exercise in exercises.for_lesson(source.number):
        check = next(cell for cell in cells if cell.id == grade_id("check", exercise.id))
        assert check.metadata.nbgrader.points == exercise.points
        assert headings.get(exercise.id) == exercise.title
    assert len(headings) == len(exercises.for_lesson(source.number))


@each_lesson
def test_a_check_cell_is_one_call_whose_value_is_the_score(source: Source):
    for cell in copy_of(source).cells:
        role, exercise_id = cell_role(cell)
        if role == "check":
            (statement,) = ast.parse(cell.source).body
            assert isinstance(statement, ast.Expr), "nbgrader reads the points from the cell's value"
            call = ast.unparse(statement)
            assert call.startswith(f"check('{exercise_id}', {exercises.get(exercise_id).answer}"), call


@each_lesson
def test_answers_need_only_set_up_and_earlier_answers(source: Source):
    """Graders run set-up and answer cells alone, so no answer may need what a demonstration defines."""
    nb = lessons.read_notebook(source.path)
    kept, shown = set(dir(builtins)) | {"get_ipython", "display"}, set()
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE))
        role, exercise_id = cell_role(cell)
        if role in ("setup", "answer"):
            used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
            assert not (used & shown) - kept - _defined(tree), (
                f"{exercise_id or 'set-up'} uses names of a demonstration"
            )
            kept |= _defined(tree)
        else:
            shown |= _defined(tree)


def _defined(tree: ast.AST) -> set[str]:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def test_every_lesson_has_exercises_and_every_exercise_a_lesson():
    assert [source.number for source in SOURCES] == exercises.lesson_numbers()
    ids = [exercise.id for exercise in exercises.all()]
    assert len(set(ids)) == len(ids)
