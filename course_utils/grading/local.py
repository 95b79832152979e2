"""Run a lesson file's set-up and answer cells in this process. For your own files: tests and `course check`. Not a sandbox."""

from __future__ import annotations

import linecache
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils import exercises
from course_utils.grading.verdict import Verdict
from course_utils.lessons import cell_role, read_notebook


@dataclass
class Answers:
    """What a file's answer cells define, and which cells raised."""

    path: Path
    names: dict[str, Any] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    """Ids of the exercises that have an answer cell, in the file's order."""
    errors: dict[str, str] = field(default_factory=dict)

    def grade(self, exercise_id: str, seed: int = 0) -> Verdict:
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
    """Run set-up and answer cells of a notebook or percent script in order; a script without markers runs as one cell."""
    answers = Answers(path)
    answers.names["__name__"] = "answers"
    cells = [cell for cell in read_notebook(path).cells if cell.cell_type == "code"]
    roles = [cell_role(cell) for cell in cells]
    marked = any(role == "answer" for role, _ in roles)
    for index, (cell, (role, exercise_id)) in enumerate(zip(cells, roles)):
        if marked and role not in ("setup", "answer"):
            continue
        if role == "answer":
            answers.found.append(exercise_id)
        try:
            _run(cell.source, f"<{path.name} {exercise_id or role} {index}>", answers.names)
        except NotImplementedError:
            pass  # a stub at the top level of a cell: the name stays undefined
        except Exception as error:
            answers.errors[exercise_id] = f"{type(error).__name__}: {error}"
    return answers


def _run(source: str, filename: str, names: dict[str, Any]) -> None:
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    source = "\n".join(lines)
    # tracebacks and inspect.getsource find the line through linecache
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), names)
