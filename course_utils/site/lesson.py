"""One executed lesson as a page: text, code, outputs; each exercise with its facts, hints, and a folded answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from typing import Any

from course_utils import exercises, lessons
from course_utils.grading.exercise import Exercise
from course_utils.grading.feedback import inline_code
from course_utils.site.execute import Run
from course_utils.site.markdown import Converter, code_html
from course_utils.site.outputs import PLOTLY, figure_title, joined, output_html, plain, widget_state

LONG = 14
"""Demonstration code of more lines than this is folded: the figure under it is what the reader came for."""
_BADGE = re.compile(r'^\*Difficulty [^\n]*?hint\("(\d\d\.\d+)"\)`\*$', re.MULTILINE)
_HEADING = re.compile(r'<h([1-4]) id="([^"]*)">(.*?)<a class="anchor"')
_MARKERS = re.compile(r"^[ \t]*### (?:BEGIN|END) SOLUTION[ \t]*\n?", re.MULTILINE)


@dataclass(frozen=True)
class Heading:
    level: int
    anchor: str
    text: str


@dataclass(frozen=True)
class Section:
    """What search looks through: a heading and everything up to the next one."""

    anchor: str
    heading: str
    text: str
    code: str


@dataclass(frozen=True)
class Page:
    """One lesson, rendered."""

    number: str
    title: str
    href: str
    body: str
    about: str
    """The lesson's first sentences, as plain text."""
    headings: list[Heading]
    sections: list[Section]
    exercises: list[Exercise] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    executed: bool = True

    @property
    def points(self) -> float:
        return sum(exercise.points for exercise in self.exercises)

    @property
    def minutes(self) -> int:
        return sum(exercise.minutes for exercise in self.exercises)

    @property
    def time(self) -> str:
        """`1 h 20 min`."""
        hours, minutes = divmod(self.minutes, 60)
        return " ".join(part for part in (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "") if part)


def render(run: Run) -> Page:
    """The page of one lesson."""
    return _Renderer(run).page()


