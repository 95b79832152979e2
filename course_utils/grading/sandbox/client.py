"""The trusted side of the sandbox: start the server, hand out jobs, read frames, keep the time, replace what dies."""

from __future__ import annotations

import array
import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from course_utils.grading import wire
from course_utils.grading.sandbox import confine, linux, seccomp
from course_utils.grading.sandbox.confine import LANDLOCK, LAYERS, NAMESPACES, SECCOMP, Limits

START_SECONDS = 180.0
TICK = 0.05
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/nonexistent",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",  # torch.compile would start a C++ compiler
    "MPLBACKEND": "Agg",
    "PLOTLY_RENDERER": "json",
    "COURSE_PROGRESS": "off",
    "COURSE_SOLUTIONS": "off",
}
"""All that a child's environment holds: nothing of the grader's own."""


class IsolationError(RuntimeError):
    """The isolation asked for is not to be had on this system."""


@dataclass(frozen=True)
class SandboxOptions:
    registry: str = "course_utils.exercises"
    """Module with `get(id)`; the server imports it."""
    exercises: tuple[str, ...] = ()
    preload: tuple[str, ...] = ("torch", "numpy")
    optimizers: bool = True
    """Whether the server makes an optimizer once, so that no child has to: the first one takes a second."""
    jobs: int = 1
    isolation: str = "auto"
    """`auto`, `limits`, or layers joined by `+`, such as `landlock+seccomp`."""
    limits: Limits = field(default_factory=Limits)
    wall: float = 600.0
    """Seconds after which the worker ends a child even if the trusted side says nothing."""
    read_only: tuple[str, ...] = ()
    """Further folders a child may read (the language model's files)."""
    spawn: bool = not linux.IS_LINUX
    """A fresh interpreter for each job instead of a fork: where fork after importing torch is not safe."""


@dataclass(frozen=True)
class Ended:
    """How an attempt's process went."""

    code: int | None = None
    signal: int | None = None
    why: str = ""
    """"" by itself; `time`, `files`, `asked`: ended by the grader; `lost`: the worker itself died."""
    cpu: float = 0.0


class Attempt(Protocol):
    """What the sandbox asks of a piece of work. A job that fails may be followed by another (next_job again)."""

    deadline: float

    def next_job(self) -> bytes | None: ...
    def on_frame(self, header: dict[str, Any], body: bytes) -> None: ...
    def on_end(self, ended: Ended, broken: str) -> None: ...


@dataclass
class _Slot:
    number: int
    control: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    attempt: Any = None
    result: int = -1
    reader: wire.Reader = field(default_factory=wire.Reader)
    confined: bool = False
    broken: str = ""
    told_to_stop: bool = False


_prepared: list[tuple[subprocess.Popen[bytes], socket.socket]] = []


def prepare(*, optimizers: bool = True) -> None:
    """Start a server for the next sandbox now: it imports torch while the trusted side does, not after."""
    if linux.IS_LINUX and not _prepared:
        _prepared.append(_start_server("optimizers" if optimizers else ""))


def _start_server(warm: str = "") -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A server that waits for its configuration, and our end of its control socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, _socket_kind())
    environment = {**ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[3])}
    for name in ("COURSE_CACHE", "LD_LIBRARY_PATH", "COURSE_TEST_PATH"):
        if name in os.environ:
            environment[name] = os.environ[name]
    process = subprocess.Popen(
        [sys.executable, "-s", "-P", "-B", "-m", "course_utils.grading.sandbox.server", str(theirs.fileno()), warm],
        env=environment,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("COURSE_SANDBOX_DEBUG") else subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # the terminal's Ctrl-C is for the grader; the server follows when its socket closes
    )
    theirs.close()
    return process, ours


