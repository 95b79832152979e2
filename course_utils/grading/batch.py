"""Grade many submissions: read them, run their answers in the sandbox, judge what comes back, remember, report.

The trusted side is this process. It holds the seeds, the reference's observations and the judge; learner code runs in children
that send observations and nothing else (`sandbox`, `wire`). A notebook's own `check()` is feedback for its author; this is a grade.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
import signal as signals
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from course_utils.grading import evidence, similarity, submissions, wire
from course_utils.grading.observe import PATIENCE, Observations
from course_utils.grading.sandbox.alarm import OutOfTime, alarm
from course_utils.grading.sandbox.client import Ended, IsolationError, Sandbox, SandboxOptions
from course_utils.grading.sandbox.confine import Limits
from course_utils.grading.state import State, new_seed
from course_utils.grading.submissions import ANSWER, SETUP, BrokenSubmission, Parsed, Submission
from course_utils.grading.verdict import ERROR, FAILED, NOT_ATTEMPTED, PARTIAL, Verdict

COURSE = "course_utils.exercises"
MAX_ATTEMPTS = 8
"""How often a submission is started again without the cell or the answer that ended its process."""
GRACE = 5.0
"""Seconds after a child's own alarm should have rung until it is ended from outside."""
JUDGE_SECONDS = 60.0
PRELOADED = (
    "torch", "numpy", "scipy", "sklearn", "einops", "jaxtyping", "plotly", "pandas", "tqdm", "safetensors", "transformers",
    "transformer_lens", "sae_lens", "IPython", "ipywidgets", "circuitsvis", "course_utils", "matplotlib", "typing", "math",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How a run grades. Everything that can change a score is here, and a resumed run must have the same."""

    registry: str = COURSE
    """Module with `get(id)`, `all()`, `for_lesson(number)` and `lesson_numbers()`."""
    lessons: tuple[str, ...] = ()
    """Grade for these lessons; empty: what each submission answers."""
    timeout: float = 300.0
    """Wall-clock seconds for one submission."""
    cell_seconds: float = 20.0
    """Processor seconds for one cell."""
    memory_mb: int = 3072
    isolation: str = "auto"
    require_isolation: bool = False
    jobs: int = 0
    """Submissions at a time; 0: as many as there are processors."""
    spawn: bool = False
    seed: int | None = None

    def key(self) -> dict[str, Any]:
        """What a resumed run must agree in."""
        left_out = ("jobs", "seed", "isolation", "require_isolation", "spawn")
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k not in left_out}))

    @property
    def slots(self) -> int:
        return self.jobs or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else self.jobs or 2


@dataclass
class Report:
    """What a run found. `records` are plain data, sorted by submission id."""

    isolation: str
    records: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    similar: list[similarity.Pair] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `course grade`."""
        return {"isolation": self.isolation, "submissions": [record["result"] for record in self.records]}

    @property
    def results(self) -> list[dict[str, Any]]:
        return [record["result"] for record in self.records]


# -- one submission ------------------------------------------------------------------------------------------------


class SubmissionRun:
    """One submission on its way: its cells and exercises, what was seen so far, and the next job for the sandbox.

    When its process ends before its time, the step that ended it is left out and the rest is tried again in a fresh one.
    """

    def __init__(self, submission: Submission, course: Course) -> None:
        self.submission, self.course = submission, course
        self.settings = course.settings
        self.deadline = float("inf")
        self.started = 0.0
        self.cpu = 0.0
        self.attempts = 0
        self.done = False
        self.seen: dict[str, Observations] = {}
        self.problems: dict[str, str] = {}
        """Exercise id -> why there is nothing to judge."""
        self.blank: set[str] = set()
        self.cell_errors: dict[int, dict[str, str]] = {}
        self.dead_cells: dict[int, str] = {}
        self.missing: set[str] = set()
        self.dynamic_flags: dict[str, None] = {}
        self.step: int | str | None = None
        self.refused = ""
        try:
            self.parsed = submissions.read(submission.path)
        except BrokenSubmission as error:
            self.parsed = Parsed(digest=submissions.digest(submission.path))
            self.refused = str(error)
        self.numbers = course.lessons_of(self.parsed, submission)
        self.exercises = {exercise.id: exercise for number in self.numbers for exercise in course.for_lesson(number)}
        self.cells = self._cells_to_run()

    def _cells_to_run(self) -> list[submissions.Cell]:
        demos = self.course.released_demos(tuple(self.numbers))
        chosen = []
        for cell in self.parsed.cells:
            if cell.role == submissions.CHECK or evidence.same_text(cell.source) in demos:
                continue
            if cell.role == ANSWER and cell.exercise not in self.exercises:
                continue
            chosen.append(replace(cell, source=submissions.plain_python(cell.source)))
        return chosen

    # -- what the sandbox asks (see sandbox.client.Attempt) ------------------------------------------------------

    def next_job(self) -> bytes | None:
        now = time.monotonic()
        if not self.started:
            self.started = now
        open_exercises = [
            e for e in self.exercises if e not in self.seen and e not in self.problems and e not in self.missing
        ]
        if self.refused or self.done or not open_exercises or self.attempts >= MAX_ATTEMPTS:
            return None
        if now - self.started > self.settings.timeout:
            return None
        self.attempts += 1
        self.step = None
        self._allow(self.settings.cell_seconds)
        job = {
            "cells": [{"role": c.role, "exercise": c.exercise, "source": c.source} for c in self.cells],
            "skip": sorted(self.dead_cells),
            "exercises": [{"id": e, "seed": self.course.seed_for(e)} for e in open_exercises],
            "cell_seconds": self.settings.cell_seconds,
            "packages": sorted(evidence.reference_packages(self.exercises.values())),
        }
        return json.dumps(job).encode()

    def _allow(self, seconds: float) -> None:
        """The child's own alarm counts processor time (waiting on a busy machine is no loop); from outside, the clock counts."""
        self.deadline = min(self.started + self.settings.timeout, time.monotonic() + PATIENCE * seconds + GRACE)

    def on_frame(self, header: dict[str, Any], body: bytes) -> None:
        """Take one message from the child. Everything in it is checked; what does not fit is a WireError."""
        kind = header["kind"]
        if kind == "done":
            self.done = True
        elif kind == "step":
            self._on_step(header)
        elif kind == "cell_error":
            index = self._cell(header)
            texts = {name: header.get(name, "") for name in ("error", "message", "line")}
            if not all(type(text) is str for text in texts.values()):
                raise wire.WireError("an error that is not text")
            message = wire.without_inputs(wire.clean(texts["message"], 400))
            self.cell_errors.setdefault(
                index,
                {"error": wire.clean(texts["error"], 80), "message": message, "line": wire.clean(texts["line"], 300)},
            )
        elif kind == "missing":
            self.missing.add(self._exercise(header))
        elif kind == "observations":
            exercise_id = self._exercise(header)
            observations = wire.decode_observations(header.get("cases"), body)
            self.seen.setdefault(exercise_id, observations)  # the first word counts
            self._note_origin(exercise_id, header)
        else:
            raise wire.WireError("an unknown kind of message")

    def _on_step(self, header: dict[str, Any]) -> None:
        if "cell" in header:
            self.step = self._cell(header)
            self._allow(self.settings.cell_seconds)
        else:
            self.step = self._exercise(header)
            self._allow(self.exercises[self.step].seconds)

    def _cell(self, header: dict[str, Any]) -> int:
        index = header.get("cell")
        if type(index) is not int or not 0 <= index < len(self.cells):
            raise wire.WireError("a cell that does not exist")
        return index

    def _exercise(self, header: dict[str, Any]) -> str:
        exercise_id = header.get("exercise")
        if type(exercise_id) is not str or exercise_id not in self.exercises:
            raise wire.WireError("an exercise that was not asked for")
        return exercise_id

    def _note_origin(self, exercise_id: str, header: dict[str, Any]) -> None:
        origin = header.get("origin")
        if type(origin) is str and origin:
            self.dynamic_flags[f"{exercise_id}: the answer object comes from `{wire.clean(origin, 100)}`"] = None
        if header.get("calls_reference") is True:
            self.dynamic_flags[f"{exercise_id}: the answer calls the reference while it is checked"] = None

    def on_end(self, ended: Ended, broken: str) -> None:
        self.cpu += ended.cpu
        if self.done:
            return
        late = ended.why == "time" or (ended.why == "asked" and not broken)
        reason = self._reason(ended, broken, late)
        if isinstance(self.step, int):
            self.dead_cells[self.step] = reason
        elif self.step is not None and self.step not in self.seen:
            self.problems[self.step] = f"while your answer was being checked, {reason}"
        elif broken or ended.why != "lost":  # a lost worker is not the submission's fault: try again
            self.attempts = MAX_ATTEMPTS  # nothing to blame it on: trying again would give the same
        self._give_up_if_spent(reason)

    def _reason(self, ended: Ended, broken: str, late: bool) -> str:
        if broken:
            return f"the process sent something that is not an observation ({broken})"
        if late:
            return "it did not finish in time, so it was stopped. Is there a loop that never ends?"
        if ended.why == "files":
            return "it wrote more files than a submission needs, so it was stopped"
        if ended.why == "lost":
            return "the process that runs it was ended"
        if ended.signal is not None:
            name = signals.Signals(ended.signal).name if ended.signal in set(signals.Signals) else str(ended.signal)
            hint = " (out of memory or processor time?)" if name in ("SIGKILL", "SIGXCPU") else ""
            return f"the process crashed with {name}{hint}"
        return f"the process ended itself (exit code {ended.code})"

    def _give_up_if_spent(self, reason: str) -> None:
        spent = time.monotonic() - self.started > self.settings.timeout
        if spent or self.attempts >= MAX_ATTEMPTS:
            for exercise_id in self.exercises:
                if exercise_id not in self.seen and exercise_id not in self.missing:
                    more = "the time for this submission was used up" if spent else "the submission was stopped"
                    self.problems.setdefault(exercise_id, f"not reached: {more} ({reason})")

    # -- the outcome ----------------------------------------------------------------------------------------------

    def finish(self) -> dict[str, Any]:
        """Judge, and give the record: the result as reported, and the answers' source for the similarity search."""
        verdicts = [self._verdict(exercise) for exercise in self.exercises.values()]
        score = round(sum(verdict.score for verdict in verdicts), 2)
        max_score = round(sum(verdict.max_score for verdict in verdicts), 2)
        tasks = [task for number in self.numbers for task in self.course.tasks_of(number)]
        notes = [*self.parsed.notes, *self._notes()]
        if tasks and not self.refused:
            total = sum(task.points for task in tasks)
            notes.append(f"{total:g} more points are graded by hand ({tasks[0].id} to {tasks[-1].id}).")
        result = {
            "id": self.submission.label,
            "path": wire.clean(str(self.submission.path), 1000),
            "status": ERROR if self.refused or not verdicts else overall_status(verdicts),
            "score": score,
            "max_score": max_score,
            "seconds": round(time.monotonic() - self.started, 3) if self.started else 0.0,
            "cpu_seconds": round(self.cpu, 3),
            "lessons": self.numbers,
            "notes": [wire.clean(note, 500) for note in notes],
            "flags": [*map(wire.clean, self.dynamic_flags), *self._source_flags()],
            "exercises": [_plain(verdict) for verdict in verdicts],
        }
        if tasks:  # listed, so that nobody takes the score for the whole; their points are not in it
            result["hand_graded"] = [{"id": t.id, "title": t.title, "max_score": t.points} for t in tasks]
        record = {"result": result, "answers": self._answers(), "key": self.course.key_for(self.parsed.digest)}
        return {**record, "unreadable": bool(self.refused)}

    def _verdict(self, exercise: Any) -> Verdict:
        if self.refused:
            return exercise.error_verdict(f"The submission cannot be read: {self.refused}.")
        if exercise.id in self.seen:
            return self._with_cell_error(self._judged(exercise), exercise)
        if exercise.id in self.problems:
            return exercise.error_verdict(_sentence(self.problems[exercise.id]))
        return self._without_object(exercise)

    def _judged(self, exercise: Any) -> Verdict:
        seed = self.course.seed_for(exercise.id)
        try:
            self.course.warm(exercise, seed)  # outside the time limit: the reference's own work is not the learner's
            with alarm(JUDGE_SECONDS):
                return exercise.judge(self.seen[exercise.id], seed)
        except OutOfTime:
            return exercise.error_verdict("What this answer gave could not be judged in reasonable time.")
        except (
            Exception
        ) as error:  # the course's fault, or a hole in the judge: a person has to look, the batch goes on
            self.dynamic_flags[f"{exercise.id}: the judge failed ({type(error).__name__}: {error})"] = None
            return exercise.error_verdict("This answer could not be judged; the grader has been told.")

    def _with_cell_error(self, verdict: Verdict, exercise: Any) -> Verdict:
        said = [self._cell_sentence(index) for index in self._cells_of(exercise.id) if index in self.cell_errors]
        if said and not verdict.passed and verdict.status != NOT_ATTEMPTED:
            return replace(verdict, feedback=[*verdict.feedback, *filter(None, said)])
        return verdict

    def _without_object(self, exercise: Any) -> Verdict:
        """The answer's name was never defined: say why."""
        own = self._cells_of(exercise.id)
        for index in own:
            if index in self.dead_cells:
                return exercise.error_verdict(_sentence(f"the answer cell could not be run: {self.dead_cells[index]}"))
            if index in self.cell_errors:
                if self.cell_errors[index]["error"] == "NotImplementedError":
                    return exercise.blank_verdict()
                return exercise.error_verdict(self._cell_sentence(index))
        if own:
            return exercise.error_verdict(f"The answer cell does not define `{exercise.answer}`.")
        first = next(iter(self.cell_errors), None)
        why = f" {self._cell_sentence(first)}" if first is not None and self.parsed.script else ""
        dead = next(iter(self.dead_cells.values()), "")
        why = why or (_sentence(f" Running the submission: {dead}") if dead and self.parsed.script else "")
        return exercise.error_verdict(f"There is no answer cell for {exercise.id} and no `{exercise.answer}`.{why}")

    def _cells_of(self, exercise_id: str) -> list[int]:
        return [index for index, cell in enumerate(self.cells) if cell.exercise == exercise_id]

    def _cell_sentence(self, index: int) -> str:
        problem = self.cell_errors[index]
        if problem["error"] == "NotImplementedError":
            return ""
        where = f", {problem['line']}" if problem["line"] else ""
        return f"The cell does not run to its end: {problem['error']}: {problem['message']}{where}"

    def _notes(self) -> Iterator[str]:
        if self.refused:
            yield f"The submission cannot be read: {self.refused}."
        if not self.exercises and not self.refused:
            yield "No exercise was recognised in this submission."
        for index, problem in self.cell_errors.items():
            if self.cells[index].role != ANSWER and problem["error"] != "NotImplementedError":
                yield f"A {'set-up' if self.cells[index].role == SETUP else 'further'} cell: {self._cell_sentence(index)}"
        for index, reason in self.dead_cells.items():
            yield f"Cell {index + 1} ({self.cells[index].exercise or self.cells[index].role}) was left out: {reason}."
        for cell in self.parsed.cells:
            exercise = self.exercises.get(cell.exercise)
            if cell.role == submissions.CHECK and exercise and cell.points not in (None, exercise.points):
                yield f"The check cell of {cell.exercise} claims other points; they count for nothing."
            if cell.role == ANSWER and cell.exercise not in self.exercises:
                yield f"There is no exercise {wire.clean(cell.exercise, 20)}; its answer cell was not run."

    def _source_flags(self) -> list[str]:
        return evidence.source_flags(self.parsed, self.exercises.values(), self.course.released(tuple(self.numbers)))

    def _answers(self) -> dict[str, str]:
        """Sources by exercise, for the similarity search; a plain script's text stands under its lesson."""
        found: dict[str, str] = {}
        for cell in self.cells:
            name = cell.exercise or ("script" if self.parsed.script else "")
            if name:
                found[name] = f"{found.get(name, '')}\n{cell.source}"[-20_000:]
        return found


def overall_status(verdicts: list[Verdict]) -> str:
    """One word for a whole submission."""
    statuses = {verdict.status for verdict in verdicts}
    if len(statuses) == 1:
        return statuses.pop()
    if any(verdict.score > 0 for verdict in verdicts):
        return PARTIAL
    return FAILED


def _plain(verdict: Verdict) -> dict[str, Any]:
    data = verdict.to_dict()
    return {**data, "feedback": [wire.clean(str(text), 3000) for text in data["feedback"]]}


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


# -- the exercises -------------------------------------------------------------------------------------------------


def known_lessons(wanted: Iterable[str], numbers: Collection[str]) -> tuple[str, ...]:
    """The numbers asked for, as the registry writes them: `2` is `02`.

    Errors:
        ValueError: a number that the registry does not have; the message lists those it has.
    """
    found = {number: number if number in numbers else number.zfill(2) for number in wanted}
    if unknown := [number for number, known in found.items() if known not in numbers]:
        raise ValueError(f"there is no lesson {', '.join(map(repr, unknown))}; there are: {', '.join(numbers)}")
    return tuple(dict.fromkeys(found.values()))


class Course:
    """The registry in use, with what the trusted side knows about each lesson."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.registry: ModuleType = importlib.import_module(settings.registry)
        self.numbers: list[str] = list(self.registry.lesson_numbers())
        self.asked = known_lessons(settings.lessons, self.numbers)
        self._version = ""

    @functools.cache  # noqa: B019  one Course a run
    def for_lesson(self, number: str) -> list[Any]:
        return list(self.registry.for_lesson(number)) if number in self.numbers else []

    def tasks_of(self, number: str) -> list[Any]:
        """What a person grades in a lesson."""
        if number not in self.numbers or not hasattr(self.registry, "get_lesson"):
            return []
        return list(getattr(self.registry.get_lesson(number), "tasks", []))

    @functools.cache  # noqa: B019
    def warm(self, exercise: Any, seed: int) -> None:
        """Let the exercise work out what it compares with (it keeps that for a seed)."""
        exercise.judge({}, seed)

    @functools.cache  # noqa: B019
    def seed_for(self, exercise_id: str) -> int:
        """A seed of its own for each exercise, so that one that leaks tells nothing about the others."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{exercise_id}".encode()).digest()[:4], "big")

    def lessons_of(self, parsed: Parsed, submission: Submission) -> list[str]:
        if self.asked:
            return list(self.asked)
        marked = {c.exercise.split(".")[0] for c in parsed.cells if c.exercise} & set(self.numbers)
        if marked:
            return sorted(marked)
        name = submission.assignment or submission.id
        named = re.findall(r"(?<!\d)(\d\d)(?!\d)", name.split("/")[-1]) or re.findall(r"(?<!\d)(\d\d)(?!\d)", name)
        if len(self.numbers) == 1:
            return list(self.numbers)
        if any(number in self.numbers for number in named):
            return [next(number for number in named if number in self.numbers)]
        return submissions.lessons_of(parsed, name, [e for n in self.numbers for e in self.for_lesson(n)])

    @functools.cache  # noqa: B019
    def released(self, numbers: tuple[str, ...]) -> frozenset[str]:
        """Texts of the lessons' own cells: nothing in them needs a remark."""
        return frozenset(text for cells in map(self._release, numbers) for role, text in cells if role != ANSWER)

    @functools.cache  # noqa: B019
    def released_demos(self, numbers: tuple[str, ...]) -> frozenset[str]:
        """Texts of the lessons' demonstration cells: they are not run."""
        return frozenset(
            text for cells in map(self._release, numbers) for role, text in cells if role == submissions.ADDED
        )

    @functools.cache  # noqa: B019
    def _release(self, number: str) -> list[tuple[str, str]]:
        if self.settings.registry != COURSE:
            return []
        from course_utils import settings

        root = settings.root()
        files = [*root.glob(f"notebooks/{number}_*/*.ipynb"), *root.glob(f"solutions/{number}_*.py")]
        found = []
        for file in files:
            try:
                cells = submissions.read(file).cells
            except BrokenSubmission:
                continue
            found += [(cell.role, evidence.same_text(cell.source)) for cell in cells]
        return found

    def key_for(self, content_digest: str) -> str:
        """Changes when a submission, the seed, the settings or the exercises do: then it is graded again."""
        text = json.dumps([content_digest, self.seed, self.settings.key(), self.version()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def version(self) -> str:
        if not self._version:
            base = Path(str(self.registry.__file__))
            files = sorted(base.parent.glob("lesson_*.py")) if base.name == "__init__.py" else []
            content = b"".join(file.read_bytes() for file in [base, *files])
            self._version = hashlib.sha256(content).hexdigest()
        return self._version


def needed_lessons(found: list[Submission], course: Course) -> dict[str, str]:
    """Submission id -> first lesson it seems to answer ("" if that is not clear at a glance): a cheap look at the raw bytes."""
    lessons = {}
    for submission in found:
        try:
            raw = submissions.read_bytes(submission.path)
        except BrokenSubmission:
            raw = b""
        marks = re.findall(
            rb'"(?:answer|check)-(\d\d)-\d|(\d\d)\.\d{1,3}-(?:answer|check)|\b(?:answer|check)\s*=\s*"(\d\d)\.', raw
        )
        numbers = sorted({b"".join(mark).decode() for mark in marks} & set(course.numbers))
        lessons[submission.id] = " ".join(numbers)
    return lessons


# -- many submissions ----------------------------------------------------------------------------------------------


class LocalGrader:
    """Grades on this machine, several submissions at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.isolation = ""
        self.notes: list[str] = []

    def __call__(self, found: list[Submission], course: Course) -> Iterator[tuple[Submission, dict[str, Any]]]:
        """Records in the order in which they are ready."""
        glance = needed_lessons(found, course)
        clear = all(glance.values()) or course.asked
        numbers = (
            sorted({n for text in glance.values() for n in text.split()} | set(course.asked))
            if clear
            else course.numbers
        )
        options = sandbox_options(self.settings, course, numbers, found, min(self.settings.slots, max(1, len(found))))
        with Sandbox(options) as sandbox:
            for number in numbers:  # the server imports at the same time
                course.for_lesson(number)
            sandbox.ready(require=self.settings.require_isolation)
            self.isolation, self.notes = sandbox.isolation, list(sandbox.notes)
            # lesson by lesson, so that the reference's observations stay at hand
            ordered = sorted(found, key=lambda submission: (glance[submission.id], submission.id))
            for run in sandbox.run(SubmissionRun(submission, course) for submission in ordered):
                yield run.submission, run.finish()


def sandbox_options(
    settings: Settings, course: Course, numbers: Iterable[str], found: list[Submission], slots: int
) -> SandboxOptions:
    """What the server should import, and what its children may use."""
    exercises = tuple(exercise.id for number in numbers for exercise in course.for_lesson(number))
    options = SandboxOptions(
        registry=settings.registry,
        exercises=exercises,
        preload=("torch", "numpy", *_common_imports(found)),
        optimizers=may_train(settings.registry, found),
        jobs=slots,
        isolation=settings.isolation,
        limits=Limits(memory=settings.memory_mb << 20, cpu=int(settings.timeout * 2) + 10),
        wall=settings.timeout + 2 * GRACE,
        read_only=_model_folders() if settings.registry == COURSE else (),
    )
    return replace(options, spawn=True) if settings.spawn else options


def _model_folders() -> tuple[str, ...]:
    """The rebuilt language model and the like: exercises may need them, so children may read them."""
    from course_utils import settings

    return (str(settings.cache()),) if settings.cache().is_dir() else ()


TRAINS = re.compile(r"\boptim\b|course_utils\.(?:sae|toy|lm|features)\b|from course_utils import")


def may_train(registry: str, found: list[Submission], sample: int = 20) -> bool:
    """Whether answers are likely to make an optimizer: the course's are, others where a text speaks of one."""
    if registry == COURSE:
        return True
    spec = importlib.util.find_spec(registry)
    texts = (
        [Path(spec.origin).read_text(encoding="utf-8")] if spec and spec.origin and Path(spec.origin).is_file() else []
    )
    for submission in found[:sample]:
        with contextlib.suppress(BrokenSubmission):
            texts += [cell.source for cell in submissions.read(submission.path).cells]
    return any(TRAINS.search(text) for text in texts)


def _common_imports(found: list[Submission], sample: int = 20) -> list[str]:
    """Modules that set-up cells import: the server imports them once, so that not every child has to."""
    names: dict[str, None] = {}
    for submission in found[:sample]:
        try:
            cells = submissions.read(submission.path).cells
        except BrokenSubmission:
            continue
        for cell in cells:
            if cell.role == SETUP:
                for match in re.finditer(r"^\s*(?:from|import)\s+([A-Za-z_][\w.]{0,80})", cell.source, re.MULTILINE):
                    if match[1].split(".")[0] in PRELOADED:
                        names[match[1]] = None
    return list(names)[:60]


def grade(
    found: list[Submission],
    settings: Settings,
    state: State | None = None,
    progress: Callable[[str, dict[str, Any]], None] | None = None,
    stream: Any = None,
) -> Report:
    """Grade submissions and give the report; with `state`, finished ones are kept and not graded twice.

    Args:
        found: from `submissions.find`.
        settings: see `Settings`; with `seed=None` a new secret seed is drawn.
        state: where to remember; the seed is remembered too.
        progress: called with (submission id, result) whenever one is finished.
        stream: what does the work; by default `LocalGrader(settings)`, or `cluster.ClusterGrader`.
    """
    seed = state.settle(settings.key(), settings.seed) if state else settings.seed
    course = Course(settings, new_seed() if seed is None else seed)
    stream = stream or LocalGrader(settings)
    records: dict[str, dict[str, Any]] = {}
    to_do = []
    for submission in found:
        held = state.load(submission.id, course.key_for(submissions.digest(submission.path))) if state else None
        if held is None:
            to_do.append(submission)
        else:
            records[submission.id] = held
            if progress:
                progress(submission.id, held["result"])
    if to_do:
        for submission, record in stream(to_do, course):
            if submission.id in records:
                continue  # a cluster may answer twice; the first answer counts
            if state:
                state.save(submission.id, {**record, "isolation": stream.isolation})
            records[submission.id] = {**record, "isolation": stream.isolation}
            if progress:
                progress(submission.id, record["result"])
    return _report(found, records, stream, course)


def _report(found: list[Submission], records: dict[str, dict[str, Any]], stream: Any, course: Course) -> Report:
    ordered = []
    for submission in sorted(found, key=lambda s: s.id):
        record = json.loads(json.dumps(records[submission.id]))  # flags are added to a copy
        record["submission"] = submission
        ordered.append(record)
    numbers = {number for record in ordered for number in record["result"]["lessons"]}
    given = [text for number in sorted(numbers) for _, text in course._release(number)]
    pairs = similarity.find({r["submission"].label: r["answers"] for r in ordered}, given)
    by_id = {record["submission"].label: record["result"] for record in ordered}
    for pair in pairs:
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            by_id[one]["flags"].append(pair.sentence(other))
    isolations = sorted({record.get("isolation") or "limits" for record in ordered})
    return Report(" / ".join(isolations) or "none", ordered, list(stream.notes), pairs)


__all__ = [
    "Course",
    "IsolationError",
    "LocalGrader",
    "Report",
    "Settings",
    "SubmissionRun",
    "grade",
    "known_lessons",
    "needed_lessons",
]
