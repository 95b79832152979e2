"""How fast trusted grading is: the same submissions through nbgrader, otter-grader and `course grade`, and 1,000 in one run.

    python -m benchmarks.grading_throughput [--submissions 100] [--many 1000] [--otter build/peer_otter/bin/python]

Both graders start from nothing (start-up counts) and grade the same notebooks: ten exercises, each checked on one or two small
tensors. nbgrader runs its own `nbgrader autograde` on the same submissions, with check cells that call the same checks; otter-grader
runs its own `otter run` on some of them, in its own environment, with tests that call the same checks (a test passes or does not).
The course's own lessons are then graded, worked answers against real checks, for CPU seconds a submission.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import click

from benchmarks._common import provenance, write

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "grading"
sys.path.insert(0, str(TESTS))

ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # nbgrader starts alembic
    "PYTHONPATH": str(TESTS),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "COURSE_PROGRESS": "off",
}
CHECK = (
    "import demo_lesson\nv = demo_lesson.get('{id}').grade({name}, seed=3)\n"
    "if not v.score:\n    raise AssertionError(v.feedback)\nfloat(v.score)"
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--submissions", "count", default=100, show_default=True)
@click.option("--many", default=1000, show_default=True, help="Submissions in the run that looks at memory.")
@click.option(
    "--peer", default=100, show_default=True, help="How many of them nbgrader grades (seconds each); 0: none."
)
@click.option("--otter", envvar="COURSE_OTTER_PEER", help="Python of an environment that has otter-grader.")
@click.option("--otter-submissions", default=10, show_default=True, help="How many of them otter-grader grades.")
def main(count: int, many: int, peer: int, otter: str | None, otter_submissions: int) -> None:
    """Measure, and write benchmarks/results/grading_throughput.md and .json."""
    measured: dict[str, Any] = {
        **provenance("grading_throughput"),
        "submissions": count,
        "exercises": 10,
        "processors": len(os.sched_getaffinity(0)),
    }
    with tempfile.TemporaryDirectory(prefix="grading-bench-") as folder:
        course = Path(folder) / "course"
        make_tree(course, count)
        # interleaved: the machine may be busy with other things
        measured["course_grade"] = [ours(course)]
        if peer:
            measured["nbgrader"] = theirs(course, min(peer, count))
        if otter:
            measured["otter"] = otter_run(Path(otter), course, Path(folder) / "otter", min(otter_submissions, count))
        measured["course_grade"].append(ours(course))
        measured["many"] = memory(Path(folder) / "many", many)
    measured["lessons"] = [row for number in lesson_numbers() if (row := lesson(number))]
    report(measured)


def make_tree(course: Path, count: int) -> None:
    """An nbgrader course: source with solved answers, and `count` submissions, a third of them with mistakes."""
    import demo_lesson
    import make

    def with_checks(answers: dict[str, str]) -> str:
        notebook = json.loads(make.notebook(answers))
        kept = []
        for cell in notebook["cells"]:
            marks = cell["metadata"].get("nbgrader", {})
            if marks.get("grade"):
                exercise = demo_lesson.get(marks["grade_id"].removeprefix("check-").replace("-", "."))
                cell["source"] = CHECK.format(id=exercise.id, name=exercise.answer)
            if not cell["source"].startswith("raise SystemExit"):
                kept.append(cell)
        notebook["cells"] = kept
        notebook["metadata"] = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        for number, cell in enumerate(kept):
            cell["id"] = f"cell-{number}"
        return json.dumps(notebook)

    make.write(course / "source" / "demo", "demo.ipynb", with_checks({}))
    (course / "nbgrader_config.py").write_text("c = get_config()\n")
    wrong = list(make.WRONG.items())
    for number in range(count):
        text = with_checks(dict(wrong[: number % 10]) if number % 3 == 0 else {})
        make.write(course / "submitted" / f"s{number:04}" / "demo", "demo.ipynb", text)


OTTER_TEST = """OK_FORMAT = True

