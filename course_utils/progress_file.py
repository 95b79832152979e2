"""What a learner has done so far: one local JSON file, written atomically, best scores kept."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils import settings
from course_utils.grading.verdict import PASSED, Verdict
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
        except FileNotFoundError:
            entries = {}
        except (ValueError, UnicodeDecodeError):
            path.replace(path.with_suffix(".damaged.json"))
            entries = {}
        return cls(path, entries)

    def save(self) -> None:
        with contextlib.suppress(OSError):  # a read-only home folder must not keep anyone from learning
            write_json(self.path, self.entries)

    def record(self, verdict: Verdict) -> Progress:
        entry = self.entries.setdefault(verdict.id, {})
        entry["attempts"] = entry.get("attempts", 0) + (verdict.status != "not_attempted")
        entry["best"] = max(entry.get("best", 0.0), verdict.score)
        entry["solved"] = entry.get("solved", False) or verdict.status == PASSED
        return self

    def saw_hint(self, exercise_id: str, number: int) -> Progress:
        entry = self.entries.setdefault(exercise_id, {})
        entry["hints"] = max(entry.get("hints", 0), number)
        return self

    def forget(self, exercise_id: str) -> Progress:
        self.entries.pop(exercise_id, None)
        return self

    def best(self, exercise_id: str) -> float:
        return float(self.entries.get(exercise_id, {}).get("best", 0.0))

    def solved(self, exercise_id: str) -> bool:
        return bool(self.entries.get(exercise_id, {}).get("solved", False))

    def hints_seen(self, exercise_id: str) -> int:
        return int(self.entries.get(exercise_id, {}).get("hints", 0))
