"""`make demo`: the solutions earn everything, the flawed submission loses what it should, both are shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from demo_class import DEMO, SLUG, DemoClass

from course_utils import demo, exercises, lessons, settings


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The demo lesson is the course, and its files are graded in this process."""
    monkeypatch.setattr(exercises, "__path__", [str(DEMO)])
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path / "course"))
    monkeypatch.setattr(demo, "grade", lambda paths, result_file: demo.grade_here(paths))
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
            assert lessons.without_solution(cell.source) == stub.replace("    # YOUR CODE HERE\n", "")
    assert source.slug == SLUG
