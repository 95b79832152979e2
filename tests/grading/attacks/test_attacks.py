"""Every attack under every kind of isolation: no wrong score, no effect on others, nothing left running, nothing written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import make
import pytest
import suite

from course_utils.grading import batch, submissions
from course_utils.grading.sandbox import client, linux, seccomp
from course_utils.grading.sandbox.processes import descendants

ISOLATIONS = ["namespaces+landlock+seccomp", "landlock+seccomp", "namespaces"]
HONEST = 8
JOBS = 2


@dataclass
class Outcome:
    report: batch.Report
    by_id: dict[str, dict]
    changed: list[str]
    connections: list[bytes]
    left_running: list[str]
    scratch_left: list[str]
    package_changed: bool


@dataclass
class Canaries:
    """Things an attack must not reach: files, sockets."""

    outside: Path
    heard: list[bytes] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def open(self) -> dict[str, str]:
        (self.outside / "solutions").mkdir(parents=True)
        (self.outside / "home").mkdir()
        (self.outside / "home" / "secret").write_text("a secret")
        (self.outside / "shared").mkdir()
        (self.outside / "shared").chmod(0o1777)  # whatever the umask says
        source = "import torch\nfrom torch import nn\n" + "\n".join(make.RIGHT.values())
        (self.outside / "solutions" / "90_demo.py").write_text(source)
        (self.outside / "gradebook.db").write_bytes(b"SQLite format 3\0 and the grades")
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        unix = socket.socket(socket.AF_UNIX)
        unix_path = self.outside / "u"
        unix.bind(str(unix_path))
        abstract = socket.socket(socket.AF_UNIX)
        abstract_name = f"course-attack-{os.getpid()}-{id(self)}"
        abstract.bind(f"\0{abstract_name}")
        for listening in (unix, abstract):
            listening.listen()
        self.sockets = [tcp, udp, unix, abstract]
        for one in (tcp, unix, abstract):
            threading.Thread(target=self._accept, args=(one,), daemon=True).start()
        threading.Thread(target=self._receive, args=(udp,), daemon=True).start()
        return {
            "PORT": str(tcp.getsockname()[1]),
            "UDP": str(udp.getsockname()[1]),
            "UNIXPATH": str(unix_path),
            "ABSTRACT": abstract_name,
        }

    def _accept(self, listening: socket.socket) -> None:
        try:
            while True:
                connection, _ = listening.accept()
                self.heard.append(b"connected: " + connection.recv(100))
        except OSError:
            return

    def _receive(self, udp: socket.socket) -> None:
        try:
            while data := udp.recv(100):
                self.heard.append(data)
        except OSError:
            return

    def close(self) -> None:
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def snapshot(*folders: Path) -> dict[str, str]:
    """Kind, mode, time of change and content of everything below folders."""
    seen = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            status = path.lstat()
            content = ""
            if path.is_file() and not path.is_symlink() and status.st_size < 1 << 20:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            seen[str(path)] = f"{status.st_mode:o} {status.st_mtime_ns} {status.st_size} {content}"
    return seen


def processes(others: frozenset[int] = frozenset()) -> set[str]:
    """Processes that this grading run could have left: below this one, or of the users set aside for it.

    What other tests started (a browser, say) and its children do not count.
    """
    own_users = set(client._spare_uids(JOBS))
    not_ours = others.union(*(descendants(pid) for pid in others))
    ours = set(descendants(os.getpid())) - not_ours
    found = set()
    for pid in {int(entry.name) for entry in Path("/proc").glob("[0-9]*")}:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            owner = Path(f"/proc/{pid}").stat().st_uid
        except OSError:
            continue
        if owner in own_users or pid in ours:
            found.add(f"{pid} {command} {owner}")
    return found


def grade_all(isolation: str, folder: Path, attacks: list[suite.Attack]) -> Outcome:
    work, outside = folder / "submissions", folder / "outside"
    work.mkdir(parents=True)
    canaries = Canaries(outside)
    places = canaries.open()
    memory = Path(f"/dev/shm/attack-{os.getpid()}-{isolation}")
    places |= {
        "OUTSIDE": str(outside),
        "SUBMISSIONS": str(work),
        "GRADER": str(os.getpid()),
        "SHAREDMEMORY": str(memory),
    }
    for number in range(HONEST):
        make.write(work, f"honest-{number:02}.ipynb", make.notebook())
        make.write(work, f"wrong-{number:02}.ipynb", make.notebook(make.WRONG))
    for attack in attacks:
        suite.build(attack, work, places)
    package = [Path(batch.__file__).parents[1]]
    before, code_before = snapshot(work, outside), snapshot(*package)
    others = frozenset(descendants(os.getpid()))
    running = processes(others)
    scratch = folder / "tmp"
    scratch.mkdir(mode=0o755)
    usual, tempfile.tempdir = tempfile.tempdir, str(scratch)
    found = submissions.find([work], folder / "unpacked")
    settings = batch.Settings(
        registry="demo_lesson", seed=20, jobs=JOBS, isolation=isolation, cell_seconds=1.5, timeout=20.0, memory_mb=1500
    )
    try:
        report = batch.grade(found, settings)
    finally:
        tempfile.tempdir = usual
    after = snapshot(work, outside)
    if memory.exists():
        after[str(memory)] = "made"
        memory.unlink()
    canaries.close()
    code_after = {path: text for path, text in snapshot(*package).items() if "__pycache__" not in path}
    return Outcome(
        report,
        {result["id"]: result for result in report.results},
        sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)),
        canaries.heard,
        sorted(processes(others) - running),
        sorted(path.name for path in scratch.iterdir()),
        any("attack-was-here" in path for path in code_after) or not code_before,
    )


def available(isolation: str) -> bool:
    layers = isolation.split("+")
    if "landlock" in layers and not linux.landlock_abi():
        return False
    return "seccomp" not in layers or seccomp.available()


@pytest.fixture(scope="module", params=ISOLATIONS)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    if not available(request.param):
        pytest.skip(f"this kernel does not offer {request.param}")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(batch, "GRACE", 1.0)
    # not below pytest's own folder, which is closed to other users: that alone would hold some attacks
    folder = tmp_path_factory.mktemp("attacks")
    for parent in (folder, folder.parent, folder.parent.parent):
        with contextlib.suppress(PermissionError):
            parent.chmod(0o755)
    try:
        yield grade_all(request.param, folder, suite.ATTACKS)
    except batch.IsolationError as error:
        pytest.skip(str(error))
    finally:
        monkeypatch.undo()


def test_the_isolation_asked_for_is_in_force(outcome: Outcome) -> None:
    assert outcome.report.isolation in ISOLATIONS


def test_no_attack_gets_a_wrong_score(outcome: Outcome) -> None:
    wrong = {}
    for attack in suite.ATTACKS:
        results = [r for r in outcome.report.results if r["id"].split("/")[0] == f"attack-{attack.name}"]
        assert results, f"{attack.name} is not in the report"
        score = sum(result["score"] for result in results)
        if score != attack.expect:
            wrong[attack.name] = (
                score,
                attack.expect,
                results[0]["notes"],
                [e["feedback"] for e in results[0]["exercises"]][:2],
            )
    assert wrong == {}


def test_honest_submissions_between_them_get_what_they_earn(outcome: Outcome) -> None:
    for number in range(HONEST):
        assert outcome.by_id[f"honest-{number:02}"]["score"] == suite.FULL
        assert outcome.by_id[f"honest-{number:02}"]["notes"] == []
        assert outcome.by_id[f"wrong-{number:02}"]["score"] == 0
        assert [e["status"] for e in outcome.by_id[f"wrong-{number:02}"]["exercises"]] == ["failed"] * 10


def test_no_submission_reads_what_is_not_its_own(outcome: Outcome) -> None:
    assert [r["id"] for r in outcome.report.results if "LEAK" in str(r)] == []


def test_use_of_the_reference_is_flagged(outcome: Outcome) -> None:
    for attack in suite.ATTACKS:
        if attack.flag:
            flags = " ".join(outcome.by_id[f"attack-{attack.name}"]["flags"])
            assert attack.flag in flags, (attack.name, flags)


def test_files_outside_scratch_stay_as_they_are(outcome: Outcome) -> None:
    assert outcome.changed == []
    assert not outcome.package_changed
    assert outcome.scratch_left == []


def test_nothing_is_left_running(outcome: Outcome) -> None:
    assert outcome.left_running == []


def test_nothing_reaches_the_network(outcome: Outcome) -> None:
    assert outcome.connections == []


def test_feedback_holds_no_control_characters_and_no_inputs(outcome: Outcome) -> None:
    markup = str(outcome.by_id["attack-markup"])
    assert "\x1b" not in markup
    assert "\u202e" not in markup
    leak = outcome.by_id["attack-expect-in-message"]["exercises"][0]["feedback"]
    assert "#" in str(leak)
    assert "." not in str(leak).split("ValueError")[1].split("line")[0].replace("...", "")


def test_there_are_enough_attacks_of_every_class() -> None:
    kinds = {attack.kind for attack in suite.ATTACKS}
    assert len(suite.ATTACKS) >= 60
    assert len({attack.name for attack in suite.ATTACKS}) == len(suite.ATTACKS)
    assert kinds == {
        "patching",
        "lying objects",
        "reading",
        "reference",
        "forging",
        "ending",
        "harming",
        "network",
        "broken",
    }
