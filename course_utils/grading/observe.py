"""Run a learner's object on seeded inputs and write down what it does: values, or what went wrong. Never sees an answer."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import io
import linecache
import random
import re
import signal
import sys
import sysconfig
import threading
import time
import traceback
import types
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Leaf = Any
"""A plain value: numpy array, bool, int, float, str or None."""

# Kinds of failure, from what the learner has to do about it.
NOT_ATTEMPTED = "not_attempted"
RETURNED_NOTHING = "returned_nothing"
SIGNATURE = "signature"
MUTATED = "mutated"
RAISED = "raised"
TOO_SLOW = "too_slow"
INTERRUPTED = "interrupted"
UNREADABLE = "unreadable"
MISSING = "missing"


@dataclass(frozen=True)
class Failure:
    """Why a case has no value. All fields are plain strings, so that it can cross a process boundary."""

    kind: str
    message: str
    error: str = ""
    """Class name of the exception, where there was one."""
    line: str = ""
    """The learner's own line, as `line 3: return x @ W`."""
    shapes: str = ""
    """Arrays in scope on that line, as `x: float32 [8, 5]`, one a line."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Observation:
    """What one case showed: a flat mapping of names to plain values, or a failure."""

    values: dict[str, Leaf] = field(default_factory=dict)
    failure: Failure | None = None


Observations = dict[str, Observation]


class _Stop(BaseException):
    """Raised inside learner code when its time is up; not an Exception, so that `except Exception` cannot swallow it."""


class _Bounded(io.StringIO):
    """Keeps the first 10,000 characters: a loop that prints must not fill the memory."""

    def write(self, text: str, /) -> int:
        if self.tell() < 10_000:
            super().write(text[:10_000])
        return len(text)


class ReturnedNothing(Exception):
    """The learner's function gave None where a value is needed."""


class Draw:
    """Seeded inputs for one case. Arrays it hands out are remembered, so that changing them in place is noticed.

    `draw.rng` is a numpy Generator for anything else. Tensors are float32 torch tensors on the CPU unless `numpy=True`.
    """

    def __init__(self, seed: int, case: str) -> None:
        self.seed = int(np.random.SeedSequence([seed, zlib.crc32(case.encode())]).generate_state(1)[0])
        self.rng = np.random.default_rng(self.seed)
        self._lent: list[tuple[Any, np.ndarray]] = []

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0, numpy: bool = False) -> Any:
        return self.lend(self.rng.normal(mean, std, size=shape).astype(np.float32), numpy=numpy)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, numpy: bool = False) -> Any:
        return self.lend(self.rng.uniform(low, high, size=shape).astype(np.float32), numpy=numpy)

    def integers(self, low: int, high: int, *shape: int, numpy: bool = False) -> Any:
        """Whole numbers in [low, high), int64."""
        return self.lend(self.rng.integers(low, high, size=shape), numpy=numpy)

    def lend(self, array: Any, numpy: bool = False) -> Any:
        """Hand out an array (numpy in; torch out unless `numpy`) or a tensor, and remember its contents."""
        if isinstance(array, np.ndarray) and not numpy:
            import torch

            array = torch.from_numpy(array.copy())
        self._lent.append((array, _to_numpy(array).copy()))
        return array

    def mutated(self) -> bool:
        """Whether any lent array no longer holds what it held when it was handed out."""
        return any(not _equal(_to_numpy(now), then) for now, then in self._lent)


Case = Callable[[Any, Draw], Any]


def observe_case(case: Case, name: str, candidate: Any, seed: int, reference: Any = None) -> Observation:
    """Run one case. Exceptions, prints, warnings, in-place changes and endless loops of learner code become data."""
    draw = Draw(seed, name)
    printed = _Bounded()
    try:
        with _quiet(printed), _own_state(draw.seed):
            with _stoppable():
                value = case(watched(candidate), draw)
            if draw.mutated():
                return Observation(
                    failure=Failure(
                        MUTATED,
                        "your code changes its input in place. Work on a copy (`x = x.clone()`), or build a new tensor.",
                    )
                )
            return Observation(values=flatten(value))
    except _Stop as stop:
        return Observation(failure=_failure(stop, TOO_SLOW, case, candidate, str(stop)))
    except KeyboardInterrupt as stop:
        return Observation(failure=_failure(stop, INTERRUPTED, case, candidate, "stopped while your code was running."))
    except ReturnedNothing as error:
        said = printed.getvalue().strip()
        more = f" It printed {_short(said, 60)!r}, but printing is not returning." if said else ""
        return Observation(failure=Failure(RETURNED_NOTHING, f"{error}{more}", "ReturnedNothing"))
    except BaseException as error:  # SystemExit and the learner's own kinds too: whatever it is, it is an observation
        return Observation(failure=_explain(error, case, candidate, reference))


