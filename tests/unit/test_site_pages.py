"""Pieces of the site: formulas, anchors, folds, outputs, kept results, atomic writing, errors that name the cell."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from course_utils import lessons
from course_utils.site import LessonError, build_site, execute
from course_utils.site.build import search_entries, stylesheet
from course_utils.site.lesson import help_html, render
from course_utils.site.markdown import _PIECES, Converter, formula, slug, to_html
from course_utils.site.outputs import PLOTLY, STATE, WIDGET, describe, joined, needs_network, output_html, plain

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Nesting(HTMLParser):
    """Complains about tags that are not closed in the order in which they were opened."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"{tag} at line {self.getpos()[0]}")


def problems(html: str) -> list[str]:
    found = Nesting(html)
    return found.problems + found.open


def formulas_of_the_course() -> list[tuple[str, str, bool]]:
    found = []
    for source in lessons.sources():
        for cell in nbformat.v4.new_notebook(cells=_cells(source)).cells:
            for match in _PIECES.finditer(cell.source if cell.cell_type == "markdown" else ""):
                if not match["code"]:
                    found.append((source.slug, match["display"] or match["inline"], bool(match["display"])))
    return found


def _cells(source: lessons.Source):
    import jupytext

    return jupytext.read(source.path, fmt="py:percent").cells


def test_every_formula_of_the_course_becomes_mathml():
    for lesson, tex, display in formulas_of_the_course():
        html = formula(tex, display)
        assert "<math" in html, (lesson, tex)
        tree = ET.fromstring(re.sub(r"^<span[^>]*>|</span>$", "", html) if display else html)
        left = [e.text for e in tree.iter() if e.text and "\\" in e.text]
        assert left == [], (lesson, tex)


def test_letters_that_browsers_cannot_restyle_become_letters_of_their_own():
    assert "<mi>ℝ</mi>" in formula(r"\mathbb R^d", False)
    assert "<mi>ReLU</mi>" in formula(r"\mathrm{ReLU}(x)", False)
    assert r'alttext="a &lt; b"' in formula("a < b", False)
    assert formula(r"\notacommand{", False)  # never an exception


def test_dollars_in_code_stay_and_formulas_in_tables_do_not_end_cells():
    html = to_html("`$x$` and $y$\n\n| a | b |\n|---|---|\n| $|x|$ | 2 |\n")
    assert "<code>$x$</code>" in html
    assert html.count("<td>") == 2
    assert html.count("<math") == 2
    assert '<div class="scroll"' in html


@pytest.mark.parametrize(
    "text",
    [
        "1. one\n2. two\n\n<details><summary>Answers</summary>\n\n1. $x$ *is*\n2. more\n</details>\n\nafter",
        "**Question.** so?\n<details><summary>Answer</summary>First `x` *yes*</details>\n\n2. next",
        "1. one\n<details><summary>Answer</summary>yes</details>\n\n2. two\n<details><summary>Answer</summary>no</details>",
    ],
)
def test_folds_in_text_hold_markdown_and_close_where_they_should(text):
    html = to_html(text)
    assert problems(html) == []
    assert html.count("<details>") == html.count("</details>") == text.count("<details>")
    assert "`" not in html
    assert "*" not in html


def test_anchors_are_short_stable_and_never_twice_on_a_page():
    assert slug("Exercise 02.3: The <em>loss</em>") == "exercise-02-3"
    assert slug("1 · Features we know") == "1-features-we-know"
    html = Converter()("## Same\n\n## Same\n\n### Exercise 02.3: a")
    assert re.findall(r' id="([^"]+)"', html) == ["same", "same-2", "exercise-02-3"]


def test_plain_text_of_html_keeps_words_and_punctuation():
    assert plain("<p>more <strong>features</strong>, as <code>x</code>.</p><p>Then</p>") == "more features, as x. Then"


# -- outputs -----------------------------------------------------------------------------------------------------------


def display(data) -> dict:
    return {"output_type": "display_data", "data": data, "metadata": {}}


FIGURE = {
    "data": [{"type": "scatter", "name": "loss </script>", "y": [1, 2]}],
    "layout": {"title": {"text": "<b>Loss falls</b><br><span style='color:#555'>one run</span>"}, "xaxis": {"title": {"text": "step"}}},
}  # fmt: skip


