"""A tiny lesson for the grader's own tests: ten cheap exercises on tensors and lists, in the shape of the course's registry."""

from __future__ import annotations

import torch

from course_utils.grading import Between, Exact, Lesson

lesson = Lesson("90", "Demo", slug="90_demo")
COMMON = {"difficulty": 1, "importance": 1, "minutes": 1, "hints": ("Read the docstring.",)}


def double(x):
    return 2 * x


def centred(x):
    return x - x.mean(dim=0, keepdim=True)


def count_positive(x):
    return int((x > 0).sum())


def row_norms(x):
    return x.norm(dim=1)


def largest(x, k):
    return torch.topk(x, k).indices.tolist()


def cosine(a, b):
    return (a @ b) / (a.norm() * b.norm())


class Scaler(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * self.scale


def fit_slope(x, y):
    return (x * y).sum() / (x * x).sum()


def spell(n):
    return "even" if n % 2 == 0 else "odd"


def noisy(n, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


ANSWERS = [double, centred, count_positive, row_norms, largest, cosine, Scaler, fit_slope, spell, noisy]
_made = [
    lesson.exercise(
        number, title=f"Write {f.__name__}", answer=f.__name__, reference=f, points=2, seconds=1.0, **COMMON
    )
    for number, f in enumerate(ANSWERS, 1)
]
_double, _centred, _count, _norms, _largest, _cosine, _scaler, _slope, _spell, _noisy = _made


@_double.case("a matrix")
def _(f, draw):
    return f(draw.normal(3, 4))


@_double.case("its gradient")
def _(f, draw):
    x = draw.normal(5).requires_grad_()
    f(x).sum().backward()
    return x.grad


@_double.mistake("You square where you should double.")
def squares(x):
    return x * x


@_centred.case("a batch")
def _(f, draw):
    return f(draw.normal(8, 3, mean=2.0))


@_centred.mistake("You subtract the mean over everything, not over each column.")
def one_mean(x):
    return x - x.mean()


@_count.case("some numbers", rule=Exact())
def _(f, draw):
    return f(draw.normal(40))


@_count.case("more numbers", rule=Exact())
def _(f, draw):
    return f(draw.normal(400))


@_norms.case("rows")
def _(f, draw):
    return f(draw.normal(6, 5))


@_largest.case("places", rule=Exact())
def _(f, draw):
    return f(draw.normal(20), 4)


@_cosine.case("two vectors")
def _(f, draw):
    return f(draw.normal(9), draw.normal(9))


@_scaler.case("starts as the identity")
def _(cls, draw):
    return cls(4)(draw.normal(2, 4))


def _slope_error(values, draw):
    draw.normal(20)
    return {"error": abs(values[""] - draw.rng.normal())}


@_slope.case("its error", rule=Between(high=1e-6), measure=_slope_error)
def _(f, draw):
    x = draw.normal(20)
    return float(f(x, draw.rng.normal() * x))


@_slope.case("noisy data")
def _(f, draw):
    x, y = draw.normal(20), draw.normal(20)
    return f(x, y)


@_spell.case("some numbers", rule=Exact())
def _(f, draw):
    return {str(i): f(int(n)) for i, n in enumerate(draw.integers(0, 100, 12))}


@_noisy.case("the same seed gives the same numbers")
def _(f, draw):
    return f(6, int(draw.integers(0, 1000, 1)))


# -- the registry's functions ------------------------------------------------------------------------------------


def all():
    return list(lesson.exercises)


def lesson_numbers():
    return ["90"]


def for_lesson(number):
    return list(lesson.exercises) if number == "90" else []


def get(exercise_id):
    return next(exercise for exercise in lesson.exercises if exercise.id == exercise_id)
