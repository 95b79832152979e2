"""`course export` and `course reset`: one file that opens anywhere, a zip of notebooks, one exercise back at its start."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils import exercises, export, lessons, settings
from course_utils.cli import main
from course_utils.progress_file import Progress

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


@pytest.mark.parametrize(
    ("kind", "shown"), [("image/png", True), ("image/jpeg", True), ("image/gif", True), ("image/svg+xml", False)]
)
def test_a_picture_pasted_into_a_text_cell_is_put_in(kind: str, shown: bool):
    data = base64.b64encode(PIXEL).decode()
    cell = new_markdown_cell("![my plot](attachment:a%20plot.x)", attachments={"a plot.x": {kind: data}})
    html = export.to_html(new_notebook(cells=[cell]), "t")
    assert (f'src="data:{kind};base64,{data}"' in html) == shown
    assert ("cannot be shown here: my plot" in html) != shown
    assert "harmful" not in html


@pytest.mark.parametrize("attachments", [{}, {"p.png": {"image/png": 'x" onload="alert(1)'}}])
def test_a_damaged_attachment_is_said_in_words(attachments: dict):
    nb = new_notebook(cells=[new_markdown_cell("![mine](attachment:p.png)", attachments=attachments)])
    html = export.to_html(nb, "t")
    assert "cannot be shown here: mine" in html
    assert "onload" not in html


@pytest.mark.parametrize("html", ["<embed src='//x.example/a'>", '<use href="https://x.example/a.svg#i"/>'])
def test_no_kind_of_element_loads_from_elsewhere(html: str):
    nb = new_notebook(cells=[new_code_cell("1", outputs=[output(text__html=html)])])
    assert "x.example" not in export.to_html(nb, "t")


def test_an_anchor_that_has_the_focus_can_be_seen(page: str):
    assert re.search(r"\.anchor:focus \{ opacity: 1", page)


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
def worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A learner's own folder: lesson 02 with one answer written, and copies and backups beside it that sort before it."""
    released = lessons.learners_notebook("02")
    path = tmp_path / "course" / "notebooks" / released.parent.name / released.name
    path.parent.mkdir(parents=True)
    nb = nbformat.read(released, as_version=4)
    cell = next(cell for cell in nb.cells if cell.get("id") == "answer-02-3")
    cell.source, cell.execution_count = "def mine(): ...", 7
    nb.cells.append(new_code_cell("# my own cell"))
    nbformat.write(nb, path)
    for name in (f"{path.stem}-Copy1.ipynb", f"{path.stem}.before-reset-02-9.ipynb", "02_a.ipynb"):
        shutil.copy(path, path.with_name(name))
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path / "course"))
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    for cache in (settings.root, lessons.answer_stub):
        cache.cache_clear()
    yield path
    for cache in (settings.root, lessons.answer_stub):
        cache.cache_clear()


def test_reset_puts_one_exercise_back_and_keeps_the_rest(worked_on: Path):
    """In the very notebook that the learner edits, without naming it."""
    before = nbformat.read(worked_on, as_version=4)
    others = {path: path.read_bytes() for path in worked_on.parent.iterdir() if path != worked_on}
    result = run("reset", "02.3")
    assert result.exit_code == 0, result.output
    after = nbformat.read(worked_on, as_version=4)
    changed = [new.id for old, new in zip(before.cells, after.cells) if old.source != new.source]
    assert changed == ["answer-02-3"]
    source = next(cell for cell in after.cells if cell.id == "answer-02-3").source
    assert source == exercises.get("02.3").stub
    assert exercises.get("02.3").grade(source).status == "not_attempted"
    (kept,) = worked_on.parent.glob("*.before-reset-02-3.ipynb")
    assert nbformat.read(kept, as_version=4) == before
    assert {path: path.read_bytes() for path in others} == others
    assert "already" in run("reset", "02.3").output


def test_reset_never_overwrites_an_earlier_copy(worked_on: Path):
    for work in ("first = 1", "second = 2"):
        nb = nbformat.read(worked_on, as_version=4)
        next(cell for cell in nb.cells if cell.id == "answer-02-3").source = work
        nbformat.write(nb, worked_on)
        assert run("reset", "02.3").exit_code == 0
    kept = "".join(path.read_text("utf-8") for path in worked_on.parent.glob("*.before-reset-02-3*.ipynb"))
    assert "first = 1" in kept
    assert "second = 2" in kept


def test_reset_forgets_the_score_only_when_it_reset_something(worked_on: Path):
    for exercise_id in ("02.3", "02.4"):
        Progress.load().record(exercises.get(exercise_id).grade(exercises.get(exercise_id).reference)).save()
    assert "already" in run("reset", "02.4").output
    run("reset", "02.3")
    assert not Progress.load().solved("02.3")
    assert Progress.load().solved("02.4")


@pytest.mark.parametrize("content", ["{}", '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "[1]", "not json"])
def test_reset_of_what_is_no_notebook_says_so(worked_on: Path, tmp_path: Path, content: str):
    (tmp_path / "bad.ipynb").write_text(content)
    result = run("reset", "02.1", str(tmp_path / "bad.ipynb"))
    assert result.exit_code == 1
    assert "cannot be read as a notebook" in result.output
    assert (tmp_path / "bad.ipynb").read_text() == content
    script = tmp_path / "mine.py"
    script.write_text('# %% answer="02.1"\nx = 1\n')
    assert "is no notebook" in run("reset", "02.1", str(script)).output
    assert script.read_text().startswith("# %%")


def test_copies_and_backups_are_not_taken_for_the_lesson(worked_on: Path, tmp_path: Path, monkeypatch):
    assert lessons.learners_notebook("02") == worked_on
    run("export", "--zip", "--out", str(tmp_path / "s.zip"))
    assert zipfile.ZipFile(tmp_path / "s.zip").namelist() == [f"{worked_on.stem}/{worked_on.name}"]
    called: list = []
    monkeypatch.setattr("subprocess.call", lambda command, cwd: called.append(command) or 0)
    assert run("lab", "--lesson", "2").exit_code == 0
    assert f"--LabApp.default_url=/lab/tree/{worked_on.stem}/{worked_on.name}" in called[0]


def test_the_grader_leaves_backups_out(worked_on: Path, tmp_path: Path):
    from course_utils.grading import submissions

    found = submissions.find([worked_on.parent], tmp_path / "unpacked")
    assert [submission.id for submission in found] == ["02_a", worked_on.stem, f"{worked_on.stem}-Copy1"]


@pytest.mark.parametrize("command", ["export --lesson 07", "export --zip --lesson 07", "lab --lesson 07", "reset 07.1"])
def test_a_lesson_that_is_not_here_lists_those_that_are(worked_on: Path, command: str):
    result = run(*command.split())
    assert result.exit_code == 1
    assert "no notebook of lesson 07" in result.output
    assert "there are: 02" in result.output
    assert "release" not in result.output


@pytest.mark.parametrize(
    ("exercise_id", "words"), [("02.99", "there is no exercise"), ("03.1", "no answer cell for 03.1")]
)
def test_reset_says_what_is_wrong(worked_on: Path, exercise_id: str, words: str):
    result = run("reset", exercise_id, str(worked_on))
    assert result.exit_code == 1
    assert words in result.output
