"""The warm server: imports torch once, forks a worker for each slot, and each worker a fresh caged child for each job.

Started by exec (`python -m course_utils.grading.sandbox.server FD`), never by fork of the trusted process, so that its memory
holds no seed, no expected value and no other submission. It is single-threaded. When its control socket closes, because
the grader ended in whatever way, it ends everything it started.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from course_utils.grading.sandbox import child, confine, linux, processes

CONFINEMENT_FAILED = 97
POLL_SECONDS = 0.1


def receive(control: socket.socket, most_fds: int = 2) -> tuple[dict[str, Any] | None, list[int]]:
    """One message from the trusted side, with file descriptors; None once it has gone."""
    size = array.array("i").itemsize
    try:
        data, ancillary, _, _ = control.recvmsg(1 << 17, socket.CMSG_SPACE(most_fds * size))
    except (ConnectionResetError, BrokenPipeError):
        return None, []
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % size])
    return (json.loads(data) if data else None), list(fds)


def reply(control: socket.socket, **message: Any) -> None:
    with contextlib.suppress(OSError):
        control.sendall(json.dumps(message).encode())


# -- the server ----------------------------------------------------------------------------------------------------


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    warm_torch(optimizers="optimizers" in sys.argv[2:])  # while the trusted side is still importing its own
    config, _ = receive(control)
    if config is None:
        return
    if linux.IS_LINUX:
        linux.become_subreaper()
    registry = warm_up(config)
    config["read_only"] = confine.readable_paths(Path(__file__).parents[2], config["read_only"])
    if config["once"]:
        serve_once(control, config, registry)
        return
    gc.collect()
    gc.freeze()  # the collector must not touch, and so copy, every page of a forked child
    confine.remember_address_space()
    reply(control, ready=True, threads=len(os.listdir("/proc/self/task")))
    workers: set[int] = set()
    try:
        serve(control, config, registry, workers)
    finally:
        with contextlib.suppress(OSError):  # workers see their own socket close; this is for one that does not
            time.sleep(0.05)
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
        processes.end_descendants()
        shutil.rmtree(config["base"], ignore_errors=True)


def warm_torch(*, optimizers: bool) -> None:
    """What the first use of torch costs, paid once here instead of in every child."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return
    torch.set_num_threads(1)
    x = torch.ones(8, 8, requires_grad=True)  # first use looks at /proc and picks kernels
    (torch.nn.functional.softmax(x @ x, dim=0) @ torch.linalg.inv(torch.eye(8))).sum().backward()
    if optimizers:
        torch.optim.Adam([x]).step()  # the first optimizer imports the compiler


def warm_up(config: dict[str, Any]) -> Any:
    """Import what every child needs, and take out of it what no child may have."""
    warm_torch(optimizers=config["optimizers"])
    sys.path[:] = config["sys_path"]
    for name in config["preload"]:
        with contextlib.suppress(Exception):  # a learner may import what is not installed
            importlib.import_module(name)
    registry = importlib.import_module(config["registry"])
    exercises = [registry.get(exercise_id) for exercise_id in config["exercises"]]
    for exercise in exercises:
        child.hide_reference(exercise)
    from course_utils import notebook

    for verb in ("check", "hint", "solution", "progress", "reset"):
        setattr(notebook, verb, _nothing)
    return registry


def _nothing(*args: Any, **kwargs: Any) -> None:
    """`check`, `hint` and the like inside a submission: grading happens elsewhere."""


def serve(control: socket.socket, config: dict[str, Any], registry: Any, workers: set[int]) -> None:
    while True:
        ready, _, _ = select.select([control], [], [], 0.5)
        for pid in _reap():
            workers.discard(pid)
        strays = [pid for pid in _children() if pid not in workers]
        if strays:  # a worker died and left a child behind
            processes.end_descendants(keep=frozenset(workers.union(*map(_below, workers))))
        if not ready:
            continue
        message, fds = receive(control)
        if message is None:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            work(socket.socket(fileno=fds[0]), {**config, **message}, registry)
        workers.add(pid)
        for fd in fds:
            os.close(fd)


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _below(pid: int) -> set[int]:
    return set(processes.descendants(pid))


def _reap() -> list[int]:
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.append(pid)
    return ended


# -- a worker ------------------------------------------------------------------------------------------------------


def work(control: socket.socket, config: dict[str, Any], registry: Any) -> NoReturn:
    """One slot: prepare the cage, then fork a child for each job, one after another."""
    try:
        worker = Worker(control, config, registry)
    except OSError as error:
        reply(control, ready=False, error=str(error))
        os._exit(1)
    reply(control, ready=True)
    try:
        while True:
            message, fds = receive(control)
            if message is None:
                break
            worker.run(*fds)
    finally:
        os._exit(0)


