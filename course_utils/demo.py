"""`make demo`: grade the worked solutions and a deliberately flawed submission, print both score cards, write a report.

The flawed submission is made from the solutions: answers are exchanged for known mistakes of the registry, left unwritten,
or broken, so the cards show every kind of verdict. Everything lands in `build/demo/`.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import json
import subprocess
import sys
import textwrap
import types
from html import escape
from pathlib import Path
from typing import Any

import click

from course_utils import exercises, lessons, settings
from course_utils.grading.feedback import COLOURS, LABELS, SYMBOLS, inline_code
from course_utils.io import atomic_write
from course_utils.lessons import Source, cell_role

PLAN = ("right", "mistake", "mistake", "unwritten", "mistake", "right", "broken")
"""What becomes of the exercises of the flawed submission, in turn."""


@click.command()
@click.option("--lesson", "numbers", multiple=True, help="A lesson's number, such as 02; all by default.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder to write to (build/demo).")
def main(numbers: tuple[str, ...], out: Path | None) -> None:
    """Grade the worked solutions and a flawed submission made from them."""
    out = out or settings.root() / "build" / "demo"
    chosen = [source for source in lessons.sources() if not numbers or source.number in numbers]
    if not chosen:
        raise click.ClickException(f"no lesson source in {settings.root() / 'solutions'}")
    graded = {
        "The worked solutions": grade([source.path for source in chosen], out / "solutions.json"),
        "A flawed submission": grade([write_flawed(source, out / "flawed") for source in chosen], out / "flawed.json"),
    }
    for title, result in graded.items():
        click.echo(f"{score_card(title, result)}\n")
    with atomic_write(out / "report.html") as file:
        file.write(report_page(graded))
    click.echo(f"Report: {out / 'report.html'}")


def grade(paths: list[Path], result_file: Path) -> dict[str, Any]:
    """Grade files with `course grade` and give its JSON."""
    result_file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "course_utils.cli", "grade", *map(str, paths), "--json", str(result_file)]
    result_file.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if not result_file.exists():
        raise click.ClickException(f"course grade gave no result:\n{(done.stderr or done.stdout)[-2000:]}")
    return json.loads(result_file.read_text(encoding="utf-8"))


# -- the flawed submission -----------------------------------------------------------------------------------------


def write_flawed(source: Source, folder: Path) -> Path:
    """The lesson as a notebook whose answers follow `PLAN`, as `folder/NN_name.ipynb`."""
    import nbformat

    nb = lessons.read_notebook(source.path)
    known = set(dir(builtins))
    for cell in nb.cells:
        role, exercise_id = cell_role(cell)
        if role == "answer":
            cell.source = flawed_answer(exercise_id, cell.source, known)
        if role in ("setup", "answer"):
            known |= _defined(cell.source)
    path = folder / f"{source.slug}.ipynb"
    with atomic_write(path) as file:
        nbformat.write(nb, file)
    return path


def flawed_answer(exercise_id: str, answer: str, known: set[str]) -> str:
    """The answer cell's text after the plan's turn for this exercise; right where no mistake can stand alone."""
    turn = PLAN[(int(exercise_id.split(".")[1]) - 1) % len(PLAN)]
    name = exercises.get(exercise_id).answer
    if turn == "unwritten":
        return lessons.without_solution(answer)
    if turn == "broken":
        return f"def {name}(*arguments, **named):\n    return arguments[99]"
    if turn == "mistake":
        for mistake in exercises.get(exercise_id).mistakes.values():
            if text := standing_alone(mistake.candidate, name, known):
                return text
    return answer


def standing_alone(candidate: Any, name: str, known: set[str]) -> str | None:
    """A mistake's source under the name that the lesson wants, or None if it needs more than the lesson has defined."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(candidate)))
    except (OSError, TypeError, SyntaxError):
        return None
    if len(tree.body) != 1 or not isinstance(tree.body[0], (ast.FunctionDef, ast.ClassDef)):
        return None
    definition = tree.body[0]
    definition.name, definition.decorator_list = name, []
    text = ast.unparse(tree)
    return text if _needed(compile(text, name, "exec")) <= known | {name} else None


def _needed(code: types.CodeType) -> set[str]:
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    names -= {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}
    names -= {"__name__", "__module__", "__qualname__"}
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return names.union(*map(_needed, inner))


def _defined(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        else:
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


# -- what is shown -------------------------------------------------------------------------------------------------


def score_card(title: str, result: dict[str, Any]) -> str:
    """One score card for the terminal: a line an exercise, and for what is not right the first sentence of feedback."""
    lines = [f"{title}: {_total(result)} points · isolation: {result['isolation']}"]
    for submission in result["submissions"]:
        lines.append(f"  {submission['id']}: {submission['score']:g}/{submission['max_score']:g}")
        for row in submission["exercises"]:
            points = f"{row['score']:g}/{row['max_score']:g}"
            lines.append(
                f"    {SYMBOLS[row['status']]} {row['id']:6} {points:>7}  {LABELS[row['status']]:22} {_say(row)}"
            )
    return "\n".join(line.rstrip() for line in lines)


def report_page(graded: dict[str, dict[str, Any]]) -> str:
    """Both score cards as one HTML file that opens anywhere."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Demo: two submissions, graded</title><style>',
        ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}",
        "table{border-collapse:collapse;width:100%}td,th{padding:.3em .8em .3em 0;text-align:left;vertical-align:top}",
        "tr{border-top:1px solid rgba(127,127,127,.3)}td.n{text-align:right;white-space:nowrap}</style>",
        "<h1>Two submissions, graded</h1>",
    ]
    for title, result in graded.items():
        parts.append(
            f"<h2>{escape(title)}: {_total(result)} points</h2><p>Isolation: {escape(result['isolation'])}</p>"
        )
        for submission in result["submissions"]:
            score = f"{submission['score']:g} / {submission['max_score']:g}"
            parts.append(f"<h3>{escape(submission['id'])}: {score}</h3><table>")
            parts.append("<tr><th>Exercise<th>Points<th>Verdict<th>What it says</tr>")
            parts += map(_row_html, submission["exercises"])
            parts.append("</table>")
    return "\n".join([*parts, "</html>\n"])


def _row_html(row: dict[str, Any]) -> str:
    status, title = row["status"], exercises.get(row["id"]).title
    said = "".join(f"<div>{inline_code(text)}</div>" for text in row["feedback"]) if status != "passed" else ""
    diagnosis = f"<strong>{escape(row['diagnosis'].replace('_', ' '))}</strong>" if row["diagnosis"] else ""
    verdict = f'<span style="color:{COLOURS[status]}">{SYMBOLS[status]} {LABELS[status]}</span>'
    points = f"{row['score']:g} / {row['max_score']:g}"
    return f'<tr><td>{row["id"]} {escape(title)}<td class="n">{points}<td>{verdict}<td>{diagnosis}{said}</tr>'


def _say(row: dict[str, Any]) -> str:
    if row["status"] == "passed" or not row["feedback"]:
        return ""
    first = row["feedback"][0].splitlines()[0]
    return first if len(first) <= 110 else first[:109] + "…"


def _total(result: dict[str, Any]) -> str:
    earned = sum(submission["score"] for submission in result["submissions"])
    return f"{earned:g}/{sum(submission['max_score'] for submission in result['submissions']):g}"


if __name__ == "__main__":
    main()
