"""Submissions as files: find them (notebook, script, folder, nbgrader tree, zip) and read their cells without trusting a byte."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from course_utils.grading.wire import clean

SUFFIXES = (".ipynb", ".py")
MAX_FILE = 64 << 20
MAX_SOURCE = 2 << 20
MAX_CELLS = 2000
MAX_ZIP_TOTAL = 512 << 20
MAX_ZIP_FILES = 20_000
SKIPPED_FOLDERS = {"__pycache__", ".ipynb_checkpoints", ".git", "__MACOSX", ".venv", "node_modules"}

SETUP, ANSWER, CHECK, ADDED = "setup", "answer", "check", "added"
EXERCISE_ID = re.compile(r"^\d\d\.\d{1,3}$")


class BrokenSubmission(ValueError):
    """The file cannot be read as a submission; the message says why in words for its author."""


@dataclass(frozen=True)
class Submission:
    """One file to grade. `id` names it in every report; nbgrader's student and assignment are known for its tree."""

    id: str
    path: Path
    student: str = ""
    assignment: str = ""
    timestamp: str = ""

    @property
    def label(self) -> str:
        return clean(self.id, 300)


@dataclass(frozen=True)
class Cell:
    """A code cell and what it is for. `exercise` is the id that an answer or check cell belongs to."""

    role: str
    source: str
    exercise: str = ""
    points: Any = None
    """Points that an edited check cell claims; they count for nothing."""
    marked_answer: bool = True
    """False if the cell's metadata no longer says that it is a solution."""


@dataclass
class Parsed:
    """What a submission holds: cells in order, and remarks for its author."""

    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digest: str = ""
    script: bool = False
    """A script without markers: all of it is one cell."""


# -- finding -------------------------------------------------------------------------------------------------------


def find(paths: Iterable[Path], unpack_into: Path) -> list[Submission]:
    """Every submission below `paths`, sorted by id; ids are unique.

    A folder named `submitted`, or one that holds it, is read as nbgrader's tree (`submitted/STUDENT/ASSIGNMENT/*.ipynb`).
    Zip files are unpacked below `unpack_into`, at any level of a folder (one file a learner, as course platforms give them).
    """
    found: list[Submission] = []
    for number, path in enumerate(paths):
        found += _find_one(Path(path), unpack_into / f"zip-{number}")
    unique: dict[str, Submission] = {}
    for submission in sorted(found, key=lambda s: (s.id, str(s.path))):
        key, n = submission.id, 2
        while key in unique:
            key, n = f"{submission.id} ({n})", n + 1
        unique[key] = Submission(key, submission.path, submission.student, submission.assignment, submission.timestamp)
    return [unique[key] for key in sorted(unique)]


def _find_one(path: Path, unpack_into: Path) -> list[Submission]:
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path}")
    if path.is_dir():
        return _find_in_folder(path, unpack_into)
    if path.suffix == ".zip":
        return _find_in_zip(path, "", unpack_into)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is neither a notebook, a script, a zip file nor a folder")
    return [Submission(path.stem, path)]


def _find_in_folder(folder: Path, unpack_into: Path) -> list[Submission]:
    tree = folder if folder.name == "submitted" else folder / "submitted"
    if tree.is_dir() and any(tree.glob("*/*/*.ipynb")):
        return list(_nbgrader_tree(tree))
    found = []
    for number, file in enumerate(_files(folder)):
        name = file.relative_to(folder)
        if file.suffix == ".zip":
            found += _find_in_zip(file, f"{name.with_suffix('').as_posix()}/", unpack_into / str(number))
        else:
            found.append(Submission(name.with_suffix("").as_posix(), file))
    return found


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        for name in sorted(files):
            backup = name.startswith(".") or ".before-" in name  # `course reset` and `course release` keep such copies
            if Path(name).suffix in (*SUFFIXES, ".zip") and not backup:
                yield Path(root) / name


def _nbgrader_tree(tree: Path) -> Iterator[Submission]:
    for notebook in sorted(tree.glob("*/*/*.ipynb")):
        assignment, student = notebook.parent.name, notebook.parent.parent.name
        several = len(list(notebook.parent.glob("*.ipynb"))) > 1 or notebook.stem != assignment
        name = f"{student}/{assignment}" + (f"/{notebook.stem}" if several else "")
        yield Submission(name, notebook, student, assignment, _timestamp(notebook.parent / "timestamp.txt"))


def _timestamp(path: Path) -> str:
    try:
        return clean(read_bytes(path, 200).decode("utf-8", "replace").strip(), 60)
    except BrokenSubmission:
        return ""


