"""Run untrusted code: a warm server forks one confined child for each job, and only plain observations come back."""

from course_utils.grading.sandbox.client import Attempt, Ended, IsolationError, Sandbox, SandboxOptions

__all__ = ["Attempt", "Ended", "IsolationError", "Sandbox", "SandboxOptions"]