class Sandbox:
    """A warm server and its slots. Use as a context manager; `run` grades attempts from an iterator as slots become free."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.layers: tuple[str, ...] = ()
        self.notes: list[str] = []
        self.restarts = 0
        self._base = Path(tempfile.mkdtemp(prefix="course-grade-", dir=_open_tmp()))
        self._base.chmod(0o711)
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._slots = [_Slot(number) for number in range(max(1, options.jobs))]
        self._selector = selectors.DefaultSelector()
        self._uids = _spare_uids(len(self._slots))

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def isolation(self) -> str:
        """The layers in force, such as `namespaces+landlock+seccomp`, or `limits`."""
        return "+".join(self.layers) or "limits"

    @property
    def strong(self) -> bool:
        """Whether hostile code is held: namespaces, or Landlock with seccomp."""
        return NAMESPACES in self.layers or {LANDLOCK, SECCOMP} <= set(self.layers)

    # -- start and stop -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Launch the server; it imports while the caller goes on. `ready` waits for it."""
        if not self.options.spawn:
            self._server, self._control = self._launch({"once": False})

    def ready(self, require: bool = False) -> None:
        """Wait for the server and find the strongest isolation that works here, by trying it."""
        wanted = candidates(self.options.isolation) if not self.options.spawn else [()]
        if not self.options.spawn:
            self._expect_ready(self._control)
        problem = ""
        for layers in wanted:
            self.layers = layers
            if require and not self.strong:
                break
            problem = self._try_layers()
            if not problem:
                return
            self.notes.append(f"{self.isolation}: {problem}")
        text = "; ".join(self.notes) or "nothing stronger than limits is available"
        raise IsolationError(
            f"the isolation asked for is not available on this system ({text}). `course doctor` says what is missing"
        )

    def _try_layers(self) -> str:
        """ "" if a job runs confined by `self.layers`, else what went wrong."""
        probe = _Probe()
        try:
            for _ in self.run(iter([probe])):
                pass
        except (IsolationError, OSError, EOFError) as error:
            return str(error)
        finally:
            for slot in self._slots:
                if probe.problem or not probe.done:
                    self._drop(slot)
        return probe.problem or ("" if probe.done else "the test job did not finish")

    def close(self) -> None:
        for slot in self._slots:
            self._drop(slot)
        if self._control is not None:
            self._control.close()
        if self._server is not None:
            try:
                self._server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self._control = self._server = None
        self._selector.close()
        shutil.rmtree(self._base, ignore_errors=True)

    def _launch(self, more: dict[str, Any]) -> tuple[subprocess.Popen[bytes], socket.socket]:
        process, ours = _prepared.pop() if _prepared else _start_server()
        options = self.options
        config = {
            "registry": options.registry,
            "exercises": options.exercises,
            "preload": options.preload,
            "optimizers": options.optimizers,
            "sys_path": [os.path.abspath(path) for path in sys.path if path],
            "read_only": options.read_only,
            "limits": asdict(options.limits),
            "wall": options.wall,
            "base": str(self._base),
            **more,
        }
        _send(ours, config)
        return process, ours

    def _expect_ready(self, control: socket.socket | None) -> dict[str, Any]:
        assert control is not None
        control.settimeout(START_SECONDS)
        try:
            data = control.recv(1 << 17)
        except TimeoutError:
            raise IsolationError(f"the sandbox server did not start within {START_SECONDS:.0f} s") from None
        finally:
            control.settimeout(None)
        if not data:
            raise IsolationError(
                "the sandbox server ended while starting (set COURSE_SANDBOX_DEBUG=1 to see its messages)"
            )
        message = json.loads(data)
        if not message.get("ready"):
            raise IsolationError(message.get("error", "the sandbox worker did not start"))
        return message

    def _ensure_worker(self, slot: _Slot) -> None:
        if slot.control is not None:
            return
        uid = self._uids[slot.number] if self._uids else None
        if self.options.spawn:
            slot.process, slot.control = self._launch({"once": True, "slot": slot.number, "uid": uid})
        else:
            if self._server is None or self._server.poll() is not None:
                self._restart_server()
            assert self._control is not None
            slot.control, theirs = socket.socketpair(socket.AF_UNIX, _socket_kind())
            _send(self._control, {"slot": slot.number, "uid": uid, "layers": self.layers}, [theirs.fileno()])
            theirs.close()
        self._expect_ready(slot.control)
        self._selector.register(slot.control, selectors.EVENT_READ, slot)

    def _restart_server(self) -> None:
        self.restarts += 1
        if self.restarts > 20:
            raise IsolationError("the sandbox server ended again and again")
        if self._control is not None:
            self._control.close()
        self._base.mkdir(mode=0o711, exist_ok=True)
        self._server, self._control = self._launch({"once": False})
        self._expect_ready(self._control)

    # -- work ---------------------------------------------------------------------------------------------------

    def run(self, attempts: Iterator[Any]) -> Iterator[Any]:
        """Work through `attempts` with all slots; give each back when it has no further job."""
        finished: list[Any] = []
        exhausted = False
        while True:
            for slot in self._slots:
                while slot.attempt is None and not exhausted:
                    attempt = next(attempts, None)
                    if attempt is None:
                        exhausted = True
                    elif not self._begin(slot, attempt):
                        finished.append(attempt)
            yield from finished
            finished.clear()
            if exhausted and not any(slot.attempt for slot in self._slots):
                return
            for key, _ in self._selector.select(TICK):
                slot = key.data
                if slot.attempt is None:
                    if key.fileobj is slot.control:  # an idle worker has nothing to say: it died
                        self._drop(slot)
                elif key.fileobj is slot.control and slot.process is not None and slot.process.poll() is None:
                    self._selector.unregister(slot.control)  # a fresh interpreter closes it before learner code runs
                elif key.fileobj is slot.control:
                    if (attempt := self._ended(slot)) is not None:
                        finished.append(attempt)
                elif key.fd == slot.result:
                    self._read(slot)
            now = time.monotonic()
            for slot in self._slots:
                if slot.attempt is not None and now > slot.attempt.deadline:
                    self._stop(slot)
                if slot.attempt and slot.process and slot.process.poll() is not None:
                    attempt = self._ended(slot)
                    finished += [attempt] if attempt else []

    def _begin(self, slot: _Slot, attempt: Any) -> bool:
        """Start the attempt's next job; False if it has none."""
        job = attempt.next_job()
        if job is None:
            return False
        try:
            self._ensure_worker(slot)
        except (OSError, IsolationError) as error:
            self._drop(slot)
            if self.restarts > 20 or isinstance(error, IsolationError):
                raise
            return self._begin(slot, attempt)
        result, theirs = os.pipe()
        os.set_blocking(result, False)
        memory = _as_file(job)
        slot.attempt, slot.result, slot.reader = attempt, result, wire.Reader()
        slot.confined, slot.broken, slot.told_to_stop = False, "", False
        try:
            assert slot.control is not None
            _send(slot.control, {"job": True}, [memory, theirs])
        except OSError:
            pass  # the worker has died: its closed socket says so in the next turn
        finally:
            os.close(memory)
            os.close(theirs)
        self._selector.register(result, selectors.EVENT_READ, slot)
        return True

    def _read(self, slot: _Slot) -> bool:
        """Read what there is; False at the end of the data."""
        try:
            data = os.read(slot.result, 1 << 20)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(slot.result)
            return False
        if slot.broken:
            return True
        try:
            for header, body in slot.reader.feed(data):
                self._frame(slot, header, body)
        except wire.WireError as error:
            slot.broken = str(error)
            self._stop(slot)
        return True

    def _frame(self, slot: _Slot, header: dict[str, Any], body: bytes) -> None:
        if slot.confined:
            slot.attempt.on_frame(header, body)
        elif header["kind"] == "confined":
            slot.confined = True
        else:  # learner code has not run yet: this is our own child's message
            slot.broken = f"could not be confined: {header.get('error')}"

    def _stop(self, slot: _Slot) -> None:
        if not slot.told_to_stop:
            slot.told_to_stop = True
            if slot.process is not None:
                with contextlib.suppress(OSError):
                    os.killpg(slot.process.pid, 9)
            elif slot.control is not None:
                with contextlib.suppress(OSError):
                    _send(slot.control, {"stop": True})

    def _ended(self, slot: _Slot) -> Any:
        """The worker says that the child has ended (or is gone itself): hand over, start the next job or give back."""
        ended = self._last_words(slot)
        while slot.result in self._selector.get_map() and self._read(slot):
            pass
        if slot.result in self._selector.get_map():
            self._selector.unregister(slot.result)
        os.close(slot.result)
        slot.result = -1
        attempt, slot.attempt = slot.attempt, None
        if not slot.confined and ended.why != "lost" and not isinstance(attempt, _Probe):
            raise IsolationError(slot.broken or "a child ended before it was confined")
        attempt.on_end(ended, slot.broken)
        return None if self._begin(slot, attempt) else attempt

    def _last_words(self, slot: _Slot) -> Ended:
        assert slot.control is not None
        data = b""
        if slot.process is None:
            with contextlib.suppress(OSError):
                data = slot.control.recv(1 << 16)
        if data:
            message = json.loads(data)
            return Ended(message["code"], message["signal"], message["why"], message["cpu"])
        process = slot.process
        self._drop(slot)
        if process is not None:
            code = process.returncode
            why = "asked" if slot.told_to_stop else ""
            return Ended(code if code >= 0 else None, -code if code < 0 else None, why)
        return Ended(why="lost")

    def _drop(self, slot: _Slot) -> None:
        if slot.control is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(slot.control)
            slot.control.close()
            slot.control = None
        if slot.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                slot.process.wait(timeout=0.5)  # it closed its socket, so it is ending
            with contextlib.suppress(OSError):
                os.killpg(slot.process.pid, 9)
            slot.process.wait()
            slot.process = None


