"""The picture on a lesson's first screen: one of the lesson's own figures, as a PNG inside its opening cell.

    python -m benchmarks.lesson_times 03                 # runs the lesson, keeps it in build/lesson_times/03.ipynb
    python -m course_utils.viz.cover 03 2 "What the figure shows, for those who cannot see it"

The second number counts the lesson's Plotly figures from 1. Afterwards release the lesson (`course release --lesson 03`).
"""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import click

WIDTH = 720


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("number")
@click.argument("figure", type=click.IntRange(min=1))
@click.argument("alt")
@click.option("--executed", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The executed notebook.")
def main(number: str, figure: int, alt: str, executed: Path | None) -> None:
    """Put figure FIGURE of lesson NUMBER under its title, with ALT as its description."""
    from course_utils import lessons
    from course_utils.io import atomic_write

    source = next((s for s in lessons.sources() if s.number == number), None)
    if source is None:
        raise click.ClickException(f"no lesson {number}")
    executed = executed or Path("build") / "lesson_times" / f"{number}.ipynb"
    if not executed.exists():
        raise click.ClickException(f"{executed} is not there: python -m benchmarks.lesson_times {number}")
    figures = figures_of(json.loads(executed.read_text(encoding="utf-8")))
    if figure > len(figures):
        raise click.ClickException(f"lesson {number} has {len(figures)} figures")
    line = (
        f'# <img alt="{html.escape(alt)}" width="{WIDTH}" src="data:image/png;base64,{picture(figures[figure - 1])}">'
    )
    text = with_cover(source.path.read_text(encoding="utf-8"), line)
    with atomic_write(source.path) as file:
        file.write(text)
    click.echo(f"{source.path}: {len(line) // 1000} kB")


def figures_of(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The Plotly figures in a notebook's outputs, in order."""
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    found = (output.get("data", {}).get("application/vnd.plotly.v1+json") for output in outputs)
    return [{"data": one["data"], "layout": one["layout"]} for one in found if one]


def picture(figure: dict[str, Any]) -> str:
    """A figure as a PNG, base64. Controls that only work live are left out."""
    import plotly.io

    layout = {name: value for name, value in figure["layout"].items() if name not in ("sliders", "updatemenus")}
    drawn = plotly.io.from_json(json.dumps({"data": figure["data"], "layout": layout}))
    return base64.b64encode(drawn.to_image("png", width=WIDTH)).decode()


def with_cover(source: str, line: str) -> str:
    """The lesson's source with `line` as the picture under its title, in the place of an earlier one."""
    title = re.search(r"^# # .*\n#\n", source, flags=re.M)
    if title is None:
        raise click.ClickException("the lesson does not begin with a title line and an empty one")
    rest = re.sub(r"\A# <img .*\n#\n", "", source[title.end() :])
    return f"{source[: title.end()]}{line}\n#\n{rest}"


if __name__ == "__main__":
    main()
