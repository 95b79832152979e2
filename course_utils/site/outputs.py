"""What a cell gave, as HTML that needs no kernel: figures, tables, pictures, text, and widgets in the position they start in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape, unescape
from typing import Any

from course_utils.site.markdown import Converter, in_boxes

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
# an output is shown in the first of these forms that it has
FORMS = (
    WIDGET,
    PLOTLY,
    "text/html",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/markdown",
    "text/latex",
    "text/plain",
)
# behind strongly coloured tokens the letters are dark in both themes
_STRONG = re.compile(r'<(span|bdi)( style="background:rgba\(\d+,\d+,\d+,(?:1(?:\.0*)?|0?\.[6-9]\d*)\))')
# these tags end no word
_INLINE = re.compile(r"</?(?:a|b|code|em|i|m[a-z]+|s|small|span|strong|sub|sup)(?:\s[^>]*)?>")
# a link that a reader may click is fine; what the page would load by itself is not
_OUTSIDE = re.compile(
    r"""<(?!a\b)\w[^>]*?\b(?:src|href)\s*=\s*["']?\s*(?:https?:)?//|@import\s|url\(\s*["']?\s*(?:https?:)?//""",
    re.IGNORECASE,
)


def output_html(output: Any, widgets: Mapping[str, Any]) -> str:
    """One output. `widgets` is the notebook's saved widget state, by model id."""
    if output["output_type"] == "stream":
        text = without_bars(output["text"]).strip("\n")
        if output["name"] != "stdout" or not text:
            return ""  # the other stream holds progress bars and warnings
        return f'<pre class="output" tabindex="0" role="group" aria-label="Printed">{escape(text)}</pre>'
    if output["output_type"] == "error":
        return f'<pre class="output error" tabindex="0">{escape(output["ename"])}: {escape(output["evalue"])}</pre>'
    data = output.get("data", {})
    for form in FORMS:
        if form in data:
            return _widget(data[form], widgets) if form == WIDGET else _shown(form, data[form], data)
    return ""


def joined(outputs: list[Any]) -> list[Any]:
    """Outputs with neighbouring printed pieces in one; what went to the other stream (bars, warnings) is left out."""
    result: list[Any] = []
    for output in outputs:
        printed = output["output_type"] == "stream"
        if printed and output["name"] != "stdout":
            continue
        if printed and result and result[-1]["output_type"] == "stream":
            result[-1] = {**result[-1], "text": result[-1]["text"] + output["text"]}
        else:
            result.append(output)
    return result


def widget_state(notebook: Any) -> dict[str, Any]:
    """The saved widgets of a notebook, by model id."""
    return dict(notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {}))


def needs_network(html: str) -> str:
    """The first piece of a page that would ask another machine for something, or nothing."""
    found = _OUTSIDE.search(html)
    return html[found.start() : found.start() + 120] if found else ""


def plain(html: str) -> str:
    """The text of a piece of HTML, formulas as their characters."""
    text = _INLINE.sub("", re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL))
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))).strip()


def figure_title(value: Mapping[str, Any]) -> tuple[str, str]:
    """A figure's takeaway and the line under it (the course's figures put both into the title)."""
    title = (value.get("layout") or {}).get("title") or {}
    text = str((title.get("text") if isinstance(title, Mapping) else title) or "")
    head, _, rest = text.partition("<br>")
    return plain(head), plain(rest.replace("<br>", " "))


def _shown(form: str, value: Any, data: Mapping[str, Any]) -> str:
    if form == PLOTLY:
        return _figure(value)
    if form.startswith("image/") and form != "image/svg+xml":
        said = str(data.get("text/plain", ""))
        label = "Picture made by the code above" if said.startswith("<") or not said else escape(said, quote=True)
        return f'<figure class="picture"><img alt="{label}" src="data:{form};base64,{value.strip()}"></figure>'
    if form in ("text/html", "image/svg+xml"):
        html = _STRONG.sub(r'<\1 class="strong"\2', str(value))
        # a page in a page, or one with its own script, knows nothing of our dark theme: it keeps its paper
        own = " paper" if re.search(r"<(script|iframe|style)\b", html, re.IGNORECASE) else ""
        if not own:
            html = in_boxes(html)
        return f'<div class="output html{own}">{html}</div>'
    if form in ("text/markdown", "text/latex"):
        return f'<div class="output">{Converter()(str(value))}</div>'
    return f'<pre class="output" tabindex="0">{escape(str(value))}</pre>'


def _figure(value: Mapping[str, Any]) -> str:
    """A plotly figure as data that `site.js` draws, under its title and with a description for those who cannot see it."""
    head, rest = figure_title(value)
    layout = {key: part for key, part in (value.get("layout") or {}).items() if key != "title"}
    spec = {"data": value["data"], "layout": layout, "frames": value.get("frames", [])}
    text = json.dumps(spec, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\!--")
    caption = f"<strong>{escape(head)}</strong>" + (f"<span>{escape(rest)}</span>" if rest else "")
    caption = f"<figcaption>{caption}</figcaption>" if head else ""
    described = escape(describe(value), quote=True)
    return (
        f'<figure class="plot">{caption}<div class="scroll" tabindex="0" role="img" aria-label="{described}">'
        f'<div class="canvas"><noscript>This figure is drawn by a script.</noscript></div></div>'
        f'<script type="application/json">{text}</script></figure>'
    )


def describe(value: Mapping[str, Any]) -> str:
    """A figure in words: what kind, its title, its axes, what it shows."""
    layout = value.get("layout") or {}
    head, rest = figure_title(value)
    traces = value.get("data", [])
    kinds = dict.fromkeys(str(trace.get("type", "scatter")) for trace in traces)
    axes = []
    for key in sorted(layout):
        if re.fullmatch(r"[xy]axis\d*", key):
            title = (layout[key].get("title") or {}).get("text")
            if title and f"{key[0]}: {plain(title)}" not in axes:
                axes.append(f"{key[0]}: {plain(title)}")
    names = list(dict.fromkeys(plain(str(trace["name"])) for trace in traces if trace.get("name")))
    parts = [
        f"{' and '.join(kinds) or 'empty'} chart",
        head,
        rest,
        f"Axes: {'; '.join(axes)}" if axes else "",
        f"Shown: {', '.join(names[:12])}" if names else "",
    ]
    return ". ".join(part.rstrip(".") for part in parts if part)


def _widget(view: Mapping[str, Any], widgets: Mapping[str, Any]) -> str:
    """What a widget shows before anyone touches it. Progress bars are left out."""
    models, outputs = _inside(view.get("model_id", ""), widgets)
    if any("Progress" in model for model in models):
        return ""
    shown = "".join(output_html(output, widgets) for output in outputs)
    what = "the controls of the notebook in their first position" if shown else "a control of the notebook"
    note = f'<p class="widget">This is {what}; they need a running kernel.</p>'
    return f'<div class="widgets">{note}{shown}</div>'


def _inside(model_id: str, widgets: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Names of the models in a widget, and what its output areas hold."""
    model = widgets.get(model_id)
    if not model:
        return [], []
    state = model.get("state", {})
    names, outputs = [str(model.get("model_name", ""))], list(state.get("outputs", []))
    for child in state.get("children", []):
        more_names, more_outputs = _inside(str(child).removeprefix("IPY_MODEL_"), widgets)
        names += more_names
        outputs += more_outputs
    return names, outputs


def without_bars(text: str) -> str:
    """Keep what a terminal would show after carriage returns."""
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.split("\n"))
