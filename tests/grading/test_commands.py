"""`course grade` and `course gradescope-zip` as programs: wrong options are said at once, results are never lost, statuses tell."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import make
import pytest
from click.testing import CliRunner, Result

from course_utils.grading import batch, cluster, commands, gradescope_zip, reports, state


def grade(*arguments: object, registry: str = "demo_lesson") -> Result:
    command = ["--registry", registry, "--jobs", "1", *map(str, arguments)]
    done = CliRunner().invoke(commands.grade, command)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


@pytest.fixture
def ada(tmp_path: Path) -> Path:
    return make.write(tmp_path, "work/ada.ipynb", make.notebook())


@pytest.fixture
def never_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    def grade_anyway(*_: Any) -> None:
        raise AssertionError("grading had begun")

    monkeypatch.setattr(commands, "_run", grade_anyway)


def made_up(*scores: tuple[str, float, float], unreadable: tuple[str, ...] = ()) -> batch.Report:
    """A report of submissions without exercises."""
    keys = {"seconds": 0.0, "flags": [], "notes": [], "exercises": [], "lessons": [], "path": "", "status": "failed"}
    records = [
        {
            "result": {**keys, "id": name, "score": score, "max_score": most},
            "unreadable": name in unreadable,
            "answers": {},
        }
        for name, score, most in scores
    ]
    return batch.Report("none", records)


# -- options -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("never_graded")
@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--timeout", "-1"), "--timeout"),
        (("--timeout", "0"), "--timeout"),
        (("--timeout", "inf"), "--timeout"),
        (("--jobs", "-3"), "--jobs"),
        (("--isolation", "magic"), "unknown isolation magic"),
        (("--lesson", "77"), "there is no lesson '77'; there are: 90"),
        (("--lesson", "02; rm -rf /"), "there are: 90"),
        (("--scheduler", "nonsense"), "they look like tcp://10.0.0.5:8786"),
        (("--scheduler", "tcp://localhost:port"), "they look like"),
        (("--scheduler", "tcp://no-such-machine.invalid:8786"), "no machine is called"),
        (("--registry", "nosuch.module"), "no registry of exercises: No module named 'nosuch'"),
        (("--registry", "json"), "json is no registry of exercises: it has no get, for_lesson, lesson_numbers"),
        (("--registry", ""), "no registry of exercises"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_option_is_said_before_anything_runs(ada: Path, option: tuple[str, str], words: str) -> None:
    done = grade(ada, *option)
    assert done.exit_code in (1, 2)
    assert words in done.output


def test_lessons_are_known_by_short_numbers_too() -> None:
    assert batch.known_lessons(["2", "02", "10"], ["01", "02", "10"]) == ("02", "10")
    with pytest.raises(ValueError, match="'77'; there are: 01, 02"):
        batch.known_lessons(["01", "77"], ["01", "02"])
    with pytest.raises(ValueError, match="there are: 90"):
        batch.Course(batch.Settings(registry="demo_lesson", lessons=("77",)), seed=0)


def test_addresses_of_schedulers() -> None:
    for address in ("tcp://127.0.0.1:8786", "127.0.0.1:8786", "tls://localhost:8786"):
        cluster.check_address(address)
    for address in ("", "localhost", "tcp://localhost", "http://localhost:80", "tcp://localhost:99999", "tcp://:1"):
        with pytest.raises(ValueError, match="scheduler"):
            cluster.check_address(address)


@pytest.mark.parametrize("seed", ["true", "false", "1.0", "-1", '"1"', "null"])
def test_a_seed_is_a_whole_number(tmp_path: Path, seed: str) -> None:
    path = make.write(tmp_path, "seed.json", f'{{"seed": {seed}}}')
    with pytest.raises(state.StateError, match="whole number"):
        state.read_seed_file(path)


def test_gradescopes_zip_takes_lessons_that_there_are(tmp_path: Path) -> None:
    root = tmp_path / "course"
    (root / "course_utils").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt"):
        (root / name).touch()
    made = gradescope_zip.build(tmp_path / "a.zip", root, ("2",))
    assert " --lesson 02 " in zipfile.ZipFile(made).read("run_autograder").decode()
    with pytest.raises(ValueError, match="there are: 01, 02"):
        gradescope_zip.build(tmp_path / "b.zip", root, ("02; rm -rf /",))
    done = CliRunner().invoke(commands.gradescope_zip, [str(tmp_path / "c.zip"), "--lesson", "77"])
    assert done.exit_code == 1
    assert "there is no lesson '77'" in done.output
    assert not list(tmp_path.glob("[bc].zip"))


# -- reports -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("never_graded")
@pytest.mark.parametrize("option", ["--json", "--csv", "--gradescope", "--junit", "--html", "--gradebook"])
def test_a_place_that_cannot_be_written_is_said_before_grading(ada: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    done = grade(ada, option, tmp_path / "file" / "r")
    assert done.exit_code == 1
    assert f"cannot write to {tmp_path / 'file' / 'r'}" in done.output


@pytest.mark.usefixtures("never_graded")
def test_a_file_that_is_no_gradebook_is_said_before_grading(ada: Path, tmp_path: Path) -> None:
    database = make.write(tmp_path, "gradebook.db", "this is not a database, whatever its name says" * 40)
    done = grade(ada, "--gradebook", database)
    assert done.exit_code == 1
    assert "no gradebook" in done.output


def test_one_report_that_fails_does_not_lose_the_others(
    ada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commands, "_run", lambda *_: made_up(("ada", 20, 20)))
    monkeypatch.setattr(reports, "write_json_report", full)
    done = grade(ada, "--json", tmp_path / "r.json", "--csv", tmp_path / "r.csv", "--junit", tmp_path / "r.xml")
    assert done.exit_code == 1
    assert f"{tmp_path / 'r.json'} could not be written: OSError" in done.output
    assert "20/20" in done.output, "the table is shown all the same"
    assert (tmp_path / "r.csv").exists()
    assert (tmp_path / "r.xml").exists()


# -- statuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "percent", "status"),
    [
        (made_up(("ada", 20, 20), ("bob", 0, 20)), 0, 0),
        (made_up(("ada", 12, 20)), 60, 0),
        (made_up(("ada", 11, 20)), 60, 3),
        (made_up(("ada", 20, 20), ("eve", 0, 20), unreadable=("eve",)), 0, 4),
        (made_up(("ada", 20, 20), ("eve", 0, 0)), 60, 4),
    ],
    ids=["graded", "reached", "below", "unreadable", "no points to earn"],
)
def test_the_status_tells_what_happened(
    ada: Path, monkeypatch: pytest.MonkeyPatch, report: batch.Report, percent: float, status: int
) -> None:
    monkeypatch.setattr(commands, "_run", lambda *_: report)
    done = grade(ada, "--fail-under", percent)
    assert done.exit_code == status, done.output
    assert ("eve" in done.stderr) == (status == 4)


def test_nothing_to_earn_is_below_every_threshold() -> None:
    assert not commands._reaches({"score": 0.0, "max_score": 0.0}, 60)


def test_a_short_lesson_number_grades_and_an_unreadable_file_is_told(tmp_path: Path) -> None:
    """The whole way, sandbox and all."""
    make.write(tmp_path, "work/ada.ipynb", make.notebook())
    make.write(tmp_path, "work/eve.ipynb", "{")
    done = grade(tmp_path / "work", "--json", tmp_path / "r.json", "--lesson", "90", "--quiet")
    assert done.exit_code == 4, done.output
    assert "could not be read, or answers no exercise: eve" in done.stderr
    scores = {s["id"]: s["score"] for s in json.loads((tmp_path / "r.json").read_text())["submissions"]}
    assert scores == {"ada": 20, "eve": 0}
    shutil.rmtree(tmp_path / "work")
