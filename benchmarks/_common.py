"""What every benchmark does alike: say where, when and by which command it ran, and write its table and its figures' data."""

from __future__ import annotations

import os
import platform
import sys
import time
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def provenance(name: str, threads: int = 1) -> dict[str, str]:
    """`command`, `date` and `machine` of this run."""
    options = " ".join(sys.argv[1:])
    return {
        "command": f"python -m benchmarks.{name} {options}".strip(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(threads),
    }


def machine(threads: int = 1) -> str:
    """Processor, cores, threads and load, in one line."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores, {threads} {'thread' if threads == 1 else 'threads'} a process{load}"


def write(name: str, text: str, data: dict[str, Any]) -> None:
    """Write `results/NAME.md` and `results/NAME.json`."""
    from course_utils.io import atomic_write, write_json

    write_json(RESULTS / f"{name}.json", data)
    with atomic_write(RESULTS / f"{name}.md") as file:
        file.write(text.rstrip("\n") + "\n")


def import_dictionary_learning() -> types.ModuleType:
    """dictionary_learning without nnsight: its activation buffer imports that, its trainers do not use it."""
    if "nnsight" not in sys.modules:
        stub = types.ModuleType("nnsight")
        stub.LanguageModel = object  # type: ignore[attr-defined]
        sys.modules["nnsight"] = stub
    import dictionary_learning

    return dictionary_learning
