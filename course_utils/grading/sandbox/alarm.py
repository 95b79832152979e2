"""An alarm clock for the main thread: a block of code that takes too long is left by an exception."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from course_utils.grading.observe import PATIENCE


class OutOfTime(BaseException):
    """The block took too long; not an Exception, so that `except Exception` inside it does not swallow it."""


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after `seconds` of processor time, and every half second from then on.

    Code that waits instead of computing is stopped after `PATIENCE` times as long. Off the main thread there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        waited = time.monotonic() - started >= PATIENCE * seconds
        if waited or time.process_time() - worked >= seconds:
            raise OutOfTime(f"still running after {seconds:g} s, so it was stopped")

    started, worked = time.monotonic(), time.process_time()
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
