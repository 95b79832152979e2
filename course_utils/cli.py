"""The `course` command: learn (check, export, reset, progress), grade, release, train, look. Heavy imports wait for their command."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

# command -> module that defines it; imported only when the command runs, so that `course --help` is quick
ELSEWHERE = {
    "grade": "course_utils.grading.commands",
    "gradescope-zip": "course_utils.grading.commands",
    "doctor": "course_utils.grading.commands",
    "assets": "course_utils.lm.commands",
    "train": "course_utils.lm.commands",
    "dashboard": "course_utils.viz.commands",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ELSEWHERE and importlib.util.find_spec(ELSEWHERE[cmd_name]):
            module = importlib.import_module(ELSEWHERE[cmd_name])
            return getattr(module, cmd_name.replace("-", "_"))
        return super().get_command(ctx, cmd_name)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="superposition-course", prog_name="course")
def main() -> None:
    """The course on superposition and sparse autoencoders: learn, check, grade."""


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
def lessons(as_json: bool) -> None:
    """List the lessons: exercises, points, minutes, and what is graded by hand."""
    rows = [_lesson_row(number) for number in _lesson_numbers()]
    if as_json:
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    width = max(len(row["title"]) for row in rows)
    for row in rows:
        numbers = f"{len(row['exercises']):2} exercises {row['points']:3g} points {row['minutes']:4} min"
        texts = f", {len(row['tasks'])} texts read by a person {row['task_points']:g} points" if row["tasks"] else ""
        click.echo(f"{row['id']}  {row['title']:{width}} {numbers}{texts}")


@main.command()
@click.argument("exercise_id")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Draws other inputs.")
def check(exercise_id: str, path: Path, seed: int) -> None:
    """Check one exercise of a notebook or script, as the notebook would. Runs the file's code in this process.

    Ends with status 0 when the answer is right, 1 otherwise.
    """
    from course_utils import exercises
    from course_utils.grading.local import load_answers
    from course_utils.grading.submissions import BrokenSubmission

    try:
        exercises.get(exercise_id)  # first: a slip in the id should not cost a run of the whole file
        answers = load_answers(path)
    except KeyError as error:
        raise click.ClickException(error.args[0]) from None
    except BrokenSubmission as error:
        raise click.ClickException(f"{path} cannot be read: {error}") from None
    verdict = answers.grade(exercise_id, seed)
    click.echo(str(verdict))
    raise SystemExit(0 if verdict.passed else 1)


@main.command()
@click.option("--lesson", "numbers", multiple=True, help="A lesson's number, such as 02; all by default.")
@click.option(
    "--source", "source_folder", type=click.Path(path_type=Path), help="Also write nbgrader's source tree here."
)
def release(numbers: tuple[str, ...], source_folder: Path | None) -> None:
    """Make the learner's notebooks from solutions/ (through nbgrader). One that somebody worked in is kept, and where is said."""
    from course_utils import lessons as files

    try:
        chosen = files.choose(numbers)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if source_folder:
        files.write_nbgrader_source(source_folder)
        click.echo(f"wrote nbgrader's source tree to {source_folder}")
    for path in files.release([source.number for source in chosen], say=click.echo):
        click.echo(f"wrote {path}")


