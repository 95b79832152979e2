"""Where things are and what a class allows: environment variables first, then `course.toml` in the course's folder."""

from __future__ import annotations

import functools
import os
import tomllib
from pathlib import Path


@functools.cache
def root() -> Path:
    """The course's folder: the one that holds `solutions/` or `notebooks/`. `COURSE_ROOT` names it where it is elsewhere."""
    if named := os.environ.get("COURSE_ROOT"):
        return Path(named)
    for folder in (Path(__file__).resolve().parent.parent, Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir() or (folder / "solutions").is_dir():
            return folder
    return Path.cwd()


def home() -> Path:
    """Where a learner's own files are kept (progress). `COURSE_HOME` names another place."""
    if named := os.environ.get("COURSE_HOME"):
        return Path(named)
    return Path.home() / ".local" / "share" / "superposition-course"


def cache() -> Path:
    """Where rebuilt things are kept (the language model's weights, activations). `COURSE_CACHE` names another place."""
    if named := os.environ.get("COURSE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "superposition-course"


def solutions_allowed() -> bool:
    """Whether `solution(...)` shows answers. `COURSE_SOLUTIONS=off` or `solutions = false` in course.toml says no."""
    if "COURSE_SOLUTIONS" in os.environ:
        return os.environ["COURSE_SOLUTIONS"].lower() not in ("off", "0", "no", "false")
    return bool(_class_file().get("solutions", True))


def keeps_progress() -> bool:
    """Learners' checks are remembered; a teacher's autograding run must not overwrite the teacher's own progress."""
    return os.environ.get("NBGRADER_EXECUTION") != "autograde" and os.environ.get("COURSE_PROGRESS") != "off"


def quick() -> bool:
    """Whether demonstrations should be short (`COURSE_QUICK=1`): tests run every lesson from top to bottom that way."""
    return os.environ.get("COURSE_QUICK", "").lower() not in ("", "0", "off", "no", "false")


@functools.cache
def _class_file() -> dict[str, object]:
    path = root() / "course.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
