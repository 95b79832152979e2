"""Run solved lessons for the site, each once: results are kept and used again while nothing they depend on has changed.

A kept result names every `course_utils` file that its kernel loaded, with a checksum, so a change in a file that a lesson never
imports costs nothing, and a change in one that it does is never missed.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nbformat
from tqdm.auto import tqdm

from course_utils import lessons, settings
from course_utils.io import atomic_write, sha256

T = TypeVar("T")
PACKAGE = Path(__file__).resolve().parents[1]
CELL_SECONDS = 1200
"""The longest cell takes two minutes on two cores."""
LIBRARIES = ("torch", "numpy", "plotly", "transformer-lens", "ipywidgets", "circuitsvis")
"""A new version of one of these runs every lesson again."""
# what the kernel says about itself when the lesson is through
_WHAT_WAS_LOADED = """
import json as _json, sys as _sys
print(_json.dumps(sorted({m.__file__ for n, m in list(_sys.modules.items())
    if n.split(".")[0] == "course_utils" and getattr(m, "__file__", None)})))
"""


class LessonError(RuntimeError):
    """A lesson that does not run; the message names the lesson, the cell, its line in the source, and what was raised."""


@dataclass(frozen=True)
class Run:
    """A lesson to show: its notebook with outputs, and where it comes from."""

    source: lessons.Source
    notebook: Any
    executed: bool
    """Whether its outputs are those of a run of exactly this source."""


def run_lessons(sources: list[lessons.Source], *, quick: bool = False, execute: bool = True) -> list[Run]:
    """Every lesson with its outputs, run one after another where no kept result fits. Interrupted, it goes on from the last
    finished lesson.

    Args:
        quick: run demonstrations short (`COURSE_QUICK=1`).
        execute: if False, nothing runs: kept results count even where the code they loaded has changed since, and lessons
            without one appear without outputs.

    Raises:
        LessonError: a cell fails.
    """
    read = [(source, _read(source)) for source in sources]
    kept = {source.slug: kept_result(source, notebook, quick, fresh=execute) for source, notebook in read}
    waiting = [(source, notebook) for source, notebook in read if kept[source.slug] is None]
    if execute and waiting:
        cells = sum(_is_run(cell) for _, notebook in waiting for cell in notebook.cells)
        with tqdm(total=cells, unit="cell", desc="running lessons") as bar:
            for source, notebook in waiting:
                bar.set_description(f"lesson {source.number}")
                kept[source.slug] = _run_and_keep(source, notebook, quick, bar.update)
    return [
        Run(source, notebook if kept[source.slug] is None else kept[source.slug], kept[source.slug] is not None)
        for source, notebook in read
    ]


def kept_result(source: lessons.Source, notebook: Any, quick: bool, *, fresh: bool = True) -> Any | None:
    """The result of an earlier run of this very source, or None: there is none, or (`fresh`) something it depends on has changed."""
    path = _kept_at(source, notebook, quick)
    if not path.exists():
        return None
    try:
        # as it was written by this module: validating megabytes of figures again would take seconds
        kept = nbformat.v4.reads(path.read_text(encoding="utf-8"))
        depends = dict(kept.metadata["course_site"]["depends"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # written by another version of this module
    return kept if not fresh or depends == _state_of(depends) else None


def _read(source: lessons.Source) -> Any:
    try:
        return lessons.read_notebook(source.path)
    except Exception as error:
        raise LessonError(
            f"{source.path.name} cannot be read as a lesson: {type(error).__name__}: {error}\n"
            "Is every `### Exercise NN.M` heading in the registry (course_utils/exercises)?"
        ) from error


def _kept_at(source: lessons.Source, notebook: Any, quick: bool) -> Path:
    text = "\x00".join(cell.cell_type + cell.source for cell in notebook.cells)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return settings.root() / "build" / "executed" / f"{source.slug}-{digest}{'-quick' if quick else ''}.ipynb"


def _run_and_keep(source: lessons.Source, notebook: Any, quick: bool, on_cell: Callable[[], object]) -> Any:
    path = _kept_at(source, notebook, quick)
    with tempfile.TemporaryDirectory(prefix="lesson-") as folder:
        loaded = _finish(_execute(source, notebook, Path(folder), quick, on_cell))
    inside = [
        Path(name).resolve().relative_to(PACKAGE) for name in loaded if Path(name).resolve().is_relative_to(PACKAGE)
    ]
    assets = [path.relative_to(PACKAGE) for path in (PACKAGE / "assets").rglob("*.json")]
    names = [name.as_posix() for name in (*inside, *assets) if name.parts[0] != "site"]
    notebook.metadata["course_site"] = {"depends": _state_of([*names, *LIBRARIES])}
    with atomic_write(path) as file:
        nbformat.write(notebook, file)
    for old in path.parent.glob(f"{source.slug}-*.ipynb"):  # earlier texts of the same lesson
        if old != path and old.stem.endswith("-quick") == quick:
            old.unlink(missing_ok=True)
    return notebook


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop runs already, as in Jupyter: there in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _state_of(names: Any) -> dict[str, str]:
    """Checksums of files of this package, and versions of libraries."""
    state = {}
    for name in sorted(set(names)):
        if name in LIBRARIES:
            try:
                state[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                state[name] = "missing"
        else:
            path = PACKAGE / name
            state[name] = sha256(path)[:16] if path.exists() else "missing"
    return state


async def _execute(
    source: lessons.Source, notebook: Any, folder: Path, quick: bool, on_cell: Callable[[], object]
) -> list[str]:
    """Run the notebook in place, in a kernel of its own in an empty folder; gives the `course_utils` files it loaded."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    from course_utils.kernel import Runner

    work = folder / "work"
    work.mkdir()
    client = Runner(
        notebook,
        timeout=CELL_SECONDS,
        record_timing=False,
        resources={"metadata": {"path": str(work)}},
    )
    async with client.async_setup_kernel(env=_environment(folder, quick)):
        for index, cell in enumerate(notebook.cells):
            if not _is_run(cell):
                continue
            try:
                await client.async_execute_cell(cell, index)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                raise LessonError(explain(source, notebook, index, error)) from None
            on_cell()
        client.set_widgets_metadata()
        last = nbformat.v4.new_code_cell(_WHAT_WAS_LOADED)
        notebook.cells.append(last)
        try:
            await client.async_execute_cell(last, len(notebook.cells) - 1)
        finally:
            notebook.cells.pop()
    return list(json.loads("".join(output.text for output in last.outputs if output.output_type == "stream")))


