"""The four verbs a learner uses in a notebook: `check`, `hint`, `solution`, `progress`; and `reset` for a fresh start."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from course_utils import exercises, settings
from course_utils.grading.verdict import Verdict
from course_utils.progress_file import Progress


@dataclass(frozen=True)
class Card:
    """Something to show: HTML for a notebook, the same in plain text for a terminal or a screen reader."""

    text: str
    html: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


_NOTHING = object()


def check(exercise_id: str, candidate: Any = _NOTHING, *, seed: int | None = None) -> Verdict:
    """Check an answer now and say what agrees, what does not, and why. Feedback for you; it is sent nowhere.

    Args:
        exercise_id: such as `"02.3"`; it stands in the exercise's heading.
        candidate: your function, class or value, as the lesson's check cell passes it.
        seed: draws other inputs; the default is the same every time.

    Returns:
        A verdict. A notebook shows it as a card; `str(verdict)` gives the same in words; `float(verdict)` the points.
    """
    exercise = exercises.get(exercise_id)
    if candidate is _NOTHING:
        raise TypeError(f"check({exercise_id!r}, ...) needs your answer: check({exercise_id!r}, {exercise.answer})")
    if seed is None:
        seed = settings.seed() or 0
    verdict = exercise.grade(candidate, seed)
    _keep(_log().record(verdict))
    return _show(verdict)


_session = Progress(Path())
"""This process's progress, where none is kept on disk (`COURSE_PROGRESS=off`, autograding)."""


def _log() -> Progress:
    return Progress.load() if settings.keeps_progress() else _session


def _keep(log: Progress) -> None:
    if log is not _session:
        log.save()


def hint(exercise_id: str, number: int | None = None) -> Card:
    """The next hint for an exercise: gentle at first, plainer with each call. `number=1` shows the first again."""
    exercise = exercises.get(exercise_id)
    if not exercise.hints:
        return _show(_text_card(f"{exercise_id} has no hints.", ""))
    log = _log()
    if number is None:
        number = min(log.hints_seen(exercise_id) + 1, len(exercise.hints))
    if not 1 <= number <= len(exercise.hints):
        raise ValueError(f"{exercise_id} has hints 1 to {len(exercise.hints)}; there is no hint {number}")
    _keep(log.saw_hint(exercise_id, number))
    last = number == len(exercise.hints)
    more = f"Last hint. solution({exercise_id!r}) shows the answer." if last else f"For more: hint({exercise_id!r})"
    title = f"Hint {number} of {len(exercise.hints)} · {exercise_id} {exercise.title}"
    return _show(_text_card(title, exercise.hints[number - 1], more))


def solution(exercise_id: str) -> Card:
    """The worked answer and why it is right. A class can switch this off (`solutions = false` in course.toml)."""
    exercise = exercises.get(exercise_id)
    if not settings.solutions_allowed():
        return _show(_text_card("Solutions are switched off here.", f"Try hint({exercise_id!r})."))
    from course_utils.lessons import answer_source

    source = answer_source(exercise_id)
    html = (
        f"<details open><summary><strong>Solution · {escape(exercise_id)} {escape(exercise.title)}</strong></summary>"
        f'<pre style="padding:.6em .8em;background:rgba(127,127,127,.1);border-radius:4px">{escape(source)}</pre>'
        "</details>"
    )
    return _show(Card(f"Solution · {exercise_id} {exercise.title}\n\n{source}", html))


def progress() -> Card:
    """Where you stand: a bar for each lesson, from one local file. Best scores count."""
    log = _log()
    rows = []
    for number in exercises.lesson_numbers():
        lesson = exercises.get_lesson(number)
        earned = sum(log.best(exercise.id) for exercise in lesson.exercises)
        solved = sum(log.solved(exercise.id) for exercise in lesson.exercises)
        total = sum(exercise.points for exercise in lesson.exercises)
        rows.append((f"{number} {lesson.title}", solved, len(lesson.exercises), earned, total))
    return _show(Card(_progress_text(rows), _progress_html(rows)))


def reset(exercise_id: str) -> Card:
    """The exercise's starting code, ready to paste over your answer cell; its recorded score is forgotten."""
    exercise = exercises.get(exercise_id)
    stub = exercise.stub  # first: where there is none, the score stays
    _keep(_log().forget(exercise_id))
    html = f"<p>Starting code of <strong>{escape(exercise_id)}</strong>:</p><pre>{escape(stub)}</pre>"
    return _show(Card(stub, html))


def _text_card(title: str, body: str, footer: str = "") -> Card:
    from course_utils.grading.feedback import inline_code

    html = (
        '<div role="note" style="border-left:4px solid #0072b2;padding:.5em .9em;margin:.3em 0;'
        'font-family:system-ui,sans-serif;font-size:14px;line-height:1.45;max-width:60em">'
        f"<div><strong>{escape(title)}</strong></div><div>{inline_code(body)}</div>"
        f'<div style="opacity:.7">{inline_code(footer)}</div></div>'
    )
    return Card(
        "\n".join(part for part in (title, f"  {body}" if body else "", f"  {footer}" if footer else "") if part), html
    )


def _progress_text(rows: list[tuple[str, int, int, float, float]]) -> str:
    lines = []
    for name, solved, count, earned, total in rows:
        filled = round(20 * earned / total) if total else 0
        lines.append(
            f"{name[:44]:44} {'█' * filled}{'░' * (20 - filled)} {solved}/{count} solved, {earned:g}/{total:g} points"
        )
    return "\n".join(lines) or "No lessons found."


def _progress_html(rows: list[tuple[str, int, int, float, float]]) -> str:
    cells = []
    for name, solved, count, earned, total in rows:
        share = 100 * earned / total if total else 0
        cells.append(
            f'<tr><td style="text-align:left">{escape(name)}</td>'
            f'<td><div role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100" '
            f'aria-label="{escape(name)}" style="width:14em;background:rgba(127,127,127,.25);border-radius:4px">'
            f'<div style="width:{share:.0f}%;height:.8em;background:#0f7b6c;border-radius:4px"></div></div></td>'
            f"<td>{solved}/{count} solved</td><td>{earned:g}/{total:g} points</td></tr>"
        )
    return f"<table>{''.join(cells)}</table>"


def _show(card: Any) -> Any:
    """Notebooks and IPython display what a cell returns; a plain script shows nothing by itself, so print there."""
    if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
        print(card)
    return card


_CALL = re.compile(r"""^\s*(check|hint|solution|reset)\(\s*["']\d\d\.\d""", re.MULTILINE)


def _give_names_back(info: Any) -> None:
    """Before a cell such as `check("02.3", ...)` runs: make sure the name means the course's verb, and say so if it did not."""
    shell = sys.modules["IPython"].get_ipython()
    for name in sorted(set(_CALL.findall(info.raw_cell or ""))):
        ours = globals()[name]
        if shell.user_ns.get(name, ours) is not ours:
            shell.user_ns[name] = ours
            print(f"Your notebook gave `{name}` another meaning; from here on it is the course's `{name}` again.")


def _watch_names() -> None:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.events.register("pre_run_cell", _give_names_back)


_watch_names()
