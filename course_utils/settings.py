"""Where things are and what a class allows: environment variables first, then `course.toml` in the course's folder."""

from __future__ import annotations

import functools
import os
import tomllib
from pathlib import Path

CLASS_FILE = "course.toml"
YES, NO = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


@functools.cache
def root() -> Path:
    """The course's folder. `COURSE_ROOT` names it; else it is found from where the program runs.

    A `course.toml` above the working directory comes first: it is what a class was handed, wherever the package lies. Then the
    folder that holds `solutions/` or `notebooks/`.
    """
    if named := os.environ.get("COURSE_ROOT"):
        return Path(named)
    here = (Path.cwd(), *Path.cwd().parents)
    for folder in here:
        if (folder / CLASS_FILE).is_file():
            return folder
    for folder in (Path(__file__).resolve().parent.parent, *here):
        if (folder / "notebooks").is_dir() or (folder / "solutions").is_dir():
            return folder
    in_a_lesson = (
        here[0] / f"{here[0].name}.ipynb"
    ).is_file()  # where Jupyter starts the kernel of a handed-out lesson
    return here[0].parent if in_a_lesson else here[0]


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
    """Whether `solution(...)` shows answers. `COURSE_SOLUTIONS=off` or `solutions = false` in course.toml says no.

    Errors:
        ValueError: the setting is neither yes nor no (so a slip of the pen shows nobody the answers), or course.toml is no TOML.
    """
    if said := os.environ.get("COURSE_SOLUTIONS"):
        return _yes_or_no(said, "COURSE_SOLUTIONS")
    return _yes_or_no(_class_file().get("solutions", True), f"solutions in {root() / CLASS_FILE}")


def seed() -> int | None:
    """The seed that `COURSE_SEED` names, or None.

    Errors:
        ValueError: it is no whole number.
    """
    said = os.environ.get("COURSE_SEED", "").strip()
    if not said:
        return None
    try:
        return int(said)
    except ValueError:
        raise ValueError(f"COURSE_SEED should be a whole number, and is {said!r}") from None


def keeps_progress() -> bool:
    """Learners' checks are remembered; a teacher's autograding run must not overwrite the teacher's own progress."""
    return os.environ.get("NBGRADER_EXECUTION") != "autograde" and os.environ.get("COURSE_PROGRESS") != "off"


def quick() -> bool:
    """Whether demonstrations should be short (`COURSE_QUICK=1`): tests run every lesson from top to bottom that way."""
    return os.environ.get("COURSE_QUICK", "").lower() not in ("", *NO)


@functools.cache
def _class_file() -> dict[str, object]:
    path = root() / CLASS_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:  # no TOML, or no UTF-8; TOML's own message says the line
        raise ValueError(f"{path} cannot be read: {error}") from None


def _yes_or_no(value: object, name: str) -> bool:
    """True and false, and the words for them."""
    said = str(value).lower()
    if said in YES or said in NO:
        return said in YES
    raise ValueError(f"{name} should be true or false, and is {value!r}")