def _is_run(cell: Any) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _environment(folder: Path, quick: bool) -> dict[str, str]:
    """A kernel that sees nothing of whoever builds the site: no progress, no start-up files, figures as plain data."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("COURSE_SEED", "COURSE_PROGRESS"))
    }
    environment |= {
        "COURSE_ROOT": str(settings.root()),
        "COURSE_HOME": str(folder / "home"),
        "COURSE_QUICK": "1" if quick else "0",
        "COURSE_SOLUTIONS": "on",
        "IPYTHONDIR": str(folder / "ipython"),
        "PLOTLY_RENDERER": "plotly_mimetype",
        "TQDM_DISABLE": "1",
    }
    return environment


def explain(source: lessons.Source, notebook: Any, index: int, error: Exception) -> str:
    """Which lesson, which cell, which line of the source, under which heading, and what was raised there."""
    cell = notebook.cells[index]
    code_cells = [i for i, other in enumerate(notebook.cells) if _is_run(other)]
    heading = next((title for title in _headings(notebook.cells[: index + 1])), "")
    name = "/".join(source.path.parts[-2:])
    where = f"{name}, line {_line_of(source, notebook, index)}: code cell {code_cells.index(index) + 1} of {len(code_cells)}"
    under = f' (under "{heading}")' if heading else ""
    traceback = _traceback_of(cell) or str(error)
    return (
        f"lesson {source.number} does not run.\n{where}{under}\n\n{traceback.rstrip()}\n\n"
        f"Mend the cell, or build without this lesson: --lessons with the numbers of the others. Finished lessons are kept."
    )


def _headings(cells: list[Any]) -> Iterator[str]:
    """Headings of text cells, the last first."""
    for cell in reversed(cells):
        if cell.cell_type == "markdown":
            for line in reversed(cell.source.splitlines()):
                if line.startswith("#"):
                    yield line.lstrip("# ").strip()


def _line_of(source: lessons.Source, notebook: Any, index: int) -> int:
    """The line of the source file at which a code cell's text begins."""
    text, place = source.path.read_text(encoding="utf-8"), 0
    for cell in notebook.cells[: index + 1]:
        if cell.cell_type == "code" and cell.source.strip():
            found = text.find(cell.source.splitlines()[0], place)
            place = found + 1 if found >= 0 else place
    return text.count("\n", 0, place) + 1


def _traceback_of(cell: Any) -> str:
    """The end of the cell's traceback, without terminal colours."""
    import re

    for output in cell.get("outputs", []):
        if output.output_type == "error":
            lines = "\n".join(output.traceback).splitlines()
            return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines[-25:]))
    return ""
