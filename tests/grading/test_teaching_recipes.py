"""TEACHING.md's other ways to grade, run as written with lesson 02: sandbox, Dask cluster, Gradescope, GitHub Classroom."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import demo_class
import nbformat
import pytest
import yaml
from click.testing import CliRunner
from demo_class import REPOSITORY

from course_utils import cli, exercises, lessons, settings

LESSON = "02_toy_superposition"
POINTS = float(sum(exercise.points for exercise in exercises.for_lesson("02")))
WORKFLOW = REPOSITORY / "teaching" / "github-classroom" / "classroom.yml"
pytestmark = pytest.mark.slow


def recipe(words: str) -> str:
    """The commands of the first block after these words, in the page's part on other ways to grade."""
    part = (REPOSITORY / "TEACHING.md").read_text(encoding="utf-8").split("## Other ways to grade")[1]
    found = re.search(re.escape(words) + r".*?^```bash\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
    assert found, words
    return found[1]


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class as the page's first part leaves it before grading: Ada handed in the solved lesson, Emmy nothing new."""
    root = tmp_path_factory.mktemp("class")
    source = next(source for source in lessons.sources() if source.slug == LESSON)
    for student in ("ada", "emmy"):
        folder = root / "submitted" / student / LESSON
        folder.mkdir(parents=True)
        shutil.copy(source.release_path, folder)
    solved = root / "submitted" / "ada" / LESSON / f"{LESSON}.ipynb"
    nbformat.write(lessons.read_notebook(source.path), solved)
    shutil.copytree(source.release_path.parent, root / "notebooks" / LESSON)
    shutil.copytree(REPOSITORY / "teaching", root / "teaching")
    return root


def run(script: str, folder: Path, *, python: Path | None = None, status: int = 0, **environment: str) -> str:
    """A shell script in `folder`, with the commands of this environment (or of `python`'s) first on the path."""
    commands = (python or Path(sys.executable)).parent
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("COURSE_SEED", "GITHUB_STEP_SUMMARY")},
        "PATH": os.pathsep.join([str(commands), os.environ["PATH"]]),
        "COURSE_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    done = subprocess.run(
        ["bash", "-c", f"set -eo pipefail\n{script}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == status, (script + done.stdout + done.stderr)[-4000:]
    return done.stdout


def typed(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One `course` command as the page has it, in this process, which has imported everything already."""
    program, *arguments = shlex.split(command)
    assert program == "course"
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def scores(file: Path) -> dict[str, float]:
    return {s["id"].split("/")[0]: s["score"] for s in json.loads(file.read_text())["submissions"]}


def test_the_sandbox_and_nbgraders_gradebook(classroom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbgrader.api import Gradebook

    typed(recipe("**Sandboxed, into the same gradebook.**"), classroom, monkeypatch)
    with Gradebook(f"sqlite:///{classroom / 'gradebook.db'}") as book:
        assert {s.student_id: s.score for s in book.assignment_submissions(LESSON)} == {"ada": POINTS, "emmy": 0.0}
    assert (classroom / "report" / "class.html").exists()
    assert "ada" in (classroom / "marks.csv").read_text()


def test_the_cluster(classroom: Path) -> None:
    script = recipe("**On several machines**")
    with socket.socket() as probe:  # the page's port may be taken here
        if probe.connect_ex(("127.0.0.1", 8786)) == 0:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                script = script.replace("8786", str(free.getsockname()[1]))
    run(script, classroom)
    assert scores(classroom / "cluster.json") == {"ada": POINTS, "emmy": 0.0}


def test_gradescope(classroom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zip holds no solution and is the same each time; its own copy of the course grades a submission."""
    typed(recipe("**Gradescope.**"), classroom, monkeypatch)
    (classroom / "autograder.zip").rename(classroom / "before.zip")
    typed(recipe("**Gradescope.**"), classroom, monkeypatch)
    assert (classroom / "autograder.zip").read_bytes() == (classroom / "before.zip").read_bytes()
    with zipfile.ZipFile(classroom / "autograder.zip") as archive:
        names = archive.namelist()
    assert names[:2] == ["setup.sh", "run_autograder"]
    assert not [name for name in names if "solutions/" in name or "__pycache__" in name]
    assert {"course/pyproject.toml", "course/constraints.txt", "course/course_utils/cli.py"} <= set(names)
    run(recipe("To try it first"), classroom, PYTHONPATH=str(classroom / "autograder" / "source" / "course"))
    results = json.loads((classroom / "autograder" / "results" / "results.json").read_text())
    assert results["score"] == POINTS
    assert {test["number"] for test in results["tests"]} == {exercise.id for exercise in exercises.for_lesson("02")}


# -- GitHub Classroom ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's Python that sees every installed package but this course, as a runner with a full cache would."""
    folder = tmp_path_factory.mktemp("runner")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    packages = Path(next(p for p in sys.path if p.endswith("site-packages")))
    (folder / "packages").mkdir()
    for entry in packages.iterdir():
        if "superposition" not in entry.name:
            (folder / "packages" / entry.name).symlink_to(entry)
    python = folder / "venv" / "bin" / "python"
    site = subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    Path(site, "packages.pth").write_text(f"{folder / 'packages'}\n")
    return python


def workflow() -> dict[str, Any]:
    made = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    (job,) = made["jobs"].values()
    return job


def test_the_workflow_has_the_names_that_classroom_looks_for() -> None:
    made = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert made["name"] == "Autograding Tests"
    assert list(made["jobs"]) == ["run-autograding-tests"]
    assert made["permissions"] == {"contents": "read"}


def test_github_classroom(classroom: Path, runner: Path, tmp_path: Path) -> None:
    """The template, then the workflow's own `run:` steps in a learner's repository with one answer missing."""
    from course_utils.grading.gradescope_zip import course_files

    run(recipe("**GitHub Classroom**"), classroom)
    template = classroom / "template"
    assert (template / ".github" / "workflows" / "classroom.yml").read_bytes() == WORKFLOW.read_bytes()
    work = Path(shutil.copytree(template, tmp_path / "work"))
    nb = nbformat.read(classroom / "submitted" / "ada" / LESSON / f"{LESSON}.ipynb", as_version=4)
    demo_class.answer(nb, **{"02.1": exercises.get("02.1").stub})
    nbformat.write(nb, work / LESSON / f"{LESSON}.ipynb")
    for path in course_files(settings.root()):  # what actions/checkout puts there
        target = work / ".course" / path.relative_to(settings.root())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path) if path.stat().st_size > 1 << 20 else shutil.copy(path, target)
    steps = {step["name"]: step["run"] for step in workflow()["steps"] if "run" in step}
    given = {key: value.replace("${{ github.workspace }}", str(work)) for key, value in workflow()["env"].items()}
    given |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    given |= {"GITHUB_STEP_SUMMARY": str(work / "summary.md"), "PYTHONPATH": ""}
    run(steps["Install the course"], work, python=runner, **given)
    where = run("python -I -c 'import course_utils; print(course_utils.__file__)'", work, python=runner)
    assert str(runner.parent.parent) in where, "the runner's own copy"
    earned = POINTS - exercises.get("02.1").points
    status = 3 if 100 * earned < float(given["PASS"]) * POINTS else 0
    run(steps["Grade"], work, python=runner, status=status, **given)
    shown = run(steps["Show the points"], work, python=runner, **given)
    assert f"Points {earned:g}/{POINTS:g}" in shown
    report = json.loads(shown.split("::notice title=Autograding report::")[1].splitlines()[0])
    assert report == {"totalPoints": earned, "maxPoints": POINTS}
    summary = (work / "summary.md").read_text(encoding="utf-8")
    assert "✗ | 02.1 |" in summary
    assert "✓ | 02.2 |" in summary
    assert list((work / "feedback" / "learners").glob("*.html"))
    assert (work / "junit.xml").read_text(encoding="utf-8").count("<testcase") == len(exercises.for_lesson("02"))