def flatten(value: Any, prefix: str = "") -> dict[str, Leaf]:
    """Turn a case's result (a value, or nested tuples, lists and mappings of values) into names and plain values."""
    if isinstance(value, Mapping):
        items = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, (tuple, list)) and not (value and all(_is_number(part) for part in value)):
        items = [(str(index), part) for index, part in enumerate(value)]
    else:
        return {prefix: to_leaf(value)}
    flat: dict[str, Leaf] = {}
    for key, part in items:
        flat.update(flatten(part, f"{prefix}.{key}" if prefix else key))
    return flat


def to_leaf(value: Any) -> Leaf:
    """A plain copy of one value: tensors and number lists become numpy arrays; anything unknown is a TypeError."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    for plain, convert in ((float, float.__float__), (int, int.__int__), (str, str.__str__)):
        if issubclass(type(value), plain):  # a subclass may lie about being equal: keep what it holds, not what it does
            return convert(value)
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    array = np.array(_to_numpy(value))  # a copy: later changes by the learner's code do not reach it
    if array.dtype.kind not in "biufU":
        raise TypeError(f"expected numbers, got a {type(value).__name__} holding {array.dtype}")
    return array


def watched(candidate: Any) -> Any:
    """A function that complains when it returns None. Classes and other objects pass through unchanged."""
    if not isinstance(candidate, types.FunctionType):
        return candidate

    def call(*args: Any, **kwargs: Any) -> Any:
        result = candidate(*args, **kwargs)
        if result is None:
            raise ReturnedNothing(f"`{candidate.__name__}` returned nothing (None). Is a `return` missing?")
        return result

    call.__name__ = candidate.__name__
    call.__wrapped__ = candidate  # type: ignore[attr-defined]  # inspect.signature sees the learner's parameters
    return call


_learner_runs = threading.local()
RING_AGAIN = 0.5
"""Seconds between rings: code that swallows one (`except:` inside a loop) is asked again."""
PATIENCE = 5
"""How many times its CPU seconds code may take by the clock."""


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """The stretch in which a time limit may strike: the learner's code, never the engine's own."""
    _learner_runs.now = True
    try:
        yield
    finally:
        _learner_runs.now = False


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop learner code inside `observe_case` after `seconds`, in any thread and on any system.

    The seconds are of this process's CPU time, so that a right answer on a busy machine is not stopped; code that waits
    instead of computing is stopped after `PATIENCE` times as long.
    The main thread of a Unix process is stopped by a signal, which also ends waiting; elsewhere (threads, Windows) the
    stop comes between two steps of Python code, so a single call into compiled code runs to its end first.
    """
    message = f"still running after {seconds:g} s, so it was stopped. Is there a loop that never ends?"
    in_main_thread = threading.current_thread() is threading.main_thread()
    watch = _signal_limit if in_main_thread and hasattr(signal, "setitimer") else _thread_limit
    with watch(seconds, message):
        yield


@contextlib.contextmanager
def _signal_limit(seconds: float, message: str) -> Iterator[None]:
    started, worked = time.monotonic(), time.process_time()

    def ring(signum: int, frame: Any) -> None:
        spent = time.process_time() - worked >= seconds or time.monotonic() - started >= PATIENCE * seconds
        if spent and getattr(_learner_runs, "now", False):
            raise _Stop(message)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, RING_AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _thread_limit(seconds: float, message: str) -> Iterator[None]:
    # Python raises an exception class in another thread; the message travels in the class
    stop = type("_Stop", (_Stop,), {"__init__": lambda self: _Stop.__init__(self, message)})
    thread, over = threading.get_ident(), threading.Event()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    state = _learner_runs.__dict__  # of this thread; the watcher has its own

    def watch() -> None:
        started, worked, wait = time.monotonic(), time.process_time(), seconds
        while not over.wait(wait):
            spent = time.process_time() - worked >= seconds or time.monotonic() - started >= PATIENCE * seconds
            if spent and state.get("now", False):
                raise_in(ctypes.c_ulong(thread), ctypes.py_object(stop))
            wait = RING_AGAIN

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        raise_in(ctypes.c_ulong(thread), None)  # one that was on its way


@contextlib.contextmanager
def _quiet(printed: _Bounded) -> Iterator[None]:
    # nbgrader gives no points to a cell that writes to stderr, and progress bars write there: swallow both streams.
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(_Bounded()),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _own_state(seed: int) -> Iterator[None]:
    """Seed every global generator for a case, with gradients on and float32 the default; afterwards all is as it was."""
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    if torch:
        torch_before = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        if torch:
            torch.set_rng_state(torch_before[0])
            torch.set_grad_enabled(torch_before[1])
            torch.set_default_dtype(torch_before[2])


_CALL_MISMATCH = re.compile(
    r"missing \d+ required|unexpected keyword argument|positional arguments? but|multiple values for argument"
    r"|takes no arguments|takes exactly|no keyword arguments"
)


