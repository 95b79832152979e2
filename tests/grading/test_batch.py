"""Whole runs: resume after a kill at any moment, repeatable reports, limits, formats, many submissions."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import make
import pytest

from course_utils.grading import batch, similarity, state, submissions

HERE = Path(__file__).parent


def grade(folder: Path, held: state.State | None = None, **settings: Any) -> batch.Report:
    found = submissions.find([folder], folder.parent / "unpacked")
    return batch.grade(found, batch.Settings(**{"registry": "demo_lesson", "seed": 7, "jobs": 2, **settings}), held)


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    text = json.loads(json.dumps(report))
    for result in text["submissions"]:
        result.pop("seconds")
        result.pop("cpu_seconds")
    return text


def course_grade(*arguments: object) -> subprocess.Popen[bytes]:
    """`course grade` as a program of its own."""
    command = [
        sys.executable,
        "-m",
        "course_utils.cli",
        "grade",
        "--registry",
        "demo_lesson",
        "--quiet",
        *map(str, arguments),
    ]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    work = tmp_path / "submissions"
    for number in range(24):
        some_wrong = dict(list(make.WRONG.items())[: number % 11])
        make.write(work, f"learner-{number:02}.ipynb", make.notebook(some_wrong))
    make.write(work, "broken.ipynb", "{")
    return work


def test_scores_are_what_the_answers_earn(folder: Path) -> None:
    report = grade(folder)
    results = {result["id"]: result for result in report.results}
    for number in range(24):
        assert results[f"learner-{number:02}"]["score"] == 20 - 2 * (number % 11)
        assert results[f"learner-{number:02}"]["max_score"] == 20
    assert results["broken"]["status"] == "error"
    assert "not a notebook" in results["broken"]["notes"][0]
    assert list(results) == sorted(results)
    assert results["learner-02"]["exercises"][0]["diagnosis"] == "squares"


def test_the_same_seed_gives_the_same_report_byte_for_byte(folder: Path) -> None:
    one, two = (without_times(grade(folder, seed=99, jobs=jobs).to_dict()) for jobs in (1, 2))
    assert json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)


def test_another_seed_draws_other_inputs(folder: Path) -> None:
    one, two = (grade(folder, seed=seed).to_dict() for seed in (1, 2))
    assert [r["score"] for r in one["submissions"]] == [r["score"] for r in two["submissions"]]
    assert without_times(one) != without_times(two)  # the sentences quote measured values


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_the_report_is_the_same(folder: Path, tmp_path: Path) -> None:
    """SIGKILL twenty times: each time the next run goes on from what was finished."""
    seed_file = tmp_path / "seed.json"
    seed_file.write_text('{"seed": 424242}')
    undisturbed, resumed = tmp_path / "one.json", tmp_path / "two.json"
    first = course_grade(folder, "--seed-file", seed_file, "--json", undisturbed, "--jobs", 2)
    started = time.monotonic()
    assert first.wait() == 4, first.stdout.read().decode()  # type: ignore[union-attr]  # one file is broken
    whole = time.monotonic() - started
    random_ = random.Random(5)
    kept = tmp_path / "kept"
    for _ in range(20):
        process = course_grade(folder, "--seed-file", seed_file, "--resume", kept, "--jobs", 2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=random_.uniform(0.1, 1.0) * whole)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert list((kept / "results").glob("*.json"))
    last = course_grade(folder, "--seed-file", seed_file, "--resume", kept, "--json", resumed, "--jobs", 2)
    assert last.wait() == 4, last.stdout.read().decode()  # type: ignore[union-attr]
    one, two = (without_times(json.loads(path.read_text())) for path in (undisturbed, resumed))
    assert one == two
    assert not list(kept.rglob("*.part")) or all(p.name.startswith(".") for p in kept.rglob("*.part"))


def test_finished_submissions_are_not_graded_twice_and_changed_ones_are(folder: Path, tmp_path: Path) -> None:
    graded: list[str] = []

    class Counting(batch.LocalGrader):
        def __call__(self, found: Any, course: Any) -> Any:
            graded.extend(submission.id for submission in found)
            return super().__call__(found, course)

    settings = batch.Settings(registry="demo_lesson", jobs=2)
    found = submissions.find([folder], tmp_path / "zip")
    for expected in (25, 0, 1):
        graded.clear()
        if expected == 1:
            make.write(folder, "learner-03.ipynb", make.notebook())
        with state.State(tmp_path / "kept") as held:
            report = batch.grade(found, settings, held, stream=Counting(settings))
        assert len(graded) == expected
        assert len(report.records) == 25
    assert {r["id"]: r["score"] for r in report.results}["learner-03"] == 20


def test_a_run_belongs_to_its_settings_and_to_one_grader(tmp_path: Path) -> None:
    with state.State(tmp_path) as held:
        seed = held.settle({"timeout": 1}, None)
        assert held.settle({"timeout": 1}, None) == seed
        with pytest.raises(state.StateError, match="other settings"):
            held.settle({"timeout": 2}, None)
        with pytest.raises(state.StateError, match="another seed"):
            held.settle({"timeout": 1}, seed + 1)
        with pytest.raises(state.StateError, match="another grading run"):
            state.State(tmp_path)
    assert (tmp_path / "run.json").stat().st_mode & 0o077 == 0  # it holds the seed


def test_a_torn_result_is_graded_again(tmp_path: Path) -> None:
    with state.State(tmp_path) as held:
        held.save("a", {"key": "k", "result": {"score": 1}})
        assert held.load("a", "k") == {"key": "k", "result": {"score": 1}}
        assert held.load("a", "other") is None
        path = next((tmp_path / "results").glob("*.json"))
        path.write_text(path.read_text().replace("1}", "2}"))
        assert held.load("a", "k") is None


def test_the_seed_file_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "seed.json"
    seed = state.read_seed_file(path)
    assert state.read_seed_file(path) == seed
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("{}")
    with pytest.raises(state.StateError, match="not a seed file"):
        state.read_seed_file(path)


def test_memory_stays_flat_over_many_submissions(tmp_path: Path) -> None:
    """The full size, 1,000 submissions, is in benchmarks/grading_throughput.py."""
    import resource

    work = tmp_path / "submissions"
    for number in range(120):
        make.write(work, f"s{number:04}.ipynb", make.notebook({"90.9": f"def spell(n):\n    return {number}\n"}))
    sizes: list[int] = []
    found = submissions.find([work], tmp_path / "zip")
    batch.grade(
        found,
        batch.Settings(registry="demo_lesson", seed=1, jobs=2),
        progress=lambda *_: sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss),
    )
    assert len(sizes) == 120
    # kilobytes; a record is about 10 kB, so 100 of them should need far less than this
    assert sizes[-1] - sizes[20] < 20_000


def test_isolation_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(batch.IsolationError, match="course doctor"):
        grade(folder, isolation="limits", require_isolation=True)


def test_limits_alone_still_grade_and_say_so(folder: Path) -> None:
    report = grade(folder, isolation="limits")
    assert report.isolation == "limits"
    assert sum(result["score"] == 20 for result in report.results) == 3


def test_a_fresh_interpreter_for_each_submission_grades_alike(tmp_path: Path) -> None:
    """What macOS does, where a process that has imported torch cannot fork safely."""
    work = tmp_path / "submissions"
    make.write(work, "right.ipynb", make.notebook())
    make.write(work, "exits.ipynb", make.notebook({"90.2": "import os\ndef centred(x):\n    os._exit(0)\n"}))
    report = grade(work, spawn=True, jobs=2)
    assert {r["id"]: r["score"] for r in report.results} == {"right": 20.0, "exits": 18.0}
    assert report.isolation == "limits"


def test_demonstration_and_check_cells_do_not_run_and_learners_helpers_do(tmp_path: Path) -> None:
    work = tmp_path / "submissions"
    helper = make.code(
        "print('busy'); FACTOR = 2\nimport math\ndef helper(x):\n    return FACTOR * x\nraise SystemExit"
    )
    text = json.loads(make.notebook({"90.1": "def double(x):\n    return helper(x)\n"}))
    text["cells"].insert(2, helper)
    make.write(work, "helper.ipynb", json.dumps(text))
    assert grade(work).results[0]["score"] == 20


def test_similar_answers_are_flagged_with_evidence_and_cost_nothing(tmp_path: Path) -> None:
    work = tmp_path / "submissions"
    own = (
        "def largest(x, k):\n    # walk through and keep the best, my own way\n    best_so_far = []\n"
        "    remaining = [(float(v), place) for place, v in enumerate(x)]\n    while len(best_so_far) < k:\n"
        "        winner = max(remaining, key=lambda pair: pair[0])\n        best_so_far.append(winner[1])\n"
        "        remaining.remove(winner)\n    return best_so_far\n"
    )
    make.write(work, "ann.ipynb", make.notebook({"90.5": own}))
    make.write(work, "bob.ipynb", make.notebook({"90.5": own.replace("best_so_far", "top")}))
    make.write(work, "cid.ipynb", make.notebook({"90.5": own}))
    for number in range(12):
        make.write(work, f"other-{number:02}.ipynb", make.notebook())
    results = {result["id"]: result for result in grade(work).results}
    assert "similar to cid" in " ".join(results["ann"]["flags"])
    assert "90.5" in " ".join(results["ann"]["flags"])
    assert "my own way" in " ".join(results["ann"]["flags"])
    assert all(not results[f"other-{number:02}"]["flags"] for number in range(12))
    assert {result["score"] for result in results.values()} == {20.0}


def test_similarity_of_nothing_is_nothing() -> None:
    assert similarity.find({}) == []
    assert similarity.find({"a": {}, "b": {"1": "x"}}) == []


def test_inputs_of_every_shape(tmp_path: Path) -> None:
    import zipfile

    tree = tmp_path / "course" / "submitted"
    make.write(tree, "ann/90_demo/90_demo.ipynb", make.notebook())
    make.write(tree, "ann/90_demo/timestamp.txt", "2026-03-01 10:00:00 UTC")
    make.write(tree, "bob/90_demo/90_demo.ipynb", make.notebook(make.WRONG))
    found = submissions.find([tmp_path / "course"], tmp_path / "a")
    assert [(s.id, s.student, s.assignment) for s in found] == [
        ("ann/90_demo", "ann", "90_demo"),
        ("bob/90_demo", "bob", "90_demo"),
    ]
    assert found[0].timestamp.startswith("2026-03-01")
    script = "import torch\nfrom torch import nn\n" + "\n".join(make.RIGHT.values())
    plain = make.write(tmp_path / "more", "cid.py", script)
    with zipfile.ZipFile(tmp_path / "more" / "dee.zip", "w") as archive:
        archive.write(plain, "inner/dee.py")
    report = batch.grade(
        submissions.find([tmp_path / "more", plain], tmp_path / "b"),
        batch.Settings(registry="demo_lesson", seed=3, jobs=1),
    )
    assert {r["id"]: r["score"] for r in report.results} == {"cid": 20.0, "cid (2)": 20.0, "dee/inner/dee": 20.0}
    with pytest.raises(FileNotFoundError):
        submissions.find([tmp_path / "nowhere"], tmp_path / "c")


def test_the_server_warms_an_optimizer_only_where_answers_may_train(tmp_path: Path) -> None:
    """It costs a second: worth it once for a course that trains, never for one that does not."""
    plain, trains = tmp_path / "plain.py", tmp_path / "trains.py"
    plain.write_text('# %% answer="d.relu"\ndef relu(x):\n    return x\n')
    trains.write_text('# %% answer="d.relu"\ndef relu(x):\n    return torch.optim.Adam([x])\n')
    for path, expected in ((plain, False), (trains, True)):
        assert batch.may_train("demo_lesson", submissions.find([path], tmp_path / "unpacked")) == expected
    assert batch.may_train(batch.COURSE, [])
