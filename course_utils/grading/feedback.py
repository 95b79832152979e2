"""A verdict as plain text and as a compact HTML card: the same words in both."""

from __future__ import annotations

from html import escape

from course_utils.grading.verdict import ERROR, FAILED, NOT_ATTEMPTED, PARTIAL, PASSED, Verdict

SYMBOLS = {PASSED: "✓", PARTIAL: "◐", FAILED: "✗", NOT_ATTEMPTED: "○", ERROR: "!"}
LABELS = {
    PASSED: "correct",
    PARTIAL: "partly correct",
    FAILED: "not yet",
    NOT_ATTEMPTED: "not attempted yet",
    ERROR: "stopped with an error",
}
# Blue and orange are told apart by every kind of colour vision; the symbol and the words say the same.
COLOURS = {
    PASSED: "#0f7b6c",
    PARTIAL: "#b7791f",
    FAILED: "#c2410c",
    NOT_ATTEMPTED: "#64748b",
    ERROR: "#c2410c",
}


def headline(verdict: Verdict) -> str:
    """`✗ 02.3 The loss: not yet (0/2 points)`"""
    points = f"{verdict.score:g}/{verdict.max_score:g} points"
    return f"{SYMBOLS[verdict.status]} {verdict.id} {verdict.title}: {LABELS[verdict.status]} ({points})"


def as_text(verdict: Verdict) -> str:
    """The card for a terminal, a log or a screen reader."""
    lines = [headline(verdict)]
    if verdict.explanation:
        lines.append(f"  Looks like a known mistake ({_words(verdict.diagnosis)}): {verdict.explanation}")
    if verdict.status == NOT_ATTEMPTED or not verdict.cases:
        lines += [f"  {text}" for text in verdict.feedback]
    for result in verdict.cases:
        if verdict.status != PASSED or not result.passed:
            mark = "✓" if result.passed else "✗"
            lines.append(f"  {mark} {result.name}" + (f": {result.problem}" if result.problem else ""))
    lines += [f"      {line}" for line in _first_detail(verdict).splitlines()]
    if verdict.status in (FAILED, PARTIAL, ERROR) and verdict.hints:
        lines.append(f"  Stuck? hint({verdict.id!r})")
    return "\n".join(lines)


def as_html(verdict: Verdict) -> str:
    """The card for a notebook or a feedback page. Learner-controlled text is escaped; no script, no outside resource."""
    colour = COLOURS[verdict.status]
    parts = [
        f'<div role="status" style="border-left:4px solid {colour};padding:.5em .9em;margin:.3em 0;'
        'font-family:system-ui,sans-serif;font-size:14px;line-height:1.45;max-width:60em">',
        f'<div><strong style="color:{colour}">{SYMBOLS[verdict.status]} {LABELS[verdict.status].capitalize()}</strong>'
        f" &nbsp;<strong>{escape(verdict.id)}</strong> {escape(verdict.title)}"
        f' <span style="float:right;opacity:.75">{verdict.score:g} / {verdict.max_score:g} points</span></div>',
    ]
    if verdict.explanation:
        parts.append(
            f'<div style="margin:.4em 0;padding:.4em .6em;background:rgba(194,65,12,.09);border-radius:4px">'
            f"<strong>Looks like a known mistake</strong> ({escape(_words(verdict.diagnosis))}): "
            f"{inline_code(verdict.explanation)}</div>"
        )
    if verdict.status == NOT_ATTEMPTED or not verdict.cases:
        parts += [f"<div>{inline_code(text)}</div>" for text in verdict.feedback]
    elif verdict.status != PASSED:
        parts.append('<ul style="list-style:none;margin:.3em 0;padding:0">')
        for result in verdict.cases:
            mark = ("✓", COLOURS[PASSED]) if result.passed else ("✗", COLOURS[FAILED])
            problem = f": {inline_code(result.problem)}" if result.problem else ""
            parts.append(f'<li><span style="color:{mark[1]}">{mark[0]}</span> {inline_code(result.name)}{problem}</li>')
        parts.append("</ul>")
    if detail := _first_detail(verdict):
        parts.append(
            '<pre style="margin:.3em 0;padding:.4em .6em;background:rgba(127,127,127,.12);'
            f'border-radius:4px;font-size:12.5px;white-space:pre-wrap">{escape(detail)}</pre>'
        )
    if verdict.status in (FAILED, PARTIAL, ERROR) and verdict.hints:
        parts.append(f'<div style="opacity:.75">Stuck? <code>hint("{escape(verdict.id)}")</code></div>')
    return "\n".join([*parts, "</div>"])


def _first_detail(verdict: Verdict) -> str:
    return next((result.detail for result in verdict.cases if result.detail), "")


def _words(name: str | None) -> str:
    return (name or "").replace("_", " ")


def inline_code(text: str) -> str:
    """HTML of a sentence: escaped, and `code` shown as code."""
    pieces = escape(text).split("`")
    if len(pieces) % 2 == 0:  # an unpaired backtick: leave the text as it is
        return "`".join(pieces)
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))
