"""`python -m course_utils.site`: build the site."""

from __future__ import annotations

from pathlib import Path

import click

from course_utils.site.build import LATENTS, build_site
from course_utils.site.execute import LessonError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("site"),
    show_default=True,
    help="The folder to write.",
)
@click.option("--lessons", "numbers", metavar="02,03", help="Only these lessons; all by default.")
@click.option(
    "--quick",
    is_flag=True,
    help="Short demonstrations (as COURSE_QUICK=1): minutes for the whole course; figures differ.",
)
@click.option(
    "--latents", default=LATENTS, show_default=True, type=click.IntRange(0, 4608),
    help="Latents in each feature browser; 0 leaves the browsers out.",
)  # fmt: skip
@click.option("--execute/--no-execute", default=True, show_default=True, help="Run lessons whose results are not kept.")
def main(out: Path, numbers: str | None, quick: bool, latents: int, execute: bool) -> None:
    """Build the solved course as a static site that opens from disk and needs no network.

    Every lesson is run once, one after another; results are kept in build/executed and used again until the lesson, or the code
    it loads, changes. An interrupted build goes on where it stopped.

    \b
    make site                                    everything, into ./site
    make site SITE="--quick --lessons 02,03"     two lessons, quickly
    """
    chosen = [number.strip().zfill(2) for number in numbers.split(",") if number.strip()] if numbers else None
    try:
        index = build_site(out, chosen, quick=quick or None, execute=execute, latents=latents)
    except (LessonError, FileExistsError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"open {index}")


if __name__ == "__main__":
    main()
