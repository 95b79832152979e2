"""`python -m benchmarks`: install the peers, run every benchmark one after another, gather their tables into one report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import click

HERE = Path(__file__).parent
BESIDE_LIBRARIES = ("sae_speed", "lm_sae_quality", "toy_recovery")
"""Benchmarks that import peers: they run with the Python of the peers' environment, which reads the course's packages too."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Name the benchmarks and stop.")
@click.option("--report-only", is_flag=True, help="Run nothing; gather the tables there are.")
@click.option("--install/--no-install", default=True, help="Install peers that are missing, each into build/.")
def main(names: tuple[str, ...], listing: bool, report_only: bool, install: bool) -> None:
    """Run the named benchmarks (all by default), then write benchmarks/results/report.md and report.html."""
    from benchmarks import _peers, _report

    known = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    if listing:
        click.echo("\n".join(known))
        return
    if unknown := set(names) - set(known):
        raise click.ClickException(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    failed = []
    if not report_only:
        rows = _peers.gather(install)
        for row in rows:
            click.echo(f"{row['peer']:20} {row.get('version') or 'cannot be had: ' + row['reason']}")
        usable = {row["peer"] for row in rows if "version" in row}
        failed = [name for name in names or known if not run(name, usable)]
    click.echo(f"wrote {_report.write_report()}")
    if failed:
        raise click.ClickException(f"did not finish: {', '.join(failed)}")


def run(name: str, usable: set[str]) -> bool:
    """Run one benchmark in a process of its own, so that threads, caches and peak memory do not carry over."""
    from benchmarks._peers import GROUPS

    click.echo(f"== {name}")
    started = time.perf_counter()
    beside = name in BESIDE_LIBRARIES and usable & set(GROUPS["libraries"].peers)
    python = str(GROUPS["libraries"].python) if beside else sys.executable
    environment = dict(os.environ)
    for variable, group in (("COURSE_DASHBOARD_PEER", "dashboard"), ("COURSE_OTTER_PEER", "otter")):
        if set(GROUPS[group].peers) <= usable:
            environment.setdefault(variable, str(GROUPS[group].python))
    code = subprocess.call([python, "-m", f"benchmarks.{name}"], cwd=HERE.parent, env=environment)
    said = "done" if code == 0 else f"exit code {code}"
    click.echo(f"== {name}: {said} after {time.perf_counter() - started:.0f} s\n")
    return code == 0


if __name__ == "__main__":
    main()
