"""The one definition of an exercise: a probe made of cases, a reference, known mistakes and hints. Everything grades with it.

How to write one (a lesson's module in `course_utils/exercises/lesson_NN.py`):

    lesson = Lesson("02", "Toy models of superposition", slug="02_toy_superposition")

    loss = lesson.exercise(
        3,                                             # becomes id "02.3"
        title="The importance-weighted loss",
        answer="importance_weighted_loss",             # the name the learner's notebook defines
        reference=toy.importance_weighted_loss,        # what is right; a function, a class or a plain value
        points=2, difficulty=2, importance=4, minutes=5,
        hints=("gentle", "plainer", "almost the answer"),
    )

    @loss.case("the loss of a random batch", weight=2)     # a plain phrase: feedback reads "Agrees: the loss of ..."
    def _(f, draw):                                        # f: the candidate; draw: seeded inputs (see observe.Draw)
        return f(draw.uniform(16, 5), draw.uniform(16, 5), draw.uniform(5))

    @loss.case("its gradient", rule=Close(rtol=1e-3))      # rules: Close (default), Exact, Between, or {key: rule}
    def _(f, draw): ...

    @loss.mistake("Importance multiplies the squared error, not the error before squaring.")
    def importance_squared(x, x_hat, importance): ...      # the function's name is the diagnosis

    @loss.alternative                                      # a right answer in another style: must earn full marks
    def with_einsum(x, x_hat, importance): ...

Rules of the house: cases return arrays, numbers, strings, or (nested) dicts and tuples of these. Each case runs by itself,
so one that raises does not hide the others: small cases give partial credit and good feedback. `essential=True` on a case
means that without it nothing is earned. Cases draw inputs only from `draw`, never share state, never contain an expected value.
`measure=f` on a case: the trusted side judges f(values, draw) instead of the raw values, with `draw` giving the same inputs again
(for example: from returned weights to a loss recomputed where the learner's code cannot reach).
A mistake must fail at least one case and behave unlike every other mistake; if it does not, the probe is too weak: add a case.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from course_utils.grading import observe as ob
from course_utils.grading.judge import Close, Rule, case_problem, same_behaviour
from course_utils.grading.observe import Observation, Observations
from course_utils.grading.verdict import ERROR, FAILED, NOT_ATTEMPTED, PARTIAL, PASSED, CaseResult, Verdict

Measure = Callable[[dict[str, Any], ob.Draw], Any]


@dataclass(frozen=True)
class Mistake:
    """A small wrong implementation, and the sentence a learner who wrote it needs to hear."""

    name: str
    candidate: Any
    explanation: str


@dataclass(frozen=True)
class CaseSpec:
    name: str
    run: ob.Case
    weight: float = 1.0
    rule: Rule | Mapping[str, Rule] = field(default_factory=Close)
    essential: bool = False
    measure: Measure | None = None


class Exercise:
    """One exercise. Built by `Lesson.exercise`; see the module's text for how to write one."""

    def __init__(
        self,
        id: str,
        *,
        title: str,
        answer: str,
        reference: Any,
        points: float,
        difficulty: int,
        importance: int,
        minutes: int,
        hints: tuple[str, ...],
        seconds: float = 20.0,
    ) -> None:
        self.id = id
        self.title = title
        self.answer = answer
        self.reference = reference
        self.points = points
        self.difficulty = difficulty
        self.importance = importance
        self.minutes = minutes
        self.hints = tuple(hints)
        self.seconds = seconds
        """Wall-clock limit for one check, in seconds; generous, it only ends loops that never would."""
        self.cases: dict[str, CaseSpec] = {}
        self.mistakes: dict[str, Mistake] = {}
        self.alternatives: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<exercise {self.id} {self.title!r}: {len(self.cases)} cases, {len(self.mistakes)} known mistakes>"

    # -- how a lesson module fills it -------------------------------------------------------------------------

    def case(
        self,
        name: str,
        *,
        weight: float = 1.0,
        rule: Rule | Mapping[str, Rule] | None = None,
        essential: bool = False,
        measure: Measure | None = None,
    ) -> Callable[[ob.Case], ob.Case]:
        """Add one case to the probe. `name` is a plain phrase that feedback quotes."""
        if name in self.cases:
            raise ValueError(f"exercise {self.id} already has a case {name!r}")

        def add(run: ob.Case) -> ob.Case:
            self.cases[name] = CaseSpec(name, run, weight, rule or Close(), essential, measure)
            return run

        return add

    def mistake(self, explanation: str, name: str | None = None) -> Callable[[Any], Any]:
        """Add a known mistake. The decorated object's name is the diagnosis unless `name` is given."""

        def add(candidate: Any) -> Any:
            key = name or candidate.__name__
            if key in self.mistakes:
                raise ValueError(f"exercise {self.id} already has a mistake {key!r}")
            self.mistakes[key] = Mistake(key, candidate, explanation)
            return candidate

        return add

    def alternative(self, candidate: Any, name: str | None = None) -> Any:
        """Add a right answer in another style; tests demand that it earns full marks."""
        self.alternatives[name or candidate.__name__] = candidate
        return candidate

    # -- the probe: untrusted side ----------------------------------------------------------------------------

    def observe(self, candidate: Any, seed: int = 0, *, seconds: float | None = None) -> Observations:
        """Run every case on `candidate` and write down what happens. Never sees an expected value, never raises.

        Args:
            seconds: when to stop it; the exercise's own limit by default.
        """
        if is_blank(candidate):
            blank = Observation(failure=ob.Failure(ob.NOT_ATTEMPTED, "not written yet"))
            return dict.fromkeys(self.cases, blank)
        if wrong := self._wrong_kind(candidate):
            return {name: Observation(failure=ob.Failure(ob.UNREADABLE, wrong)) for name in self.cases}
        seen: Observations = {}
        stopped: Observation | None = None
        with ob.time_limit(self.seconds if seconds is None else seconds):
            for name, spec in self.cases.items():
                if stopped is None:
                    seen[name] = ob.observe_case(spec.run, name, candidate, seed, self.reference)
                    failure = seen[name].failure
                    if failure and failure.kind in (ob.TOO_SLOW, ob.INTERRUPTED):
                        stopped = seen[name]  # the alarm rings once: what is left would not be guarded
                else:
                    seen[name] = stopped
        return seen

    def _wrong_kind(self, candidate: Any) -> str | None:
        if callable(self.reference) and not callable(candidate):
            wanted = "a class" if inspect.isclass(self.reference) else "a function"
            kind = type(candidate).__name__
            return f"`{self.answer}` should be {wanted}, but it is {kind}. Pass {wanted} itself, without calling it."
        if inspect.isclass(self.reference) and inspect.isfunction(candidate):
            return f"`{self.answer}` should be a class, but it is a function."
        return None

    # -- the judge: trusted side ------------------------------------------------------------------------------

    def grade(self, candidate: Any, seed: int = 0) -> Verdict:
        """Observe and judge in this process (feedback, not a trusted grade). Text is taken as the answer's source code."""
        if type(candidate) is str and not isinstance(self.reference, str):
            try:
                candidate = _run_source(candidate, self.answer, self.id)
            except NotImplementedError:
                return self.blank_verdict()
            except Exception as error:
                text = f"the text given as the answer does not run as code: {type(error).__name__}: {error}"
                return self.error_verdict(f"{text}. Pass `{self.answer}` itself, not its name.")
        return self.judge(self.observe(candidate, seed), seed)

    def judge(self, observations: Observations, seed: int = 0) -> Verdict:
        """Compare observations (from any process) with the reference's on the same seed."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # infinities in answers are judged, not warned about
            warnings.simplefilter("ignore")
            return self._judge(observations, seed)

    def _judge(self, observations: Observations, seed: int) -> Verdict:
        missing = Observation(failure=ob.Failure(ob.MISSING, "nothing was recorded for this part"))
        raw = {name: observations.get(name, missing) for name in self.cases}
        if all(seen.failure and seen.failure.kind == ob.NOT_ATTEMPTED for seen in raw.values()):
            return self.blank_verdict()
        got = self._measured(raw, seed)
        want = self._reference_observations(seed)
        results = []
        total = sum(spec.weight for spec in self.cases.values())
        for name, spec in self.cases.items():
            found = case_problem(got[name], want[name], spec.rule)
            worth = self.points * spec.weight / total
            sentence, failure = found or ("", None)
            detail = "\n".join(part for part in (failure.line, failure.shapes) if part) if failure else ""
            results.append(CaseResult(name, found is None, 0.0 if found else worth, worth, sentence, detail))
        mistake = None if all(r.passed for r in results) else self._recognise(got, seed)
        return self._verdict(results, got, mistake)

    def blank_verdict(self) -> Verdict:
        """The verdict for an exercise that still holds its stub."""
        text = f"Not attempted yet. Stuck? `hint({self.id!r})` gives the first of {len(self.hints)} hints."
        return Verdict(self.id, self.title, NOT_ATTEMPTED, 0.0, self.points, feedback=[text], hints=len(self.hints))

    def error_verdict(self, message: str) -> Verdict:
        """The verdict where the answer could not even be looked at: a missing name, a cell that does not run."""
        return Verdict(self.id, self.title, ERROR, 0.0, self.points, feedback=[message], hints=len(self.hints))

    def _verdict(self, results: list[CaseResult], got: Observations, mistake: Mistake | None) -> Verdict:
        passed = all(result.passed for result in results)
        # down to whole hundredths, so that a part never rounds up to the whole
        score = math.floor(100 * sum(result.points for result in results) + 1e-6) / 100
        if any(spec.essential and not r.passed for spec, r in zip(self.cases.values(), results)):
            score = 0.0
        if passed:
            status, score = PASSED, self.points
        elif all(seen.failure for seen in got.values()) and any(_stopped(seen) for seen in got.values()):
            status, score = ERROR, 0.0
        else:
            status = PARTIAL if score > 0 else FAILED
        return Verdict(
            self.id,
            self.title,
            status,
            score,
            self.points,
            mistake.name if mistake else None,
            mistake.explanation if mistake else "",
            tuple(results),
            _sentences(results, mistake),
            len(self.hints),
        )

    def _recognise(self, got: Observations, seed: int) -> Mistake | None:
        for mistake in self.mistakes.values():
            theirs = self._mistake_observations(mistake.name, seed)
            if all(same_behaviour(got[name], theirs[name], spec.rule) for name, spec in self.cases.items()):
                return mistake
        return None

    def _measured(self, raw: Observations, seed: int) -> Observations:
        measured = {}
        for name, seen in raw.items():
            measure = self.cases[name].measure
            if measure is not None and seen.failure is None:
                try:
                    seen = Observation(values=ob.flatten(measure(seen.values, ob.Draw(seed, name))))
                except Exception as error:  # the values come from untrusted code: anything may be wrong with them
                    text = f"what your code returned could not be used ({type(error).__name__}: {error})"
                    seen = Observation(failure=ob.Failure(ob.UNREADABLE, text, type(error).__name__))
            measured[name] = seen
        return measured

    @functools.lru_cache(maxsize=64)  # noqa: B019  exercises live as long as the process
    def _reference_observations(self, seed: int) -> Observations:
        # right by definition, however busy the machine is: a limit could only call it wrong
        return self._measured(self.observe(self.reference, seed, seconds=3600.0), seed)

    @functools.lru_cache(maxsize=256)  # noqa: B019
    def _mistake_observations(self, name: str, seed: int) -> Observations:
        return self._measured(self.observe(self.mistakes[name].candidate, seed), seed)

    # -- what the learner starts from -------------------------------------------------------------------------

    @property
    def stub(self) -> str:
        """The source of the learner's answer cell before any work, as it is released."""
        from course_utils.lessons import answer_stub

        return answer_stub(self.id)


