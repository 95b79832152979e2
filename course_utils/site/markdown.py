"""Markdown with formulas to HTML: TeX becomes MathML, which browsers draw (and screen readers read) without a script."""

from __future__ import annotations

import re
from html import escape

import mistune
from latex2mathml.converter import convert
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

# Code spans and blocks come first in the pattern, so that a dollar sign inside code stays as it is.
_PIECES = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<display>.+?)\$\$|(?<![\\\w$])\$(?P<inline>[^$\n]+?)\$(?![\w$])", re.DOTALL
)
_ENVIRONMENTS = re.compile(r"\\begin\{aligned\}(.*?)\\end\{aligned\}", re.DOTALL)


def to_html(text: str) -> str:
    """One markdown cell as HTML. Raw HTML in it (folded answers) is kept: lessons are our own text."""
    formulas: list[str] = []

    def keep(match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        formulas.append(formula(match["display"] or match["inline"], display=bool(match["display"])))
        return f"\x02{len(formulas) - 1}\x03"

    html = str(_render(_PIECES.sub(keep, text)))
    return re.sub("\x02(\\d+)\x03", lambda match: formulas[int(match[1])], html)


def formula(tex: str, display: bool) -> str:
    """A TeX formula as MathML; one that cannot be converted is shown as its source."""
    # an `aligned` block becomes a matrix, which the converter knows
    tex = _ENVIRONMENTS.sub(r"\\begin{matrix}\1\\end{matrix}", tex.strip())
    try:
        return convert(tex, display="block" if display else "inline")
    except Exception:
        return f"<code>{escape(tex)}</code>"


def code_html(source: str, language: str = "python") -> str:
    """Source code with classes for colours (see `style.css`)."""
    try:
        lexer = get_lexer_by_name(language or "text")
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    return highlight(source, lexer, HtmlFormatter(cssclass="code"))


class _Renderer(mistune.HTMLRenderer):
    def block_code(self, code: str, info: str | None = None) -> str:
        return code_html(code, (info or "text").split()[0])

    def heading(self, text: str, level: int, **attrs: object) -> str:
        anchor = slug(re.sub(r"<[^>]+>", "", text))
        return f'<h{level} id="{anchor}">{text}<a class="anchor" href="#{anchor}" aria-label="link to here">#</a></h{level}>\n'


def slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-") or "section"


_render = mistune.create_markdown(renderer=_Renderer(escape=False), plugins=["table", "strikethrough", "task_lists"])
