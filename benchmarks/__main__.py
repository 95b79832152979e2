"""`python -m benchmarks`: run every benchmark, one after another, and gather their tables into one report."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import time
from pathlib import Path

import click

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Name the benchmarks and stop.")
@click.option("--report-only", is_flag=True, help="Run nothing; gather the tables there are.")
def main(names: tuple[str, ...], listing: bool, report_only: bool) -> None:
    """Run the named benchmarks (all by default), then write benchmarks/results/report.md and report.html."""
    known = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    if listing:
        click.echo("\n".join(known))
        return
    if unknown := set(names) - set(known):
        raise click.ClickException(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    failed = [] if report_only else [name for name in names or known if not run(name)]
    path = write_report()
    click.echo(f"wrote {path}")
    if failed:
        raise click.ClickException(f"did not finish: {', '.join(failed)}")


def run(name: str) -> bool:
    """Run one benchmark in a process of its own, so that threads, caches and peak memory do not carry over."""
    click.echo(f"== {name}")
    started = time.perf_counter()
    code = subprocess.call([sys.executable, "-m", f"benchmarks.{name}"], cwd=HERE.parent)
    click.echo(
        f"== {name}: {'done' if code == 0 else f'exit code {code}'} after {time.perf_counter() - started:.0f} s\n"
    )
    return code == 0


def write_report() -> Path:
    """One page of all tables in `benchmarks/results/*.md`, as Markdown and as HTML."""
    from course_utils.io import atomic_write
    from course_utils.site.markdown import to_html

    tables = [path for path in sorted(RESULTS.glob("*.md")) if path.stem != "report"]
    text = "# Measured beside other libraries\n\n"
    text += f"Gathered on {time.strftime('%Y-%m-%d')} ({platform.machine()}, Python {platform.python_version()}). "
    text += "Each table names the command that made it.\n\n"
    text += "\n\n".join(path.read_text(encoding="utf-8").strip() for path in tables) + "\n"
    with atomic_write(RESULTS / "report.md") as file:
        file.write(text)
    style = (Path(importlib.util.find_spec("course_utils.site").origin).parent / "style.css").read_text(
        encoding="utf-8"
    )  # type: ignore[union-attr, arg-type]
    page = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page += f"<title>Measured beside other libraries</title><style>{style}</style><main>{to_html(text)}</main></html>\n"
    with atomic_write(RESULTS / "report.html") as file:
        file.write(page)
    return RESULTS / "report.md"


if __name__ == "__main__":
    main()
