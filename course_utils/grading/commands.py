"""The commands `course grade`, `course gradescope-zip` and `course doctor`."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
MAX_TIMEOUT = 86_400.0
BELOW, NOT_GRADED = 3, 4
"""Exit statuses; 1 and 2 are click's own, for what cannot be done and for wrong options."""
REPORTS = ("json_file", "csv_file", "gradescope_file", "junit_file", "html_folder", "gradebook_file")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "json_file", type=FILE, help="Write everything as JSON.")
@click.option("--csv", "csv_file", type=FILE, help="Write one row a submission.")
@click.option(
    "--gradescope", "gradescope_file", type=FILE, help="Write Gradescope's results.json (a folder of them for several)."
)
@click.option("--junit", "junit_file", type=FILE, help="Write JUnit XML.")
@click.option("--html", "html_folder", type=FOLDER, help="Write a feedback page a learner and a class report.")
@click.option(
    "--gradebook",
    "gradebook_file",
    type=FILE,
    help="Write scores into nbgrader's gradebook.db, notebooks to autograded/ beside it.",
)
@click.option(
    "--jobs", type=click.IntRange(min=0), default=0, help="Submissions at a time; 0, the default: one a processor."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=MAX_TIMEOUT),
    default=300.0,
    show_default=True,
    help="Seconds for one submission.",
)
@click.option(
    "--lesson",
    "lessons",
    multiple=True,
    help="Grade for this lesson, such as 02; by default what a submission answers.",
)
@click.option("--require-isolation", is_flag=True, help="Refuse to run where hostile code could not be held.")
@click.option(
    "--isolation", default="auto", show_default=True, help="auto, limits, or layers such as landlock+seccomp."
)
@click.option(
    "--resume", "resume_folder", type=FOLDER, help="Remember finished submissions here; go on with what is left."
)
@click.option(
    "--seed-file",
    type=FILE,
    help="Take the secret seed from this file (made if it is not there): the same seed, the same report.",
)
@click.option(
    "--scheduler", "address", help="Hand the work to the Dask scheduler at this address, such as tcp://10.0.0.5:8786."
)
@click.option(
    "--one-learner",
    is_flag=True,
    help="All files are one learner's: each exercise counts where it is best (Gradescope).",
)
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    default=0.0,
    metavar="PERCENT",
    help="End with status 3 if a submission earns a smaller share of its points (for continuous integration).",
)
@click.option("--registry", default="course_utils.exercises", show_default=True, help="Module with the exercises.")
@click.option("--quiet", is_flag=True, help="No table and no progress bar.")
def grade(paths: tuple[Path, ...], **options: Any) -> None:
    """Grade notebooks, scripts, folders of them, nbgrader's submitted/ tree, or zip files.

    Learner code runs isolated and never decides its own score. A notebook's check() is feedback; this is the grade.

    Ends with status 0 when everything was graded; 1 when grading was not possible or a report could not be written; 3 when
    --fail-under was not reached; 4 when a file could not be read or answers no exercise (the others are graded all the same).
    """
    from course_utils.grading import batch, reports, state, submissions

    options["lessons"] = _checked(options)
    with tempfile.TemporaryDirectory(prefix="course-grade-zip-") as unpacked:
        try:
            found = submissions.find(paths, Path(unpacked))
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from None
        if not found:
            raise click.ClickException("no notebook, script or zip file found there")
        try:
            report = _run(found, options)
        except (state.StateError, batch.IsolationError, OSError) as error:
            raise click.ClickException(str(error)) from None
        except KeyError as error:
            raise click.ClickException(str(error.args[0] if error.args else error)) from None
        except KeyboardInterrupt:
            again = f"; --resume {options['resume_folder']} goes on from here" if options["resume_folder"] else ""
            raise click.ClickException(f"stopped{again}") from None
        unwritten = _write(report, options)
    if not options["quiet"]:
        from rich.console import Console

        Console().print(reports.table(report))
        click.echo(reports.summary(report))
        for note in report.notes:
            click.echo(f"note: {note}")
    if unwritten:
        raise click.ClickException("\n".join(unwritten))
    raise SystemExit(_status(report, options["fail_under"]))


def _status(report: Any, fail_under: float) -> int:
    """The exit status that the results ask for; says which submissions are the cause."""
    ungraded = [r["result"]["id"] for r in report.records if r.get("unreadable") or not r["result"]["max_score"]]
    under = [r["id"] for r in report.results if fail_under and not _reaches(r, fail_under)]
    if ungraded:
        click.echo(f"could not be read, or answers no exercise: {', '.join(ungraded)}", err=True)
    if under:
        click.echo(f"less than {fail_under:g}% of the points: {', '.join(under)}", err=True)
    return NOT_GRADED if ungraded else BELOW if under else 0


def _reaches(result: dict[str, Any], percent: float) -> bool:
    # with no points to earn, nothing was shown: that passes no threshold
    return bool(result["max_score"]) and 100 * result["score"] >= percent * result["max_score"]


