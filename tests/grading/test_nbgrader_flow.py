"""A class through nbgrader, from release to exported grades: what each kind of submission earns and is told."""

from __future__ import annotations

import copy
import csv
import re
import socket
from typing import Any

import nbformat
import pytest
import requests
from demo_class import RIGHT, SLUG, DemoClass, answer, cell_of
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

FULL = 5.0


def correct(nb: Any) -> None:
    answer(nb, **RIGHT)


def partly(nb: Any) -> None:
    answer(
        nb, **{"99.1": RIGHT["99.1"], "99.2": "def unit_rows(x):\n    return x / np.linalg.norm(x, axis=1)[:, None]"}
    )


def with_warnings(nb: Any) -> None:
    noisy = (
        "import logging, os, sys, warnings\n"
        "handler = logging.StreamHandler(sys.stderr)\n"
        "logging.getLogger('noisy').addHandler(handler)\n"
        "def relu(x):\n"
        "    print('working'); print('careful', file=sys.stderr); warnings.warn('deprecated')\n"
        "    logging.getLogger('noisy').warning('a handler that kept the real stderr')\n"
        "    os.write(2, b'straight to the file descriptor')\n"
        "    return np.maximum(x, 0)\n"
    )
    answer(nb, **{**RIGHT, "99.1": noisy})


def with_copied_check(nb: Any) -> None:
    correct(nb)
    original = cell_of(nb, "check-99-1")
    twin = copy.deepcopy(original)
    twin.id, twin.source = "pasted", 'check("99.1", relu)  # again'
    nb.cells.insert(nb.cells.index(original), twin)


def with_missing_cells(nb: Any) -> None:
    correct(nb)
    nb.cells.remove(cell_of(nb, "check-99-1"))
    # the second exercise was solved in a cell of the learner's own; both of its cells are gone
    mine = cell_of(nb, "answer-99-2")
    mine.metadata.clear()
    mine.id = "my-own-cell"
    nb.cells.remove(cell_of(nb, "check-99-2"))


def with_edited_markings(nb: Any) -> None:
    answer(nb, **{"99.1": RIGHT["99.1"] + "\ncheck = lambda *a: 2\nhint = 3", "99.2": RIGHT["99.2"]})
    check = cell_of(nb, "check-99-1")
    check.metadata.nbgrader.update(points=1000, schema_version=9, locked=False)
    check.source = "1000"
    cell_of(nb, "check-99-2").metadata.clear()


def with_no_score(nb: Any) -> None:
    answer(nb, **{**RIGHT, "99.1": RIGHT["99.1"] + "\nget_ipython().ast_node_interactivity = 'none'"})


def with_exit(nb: Any) -> None:
    answer(nb, **{**RIGHT, "99.2": RIGHT["99.2"] + "\nimport os; os._exit(1)"})