def _find_in_zip(path: Path, prefix: str, into: Path) -> list[Submission]:
    try:
        unpack(path, into)
    except (BrokenSubmission, OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError) as error:
        # a submission that cannot be opened is still a submission: it is reported, not dropped
        placeholder = into.with_name(into.name + ".broken.ipynb")
        placeholder.parent.mkdir(parents=True, exist_ok=True)
        placeholder.write_text(json.dumps({"broken": f"the zip file cannot be used: {clean(str(error), 300)}"}))
        return [Submission(prefix.rstrip("/") or path.stem, placeholder)]
    inner = [Path(root) for root, _, _ in os.walk(into) if Path(root).name == "submitted"]
    if inner:
        return _find_in_folder(inner[0], into / ".more")
    return [Submission(f"{prefix}{s.id}", s.path) for s in _find_in_folder(into, into / ".more")]


def unpack(path: Path, into: Path) -> None:
    """Unpack a zip file's regular files, refusing bombs; links and paths that lead outside are left out."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_ZIP_FILES or sum(member.file_size for member in members) > MAX_ZIP_TOTAL:
            raise BrokenSubmission("it holds more than a submission needs")
        for member in members:
            name = PurePosixPath(member.filename.replace("\\", "/"))
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            if member.is_dir() or is_link or name.is_absolute() or ".." in name.parts:
                continue
            if name.suffix not in (*SUFFIXES, ".zip", ".txt") or SKIPPED_FOLDERS & set(name.parts):
                continue
            target = into.joinpath(*name.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as out:  # never trusts the size in the header
                _copy_capped(source, out)


def _copy_capped(source: IO[bytes], out: IO[bytes]) -> None:
    left = MAX_FILE
    while piece := source.read(1 << 20):
        left -= len(piece)
        if left < 0:
            raise BrokenSubmission("a file in it is larger than its header says")
        out.write(piece)


# -- reading -------------------------------------------------------------------------------------------------------


def read_bytes(path: Path, limit: int = MAX_FILE) -> bytes:
    """A regular file's bytes. Links, pipes and devices are refused: following them is what their author wants."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BrokenSubmission(f"the file cannot be opened ({error.strerror})") from None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenSubmission("this is not a regular file")
        if status.st_size > limit:
            raise BrokenSubmission(
                f"the file is larger than {limit >> 20} MB: clear the notebook's outputs and save it"
            )
        return file.read(limit + 1)[:limit]


def read(path: Path) -> Parsed:
    """The cells of a notebook or script. Raises BrokenSubmission where there is nothing to read."""
    raw = read_bytes(path)
    digest = hashlib.sha256(raw).hexdigest()
    parsed = _read_script(raw) if path.suffix == ".py" else _read_notebook(raw)
    parsed.digest = digest
    _remark(parsed)
    return parsed


def digest(path: Path) -> str:
    """SHA-256 of a submission's bytes; of nothing, if they cannot be read."""
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except BrokenSubmission:
        return hashlib.sha256(b"").hexdigest()