def _explain(error: BaseException, case: Case, candidate: Any, reference: Any) -> Failure:
    frame = _learner_frame(error, case, candidate)
    kind, said = type(error).__name__, _said(error)
    message = f"{kind}: {_short(said, 400)}"
    if isinstance(error, NotImplementedError) and _raised_by_learner(error, case, candidate):
        return Failure(NOT_ATTEMPTED, said or "not written yet")
    if isinstance(error, SystemExit):
        return _failure(error, RAISED, case, candidate, "your code calls `exit()`, which would end the notebook.")
    if frame is not None:
        return _failure(error, RAISED, case, candidate, message)
    if isinstance(error, TypeError) and _CALL_MISMATCH.search(said):
        return Failure(SIGNATURE, _signature_sentence(said, candidate, reference), "TypeError")
    if "does not require grad" in said:
        text = "no gradient flows through your result. Is something detached, rebuilt with `torch.tensor`, or under `no_grad`?"
        return Failure(UNREADABLE, text, "NoGradient")
    if "NoneType" in said:
        return Failure(RETURNED_NOTHING, "a result is None where a value is needed. Is a `return` missing?", kind)
    return Failure(UNREADABLE, f"what your code returned could not be used. {message}", kind)


def _failure(error: BaseException, kind: str, case: Case, candidate: Any, message: str) -> Failure:
    frame = _learner_frame(error, case, candidate)
    if frame is None:
        return Failure(kind, message, type(error).__name__)
    line, number, scope = frame
    return Failure(kind, message, type(error).__name__, f"line {number}: {line}", _shapes(scope, line))


def _learner_frame(error: BaseException, case: Case, candidate: Any) -> tuple[str, int, dict[str, Any]] | None:
    """The innermost line of code that is neither this package's nor a library's nor the probe's: the learner's own."""
    found = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if _is_learners(frame.f_code, case, candidate):
            line = linecache.getline(frame.f_code.co_filename, number).strip()
            found = (line or "(source not at hand)", number, frame.f_locals)
    return found


def _raised_by_learner(error: BaseException, case: Case, candidate: Any) -> bool:
    """Whether the learner's own line raised it: a stub does; a library that lacks something raises it one call deeper."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and _is_learners(frames[-1].f_code, case, candidate)


def _is_learners(code: types.CodeType, case: Case, candidate: Any) -> bool:
    # Known mistakes stand in the file of the probe: their own code counts, the rest of that file does not.
    if code in _codes_of(candidate):
        return True
    return code.co_filename != getattr(case, "__code__", code).co_filename and not _is_library(code.co_filename)


_LIBRARY_ROOTS = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[1])


def _is_library(filename: str) -> bool:
    return filename.startswith(("<frozen", "<__array_function__", *_LIBRARY_ROOTS, _PACKAGE_ROOT))


def _codes_of(candidate: Any) -> set[types.CodeType]:
    """The code of a function, or of all methods of a class, with the functions defined inside."""
    members = [candidate, *vars(candidate).values()] if isinstance(candidate, type) else [candidate]
    found: set[types.CodeType] = set()
    for member in members:
        for part in (member, *(inspect.getattr_static(member, name, None) for name in ("fget", "fset", "__func__"))):
            if isinstance(part, types.FunctionType):
                _add_codes(inspect.unwrap(part).__code__, found)
    return found


def _add_codes(code: types.CodeType, found: set[types.CodeType]) -> None:
    found.add(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _add_codes(constant, found)


def _shapes(scope: Mapping[str, Any], line: str) -> str:
    """Arrays in scope, those named on the failing line first, six at most."""
    found = []
    for name, value in scope.items():
        with contextlib.suppress(Exception):  # a learner's object may answer anything when asked for its shape
            kind = str(value.dtype).replace("torch.", "")
            found.append((name not in line, name, f"{name}: {_short(kind, 40)} {[int(n) for n in value.shape]}"))
    return "\n".join(text for _, _, text in sorted(found)[:6])


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a learner's exception whose own text raises
        return ""


def _signature_sentence(said: str, candidate: Any, reference: Any) -> str:
    def shown(thing: Any) -> str:
        try:
            parameters = inspect.signature(thing).parameters.values()
        except Exception:  # builtins have none; a learner's object may raise anything
            return "(...)"
        return "(" + ", ".join(str(p).split(":")[0].split("=")[0].strip() for p in parameters) + ")"

    name = "it"
    with contextlib.suppress(Exception):
        name = str(candidate.__name__)
    text = f"`{name}` could not be called: {_short(said, 200)}."
    if reference is not None:
        text += f" It is called as `{name}{shown(reference)}`; yours takes `{shown(candidate)}`."
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float, np.number))


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if value.is_sparse or "sparse" in str(value.layout):
            value = value.to_dense()
        return value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()
    return np.asarray(value)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
