"""`pytest tests/exercises --submission PATH`: one test an exercise of the lessons that a submission answers.

The code runs in this process, as `course check` does it: for your own files. `course grade` is for those of others.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest

from course_utils.grading import batch, submissions
from course_utils.grading.local import Answers, load_answers
from course_utils.grading.submissions import BrokenSubmission, Submission
from course_utils.grading.verdict import NOT_ATTEMPTED


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The files are read here; nothing of them runs before its test does."""
    unpacked = tempfile.TemporaryDirectory(prefix="course-submission-")
    metafunc.config.add_cleanup(unpacked.cleanup)
    try:
        found = submissions.find(metafunc.config.getoption("--submission"), Path(unpacked.name))
    except (ValueError, OSError) as error:
        raise pytest.Collector.CollectError(f"--submission: {error}") from None
    if not found:
        raise pytest.Collector.CollectError("--submission: no notebook, script or zip file there")
    course = batch.Course(batch.Settings(), seed=0)
    wanted = [(one, exercise_id) for one in found for exercise_id in exercises_of(one, course)]
    names = [exercise_id if len(found) == 1 else f"{one.label}:{exercise_id}" for one, exercise_id in wanted]
    metafunc.parametrize(("submission", "exercise_id"), wanted, ids=names)


def exercises_of(submission: Submission, course: batch.Course) -> list[str]:
    """Ids of the exercises to test; one empty id where there is nothing to tell them by."""
    try:
        numbers = course.lessons_of(submissions.read(submission.path), submission)
    except BrokenSubmission:
        numbers = []
    return [exercise.id for number in numbers for exercise in course.for_lesson(number)] or [""]


@functools.cache
def answers_of(path: Path) -> Answers:
    return load_answers(path)


def test_exercise(submission: Submission, exercise_id: str) -> None:
    try:
        answers = answers_of(submission.path)
    except BrokenSubmission as error:
        pytest.fail(f"{submission.label} cannot be read: {error}", pytrace=False)
    if not exercise_id:
        pytest.fail(f"no exercise was recognised in {submission.label}", pytrace=False)
    verdict = answers.grade(exercise_id)
    if verdict.status == NOT_ATTEMPTED:
        pytest.skip(" ".join(verdict.feedback))
    if not verdict.passed:
        pytest.fail(str(verdict), pytrace=False)