@dataclass(frozen=True)
class Task:
    """Something a person grades: a text the learner writes. In nbgrader a task cell; `course grade` lists it without a score."""

    id: str
    """Such as `"09.r1"`."""
    title: str
    points: float
    criteria: tuple[str, ...] = ()
    """What earns the points; learners see the same list."""


@dataclass
class Lesson:
    """A lesson's exercises in order. `slug` is the name of its file and folder, `02_toy_superposition`."""

    number: str
    title: str
    slug: str
    exercises: list[Exercise] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    """What is graded by hand, in order."""

    def exercise(self, number: int, **kwargs: Any) -> Exercise:
        """Define exercise `number` of this lesson; keyword arguments as in the module's text."""
        exercise = Exercise(f"{self.number}.{number}", **kwargs)
        if any(other.id == exercise.id for other in self.exercises):
            raise ValueError(f"exercise {exercise.id} is defined twice")
        self.exercises.append(exercise)
        return exercise

    def task(self, number: int, title: str, *, points: float = 1.0, criteria: tuple[str, ...] = ()) -> Task:
        """Define hand-graded task `number` of this lesson, `"09.r1"`."""
        task = Task(f"{self.number}.r{number}", title, points, criteria)
        if any(other.id == task.id for other in self.tasks):
            raise ValueError(f"task {task.id} is defined twice")
        self.tasks.append(task)
        return task


