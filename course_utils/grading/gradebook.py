"""nbgrader's gradebook through its own API, so that formgrader, feedback and export go on working after `course grade`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from course_utils.grading import submissions
from course_utils.grading.batch import Report
from course_utils.grading.submissions import BrokenSubmission, Submission
from course_utils.grading.wire import clean
from course_utils.io import atomic_write
from course_utils.lessons import grade_id

SAFE_ID = re.compile(r"[^A-Za-z0-9_.-]+")


def write(report: Report, database: Path, registry: Any, autograded: Path | None = None) -> None:
    """Put every score into the gradebook, and write `autograded/STUDENT/ASSIGNMENT/NOTEBOOK.ipynb` for formgrader and feedback.

    Assignments that `generate_assignment` made are used; others are created from the exercises. A score that a person gave by
    hand stays, and is marked for review, as nbgrader does. Learners' outputs are left out, and their text is shown as typed:
    formgrader would run what is in them.

    Args:
        report: from `batch.grade`.
        database: the SQLite file, such as `gradebook.db` in the course's nbgrader folder.
        registry: module of the exercises, for lesson slugs.
        autograded: where the notebooks go; `autograded` beside the database by default.
    """
    from nbgrader.api import Gradebook

    autograded = autograded or database.resolve().parent / "autograded"
    database.parent.mkdir(parents=True, exist_ok=True)
    with _own_programs_found(), Gradebook(f"sqlite:///{database.resolve()}") as book:
        for record in report.records:
            for number in record["result"]["lessons"]:
                exercises = [e for e in record["result"]["exercises"] if e["id"].split(".")[0] == number]
                tasks = [t for t in record["result"].get("hand_graded", []) if t["id"].split(".")[0] == number]
                assignment = record["submission"].assignment or slug(registry, number)
                Entry(book, record, assignment, exercises, tasks).write(autograded)


def check(database: Path) -> None:
    """Open the gradebook, made if it is not there.

    Errors:
        ValueError: the file is no gradebook, or may not be written.
    """
    from nbgrader.api import Gradebook

    if database.exists() and not os.access(database, os.W_OK):
        raise ValueError("the file may not be written")
    try:
        with _own_programs_found(), Gradebook(f"sqlite:///{database.resolve()}"):
            pass
    except Exception as error:  # SQLAlchemy's many, and what nbgrader's migrations raise
        raise ValueError(f"this is no gradebook that can be opened ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _own_programs_found() -> Iterator[None]:
    """nbgrader starts `alembic` by name for a new database: find the one beside this Python, activated or not."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def slug(registry: Any, number: str) -> str:
    lesson = registry.get_lesson(number) if hasattr(registry, "get_lesson") else None
    return lesson.slug if lesson is not None else f"lesson_{number}"


class Entry:
    """One submission of one assignment."""

    def __init__(
        self,
        book: Any,
        record: dict[str, Any],
        assignment: str,
        exercises: list[dict[str, Any]],
        tasks: list[dict[str, Any]],
    ) -> None:
        self.book, self.exercises, self.tasks, self.assignment = book, exercises, tasks, assignment
        self.submission: Submission = record["submission"]
        in_tree = bool(self.submission.assignment)
        self.notebook = self.submission.path.stem if in_tree else assignment
        self.student = SAFE_ID.sub("-", self.submission.student or self.submission.id)[:120] or "unnamed"

    def write(self, autograded: Path) -> None:
        self._prepare()
        details = {"timestamp": self.submission.timestamp} if _is_time(self.submission.timestamp) else {}
        self.book.update_or_create_student(self.student)
        self.book.update_or_create_submission(self.assignment, self.student, **details)
        for exercise in self.exercises:
            self._grade(exercise)
        for task in self.tasks:
            self._await_grade(task)
        self.book.db.commit()
        with atomic_write(autograded / self.student / self.assignment / f"{self.notebook}.ipynb") as file:
            json.dump(self._notebook(), file, indent=1)

    def _prepare(self) -> None:
        from nbgrader.api import MissingEntry

        book, place = self.book, (self.notebook, self.assignment)
        book.update_or_create_assignment(self.assignment)
        book.update_or_create_notebook(*place)
        for exercise in self.exercises:
            check, answer = grade_id("check", exercise["id"]), grade_id("answer", exercise["id"])
            try:
                book.find_grade_cell(check, *place)
            except MissingEntry:
                book.add_grade_cell(check, *place, max_score=exercise["max_score"], cell_type="code")
                book.update_or_create_source_cell(check, *place, cell_type="code", source="")
            try:
                book.find_solution_cell(answer, *place)
            except MissingEntry:
                book.add_solution_cell(answer, *place)
                book.update_or_create_source_cell(answer, *place, cell_type="code", source="")
        for task in self.tasks:
            name = grade_id("task", task["id"])
            try:
                book.find_task_cell(name, *place)
            except MissingEntry:
                book.add_task_cell(name, *place, max_score=task["max_score"], cell_type="markdown")
                book.update_or_create_source_cell(name, *place, cell_type="markdown", source="")

    def _grade(self, exercise: dict[str, Any]) -> None:
        from nbgrader.api import Comment, Grade, MissingEntry

        check, answer = grade_id("check", exercise["id"]), grade_id("answer", exercise["id"])
        place = (self.notebook, self.assignment)
        held = self.book.find_submission_notebook(*place, self.student)
        try:
            grade = self.book.find_grade(check, *place, self.student)
        except MissingEntry:  # the exercise is newer than the submission's entry
            grade = Grade(cell=self.book.find_grade_cell(check, *place), notebook=held)
            self.book.db.add(grade)
        grade.auto_score = exercise["score"]
        grade.needs_manual_grade = grade.manual_score is not None
        try:
            comment = self.book.find_comment(answer, *place, self.student)
        except MissingEntry:
            comment = Comment(cell=self.book.find_solution_cell(answer, *place), notebook=held)
            self.book.db.add(comment)
        comment.auto_comment = _defused("\n".join(exercise["feedback"]))

    def _await_grade(self, task: dict[str, Any]) -> None:
        """A task's entry waits for a person; what a person gave before stays."""
        from nbgrader.api import Comment, Grade, MissingEntry

        name, place = grade_id("task", task["id"]), (self.notebook, self.assignment)
        held = self.book.find_submission_notebook(*place, self.student)
        cell = self.book.find_task_cell(name, *place)
        try:
            grade = self.book.find_grade(name, *place, self.student)
        except MissingEntry:
            grade = Grade(cell=cell, notebook=held)
            self.book.db.add(grade)
        grade.needs_manual_grade = True
        try:
            self.book.find_comment(name, *place, self.student)
        except MissingEntry:
            self.book.db.add(Comment(cell=cell, notebook=held))

    def _notebook(self) -> dict[str, Any]:
        """The submission for reading: its cells, our feedback under each check cell, nothing that a browser would run."""
        by_id = {entry["id"]: entry for entry in [*self.exercises, *self.tasks]}
        cells, seen = [], set()
        for cell in _plain_cells(self.submission.path):
            role, exercise_id, source = cell
            if role in ("answer", "check", "task") and (exercise_id not in by_id or (role, exercise_id) in seen):
                role = ""  # a copied cell would be graded twice
            seen.add((role, exercise_id))
            cells.append(_cell(role, exercise_id, source, by_id))
        wanted = [(role, exercise["id"]) for exercise in self.exercises for role in ("answer", "check")]
        for role, exercise_id in [*wanted, *(("task", task["id"]) for task in self.tasks)]:
            if (role, exercise_id) not in seen:
                cells.append(_cell(role, exercise_id, "# this cell is missing in the submission", by_id))
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}


