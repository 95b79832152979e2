"""The engine and every exercise prove themselves: right answers pass, every known mistake is rejected and named."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from course_utils import exercises, lessons
from course_utils.grading.local import Answers, load_answers

ALL = [exercise.id for exercise in exercises.all()]
MISTAKES = [(exercise.id, name) for exercise in exercises.all() for name in exercise.mistakes]
ALTERNATIVES = [(exercise.id, name) for exercise in exercises.all() for name in exercise.alternatives]
SEEDS = (0, 918273)


@functools.cache
def answers_of(path: Path) -> Answers:
    return load_answers(path)


def source_of(exercise_id: str) -> lessons.Source:
    return next(source for source in lessons.sources() if source.number == exercise_id.split(".")[0])


@pytest.mark.parametrize("exercise_id", ALL)
def test_the_reference_earns_full_marks(exercise_id):
    exercise = exercises.get(exercise_id)
    for seed in (*SEEDS, 7):
        verdict = exercise.grade(exercise.reference, seed)
        assert verdict.status == "passed", str(verdict)


@pytest.mark.parametrize("exercise_id", ALL)
def test_the_lessons_own_solution_earns_full_marks(exercise_id):
    verdict = answers_of(source_of(exercise_id).path).grade(exercise_id, seed=3)
    assert verdict.status == "passed", str(verdict)


@pytest.mark.parametrize(("exercise_id", "name"), MISTAKES, ids=lambda value: value)
def test_each_known_mistake_is_rejected_and_named(exercise_id, name):
    exercise = exercises.get(exercise_id)
    for seed in SEEDS:
        verdict = exercise.grade(exercise.mistakes[name].candidate, seed)
        assert verdict.score < verdict.max_score, f"{exercise_id} accepts {name}"
        assert verdict.diagnosis == name, str(verdict)


@pytest.mark.parametrize(("exercise_id", "name"), ALTERNATIVES, ids=lambda value: value)
def test_a_right_answer_in_another_style_passes(exercise_id, name):
    exercise = exercises.get(exercise_id)
    for seed in SEEDS:
        verdict = exercise.grade(exercise.alternatives[name], seed)
        assert verdict.status == "passed", str(verdict)


@pytest.mark.parametrize("exercise_id", ALL)
def test_the_learners_copy_is_not_attempted(exercise_id):
    verdict = answers_of(source_of(exercise_id).release_path).grade(exercise_id)
    assert (verdict.status, verdict.score) == ("not_attempted", 0.0), str(verdict)


@pytest.mark.parametrize("exercise_id", ALL)
def test_an_exercise_is_complete(exercise_id):
    exercise = exercises.get(exercise_id)
    assert exercise.cases
    assert exercise.hints
    assert len(exercise.mistakes) >= 3, "at least three known mistakes"
    assert exercise.alternatives, "at least one right answer in another style"
    assert 1 <= exercise.difficulty <= 5
    assert 1 <= exercise.importance <= 5
    assert exercise.points > 0
    assert all(mistake.explanation.endswith((".", "?", "!")) for mistake in exercise.mistakes.values())
    assert "NotImplementedError" in exercise.stub
    assert exercise.grade(exercise.stub).status == "not_attempted"


def test_mutual_order():
    assert sorted(ALL, key=lambda exercise_id: (exercise_id[:2], int(exercise_id[3:]))) == ALL
