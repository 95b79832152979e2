"""A class of the demo lesson in a folder of its own: release, submissions, and nbgrader's commands as a teacher types them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO = Path(__file__).with_name("demo_course")
SLUG = "99_demo"
RIGHT = {
    "99.1": "def relu(x):\n    return np.maximum(x, 0)",
    "99.2": "def unit_rows(x):\n    n = np.linalg.norm(x, axis=1, keepdims=True)\n    return x / np.where(n == 0, 1, n)",
}


@dataclass(frozen=True)
class DemoClass:
    root: Path

    @classmethod
    def make(cls, root: Path) -> DemoClass:
        (root / "solutions").mkdir(parents=True)
        shutil.copy(DEMO / f"{SLUG}.py", root / "solutions")
        shutil.copy(REPOSITORY / "nbgrader_config.py", root)
        return cls(root)

    @property
    def released(self) -> Path:
        return self.root / "notebooks" / SLUG / f"{SLUG}.ipynb"

    def run(self, *command: str, fails: bool = False) -> str:
        """One of this environment's programs in the class's folder; gives its output."""
        with self.start(*command) as process:
            stdout, stderr = process.communicate(timeout=600)
        output = stdout + stderr
        assert bool(process.returncode) == fails, (
            f"{' '.join(command)} ended with {process.returncode}:\n{output[-4000:]}"
        )
        return output

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """The same, still running."""
        program = Path(sys.executable).with_name(command[0])  # found without the environment being activated
        environment = {
            **{name: value for name, value in os.environ.items() if name != "COURSE_SEED"},
            "PYTHONPATH": str(DEMO),
            "COURSE_ROOT": str(self.root),
            "COURSE_HOME": str(self.root / "teacher-home"),
            "JUPYTER_CONFIG_DIR": str(self.root / "jupyter"),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [program, *command[1:]], cwd=self.root, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    def submit(self, student: str, change: Callable[[Any], None] | None = None, lesson: str = SLUG) -> Path:
        """Hand in the learner's copy for a student, after `change` has worked on the notebook."""
        nb = nbformat.read(self.root / "notebooks" / lesson / f"{lesson}.ipynb", as_version=4)
        if change:
            change(nb)
        target = self.root / "submitted" / student / lesson / f"{lesson}.ipynb"
        target.parent.mkdir(parents=True)
        nbformat.write(nb, target)
        return target


def cell_of(nb: Any, grade_id: str) -> Any:
    return next(cell for cell in nb.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def answer(nb: Any, **sources: str) -> None:
    """Write answers into a notebook: `answer(nb, **{"99.1": "def relu..."})`."""
    for exercise_id, source in sources.items():
        cell_of(nb, f"answer-{exercise_id.replace('.', '-')}").source = source
