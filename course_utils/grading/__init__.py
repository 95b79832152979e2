"""Exercises, verdicts and trusted grading. Knows nothing of sparse autoencoders: it compares what code does with what it should do."""

from course_utils.grading.exercise import Exercise, Lesson, Mistake
from course_utils.grading.judge import Between, Close, Exact, Rule
from course_utils.grading.observe import Draw, Failure, Observation, Observations
from course_utils.grading.verdict import CaseResult, Verdict

__all__ = [
    "Between",
    "CaseResult",
    "Close",
    "Draw",
    "Exact",
    "Exercise",
    "Failure",
    "Lesson",
    "Mistake",
    "Observation",
    "Observations",
    "Rule",
    "Verdict",
]
