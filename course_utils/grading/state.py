"""What a grading run remembers on disk, so that it can be ended at any moment and started again: a folder of small JSON files."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

VERSION = 1


class StateError(RuntimeError):
    """The folder belongs to another run, or another run is using it."""


def new_seed() -> int:
    """A secret seed for a run."""
    return secrets.randbits(62)


def read_seed_file(path: Path) -> int:
    """The seed in a seed file (`{"seed": 123}`); a new one is written if the file is not there."""
    if path.exists():
        try:
            seed = json.loads(path.read_text(encoding="utf-8"))["seed"]
        except (ValueError, KeyError, TypeError):
            raise StateError(f'{path} is not a seed file: it should hold {{"seed": 123}}') from None
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise StateError(f"the seed in {path} should be a whole number from 0 to 2**63 - 1")
        return seed
    seed = new_seed()
    _write(path, {"seed": seed}, private=True)
    return seed


class State:
    """Results of finished submissions below a folder. One run at a time; every file is whole or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "results").mkdir(parents=True, exist_ok=True)
        self._lock = open(folder / "lock", "w")  # noqa: SIM115  held for as long as the run
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise StateError(f"another grading run is using {folder}") from None

    def __enter__(self) -> State:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def settle(self, settings: dict[str, Any], seed: int | None) -> int:
        """The run's seed: the one this folder was started with. Other settings than then are refused."""
        path = self.folder / "run.json"
        held = _read(path)
        if held is None:
            seed = new_seed() if seed is None else seed
            _write(path, {"version": VERSION, "seed": seed, "settings": settings}, private=True)
            return seed
        if held.get("version") != VERSION or held.get("settings") != settings:
            raise StateError(
                f"{self.folder} holds a run with other settings: use the same ones, or another folder for a new run"
            )
        if seed is not None and seed != held["seed"]:
            raise StateError(f"{self.folder} holds a run with another seed")
        return int(held["seed"])

    def load(self, submission_id: str, key: str) -> dict[str, Any] | None:
        """The record of a submission that was graded with the same content, seed and exercises; None otherwise."""
        record = _read(self._path(submission_id))
        return record if record is not None and record.get("key") == key else None

    def save(self, submission_id: str, record: dict[str, Any]) -> None:
        _write(self._path(submission_id), record)

    def _path(self, submission_id: str) -> Path:
        return self.folder / "results" / f"{hashlib.sha256(submission_id.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_bytes()
        record = json.loads(text)
        body = json.dumps(record["data"], sort_keys=True)
        whole = record["sha256"] == hashlib.sha256(body.encode()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record["data"] if whole else None


def _write(path: Path, data: dict[str, Any], private: bool = False) -> None:
    """Beside, then rename. Not synced to the disk: after a power cut a torn file fails its checksum and is graded again."""
    if path.name == "run.json" or path.parent.name == "results":
        body = json.dumps(data, sort_keys=True)
        text = '{"sha256": "' + hashlib.sha256(body.encode()).hexdigest() + '", "data": ' + body + "}\n"
    else:
        text = json.dumps(data) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        if not private:
            os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
