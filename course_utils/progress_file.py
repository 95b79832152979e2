"""What a learner has done so far: one local JSON file, written atomically, best scores kept."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils import settings
from course_utils.grading.verdict import NOT_ATTEMPTED, PASSED, Verdict
from course_utils.io import write_json


@dataclass
class Progress:
    """Scores and hints by exercise id. `load`, change, `save`; a damaged file is put aside, never overwritten silently."""

    path: Path
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None = None) -> Progress:
        path = path or settings.home() / "progress.json"
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
                raise ValueError("not a mapping of exercises")
        except OSError:  # no file yet, or a home folder that cannot be read
            entries = {}
        except ValueError:  # UnicodeDecodeError is one too
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".damaged.json"))
            entries = {}
        return cls(path, entries)

    def save(self) -> None:
        with contextlib.suppress(OSError):  # a read-only home folder must not keep anyone from learning
            write_json(self.path, self.entries)

    def record(self, verdict: Verdict) -> Progress:
        self.entries[verdict.id] = {
            **self.entries.get(verdict.id, {}),
            "attempts": int(self._number(verdict.id, "attempts")) + (verdict.status != NOT_ATTEMPTED),
            "best": max(self.best(verdict.id), verdict.score),
            "solved": self.solved(verdict.id) or verdict.status == PASSED,
        }
        return self

    def saw_hint(self, exercise_id: str, number: int) -> Progress:
        seen = max(self.hints_seen(exercise_id), number)
        self.entries[exercise_id] = {**self.entries.get(exercise_id, {}), "hints": seen}
        return self

    def forget(self, exercise_id: str) -> Progress:
        self.entries.pop(exercise_id, None)
        return self

    def best(self, exercise_id: str) -> float:
        return self._number(exercise_id, "best")

    def solved(self, exercise_id: str) -> bool:
        return self.entries.get(exercise_id, {}).get("solved") is True

    def hints_seen(self, exercise_id: str) -> int:
        return int(self._number(exercise_id, "hints"))

    def _number(self, exercise_id: str, key: str) -> float:
        value = self.entries.get(exercise_id, {}).get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return 0.0  # people edit files by hand
        return float(value)
