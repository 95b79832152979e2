"""`course export` and `course reset`: one file that opens anywhere, a zip of notebooks, one exercise back at its start."""

from __future__ import annotations

import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils import exercises, export
from course_utils.cli import main

PIXEL = bytes.fromhex("89504e470d0a1a0a")


def figure(title: str) -> dict:
    return {"data": [{"type": "scatter", "y": [1, 2]}], "layout": {"title": {"text": f"<b>{title}</b> </script>"}}}


def output(**data):
    return new_output("display_data", data={key.replace("__", "/"): value for key, value in data.items()})


def portfolio() -> nbformat.NotebookNode:
    plots = [new_output("display_data", data={export.PLOTLY: figure(f"Plot {i}")}) for i in range(2)]
    bar = new_output("display_data", data={export.WIDGET: {}, "text/plain": "reading:  40%|####"})
    slider = new_output("display_data", data={export.WIDGET: {}, "text/plain": "interactive(...)"})
    remote = new_output("display_data", data={"text/html": '<script src="https://cdn.example/x.js"></script>'})
    link = new_output("display_data", data={"text/html": '<a href="https://example.org/paper">paper</a> kept'})
    noise = new_output("stream", name="stderr", text="UserWarning: noise")
    said = new_output("stream", name="stdout", text="50%\r100%\nonset 0.6 & <b>")
    return new_notebook(
        cells=[
            new_markdown_cell("# My portfolio\n\nEnergy $E = mc^2$ and ![a dot](dot.png)"),
            new_code_cell("answer = 42", outputs=[*plots, bar, slider, remote, link, noise, said]),
        ]
    )


@pytest.fixture
def page(tmp_path: Path) -> str:
    nbformat.write(portfolio(), tmp_path / "mine.ipynb")
    (tmp_path / "dot.png").write_bytes(PIXEL)
    return export.write_html(tmp_path / "mine.ipynb", tmp_path / "mine.html").read_text(encoding="utf-8")