class _Renderer:
    """Walks over a lesson's cells once, gathering the page and what search needs."""

    def __init__(self, run: Run):
        self.run = run
        self.convert = Converter()
        self.widgets = widget_state(run.notebook)
        self.parts: list[str] = []
        self.headings: list[Heading] = []
        self.figures: list[str] = []
        self.sections: list[Section] = []
        # the section being read
        self.anchor, self.heading = "", ""
        self.text: list[str] = []
        self.code: list[str] = []
        self.answer: str | None = None  # the exercise whose answer's fold is still open

    def page(self) -> Page:
        for cell in self.run.notebook.cells:
            if cell.cell_type == "markdown":
                self._markdown(cell)
            elif cell.cell_type == "code" and cell.source.strip():
                self._code(cell)
        self._close_answer()
        self._end_section()
        number = self.run.source.number
        title = next((h.text for h in self.headings if h.level == 1), self.run.source.slug[3:].replace("_", " "))
        known = exercises.for_lesson(number) if number in exercises.lesson_numbers() else []
        return Page(
            number=number,
            title=re.sub(rf"^{number}\W+", "", title),
            href=f"{self.run.source.slug}.html",
            body="\n".join(self.parts),
            about=self._about(),
            headings=self.headings,
            sections=self.sections,
            exercises=known,
            figures=self.figures,
            executed=self.run.executed,
        )

    # -- text ------------------------------------------------------------------------------------------------------

    def _markdown(self, cell: Any) -> None:
        self._close_answer()
        html = self.convert(_BADGE.sub(r"\n<!--facts \1-->\n", cell.source))
        html = re.sub(r"<!--facts (\S+)-->", lambda match: facts_html(exercises.get(match[1])), html)
        if lessons.cell_role(cell)[0] == lessons.WRITTEN:
            summary = "One way to answer, in writing"
            self.parts.append(f'<details class="answer"><summary>{summary}</summary>{html}</details>')
        else:
            self.parts.append(html)
        for piece in re.split(r"(?=<h[1-4] id=)", html):
            if found := _HEADING.match(piece):
                self._end_section()
                self.anchor, self.heading = found[2], plain(found[3])
                self.headings.append(Heading(int(found[1]), self.anchor, self.heading))
                piece = piece[found.end() :].partition("</a>")[2]
            self.text.append(plain(piece))

    def _end_section(self) -> None:
        text, code = " ".join(filter(None, self.text)), "\n".join(self.code)
        if text or code or self.heading:
            self.sections.append(Section(self.anchor, self.heading, text, code))
        self.text, self.code = [], []

    def _about(self) -> str:
        """The first paragraph of the lesson, up to about 220 characters, ending with a sentence."""
        for cell in self.run.notebook.cells:
            if cell.cell_type == "markdown":
                for block in re.findall(r"<p>(.*?)</p>", Converter()(cell.source), re.DOTALL):
                    text = plain(block)
                    if len(text) > 60 and not re.match(r"<(em|img)\b", block.strip()):
                        return _sentences(text, 220)
        return ""

    # -- code ------------------------------------------------------------------------------------------------------

    def _code(self, cell: Any) -> None:
        role, exercise_id = lessons.cell_role(cell)
        self.code.append(_MARKERS.sub("", cell.source))
        outputs = "".join(self._output(output) for output in joined(cell.get("outputs", [])))
        if role == "answer":
            self._close_answer()
            self._open_answer(exercise_id, cell.source, outputs)
        elif role == "check":
            check = f'<p class="label">Its check</p>{code_html(cell.source)}{outputs}'
            if self.answer == exercise_id:
                self.parts.append(check)
                self._close_answer()
            else:
                self.parts.append(f'<details class="check"><summary>Check {exercise_id}</summary>{check}</details>')
        else:
            self._close_answer()
            self.parts.append(self._demonstration(cell.source, role, outputs))

    def _open_answer(self, exercise_id: str, source: str, outputs: str) -> None:
        number = exercise_id.partition(".")[0]
        if number in exercises.lesson_numbers():
            self.parts.append(help_html(exercises.get(exercise_id)))
        if "### BEGIN SOLUTION" in source:
            stub = lessons.without_solution(source)
            self.parts.append(f'<p class="label">Yours to write</p>{code_html(stub)}')
        label = f'Worked answer <span class="soft">to {escape(exercise_id)}, and its check</span>'
        answer = code_html(_MARKERS.sub("", source).rstrip())
        self.parts.append(f'<details class="answer"><summary>{label}</summary>{answer}{outputs}')
        self.answer = exercise_id

    def _close_answer(self) -> None:
        if self.answer is not None:
            self.parts.append("</details>")
            self.answer = None

    def _demonstration(self, source: str, role: str, outputs: str) -> str:
        lines = len(source.splitlines())
        code = code_html(source)
        if role != "setup" and lines <= LONG:
            return f'<div class="cell">{code}</div>{outputs}'
        label = "Set-up" if role == "setup" else "Code"
        return f'<details class="source"><summary>{label} <span class="soft">{lines} lines</span></summary>{code}</details>{outputs}'

    def _output(self, output: Any) -> str:
        value = output.get("data", {}).get(PLOTLY) if output["output_type"] != "stream" else None
        if value:
            head, rest = figure_title(value)
            self.figures.append(head)
            self.text.append(f"{head} {rest}")
        return output_html(output, self.widgets)


def facts_html(exercise: Exercise) -> str:
    """Points, minutes, difficulty and importance of an exercise, on one line."""
    points = f"{exercise.points:g} point{'' if exercise.points == 1 else 's'}"
    return (
        f'<ul class="facts" aria-label="About exercise {exercise.id}"><li><b>{points}</b></li><li>about {exercise.minutes} min</li>'
        f"<li>difficulty {_dots(exercise.difficulty)}</li><li>importance {_dots(exercise.importance)}</li></ul>"
    )


def _dots(n: int) -> str:
    return f'<span class="dots" role="img" aria-label="{n} of 5">{"●" * n}{"○" * (5 - n)}</span>'


def help_html(exercise: Exercise) -> str:
    """Hints, each behind its own fold, and the mistakes that the check knows by name."""
    hints = "".join(
        f"<details><summary>Hint {number}</summary><p>{inline_code(hint)}</p></details>"
        for number, hint in enumerate(exercise.hints, 1)
    )
    mistakes = "".join(f"<li>{inline_code(mistake.explanation)}</li>" for mistake in exercise.mistakes.values())
    count = len(exercise.mistakes)
    known = f"{count} mistake{'' if count == 1 else 's'} the check knows"
    more = f"<details><summary>{known}</summary><ul>{mistakes}</ul></details>" if mistakes else ""
    return f'<div class="help" role="group" aria-label="Help with exercise {exercise.id}">{hints}{more}</div>'


def _sentences(text: str, limit: int) -> str:
    """As many whole sentences as fit; the first one in any case."""
    kept = ""
    for sentence in re.split(r"(?<=[.!?:]) (?=[A-Z])", text):
        if kept and len(kept) + len(sentence) > limit:
            break
        kept = f"{kept} {sentence}".strip()
    return kept
