"""What a check says about an answer: a status, points, a diagnosis and sentences; as data, as text and as an HTML card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PASSED = "passed"
PARTIAL = "partial"
FAILED = "failed"
NOT_ATTEMPTED = "not_attempted"
ERROR = "error"


@dataclass(frozen=True)
class CaseResult:
    """One case of a check: what was looked at, whether it agrees, how much it is worth, and what differs."""

    name: str
    passed: bool
    points: float
    max_points: float
    problem: str = ""
    detail: str = ""
    """Longer material for a fixed-width box: the learner's own line and the shapes around it."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check. `score` lies between 0 and `max_score`; `feedback` is a list of plain sentences."""

    id: str
    title: str
    status: str
    score: float
    max_score: float
    diagnosis: str | None = None
    """Name of the known mistake whose behaviour the answer shows, or None."""
    explanation: str = ""
    """The sentence that goes with the diagnosis."""
    cases: tuple[CaseResult, ...] = ()
    feedback: list[str] = field(default_factory=list)
    hints: int = 0
    """How many hints the exercise offers."""

    @property
    def passed(self) -> bool:
        return self.status == PASSED

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: what `course grade --json` writes for an exercise."""
        return {
            "id": self.id,
            "title": self.title,
            "status": self.status,
            "score": self.score,
            "max_score": self.max_score,
            "diagnosis": self.diagnosis,
            "feedback": list(self.feedback),
        }

    def __str__(self) -> str:
        from course_utils.grading.feedback import as_text

        return as_text(self)

    def __repr__(self) -> str:
        return str(self)

    def __float__(self) -> float:
        return float(self.score)

    def _repr_html_(self) -> str:
        from course_utils.grading.feedback import as_html

        return as_html(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Notebooks show the card; the plain form is the bare score, because nbgrader reads its partial credit there."""
        return {"text/html": self._repr_html_(), "text/plain": format(self.score, "g")}