def _checked(options: dict[str, Any]) -> tuple[str, ...]:
    """Find what would stop the run before it starts: hours of grading should not end at a slip. Gives the lessons' numbers."""
    from course_utils.grading import batch
    from course_utils.grading.sandbox import client

    try:
        registry = importlib.import_module(options["registry"])
        if missing := [name for name in ("get", "for_lesson", "lesson_numbers") if not hasattr(registry, name)]:
            raise ImportError(f"it has no {', '.join(missing)}")
    except (ImportError, ValueError) as error:
        raise click.ClickException(f"{options['registry']} is no registry of exercises: {error}") from None
    try:
        client.candidates(options["isolation"])
        if options["address"]:
            from course_utils.grading import cluster

            cluster.check_address(options["address"])
        for name in REPORTS:
            if options[name]:
                _check_target(name, options[name])
        return batch.known_lessons(options["lessons"], registry.lesson_numbers())
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _check_target(name: str, target: Path) -> None:
    """Whether a report can be written here; makes the folder it goes to, and opens a gradebook."""
    folder = target if name == "html_folder" else target.absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        if name == "gradebook_file":
            from course_utils.grading import gradebook

            gradebook.check(target)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot write to {target}: {error}") from None


def _run(found: list[Any], options: dict[str, Any]) -> Any:
    from course_utils.grading import batch, state
    from course_utils.grading.sandbox import client, linux

    if not options["address"]:
        client.prepare(optimizers=batch.may_train(options["registry"], found))
    import torch

    torch.set_num_threads(1)  # the children have one thread, and sums depend on it in the last digit
    if linux.IS_LINUX:
        linux.set_dumpable(False)
    seed = state.read_seed_file(options["seed_file"]) if options["seed_file"] else None
    settings = batch.Settings(
        registry=options["registry"],
        lessons=options["lessons"],
        timeout=options["timeout"],
        isolation=options["isolation"],
        require_isolation=options["require_isolation"],
        jobs=options["jobs"],
        seed=seed,
    )
    stream = None
    if options["address"]:
        from course_utils.grading.cluster import ClusterGrader

        stream = ClusterGrader(settings, options["address"])
    folder = options["resume_folder"]
    with (
        state.State(folder) if folder else contextlib.nullcontext() as held,
        _Bar(len(found), options["quiet"]) as bar,
    ):
        return batch.grade(found, settings, held, bar.step, stream)


class _Bar:
    """A progress bar on the terminal's error stream, with the mean so far."""

    def __init__(self, total: int, quiet: bool) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=total, unit="submission", disable=quiet, file=sys.stderr, dynamic_ncols=True)
        self.shares: list[float] = []

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def step(self, submission_id: str, result: dict[str, Any]) -> None:
        if result["max_score"]:
            self.shares.append(result["score"] / result["max_score"])
            self.bar.set_postfix_str(f"mean {100 * sum(self.shares) / len(self.shares):.0f}%", refresh=False)
        self.bar.update()


def _write(report: Any, options: dict[str, Any]) -> list[str]:
    """Write every report asked for. One that fails stops none of the others; gives what went wrong, a line each."""
    problems = []
    for name in REPORTS:
        if options[name]:
            try:
                _write_one(name, options[name], report, options)
            except (
                Exception
            ) as error:  # whatever it is (a full disk, a database's own error): the results exist, save the rest
                problems.append(f"{options[name]} could not be written: {type(error).__name__}: {error}")
    return problems


def _write_one(name: str, target: Path, report: Any, options: dict[str, Any]) -> None:
    from course_utils.grading import gradebook, reports

    if name == "json_file":
        reports.write_json_report(report, target)
    elif name == "csv_file":
        reports.write_csv(report, target)
    elif name == "gradescope_file":
        reports.write_gradescope(report, target, options["one_learner"])
    elif name == "junit_file":
        reports.write_junit(report, target)
    elif name == "html_folder":
        reports.write_html(report, target)
    else:
        gradebook.write(report, target, importlib.import_module(options["registry"]))


@click.command("gradescope-zip", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=FILE, default="autograder.zip")
@click.option(
    "--lesson",
    "lessons",
    multiple=True,
    help="Grade for this lesson, such as 02; by default what a submission answers.",
)
@click.option("--require-isolation", is_flag=True, help="Give no score where hostile code could not be held.")
def gradescope_zip(path: Path, lessons: tuple[str, ...], require_isolation: bool) -> None:
    """Write a Gradescope autograder (setup.sh, run_autograder and the course) as a zip file."""
    from course_utils.grading import gradescope_zip as maker

    root = Path(__file__).resolve().parents[2]
    try:
        made = maker.build(path, root, lessons, require_isolation)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"wrote {made} ({made.stat().st_size >> 20} MB): upload it under Configure Autograder")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
def doctor(as_json: bool) -> None:
    """Say what this system offers for trusted grading, and what is missing. Exit code 1 if hostile code cannot be held."""
    from course_utils.grading import doctor as looks

    findings = looks.examine()
    if as_json:
        click.echo(json.dumps([finding.to_dict() for finding in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{'✓' if finding.ok else '✗'} {finding.name}: {finding.detail}")
            if finding.advice:
                click.echo(f"    {finding.advice}")
        click.echo("\n" + looks.HOLDS)
    raise SystemExit(0 if findings[-1].ok else 1)
