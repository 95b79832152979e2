"""`python -m course_utils.site`: build the site."""

from __future__ import annotations

from pathlib import Path

import click

from course_utils.site.build import build_site


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("site"), show_default=True)
@click.option("--lesson", "numbers", multiple=True, help="Only these lessons, such as 02; all by default.")
@click.option("--execute/--no-execute", default=True, show_default=True, help="Run lessons whose source has changed.")
def main(out: Path, numbers: tuple[str, ...], execute: bool) -> None:
    """Build the solved course as a static site. Executed lessons are kept in build/executed and reused."""
    index = build_site(out, list(numbers) or None, execute=execute)
    click.echo(f"open {index}")


main()
