"""Grading one's own files in this process: `course check` and `pytest tests/exercises --submission`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from demo_class import DEMO, REPOSITORY, RIGHT

from course_utils import cli, exercises
from course_utils.grading.local import load_answers

SETUP = '# %% tags=["setup"]\nimport numpy as np\n'
SQUARED = "def unit_rows(x):\n    n = (x**2).sum(1, keepdims=True)\n    return x / np.where(n == 0, 1, n)"
STUB = "def unit_rows(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()"


def script(path: Path, setup: str = SETUP, **answers: str) -> Path:
    cells = [f'# %% answer="{exercise_id}"\n{source}\n' for exercise_id, source in answers.items()]
    path.write_text("\n".join([setup, *cells]), encoding="utf-8")
    return path


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The demo lesson is in the registry."""
    monkeypatch.setattr(exercises, "__path__", [str(DEMO)])
    exercises.get_lesson.cache_clear()
    yield
    exercises.get_lesson.cache_clear()
    sys.modules.pop("course_utils.exercises.lesson_99", None)


def check(exercise_id: str, path: Path) -> Result:
    done = CliRunner().invoke(cli.main, ["check", exercise_id, str(path)])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


# -- course check --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (RIGHT["99.2"], 0, "correct"),
        (SQUARED, 1, "root of the sum of squares"),
        (STUB, 1, "not attempted"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import sys\nsys.exit(3)", 1, "SystemExit: 3"),
    ],
    ids=["right", "known mistake", "stub", "raises", "exits"],
)
def test_check_says_the_verdict_and_ends_with_it(tmp_path: Path, answer: str, status: int, words: str):
    done = check("99.2", script(tmp_path / "ada.py", **{"99.2": answer}))
    assert done.exit_code == status
    assert words in done.output


@pytest.mark.usefixtures("demo")
def test_an_unknown_exercise_is_said_before_the_file_runs(tmp_path: Path):
    ran = tmp_path / "ran"
    done = check("99.7", script(tmp_path / "ada.py", f"{SETUP}open({str(ran)!r}, 'w')\n", **RIGHT))
    assert done.exit_code == 1
    assert "99.1, 99.2" in done.output
    assert not ran.exists()


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"cells": 3}', '{"worksheets": []}'])
def test_a_broken_notebook_is_said_in_words(tmp_path: Path, text: str):
    path = tmp_path / "ada.ipynb"
    path.write_text(text, encoding="utf-8")
    done = check("99.1", path)
    assert done.exit_code == 1
    assert "ada.ipynb cannot be read" in done.output


@pytest.mark.usefixtures("demo")
def test_a_set_up_cells_error_leads(tmp_path: Path):
    path = script(tmp_path / "ada.py", '# %% tags=["setup"]\nimport numpi as np\n', **RIGHT)
    lines = check("99.1", path).output.splitlines()
    assert "a set-up cell does not run to its end: ModuleNotFoundError: No module named 'numpi'" in lines[1]
    assert "NameError" in "".join(lines[2:])


@pytest.mark.usefixtures("demo")
def test_a_script_that_exits_says_so(tmp_path: Path):
    path = tmp_path / "ada.py"
    path.write_text("import sys\nsys.exit(3)\n" + RIGHT["99.1"], encoding="utf-8")
    done = check("99.1", path)
    assert "the script does not run to its end: it ends the program (SystemExit: 3)" in done.output


@pytest.mark.usefixtures("demo")
def test_lines_that_only_look_like_magic_stay(tmp_path: Path):
    source = RIGHT["99.1"] + "\nremainder = (7\n    % 4)\nassert remainder == 3"
    assert load_answers(script(tmp_path / "a.py", **{"99.1": source})).grade("99.1").passed
    magic = "%matplotlib inline\n!ls\n" + RIGHT["99.1"]
    assert load_answers(script(tmp_path / "b.py", **{"99.1": magic})).grade("99.1").passed


# -- pytest tests/exercises --submission ---------------------------------------------------------------------------


def submission_tests(*paths: Path) -> subprocess.CompletedProcess[str]:
    options = [part for path in paths for part in ("--submission", str(path))]
    command = [sys.executable, "-m", "pytest", "-n0", "-vv", "-rs", "-p", "no:randomly", "tests/exercises", *options]
    environment = {**os.environ, "PYTHONPATH": str(DEMO), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)


def test_a_right_submission_passes_one_test_an_exercise(tmp_path: Path):
    done = submission_tests(script(tmp_path / "ada.py", **RIGHT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "test_exercise[99.1] PASSED" in done.stdout


def test_flawed_unwritten_and_broken_submissions_in_a_folder(tmp_path: Path):
    script(tmp_path / "flawed.py", **{"99.1": "import os\nos.relu", "99.2": SQUARED})
    script(tmp_path / "stub.py", **{"99.2": STUB})
    (tmp_path / "broken.ipynb").write_text("{", encoding="utf-8")
    done = submission_tests(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    for words in (
        "test_exercise[flawed:99.2] FAILED",
        "The length is the root of the sum of squares.",
        "the answer cell does not run: AttributeError",
        "stub.py has no answer cell for 99.1",
        "broken cannot be read",
        "4 failed, 1 skipped",
    ):
        assert words in done.stdout
    assert "Traceback" not in done.stdout


def test_a_missing_submission_is_a_usage_error(tmp_path: Path):
    done = submission_tests(tmp_path / "nowhere.ipynb")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "nowhere.ipynb" in done.stderr


def test_a_file_without_exercises_does_not_pass(tmp_path: Path):
    path = tmp_path / "empty.ipynb"
    path.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    done = submission_tests(path)
    assert done.returncode == 1
    assert "no exercise was recognised in empty" in done.stdout
