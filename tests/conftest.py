"""Settings shared by every test: one thread a process, no progress file of the user's, a place for caches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# Two processes with two torch threads each fight over two cores; tests pin one before torch is imported.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--submission",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="grade this notebook, script, zip or folder instead (with tests/exercises): one test an exercise. Runs its code!",
    )


def pytest_configure(config: pytest.Config) -> None:
    for path in config.getoption("--submission"):
        if not path.exists():
            raise pytest.UsageError(f"--submission: there is nothing at {path}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --submission the submission is all that is tested; without it, everything else."""
    grades = collection_path.name == "test_submission.py"
    graded = bool(config.getoption("--submission"))
    return True if collection_path.is_file() and grades != graded else None


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks made by tests must not be remembered in the user's own progress file."""
    monkeypatch.setenv("COURSE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Side by side (`-n 2`): what `group` keeps together runs in one process, one after another."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return ByGroup(config, log)


def group(nodeid: str) -> str:
    """A file stays in one process, the attacks (which watch for what others leave behind) all in one; lessons go to any."""
    file = nodeid.split("::")[0]
    if "/attacks/" in file:
        return "attacks"
    return nodeid if "/lessons/" in file else file
