"""Run a lesson file's set-up and answer cells in this process. For your own files: tests and `course check`. Not a sandbox."""

from __future__ import annotations

import linecache
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from course_utils import exercises
from course_utils.grading import submissions
from course_utils.grading.submissions import ANSWER, CHECK, SETUP
from course_utils.grading.verdict import Verdict


@dataclass
class Answers:
    """What a file's answer cells define, and which cells raised."""

    path: Path
    names: dict[str, Any] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    """Ids of the exercises that have an answer cell, in the file's order."""
    errors: dict[str, str] = field(default_factory=dict)
    """Exercise id -> what its answer cell raised."""
    other_errors: list[str] = field(default_factory=list)
    """What set-up cells (or a script without markers) raised: often the cause of what fails later."""

    def grade(self, exercise_id: str, seed: int = 0) -> Verdict:
        verdict = self._verdict(exercise_id, seed)
        if verdict.passed or not self.other_errors:
            return verdict
        return replace(verdict, cases=(), feedback=[*self.other_errors, *verdict.feedback])

    def _verdict(self, exercise_id: str, seed: int) -> Verdict:
        exercise = exercises.get(exercise_id)
        if exercise_id in self.errors:
            return exercise.error_verdict(f"the answer cell does not run: {self.errors[exercise_id]}")
        if exercise_id not in self.found and exercise.answer not in self.names:
            return exercise.error_verdict(
                f"{self.path.name} has no answer cell for {exercise_id} and no `{exercise.answer}`"
            )
        if exercise.answer not in self.names:
            return exercise.error_verdict(f"the answer cell does not define `{exercise.answer}`")
        return exercise.grade(self.names[exercise.answer], seed)


def load_answers(path: Path) -> Answers:
    """Run set-up and answer cells of a notebook or percent script in order; a script without markers runs as one cell.

    Errors:
        BrokenSubmission: the file is neither a notebook nor a script; the message says why.
    """
    answers = Answers(path)
    answers.names["__name__"] = "answers"
    parsed = submissions.read(path.resolve())  # resolved: a link to one's own file is no attack
    marked = any(cell.role == ANSWER for cell in parsed.cells)
    for index, cell in enumerate(parsed.cells):
        if cell.role not in (SETUP, ANSWER) and (marked or cell.role == CHECK):
            continue
        exercise_id = cell.exercise if cell.role == ANSWER else ""
        if exercise_id:
            answers.found.append(exercise_id)
        problem = _run(cell.source, f"<{path.name} {exercise_id or cell.role} {index}>", answers.names)
        if problem and exercise_id:
            answers.errors[exercise_id] = problem
        elif problem:
            place = "the script" if parsed.script else "a set-up cell" if cell.role == SETUP else "a cell"
            answers.other_errors.append(f"{place} does not run to its end: {problem}")
    return answers


def _run(source: str, filename: str, names: dict[str, Any]) -> str:
    """Run a cell; gives what it raised, in words, or nothing."""
    source = submissions.plain_python(source)
    # tracebacks and inspect.getsource find the line through linecache
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    try:
        exec(compile(source, filename, "exec"), names)
    except NotImplementedError:
        return ""  # a stub at the top level of a cell: the name stays undefined
    except SystemExit as error:
        return f"it ends the program (SystemExit: {error.code})"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
