"""Inside the cage: run a submission's cells, run the probes on what they define, write down what was seen. Trusted with nothing."""

from __future__ import annotations

import ast
import inspect
import json
import linecache
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from course_utils.grading import wire
from course_utils.grading.exercise import Exercise
from course_utils.grading.sandbox.alarm import alarm

Get = Callable[[str], Exercise]
ANSWER_FILE = "<answer"
_called: set[str] = set()


def run_job(raw: bytes, out: int, get: Get) -> None:
    """Run one job (cells, exercises, seeds) and write frames to the file descriptor `out`."""
    job = json.loads(raw)
    names = _fresh_module()
    candidates: dict[str, Any] = {}
    for index, cell in enumerate(job["cells"]):
        if index in job["skip"]:
            continue
        _send(out, {"kind": "step", "cell": index})
        problem = _run_cell(cell, index, names, job["cell_seconds"])
        if problem:
            _send(out, {"kind": "cell_error", "cell": index, **problem})
        if cell["exercise"] and (answer := get(cell["exercise"]).answer) in names:
            candidates[cell["exercise"]] = names[answer]
    for task in job["exercises"]:
        exercise = get(task["id"])
        _send(out, {"kind": "step", "exercise": exercise.id})
        missing = object()
        candidate = candidates.get(exercise.id, names.get(exercise.answer, missing))
        if candidate is missing:
            _send(out, {"kind": "missing", "exercise": exercise.id})
            continue
        _called.clear()
        cases, body = wire.encode_observations(exercise.observe(candidate, task["seed"]))
        header: dict[str, Any] = {"kind": "observations", "exercise": exercise.id, "cases": cases}
        header["origin"] = _origin(candidate, job["packages"])
        header["calls_reference"] = exercise.id in _called
        _send(out, header, body)
    _send(out, {"kind": "done"})


def _send(out: int, header: dict[str, Any], body: bytes = b"") -> None:
    data = memoryview(wire.frame(header, body))
    while data:
        data = data[os.write(out, data) :]


# -- cells ---------------------------------------------------------------------------------------------------------


def _fresh_module() -> dict[str, Any]:
    module = types.ModuleType("answers")
    sys.modules["answers"] = module  # dataclasses and typing look a class's module up
    module.__dict__.update(display=lambda *args, **kwargs: None, get_ipython=_NoShell)
    return module.__dict__


class _NoShell:
    """Stands in for the notebook's shell: whatever is asked of it does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def _run_cell(cell: dict[str, Any], index: int, names: dict[str, Any], seconds: float) -> dict[str, str] | None:
    """Run one cell; give back what went wrong, if anything did."""
    label = f"{ANSWER_FILE} {cell['exercise']}>" if cell["exercise"] else f"{ANSWER_FILE} {cell['role']} {index}>"
    source = cell["source"]
    linecache.cache[label] = (len(source), None, source.splitlines(keepends=True), label)
    try:
        code = compile(_chosen(source, cell["role"], label), label, "exec", dont_inherit=True)
        with alarm(seconds):
            exec(code, names)
    except NotImplementedError:
        return {"error": "NotImplementedError", "message": "", "line": ""}
    except SyntaxError as error:
        return {"error": "SyntaxError", "message": str(error.msg), "line": _line(source, error.lineno)}
    except BaseException as error:  # SystemExit and the alarm as well
        message = str(error)
        if isinstance(error, EOFError):
            message += " (`input()` cannot be used: nobody is there to type)"
        return {"error": type(error).__name__, "message": message, "line": _failing_line(error, label, source)}
    return None


def _chosen(source: str, role: str, label: str) -> ast.Module:
    """What of a cell is run: all of it, or only the definitions of a cell that the learner added."""
    tree = ast.parse(source, label)
    if role == "added":
        tree.body = [statement for statement in tree.body if defines(statement)]
    return tree


def defines(statement: ast.stmt) -> bool:
    """Whether a statement only gives names to things: imports, functions, classes, literal values."""
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return True
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
        try:
            ast.literal_eval(statement.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return False
        return True
    return False


def _failing_line(error: BaseException, label: str, source: str) -> str:
    number = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == label:
            number = trace.tb_lineno
        trace = trace.tb_next
    return _line(source, number)


def _line(source: str, number: int | None) -> str:
    lines = source.splitlines()
    if number is None or not 0 < number <= len(lines):
        return ""
    return f"line {number}: {lines[number - 1].strip()}"[:300]


# -- evidence that the reference was used ---------------------------------------------------------------------------


def _origin(candidate: Any, packages: list[str]) -> str:
    """Where an answer was defined, if that is one of the course's packages."""
    module = getattr(candidate, "__module__", "")
    return module if isinstance(module, str) and module.split(".")[0] in packages else ""


def hide_reference(exercise: Exercise) -> None:
    """Take reference, mistakes and alternatives out of an exercise (a child's copy), and notice calls of the reference.

    The cases need only the reference's kind and signature. The function itself can still be imported from this package:
    calls of it from learner code are noted as evidence for a person; the note is not proof against hostile code.
    """
    reference = exercise.reference
    exercise.mistakes, exercise.alternatives = {}, {}
    if not callable(reference):
        exercise.reference = None
        return
    try:
        signature: inspect.Signature | None = inspect.signature(reference)
    except (TypeError, ValueError):
        signature = None
    _spy(exercise.id, reference, signature)
    exercise.reference = _stand_in(reference, signature)


def _stand_in(reference: Any, signature: inspect.Signature | None) -> Any:
    name = getattr(reference, "__name__", "reference")
    extra = {"__signature__": signature} if signature else {}
    if inspect.isclass(reference):
        return type(name, (), extra)

    def stand_in(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the reference is not here")

    stand_in.__name__ = name
    stand_in.__dict__.update(extra)
    return stand_in


def _spy(exercise_id: str, reference: Any, signature: inspect.Signature | None) -> None:
    def note() -> None:
        if sys._getframe(2).f_code.co_filename.startswith(ANSWER_FILE):
            _called.add(exercise_id)

    if inspect.isclass(reference):
        original_init = reference.__init__

        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            note()
            original_init(self, *args, **kwargs)

        try:
            reference.__init__ = init  # type: ignore[method-assign]
            reference.__signature__ = signature  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            pass  # a class written in C
    elif isinstance(reference, types.FunctionType) and not reference.__code__.co_freevars:
        key = "__noted_" + exercise_id.replace(".", "_")
        copy = types.FunctionType(
            reference.__code__, reference.__globals__, reference.__name__, reference.__defaults__, None
        )
        copy.__kwdefaults__ = reference.__kwdefaults__
        reference.__globals__[key] = (note, copy)
        # the code object is exchanged, so that every name and container that holds the function is covered
        source = f"def f(*args, **kwargs):\n    {key}[0]()\n    return {key}[1](*args, **kwargs)\n"
        made: dict[str, Any] = {}
        exec(compile(source, "<reference>", "exec"), made)
        reference.__code__ = made["f"].__code__
        reference.__kwdefaults__ = None
        if signature:
            reference.__signature__ = signature  # type: ignore[attr-defined]
