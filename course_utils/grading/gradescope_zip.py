"""A ready-made Gradescope autograder: a zip with `setup.sh`, `run_autograder` and the course."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path

from course_utils import exercises
from course_utils.grading.batch import known_lessons
from course_utils.io import atomic_write

LEFT_OUT = {"__pycache__", ".mypy_cache", ".ruff_cache"}
LARGEST = 40 << 20
EPOCH = (2020, 1, 1, 0, 0, 0)

SETUP = """#!/usr/bin/env bash
# Runs once, as root, when Gradescope builds the image.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends python3.11 python3.11-venv
cd /autograder/source/course
python3.11 -m venv /autograder/venv
/autograder/venv/bin/pip install --quiet --constraint constraints.txt torch
/autograder/venv/bin/pip install --quiet --constraint constraints.txt .
"""

RUN = """#!/usr/bin/env bash
# Runs for every submission. A results.json is written whatever happens.
AUTOGRADER="${{AUTOGRADER:-/autograder}}"
PYTHON="${{COURSE_PYTHON:-$AUTOGRADER/venv/bin/python}}"
RESULTS="$AUTOGRADER/results/results.json"
export COURSE_ROOT="$AUTOGRADER/source/course"
mkdir -p "$AUTOGRADER/results"
cd "$AUTOGRADER"
rm -f "$RESULTS"
"$PYTHON" -m course_utils.cli grade "$AUTOGRADER/submission" --one-learner --jobs 1 --quiet{options} --gradescope "$RESULTS"
if [ ! -s "$RESULTS" ]; then
  echo '{{"score": 0, "output": "This submission could not be graded. Please tell your instructor.", "tests": []}}' > "$RESULTS"
fi
"""


def build(path: Path, root: Path, lessons: tuple[str, ...] = (), require_isolation: bool = False) -> Path:
    """Write the zip; building it twice gives the same bytes.

    Args:
        path: the zip file to write.
        root: the course's folder (with `pyproject.toml`, `constraints.txt`, `course_utils`, `notebooks`).
        lessons: grade for these lessons; empty: what the submission answers.
        require_isolation: give no score where hostile code could not be held (some autograder images offer no isolation).

    Errors:
        FileNotFoundError: `root` is not the course's folder.
        ValueError: a lesson that the course does not have.
    """
    lessons = known_lessons(lessons, exercises.lesson_numbers())
    options = (
        "".join(f" --lesson {shlex.quote(number)}" for number in lessons) + " --require-isolation" * require_isolation
    )
    with atomic_write(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "setup.sh", SETUP.encode(), executable=True)
        _add(archive, "run_autograder", RUN.format(options=options).encode(), executable=True)
        for source in course_files(root):
            _add(archive, f"course/{source.relative_to(root).as_posix()}", source.read_bytes())
    return path


def course_files(root: Path) -> list[Path]:
    """What the autograder needs: the package, its list of dependencies, the learner's notebooks. Not the solutions."""
    missing = [name for name in ("pyproject.toml", "constraints.txt", "course_utils") if not (root / name).exists()]
    if missing:
        raise FileNotFoundError(f"{root} is not the course's folder: it has no {', '.join(missing)}")
    files = [
        root / name for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE") if (root / name).exists()
    ]
    for folder in ("course_utils", "notebooks"):
        for path in sorted((root / folder).rglob("*")):
            hidden = any(part in LEFT_OUT or part.startswith(".") for part in path.relative_to(root).parts)
            if path.is_file() and not hidden and path.stat().st_size <= LARGEST:
                files.append(path)
    return files


def _add(archive: zipfile.ZipFile, name: str, data: bytes, executable: bool = False) -> None:
    info = zipfile.ZipInfo(name, EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (0o100755 if executable else 0o100644) << 16
    archive.writestr(info, data)
