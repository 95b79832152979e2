"""Landlock: a process gives up, for good, every file outside a list of folders, TCP, and signals to others (Linux 5.13+)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from course_utils.grading.sandbox import linux

SYS_CREATE, SYS_ADD_RULE, SYS_RESTRICT = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3
ON_FILES = (1 << 0) | (1 << 1) | READ_FILE | (1 << 14) | (1 << 15)  # execute, write, read, truncate, device ioctl
EXECUTE, DEVICES = 1 << 0, (1 << 6) | (1 << 11) | (1 << 15)


class _Ruleset(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def handled_rights(abi: int) -> int:
    """Bit mask of the file rights that this version of Landlock can take away."""
    last = {1: 12, 2: 13, 3: 14, 4: 14}.get(abi, 15)
    return (1 << last + 1) - 1


def build(read_only: Iterable[str], read_write: Iterable[str], devices: Iterable[str] = ()) -> int:
    """A ruleset as a file descriptor: reading below `read_only`, everything but programs and devices below `read_write`."""
    abi = linux.landlock_abi()
    if not abi:
        raise OSError("this kernel has no Landlock")
    rights = handled_rights(abi)
    rules = _Ruleset(fs=rights, net=3 if abi >= 4 else 0, scoped=3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    fd = linux.syscall("landlock_create_ruleset", SYS_CREATE, ctypes.byref(rules), size, 0)
    for path in read_only:
        _allow(fd, path, (READ_FILE | READ_DIR) & rights)
    for path in read_write:
        _allow(fd, path, rights & ~EXECUTE & ~DEVICES)
    for path in devices:
        _allow(fd, path, READ_FILE | 1 << 1)
    return fd


def restrict_self(ruleset: int) -> None:
    """Apply a ruleset to this process and all it starts; it cannot be undone. Needs no_new_privs."""
    linux.syscall("landlock_restrict_self", SYS_RESTRICT, ruleset, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= ON_FILES
        rule = _Beneath(allowed=rights, parent_fd=fd)
        linux.syscall("landlock_add_rule", SYS_ADD_RULE, ruleset, 1, ctypes.byref(rule), 0)
    finally:
        os.close(fd)
