"""What each kind of isolation holds, measured: the attack suite of `tests/grading/attacks` under every kind, as one table.

    python -m benchmarks.grading_isolation

The last column is the honest one: limits alone, where a system offers neither namespaces nor Landlock with seccomp.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # each kind of isolation runs this file by its path
from benchmarks._common import provenance, write  # noqa: E402

TESTS = [ROOT / "tests" / "grading", ROOT / "tests" / "grading" / "attacks"]
ISOLATIONS = ("namespaces+landlock+seccomp", "landlock+seccomp", "namespaces", "limits")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--one", hidden=True, help="Run one kind in this process and print what happened as JSON.")
def main(one: str | None) -> None:
    """Run the attack suite under every kind of isolation and write benchmarks/results/grading_isolation.md."""
    if one:
        print(json.dumps(measure(one)))
        return
    found = {isolation: in_own_process(isolation) for isolation in ISOLATIONS}
    report(found)


def in_own_process(isolation: str) -> dict[str, Any]:
    """In a process of its own: with limits only, an attack may end the grader."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, TESTS)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", isolation]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"ended": f"the grader ended with {done.returncode}: {done.stderr.strip()[-300:]}"}


def measure(isolation: str) -> dict[str, Any]:
    import suite
    import test_attacks

    from course_utils.grading import batch

    batch.GRACE = 1.0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        outcome = test_attacks.grade_all(isolation, Path(folder), suite.ATTACKS)
    held: Counter[str] = Counter()
    broken: dict[str, list[str]] = {}
    for attack in suite.ATTACKS:
        results = [r for r in outcome.report.results if r["id"].split("/")[0] == f"attack-{attack.name}"]
        right = sum(r["score"] for r in results) == attack.expect and "LEAK" not in str(results)
        held[attack.kind] += right
        if not right:
            broken.setdefault(attack.kind, []).append(attack.name)
    honest = [r for name, r in outcome.by_id.items() if name.startswith("honest")]
    return {
        "isolation": outcome.report.isolation,
        "held": dict(held),
        "broken": broken,
        "honest_right": sum(r["score"] == suite.FULL for r in honest),
        "honest": len(honest),
        "files_changed": [Path(path).name for path in outcome.changed],
        "connections": len(outcome.connections),
        "left_running": len(outcome.left_running),
        "user": "root, children as a user without rights" if os.geteuid() == 0 else "an ordinary user",
    }


def report(found: dict[str, dict[str, Any]]) -> None:
    sys.path[:0] = map(str, TESTS)
    import suite

    from course_utils.grading.sandbox import linux

    here = provenance("grading_isolation")
    totals = Counter(attack.kind for attack in suite.ATTACKS)
    user = next((row["user"] for row in found.values() if "user" in row), "")
    lines = [
        "## Trusted grading: what holds",
        "",
        f"`{here['command']}`, {here['date']}, {here['machine']}: "
        f"{sum(totals.values())} hostile or broken submissions under each kind of isolation "
        f"(grader: {user}; {os.uname().sysname} {os.uname().release.split('-')[0]}, Landlock version {linux.landlock_abi()}). "
        "A submission is held if it gets exactly the score it should and reads nothing that is not its own.",
        "",
        f"| class | {' | '.join(found)} |",
        "|---" * (len(found) + 1) + "|",
    ]

    def row(name: str, cell: Any) -> None:
        lines.append(
            f"| {name} | " + " | ".join("grader ended" if "ended" in r else str(cell(r)) for r in found.values()) + " |"
        )

    for kind, total in sorted(totals.items()):
        row(kind, lambda r, kind=kind, total=total: f"{r['held'].get(kind, 0)} of {total}")
    row("honest submissions between them that got full marks", lambda r: f"{r['honest_right']} of {r['honest']}")
    row("files outside scratch changed", lambda r: len(r["files_changed"]))
    row("connections made", lambda r: r["connections"])
    row("processes left", lambda r: r["left_running"])
    for isolation, result in found.items():
        names = [name for group in result.get("broken", {}).values() for name in group]
        if names or result.get("files_changed") or "ended" in result:
            said = f"not held: {', '.join(names) or 'none'}; files changed: {', '.join(result.get('files_changed', [])) or 'none'}"
            lines += ["", f"{isolation}: {result.get('ended') or said}."]
    print("\n".join(lines))
    write("grading_isolation", "\n".join(lines), {**here, "attacks": sum(totals.values()), "isolation": found})


if __name__ == "__main__":
    main()
