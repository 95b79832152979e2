"""Where the course's folder is, what `course.toml` and the environment say, and what is said when they say nonsense."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from course_utils import cli, lessons, settings, solution
from course_utils.grading import nbgrader_repair

REPOSITORY = Path(__file__).resolve().parents[2]
LESSON = "02_toy_superposition"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the learner's, on a machine where the package lies in site-packages."""
    for name in ("COURSE_ROOT", "COURSE_SOLUTIONS", "COURSE_SEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "site-packages" / "course_utils" / "settings.py"))
    caches = (settings.root, settings._class_file, lessons.answer_source, lessons.answer_stub)
    for cache in caches:
        cache.cache_clear()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    yield tmp_path / "home"
    for cache in caches:
        cache.cache_clear()


def teachings_handout(folder: Path) -> Path:
    """handout.zip as TEACHING.md makes it, unzipped in `folder`."""
    page = (REPOSITORY / "TEACHING.md").read_text(encoding="utf-8")
    names = re.search(r"^python -m zipfile -c handout.zip (.+)$", page, re.MULTILINE)
    toml = re.search(r"^printf '(.+)' > course.toml$", page, re.MULTILINE)
    assert names
    assert toml
    teacher = folder.parent / "teacher"
    shutil.copytree(REPOSITORY / "notebooks" / LESSON, teacher / "notebooks" / LESSON)
    (teacher / "course.toml").write_text(toml[1].replace("\\n", "\n"))
    command = [sys.executable, "-m", "zipfile", "-c", str(folder / "handout.zip"), *names[1].split()]
    subprocess.run(command, cwd=teacher, check=True)
    shutil.unpack_archive(folder / "handout.zip", folder)
    return folder


def test_the_handout_switches_solutions_off_where_jupyter_starts_the_kernel(elsewhere: Path, monkeypatch):
    handout = teachings_handout(elsewhere)
    monkeypatch.chdir(handout / LESSON)
    assert str(solution("02.3")).startswith("Solutions are switched off here.")
    assert settings.root() == handout


def test_the_handouts_settings_count_where_the_package_lies_in_another_course(elsewhere: Path, monkeypatch):
    """A shared machine: everyone uses the package from one clone of the repository."""
    (elsewhere.parent / "site-packages" / "notebooks").mkdir(parents=True)
    handout = teachings_handout(elsewhere)
    (handout / LESSON / "figures").mkdir()
    monkeypatch.chdir(handout / LESSON / "figures")
    assert settings.root() == handout
    assert not settings.solutions_allowed()


@pytest.mark.parametrize("where", [".", LESSON])
def test_the_commands_work_in_the_handout(elsewhere: Path, monkeypatch, where: str):
    handout = teachings_handout(elsewhere)
    monkeypatch.chdir(handout / where)
    called: list[list[str]] = []
    monkeypatch.setattr("subprocess.call", lambda command, cwd: called.append(command) or 0)
    run = CliRunner().invoke
    for command in (["export", "--lesson", "02"], ["export", "--zip"], ["lab"], ["reset", "02.3"]):
        done = run(cli.main, command)
        assert done.exit_code == 0, done.output
    assert f"--LabApp.default_url=/lab/tree/{LESSON}/{LESSON}.ipynb" in called[0]
    assert f"--ServerApp.root_dir={handout}" in called[0]


def test_a_handout_without_settings_is_found_from_inside_a_lesson(elsewhere: Path, monkeypatch):
    handout = teachings_handout(elsewhere)
    (handout / "course.toml").unlink()
    monkeypatch.chdir(handout / LESSON)
    assert settings.root() == handout
    assert list(lessons.learners_notebooks()) == ["02"]


@pytest.mark.parametrize("text", ["false", '"off"', '"no"', '"False"', "0"])
def test_solutions_are_off_in_every_way_to_say_so(elsewhere: Path, text: str):
    (elsewhere / "course.toml").write_text(f"solutions = {text}\n")
    assert not settings.solutions_allowed()


@pytest.mark.parametrize("text", ["true", '"on"', "1"])
def test_solutions_are_on_in_every_way_to_say_so(elsewhere: Path, text: str):
    (elsewhere / "course.toml").write_text(f"solutions = {text}\n")
    assert settings.solutions_allowed()


@pytest.mark.parametrize("text", ['"of"', "[]", "2", '""'])
def test_a_slip_of_the_pen_shows_no_solution(elsewhere: Path, text: str):
    (elsewhere / "course.toml").write_text(f"solutions = {text}\n")
    with pytest.raises(ValueError, match=r"solutions in .*course\.toml should be true or false"):
        solution("02.3")


@pytest.mark.parametrize(("said", "allowed"), [("off", False), ("NO", False), ("on", True), ("", True)])
def test_the_environment_comes_first(elsewhere: Path, monkeypatch, said: str, allowed: bool):
    (elsewhere / "course.toml").write_text("solutions = true\n")
    monkeypatch.setenv("COURSE_SOLUTIONS", said)
    assert settings.solutions_allowed() == allowed
    monkeypatch.setenv("COURSE_SOLUTIONS", "fof")
    with pytest.raises(ValueError, match="COURSE_SOLUTIONS should be true or false"):
        settings.solutions_allowed()


def test_a_file_that_is_no_toml_is_named_with_the_line(elsewhere: Path):
    (elsewhere / "course.toml").write_text("# class of 2031\nsolutions = nope\n")
    with pytest.raises(ValueError, match=r"course\.toml cannot be read: .*line 2"):
        settings.solutions_allowed()


def test_a_seed_that_is_no_number_is_refused_in_words(elsewhere: Path, monkeypatch):
    from course_utils import check

    monkeypatch.setenv("COURSE_SEED", "abc")
    for use in (lambda: check("02.3", None), lambda: nbgrader_repair.class_seed(elsewhere)):
        with pytest.raises(ValueError, match="COURSE_SEED should be a whole number"):
            use()
    monkeypatch.setenv("COURSE_SEED", "7")
    assert nbgrader_repair.class_seed(elsewhere) == 7