class _Probe:
    """A job with nothing in it: does a child come up, confined, and say so?"""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + START_SECONDS
        self.done, self.problem, self._asked = False, "", False

    def next_job(self) -> bytes | None:
        if self._asked:
            return None
        self._asked = True
        return json.dumps({"cells": [], "exercises": [], "skip": [], "cell_seconds": 5, "packages": []}).encode()

    def on_frame(self, header: dict[str, Any], body: bytes) -> None:
        self.done = self.done or header["kind"] == "done"

    def on_end(self, ended: Ended, broken: str) -> None:
        self.problem = broken or ("the worker died" if ended.why == "lost" else "")


def candidates(isolation: str) -> list[tuple[str, ...]]:
    """Layers to try, strongest first."""
    if isolation == "limits":
        return [()]
    if isolation != "auto":
        layers = tuple(isolation.split("+"))
        if unknown := set(layers) - set(LAYERS):
            raise ValueError(
                f"unknown isolation {', '.join(sorted(unknown))}: use auto, limits or {' + '.join(LAYERS)}"
            )
        return [tuple(layer for layer in LAYERS if layer in layers)]
    if not (linux.IS_LINUX and linux.KNOWN_MACHINE):
        return [()]
    floor = [LANDLOCK] * bool(linux.landlock_abi()) + [SECCOMP] * seccomp.available()
    return [(NAMESPACES, *floor), *([tuple(floor)] if floor else []), ()]