def is_blank(candidate: Any) -> bool:
    """Whether an answer is still nothing at all: None or `...`."""
    return candidate is None or candidate is Ellipsis


def _stopped(seen: Observation) -> bool:
    return seen.failure is not None and seen.failure.kind in (ob.RAISED, ob.SIGNATURE, ob.TOO_SLOW, ob.INTERRUPTED)


def _sentences(results: list[CaseResult], mistake: Mistake | None) -> list[str]:
    lines = [mistake.explanation] if mistake else []
    agree = [result.name for result in results if result.passed]
    problems: dict[str, list[CaseResult]] = {}
    for result in results:
        if not result.passed:
            problems.setdefault(result.problem, []).append(result)
    for problem, group in problems.items():
        names = "; ".join(result.name for result in group)
        lines.append(f"{names[0].upper()}{names[1:]}: {problem}")
        if group[0].detail:
            lines.append(group[0].detail)
    if agree:
        lines.append(f"Agrees: {'; '.join(agree)}.")
    return lines


def _run_source(source: str, answer: str, exercise_id: str) -> Any:
    """Run an answer cell's source by itself, with the usual imports at hand, and give back the object it defines."""
    import linecache

    import einops
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    filename = f"<answer {exercise_id}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {
        "torch": torch, "nn": nn, "F": F, "np": np, "Tensor": Tensor, "einops": einops, "math": math,
        "__name__": "answer",
    }  # fmt: skip
    # annotations stay text: names used only in type hints need not exist here
    code = compile("from __future__ import annotations\n" + source, filename, "exec", dont_inherit=True)
    exec(code, namespace)
    return namespace.get(answer)