def _read_notebook(raw: bytes) -> Parsed:
    try:
        notebook = json.loads(decoded(raw))
    except RecursionError:
        raise BrokenSubmission("the notebook is nested too deeply to be one") from None
    except ValueError as error:
        raise BrokenSubmission(f"the file is not a notebook: {clean(str(error), 200)}") from None
    if not isinstance(notebook, dict) or "broken" in notebook:
        raise BrokenSubmission(
            clean(str(notebook.get("broken")), 400) if isinstance(notebook, dict) else "not a notebook"
        )
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise BrokenSubmission("the notebook has no cells (is it in the format of version 4?)")
    parsed = Parsed()
    if len(cells) > MAX_CELLS:
        parsed.notes.append(f"only the first {MAX_CELLS} of {len(cells)} cells were read")
    for number, cell in enumerate(cells[:MAX_CELLS], 1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = source_text(cell.get("source"))
        if source is None:
            parsed.notes.append(f"cell {number} has no readable source and was left out")
        else:
            parsed.cells.append(_notebook_cell(cell.get("metadata"), source))
    return parsed


def decoded(raw: bytes) -> str:
    """A file's bytes as text, whatever its encoding."""
    for encoding in ("utf-8-sig", "utf-16") if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def source_text(value: Any) -> str | None:
    """A notebook cell's source, which is a string or a list of lines; None if it is neither, or too long."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(value)
    if not isinstance(value, str) or len(value) > MAX_SOURCE:
        return None
    return value.encode("utf-8", "replace").decode()


def _notebook_cell(metadata: Any, source: str) -> Cell:
    metadata = metadata if isinstance(metadata, dict) else {}
    nbgrader = metadata.get("nbgrader")
    nbgrader = nbgrader if isinstance(nbgrader, dict) else {}
    grade_id = nbgrader.get("grade_id")
    grade_id = grade_id if isinstance(grade_id, str) else ""
    grade_id = re.sub(r"^(answer|check)-(\d\d)-(\d+)$", r"\2.\3-\1", grade_id[:40])  # `check-02-3`, as lessons.grade_id
    tags = metadata.get("tags")
    tags = tags if isinstance(tags, list) else []
    for role in (ANSWER, CHECK):
        exercise = grade_id.removesuffix(f"-{role}") if grade_id.endswith(f"-{role}") else metadata.get(role)
        if isinstance(exercise, str) and EXERCISE_ID.match(exercise):
            return Cell(role, source, exercise, nbgrader.get("points"), nbgrader.get("solution", True) is True)
    return Cell(SETUP if SETUP in tags else ADDED, source)


_MARKER = re.compile(r"^# %%(?P<rest>.*)$", re.MULTILINE)
_OPTION = re.compile(r"""\b(answer|check)\s*=\s*["']([^"'\n]{1,20})["']""")
_TAGS = re.compile(r"\btags\s*=\s*(\[[^\]\n]{0,400}\])")
_NBGRADER = re.compile(r"\bnbgrader\s*=\s*(\{[^\n]{0,2000}\})")


def _read_script(raw: bytes) -> Parsed:
    if len(raw) > MAX_SOURCE:
        raise BrokenSubmission(f"the script is larger than {MAX_SOURCE >> 20} MB")
    text = decoded(raw).replace("\r\n", "\n").replace("\r", "\n")
    marks = list(_MARKER.finditer(text))
    cells = []
    for mark, following in zip(marks, [*marks[1:], None]):
        rest = mark["rest"]
        if re.match(r"\s*.{0,200}\[(markdown|md|raw)\]", rest):
            continue
        source = text[mark.end() + 1 : following.start() if following else len(text)]
        cells.append(_notebook_cell(_script_metadata(rest), source.rstrip("\n")))
    if any(cell.role == ANSWER for cell in cells):
        return Parsed(cells)
    return Parsed([Cell(SETUP, text)], script=True)


def _script_metadata(rest: str) -> dict[str, Any]:
    metadata: dict[str, Any] = dict(_OPTION.findall(rest))
    for pattern, key in ((_TAGS, "tags"), (_NBGRADER, "nbgrader")):
        if match := pattern.search(rest):
            try:
                metadata[key] = json.loads(match[1])
            except (ValueError, RecursionError):
                continue
    return metadata


def _remark(parsed: Parsed) -> None:
    seen: dict[str, int] = {}
    for cell in parsed.cells:
        if cell.role == ANSWER:
            seen[cell.exercise] = seen.get(cell.exercise, 0) + 1
            if not cell.marked_answer:
                parsed.notes.append(
                    f"the answer cell of {cell.exercise} is no longer marked as a solution; it was read all the same"
                )
    for exercise, count in seen.items():
        if count > 1:
            parsed.notes.append(f"{exercise} has {count} answer cells; they were run in order, so the last one counts")


# -- which lesson --------------------------------------------------------------------------------------------------


def lessons_of(parsed: Parsed, name: str, exercises: Iterable[Any]) -> list[str]:
    """Numbers of the lessons a submission answers: from its cells, else its file's name, else the names it defines."""
    marked = {cell.exercise.split(".")[0] for cell in parsed.cells if cell.role in (ANSWER, CHECK)}
    known = {exercise.id.split(".")[0] for exercise in exercises}
    if marked & known:
        return sorted(marked & known)
    for part in reversed(PurePosixPath(name).parts):
        match = re.match(r"(?:lesson[_ -]?)?(\d\d)(?!\d)", part)
        if match and match[1] in known:
            return [match[1]]
    defined = set().union(*(names_defined(cell.source) for cell in parsed.cells))
    counts: dict[str, int] = {}
    for exercise in exercises:
        if exercise.answer in defined:
            number = exercise.id.split(".")[0]
            counts[number] = counts.get(number, 0) + 1
    return [max(sorted(counts), key=lambda number: counts[number])] if counts else []


def names_defined(source: str) -> set[str]:
    """Names that a source defines at its top level."""
    try:
        tree = ast.parse(plain_python(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = set()
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            names.add(statement.name)
        elif isinstance(statement, ast.Assign):
            names |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return names


def plain_python(source: str) -> str:
    """A cell's source without IPython's magic and shell lines; line numbers stay."""
    if not re.search(r"^\s*[%!]", source, re.MULTILINE):
        return source
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.split("\n"))
    return source