def test_a_figure_is_data_under_its_title_with_a_description():
    html = output_html(display({PLOTLY: FIGURE, "text/html": "<script>no</script>"}), {})
    assert problems(html) == []
    assert "<strong>Loss falls</strong><span>one run</span>" in html
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', html)
    assert json.loads(data)["data"][0]["name"] == "loss </script>"
    assert "title" not in json.loads(data)["layout"]
    assert describe(FIGURE) == "scatter chart. Loss falls. one run. Axes: x: step. Shown: loss"


def test_printed_text_is_escaped_and_progress_bars_are_left_out():
    bars = {"output_type": "stream", "name": "stderr", "text": "100%|####|"}
    assert output_html(bars, {}) == ""
    html = output_html({"output_type": "stream", "name": "stdout", "text": "10%\r50%\rdone <b>\n"}, {})
    assert "done &lt;b&gt;</pre>" in html
    assert "10%" not in html
    pieces = [
        {"output_type": "stream", "name": "stdout", "text": "a\n"},
        bars,
        {"output_type": "stream", "name": "stdout", "text": "b\n"},
    ]
    assert [piece["text"] for piece in joined(pieces)] == ["a\nb\n"]


def test_a_widget_shows_what_it_starts_with_and_a_bar_shows_nothing():
    said = {"output_type": "stream", "name": "stdout", "text": "first position"}
    state = {
        "box": {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_out"]}},
        "out": {"model_name": "OutputModel", "state": {"outputs": [said]}},
        "bar": {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_p"]}},
        "p": {"model_name": "FloatProgressModel", "state": {}},
    }
    html = output_html(display({WIDGET: {"model_id": "box"}, "text/plain": "VBox(...)"}), state)
    assert "first position" in html
    assert "running kernel" in html
    assert output_html(display({WIDGET: {"model_id": "bar"}, "text/plain": "HBox(...)"}), state) == ""
    assert STATE.startswith("application/")


def test_what_would_ask_another_machine_is_found():
    assert needs_network('<script charset="utf-8" src="https://cdn.plot.ly/plotly.js">')
    assert needs_network("<img src='//example.org/x.png'>")
    assert needs_network('<embed src="https://example.org/x">')
    assert needs_network('<svg><use xlink:href="https://example.org/x.svg#i"/></svg>')
    assert not needs_network('<a href="https://arxiv.org/abs/1">paper</a><img src="data:image/png;base64,AA">')


def test_the_style_has_the_dark_colours_twice_for_the_setting_and_for_the_button():
    style = stylesheet()
    assert style.count("color-scheme: dark;") == 2
    assert "prefers-color-scheme: dark" in style
    assert style.count("{") == style.count("}")


# -- lessons -----------------------------------------------------------------------------------------------------------


def a_source(tmp_path: Path, body: str, name: str = "98_small") -> lessons.Source:
    folder = tmp_path / "solutions"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(body, encoding="utf-8")
    return lessons.Source(path)


PLAIN = "# %% [markdown]\n# # 98 · Small\n#\n# A lesson that shows very little, but in sentences long enough to be quoted.\n\n"


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course's folder of its own, with results kept there."""
    from course_utils import settings

    monkeypatch.setattr(settings, "root", lambda: tmp_path)
    return tmp_path


def fake_run(monkeypatch):
    """Replace the kernel: note which lessons would run, and that they loaded one file."""
    ran: list[str] = []

    async def execute_(source, notebook, folder, quick, on_cell):
        ran.append(source.number + ("q" if quick else ""))
        for cell in notebook.cells:
            if cell.cell_type == "code":
                if "boom" in cell.source:
                    raise LessonError("boom")
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="ran")]
        return [str(execute.PACKAGE / "io.py")]

    monkeypatch.setattr(execute, "_execute", execute_)
    return ran


