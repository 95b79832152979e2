"""Run a learner's object on seeded inputs and write down what it does: values, or what went wrong. Never sees an answer."""

from __future__ import annotations

import contextlib
import io
import linecache
import random
import signal
import sys
import sysconfig
import threading
import traceback
import types
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
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
    printed = io.StringIO()
    try:
        with _quiet(printed), _own_randomness(draw.seed):
            value = case(watched(candidate), draw)
            if draw.mutated():
                return Observation(
                    failure=Failure(
                        MUTATED,
                        "your code changes its input in place. Work on a copy (`x = x.clone()`), or build a new tensor.",
                    )
                )
            return Observation(values=flatten(value))
    except NotImplementedError as error:
        return Observation(failure=Failure(NOT_ATTEMPTED, str(error) or "not written yet"))
    except _Stop as stop:
        return Observation(failure=_failure(stop, TOO_SLOW, candidate, str(stop)))
    except KeyboardInterrupt as stop:
        return Observation(failure=_failure(stop, INTERRUPTED, candidate, "stopped while your code was running."))
    except ReturnedNothing as error:
        said = printed.getvalue().strip()
        more = f" It printed {_short(said, 60)!r}, but printing is not returning." if said else ""
        return Observation(failure=Failure(RETURNED_NOTHING, f"{error}{more}", "ReturnedNothing"))
    except (Exception, SystemExit) as error:
        return Observation(failure=_explain(error, candidate, reference))


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
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    array = _to_numpy(value)
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


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop learner code after `seconds` of wall clock. Only the main thread can be stopped; elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        raise _Stop(f"still running after {seconds:g} s, so it was stopped. Is there a loop that never ends?")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet(printed: io.StringIO) -> Iterator[None]:
    # nbgrader gives no points to a cell that writes to stderr, and progress bars write there: swallow both streams.
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed every global generator for a case, and give the notebook its own random state back afterwards."""
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        if torch:
            torch.set_rng_state(before[2])


def _explain(error: BaseException, candidate: Any, reference: Any) -> Failure:
    frame = _learner_frame(error, candidate)
    message = f"{type(error).__name__}: {_short(str(error), 400)}"
    if frame is None:
        if isinstance(error, TypeError) and "argument" in str(error):
            return Failure(SIGNATURE, _signature_sentence(error, candidate, reference), "TypeError")
        if "does not require grad" in str(error):
            text = "no gradient flows through your result. Is something detached, rebuilt with `torch.tensor`, or under `no_grad`?"
            return Failure(UNREADABLE, text, "NoGradient")
        if "NoneType" in str(error):
            text = "a result is None where a value is needed. Is a `return` missing?"
            return Failure(RETURNED_NOTHING, text, type(error).__name__)
        return Failure(UNREADABLE, f"what your code returned could not be used. {message}", type(error).__name__)
    return _failure(error, RAISED, candidate, message)


def _failure(error: BaseException, kind: str, candidate: Any, message: str) -> Failure:
    frame = _learner_frame(error, candidate)
    if frame is None:
        return Failure(kind, message, type(error).__name__)
    line, number, scope = frame
    return Failure(kind, message, type(error).__name__, f"line {number}: {line}", _shapes(scope, line))


def _learner_frame(error: BaseException, candidate: Any) -> tuple[str, int, dict[str, Any]] | None:
    """The innermost line of code that is neither this package's nor a library's: the learner's own."""
    own_files = _files_of(candidate)
    found = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if name in own_files or not _is_library(name):
            found = (
                linecache.getline(name, number).strip() or "(source not at hand)",
                number,
                frame.f_locals,
            )
    return found


_LIBRARY_ROOTS = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
_PACKAGE_ROOT = __file__.rsplit("/grading/", 1)[0]


def _is_library(filename: str) -> bool:
    return filename.startswith(("<frozen", "<__array_function__", *_LIBRARY_ROOTS, _PACKAGE_ROOT))


def _files_of(candidate: Any) -> set[str]:
    members = [candidate, *vars(candidate).values()] if isinstance(candidate, type) else [candidate]
    codes = [getattr(member, "__code__", None) for member in members]
    return {code.co_filename for code in codes if code is not None}


def _shapes(scope: Mapping[str, Any], line: str) -> str:
    """Arrays in scope, those named on the failing line first, six at most."""
    found = []
    for name, value in scope.items():
        shape = getattr(value, "shape", None)
        if shape is not None and hasattr(value, "dtype"):
            kind = str(value.dtype).replace("torch.", "")
            found.append((name not in line, name, f"{name}: {kind} {list(shape)}"))
    return "\n".join(text for _, _, text in sorted(found)[:6])


def _signature_sentence(error: BaseException, candidate: Any, reference: Any) -> str:
    import inspect

    def shown(thing: Any) -> str:
        try:
            parameters = inspect.signature(thing).parameters.values()
        except (TypeError, ValueError):
            return "(...)"
        return "(" + ", ".join(str(p).split(":")[0].split("=")[0].strip() for p in parameters) + ")"

    name = getattr(candidate, "__name__", "it")
    text = f"`{name}` could not be called: {_short(str(error), 200)}."
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
