"""How long each lesson's cells run: every solved lesson executed once from top to bottom, as a learner's finished notebook is.

    python -m benchmarks.lesson_times [03 05 ...]

Nothing is cached between lessons but what set-up leaves behind (model, corpus, shipped results); progress is kept nowhere.
Lessons that are not named keep the figures of their last run. Executed notebooks are left in build/lesson_times/.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from typing import Any

import click

from benchmarks._common import RESULTS, ROOT, provenance, write


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("numbers", nargs=-1)
@click.option("--threads", default=os.cpu_count(), show_default=True, help="Threads of the lesson's kernel.")
def main(numbers: tuple[str, ...], threads: int) -> None:
    """Measure, and write benchmarks/results/lesson_times.md and .json."""
    from course_utils import lessons

    kept = RESULTS / "lesson_times.json"
    rows: dict[str, Any] = json.loads(kept.read_text())["lessons"] if kept.exists() else {}
    run = provenance("lesson_times", threads)
    for source in lessons.sources():
        if numbers and source.number not in numbers:
            continue
        rows[source.number] = {**execute(source, threads), "date": run["date"]}
        click.echo(f"{source.number}: {rows[source.number]['seconds']:.0f} s")
        write("lesson_times", table(rows, run), {**run, "lessons": dict(sorted(rows.items()))})


def execute(source: Any, threads: int) -> dict[str, Any]:
    """Run one lesson in a kernel of its own. A cell that fails ends the benchmark: a lesson that does not run has no time."""
    import nbformat

    from course_utils import exercises, lessons
    from course_utils.kernel import Runner

    notebook, lesson = lessons.read_notebook(source.path), exercises.get_lesson(source.number)
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "COURSE_PROGRESS": "off",
            "COURSE_QUICK": "",
        }
        before, started = _children(), time.perf_counter()
        Runner(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute(env=environment)
        seconds, work = time.perf_counter() - started, _children() - before
    out = ROOT / "build" / "lesson_times"
    out.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out / f"{source.number}.ipynb")
    minutes = sum(exercise.minutes for exercise in lesson.exercises)
    return {"title": lesson.title, "minutes": minutes, "seconds": round(seconds, 1), "cpu": round(work, 1)}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(rows: dict[str, Any], run: dict[str, str]) -> str:
    """The Markdown that goes into the report."""
    lines = [
        "## Lessons: time",
        "",
        f"`{run['command']}`: all cells of the solved lesson, one after another, start of the kernel included. {run['machine']}.",
        "",
        "| lesson | exercises, minutes (estimated) | all cells, seconds | CPU seconds | date |",
        "|---|---|---|---|---|",
    ]
    for number, row in sorted(rows.items()):
        lines.append(
            f"| {number} {row['title']} | {row['minutes']} | {row['seconds']:.0f} | {row['cpu']:.0f} | {row['date']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