def _plain_cells(path: Path) -> list[tuple[str, str, str]]:
    """(role, exercise, source) of every cell that can be read; role `markdown` for text."""
    try:
        raw = submissions.read_bytes(path)
        listed = json.loads(submissions.decoded(raw))["cells"] if path.suffix == ".ipynb" else None
        parsed = submissions.read(path)
    except (BrokenSubmission, ValueError, KeyError, TypeError, RecursionError):
        return [("markdown", "", "The submission could not be read.")]
    if not isinstance(listed, list):
        return [(cell.role, cell.exercise, cell.source) for cell in parsed.cells]
    found, code = [], iter(parsed.cells)
    for cell in listed[: submissions.MAX_CELLS]:
        source = submissions.source_text(cell.get("source")) if isinstance(cell, dict) else None
        if source is None:
            continue
        if cell.get("cell_type") == "code":
            known = next(code, None)
            found.append((known.role, known.exercise, known.source) if known else ("", "", source))
        elif cell.get("cell_type") == "markdown":
            task_id = _task_of(cell.get("metadata"))
            found.append(("task", task_id, source) if task_id else ("markdown", "", source))
    return found


def _task_of(metadata: Any) -> str:
    """The id of the hand-graded task that a text cell states, or nothing. The metadata may hold anything."""
    marking = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    named = marking.get("grade_id") if isinstance(marking, dict) else None
    match = re.fullmatch(r"task-(\d\d)-(r\d+)", named) if isinstance(named, str) else None
    return f"{match[1]}.{match[2]}" if match else ""


def _cell(role: str, exercise_id: str, source: str, by_id: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if role in ("markdown", "task"):
        marking = {}
        if role == "task":
            marks = {"grade_id": grade_id(role, exercise_id), "schema_version": 3, "task": True, "grade": False}
            marks |= {"locked": True, "solution": False, "points": by_id[exercise_id]["max_score"]}
            marking = {"nbgrader": {**marks, "cell_type": "markdown"}}
        return {"cell_type": "markdown", "metadata": marking, "source": _not_rendered(source)}
    metadata: dict[str, Any] = {}
    outputs: list[dict[str, Any]] = []
    if role in ("answer", "check"):
        exercise = by_id[exercise_id]
        marks: dict[str, Any] = {"grade_id": grade_id(role, exercise_id), "schema_version": 3, "task": False}
        marks |= {"grade": role == "check", "locked": role == "check", "solution": role == "answer"}
        if role == "check":
            marks |= {"points": exercise["max_score"], "cell_type": "code"}
            outputs = [{"output_type": "stream", "name": "stdout", "text": "\n".join(exercise["feedback"])}]
        metadata["nbgrader"] = marks
    body = {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": outputs}
    return {**body, "source": clean(source, submissions.MAX_SOURCE)}


def _not_rendered(text: str) -> str:
    """Markdown that shows a text as it was typed. Rendered, its links could run scripts and its pictures load from elsewhere."""
    # the text holds no "<", so nothing in it ends the block; formulas in <pre> are left alone, by MathJax as well
    return f'<pre style="white-space: pre-wrap">\n{escape(clean(text, 100_000))}\n</pre>'


def _defused(text: str) -> str:
    """A comment without links, pictures and TeX: nbgrader's own feedback renders it as Markdown (ours shows it as it is)."""
    return re.sub(r"\](?=[(\[:])|\\(?=[A-Za-z(\[])", r"\g<0> ", escape(text))


def _is_time(text: str) -> bool:
    try:
        from dateutil.parser import parse

        parse(text)
    except (ValueError, OverflowError, ImportError):
        return False
    return bool(text)
