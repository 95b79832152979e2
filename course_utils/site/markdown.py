"""Markdown with formulas to HTML: TeX becomes MathML, which browsers draw (and screen readers read) without a script."""

from __future__ import annotations

import functools
import re
from html import escape
from typing import Any

import mistune
from latex2mathml.converter import convert
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

# Code spans and blocks come first in the pattern, so that a dollar sign inside code stays as it is.
_PIECES = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`|<code>.*?</code>|<pre>.*?</pre>)|\$\$(?P<display>.+?)\$\$|(?<![\\\w$])\$(?P<inline>[^$\n]+?)\$(?![\w$])",
    re.DOTALL,
)
_ALIGNED = re.compile(r"\\(begin|end)\{(?:aligned|split)\}")
_LETTERS = re.compile(r'(?:<mi mathvariant="normal">[A-Za-z]</mi>){2,}')
_VARIANT = re.compile(r'<mi mathvariant="(double-struck|bold|script|fraktur)">([A-Za-z0-9])</mi>')
_FIRST_LETTERS = {"double-struck": (0x1D538, 0x1D552), "bold": (0x1D400, 0x1D41A), "script": (0x1D49C, 0x1D4B6),
                  "fraktur": (0x1D504, 0x1D51E)}  # fmt: skip
_OLDER = {"double-struck": dict(zip("CHNPQRZ", "ℂℍℕℙℚℝℤ")), "script": dict(zip("BEFHILMRego", "ℬℰℱℋℐℒℳℛℯℊℴ")),
          "fraktur": dict(zip("CHIRZ", "ℭℌℑℜℨ"))}  # fmt: skip
"""Letters that Unicode had before it added the alphabets, and left out of them."""
# what stands inside a fold is markdown too, wherever its lines break
_FOLD = re.compile(r"[ \t]*\n?[ \t]*(<details>\s*<summary>[^\n]*?</summary>|</details>)[ \t]*\n?")
_EXERCISE = re.compile(r"(Exercise|Task) (\d\d)\.(r?\d+)")


class Converter:
    """Turns the markdown of one page into HTML. Keeps count of headings, so that each has an anchor of its own."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._markdown = mistune.create_markdown(
            renderer=_Renderer(self.anchor), plugins=["table", "strikethrough", "task_lists"]
        )

    def __call__(self, text: str) -> str:
        """One markdown cell as HTML. Raw HTML in it (folded answers) is kept: lessons are our own text."""
        formulas: list[str] = []

        def keep(match: re.Match[str]) -> str:
            if match["code"]:
                return match[0]
            formulas.append(formula(match["display"] or match["inline"], display=bool(match["display"])))
            return f"\x02{len(formulas) - 1}\x03"

        html = str(self._markdown(_FOLD.sub(r"\n\n\1\n\n", _PIECES.sub(keep, text))))
        html = re.sub("\x02(\\d+)\x03", lambda match: formulas[int(match[1])], html)
        return in_boxes(html)

    def anchor(self, text: str) -> str:
        """A name for a heading that no other heading of this page has."""
        name = slug(text)
        self._seen[name] = self._seen.get(name, 0) + 1
        return name if self._seen[name] == 1 else f"{name}-{self._seen[name]}"


def to_html(text: str) -> str:
    """Markdown that stands by itself."""
    return Converter()(text)


def in_boxes(html: str) -> str:
    """Wide tables scroll inside a box of their own that the keyboard can reach; the page never scrolls sideways."""
    html = re.sub(r"<table\b", '<div class="scroll" role="group" aria-label="Table" tabindex="0"><table', html)
    return html.replace("</table>", "</table></div>")


@functools.cache
def formula(tex: str, display: bool) -> str:
    """A TeX formula as MathML; one that cannot be converted is shown as its source."""
    tex = tex.strip()
    try:
        mathml = convert(_ALIGNED.sub(r"\\\1{align*}", tex), display="block" if display else "inline")
    except Exception:
        return f'<code class="tex">{escape(tex)}</code>'
    mathml = mathml.replace(r">\|<", ">‖<").replace(r">\Vert<", ">‖<")
    # browsers know only the upright variant: other alphabets are letters of their own in Unicode
    mathml = _VARIANT.sub(lambda match: f"<mi>{_letter(match[1], match[2])}</mi>", mathml)
    # one word, not letters one by one, for the ear and for the spacing
    mathml = _LETTERS.sub(lambda match: f"<mi>{re.sub('<[^>]+>', '', match[0])}</mi>", mathml)
    mathml = mathml.replace("<math ", f'<math alttext="{escape(" ".join(tex.split()), quote=True)}" ', 1)
    if not display:
        return mathml
    return f'<span class="scroll formula" role="group" aria-label="Formula" tabindex="0">{mathml}</span>'


def _letter(variant: str, letter: str) -> str:
    if letter.isdigit():
        return letter
    if letter in _OLDER.get(variant, {}):
        return _OLDER[variant][letter]
    upper, lower = _FIRST_LETTERS[variant]
    return chr(upper + ord(letter) - ord("A")) if letter.isupper() else chr(lower + ord(letter) - ord("a"))


def code_html(source: str, language: str = "python") -> str:
    """Source code with classes for colours (see `style.css`). The keyboard can scroll it."""
    try:
        lexer = get_lexer_by_name(language or "text")
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    html = highlight(source, lexer, HtmlFormatter(cssclass="code"))
    return html.replace("<pre>", '<pre tabindex="0">', 1)


class _Renderer(mistune.HTMLRenderer):
    def __init__(self, anchor: Any) -> None:
        super().__init__(escape=False)
        self._anchor = anchor

    def block_code(self, code: str, info: str | None = None) -> str:
        return code_html(code, (info or "text").split()[0])

    def heading(self, text: str, level: int, **attrs: object) -> str:
        name = self._anchor(text)
        return (
            f'<h{level} id="{name}">{text}<a class="anchor" href="#{name}" aria-label="Link to this section">#</a>'
            f"</h{level}>\n"
        )


def slug(text: str) -> str:
    """A heading's anchor: `exercise-02-3` for an exercise, else its words."""
    plain = re.sub("<[^>]+>|\x02\\d+\x03|&\\w+;", " ", text)
    if found := _EXERCISE.search(plain):
        return f"{found[1].lower()}-{found[2]}-{found[3]}"
    return re.sub(r"[^\w]+", "-", plain.lower()).strip("-") or "section"
