"""The report: every table of `results/` on one page, as Markdown and as HTML with a bar figure beside each table.

The HTML carries its script with it (once) and asks for nothing from outside. Figures are made from the `.json` beside each table; a
table without one stands alone. The first table gathers one row a comparison, with its command, machine and date.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from benchmarks._common import RESULTS

TITLE = "Measured beside other libraries"
ORDER = (
    "sae_speed", "toy_geometry", "toy_recovery", "lm_sae_quality", "lm_collect", "dashboard_speed", "grading_throughput",
    "grading_isolation", "lesson_times", "peers",
)  # fmt: skip
OWN = ("ours", "course", "bfloat16", "float32, ")
Data = dict[str, Any]


@dataclass(frozen=True)
class Bars:
    """One figure: a value a name. `title` says what the bars show, `axis` names them with their unit."""

    title: str
    axis: str
    values: dict[str, float]
    log: bool = False
    reference: tuple[str, float] | None = None
    """A line to compare with: (label, value)."""


def write_report() -> Path:
    """Write `results/report.md` and `results/report.html`; gives the former."""
    from course_utils.io import atomic_write

    names = sorted(
        (path.stem for path in RESULTS.glob("*.md") if path.stem != "report"),
        key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name),
    )
    tables = {name: (RESULTS / f"{name}.md").read_text(encoding="utf-8").strip() for name in names}
    tables = {name: "#" + text if text.startswith("# ") else text for name, text in tables.items()}
    data = {name: json.loads(path.read_text()) for name in names if (path := RESULTS / f"{name}.json").exists()}
    head = f"# {TITLE}\n\n`make bench` makes this page. Each table names its command, machine and date.\n\n" + glance(
        data
    )
    with atomic_write(RESULTS / "report.md") as file:
        file.write("\n\n".join([head.strip(), *tables.values()]) + "\n")
    with atomic_write(RESULTS / "report.html") as file:
        file.write(page(head, tables, data))
    return RESULTS / "report.md"


# -- the first table -----------------------------------------------------------------------------------------------


def glance(data: dict[str, Data]) -> str:
    """One row a comparison: what, ours, the best peer, the command, machine and date."""
    lines = ["| work | ours | best peer here | command | date | machine |", "|---|---|---|---|---|---|"]
    for name, makers in SUMMARIES.items():
        if name not in data:
            continue
        for maker in makers:
            row = _or_none(maker, data[name])
            if row:
                where = [
                    f"`{data[name].get('command', f'python -m benchmarks.{name}').strip()}`",
                    data[name].get("date", ""),
                ]
                lines.append(f"| {' | '.join([*row, *where, data[name].get('machine', '').replace('|', '/')])} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _or_none(maker: Callable[[Data], Any], data: Data) -> Any:
    """A result written by an older version may lack a field: then its row or figure is left out."""
    try:
        return maker(data)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return None


def _least(values: dict[str, float], unit: str) -> str:
    name = min(values, key=lambda key: values[key])
    return f"{name}: {values[name]:.3g} {unit}"


def _speed_row(data: Data) -> list[str]:
    ms = {name: one["median"] for name, one in data["ms"].items()}
    peers = {name: value for name, value in ms.items() if not name.startswith("ours") and "GEMM" not in name}
    return ["TopK training step (d_in 576, d_sae 4,608, k 32)", f"{ms['ours TopK']:.3g} ms", _least(peers, "ms")]


def _memory_row(data: Data) -> list[str]:
    mb = data["peak_mb_of_a_step"]
    peers = {name: value for name, value in mb.items() if not name.startswith("ours") and value is not None}
    return ["the same: memory above the resting size", f"{mb['ours TopK']:.0f} MB", _least(peers, "MB")]


def _found(row: Data) -> float:
    return statistics.median(run["found"] for run in row["equal_steps"])


def _recovery_row(data: Data, kind: str) -> list[str]:
    rows = {row["method"]: _found(row) for row in data["rows"] if row["method"].endswith(kind)}
    peer = max((name for name in rows if not name.startswith("ours")), key=lambda name: rows[name])
    s = data["setting"]
    ours = f"{rows[f'ours, {kind}']:g} of {s['features']}"
    return [f"toy directions found in {s['steps']:,} steps, {kind}", ours, f"{peer}: {rows[peer]:g}"]


def _quality_row(data: Data) -> list[str]:
    best = {row["library"]: row["fvu"] for row in data["best"]}
    peers = {name: value for name, value in best.items() if name != "ours"}
    s = data["setting"]
    work = f"variance unexplained on the language model, {s['steps']} steps, k = {s['k']} (less is better)"
    return [work, f"{best['ours']:.4f}", f"{min(peers, key=lambda n: peers[n])}: {min(peers.values()):.4f}"]


def _collect_row(data: Data) -> list[str]:
    best = max(data["rows"], key=lambda row: row["tokens_per_s"])
    plain = next(row for row in data["rows"] if "whole model" in row["way"])
    return [
        "collecting activations",
        f"{best['tokens_per_s']:,} tokens/s ({best['way']})",
        f"whole model: {plain['tokens_per_s']:,}",
    ]


def _dashboard_row(data: Data) -> list[str]:
    cpu = {name: statistics.median(run["cpu"] for run in runs) for name, runs in data["sides"].items()}
    return [
        "dashboards of 256 latents",
        f"{cpu['course']:.1f} CPU s",
        f"sae-dashboard: {cpu['sae-dashboard']:.1f} CPU s",
    ]


def _grading(data: Data) -> dict[str, float]:
    """CPU seconds a submission."""
    ours = statistics.mean(run["cpu"] for run in data["course_grade"]) / data["submissions"]
    found = {"course grade": ours}
    for key, name in (("nbgrader", "nbgrader autograde"), ("otter", "otter run")):
        if data.get(key):
            found[name] = data[key]["cpu"] / data[key]["submissions"]
    return found


def _grading_row(data: Data) -> list[str]:
    cpu = _grading(data)
    ours = cpu.pop("course grade")
    return ["grading a submission of ten checks", f"{ours:.3f} CPU s", _least(cpu, "CPU s")]


def _attacks_row(data: Data) -> list[str]:
    held = {
        name: (sum(row["held"].values()), data["attacks"]) for name, row in data["isolation"].items() if "held" in row
    }
    best = next(iter(held))
    others = "; ".join(f"{name}: {n} of {of}" for name, (n, of) in held.items() if name == "limits")
    return [
        "hostile submissions held",
        f"{held[best][0]} of {held[best][1]} ({best})",
        f"(ours with {others})" if others else "",
    ]


SUMMARIES: dict[str, list[Callable[[Data], list[str]]]] = {
    "sae_speed": [_speed_row, _memory_row],
    "toy_recovery": [lambda data: _recovery_row(data, "L1"), lambda data: _recovery_row(data, "TopK")],
    "lm_sae_quality": [_quality_row],
    "lm_collect": [_collect_row],
    "dashboard_speed": [_dashboard_row],
    "grading_throughput": [_grading_row],
    "grading_isolation": [_attacks_row],
}


# -- figures -------------------------------------------------------------------------------------------------------


def _speed(data: Data) -> Bars:
    ms = {name: one["median"] for name, one in data["ms"].items()}
    return Bars("Milliseconds a training step", "ms, median (logarithmic)", ms, log=True)


def _recovery(data: Data) -> Bars:
    s = data["setting"]
    values = {row["method"]: _found(row) for row in data["rows"]} | {
        f"by chance: {name}": value for name, value in data["chance"].items()
    }
    title = f"Directions found in {s['steps']:,} steps, of {s['features']}"
    return Bars(title, f"found (cosine above {s['threshold']}), median of {s['seeds']} seeds", values)


def _quality(data: Data) -> Bars:
    values = {f"{row['library']}, lr {row['lr']:.2g}": row["fvu"] for row in data["best"]}
    return Bars(
        "Variance the autoencoder leaves unexplained", "share of the held-out variance (less is better)", values
    )


def _collect(data: Data) -> Bars:
    return Bars("Collecting activations", "tokens a second", {row["way"]: row["tokens_per_s"] for row in data["rows"]})


def _dashboard(data: Data) -> Bars:
    values = {name: statistics.median(run["cpu"] for run in runs) for name, runs in data["sides"].items()}
    return Bars("Dashboards of 256 latents", "CPU seconds", values)


def _throughput(data: Data) -> Bars:
    return Bars("Grading one submission of ten checks", "CPU seconds (logarithmic)", _grading(data), log=True)


def _isolation(data: Data) -> Bars:
    values = {name: sum(row.get("held", {}).values()) for name, row in data["isolation"].items()}
    return Bars("Hostile submissions held", f"held, of {data['attacks']}", values)


FIGURES: dict[str, Callable[[Data], Bars]] = {
    "sae_speed": _speed,
    "toy_recovery": _recovery,
    "lm_sae_quality": _quality,
    "lm_collect": _collect,
    "dashboard_speed": _dashboard,
    "grading_throughput": _throughput,
    "grading_isolation": _isolation,
}


def figure(bars: Bars) -> Any:
    """Horizontal bars, this project's in blue, others in grey, with the value written at each."""
    import plotly.graph_objects as go

    from course_utils.viz.theme import PALETTE, style

    names = list(bars.values)[::-1]
    values = [bars.values[name] for name in names]
    colours = [PALETTE[0] if name.startswith(OWN) else "#9A9A9A" for name in names]
    drawn = go.Figure(
        go.Bar(
            x=values, y=names, orientation="h", marker_color=colours, text=[f"{value:,.3g}" for value in values],
            textposition="outside", cliponaxis=False, hovertemplate="%{y}: %{x}<extra></extra>",
        )
    )  # fmt: skip
    style(drawn, bars.title, subtitle="blue: this project", x=bars.axis, height=130 + 26 * len(names))
    drawn.update_layout(showlegend=False, margin_r=70)
    if bars.log:
        drawn.update_xaxes(type="log")
    return drawn


