"""`make demo`: the solutions earn everything, the flawed submission loses what it should, both are shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from demo_class import DEMO, SLUG, DemoClass

from course_utils import demo, exercises, lessons, settings
from course_utils.grading.local import load_answers


def grade_here(paths: list[Path], result_file: Path) -> dict[str, Any]:
    """What `course grade` gives, without its sandbox: the demo lesson is known to this process only."""
    submissions = []
    for path in paths:
        verdicts = [load_answers(path).grade(exercise.id) for exercise in exercises.for_lesson(path.stem[:2])]
        scores = {"score": sum(v.score for v in verdicts), "max_score": sum(v.max_score for v in verdicts)}
        submissions.append({"id": path.stem, **scores, "exercises": [verdict.to_dict() for verdict in verdicts]})
    return {"isolation": "none", "submissions": submissions}


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The demo lesson is the course, and its files are graded in this process."""
    monkeypatch.setattr(exercises, "__path__", [str(DEMO)])
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path / "course"))
    monkeypatch.setattr(demo, "grade", grade_here)
    for cache in (exercises.get_lesson, settings.root):
        cache.cache_clear()
    yield DemoClass.make(tmp_path / "course").root
    for cache in (exercises.get_lesson, settings.root):
        cache.cache_clear()
    sys.modules.pop("course_utils.exercises.lesson_99", None)


@pytest.mark.parametrize(
    ("plan", "score"), [(("right", "mistake"), "2/5"), (("broken", "unwritten"), "0/5"), (("mistake", "right"), "4/5")]
)
def test_both_score_cards_and_a_report(
    course: Path, monkeypatch: pytest.MonkeyPatch, plan: tuple[str, ...], score: str
):
    monkeypatch.setattr(demo, "PLAN", plan)
    done = CliRunner().invoke(demo.main, [], catch_exceptions=False)
    assert "The worked solutions: 5/5 points" in done.output
    assert f"A flawed submission: {score} points" in done.output
    page = (course / "build" / "demo" / "report.html").read_text(encoding="utf-8")
    for words in ("5/5 points", f"{score} points", "99.1 Rectify"):
        assert words in page
    assert "http" not in page
    assert "<script" not in page


def test_a_flawed_answer_shows_the_mistake_it_was_made_from(course: Path):
    text = demo.standing_alone(exercises.get("99.1").mistakes["absolute_value"].candidate, "relu", {"np"})
    assert text is not None
    assert text.startswith("def relu(x):")
    assert exercises.get("99.1").grade(text).diagnosis == "absolute_value"
    assert demo.standing_alone(exercises.get("99.1").mistakes["absolute_value"].candidate, "relu", set()) is None


def test_a_solution_region_is_unwritten_as_nbgrader_does_it(course: Path):
    lessons.release()
    (source,) = lessons.sources()
    for cell in lessons.read_notebook(source.path).cells:
        role, exercise_id = lessons.cell_role(cell)
        if role == "answer":
            stub = exercises.get(exercise_id).stub
            assert lessons.without_solution(cell.source) == stub
    assert source.slug == SLUG


@pytest.mark.slow
@pytest.mark.skipif("02" not in {source.number for source in lessons.sources()}, reason="no lesson 02")
def test_the_courses_own_demo(tmp_path: Path):
    """Lesson 02 as `make demo` does it: through `course grade` and its sandbox."""
    number = "02"
    done = CliRunner().invoke(demo.main, ["--lesson", number, "--out", str(tmp_path)], catch_exceptions=False)
    points = f"{sum(exercise.points for exercise in exercises.for_lesson(number)):g}"
    assert f"The worked solutions: {points}/{points} points" in done.output
    flawed = next(line for line in done.output.splitlines() if line.startswith("A flawed submission"))
    assert 0 < float(flawed.split(": ")[1].split("/")[0]) < float(points)
    for label in ("not attempted yet", "stopped with an error", "correct"):
        assert label in done.output
    assert (tmp_path / "report.html").stat().st_size > 2000
