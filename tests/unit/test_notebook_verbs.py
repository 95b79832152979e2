"""`check`, `hint`, `solution`, `progress`, `reset` as a learner meets them: cards, words, one local file, good errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from demo_class import DEMO, DemoClass

from course_utils import check, cli, exercises, hint, lessons, notebook, progress, reset, settings, solution
from course_utils.progress_file import Progress


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The course is the demo lesson alone, in a folder of its own, with a fresh home."""
    monkeypatch.setattr(exercises, "__path__", [str(DEMO)])
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path / "course"))
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    caches = (exercises.get_lesson, settings.root, settings._class_file, lessons.answer_source, lessons.answer_stub)
    for cache in caches:
        cache.cache_clear()
    demo = DemoClass.make(tmp_path / "course")
    yield demo.root
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop("course_utils.exercises.lesson_99", None)


def right(x):
    return np.maximum(x, 0)


class Text(HTMLParser):
    """The words of a page, and whether its tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words, self.open = [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data.split()


def saved(home: Path) -> dict[str, Any]:
    return json.loads((home / "progress.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "candidate", [right, np.abs, lambda x: x[:3], None, lambda x: undefined_name], ids=["right", "mistake", "shape", "none", "error"]
)  # fmt: skip
def test_the_card_and_its_words_say_the_same(course: Path, candidate: Any):
    verdict = check("99.1", candidate)
    html, text = Text(verdict._repr_html_()).words, str(verdict)
    for word in ("99.1", "Rectify", *verdict.explanation.replace("`", "").split()):
        assert word in html
        assert word in text.replace("`", "")
    assert all(case.name in text for case in verdict.cases if not verdict.passed)


def test_learners_text_cannot_become_part_of_the_page(course: Path):
    def evil(x):
        raise ValueError("<script>alert(1)</script><img src=x onerror=alert(1)>")

    html = check("99.1", evil)._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_a_script_prints_the_words(course: Path, capsys: pytest.CaptureFixture):
    check("99.1", right)
    assert "✓ 99.1 Rectify: correct (2/2 points)" in capsys.readouterr().out


def test_check_without_an_answer_says_what_to_pass(course: Path):
    with pytest.raises(TypeError, match=re.escape("check('99.1', relu)")):
        check("99.1")


@pytest.mark.parametrize("exercise_id", ["99.7", "42.1", "", "relu"])
def test_an_unknown_exercise_lists_the_known_ones(course: Path, exercise_id: str):
    with pytest.raises(KeyError, match=r"99"):
        check(exercise_id, right)


def test_hints_go_on_where_no_progress_is_kept(course: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COURSE_PROGRESS", "off")
    monkeypatch.setattr(notebook, "_session", Progress(Path()))
    assert ["Hint 1 of 2" in str(hint("99.1")), "Hint 2 of 2" in str(hint("99.1"))] == [True, True]


def test_progress_shows_this_session_where_none_is_kept(course: Path, monkeypatch: pytest.MonkeyPatch):
    """A run with progress switched off shows neither nothing nor somebody's file."""
    kept = str(progress())
    monkeypatch.setenv("COURSE_PROGRESS", "off")
    monkeypatch.setattr(notebook, "_session", Progress(Path()))
    check("99.1", right)
    assert "1/" in str(progress())
    monkeypatch.delenv("COURSE_PROGRESS")
    assert str(progress()) == kept


def test_hints_go_from_gentle_to_plain(course: Path):
    first, second, again = hint("99.1"), hint("99.1"), hint("99.1")
    assert "Hint 1 of 2" in str(first)
    assert "For more: hint('99.1')" in str(first)
    assert "Hint 2 of 2" in str(second)
    assert "solution('99.1')" in str(second)
    assert str(again) == str(second)
    assert "Hint 1 of 2" in str(hint("99.1", 1))
    assert "Hint 2 of 2" in str(hint("99.1")), "looking back does not lose the place"
    assert "<code>np.maximum</code>" in second._repr_html_()
    with pytest.raises(ValueError, match="hints 1 to 2"):
        hint("99.1", 3)


def test_a_solution_is_the_lessons_own_code(course: Path):
    card = solution("99.1")
    assert "def relu(x):" in str(card)
    assert "secret-of-the-first-exercise" in str(card)
    assert "BEGIN SOLUTION" not in str(card)
    assert Text(card._repr_html_()).words


@pytest.mark.parametrize("how", ["environment", "course.toml"])
def test_a_class_can_switch_solutions_off(course: Path, monkeypatch: pytest.MonkeyPatch, how: str):
    if how == "environment":
        monkeypatch.setenv("COURSE_SOLUTIONS", "off")
    else:
        (course / "course.toml").write_text("solutions = false\n")
    assert str(solution("99.1")) == "Solutions are switched off here.\n  Try hint('99.1')."
    assert "hint" in str(hint("99.1")).lower()


def test_progress_keeps_the_best_and_shows_a_bar_a_lesson(course: Path, tmp_path: Path):
    check("99.1", right)
    check("99.1", np.abs)
    check("99.2", None)
    assert saved(tmp_path / "home") == {
        "99.1": {"attempts": 2, "best": 2.0, "solved": True},
        "99.2": {"attempts": 0, "best": 0.0, "solved": False},
    }
    card = progress()
    assert str(card).startswith("99 A very small lesson")
    assert "████████░░░░░░░░░░░░ 1/2 solved, 2/5 points" in str(card)
    assert 'aria-valuenow="40"' in card._repr_html_()
    assert Text(card._repr_html_()).words