# -- the page ------------------------------------------------------------------------------------------------------


def page(head: str, tables: dict[str, str], data: dict[str, Data]) -> str:
    """The whole report as one HTML page."""
    from plotly.offline import get_plotlyjs

    from course_utils.site.markdown import to_html

    body, drawn = [_scrolling(to_html(head))], 0
    for name, text in tables.items():
        bars = _or_none(FIGURES[name], data[name]) if name in FIGURES and name in data else None
        body.append(f'<section id="{name}">{_scrolling(to_html(text))}')
        if bars and bars.values:
            drawn += 1
            label = escape(f"{bars.title}: " + ", ".join(f"{n} {v:,.3g}" for n, v in bars.values.items()), quote=True)
            html = figure(bars).to_html(
                full_html=False,
                include_plotlyjs=False,
                div_id=f"figure-{name}",
                config={"displaylogo": False, "responsive": True},
            )
            body.append(f'<figure role="img" aria-label="{label}">{html}</figure>')
        body.append("</section>")
    style = (Path(__file__).with_name("_report.css")).read_text(encoding="utf-8")
    script = f"<script>{get_plotlyjs()}</script>" if drawn else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{TITLE}</title><style>{style}</style>{script}</head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _scrolling(html: str) -> str:
    """Wide tables scroll by themselves on a narrow screen."""
    return html.replace("<table", '<div class="wide"><table').replace("</table>", "</table></div>")