def test_results_are_kept_by_source_mode_and_what_was_loaded(course, monkeypatch):
    ran = fake_run(monkeypatch)
    one = a_source(course, PLAIN + "# %%\nprint(1)\n")
    assert execute.run_lessons([one])[0].executed
    execute.run_lessons([one])
    assert ran == ["98"]
    execute.run_lessons([one], quick=True)
    assert ran == ["98", "98q"]
    changed = a_source(course, PLAIN + "# %%\nprint(2)\n")
    execute.run_lessons([changed])
    assert ran == ["98", "98q", "98"]
    monkeypatch.setattr(
        execute, "_state_of", lambda names: {"io.py": "another"}
    )  # code that the lesson loads has changed
    execute.run_lessons([changed])
    assert ran[3:] == ["98"]
    monkeypatch.setattr(execute, "_state_of", lambda names: {"io.py": "yet another"})
    (shown,) = execute.run_lessons([changed], execute=False)  # asked not to run: the older result is better than none
    assert shown.executed
    assert len(ran) == 4


def test_an_interrupted_build_goes_on_with_the_lesson_that_failed(course, monkeypatch):
    ran = fake_run(monkeypatch)
    good = a_source(course, PLAIN + "# %%\nprint(1)\n", "97_good")
    bad = a_source(course, PLAIN + "# %%\nboom\n", "98_bad")
    with pytest.raises(LessonError):
        execute.run_lessons([good, bad])
    with pytest.raises(LessonError):
        execute.run_lessons([good, bad])
    assert ran == ["97", "98", "98"]


def test_an_error_names_lesson_cell_line_and_heading(tmp_path):
    body = PLAIN + "# %%\nx = 1\n\n# %% [markdown]\n# ## Part two\n\n# %%\ny = 0\nx / y\n"
    source = a_source(tmp_path, body)
    notebook = lessons.read_notebook(source.path)
    index = len(notebook.cells) - 1
    trace = ["\x1b[31mZeroDivisionError\x1b[0m: division by zero"]
    notebook.cells[index].outputs = [
        nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="", traceback=trace)
    ]
    said = execute.explain(source, notebook, index, ValueError())
    line = body.splitlines().index("y = 0") + 1
    assert said.startswith("lesson 98 does not run.")
    assert f"solutions/98_small.py, line {line}: code cell 2 of 2" in said
    assert 'under "Part two"' in said
    assert "ZeroDivisionError: division by zero" in said
    assert "\x1b" not in said


def test_the_site_is_replaced_as_a_whole_and_never_in_place_of_something_else(course, monkeypatch):
    fake_run(monkeypatch)
    a_source(course, PLAIN + "# %%\nprint(1)\n")
    out = course / "out"
    assert build_site(out, latents=0) == out / "index.html"
    (out / "stale.html").write_text("old")
    build_site(out, latents=0)
    assert not (out / "stale.html").exists()
    assert [p.name for p in course.iterdir() if p.name.startswith(".")] == []
    other = course / "documents"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="no site of this course"):
        build_site(other, latents=0)
    with pytest.raises(ValueError, match="no lesson 55"):
        build_site(out, ["55"], latents=0)
    a_source(course, PLAIN + "# %%\nboom\n")
    before = (out / "index.html").read_text()
    with pytest.raises(LessonError):
        build_site(out, latents=0)
    assert (out / "index.html").read_text() == before


def test_pages_fold_answers_and_keep_everything_else_in_sight(monkeypatch):
    source = lessons.sources()[1]
    assert source.number == "02"
    notebook = lessons.read_notebook(source.path)
    page = render(execute.Run(source, notebook, False))
    assert problems(page.body) == []
    ids = re.findall(r' id="([^"]+)"', page.body)
    assert len(ids) == len(set(ids))
    above = re.sub(r'<details class="answer">.*?</details>', "", page.body, flags=re.DOTALL)
    for exercise in page.exercises:
        anchor = f'id="{slug(f"Exercise {exercise.id}")}"'
        assert anchor in above
        assert help_html(exercise) in above
        assert f"about {exercise.minutes} min" in above
    assert "BEGIN SOLUTION" not in page.body
    assert above.count("Yours to write") == len(page.exercises)
    assert page.time == "2 h 15 min" or page.minutes != 135
    entries = search_entries([page], [])
    assert any(entry["anchor"] == "exercise-02-3" and "importance" in entry["heading"].lower() for entry in entries)
    anchors = {entry["anchor"] for entry in entries}
    assert anchors <= set(ids) | {""}
