"""The judge: what counts as agreement, what is said where there is none, and how points and diagnoses come about."""

from __future__ import annotations

import numpy as np
import pytest

from course_utils.grading import Between, Close, Exact, Failure, Lesson, Observation
from course_utils.grading import observe as ob
from course_utils.grading.judge import case_problem, same_behaviour


@pytest.mark.parametrize(
    ("got", "want", "sentence"),
    [
        (1.0, 1.00001, None),
        (np.array([1.0, np.inf]), np.array([1.0, np.inf]), None),
        (np.array([np.nan]), np.array([np.nan]), None),
        (np.zeros((0, 3)), np.zeros((0, 3)), None),
        (np.array(["a", "b"]), np.array(["a", "b"]), None),
        (np.array(["a", "b"]), np.array(["b", "a"]), "is an array of shape [2], expected an array of shape [2]"),
        ("a", np.array(["a"]), "is 'a', expected an array of shape [1]"),
        (None, 3.0, "is None, expected a number"),
        (3.0, None, "is 3.0, expected None"),
        (True, "yes", "is True, expected 'yes'"),
        (np.zeros(3), np.zeros(4), "has shape [3], expected [4]"),
        (np.array([1.0, 2.0]), np.array([2.0, 4.0]), "is 1/2 times what is expected, everywhere"),
        (np.array([np.inf, 2.0]), np.array([1.0, 2.0]), "holds NaN or infinity in 1 of 2 places"),
        (2.0, 1.0, "is 2, expected 1 (2 times the expected value)"),
        (np.eye(3)[[1, 2, 0]], np.eye(3)[[2, 0, 1]], "is transposed: rows and columns are exchanged"),
    ],
)
def test_close_says_what_differs(got, want, sentence):
    assert Close().problem(got, want) == sentence


@pytest.mark.parametrize(
    ("got", "sentence"),
    [
        (0.95, None),
        (0.2, "is 0.2, expected at least 0.9"),
        (np.array([1.0, 0.5]), "is 0.5, expected at least 0.9"),
        (np.nan, "is NaN (not a number)"),
        (np.inf, "is infinite"),
        (np.array([]), "is empty, expected numbers"),
        ("good", "is 'good', expected a number"),
    ],
)
def test_between_says_what_differs(got, sentence):
    assert Between(low=0.9).problem(got) == sentence


def test_between_says_on_which_side():
    rule = Between(0.0, 1.0, unit=" s")
    assert rule.problem(2.0) == "is 2 s, expected between 0 and 1"
    assert not rule.same(2.0, -1.0)
    assert rule.same(2.0, 3.0)
    assert not rule.same(np.inf, 0.5)
    assert not rule.same(np.array([]), 0.5)


def test_exact_has_no_tolerance():
    assert Exact().problem(3, 3) is None
    assert Exact().problem(3.0000001, 3)


def test_values_are_compared_name_by_name():
    want = Observation({"loss": 1.0, "steps": 3})
    assert case_problem(Observation({"loss": 2.0, "steps": 3}), want, Close())[0].startswith("`loss` is 2")
    assert case_problem(Observation({"loss": 1.0}), want, Close())[0] == "lacks `steps`"
    assert case_problem(Observation({"loss": 1.0, "steps": 4}), want, {"steps": Between(0, 9)}) is None
    assert (
        case_problem(Observation({"": 1.0}), want, Close())[0] == "gives one value, expected 2 values (`loss`, `steps`)"
    )


def test_a_mistake_is_recognised_wherever_its_exception_comes_up():
    in_learners_line = Observation(failure=Failure(ob.RAISED, "IndexError: 3", "IndexError", "line 1: x[3]"))
    in_the_probe = Observation(failure=Failure(ob.UNREADABLE, "could not be used. IndexError: 3", "IndexError"))
    assert same_behaviour(in_learners_line, in_the_probe, Close())
    assert not same_behaviour(in_learners_line, Observation(failure=Failure(ob.RAISED, "", "KeyError")), Close())
    assert not same_behaviour(in_learners_line, Observation(failure=Failure(ob.TOO_SLOW, "", "IndexError")), Close())
    assert not same_behaviour(in_learners_line, Observation({"": 1}), Close())


def exercise_worth(points: float, cases: int):
    lesson = Lesson("97", "Points", slug="97_points")
    exercise = lesson.exercise(
        1,
        title="Points",
        answer="f",
        reference=lambda i: i,
        points=points,
        difficulty=1,
        importance=1,
        minutes=1,
        hints=(),
    )
    for i in range(cases):
        exercise.case(f"part {i}", rule=Exact())(lambda f, draw, i=i: f(i))
    return exercise


@pytest.mark.parametrize(("points", "cases"), [(1, 3), (2, 7), (5, 600), (0.5, 3)])
def test_a_part_never_earns_the_whole(points: float, cases: int):
    exercise = exercise_worth(points, cases)
    for wrong in range(0, cases, max(1, cases // 7)):
        verdict = exercise.grade(lambda i, wrong=wrong: i if i != wrong else -1)
        assert verdict.status == "partial"
        assert 0 <= verdict.score < points
        assert verdict.score == pytest.approx(points * (cases - 1) / cases, abs=0.0101)


def test_without_the_essential_part_nothing_is_earned():
    exercise = exercise_worth(2, 2)
    exercise.case("the point of it all", essential=True)(lambda f, draw: f(10) > 5)
    assert exercise.grade(lambda i: i if i < 10 else 0).score == 0
    assert exercise.grade(lambda i: i).score == 2


def test_each_kind_of_verdict_says_so():
    exercise = exercise_worth(2, 2)
    kinds = {
        "passed": lambda i: i,
        "partial": lambda i: i * 0,
        "failed": lambda i: i + 1,
        "error": lambda i: [][i],
        "not_attempted": None,
    }
    for status, candidate in kinds.items():
        verdict = exercise.grade(candidate)
        assert verdict.status == status
        assert verdict.to_dict()["status"] == status
        assert float(verdict) == verdict.score
        assert verdict._repr_mimebundle_()["text/plain"] == format(verdict.score, "g")
        assert "97.1" in str(verdict)
        assert "97.1" in verdict._repr_html_()


def test_missing_observations_earn_nothing():
    verdict = exercise_worth(2, 2).judge({})
    assert verdict.score == 0
    assert "nothing was recorded for this part" in str(verdict)


def test_seeds_draw_other_inputs_and_cases_draw_their_own():
    def first(seed: int, case: str) -> float:
        return float(ob.Draw(seed, case).uniform(1, numpy=True)[0])

    assert first(0, "a") == first(0, "a")
    assert len({first(seed, case) for seed in range(5) for case in ("a", "b", "c")}) == 15
