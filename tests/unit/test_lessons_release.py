"""Every lesson and its learner's copy: in step, without answers, and in agreement with the registry."""

from __future__ import annotations

import ast
import builtins
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner
from demo_class import DEMO, RIGHT, DemoClass, answer

from course_utils import cli, exercises, lessons, settings
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


def test_the_starting_code_that_ships_is_in_step():
    """`reset` takes it from the package, not from the notebook that the learner edits."""
    released = {
        cell_role(cell)[1]: cell.source
        for source in SOURCES
        for cell in copy_of(source).cells
        if cell_role(cell)[0] == "answer"
    }
    shipped = json.loads(lessons.STUBS.read_text(encoding="utf-8"))
    assert shipped == released, "solutions/ has changed: run `make release`"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoClass]:
    """The demo lesson alone, released, in a folder of its own."""
    monkeypatch.setattr(exercises, "__path__", [str(DEMO)])
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path / "course"))
    caches = (exercises.get_lesson, settings.root, lessons.answer_stub)
    for cache in caches:
        cache.cache_clear()
    made = DemoClass.make(tmp_path / "course")
    lessons.release()
    yield made
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop("course_utils.exercises.lesson_99", None)


def add_a_cell(nb: Any) -> None:
    nb.cells.append(nbformat.v4.new_code_cell("mine = 1"))


def write_an_answer(nb: Any) -> None:
    answer(nb, **{"99.1": RIGHT["99.1"]})


def change_a_demonstration(nb: Any) -> None:
    next(cell for cell in nb.cells if lessons.is_untouched_demonstration(cell, "99_demo")).source += "\nmine = 1"


@pytest.mark.parametrize("work", [write_an_answer, add_a_cell, change_a_demonstration, None])
def test_a_release_keeps_what_somebody_wrote(demo: DemoClass, work: Callable[[Any], None] | None):
    fresh = demo.released.read_bytes()
    if work:
        nb = nbformat.read(demo.released, as_version=4)
        work(nb)
        nbformat.write(nb, demo.released)
    else:
        demo.released.write_bytes(b"not json, but somebody's")
    written, shipped = demo.released.read_bytes(), lessons.STUBS.read_bytes()
    done = CliRunner().invoke(cli.main, ["release", "--lesson", "99"])
    assert done.exit_code == 0, done.output
    assert demo.released.read_bytes() == fresh
    (kept,) = (demo.root / "notebooks").rglob("*.before-release*")
    assert kept.read_bytes() == written
    assert str(kept) in done.output
    assert kept.parent != demo.released.parent, "lessons' folders are handed out"
    assert lessons.STUBS.read_bytes() == shipped, "another course's release leaves the package alone"


def test_a_release_keeps_nothing_of_what_nobody_touched(demo: DemoClass):
    nb = nbformat.read(demo.released, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="42")], 3
    nbformat.write(nb, demo.released)
    assert "kept" not in CliRunner().invoke(cli.main, ["release"]).output
    assert not list((demo.root / "notebooks").rglob("*.before-*"))


def test_starting_code_of_the_last_release_is_nobodys_work(demo: DemoClass, tmp_path: Path, monkeypatch):
    """A lesson's answer cell was changed since: what learners started from then is in the package's list."""
    nb = nbformat.read(demo.released, as_version=4)
    answer(nb, **{"99.1": "def relu(x, old):\n    raise NotImplementedError()"})
    nbformat.write(nb, tmp_path / "99_demo.ipynb")
    assert lessons.holds_work(tmp_path / "99_demo.ipynb", demo.released)
    monkeypatch.setattr(lessons, "STUBS", tmp_path / "stubs.json")
    lessons.STUBS.write_text(json.dumps({"99.1": "def relu(x, old):\n    raise NotImplementedError()"}))
    assert not lessons.holds_work(tmp_path / "99_demo.ipynb", demo.released)


def test_releasing_one_lesson_leaves_the_others_starting_code(demo: DemoClass, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(lessons, "STUBS", tmp_path / "stubs.json")
    (demo.root / "solutions" / "98_other.py").write_text("")
    lessons.STUBS.write_text(json.dumps({"97.1": "gone", "98.1": "x = 1", "99.1": "old", "99.9": "gone"}))
    lessons.write_stubs(lessons.choose(["99"]))
    made = json.loads(lessons.STUBS.read_text())
    assert list(made) == ["98.1", "99.1", "99.2"]
    assert made["98.1"] == "x = 1"
    assert "NotImplementedError" in made["99.1"]
    assert lessons.answer_stub("99.1") == made["99.1"]


@pytest.mark.parametrize("number", ["2", "02"])
def test_lessons_are_chosen_by_number(number: str):
    assert [source.number for source in lessons.choose([number])] == ["02"]


def test_releasing_an_unknown_lesson_lists_the_known_ones():
    done = CliRunner().invoke(cli.main, ["release", "--lesson", "77"])
    assert done.exit_code == 1
    assert "no lesson 77" in done.output
    assert "01, 02" in done.output


def test_the_list_of_lessons_names_what_is_graded_by_hand():
    rows = {row["id"]: row for row in json.loads(CliRunner().invoke(cli.main, ["lessons", "--json"]).output)}
    lesson = exercises.get_lesson("09")
    assert [task["id"] for task in rows["09"]["tasks"]] == [task.id for task in lesson.tasks]
    assert rows["09"]["task_points"] == sum(task.points for task in lesson.tasks) > 0
    assert rows["02"]["tasks"] == []
    lines = CliRunner().invoke(cli.main, ["lessons"]).output.splitlines()
    assert len({line.index(" exercises ") for line in lines}) == 1, "the columns are in line"
    assert f"{len(lesson.tasks)} texts read by a person" in lines[-1]


def test_readmes_table_is_what_the_command_says():
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|", page, re.MULTILINE)
    said = json.loads(CliRunner().invoke(cli.main, ["lessons", "--json"]).output)
    assert [row[0] for row in rows] == [row["id"] for row in said]
    for (_, title, count, points, minutes), row in zip(rows, said):
        assert title == row["title"]
        assert count == str(len(row["exercises"])) + (
            f" and {len(row['tasks'])} read by a person" if row["tasks"] else ""
        )
        assert points == f"{row['points']:g}" + (f" + {row['task_points']:g}" if row["tasks"] else "")
        assert minutes.startswith(f"{row['minutes']} min")


def test_every_lesson_has_exercises_and_every_exercise_a_lesson():
    assert [source.number for source in SOURCES] == exercises.lesson_numbers()
    ids = [exercise.id for exercise in exercises.all()]
    assert len(set(ids)) == len(ids)
