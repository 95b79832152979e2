"""A grading run's results in the forms people need: terminal, JSON, CSV, Gradescope, JUnit, a page a learner, a page for the class."""

from __future__ import annotations

import csv
import functools
import hashlib
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from course_utils.grading.batch import Report
from course_utils.grading.feedback import COLOURS, LABELS, SYMBOLS, inline_code
from course_utils.grading.verdict import ERROR, FAILED, NOT_ATTEMPTED, PARTIAL, PASSED
from course_utils.io import atomic_write, write_json

Result = dict[str, Any]
ORDER = (PASSED, PARTIAL, FAILED, ERROR, NOT_ATTEMPTED)
# Okabe and Ito's palette, told apart by every kind of colour vision
PLOT_COLOURS = {PASSED: "#009E73", PARTIAL: "#E69F00", FAILED: "#D55E00", ERROR: "#CC79A7", NOT_ATTEMPTED: "#BBBBBB"}


def write_json_report(report: Report, path: Path) -> None:
    """`{"isolation": ..., "submissions": [...]}`: see DESIGN's list of names that stay."""
    write_json(path, report.to_dict())


# -- terminal ------------------------------------------------------------------------------------------------------


def table(report: Report) -> Any:
    """A rich table: one row a submission. Learner-controlled text is plain text, never markup."""
    from rich.table import Table
    from rich.text import Text

    out = Table(title=f"{len(report.records)} submissions · isolation: {report.isolation}", title_justify="left")
    for name, justify in (
        ("submission", "left"),
        ("score", "right"),
        ("exercises", "left"),
        ("s", "right"),
        ("for a person", "left"),
    ):
        out.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for result in report.results:
        marks = Text()
        for exercise in result["exercises"]:
            marks.append(SYMBOLS[exercise["status"]], style=COLOURS[exercise["status"]])
        if not result["exercises"]:
            marks.append("; ".join(result["notes"])[:80])
        flags = f"⚑ {len(result['flags'])}" if result["flags"] else ""
        score = f"{result['score']:g}/{result['max_score']:g}"
        if result.get("hand_graded"):
            score += f" + {sum(task['max_score'] for task in result['hand_graded']):g} by hand"
        out.add_row(Text(result["id"]), score, marks, f"{result['seconds']:.1f}", Text(flags))
    return out


def summary(report: Report) -> str:
    """One line: how many, the mean, how many need a person."""
    graded = [r for r in report.results if r["max_score"]]
    mean = statistics.mean(100 * r["score"] / r["max_score"] for r in graded) if graded else 0.0
    flagged = sum(bool(r["flags"]) for r in report.results)
    broken = sum(r["status"] == ERROR for r in report.results)
    return f"{len(report.results)} submissions, mean {mean:.0f}%, {flagged} with flags for a person, {broken} that could not be read or run"


# -- files for programs --------------------------------------------------------------------------------------------


def write_csv(report: Report, path: Path) -> None:
    """One row a submission, one column an exercise. Cells that a spreadsheet would run as formulas are quoted."""
    ids = sorted({e["id"] for r in report.results for e in r["exercises"]}, key=_natural)
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["submission", "status", "score", "max_score", "seconds", *ids, "diagnoses", "flags", "notes"])
        for result in report.results:
            scores = {e["id"]: e["score"] for e in result["exercises"]}
            diagnoses = "; ".join(f"{e['id']} {e['diagnosis']}" for e in result["exercises"] if e["diagnosis"])
            writer.writerow(
                [_no_formula(result["id"]), result["status"], result["score"], result["max_score"], result["seconds"]]
                + [scores.get(exercise_id, "") for exercise_id in ids]
                + [_no_formula(text) for text in (diagnoses, " | ".join(result["flags"]), " | ".join(result["notes"]))]
            )


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "|")) else text


def write_junit(report: Report, path: Path) -> None:
    """JUnit XML: one suite a submission, one test an exercise."""
    root = ElementTree.Element("testsuites", name="course grade")
    for result in report.results:
        cases = result["exercises"]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=result["id"],
            tests=str(len(cases)),
            failures=str(sum(e["status"] in (FAILED, PARTIAL) for e in cases)),
            errors=str(sum(e["status"] == ERROR for e in cases)),
            skipped=str(sum(e["status"] == NOT_ATTEMPTED for e in cases)),
            time=f"{result['seconds']:.3f}",
        )
        for exercise in cases:
            case = ElementTree.SubElement(
                suite, "testcase", name=f"{exercise['id']} {exercise['title']}", classname=result["id"]
            )
            tag = {FAILED: "failure", PARTIAL: "failure", ERROR: "error", NOT_ATTEMPTED: "skipped"}.get(
                exercise["status"]
            )
            if tag:
                message = f"{exercise['score']:g} of {exercise['max_score']:g} points"
                ElementTree.SubElement(case, tag, message=message).text = "\n".join(exercise["feedback"])
        if result["notes"] or result["flags"]:
            ElementTree.SubElement(suite, "system-out").text = "\n".join([*result["notes"], *result["flags"]])
    ElementTree.indent(root)
    with atomic_write(path, "wb") as file:
        ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


