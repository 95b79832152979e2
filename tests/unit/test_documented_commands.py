"""Every `course ...` command that a document names: the command, its options and their choices exist. Nothing is run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from course_utils.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "TEACHING.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted(ROOT.glob("course_utils/assets/saes/*/README.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`(course [^`\n]+)`")


def commands(text: str) -> list[str]:
    """Those between backticks, and lines of code blocks; `...` and what follows a pipe or comment left out."""
    blocks = [block.replace("\\\n", " ") for language, block in BLOCK.findall(text) if language in ("", "bash", "sh")]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    found = [line for line in lines if line.startswith("course ")] + QUOTED.findall(BLOCK.sub("", text))
    return [re.split(r" (?:[|#&>;]|\.\.\.)", command)[0].replace("...", "") for command in found]


def refusal(command: str) -> str:
    """What the command line would say against a command, or nothing. Values are parsed as far as they are choices."""
    _, name, *arguments = shlex.split(command)
    with click.Context(main, info_name="course") as context:
        known = main.get_command(context, name)
        if known is None:
            return f"there is no command {name}"
        try:
            with click.Context(known, parent=context, info_name=name) as own:
                values, rest, _ = known.make_parser(own).parse_args(list(arguments))
                for parameter in known.params:
                    if isinstance(parameter.type, click.Choice) and values.get(parameter.name or "") is not None:
                        parameter.type_cast_value(own, values[parameter.name or ""])
        except click.UsageError as error:
            return error.format_message()
    return f"unexpected: {rest}" if rest else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_documents_exist(page: Path):
    said = {command: refusal(command) for command in commands(page.read_text(encoding="utf-8"))}
    assert not {command: words for command, words in said.items() if words}


def test_the_main_pages_name_commands():
    counts = {page.name: len(commands(page.read_text(encoding="utf-8"))) for page in PAGES[:3]}
    assert all(counts.values()), counts


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("course train --shipped", "requires an argument"),
        ("course train --shipped first", "first"),
        ("course train --shiped all", "No such option"),
        ("course teach", "no command teach"),
        ("course progress now", "unexpected"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, words: str):
    assert words in refusal(command)
