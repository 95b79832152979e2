"""The same grading run on a Dask cluster: each submission is one task, each worker keeps a warm sandbox of its own."""

from __future__ import annotations

import atexit
import itertools
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from course_utils.grading import submissions
from course_utils.grading.batch import (
    Course,
    IsolationError,
    Settings,
    SubmissionRun,
    needed_lessons,
    sandbox_options,
)
from course_utils.grading.sandbox.client import Sandbox
from course_utils.grading.submissions import BrokenSubmission, Submission

AHEAD = 4
"""Tasks handed out for each worker thread; the rest wait here, so that neither scheduler nor workers fill up."""
MAX_TRIES = 3
POLL_SECONDS = 0.02
SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")
"""How Dask talks to other machines."""


def check_address(address: str) -> None:
    """Whether an address can be a scheduler's. Dask's client would try a mistyped one again and again for a minute.

    Errors:
        ValueError: it has another form than `tcp://10.0.0.5:8786`, or no machine has that name.
    """
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in SCHEMES:
        raise ValueError(f"{address!r} is no scheduler's address: they look like tcp://10.0.0.5:8786")
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError):
        raise ValueError(f"no machine is called {host!r}: where does the scheduler {address} run?") from None


class ClusterGrader:
    """Hands submissions to a Dask scheduler. Seeds and judges go to its workers, so they must be machines you trust."""

    def __init__(self, settings: Settings, address: str, timeout: float = 30.0) -> None:
        self.settings, self.address, self.timeout = settings, address, timeout
        self.isolation = ""
        self.notes: list[str] = []

    def __call__(self, found: list[Submission], course: Course) -> Iterator[tuple[Submission, dict[str, Any]]]:
        """Records in the order in which they are ready. A task lost with its worker is done again by another."""
        from distributed import Client, TimeoutError

        settings = replace(self.settings, seed=course.seed)
        glance = needed_lessons(found, course)
        clear = all(glance.values()) or course.asked
        numbers = (
            sorted({n for text in glance.values() for n in text.split()} | set(course.asked))
            if clear
            else course.numbers
        )
        with Client(self.address, timeout=self.timeout, set_as_default=False) as client:
            try:
                client.wait_for_workers(1, timeout=self.timeout)  # scheduler and workers may have been started just now
            except TimeoutError:
                raise ConnectionError(
                    f"the scheduler at {self.address} has no workers: start some with `dask worker {self.address}`"
                ) from None
            threads = sum(client.nthreads().values())
            waiting = iter(found)
            tasks: dict[Any, tuple[Submission, int]] = {}

            def hand_out(submission: Submission, tries: int = 1) -> None:
                name = f"course-grade-{course.key_for(submission.id)[:24]}-{tries}"
                payload = _payload(submission, settings, numbers)
                tasks[client.submit(grade_one, payload, key=name, pure=False)] = (submission, tries)

            for submission in itertools.islice(waiting, threads * AHEAD):
                hand_out(submission)
            while tasks:
                finished = [future for future in tasks if future.status not in ("pending", "lost")]
                if not finished:
                    time.sleep(POLL_SECONDS)
                for future in finished:
                    submission, tries = tasks.pop(future)
                    answer = self._answer(future, tries)
                    future.release()
                    if answer is None:
                        hand_out(submission, tries + 1)
                        continue
                    self.isolation = answer["isolation"]
                    yield submission, answer["record"]
                    following = next(waiting, None)
                    if following is not None:
                        hand_out(following)

    def _answer(self, future: Any, tries: int) -> dict[str, Any] | None:
        """A finished task's answer; None if it was lost with its worker and should be done again."""
        from distributed import CancelledError, KilledWorker

        try:
            return future.result(
                timeout=2 * self.settings.timeout
            )  # waits only if the result went down with its worker
        except (KilledWorker, CancelledError, TimeoutError):
            if tries >= MAX_TRIES:
                raise
            return None


def _payload(submission: Submission, settings: Settings, numbers: list[str]) -> dict[str, Any]:
    try:
        data: bytes | None = submissions.read_bytes(submission.path)
    except BrokenSubmission as error:
        data, problem = None, str(error)
    else:
        problem = ""
    return {"submission": submission, "data": data, "problem": problem, "settings": settings, "numbers": tuple(numbers)}


# -- on a worker ---------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_held: dict[Any, tuple[Sandbox, Course]] = {}


def grade_one(payload: dict[str, Any]) -> dict[str, Any]:
    """Grade one submission in this process's sandbox. One at a time: judging sets global random state."""
    with _lock, tempfile.TemporaryDirectory(prefix="course-grade-in-") as folder:
        settings, original = payload["settings"], payload["submission"]
        path = Path(folder) / f"submission{original.path.suffix}"
        if payload["data"] is not None:
            path.write_bytes(payload["data"])
        here = replace(original, path=path)
        sandbox, course = _prepare(settings, payload["numbers"], here)
        run = SubmissionRun(here, course)
        run.refused = payload["problem"] or run.refused
        for _ in sandbox.run(iter([run])):
            pass
        record = run.finish()
        record["result"]["path"] = str(original.path)
        return {"record": record, "isolation": sandbox.isolation}


def _prepare(settings: Settings, numbers: tuple[str, ...], sample: Submission) -> tuple[Sandbox, Course]:
    import torch

    key = (settings, numbers)
    if key not in _held:
        while _held:
            _held.popitem()[1][0].close()
        torch.set_num_threads(1)
        course = Course(settings, settings.seed or 0)
        sandbox = Sandbox(sandbox_options(settings, course, numbers, [sample], 1))
        try:
            sandbox.start()
            sandbox.ready(require=settings.require_isolation)
        except (IsolationError, OSError):
            sandbox.close()
            raise
        _held[key] = (sandbox, course)
        atexit.register(sandbox.close)
    return _held[key]
