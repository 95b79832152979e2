"""Put a process into its cage, layer by layer. The order of the steps is what makes each of them possible."""

from __future__ import annotations

import os
import resource
import signal
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from course_utils.grading.sandbox import landlock, linux, seccomp

NAMESPACES, LANDLOCK, SECCOMP = "namespaces", "landlock", "seccomp"
LAYERS = (NAMESPACES, LANDLOCK, SECCOMP)
SCRATCH = "/scratch"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
FIRST_UID = 60_700
"""Users 60578 to 61183 are set aside for nobody (systemd's list of ids): each slot of a root grader gets its own."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use; enforced by the kernel, and by the worker where the kernel has no such limit."""

    memory: int = 2 << 30
    """Bytes of address space beyond what the warm server already has."""
    cpu: int = 300
    """Seconds of processor time."""
    file_size: int = 64 << 20
    scratch: int = 128 << 20
    """Bytes of files in all."""
    open_files: int = 256
    threads: int = 64


# -- what may be read ----------------------------------------------------------------------------------------------


def readable_paths(package: Path, extra: list[str]) -> list[str]:
    """Folders and files a child may read: Python, installed packages, system libraries, this package. Nothing else."""
    wanted = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    wanted += [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages", "lib-dynload")]
    wanted += ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime"]
    wanted += ["/usr/share/zoneinfo", str(package), *extra]
    wanted += [str(Path(path).parent) for path in _mapped_libraries()]
    kept: list[str] = []
    for path in sorted({os.path.normpath(path) for path in wanted if os.path.exists(path)}, key=len):
        if path != "/" and not any(path == other or path.startswith(other + "/") for other in kept):
            kept.append(path)
    return kept


def _mapped_libraries() -> set[str]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return set()
    paths = {line.split(None, 5)[5] for line in lines if len(line.split(None, 5)) == 6}
    return {path for path in paths if path.startswith("/") and ".so" in Path(path).name and os.path.exists(path)}


def world_readable(path: str) -> bool:
    """Whether a user without rights can read this file, judged by mode bits alone."""
    file = Path(path).resolve()
    return bool(file.stat().st_mode & 4) and all(folder.stat().st_mode & 1 for folder in file.parents)


# -- the worker: once ----------------------------------------------------------------------------------------------


def enter_namespaces(read_only: list[str], new_root: str) -> None:
    """Own mounts, network, IPC and host name; a root folder that holds only `read_only`, a few devices and /scratch."""
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid != 0:
            raise PermissionError
        linux.unshare(flags)
    except PermissionError:
        linux.set_dumpable(True)  # or /proc/self/uid_map belongs to root
        linux.unshare(flags | linux.CLONE_NEWUSER)
        linux.map_own_user(uid, gid)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", new_root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,mode=755")
    for path in [*read_only, *DEVICES]:
        target = Path(new_root + path)
        if os.path.isdir(path):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        if path in DEVICES:
            linux.mount(path, str(target), flags=linux.MS_BIND)
        else:
            linux.bind_read_only(path, str(target))
    Path(new_root + SCRATCH).mkdir()
    if not os.path.lexists(
        new_root + "/tmp"
    ):  # a course installed below /tmp keeps its place; TMPDIR is scratch anyway
        os.symlink(SCRATCH, new_root + "/tmp")
    linux.pivot_root(new_root)
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("none", "/", flags=flags)


def threads_of_user(uid: int) -> int:
    """How many threads a user has now: RLIMIT_NPROC counts all of them."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*") if Path("/proc/self").exists() else ():
        try:
            if entry.stat().st_uid == uid:
                count += len(os.listdir(entry / "task"))
        except OSError:
            continue
    return count


# -- the child: for every submission -------------------------------------------------------------------------------


def confine(layers: tuple[str, ...], limits: Limits, scratch: str, uid: int | None, read_only: list[str]) -> None:
    """Cage this process. `uid` is the user to become (root graders only). Raises if any layer asked for is not there."""
    if NAMESPACES in layers:
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC)
        owner = uid if uid is not None else os.getuid()
        group = uid if uid is not None else os.getgid()
        options = f"size={limits.scratch},nr_inodes=8192,mode=700,uid={owner},gid={group}"
        linux.mount("tmpfs", scratch, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, options)
        read_only = ["/"]
    os.chdir(scratch)
    os.umask(0o077)
    extra_threads = 0 if uid is not None else threads_of_user(os.getuid()) + 256
    set_limits(limits, limits.threads + extra_threads)
    if not linux.IS_LINUX:
        return
    linux.no_new_privileges()
    if LANDLOCK in layers:  # the files are opened here, while this process may still see all of them
        ruleset = landlock.build(read_only, [scratch], DEVICES)
        landlock.restrict_self(ruleset)
        os.close(ruleset)
    give_up_rights(uid)
    linux.prctl("pdeathsig", linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if SECCOMP in layers:
        seccomp.install(freeze_attributes=uid is None and NAMESPACES not in layers)


def give_up_rights(uid: int | None) -> None:
    keep = 0
    if uid is not None:
        # a Python in root's home: reading stays, and Landlock or the mounts say what there is to read
        if not all(world_readable(path) for path in (os.__file__, __file__)):
            keep = 1 << linux.CAP_DAC_READ_SEARCH
        linux.change_user(uid, uid, keep)
    linux.keep_only(keep)


def set_limits(limits: Limits, processes: int) -> None:
    def limit(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))

    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, limits.cpu)
    limit(resource.RLIMIT_FSIZE, limits.file_size)
    limit(resource.RLIMIT_NOFILE, limits.open_files)
    if linux.IS_LINUX:
        limit(resource.RLIMIT_AS, _address_space() + limits.memory)
        limit(resource.RLIMIT_DATA, _address_space() + limits.memory)
        limit(resource.RLIMIT_NPROC, processes)
        limit(resource.RLIMIT_MEMLOCK, 0)
        limit(resource.RLIMIT_MSGQUEUE, 0)


_base_address_space = 0


def _address_space() -> int:
    return _base_address_space or 4 << 30


def remember_address_space() -> None:
    """Note how much address space the warm server has (before /proc is hidden)."""
    global _base_address_space
    try:
        _base_address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        _base_address_space = 0