def _socket_kind() -> int:
    return socket.SOCK_SEQPACKET if linux.IS_LINUX else socket.SOCK_DGRAM


def _send(control: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    control.sendmsg([json.dumps(message).encode()], ancillary)


def _as_file(data: bytes) -> int:
    """A readable file descriptor that holds `data` and has no name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("job", os.MFD_CLOEXEC)
        os.write(fd, data)
    else:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            fd = os.dup(file.fileno())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _open_tmp() -> str:
    """A folder for scratch that a user without rights can reach."""
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if os.path.isdir(folder) and all(parent.stat().st_mode & 1 for parent in (Path(folder), *Path(folder).parents)):
            return folder
    return tempfile.gettempdir()


def _spare_uids(count: int) -> list[int]:
    """A user id for each slot, if this process is root and may become another user; otherwise none."""
    if os.geteuid() != 0 or not linux.IS_LINUX:
        return []
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        inside = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except (OSError, ValueError):
        return []
    may_set_ids = int(fields["CapEff"], 16) >> 6 & 0b11 == 0b11
    mapped = any(start <= confine.FIRST_UID and start + length > confine.FIRST_UID + 480 for start, _, length in inside)
    first = os.getpid() * 16 % 464
    return [confine.FIRST_UID + (first + slot) % 480 for slot in range(count)] if may_set_ids and mapped else []
