"""What this system offers for trusted grading, found by trying, and what is missing; `course doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from course_utils.grading.sandbox import linux, seccomp

HOLDS = """\
what a submission tries                    namespaces   landlock+seccomp   limits only
forged, lying or oversized results         held         held               held
ends early, never ends, crashes            held         held               held
memory, output, file size                  held         held               held
reads solutions, classmates, home          held         held               NOT held
writes outside its scratch folder          held         held               only what another user could not
opens sockets                              held         held               NOT held
starts processes that stay                 held         held               found and ended (Linux)
signals the grader or others               held         held               held for a root grader, else NOT
reads the grader's memory                  held         held               held (not dumpable)
sees names and sizes of files              held         NOT held           NOT held
"""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `needed` says for what; `advice` what to do where it is missing."""

    name: str
    ok: bool
    detail: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(try_sandbox: bool = True) -> list[Finding]:
    """Look at everything; a look that fails is a finding, never an exception."""
    findings = [_safely(name, look) for name, look in LOOKS.items()]
    if try_sandbox:
        findings += [_safely(f"isolation: {layers}", _isolation(layers)) for layers in ISOLATIONS]
        findings.append(_safely("isolation in force by default", _isolation("auto")))
    return findings


def _safely(name: str, look: Callable[[], tuple[bool, str, str]]) -> Finding:
    try:
        ok, detail, advice = look()
    except Exception as error:
        return Finding(name, False, f"{type(error).__name__}: {error}")
    return Finding(name, ok, detail, "" if ok else advice)


def _python() -> tuple[bool, str, str]:
    return (
        sys.version_info >= (3, 11),
        f"{platform.python_version()} at {sys.executable}",
        "Python 3.11 or 3.12 is needed",
    )


def _packages() -> tuple[bool, str, str]:
    names = ("torch", "numpy", "nbgrader", "plotly", "scikit-learn", "distributed")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    return "missing" not in versions.values(), ", ".join(f"{k} {v}" for k, v in versions.items()), "run `make setup`"


def _system() -> tuple[bool, str, str]:
    advice = "without Linux there are limits only: grade in a container or a virtual machine"
    return linux.IS_LINUX, f"{platform.system()} {platform.release()} {platform.machine()}", advice


def _user() -> tuple[bool, str, str]:
    from course_utils.grading.sandbox.client import _spare_uids

    if os.geteuid() == 0:
        spare = bool(_spare_uids(1))
        return (
            spare,
            "root" + (": children become users without rights" if spare else ""),
            "root cannot change its user here",
        )
    return True, f"user {os.geteuid()}: children keep this user id", ""


def _user_namespaces() -> tuple[bool, str, str]:
    code = "from course_utils.grading.sandbox import linux as l; l.unshare(l.CLONE_NEWUSER | l.CLONE_NEWNS | l.CLONE_NEWNET)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    advice = "Landlock with seccomp is used instead where the kernel has it"
    if restricted.exists() and restricted.read_text().strip() == "1":
        advice = (
            "AppArmor forbids them: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile for this Python; "
            + advice
        )
    elif Path("/.dockerenv").exists():
        advice = "Docker's default profile forbids them: --security-opt seccomp=unconfined lets them through; " + advice
    return done.returncode == 0, "can be made" if done.returncode == 0 else reason, advice


def _landlock() -> tuple[bool, str, str]:
    abi = linux.landlock_abi()
    parts = ["files"] * (abi >= 1) + ["truncation"] * (abi >= 3) + ["TCP"] * (abi >= 4) + ["signals"] * (abi >= 6)
    return (
        abi > 0,
        f"version {abi} ({', '.join(parts)})" if abi else "none",
        "Linux 5.13 or newer with Landlock switched on has it",
    )


def _seccomp() -> tuple[bool, str, str]:
    return (
        seccomp.available(),
        "filters can be installed" if seccomp.available() else "none",
        "a kernel built with CONFIG_SECCOMP_FILTER has it",
    )


def _bubblewrap() -> tuple[bool, str, str]:
    path = shutil.which("bwrap")
    return True, f"{path} (not needed: namespaces are made directly)" if path else "not installed (not needed)", ""


def _scratch() -> tuple[bool, str, str]:
    from course_utils.grading.sandbox.client import _open_tmp

    folder = _open_tmp()
    free = shutil.disk_usage(folder).free >> 20
    return free > 500, f"{folder}, {free} MB free", "free some space, or set TMPDIR"


def _memory() -> tuple[bool, str, str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return total > 3000, f"{total} MB, {cores} processors", "use --jobs 1"


def _lessons() -> tuple[bool, str, str]:
    from course_utils import exercises

    numbers = exercises.lesson_numbers()
    count = sum(len(exercises.for_lesson(number)) for number in numbers)
    return (
        bool(numbers),
        f"{len(numbers)} lessons with {count} exercises",
        "the exercises are missing: is the course installed whole?",
    )


def _isolation(layers: str) -> Callable[[], tuple[bool, str, str]]:
    def look() -> tuple[bool, str, str]:
        from course_utils.grading.sandbox import IsolationError, Sandbox, SandboxOptions

        options = SandboxOptions(registry="course_utils.exercises", exercises=(), preload=(), isolation=layers)
        try:
            with Sandbox(options) as sandbox:
                sandbox.ready()
                strong = "holds hostile code" if sandbox.strong else "does not hold hostile code"
                return (
                    sandbox.strong or layers == "limits",
                    f"{sandbox.isolation}: a job ran in it; {strong}",
                    "see above",
                )
        except IsolationError as error:
            return False, str(error), "see the lines above"

    return look


ISOLATIONS = ("namespaces", "landlock+seccomp", "limits")
LOOKS: dict[str, Callable[[], tuple[bool, str, str]]] = {
    "Python": _python,
    "packages": _packages,
    "exercises": _lessons,
    "system": _system,
    "user": _user,
    "user namespaces": _user_namespaces,
    "Landlock": _landlock,
    "seccomp": _seccomp,
    "bubblewrap": _bubblewrap,
    "scratch": _scratch,
    "memory": _memory,
}
