"""Every solved lesson runs from top to bottom in Jupyter's own kernel, and each of its checks earns full marks.

Demonstrations run short (`COURSE_QUICK=1`, read through `course_utils.settings.quick()`). To see where a lesson spends its
time: `pytest tests/lessons -k 02 -s`, which prints the CPU seconds of the slowest cells.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

from course_utils import exercises, lessons
from course_utils.kernel import Runner
from course_utils.lessons import Source, cell_role

each_lesson = pytest.mark.parametrize("source", lessons.sources(), ids=lambda source: source.slug)
CELL_SECONDS = 900


@pytest.fixture
def quick_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the kernel sees: one thread, short demonstrations, a private home for progress and IPython."""
    monkeypatch.setenv("COURSE_QUICK", "1")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    work = tmp_path / "work"
    work.mkdir()
    return work


def run(nb: Any, folder: Path) -> None:
    client = Runner(nb, timeout=CELL_SECONDS, resources={"metadata": {"path": str(folder)}})
    client.execute()


@pytest.mark.slow
@each_lesson
def test_the_solved_lesson_runs_and_every_check_earns_full_marks(
    source: Source, quick_environment: Path, record_property
):
    nb = lessons.read_notebook(source.path)
    nb.cells.append(new_code_cell("__import__('time').process_time()"))
    try:
        run(nb, quick_environment)
    except CellExecutionError as error:
        pytest.fail(f"{source.path.name} stops:\n{error}")
    seconds = score(nb.cells.pop())
    record_property("cpu_seconds", round(seconds, 1))
    print(f"\n{source.slug}: {seconds:.0f} s of CPU\n" + "\n".join(slowest_cells(nb)))
    scores = {
        exercise_id: score(cell) for cell in nb.cells for role, exercise_id in [cell_role(cell)] if role == "check"
    }
    assert scores == {exercise.id: exercise.points for exercise in exercises.for_lesson(source.number)}


@pytest.mark.slow
@each_lesson
def test_the_learners_copy_starts_without_errors(source: Source, quick_environment: Path):
    """Set-up and checks of an untouched copy run: every card says "not attempted yet", none is a traceback."""
    nb = lessons.read_notebook(source.release_path)
    nb.cells = [cell for cell in nb.cells if cell.cell_type != "code" or cell_role(cell)[0] != "other"]
    run(nb, quick_environment)
    assert {score(cell) for cell in nb.cells if cell_role(cell)[0] == "check"} == {0.0}


def score(cell: Any) -> float:
    """The number a cell ends with: what nbgrader reads from a check cell."""
    (result,) = [output for output in cell.outputs if output.output_type == "execute_result"]
    return float(result.data["text/plain"])


def slowest_cells(nb: Any, count: int = 5) -> list[str]:
    def wall(cell: Any) -> float:
        times = cell.metadata.get("execution", {})
        if "iopub.execute_input" not in times or "shell.execute_reply" not in times:
            return 0.0
        start, end = (
            datetime.fromisoformat(times[k].replace("Z", "+00:00"))
            for k in ("iopub.execute_input", "shell.execute_reply")
        )
        return (end - start).total_seconds()

    ranked = sorted((cell for cell in nb.cells if cell.cell_type == "code"), key=wall, reverse=True)[:count]
    return [
        f"  {wall(cell):6.1f} s  {cell.source.strip().splitlines()[0][:90]}" for cell in ranked if cell.source.strip()
    ]