def gradescope(result: Result) -> dict[str, Any]:
    """One submission as Gradescope's `results.json`. Flags stand in a test that only instructors see."""
    tests = [
        {
            "name": f"{e['id']} {e['title']}",
            "number": e["id"],
            "score": e["score"],
            "max_score": e["max_score"],
            "status": "passed" if e["status"] == PASSED else "failed",
            "output": "\n".join(e["feedback"]),
            "output_format": "text",
            "visibility": "visible",
            "tags": [e["diagnosis"]] if e["diagnosis"] else [],
        }
        for e in result["exercises"]
    ]
    if result["flags"]:
        text = "\n".join(result["flags"])
        hidden = {"name": "For the instructor", "output": text, "output_format": "text", "visibility": "hidden"}
        tests.append({**hidden, "score": 0.0, "max_score": 0.0, "status": "passed"})
    return {
        "score": result["score"],
        "execution_time": round(result["seconds"]),
        "output": "\n".join(result["notes"]),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
        "extra_data": {"id": result["id"], "max_score": result["max_score"]},
    }


def write_gradescope(report: Report, path: Path, one_learner: bool = False) -> list[Path]:
    """`results.json` for one submission; for several, one file each in a folder of the same name."""
    results = [best_of(report.results)] if one_learner and report.results else report.results
    if len(results) == 1:
        write_json(path, gradescope(results[0]))
        return [path]
    targets = [path.with_suffix("") / f"{file_name(result['id'])}.json" for result in results]
    for result, target in zip(results, targets):
        write_json(target, gradescope(result))
    return targets


def best_of(results: list[Result]) -> Result:
    """Several files of one learner as one submission: each exercise counts where it is best."""
    best: dict[str, dict[str, Any]] = {}
    for result in results:
        for exercise in result["exercises"]:
            held = best.get(exercise["id"])
            if held is None or exercise["score"] > held["score"]:
                best[exercise["id"]] = exercise
    exercises = [best[exercise_id] for exercise_id in sorted(best, key=_natural)]
    return {
        **results[0],
        "score": round(sum(e["score"] for e in exercises), 2),
        "max_score": round(sum(e["max_score"] for e in exercises), 2),
        "seconds": round(sum(r["seconds"] for r in results), 3),
        "exercises": exercises,
        "notes": [note for r in results for note in r["notes"]],
        "flags": [flag for r in results for flag in r["flags"]],
    }


# -- pages ---------------------------------------------------------------------------------------------------------


def write_html(report: Report, folder: Path) -> Path:
    """`learners/NAME.html` for each learner (nothing about others in it) and `class.html` for the teacher. All offline."""
    for result in report.results:
        with atomic_write(folder / "learners" / f"{file_name(result['id'])}.html") as file:
            file.write(learner_page(result))
    with atomic_write(folder / "class.html") as file:
        file.write(class_page(report, folder))
    return folder / "class.html"


def learner_page(result: Result) -> str:
    """What a learner sees: scores and sentences. No flags, no inputs, no script, nothing from elsewhere."""
    return (
        _templates().get_template("learner.html").render(result=result, symbols=SYMBOLS, labels=LABELS, colours=COLOURS)
    )


def class_page(report: Report, folder: Path) -> str:
    """The class at a glance, for the teacher: shares, mistakes, hardest exercises, flags with their evidence."""
    from plotly.offline import get_plotlyjs

    with atomic_write(folder / "plotly.min.js") as file:
        file.write(get_plotlyjs())
    figures = [
        {
            "takeaway": figure.layout.title.text,
            "html": figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}),
        }
        for figure in class_figures(report.results)
    ]
    rows = [{**result, "file": f"learners/{file_name(result['id'])}.html"} for result in report.results]
    return (
        _templates()
        .get_template("class.html")
        .render(
            report=report,
            rows=rows,
            figures=figures,
            summary=summary(report),
            symbols=SYMBOLS,
            colours=COLOURS,
            labels=LABELS,
        )
    )


