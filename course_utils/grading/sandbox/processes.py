"""End every descendant of a process, and empty a scratch folder, whatever hostile code has left there."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from pathlib import Path


def descendants(root: int) -> list[int]:
    """Process ids below `root`, from /proc; empty where there is no /proc."""
    parents: dict[int, list[int]] = {}
    try:
        entries = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for name in entries:
        try:
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = [], [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def end_descendants(keep: frozenset[int] = frozenset(), seconds: float = 5.0) -> None:
    """Stop, then kill, all descendants of this process but `keep`, and reap them. This process must be a subreaper."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = [pid for pid in descendants(os.getpid()) if pid not in keep]
        if not found:
            return
        for step in (signal.SIGSTOP, signal.SIGKILL):  # a stopped process starts no others
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, step)
        for pid in found:
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)


def folder_bytes(folder: str, most: int) -> int:
    """Bytes held by files below `folder`, or `most` + 1 once it is clear that it is more (or cannot be measured)."""
    total, waiting, entries = 0, [folder], 0
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    entries += 1
                    status = entry.stat(follow_symlinks=False)
                    total += status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(entry.path)
                    if total > most or entries > 20_000 or len(entry.path) > 2000:
                        return most + 1
        except PermissionError:
            continue  # closed by its owner: nothing more is written there without being opened again
        except OSError:
            continue
    return total


def empty_folder(folder: str) -> None:
    """Remove everything in `folder`. Deep trees are flattened by renaming, so that no path becomes too long."""
    number = 0
    for _ in range(100_000):
        if not (names := os.listdir(folder)):
            return
        before = len(names)
        for name in names:
            path = os.path.join(folder, name)
            try:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    os.unlink(path)
                    continue
                os.chmod(path, 0o700)
                for inner in os.listdir(path):
                    inside = os.path.join(path, inner)
                    if stat.S_ISDIR(os.lstat(inside).st_mode):
                        os.chmod(inside, 0o700)  # moving a folder rewrites its `..`
                        number += 1
                        os.rename(inside, os.path.join(folder, f".flat-{os.getpid()}-{number}"))
                    else:
                        os.unlink(inside)
                os.rmdir(path)
            except OSError:
                continue
        if len(os.listdir(folder)) == before and not any(n.startswith(".flat-") for n in os.listdir(folder)):
            break  # nothing went away: give up rather than spin