class Seen(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.figures: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag != "a":
            self.loaded += [value for name, value in attrs if name in ("src", "href", "data") and value]
        if tag == "figure":
            self.figures.append(found.get("aria-label", ""))


def test_the_page_needs_nothing_from_elsewhere(page: str):
    loaded = Seen(page).loaded
    assert loaded
    assert all(address.startswith(("data:", "#")) for address in loaded)
    assert "cdn.example" not in page
    assert "default-src 'none'" in page


def test_figures_stay_and_their_script_is_there_once(page: str):
    assert (
        Seen(page).figures == [" Plot 0   ", " Plot 1   "] or [t.split()[0] for t in Seen(page).figures] == ["Plot"] * 2
    )
    assert page.count("window.Plotly = Plotly;") <= 1
    specs = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert [json.loads(spec)["layout"]["title"]["text"] for spec in specs] == [
        figure(f"Plot {i}")["layout"]["title"]["text"] for i in range(2)
    ]


def test_answers_results_formulas_and_pictures_are_kept(page: str):
    assert "<title>My portfolio</title>" in page
    assert "100%\nonset 0.6 &amp; &lt;b&gt;" in page
    assert "50%" not in page.split("window.Plotly")[-1].split("onset")[0].split("<pre>")[-1]
    assert "<math" in page
    assert "data:image/png;base64," in page
    assert "answer" in page
    assert "42" in page
    assert "paper</a> kept" in page
    assert "noise" not in page.replace("plotly", "")[-200_000:] or "UserWarning" not in page
    assert "reading:" not in page
    assert "works in the notebook" in page


def test_the_page_follows_light_and_dark(page: str):
    assert "color-scheme: light dark" in page
    assert "prefers-color-scheme: dark" in page


def test_a_notebook_without_figures_stays_small():
    text = export.to_html(new_notebook(cells=[new_markdown_cell("# Short")]), "Short")
    assert len(text) < 100_000


def test_a_picture_outside_the_folder_is_not_put_in(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(PIXEL)
    (tmp_path / "work").mkdir()
    nb = new_notebook(cells=[new_markdown_cell("![x](../secret.png)")])
    assert "base64" not in export.to_html(nb, "t", tmp_path / "work")


def run(*arguments: str, **environment: str):
    return CliRunner().invoke(main, list(arguments), env=environment, catch_exceptions=False)


def test_the_command_writes_the_portfolio_and_says_when_it_holds_no_results(tmp_path: Path):
    out = tmp_path / "p.html"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# P"), new_code_cell("1")]), tmp_path / "p.ipynb")
    result = run("export", str(tmp_path / "p.ipynb"), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert out.exists()
    assert "no results yet" in result.output
    assert "--run" in run("export", "--help").output


def test_run_executes_a_copy(tmp_path: Path):
    path = tmp_path / "p.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("print(6 * 7)"), new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert run("export", str(path), "--run", "--out", str(tmp_path / "p.html")).exit_code == 0
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<pre>42" in text
    assert "ZeroDivisionError" in text
    assert path.read_bytes() == before


def test_a_file_that_is_no_notebook_is_refused_in_words(tmp_path: Path):
    (tmp_path / "p.ipynb").write_text("not json")
    result = run("export", str(tmp_path / "p.ipynb"), "--out", str(tmp_path / "p.html"))
    assert result.exit_code == 1
    assert "cannot be read as a notebook" in result.output
    assert not (tmp_path / "p.html").exists()


def test_the_zip_holds_notebooks_and_nothing_else(tmp_path: Path):
    for name in ("01_a", "02_b"):
        (tmp_path / name).mkdir()
        nbformat.write(new_notebook(), tmp_path / name / f"{name}.ipynb")
        (tmp_path / name / "private.txt").write_text("mine")
    chosen = sorted(tmp_path.glob("*/*.ipynb"))
    names = export.write_zip(chosen, tmp_path / "s.zip", tmp_path)
    first = (tmp_path / "s.zip").read_bytes()
    assert zipfile.ZipFile(tmp_path / "s.zip").namelist() == names == ["01_a/01_a.ipynb", "02_b/02_b.ipynb"]
    export.write_zip(chosen, tmp_path / "s.zip", tmp_path)
    assert (tmp_path / "s.zip").read_bytes() == first
    with pytest.raises(ValueError, match="no notebook"):
        export.write_zip([], tmp_path / "s.zip", tmp_path)


def test_the_zip_is_a_submission_the_grader_reads(tmp_path: Path):
    from course_utils.grading import submissions

    result = run("export", "--zip", "--lesson", "02", "--out", str(tmp_path / "submission.zip"))
    assert result.exit_code == 0, result.output
    found = submissions.find([tmp_path / "submission.zip"], tmp_path / "unpacked")
    assert [submission.path.stem for submission in found] == ["02_toy_superposition"]


@pytest.fixture
def worked_on(tmp_path: Path) -> Path:
    """A learner's copy of lesson 02 with one answer written."""
    nb = nbformat.read(export.find_notebook("02"), as_version=4)
    cell = next(cell for cell in nb.cells if cell.get("id") == "answer-02-3")
    cell.source, cell.execution_count = "def mine(): ...", 7
    nb.cells.append(new_code_cell("# my own cell"))
    nbformat.write(nb, tmp_path / "02_toy_superposition.ipynb")
    return tmp_path / "02_toy_superposition.ipynb"


def test_reset_puts_one_exercise_back_and_keeps_the_rest(worked_on: Path, tmp_path: Path):
    before = nbformat.read(worked_on, as_version=4)
    result = run("reset", "02.3", str(worked_on), COURSE_HOME=str(tmp_path / "home"))
    assert result.exit_code == 0, result.output
    after = nbformat.read(worked_on, as_version=4)
    changed = [new.id for old, new in zip(before.cells, after.cells) if old.source != new.source]
    assert changed == ["answer-02-3"]
    assert next(cell for cell in after.cells if cell.id == "answer-02-3").source == exercises.get("02.3").stub
    (kept,) = worked_on.parent.glob("*.before-reset-02-3.ipynb")
    assert nbformat.read(kept, as_version=4) == before
    again = run("reset", "02.3", str(worked_on), COURSE_HOME=str(tmp_path / "home"))
    assert "already" in again.output


@pytest.mark.parametrize(
    ("exercise_id", "words"), [("02.99", "there is no exercise"), ("03.1", "no answer cell for 03.1")]
)
def test_reset_says_what_is_wrong(worked_on: Path, exercise_id: str, words: str):
    result = run("reset", exercise_id, str(worked_on))
    assert result.exit_code == 1
    assert words in result.output