def class_statistics(results: list[Result]) -> list[dict[str, Any]]:
    """For each exercise: its title, how many of each status, the mean share of its points."""
    rows: dict[str, dict[str, Any]] = {}
    for result in results:
        for e in result["exercises"]:
            row = rows.setdefault(
                e["id"],
                {"id": e["id"], "title": e["title"], "statuses": Counter(), "shares": [], "mistakes": Counter()},
            )
            row["statuses"][e["status"]] += 1
            row["shares"].append(e["score"] / e["max_score"] if e["max_score"] else 0.0)
            if e["diagnosis"]:
                row["mistakes"][e["diagnosis"]] += 1
    for row in rows.values():
        row["mean"] = statistics.mean(row["shares"])
    return [rows[exercise_id] for exercise_id in sorted(rows, key=_natural)]


def class_figures(results: list[Result]) -> list[Any]:
    """Plotly figures; all their text comes from the course, none from learners."""
    import plotly.graph_objects as go

    rows = class_statistics(results)
    if not rows:
        return []
    names = [f"{row['id']} {row['title']}" for row in rows]
    solved = go.Figure()
    for status in ORDER:
        shares = [100 * row["statuses"][status] / row["statuses"].total() for row in rows]
        label = f"{SYMBOLS[status]} {LABELS[status]}"
        solved.add_bar(y=names, x=shares, name=label, orientation="h", marker_color=PLOT_COLOURS[status])
    first = max(rows, key=lambda row: row["statuses"][PASSED] / row["statuses"].total())
    solved.update_layout(
        barmode="stack",
        title=f"Share of the class that solved each exercise (most: {first['id']})",
        xaxis_title="share of submissions (%)",
        yaxis={"autorange": "reversed"},
    )
    hardest = sorted(rows, key=lambda row: row["mean"])[:10]
    hard = go.Figure(
        go.Bar(
            y=[f"{row['id']} {row['title']}" for row in hardest],
            x=[100 * row["mean"] for row in hardest],
            orientation="h",
            marker_color="#0072B2",
        )
    )
    hard.update_layout(
        title=f"Hardest: {hardest[0]['id']} with a mean of {100 * hardest[0]['mean']:.0f}% of its points",
        xaxis={"title": "mean share of the points (%)", "range": [0, 100]},
        yaxis={"autorange": "reversed"},
    )
    figures = [solved, hard, _score_figure(results)]
    mistakes = Counter({(row["id"], name): n for row in rows for name, n in row["mistakes"].items()}).most_common(15)
    if mistakes:
        common = go.Figure(
            go.Bar(
                y=[f"{exercise} {name.replace('_', ' ')}" for (exercise, name), _ in mistakes],
                x=[n for _, n in mistakes],
                orientation="h",
                marker_color="#D55E00",
            )
        )
        (exercise, name), n = mistakes[0]
        common.update_layout(
            title=f"Commonest recognised mistake: {name.replace('_', ' ')} in {exercise}, {n} times",
            xaxis={"title": "submissions", "dtick": max(1, n // 8)},
            yaxis={"autorange": "reversed"},
        )
        figures.append(common)
    for figure in figures:
        height = 160 + 26 * max(len(names) if figure is solved else 10, 6)
        figure.update_layout(template="plotly_white", height=height, margin={"l": 10, "r": 10, "t": 60, "b": 50})
        figure.update_yaxes(automargin=True)
    return figures


def _score_figure(results: list[Result]) -> Any:
    import plotly.graph_objects as go

    shares = [100 * r["score"] / r["max_score"] for r in results if r["max_score"]]
    middle = statistics.median(shares) if shares else 0.0
    figure = go.Figure(go.Histogram(x=shares, xbins={"start": 0, "end": 101, "size": 10}, marker_color="#56B4E9"))
    figure.update_layout(
        title=f"Half of the class scores {middle:.0f}% or more", xaxis_title="score (%)", yaxis_title="submissions"
    )
    return figure


@functools.cache
def _templates() -> Any:
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = lambda text: markupsafe.Markup(inline_code(text))
    return environment


def file_name(submission_id: str) -> str:
    """A safe file name for a submission: readable, and different for different ids."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", submission_id).strip("-")[:60] or "submission"
    digest = hashlib.sha256(submission_id.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{readable}-{digest}"


def _natural(text: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]
