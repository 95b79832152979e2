"""A lesson of two small exercises in NumPy, for tests of everything around a lesson."""

import numpy as np

from course_utils.grading import Lesson

lesson = Lesson("99", "A very small lesson", slug="99_demo")


def relu_of(x):
    return np.maximum(x, 0)


def unit_rows_of(x):
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


relu = lesson.exercise(
    1,
    title="Rectify",
    answer="relu",
    reference=relu_of,
    points=2,
    difficulty=1,
    importance=3,
    minutes=2,
    hints=("What should happen to negative numbers?", "`np.maximum` compares element by element."),
    seconds=5,
)


@relu.case("positive numbers")
def _(f, draw):
    return f(draw.uniform(20, numpy=True))


@relu.case("negative numbers")
def _(f, draw):
    return f(-draw.uniform(20, numpy=True))


@relu.mistake("A rectifier leaves positive numbers alone and sets negative ones to zero; `abs` flips them.")
def absolute_value(x):
    return np.abs(x)


@relu.mistake("Zero is the lower bound: `np.maximum`, not `np.minimum`.")
def minimum_instead_of_maximum(x):
    return np.minimum(x, 0)


@relu.mistake("Return numbers, not whether each is positive.")
def sign_only(x):
    return (x > 0).astype(float)


@relu.alternative
def with_where(x):
    return np.where(x > 0, x, 0.0)


unit_rows = lesson.exercise(
    2,
    title="Rows of length one",
    answer="unit_rows",
    reference=unit_rows_of,
    points=3,
    difficulty=2,
    importance=3,
    minutes=4,
    hints=("The length of a vector is the root of the sum of its squares.",),
    seconds=5,
)


@unit_rows.case("a random matrix", weight=2)
def _(f, draw):
    return f(draw.normal(6, 4, numpy=True))


@unit_rows.case("a row of zeros stays zero")
def _(f, draw):
    x = draw.rng.normal(size=(5, 3)).astype(np.float32)
    x[2] = 0
    return f(draw.lend(x, numpy=True))


@unit_rows.mistake("Divide each row by its length; you divided each column.")
def unit_columns(x):
    norm = np.linalg.norm(x, axis=0, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


@unit_rows.mistake("A row of zeros has length zero: guard the division.")
def zero_rows_become_nan(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@unit_rows.mistake("The length is the root of the sum of squares.")
def forgot_the_root(x):
    norm = (x**2).sum(1, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


@unit_rows.alternative
def with_a_loop(x):
    return np.stack([row / np.sqrt((row**2).sum()) if row.any() else row for row in x])
