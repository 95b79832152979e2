"""The picture on a lesson's first screen: made from its own figure, put under the title, replaced when made again."""

import base64

import click
import plotly.graph_objects as go
import pytest
from click.testing import CliRunner

from course_utils import lessons
from course_utils.viz import cover

SOURCE = "# %% [markdown]\n# # 10 · A lesson\n#\n# Its text.\n"


def test_it_stands_under_the_title_and_replaces_an_earlier_one():
    once = cover.with_cover(SOURCE, '# <img alt="a">')
    assert once == '# %% [markdown]\n# # 10 · A lesson\n#\n# <img alt="a">\n#\n# Its text.\n'
    assert cover.with_cover(once, '# <img alt="b">') == once.replace('"a"', '"b"')


def test_a_source_without_a_title_is_refused():
    with pytest.raises(click.ClickException, match="title"):
        cover.with_cover("# %%\nx = 1\n", "# <img>")


def test_figures_are_counted_in_the_order_of_the_notebook():
    outputs = [{"data": {"application/vnd.plotly.v1+json": {"data": [], "layout": {"height": h}}}} for h in (1, 2)]
    cells = [{"cell_type": "markdown"}, {"outputs": [{"output_type": "stream"}, *outputs]}]
    assert [figure["layout"]["height"] for figure in cover.figures_of({"cells": cells})] == [1, 2]


def test_a_picture_is_a_png_without_live_controls(monkeypatch):
    seen = {}
    monkeypatch.setattr(go.Figure, "to_image", lambda self, *a, **k: seen.update(layout=self.layout, **k) or b"png")
    assert base64.b64decode(cover.picture({"data": [], "layout": {"sliders": [{}], "height": 300}})) == b"png"
    assert seen["width"] == cover.WIDTH
    assert not seen["layout"].sliders


def test_it_says_how_to_run_the_lesson_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(cover.main, ["03", "1", "text"])
    assert said.exit_code != 0
    assert "benchmarks.lesson_times 03" in said.output


def test_every_lesson_shows_a_picture_on_its_first_screen():
    for source in lessons.sources():
        cells = lessons.read_notebook(source.path).cells[:4]
        text = " ".join(cell.source for cell in cells)
        assert "<img" in text or "_svg(" in text, source.number