def test_reset_gives_the_starting_code_back_and_forgets_the_score(course: Path, tmp_path: Path):
    lessons.release()
    check("99.1", right)
    card = reset("99.1")
    assert "raise NotImplementedError" in str(card)
    assert "secret" not in str(card)
    assert saved(tmp_path / "home") == {}
    assert exercises.get("99.1").grade(str(card)).status == "not_attempted"


@pytest.mark.parametrize("content", [b'{"99.1": ', b"[1, 2]", b'{"99.1": 3}', b"\xff\xfe\x00", b""])
def test_a_damaged_progress_file_is_put_aside(course: Path, tmp_path: Path, content: bytes):
    home = tmp_path / "home"
    home.mkdir()
    (home / "progress.json").write_bytes(content)
    check("99.1", right)
    assert saved(home)["99.1"]["solved"]
    assert (home / "progress.damaged.json").read_bytes() == content


@pytest.mark.parametrize("entry", [{"best": "two"}, {"hints": None}, {"best": None, "attempts": [], "solved": 3}])
def test_nonsense_inside_the_progress_file_does_no_harm(course: Path, tmp_path: Path, entry: dict):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "progress.json").write_text(json.dumps({"99.1": entry, "00.0": {}}))
    check("99.1", right)
    hint("99.1")
    assert "1/2 solved" in str(progress())


def test_the_progress_file_is_never_half_written(course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check("99.1", right)
    before = (tmp_path / "home" / "progress.json").read_bytes()
    monkeypatch.setattr(
        json, "dump", lambda data, file, **options: file.write("{") and (_ for _ in ()).throw(OSError("disk full"))
    )
    check("99.2", right)
    assert (tmp_path / "home" / "progress.json").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["progress.json"]


def test_a_home_that_cannot_be_written_keeps_nobody_from_learning(course: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "file"))
    assert check("99.1", right).passed
    assert "Hint 1" in str(hint("99.1"))
    assert "0/2 solved" in str(progress())


@pytest.mark.parametrize("setting", [("NBGRADER_EXECUTION", "autograde"), ("COURSE_PROGRESS", "off")])
def test_a_teachers_grading_run_is_not_the_teachers_progress(course: Path, tmp_path: Path, monkeypatch, setting):
    lessons.release()
    monkeypatch.setenv(*setting)
    check("99.1", right)
    hint("99.1")
    reset("99.1")
    assert not (tmp_path / "home").exists()


def test_the_class_can_set_the_seed(course: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[float] = []

    def spy(x):
        seen.append(float(x.ravel()[0]))
        return right(x)

    for seed in ("0", "0", "7"):
        monkeypatch.setenv("COURSE_SEED", seed)
        check("99.1", spy)
    assert seen[:2] == seen[2:4]
    assert seen[4:] != seen[:2]


class Shell:
    """As much of IPython's shell as the guard of the verbs' names needs."""

    def __init__(self, **names: Any) -> None:
        self.user_ns = names


@pytest.mark.parametrize(
    ("cell", "given_back"),
    [
        ('check("99.1", relu)', True),
        ("x = 1\ncheck('99.1', relu)", True),
        ("check(1)", False),
        ("relu(2)", False),
    ],
)
def test_a_notebook_that_gave_check_another_meaning(course: Path, monkeypatch, capsys, cell: str, given_back: bool):
    shell = Shell(check=lambda *a: 99, hint=hint)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    notebook._give_names_back(types.SimpleNamespace(raw_cell=cell))
    assert (shell.user_ns["check"] is check) == given_back
    assert ("gave `check` another meaning" in capsys.readouterr().out) == given_back


def test_feedback_comes_at_once(course: Path):
    """In a fresh Python, the second check (everything loaded, as in a running notebook) costs well under half a second."""
    code = (
        "import time, numpy as np; from course_utils import check; relu = lambda x: np.abs(x); check('99.1', relu);"
        "t = time.process_time(); check('99.1', relu); print(time.process_time() - t)"
    )
    environment = {"PYTHONPATH": str(DEMO), "COURSE_PROGRESS": "off", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < 0.5


def test_progress_reads_what_it_wrote(tmp_path: Path):
    log = Progress(tmp_path / "progress.json")
    log.saw_hint("99.1", 2).saw_hint("99.1", 1).save()
    assert Progress.load(tmp_path / "progress.json").hints_seen("99.1") == 2


@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)])
def test_jupyterlab_starts_for_root_too(monkeypatch: pytest.MonkeyPatch, user: int, allowed: bool):
    called = []
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr("subprocess.call", lambda command, cwd: called.append(command) or 0)
    done = CliRunner().invoke(cli.main, ["lab", "--", "--no-browser"])
    assert done.exit_code == 0, done.output
    assert called[0][1:4] == ["-m", "jupyter", "lab"]
    assert called[0][-1] == "--no-browser"
    assert ("--allow-root" in called[0]) is allowed


def test_jupyterlab_opens_at_a_lesson_with_the_others_in_reach(monkeypatch: pytest.MonkeyPatch):
    called = []
    monkeypatch.setattr("subprocess.call", lambda command, cwd: called.append(command) or 0)
    assert CliRunner().invoke(cli.main, ["lab", "--lesson", "02"]).exit_code == 0
    options = dict(option.split("=", 1) for option in called[0] if "=" in option)
    assert Path(options["--ServerApp.root_dir"]) == settings.root() / "notebooks"
    assert options["--LabApp.default_url"] == "/lab/tree/02_toy_superposition/02_toy_superposition.ipynb"