test = {{
    "name": "{name}",
    "points": 2,
    "suites": [{{"cases": [{{"code": {code!r}, "hidden": False, "locked": False}}],
                "scored": True, "setup": "", "teardown": "", "type": "doctest"}}],
}}
"""


def otter_run(python: Path, course: Path, folder: Path, count: int) -> dict[str, float]:
    """`otter run` on the first submissions, one after another, as its autograder does: answers only, its tests call our checks."""
    import demo_lesson

    out = folder / "out"
    out.mkdir(parents=True)
    with zipfile.ZipFile(folder / "autograder.zip", "w") as archive:
        archive.writestr("otter_config.json", "{}")
        for exercise in demo_lesson.lesson.exercises:
            call = f"demo_lesson.get('{exercise.id}').grade({exercise.answer}, seed=3).status"
            name = f"q{exercise.id.split('.')[1]}"
            code = f">>> import demo_lesson\n>>> {call}\n'passed'"
            archive.writestr(f"tests/{name}.py", OTTER_TEST.format(name=name, code=code))
    total, scores = {"wall": 0.0, "cpu": 0.0}, []
    environment = {
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT)]),
    }
    for number in range(count):
        notebook = json.loads((course / "submitted" / f"s{number:04}" / "demo" / "demo.ipynb").read_text())
        cells = notebook["cells"]
        notebook["cells"] = [c for c in cells if not c["metadata"].get("nbgrader", {}).get("grade")]
        (folder / "submission.ipynb").write_text(json.dumps(notebook))
        program = str(python.absolute().parent / "otter")
        command = [program, "run", "submission.ipynb", "-a", "autograder.zip", "-o", "out", "--no-logo"]
        found = timed(command, folder, **environment)
        total = {key: total[key] + found[key] for key in total}
        tests = json.loads((out / "results.json").read_text())["tests"]
        scores.append(sum(test.get("score") or 0.0 for test in tests))
    return {**{k: round(v, 2) for k, v in total.items()}, "submissions": count, "mean_score": statistics.mean(scores)}


def timed(command: list[str], cwd: Path, **environment: str) -> dict[str, float]:
    """Wall-clock and processor seconds of a command and all it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env={**ENVIRONMENT, **environment}, capture_output=True, text=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": round(wall, 2), "cpu": round(cpu, 2)}


def ours(course: Path) -> dict[str, float]:
    out = course / "grades.json"
    command = [
        sys.executable,
        "-m",
        "course_utils.cli",
        "grade",
        str(course),
        "--registry",
        "demo_lesson",
        "--quiet",
        "--json",
        str(out),
    ]
    found = timed(command, course)
    data = json.loads(out.read_text())
    scores = [r["score"] for r in data["submissions"]]
    return {**found, "isolation": data["isolation"], "mean_score": statistics.mean(scores)}


def theirs(course: Path, count: int) -> dict[str, float]:
    nbgrader = [sys.executable, "-m", "nbgrader"]
    timed([*nbgrader, "generate_assignment", "demo", "--force"], course)
    chosen = []
    if count < len(list((course / "submitted").iterdir())):
        if count > 10:
            raise click.ClickException("nbgrader grades all of the submissions, or at most 10")
        chosen = [f"--student=s000[0-{count - 1}]"]
    found = timed([*nbgrader, "autograde", "demo", "--force", *chosen], course)
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        scores = [submission.score for submission in book.assignment_submissions("demo")]
    assert len(scores) == count
    return {**found, "submissions": count, "mean_score": statistics.mean(scores)}


