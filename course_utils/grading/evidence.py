"""Evidence for a person, from a submission's source: use of the reference, reaching into the grader. Nothing here changes a score."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from course_utils.grading.submissions import Parsed, plain_python
from course_utils.grading.wire import clean

PACKAGE = "course_utils"
REACHING = {
    "gc", "ctypes", "subprocess", "socket", "multiprocessing", "importlib", "_posixsubprocess", "faulthandler", "pty",
    "_ctypes", "mmap", "resource",
}  # fmt: skip
REACHING_CALLS = {"eval", "exec", "__import__", "compile", "breakpoint"}
REACHING_ATTRIBUTES = {
    "_getframe", "__subclasses__", "__globals__", "__code__", "__closure__", "f_back", "f_locals", "f_globals",
    "_current_frames", "settrace", "setprofile", "addaudithook", "_exit", "fork", "kill", "system", "popen", "execv",
    "currentframe", "set_override",
}  # fmt: skip
MAX_SOURCE = 300_000


def source_flags(parsed: Parsed, exercises: Iterable[Any], known_sources: frozenset[str]) -> list[str]:
    """Remarks with line numbers, such as ``02.3 line 4: `toy.loss` is the reference``; cells as released are not looked at."""
    by_id = {exercise.id: exercise for exercise in exercises}
    packages = reference_packages(by_id.values())
    imported: dict[str, str] = {}
    found: list[str] = []
    for cell in parsed.cells:
        if cell.role == "check":
            continue
        tree = _tree(cell.source)
        if tree is None:
            continue
        _collect_imports(tree, imported)
        if same_text(cell.source) in known_sources:
            continue
        where = cell.exercise or f"{cell.role} cell"
        subjects = [by_id[cell.exercise]] if cell.exercise in by_id else list(by_id.values())
        for line, text in sorted({*_reference_uses(tree, imported, subjects, packages), *_reaching(tree, imported)}):
            found.append(f"{where} line {line}: {text}")
    return list(dict.fromkeys(clean(flag, 300) for flag in found))[:50]


def reference_packages(exercises: Iterable[Any]) -> frozenset[str]:
    """Top-level packages that answers do not come from: the course's own, and those of the references."""
    modules = (getattr(exercise.reference, "__module__", None) for exercise in exercises)
    return frozenset({PACKAGE, *(name.split(".")[0] for name in modules if isinstance(name, str))})


def same_text(source: str) -> str:
    """A source without the differences that saving makes (trailing spaces, blank lines at the ends)."""
    return "\n".join(line.rstrip() for line in source.strip().splitlines())


def _tree(source: str) -> ast.Module | None:
    if len(source) > MAX_SOURCE:
        return None
    try:
        return ast.parse(plain_python(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _collect_imports(tree: ast.Module, imported: dict[str, str]) -> None:
    """Which name stands for which module or member: `from course_utils import toy as t` gives t -> course_utils.toy."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"


def _dotted(node: ast.AST, imported: dict[str, str]) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in imported:
        return None
    return ".".join([imported[node.id], *reversed(parts)])


def _resolve(dotted: str) -> Any:
    """The object that a dotted name of this package stands for, looking only at what is imported already."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is None:
            continue
        value: Any = module
        for part in parts[cut:]:
            value = inspect.getattr_static(value, part, None)
        return value
    return None


def _reference_uses(
    tree: ast.Module, imported: dict[str, str], exercises: list[Any], packages: frozenset[str]
) -> Iterator[tuple[int, str]]:
    references = {id(exercise.reference): exercise for exercise in exercises if exercise.reference is not None}
    for node in ast.walk(tree):
        dotted = None
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            dotted = _dotted(node, imported)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in packages:
            for alias in node.names:
                exercise = references.get(id(_resolve(f"{node.module}.{alias.name}")))
                if exercise is not None and len(exercises) == 1:
                    yield node.lineno, f"imports the reference `{node.module}.{alias.name}`"
                if node.module.startswith((f"{PACKAGE}.grading", f"{PACKAGE}.exercises")) or alias.name in (
                    "exercises",
                    "grading",
                ):
                    yield node.lineno, f"imports `{node.module}.{alias.name}`, the grader's own code"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith((f"{PACKAGE}.grading", f"{PACKAGE}.exercises")):
                    yield node.lineno, f"imports `{alias.name}`, the grader's own code"
        if dotted and dotted.split(".")[0] in packages:
            value = _resolve(dotted)
            if value is not None and id(value) in references:
                shown = ast.unparse(node)[:80]
                yield (
                    getattr(node, "lineno", 0),
                    f"`{shown}` is the reference of {references[id(value)].id} (`{dotted}`)",
                )


def _reaching(tree: ast.Module, imported: dict[str, str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in REACHING:
                    yield node.lineno, f"imports `{alias.name}`"
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in REACHING:
            yield node.lineno, f"imports from `{node.module}`"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REACHING_CALLS:
            yield node.lineno, f"calls `{node.func.id}`"
        elif isinstance(node, ast.Attribute) and node.attr in REACHING_ATTRIBUTES:
            yield node.lineno, f"uses `.{node.attr}`"
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
            targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
            for target in targets:
                dotted = _dotted(target, imported) if isinstance(target, ast.Attribute) else None
                if dotted:
                    yield node.lineno, f"changes `{dotted[:80]}`"
