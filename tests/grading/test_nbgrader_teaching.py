"""TEACHING.md, run as it stands: the page's commands take a class from nothing to exported grades."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from demo_class import DEMO, REPOSITORY, SLUG, DemoClass

from course_utils import exercises, lessons

LESSON = "02_toy_superposition"
HAS_LESSON = any(source.slug == LESSON for source in lessons.sources())


def commands() -> str:
    page = (REPOSITORY / "TEACHING.md").read_text(encoding="utf-8")
    page = page.split("## Other ways to grade")[0]  # those have test_teaching_recipes.py
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    return "set -euo pipefail\n" + "\n".join(blocks)


def teach(folder: Path, script: str, **environment: str) -> dict[str, dict[str, str]]:
    """Run the page in a folder that looks like a fresh clone after `make setup`; gives grades.csv by student."""
    (folder / ".venv").symlink_to(sys.prefix)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "COURSE_SEED"},
        "COURSE_ROOT": str(folder),
        "COURSE_HOME": str(folder / "home"),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        **environment,
    }
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    with (folder / "grades.csv").open(encoding="utf-8") as file:
        return {row["student_id"]: row for row in csv.DictReader(file)}


def test_the_page_works_with_the_demo_lesson(tmp_path: Path):
    demo = DemoClass.make(tmp_path / "class")
    grades = teach(demo.root, commands().replace(LESSON, SLUG), PYTHONPATH=str(DEMO))
    assert {student: float(row["score"]) for student, row in grades.items()} == {"ada": 5.0, "emmy": 0.0}
    assert (grades["ada"]["last_name"], grades["ada"]["duedate"]) == ("Lovelace", "2031-03-01 23:59:00")
    assert "Not attempted yet" in (demo.root / "feedback" / "emmy" / SLUG / f"{SLUG}.html").read_text(encoding="utf-8")
    assert "A very small lesson" not in (demo.root / "course.toml").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LESSON, reason=f"solutions/ has no {LESSON}")
def test_the_page_works_as_written(tmp_path: Path):
    root = tmp_path / "class"
    (root / "solutions").mkdir(parents=True)
    for name in ("nbgrader_config.py", f"solutions/{LESSON}.py"):
        (root / name).write_bytes((REPOSITORY / name).read_bytes())
    grades = teach(root, commands())
    points = float(sum(exercise.points for exercise in exercises.for_lesson("02")))
    assert {student: float(row["score"]) for student, row in grades.items()} == {"ada": points, "emmy": 0.0}
    assert float(grades["ada"]["max_score"]) == points