def memory(folder: Path, count: int) -> dict[str, Any]:
    """Peak memory of the grader itself over one long run."""
    make_tree(folder, count)
    code = (
        "import resource, sys, json\nfrom pathlib import Path\nfrom course_utils.grading import batch, submissions\n"
        "found = submissions.find([Path(sys.argv[1])], Path(sys.argv[1]) / 'zip')\nsizes = []\n"
        "batch.grade(found, batch.Settings(registry='demo_lesson', seed=1),"
        " progress=lambda *_: sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))\n"
        "print(json.dumps([sizes[min(99, len(sizes) - 1)], sizes[-1], len(sizes)]))"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(done.stderr[-2000:])
    early, late, graded = json.loads(done.stdout)
    return {
        "submissions": graded,
        "wall": round(time.perf_counter() - started, 1),
        "mb_at_100": early,
        "mb_at_end": late,
    }


def lesson_numbers() -> list[str]:
    from course_utils import exercises

    return exercises.lesson_numbers()


def lesson(number: str, copies: int = 4) -> dict[str, Any] | None:
    """A lesson's worked answers as submissions: CPU seconds of one child, real checks."""
    from course_utils import exercises
    from course_utils.lessons import sources

    source = next((source for source in sources() if source.number == number), None)
    if source is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for copy in range(copies):
            (Path(folder) / f"{source.slug}_{copy}.py").write_bytes(source.path.read_bytes())
        out = Path(folder) / "r.json"
        timed([sys.executable, "-m", "course_utils.cli", "grade", folder, "--quiet", "--json", str(out)], ROOT)
        rows = json.loads(out.read_text())["submissions"]
    cpu = statistics.median(row["cpu_seconds"] for row in rows)
    return {
        "lesson": number,
        "exercises": len(exercises.for_lesson(number)),
        "cpu": cpu,
        "score": rows[0]["score"],
        "max_score": rows[0]["max_score"],
    }


def report(measured: dict[str, Any]) -> None:
    count = measured["submissions"]
    ours_ = measured["course_grade"]
    best = {key: statistics.mean(run[key] for run in ours_) for key in ("wall", "cpu")}
    lines = [
        "## Trusted grading: throughput",
        "",
        f"`{measured['command']}`, {measured['date']}: the same {count} submissions of {measured['exercises']} cheap checks, start-up "
        f"included. {measured['machine']}. Isolation of `course grade`: {ours_[0]['isolation']}.",
        "",
        "| grader | wall s | CPU s | CPU s a submission | mean score | times nbgrader (wall) | (CPU) |",
        "|---|---|---|---|---|---|---|",
    ]
    peer = measured.get("nbgrader")
    for run in ours_:
        ratio = "- | -"
        if peer:  # a submission's share of the time, start-up included on both sides
            wall, cpu = (peer[key] / peer["submissions"] * count / run[key] for key in ("wall", "cpu"))
            ratio = f"{wall:.0f} | {cpu:.0f}"
        each = f"{run['cpu'] / count:.3f} | {run['mean_score']:.2f}"
        lines.append(f"| course grade, {count} submissions | {run['wall']:.1f} | {run['cpu']:.1f} | {each} | {ratio} |")
    if peer:
        each = f"{peer['cpu'] / peer['submissions']:.3f} | {peer['mean_score']:.2f}"
        name = f"nbgrader autograde, {peer['submissions']} of them"
        lines.append(f"| {name} | {peer['wall']:.1f} | {peer['cpu']:.1f} | {each} | 1 | 1 |")
    if other := measured.get("otter"):
        each = f"{other['cpu'] / other['submissions']:.3f} | {other['mean_score']:.2f}"
        ratio = "- | -"
        if peer:
            wall, cpu = (
                peer[key] / peer["submissions"] / (other[key] / other["submissions"]) for key in ("wall", "cpu")
            )
            ratio = f"{wall:.1f} | {cpu:.1f}"
        name = f"otter run, {other['submissions']} of them"
        lines.append(f"| {name} | {other['wall']:.1f} | {other['cpu']:.1f} | {each} | {ratio} |")
    else:
        lines += ["", "otter-grader was not there (`--otter`)."]
    many = measured["many"]
    lines += [
        "",
        f"{many['submissions']} submissions in one run: {many['wall']:.0f} s; the grader's peak memory is {many['mb_at_100']} MB after 100 "
        f"of them and {many['mb_at_end']} MB at the end.",
    ]
    if measured["lessons"]:
        lines += [
            "",
            "A whole lesson's real checks on its worked answers:",
            "",
            "| lesson | exercises | CPU s a submission | points |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['lesson']} | {row['exercises']} | {row['cpu']:.2f} | {row['score']:g}/{row['max_score']:g} |"
            for row in measured["lessons"]
        ]
    print("\n".join(lines), f"\n(mean of ours: {best})")
    write("grading_throughput", "\n".join(lines), measured)


if __name__ == "__main__":
    main()