class Worker:
    def __init__(self, control: socket.socket, config: dict[str, Any], registry: Any) -> None:
        self.control, self.registry = control, registry
        self.layers = tuple(config["layers"])
        self.limits = confine.Limits(**config["limits"])
        self.wall = float(config["wall"])
        self.uid = config["uid"]
        self.read_only = config["read_only"]
        self.base = Path(config["base"]) / f"slot-{config['slot']}"
        linux.become_subreaper()
        linux.prctl("pdeathsig", linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if confine.NAMESPACES in self.layers:
            self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            self.base.mkdir(parents=True, exist_ok=True)
            confine.enter_namespaces(self.read_only, str(self.base))
            self.scratch = confine.SCRATCH
        else:
            self.scratch = str(self.base)
            self.base.mkdir(mode=0o700, parents=True, exist_ok=True)
            processes.empty_folder(self.scratch)
            if self.uid is not None:
                os.chown(self.scratch, self.uid, self.uid)
        linux.set_dumpable(False)
        os.environ.update(HOME=self.scratch, TMPDIR=self.scratch)

    def run(self, job: int, result: int) -> None:
        """Fork, wait, end what is left, say how it went."""
        started = time.monotonic()
        if confine.NAMESPACES in self.layers:
            linux.unshare(linux.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            self._child(job, result)
        if confine.NAMESPACES in self.layers:
            linux.setns(self.own_pids, linux.CLONE_NEWPID)  # the next child gets a namespace of its own again
        os.close(job)
        os.close(result)
        why = self._wait(pid, started + self.wall)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        if confine.NAMESPACES not in self.layers:
            processes.end_descendants()
            processes.empty_folder(self.scratch)
        reply(
            self.control,
            ended=True,
            code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            why=why,
            cpu=round(usage.ru_utime + usage.ru_stime, 4),
        )
        if why == "gone":
            os._exit(0)

    def _wait(self, pid: int, deadline: float) -> str:
        """Wait for the child to end by itself (""), or say why it must be ended."""
        process = os.pidfd_open(pid)
        poller = select.poll()
        poller.register(process, select.POLLIN)
        poller.register(self.control, select.POLLIN)
        watch_files = confine.NAMESPACES not in self.layers
        try:
            while True:
                events = dict(poller.poll(POLL_SECONDS * 1000))
                if self.control.fileno() in events:
                    message, _ = receive(self.control)
                    return "asked" if message else "gone"
                if process in events:
                    return ""
                if time.monotonic() > deadline:
                    return "time"
                if watch_files and processes.folder_bytes(self.scratch, self.limits.scratch) > self.limits.scratch:
                    return "files"
        finally:
            os.close(process)

    def _child(self, job: int, result: int) -> NoReturn:
        """Never returns to the worker's code, whatever happens."""
        leave = os._exit
        try:
            os.setsid()
            _only_these_open(job, result)
            try:
                confine.confine(self.layers, self.limits, self.scratch, self.uid, self.read_only)
            except OSError as error:
                child._send(result, {"kind": "unconfined", "error": str(error)})
                leave(CONFINEMENT_FAILED)
            child._send(result, {"kind": "confined"})
            child.run_job(_read_all(job), result, self.registry.get)
            leave(0)
        except BaseException:
            leave(1)
        finally:
            leave(1)
        while True:  # hostile code may have replaced the ways out
            signal.pause()


def _only_these_open(*keep: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 65536)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


# -- where fork is not safe (macOS) --------------------------------------------------------------------------------


def serve_once(control: socket.socket, config: dict[str, Any], registry: Any) -> None:
    """A fresh interpreter for each submission: limits only, no warm start."""
    limits = confine.Limits(**config["limits"])
    scratch = str(Path(config["base"]) / f"slot-{config['slot']}")
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    if config["uid"] is not None:
        os.chown(scratch, config["uid"], config["uid"])
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    confine.remember_address_space()
    reply(control, ready=True, threads=1)
    message, fds = receive(control)
    if message is None:
        return
    control.close()
    job, result = fds
    _only_these_open(job, result)  # the trusted side has made this process the leader of a session already
    try:
        confine.confine((), limits, scratch, config["uid"], config["read_only"])
    except OSError as error:
        child._send(result, {"kind": "unconfined", "error": str(error)})
        os._exit(CONFINEMENT_FAILED)
    child._send(result, {"kind": "confined"})
    child.run_job(_read_all(job), result, registry.get)
    os._exit(0)


if __name__ == "__main__":
    # the module that children use must be the imported one, not this `__main__` copy
    from course_utils.grading.sandbox import server

    server.main()
