"""Hand-graded tasks: released as nbgrader task cells, kept through autograding, scored by a person, shown in feedback, exported."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import demo_lesson
import make
import nbformat
import pytest
from demo_class import DEMO, RIGHT, SLUG, DemoClass, answer, cell_of

from course_utils.grading import batch, gradebook, reports, submissions
from course_utils.grading.exercise import Task
from course_utils.lessons import WRITE_HERE

TASK = "task-99-r1"
SOURCE = """
# %% [markdown] task="99.r1"
# ### Task 99.r1: Say why
#
# - one reason

# %% [markdown] written="99.r1"
# The worked text, which no learner may see.
"""


@dataclass(frozen=True)
class TaskClass(DemoClass):
    """The demo class with a task added to its lesson."""

    def start(self, *command: str, **environment: str) -> Any:
        return super().start(*command, **{"PYTHONPATH": str(self.root / "registry"), **environment})


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> TaskClass:
    demo = TaskClass.make(tmp_path_factory.mktemp("class"))
    assert isinstance(demo, TaskClass)
    shutil.copytree(DEMO, demo.root / "registry", ignore=shutil.ignore_patterns("__pycache__"))
    with (demo.root / "registry" / "lesson_99.py").open("a") as file:
        file.write('\n\nlesson.task(1, "Say why", points=3, criteria=("one reason",))\n')
    with (demo.root / "solutions" / f"{SLUG}.py").open("a") as file:
        file.write(SOURCE)
    demo.run("course", "release", "--source", "build/source")
    demo.run("nbgrader", "generate_assignment", SLUG, "--force")
    demo.submit("ada", writes_a_text)
    demo.submit("bert", loses_the_task)
    demo.run("nbgrader", "autograde", SLUG)
    by_hand(demo, "ada", 2.5, "Well said.")
    demo.run("nbgrader", "generate_feedback", SLUG)
    demo.run("nbgrader", "export", "--to", "grades.csv")
    return demo


def writes_a_text(nb: Any) -> None:
    answer(nb, **RIGHT)
    next(cell for cell in nb.cells if cell.id == "written-99-r1").source = "Because of *superposition*."


def loses_the_task(nb: Any) -> None:
    answer(nb, **RIGHT)
    nb.cells.remove(cell_of(nb, TASK))


def by_hand(demo: TaskClass, student: str, score: float, comment: str) -> None:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{demo.root / 'gradebook.db'}") as book:
        grade = book.find_grade(TASK, SLUG, SLUG, student)
        assert grade.needs_manual_grade, "a task waits for a person"
        grade.manual_score, grade.needs_manual_grade = score, False
        book.find_comment(TASK, SLUG, SLUG, student).manual_comment = comment
        book.db.commit()


def rows(demo: TaskClass, name: str = "grades.csv") -> dict[str, dict[str, str]]:
    with (demo.root / name).open(encoding="utf-8") as file:
        return {row["student_id"]: row for row in csv.DictReader(file)}


def test_the_release_holds_a_task_cell_and_a_place_to_write(graded: TaskClass):
    nb = nbformat.read(graded.released, as_version=4)
    marks = cell_of(nb, TASK).metadata.nbgrader
    assert (marks.task, marks.grade, marks.solution, marks.locked, marks.points) == (True, False, False, True, 3)
    assert "Graded by hand · 3 points" in cell_of(nb, TASK).source
    written = next(cell for cell in nb.cells if cell.id == "written-99-r1")
    assert written.source == WRITE_HERE
    assert b"worked text" not in graded.released.read_bytes()
    assert b"worked text" not in (graded.root / "gradebook.db").read_bytes()


def test_machine_and_hand_add_up(graded: TaskClass):
    found = rows(graded)
    assert (float(found["ada"]["score"]), float(found["ada"]["max_score"])) == (7.5, 8.0)
    assert (float(found["bert"]["score"]), float(found["bert"]["max_score"])) == (5.0, 8.0)


def test_the_feedback_shows_text_score_and_comment(graded: TaskClass):
    page = (graded.root / "feedback" / "ada" / SLUG / f"{SLUG}.html").read_text(encoding="utf-8")
    for words in ("Say why", "Because of *superposition*.", "2.5 / 3", "Well said."):
        assert words in page
    assert page.count("<main>") == page.count("</main>") == 1
    assert page.count('<th scope="col">') == 3
    assert page.count('<th scope="row">') == 3  # two exercises and the task
    lost = (graded.root / "feedback" / "bert" / SLUG / f"{SLUG}.html").read_text(encoding="utf-8")
    assert "The cell task-99-r1 was missing; it has been put back." in lost


def test_course_grade_lists_tasks_without_scoring_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lesson = SimpleNamespace(slug="90_demo", tasks=[Task("90.r1", "Say why", 3.0), Task("90.r2", "Say how", 1.0)])
    monkeypatch.setattr(demo_lesson, "get_lesson", lambda number: lesson, raising=False)
    path = make.write(tmp_path, "ada.ipynb", make.notebook())
    course = batch.Course(batch.Settings(registry="demo_lesson"), seed=1)
    result = batch.SubmissionRun(submissions.Submission("ada", path), course).finish()["result"]
    assert result["hand_graded"] == [
        {"id": "90.r1", "title": "Say why", "max_score": 3.0},
        {"id": "90.r2", "title": "Say how", "max_score": 1.0},
    ]
    assert result["max_score"] == sum(exercise.points for exercise in demo_lesson.all())
    assert "4 more points are graded by hand (90.r1 to 90.r2)." in result["notes"]
    assert "90.r2 Say how: up to 1" in reports.learner_page(result)
    table = reports.table(batch.Report("none", [{"result": result}]))
    assert "+ 4 by hand" in str(list(table.columns[1].cells))


def test_the_gradebook_keeps_what_a_person_gave(graded: TaskClass):
    exercises = [
        {"id": f"99.{n}", "title": "", "score": points, "max_score": points, "feedback": ["fine"], "status": "passed"}
        for n, points in ((1, 2.0), (2, 3.0))
    ]
    tasks = [{"id": "99.r1", "title": "Say why", "max_score": 3.0}]
    records = [
        {
            "result": {"lessons": ["99"], "exercises": exercises, "hand_graded": tasks},
            "submission": submissions.Submission(
                f"{student}/{SLUG}", graded.root / "submitted" / student / SLUG / f"{SLUG}.ipynb", student, SLUG
            ),
        }
        for student in ("ada", "bert")
    ]
    gradebook.write(batch.Report("none", records), graded.root / "gradebook.db", SimpleNamespace())
    graded.run("nbgrader", "export", "--to", "again.csv")
    assert {name: float(row["score"]) for name, row in rows(graded, "again.csv").items()} == {"ada": 7.5, "bert": 5.0}
    nb = nbformat.read(graded.root / "autograded" / "ada" / SLUG / f"{SLUG}.ipynb", as_version=4)
    assert cell_of(nb, TASK).metadata.nbgrader.task
    assert cell_of(nb, TASK).metadata.nbgrader.points == 3
