"""Settings shared by every test: one thread a process, no progress file of the user's, a place for caches."""

from __future__ import annotations

import os
from pathlib import Path

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
        help="grade this notebook, script or folder (with tests/exercises): one test an exercise",
    )


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks made by tests must not be remembered in the user's own progress file."""
    monkeypatch.setenv("COURSE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side (`-n 2 --dist loadgroup`): a file stays in one process, every lesson may go to any, and the graders,
    which share set-aside users and watch for what others leave behind, all stay in one."""
    for item in items:
        folder, name = item.path.parent, item.path.name
        if "grading" in folder.parts:
            group = "grading"
        elif folder.name == "lessons":
            group = item.name
        else:
            group = name
        item.add_marker(pytest.mark.xdist_group(group))
