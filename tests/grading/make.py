"""Make submissions for the grader's tests: notebooks of the demo lesson with chosen answers."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import demo_lesson

SETUP = "import torch\nfrom torch import nn"
RIGHT = {
    f"90.{number}": inspect.getsource(answer).replace("torch.nn.", "nn.")
    for number, answer in enumerate(demo_lesson.ANSWERS, 1)
}
WRONG = {
    "90.1": "def double(x):\n    return x * x\n",
    "90.2": "def centred(x):\n    return x - x.mean()\n",
    "90.3": "def count_positive(x):\n    return 7\n",
    "90.4": "def row_norms(x):\n    return x.norm(dim=0)\n",
    "90.5": "def largest(x, k):\n    return [0] * k\n",
    "90.6": "def cosine(a, b):\n    return a @ b\n",
    "90.7": "class Scaler(nn.Module):\n    def __init__(self, size):\n        super().__init__()\n"
    "    def forward(self, x):\n        return 3 * x\n",
    "90.8": "def fit_slope(x, y):\n    return y.mean()\n",
    "90.9": "def spell(n):\n    return 'odd'\n",
    "90.10": "def noisy(n, seed):\n    return torch.zeros(n)\n",
}


def code(source: str, role: str = "", exercise: str = "", **metadata: Any) -> dict[str, Any]:
    """A code cell of a notebook; `role` is answer, check, setup or nothing."""
    meta: dict[str, Any] = dict(metadata)
    if role == "setup":
        meta["tags"] = ["setup"]
    elif role:
        meta["nbgrader"] = {
            "grade_id": f"{role}-{exercise.replace('.', '-')}",
            "schema_version": 3,
            "task": False,
            "grade": role == "check",
            "locked": role == "check",
            "solution": role == "answer",
        }
        if role == "check":
            meta["nbgrader"]["points"] = 2
    return {
        "cell_type": "code",
        "id": f"c{abs(hash((source, role, exercise))) % 10**8}",
        "metadata": meta,
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


def notebook(answers: dict[str, str] | None = None, before: str = "", extra: list[dict[str, Any]] | None = None) -> str:
    """A notebook's text: set-up (with `before` added to it), an answer and a check cell for each exercise, `extra` cells."""
    answers = {**RIGHT, **(answers or {})}
    cells = [
        {"cell_type": "markdown", "id": "top", "metadata": {}, "source": "# Demo"},
        code(SETUP + "\n" + before, "setup"),
    ]
    for exercise, source in answers.items():
        name = demo_lesson.get(exercise).answer
        cells += [
            code(source, "answer", exercise),
            code(f'check("{exercise}", {name})', "check", exercise),
            code(f"raise SystemExit('demonstration of {name}')"),
        ]
    cells += extra or []
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path
