"""Whatever a learner hands in, the check answers with a sentence that says what is wrong: it never raises and never hangs."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from course_utils.grading import Lesson
from course_utils.grading.verdict import Verdict

lesson = Lesson("98", "For tests of the engine", slug="98_engine")


def double_of(x: Any) -> Any:
    return 2 * x


double = lesson.exercise(
    1, title="Double", answer="double", reference=double_of, points=2, difficulty=1, importance=1, minutes=1,
    hints=("Add it to itself.",), seconds=0.3,
)  # fmt: skip


@double.case("a vector")
def _(f, draw):
    return f(draw.normal(5))


@double.case("a matrix")
def _(f, draw):
    return f(draw.normal(3, 4))


@double.mistake("Multiply, do not square.")
def squares(x):
    return x * x


class CounterOf:
    """Reference of an exercise whose answer is a class."""

    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, n: int) -> int:
        self.count += n
        return self.count


counter = lesson.exercise(
    2, title="Count", answer="Counter", reference=CounterOf, points=2, difficulty=1, importance=1, minutes=1,
    hints=("Keep the count on `self`.",), seconds=0.3,
)  # fmt: skip


@counter.case("the first step")
def _(Counter, draw):
    return Counter(3).add(4)


@counter.case("two steps")
def _(Counter, draw):
    c = Counter(1)
    return c.add(2), c.add(2)


def words(verdict: Verdict) -> str:
    """Everything the learner is told, in words; the HTML card must be made of the same."""
    html = verdict._repr_html_()
    assert "<script" not in html
    assert verdict.feedback
    assert 0 <= verdict.score <= verdict.max_score
    return str(verdict)


def too_many(x, y):
    return 2 * x


def no_return(x):
    2 * x


def prints(x):
    print("the answer is", 2 * x.sum())


def raises(x):
    wrong = torch.ones(7)
    return x + wrong


def for_ever(x):
    while True:
        x = x + 0


def for_ever_deaf(x):
    while True:
        try:  # noqa: SIM105
            x = x + 0
        except:  # noqa: E722
            pass


def in_place(x):
    x *= 2
    return x


def wrong_shape(x):
    return (2 * x).sum(-1)


def transposed(x):
    return (2 * x).T


def nan(x):
    return x * float("nan")


def infinite(x):
    return x * float("inf")


def as_text(x):
    return "2x"


def leaves(x):
    raise SystemExit


def interrupts(x):
    raise KeyboardInterrupt


def warns(x):
    warnings.warn("careful", stacklevel=1)
    return 2 * x


def endless_recursion(x):
    return endless_recursion(x)


def strange_exception(x):
    class Strange(BaseException):
        def __str__(self):
            raise RuntimeError("no text")

    raise Strange


def stub(x):
    raise NotImplementedError


SENTENCES = [
    (too_many, "missing 1 required positional argument"),
    (too_many, "It is called as `too_many(x)`; yours takes `(x, y)`"),
    (no_return, "returned nothing (None). Is a `return` missing?"),
    (prints, "but printing is not returning"),
    (raises, "RuntimeError: The size of tensor a (5) must match the size of tensor b (7)"),
    (raises, "return x + wrong"),
    (raises, "wrong: float32 [7]"),
    (for_ever, "still running after 0.3 s, so it was stopped"),
    (for_ever_deaf, "still running after 0.3 s, so it was stopped"),
    (in_place, "changes its input in place"),
    (wrong_shape, "has shape [], expected [5]"),
    (transposed, "has shape [4, 3], expected [3, 4] (transposed?)"),
    (nan, "holds NaN or infinity"),
    (infinite, "holds NaN or infinity"),
    (as_text, "is '2x', expected an array of shape [5]"),
    (leaves, "calls `exit()`"),
    (interrupts, "stopped while your code was running"),
    (endless_recursion, "RecursionError"),
    (strange_exception, "Strange"),
    (stub, "Not attempted yet"),
    (squares, "Multiply, do not square."),
    (lambda x: -2 * x, "has the sign the wrong way round"),
    (lambda x: x, "is 1/2 times what is expected, everywhere"),
    (lambda x: 2 * x + 3, "is 3 too large everywhere"),
    (lambda x: (i for i in x), "what your code returned could not be used"),
    (None, "Not attempted yet"),
    (..., "Not attempted yet"),
    (torch.ones(3), "`double` should be a function, but it is Tensor. Pass a function itself, without calling it."),
    ("double", "does not run as code: NameError"),
    ("def double(x:", "does not run as code: SyntaxError"),
    (CounterOf, "could not be used"),
]


@pytest.mark.parametrize(
    ("candidate", "sentence"), SENTENCES, ids=[getattr(c, "__name__", type(c).__name__) for c, _ in SENTENCES]
)
def test_bad_input_gets_a_sentence(candidate: Any, sentence: str):
    verdict = double.grade(candidate)
    assert sentence in words(verdict)
    assert verdict.score < verdict.max_score


@pytest.mark.parametrize("candidate", [warns, double_of, lambda x: torch.stack([2 * row for row in x]), np.add])
def test_style_costs_nothing(candidate: Any, recwarn: pytest.WarningsRecorder):
    candidate = candidate if candidate is not np.add else (lambda x: torch.from_numpy(np.add(x.numpy(), x.numpy())))
    assert double.grade(candidate).passed
    assert len(recwarn) == 0


def test_text_is_taken_as_source_code():
    assert double.grade("def double(x: Tensor) -> Tensor:\n    return x + x").passed
    assert double.grade("def double(x):\n    raise NotImplementedError").status == "not_attempted"
    assert double.grade("raise NotImplementedError").status == "not_attempted"


def test_a_class_where_a_function_is_wanted_and_the_reverse():
    assert "should be a class, but it is a function" in words(counter.grade(double_of))
    assert "should be a class, but it is int" in words(counter.grade(3))


def test_a_class_with_one_method_missing_earns_the_rest():
    class Counter:
        def __init__(self, start):
            self.start = start

        def add(self, n):
            if self.start == 1:
                raise NotImplementedError
            return self.start + n

    verdict = counter.grade(Counter)
    assert (verdict.status, verdict.score) == ("partial", 1.0)
    assert "not written yet" in words(verdict)


def test_a_library_that_lacks_something_is_not_an_unwritten_answer():
    verdict = double.grade(lambda x: torch.nn.Module()(x))
    assert verdict.status == "error"
    assert "forward" in words(verdict)


class Liar:
    """Answers every question in its own favour."""

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def __repr__(self):
        raise RuntimeError("no")

    def __getattr__(self, name):
        raise RuntimeError("no " + name)

    @property
    def __class__(self):
        raise RuntimeError("no class")


class AlwaysEqual(float):
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1


class LyingTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return torch.zeros(5)


ODD: dict[str, Callable[[], Any]] = {  # made inside the test: pytest itself stumbles over some of them
    "a liar": Liar,
    "gives a liar": lambda: lambda x: Liar(),
    "gives liars by name": lambda: lambda x: {Liar(): Liar()},
    "gives a list of liars": lambda: lambda x: [Liar()] * 5,
    "a number equal to everything": lambda: lambda x: AlwaysEqual(3),
    "a tensor that lies": lambda: lambda x: x.as_subclass(LyingTensor),
    "a class whose constructor returns": lambda: type("NoInit", (), {"__init__": lambda self, *a: 1}),
    "a metaclass": lambda: type("Meta", (type,), {"__call__": lambda cls, *a: Liar()})("Made", (), {}),
    "a list inside itself": lambda: lambda x: (lambda loop: loop.append(loop) or loop)([]),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_objects_earn_nothing_and_break_nothing(kind: str):
    verdict = double.grade(ODD[kind]())
    assert words(verdict)
    assert not verdict.passed


def in_a_thread(work: Callable[[], Any]) -> Any:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(work()), daemon=True)
    thread.start()
    thread.join(30)
    assert got, "the thread never came back"
    return got[0]


@pytest.mark.parametrize("candidate", [for_ever, for_ever_deaf])
def test_a_loop_in_another_thread_is_stopped_too(candidate: Any):
    verdict = in_a_thread(lambda: double.grade(candidate))
    assert "still running after 0.3 s" in words(verdict)


def test_a_right_answer_in_another_thread_passes():
    assert in_a_thread(lambda: double.grade(double_of)).passed


def test_the_time_limit_leaves_no_alarm_behind():
    import signal

    before = signal.getsignal(signal.SIGALRM)
    double.grade(for_ever)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_notebooks_own_settings_stay_and_do_not_matter():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    try:
        assert double.grade(lambda x: x + x + torch.zeros(1) * torch.rand(1)).passed
        assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.rand(1), expected)


def test_a_flood_of_printing_is_bounded():
    def floods(x):
        for _ in range(20_000):
            print("x" * 1000)
        return 2 * x

    assert double.grade(floods).passed


def test_a_later_change_does_not_reach_an_observation():
    shared = torch.zeros(5)

    def reuses(x):
        shared.copy_(2 * x) if x.ndim == 1 else shared.zero_()
        return shared if x.ndim == 1 else 2 * x

    assert double.grade(reuses).passed


def test_waiting_on_a_busy_machine_is_not_a_loop():
    """A limit counts CPU time first: code that waits twice its limit for a processor still passes."""
    import time

    def waits(x):
        time.sleep(0.3)  # stands for a process that gets no processor; two cases make 0.6 s of a limit of 0.3 s
        return 2 * x

    assert double.grade(waits).passed


def test_sleeping_for_ever_is_stopped_in_the_end():
    import time

    def sleeps(x):
        while True:
            time.sleep(0.05)

    assert "so it was stopped" in words(double.grade(sleeps))