STUDENTS = {
    "ada": correct,
    "bert": with_copied_check,
    "carl": partly,
    "dora": None,
    "emil": with_warnings,
    "fran": with_missing_cells,
    "gert": with_edited_markings,
    "igor": with_no_score,
    "jana": with_exit,
}
SCORES = {
    "ada": FULL, "bert": FULL, "carl": 4.0, "dora": 0.0, "emil": FULL, "fran": FULL, "gert": FULL,
    "igor": 0.0, "jana": 2.0, "kurt": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> DemoClass:
    """The class after release, hand-in, autograde, feedback and export."""
    demo = DemoClass.make(tmp_path_factory.mktemp("class"))
    demo.run("course", "release", "--source", "build/source")
    demo.run("nbgrader", "generate_assignment", SLUG, "--force")
    for student, change in STUDENTS.items():
        demo.submit(student, change)
    damaged = demo.submit("kurt")
    damaged.write_text('{"cells": [', encoding="utf-8")
    log = demo.run("nbgrader", "autograde", SLUG, fails=True)  # kurt's file is not a notebook; everyone else is graded
    (demo.root / "autograde.log").write_text(log, encoding="utf-8")
    demo.run("nbgrader", "generate_feedback", SLUG)
    demo.run("nbgrader", "export", "--to", "grades.csv")
    return demo


def feedback(demo: DemoClass, student: str) -> str:
    return (demo.root / "feedback" / student / SLUG / f"{SLUG}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("student", SCORES)
def test_everyone_earns_what_is_right(graded: DemoClass, student: str):
    with (graded.root / "grades.csv").open(encoding="utf-8") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert float(rows[student]["score"]) == SCORES[student]
    assert float(rows[student]["max_score"]) == FULL


def test_a_file_that_is_no_notebook_is_refused_by_itself(graded: DemoClass):
    log = (graded.root / "autograde.log").read_text(encoding="utf-8")
    assert re.findall(r"error processing assignment '99_demo' for student '(\w+)'", log) == ["kurt"]


@pytest.mark.parametrize(
    ("student", "sentence"),
    [
        ("bert", "The cell check-99-1 stands 2 times in this notebook; the last one counts."),
        ("fran", "The cell check-99-1 was missing; it has been put back."),
        ("fran", "The cell check-99-2 was missing; it has been put back."),
        ("gert", "The locked cell check-99-1 had been edited; its own text is back."),
        ("igor", "This check gave no score, so it earns nothing."),
        ("jana", "The notebook&#39;s kernel ended early"),
        ("carl", "A row of zeros has length zero: guard the division."),
        ("dora", "Not attempted yet"),
    ],
)
def test_the_feedback_page_says_what_happened(graded: DemoClass, student: str, sentence: str):
    assert sentence in feedback(graded, student)


@pytest.mark.parametrize("student", STUDENTS)
def test_the_feedback_page_needs_no_network_and_runs_nothing(graded: DemoClass, student: str):
    page = feedback(graded, student)
    assert "http://" not in page.replace("http-equiv", "")
    assert "https://" not in page
    assert "<script" not in page


def test_untouched_is_zero_and_not_an_error(graded: DemoClass):
    nb = nbformat.read(graded.root / "autograded" / "dora" / SLUG / f"{SLUG}.ipynb", as_version=4)
    for exercise_id in ("99.1", "99.2"):
        kinds = [output.output_type for output in cell_of(nb, f"check-{exercise_id[:2]}-{exercise_id[3]}").outputs]
        assert kinds == ["execute_result"]


def test_demonstrations_are_left_out(graded: DemoClass):
    assert not list((graded.root / "autograded").rglob("demonstration-ran.txt"))


def test_the_teachers_progress_and_files_stay_as_they_are(graded: DemoClass):
    assert not (graded.root / "teacher-home").exists()


def test_grading_draws_other_inputs_than_the_notebook(graded: DemoClass):
    seed = int((graded.root / ".course" / "seed").read_text())
    assert seed != 0


def test_nbgraders_own_release_is_the_courses(graded: DemoClass):
    by_nbgrader = graded.released.read_bytes()
    graded.run("course", "release")
    assert graded.released.read_bytes() == by_nbgrader
    assert sorted(path.name for path in graded.released.parent.iterdir()) == [f"{SLUG}.ipynb"]


def test_no_answer_leaks_into_release_or_gradebook(graded: DemoClass):
    for path in (graded.released, graded.root / "gradebook.db"):
        content = path.read_bytes()
        for secret in (b"secret-of-the-first-exercise", b"length_of_each_row", b"only in the solved lesson"):
            assert secret not in content, f"{secret!r} in {path.name}"


def test_grading_again_changes_no_score(graded: DemoClass):
    graded.run("nbgrader", "autograde", SLUG, "--student", "carl", "--force")
    graded.run("nbgrader", "export", "--to", "again.csv")
    before, after = ((graded.root / name).read_text(encoding="utf-8") for name in ("grades.csv", "again.csv"))
    assert sorted(line for line in after.splitlines() if "carl" in line) == [
        line for line in before.splitlines() if "carl" in line
    ]


@pytest.mark.slow
def test_the_formgrader_shows_the_class(graded: DemoClass):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = graded.start(
        "jupyter", "server", "--no-browser", "--allow-root", f"--ServerApp.port={port}", "--ServerApp.log_level=ERROR",
        "--IdentityProvider.token=knock", JUPYTER_RUNTIME_DIR=str(graded.root / "runtime"),
    )  # fmt: skip
    try:
        pages = requests.Session()
        pages.mount("http://", HTTPAdapter(max_retries=Retry(connect=30, backoff_factor=0.1, backoff_max=4)))

        def page(path: str) -> requests.Response:
            return pages.get(f"http://127.0.0.1:{port}/formgrader/{path}", params={"token": "knock"}, timeout=60)

        submitted = {row["student"]: row for row in page(f"api/submitted_notebooks/{SLUG}/{SLUG}").json()}
        assert {student: row["score"] for student, row in submitted.items()} == {
            student: score for student, score in SCORES.items() if student != "kurt"
        }
        shown = page(f"submissions/{submitted['bert']['id']}")
        assert shown.status_code == 200
        assert "Notes from grading" in shown.text
    finally:
        server.kill()
        server.communicate()