@main.command()
@click.argument("notebook", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--lesson", "number", default=None, help="The notebook of this lesson; by default 09, the portfolio.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@click.option("--run", "execute", is_flag=True, help="Run the notebook first (the file itself stays as it is).")
@click.option(
    "--zip", "as_zip", is_flag=True, help="Instead, put notebooks into one zip file to hand in: all lessons by default."
)
def export(notebook: Path | None, number: str | None, out: Path | None, execute: bool, as_zip: bool) -> None:
    """Export a notebook as one HTML file that opens anywhere, without a network; or your notebooks as a zip file.

    Examples: `course export`, `course export --lesson 06 --out dashboards.html`, `course export --zip`.
    """
    from course_utils import export as exporting
    from course_utils import lessons as files

    if notebook and number:
        raise click.UsageError("name a notebook or a lesson, not both")
    try:
        if as_zip:
            if execute:
                raise click.UsageError("--run and --zip do not go together: a zip file holds the notebooks as they are")
            one = notebook or (files.learners_notebook(number) if number else None)
            out = out or Path("submission.zip")
            names = exporting.write_zip(
                [one] if one else files.learners_notebooks().values(), out, files.notebooks_folder()
            )
            click.echo(f"wrote {out}: {len(names)} notebook{'s' if len(names) != 1 else ''}: {', '.join(names)}")
            return
        path = notebook or files.learners_notebook(number or "09")
        out = out or Path(f"{path.stem}.html")
        exporting.write_html(path, out, execute)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
    if not execute and not exporting.has_results(path):
        click.echo("Note: this notebook holds no results yet. Run it and save it first, or pass --run.", err=True)


@main.command()
@click.argument("exercise_id")
@click.argument("notebook", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def reset(exercise_id: str, notebook: Path | None) -> None:
    """Put an exercise's starting code back into your notebook and forget its score. A copy of the notebook is kept.

    Example: `course reset 02.3`. Close the notebook in JupyterLab first, or reload it from disk afterwards.
    """
    from course_utils import exercises, settings
    from course_utils import export as exporting
    from course_utils import lessons as files
    from course_utils.progress_file import Progress

    try:
        exercises.get(exercise_id)
        path = notebook or files.learners_notebook(exercise_id.split(".")[0])
        kept = exporting.reset_answer(path, exercise_id)
    except (KeyError, FileNotFoundError, ValueError) as error:
        raise click.ClickException(str(error.args[0] if error.args else error)) from None
    if kept is None:
        click.echo(f"{exercise_id} holds its starting code already.")
        return
    if settings.keeps_progress():
        Progress.load().forget(exercise_id).save()
    click.echo(f"{exercise_id} is as it was at the start in {path}. Before that: {kept}")


@main.command()
def progress() -> None:
    """Show your progress, a bar a lesson."""
    from course_utils import notebook

    notebook.progress()


@main.command()
@click.option("--lesson", "number", default=None, help="Open this lesson, such as 02; the first by default.")
@click.argument("jupyter_options", nargs=-1)
def lab(number: str | None, jupyter_options: tuple[str, ...]) -> None:
    """Open JupyterLab at a lesson; the others are in its file browser."""
    from course_utils import lessons as files
    from course_utils import settings

    folder = files.notebooks_folder()
    try:
        notebook = files.learners_notebook(number or next(iter(files.learners_notebooks()), "01"))
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None
    # not the notebook's name alone: Jupyter would then show its folder and none of the other lessons
    places = [
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.default_url=/lab/tree/{notebook.relative_to(folder).as_posix()}",
    ]
    quiet = [
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
    ]  # asks no network
    # in a container one often is root, and JupyterLab would refuse to start; it listens on loopback, behind a token
    root = ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    command = [sys.executable, "-m", "jupyter", "lab", *places, *quiet, *root, *jupyter_options]
    raise SystemExit(subprocess.call(command, cwd=settings.root()))


def _lesson_numbers() -> list[str]:
    from course_utils import exercises

    return exercises.lesson_numbers()


def _lesson_row(number: str) -> dict[str, Any]:
    from course_utils import exercises

    lesson = exercises.get_lesson(number)
    listed = [
        {
            "id": exercise.id,
            "title": exercise.title,
            "answer": exercise.answer,
            "points": exercise.points,
            "difficulty": exercise.difficulty,
            "importance": exercise.importance,
            "minutes": exercise.minutes,
        }
        for exercise in lesson.exercises
    ]
    return {
        "id": number,
        "title": lesson.title,
        "slug": lesson.slug,
        "points": sum(row["points"] for row in listed),
        "minutes": sum(row["minutes"] for row in listed),
        "exercises": listed,
        "tasks": [{"id": task.id, "title": task.title, "points": task.points} for task in lesson.tasks],
        "task_points": sum(task.points for task in lesson.tasks),
    }


if __name__ == "__main__":
    main()
