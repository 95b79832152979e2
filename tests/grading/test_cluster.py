"""A real Dask scheduler and two worker processes on TCP loopback, one of which is killed half way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import make
import pytest

from course_utils.grading import batch, submissions
from course_utils.grading.cluster import ClusterGrader

HERE = Path(__file__).parent


class Cluster:
    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            command = [
                sys.executable,
                "-m",
                "distributed.cli.dask_scheduler" if arguments[0] == "scheduler" else "distributed.cli.dask_worker",
            ]
            return subprocess.Popen(
                [*command, *arguments[1:]],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
            )

        file = folder / "scheduler.json"
        self.processes = [
            start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        ]
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < deadline, "the scheduler did not start"
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]
        self.workers = [
            start("worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--name", name)
            for name in ("one", "two")
        ]
        self.processes += self.workers

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_nothing_is_graded_twice(cluster: Cluster, tmp_path: Path) -> None:
    from distributed import Client

    with Client(cluster.address, timeout=60) as client:
        client.wait_for_workers(2, timeout=120)
    work = tmp_path / "submissions"
    for number in range(20):
        make.write(work, f"s{number:02}.ipynb", make.notebook(dict(list(make.WRONG.items())[: number % 11])))
    make.write(work, "broken.ipynb", "{")
    found = submissions.find([work], tmp_path / "zip")
    settings = batch.Settings(registry="demo_lesson", seed=4, jobs=1)
    finished: Counter[str] = Counter()

    def step(submission_id: str, result: dict) -> None:
        finished[submission_id] += 1
        if sum(finished.values()) == 7:
            os.kill(cluster.workers[0].pid, signal.SIGKILL)

    report = batch.grade(found, settings, progress=step, stream=ClusterGrader(settings, cluster.address))
    assert cluster.workers[0].wait() == -signal.SIGKILL
    assert set(finished.values()) == {1}
    assert len(finished) == 21
    local = batch.grade(found, settings)

    def told(one: batch.Report) -> list[dict]:
        return [{k: v for k, v in r.items() if k not in ("seconds", "cpu_seconds")} for r in one.results]

    assert told(report) == told(local)


def test_a_scheduler_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    make.write(tmp_path / "w", "a.ipynb", make.notebook())
    settings = batch.Settings(registry="demo_lesson", seed=4)
    found = submissions.find([tmp_path / "w"], tmp_path / "zip")
    with pytest.raises(OSError):
        batch.grade(found, settings, stream=ClusterGrader(settings, "tcp://127.0.0.1:9", timeout=1))
