"""The few Linux calls a sandbox needs and Python 3.11 lacks: namespaces, mounts, capabilities, prctl; each raises OSError."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 4, 8, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
CAP_DAC_READ_SEARCH = 2

SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_MOUNT_SETATTR = 442
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}

IS_LINUX = sys.platform == "linux"
MACHINE = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
KNOWN_MACHINE = MACHINE in SYS_PIVOT_ROOT

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """Give back a call's result, or raise OSError with its errno."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(what: str, number: int, *args: object) -> int:
    """A raw system call. Whole numbers are passed as longs, so that 64-bit flags survive."""
    libc.syscall.restype = ctypes.c_long
    return check(
        libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)), what
    )


def prctl(what: str, option: int, *args: int) -> int:
    filled = [*args, 0, 0, 0, 0][:4]
    return check(libc.prctl(option, *(ctypes.c_ulong(arg) for arg in filled)), what)


def unshare(flags: int) -> None:
    check(libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    check(libc.setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    result = libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    check(result, f"mount {source} on {target}")


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def bind_read_only(source: str, target: str) -> None:
    """Bind `source` with everything mounted below it at `target`, read-only, without set-uid programs and devices."""
    mount(source, target, flags=MS_BIND | MS_REC)
    attributes = _MountAttr(attr_set=MS_RDONLY | MS_NOSUID)
    at_fdcwd, recursive = -100, 0x8000
    try:
        syscall(
            "mount_setattr",
            SYS_MOUNT_SETATTR,
            at_fdcwd,
            ctypes.c_char_p(target.encode()),
            recursive,
            ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        )
    except OSError:  # before Linux 5.12: only the topmost mount, and flags that are locked must be repeated
        held = os.statvfs(target).f_flag
        keep = (
            (MS_NODEV if held & 4 else 0) | (MS_NOEXEC if held & 8 else 0) | (held & 0x400 and 1024) | (held & 0x1000)
        )
        mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | keep)


def pivot_root(new: str) -> None:
    """Make `new` the root folder and let go of the old one."""
    os.chdir(new)
    syscall("pivot_root", SYS_PIVOT_ROOT[MACHINE], ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))
    check(libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def map_own_user(uid: int, gid: int) -> None:
    """In a fresh user namespace: the same ids inside as outside. Needs a dumpable process."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def no_new_privileges() -> None:
    prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(yes: bool) -> None:
    """A process that is not dumpable cannot be read or traced through /proc by others of the same user."""
    prctl("dumpable", PR_SET_DUMPABLE, int(yes))


def become_subreaper() -> None:
    """Orphaned descendants become children of this process, so that it can end them."""
    prctl("subreaper", PR_SET_CHILD_SUBREAPER, 1)


def keep_only(capabilities: int) -> None:
    """Give up every capability that is not in the bit mask `capabilities`."""
    for number in range(64):
        if not capabilities >> number & 1 and libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break  # past the last capability, or not allowed to touch the bounding set
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    syscall("capset", SYS_CAPSET[MACHINE], header, data)


def change_user(uid: int, gid: int, capabilities: int = 0) -> None:
    """Become another user for good, keeping only `capabilities` (needs root)."""
    prctl("keepcaps", PR_SET_KEEPCAPS, 1 if capabilities else 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def landlock_abi() -> int:
    """Version of Landlock that the kernel offers; 0 where there is none."""
    if not (IS_LINUX and KNOWN_MACHINE):
        return 0
    try:
        return syscall("landlock", 444, ctypes.c_void_p(None), 0, 1)
    except OSError:
        return 0
