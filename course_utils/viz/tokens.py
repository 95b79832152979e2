"""Text coloured by activation: plain escaped spans that show everywhere, and circuitsvis' interactive view where it teaches more.

The spans need no script, so they also show in a notebook that is not trusted. Nothing is loaded from a network.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

ORANGE = (230, 159, 0)  # positive; Okabe and Ito's colour-blind-safe palette
BLUE = (86, 180, 233)  # negative
_GLYPHS = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Co", "Cn", "Cs"}


class Html(str):
    """HTML text that a notebook shows as such."""

    def _repr_html_(self) -> str:
        return str(self)


def visible(token: str) -> str:
    """A token with everything in it made visible: line ends and tabs as signs, invisible characters by their number.

    A mark that needs a letter before it gets a dotted circle to sit on. The result is text, not HTML: escape it.

    Example:
        >>> visible("a\\n"), visible("x\\u200by"), visible(" the")
        ('a↵', 'x⟨U+200B⟩y', ' the')
    """
    shown = "".join(
        _GLYPHS.get(c) or (f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in _INVISIBLE else c) for c in token
    )
    return "◌" + shown if shown and unicodedata.category(shown[0]).startswith("M") else shown


def escape(token: str) -> str:
    """`visible` text, safe inside HTML."""
    return html.escape(visible(token))


def token_heatmap_html(
    tokens: Sequence[str],
    values: Sequence[float] | np.ndarray,
    *,
    maximum: float | None = None,
    title: str = "",
    unit: str = "activation",
) -> Html:
    """Tokens on a background that is stronger where the value is larger; hovering shows the value.

    Args:
        maximum: the value with the full colour (the largest one given, by default). Use one maximum for texts that are to be
            compared.
        title: a line above the text.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.shape != (len(tokens),):
        raise ValueError(f"one value for each token, please: {len(tokens)} tokens, values of shape {numbers.shape}")
    top = maximum if maximum is not None else float(np.abs(numbers).max(initial=0.0))
    spans = "".join(_span(token, float(value), top, unit) for token, value in zip(tokens, numbers, strict=True))
    heading = f'<div style="font:600 13px system-ui;margin-bottom:4px">{html.escape(title)}</div>' if title else ""
    style = "font:13px/1.9 ui-monospace,Menlo,Consolas,monospace;white-space:break-spaces;overflow-wrap:anywhere"
    return Html(f'{heading}<div style="{style}">{spans}</div>')


def _span(token: str, value: float, top: float, unit: str) -> str:
    share = min(abs(value) / top, 1.0) if top > 0 else 0.0
    red, green, blue = ORANGE if value >= 0 else BLUE
    colour = f"background:rgba({red},{green},{blue},{0.08 + 0.72 * share:.2f});" if share > 0 else ""
    note = html.escape(f"{visible(token)}  {unit} {value:.3g}", quote=True)
    return f'<bdi style="{colour}border-radius:2px;padding:1px 0" title="{note}">{escape(token)}</bdi>'


def examples_html(
    examples: Sequence[Any], tokenizer: Any, *, title: str = "", limit: int = 10, maximum: float | None = None
) -> Html:
    """Activating examples (`course_utils.features.Example`) one under the other, shaded on a common scale."""
    from course_utils.features.stream import token_strings

    shown = list(examples)[:limit]
    top = maximum if maximum is not None else max((e.value for e in shown), default=0.0)
    rows = []
    for example in shown:
        text = token_heatmap_html(token_strings(tokenizer, example.tokens), example.acts, maximum=top)
        number = f'<div style="font:12px ui-monospace,monospace;opacity:.65;min-width:4em">{example.value:.3g}</div>'
        rows.append(f'<div style="display:flex;gap:12px;margin:2px 0">{number}{text}</div>')
    empty = '<div style="opacity:.65">never fires on this text</div>'
    heading = f'<div style="font:600 13px system-ui;margin:6px 0">{html.escape(title)}</div>' if title else ""
    return Html(heading + ("".join(rows) or empty))


def colored_tokens(tokens: Sequence[str], values: Any) -> Html:
    """circuitsvis' coloured tokens, with its script included rather than fetched and every token made safe.

    About 1.3 MB a figure. circuitsvis drops tokens that look like tags and lets `</script>` end its script, so `<` is replaced
    by the sign `‹` in what it is given.
    """
    import circuitsvis

    safe = [visible(token).replace("<", "‹") for token in tokens]
    return Html(circuitsvis.tokens.colored_tokens(safe, np.asarray(values, dtype=float)).local_src)


def colored_tokens_multi(tokens: Sequence[str], values: Any, labels: Sequence[str]) -> Html:
    """circuitsvis' view of several latents over one text, with a selector: `values` is [tokens, latents]."""
    import circuitsvis
    import torch

    safe = [visible(token).replace("<", "‹") for token in tokens]
    names = [label.replace("<", "‹") for label in labels]
    figure = circuitsvis.tokens.colored_tokens_multi(safe, torch.as_tensor(values, dtype=torch.float32), names)
    return Html(figure.local_src)
