"""Every output form: what is in it, that hostile text stays text, that nbgrader goes on working."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import make
import pytest
from click.testing import CliRunner

from course_utils.grading import batch, commands, doctor, gradebook, reports, submissions

HERE = Path(__file__).parent
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> batch.Report:
    """Four learners in nbgrader's tree: right, wrong, hostile text everywhere, a broken file."""
    course = tmp_path_factory.mktemp("course")
    tree = course / "submitted"
    raising = {"90.1": f"def double(x):\n    raise ValueError('{HOSTILE} =1+1 ]]> \\x1b[31m')\n"}
    uses_reference = {"90.2": "from demo_lesson import centred\n"}
    text = json.loads(make.notebook({**raising, **uses_reference}))
    text["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": HOSTILE})
    text["cells"][3]["outputs"] = [{"output_type": "display_data", "data": {"text/html": HOSTILE}, "metadata": {}}]
    make.write(tree, "ann/90_demo/90_demo.ipynb", make.notebook())
    make.write(tree, "bob/90_demo/90_demo.ipynb", make.notebook(make.WRONG))
    make.write(tree, "bob/90_demo/timestamp.txt", "2026-03-01 10:00:00 UTC")
    make.write(tree, "=cmd()/90_demo/90_demo.ipynb", json.dumps(text))
    make.write(tree, "eve/90_demo/90_demo.ipynb", "{")
    found = submissions.find([course], course / "zip")
    return batch.grade(found, batch.Settings(registry="demo_lesson", seed=11, jobs=2))


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_json_has_the_agreed_shape(report: batch.Report, tmp_path: Path) -> None:
    reports.write_json_report(report, tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert set(data) == {"isolation", "submissions"}
    for submission in data["submissions"]:
        assert {"id", "path", "status", "score", "max_score", "seconds", "flags", "exercises"} <= set(submission)
        for exercise in submission["exercises"]:
            assert {"id", "status", "score", "max_score", "diagnosis", "feedback"} <= set(exercise)
            assert 0 <= exercise["score"] <= exercise["max_score"]


def test_csv_quotes_what_a_spreadsheet_would_run(report: batch.Report, tmp_path: Path) -> None:
    reports.write_csv(report, tmp_path / "r.csv")
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert {row["submission"]: float(row["score"]) for row in rows} == {
        "ann/90_demo": 20, "bob/90_demo": 0, "'=cmd()/90_demo": 18, "eve/90_demo": 0,
    }  # fmt: skip
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
    assert rows[0].keys() >= {"90.1", "90.10"}


def test_junit_is_xml_with_one_test_an_exercise(report: batch.Report, tmp_path: Path) -> None:
    reports.write_junit(report, tmp_path / "r.xml")
    suites = {suite.get("name"): suite for suite in ElementTree.parse(tmp_path / "r.xml").getroot()}
    assert suites["ann/90_demo"].get("failures") == "0"
    assert len(suites["ann/90_demo"].findall("testcase")) == 10
    assert len(suites["bob/90_demo"].findall("testcase/failure")) == 10
    assert len(suites["eve/90_demo"].findall("testcase/error")) == 10


def test_gradescope_results(report: batch.Report, tmp_path: Path) -> None:
    paths = reports.write_gradescope(report, tmp_path / "results.json")
    assert len(paths) == 4
    by_id = {data["extra_data"]["id"]: data for data in (json.loads(path.read_text()) for path in paths)}
    assert by_id["ann/90_demo"]["score"] == 20
    assert {test["status"] for test in by_id["bob/90_demo"]["tests"]} == {"failed"}
    hidden = [test for test in by_id["=cmd()/90_demo"]["tests"] if test["visibility"] == "hidden"]
    assert "reference" in hidden[0]["output"]
    one = reports.write_gradescope(report, tmp_path / "one.json", one_learner=True)
    assert json.loads(one[0].read_text())["score"] == 20


def test_learner_pages_are_offline_escaped_and_private(report: batch.Report, tmp_path: Path) -> None:
    reports.write_html(report, tmp_path)
    pages = {path.name: path.read_text() for path in (tmp_path / "learners").glob("*.html")}
    assert len(pages) == 4
    for name, page in pages.items():
        tags = Tags(page).tags
        assert not [tag for tag, _ in tags if tag in ("script", "img", "iframe", "link", "object")]
        assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
        assert "⚑" not in page
        assert "reference" not in page
        assert not [
            other for other in ("ann/", "bob/", "eve/") if other in page and not name.startswith(other.strip("/"))
        ]
    hostile = next(page for name, page in pages.items() if "cmd" in name)
    assert "&lt;script&gt;" in hostile
    assert "\x1b" not in hostile


def test_the_class_page_shows_shares_mistakes_and_flags_without_outside_resources(
    report: batch.Report, tmp_path: Path
) -> None:
    page = reports.write_html(report, tmp_path).read_text()
    assert (tmp_path / "plotly.min.js").stat().st_size > 100_000
    sources = [attributes.get("src") for tag, attributes in Tags(page).tags if attributes.get("src")]
    assert sources == ["plotly.min.js"]
    assert HOSTILE not in page
    for words in ("Share of the class that solved", "Hardest:", "Commonest recognised mistake", "the reference"):
        assert words in page
    figures = reports.class_figures(report.results)
    for figure in figures:
        assert figure.layout.title.text
        assert figure.layout.xaxis.title.text


def test_the_class_page_can_be_heard(report: batch.Report, tmp_path: Path) -> None:
    """Figures and marks have words, header cells say what they are for."""
    tags = Tags(reports.write_html(report, tmp_path).read_text()).tags
    labels = [attributes["aria-label"] for _, attributes in tags if attributes.get("role") == "img"]
    assert [label for label in labels if label.startswith("Share of the class that solved")]
    assert labels.count("90.1 correct") == 1
    assert len(labels) == len(reports.class_figures(report.results)) + 40  # four submissions with ten marks each
    scopes = [attributes.get("scope") for tag, attributes in tags if tag == "th"]
    assert scopes.count("row") >= 4
    assert set(scopes) == {"col", "row"}


@pytest.mark.parametrize(
    "text",
    [
        "[a](JavaScript:alert(1))",
        "[b]( javascript:alert(1))",
        "[c][1]\n\n[1]: javascript:alert(1)",
        "$\\href{javascript:alert(1)}{x}$",
        "$$\n\\href{javascript:alert(1)}{x}\n$$",
        "![p](https://evil.example/p.png)",
        "![p][1]\n\n[1]: https://evil.example/p.png",
        "<javascript:alert(1)>",
        "</pre><img src=x onerror=alert(1)>\n\n    </pre>",
        "`x` **b** " * 20_000,
    ],
    ids=lambda text: text[:30],
)
@pytest.mark.parametrize("role", ["markdown", "task"])
def test_text_in_the_autograded_notebook_is_shown_and_not_rendered(text: str, role: str) -> None:
    """With the filter that formgrader and nbgrader's feedback show text cells with."""
    from nbconvert.filters import markdown2html

    cell = gradebook._cell(role, "90.r1", text, {"90.r1": {"max_score": 1}})
    page = Tags(html := markdown2html(cell["source"]))
    assert [tag for tag, _ in page.tags] == ["pre"]
    assert html.rstrip().endswith("</pre>")  # and formulas in <pre> are left alone by MathJax
    comment = Tags(markdown2html(gradebook._defused(text[:400])))
    assert not {"img", "script"} & {tag for tag, _ in comment.tags}
    links = [attributes["href"] for tag, attributes in comment.tags if tag == "a"]
    assert all(link and link.startswith("https://") for link in links)  # an address in plain sight becomes a link
    assert "\\href" not in gradebook._defused(text)


def test_the_terminal_table_holds_plain_text(report: batch.Report) -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(reports.table(report))
    text = console.export_text()
    assert "20/20" in text
    assert "=cmd()" in text
    assert "4 submissions" in reports.summary(report)


def test_gradebook_feedback_and_export_go_on_working(report: batch.Report) -> None:
    """nbgrader's own API reads the scores; its generate_feedback and export run on them."""
    from nbgrader.api import Gradebook
    from nbgrader.apps import NbGraderAPI
    from nbgrader.plugins.export import CsvExportPlugin
    from traitlets.config import Config

    course = report.records[0]["submission"].path.parents[3]
    database = course / "gradebook.db"
    registry = importlib.import_module("demo_lesson")
    for _ in range(2):  # writing again changes nothing
        gradebook.write(report, database, registry)
    with Gradebook(f"sqlite:///{database}") as book:
        scores = {s.student_id: s.score for s in book.assignment_submissions("90_demo")}
        assert scores == {"ann": 20, "bob": 0, "-cmd-": 18, "eve": 0}
        assert book.find_assignment("90_demo").max_score == 20
        assert book.find_submission("90_demo", "bob").timestamp.year == 2026
        grade = book.find_grade("check-90-1", "90_demo", "90_demo", "bob")
        assert not grade.needs_manual_grade
        grade.manual_score = 1.5
        book.db.commit()
    gradebook.write(report, database, registry)
    config = Config()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.db_url = f"sqlite:///{database}"
    api = NbGraderAPI(config=config)
    with Gradebook(f"sqlite:///{database}") as book:
        grade = book.find_grade("check-90-1", "90_demo", "90_demo", "bob")
        assert (grade.score, grade.needs_manual_grade) == (1.5, True)  # a person's score stays
        exporter = CsvExportPlugin()
        exporter.to = str(course / "grades.csv")
        exporter.export(book)
    rows = {row["student_id"]: float(row["score"]) for row in csv.DictReader((course / "grades.csv").open())}
    assert rows["ann"] == 20
    for student in ("ann", "bob", "-cmd-"):
        result = api.generate_feedback("90_demo", student_id=student, force=True)
        assert result["success"], result
    page = next((course / "feedback" / "-cmd-").rglob("*.html")).read_text()
    assert HOSTILE not in page
    assert "differs in" in next((course / "feedback" / "bob").rglob("*.html")).read_text()
    assert {s["student"] for s in api.get_submissions("90_demo")} >= {"ann", "bob"}


def test_the_command_writes_every_form(tmp_path: Path) -> None:
    work = tmp_path / "work"
    make.write(work, "ann.ipynb", make.notebook())
    make.write(work, "bob.ipynb", make.notebook(make.WRONG))
    options = [
        "--json",
        "o/r.json",
        "--csv",
        "o/r.csv",
        "--gradescope",
        "o/g.json",
        "--junit",
        "o/j.xml",
        "--html",
        "o/h",
        "--gradebook",
        "o/g.db",
    ]
    options = [str(tmp_path / part) if part.startswith("o/") else part for part in options]
    done = CliRunner().invoke(
        commands.grade,
        [
            str(work),
            "--registry",
            "demo_lesson",
            "--jobs",
            "2",
            "--resume",
            str(tmp_path / "kept"),
            "--seed-file",
            str(tmp_path / "s.json"),
            "--fail-under",
            "50",
            *options,
        ],
    )
    assert done.exit_code == 3, done.output  # everything is written all the same
    assert "less than 50% of the points: bob" in done.output
    assert "20/20" in done.output
    made = {path.name for path in (tmp_path / "o").iterdir()}
    assert made >= {"r.json", "r.csv", "g", "j.xml", "h", "g.db"}
    refused = CliRunner().invoke(
        commands.grade, [str(work), "--registry", "demo_lesson", "--isolation", "limits", "--require-isolation"]
    )
    assert refused.exit_code == 1
    assert "course doctor" in refused.output


def test_doctor_says_what_there_is(tmp_path: Path) -> None:
    findings = doctor.examine()
    assert {finding.name for finding in findings} >= {
        "Landlock",
        "seccomp",
        "user namespaces",
        "isolation in force by default",
    }
    for finding in findings:
        assert finding.ok or finding.detail
    assert json.dumps([finding.to_dict() for finding in findings])
