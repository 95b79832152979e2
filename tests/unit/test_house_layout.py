"""The house: what lies where, what every file starts with, and what no file may name."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
TEXT_LIMIT = 2_000_000
"""Bytes: larger tracked files are data, not text."""


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_every_room_is_there():
    for name in (
        "README.md", "Makefile", "environment.yml", "pyproject.toml", "constraints.txt", "nbgrader_config.py", "LICENSE",
        "TEACHING.md", "solutions", "notebooks", "course_utils", "tests", "benchmarks", ".ci/run",
    ):  # fmt: skip
        assert (ROOT / name).exists(), name


def test_solutions_hold_lessons_and_notebooks_hold_their_copies():
    sources = {path.stem for path in tracked() if path.parent == ROOT / "solutions"}
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", slug) for slug in sources)
    copies = {
        path.relative_to(ROOT / "notebooks").as_posix() for path in tracked() if ROOT / "notebooks" in path.parents
    }
    assert {name for name in copies if name.endswith(".ipynb")} == {f"{slug}/{slug}.ipynb" for slug in sources}
    assert not [name for name in copies if name.endswith(".py")], "a source beside a copy would be released with it"


def test_every_module_says_what_it_is_for():
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.suffix == ".py" and ROOT / "solutions" not in path.parents and not path.name.startswith("99_")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_no_tracked_file_names_this_machine():
    words = [f"{folder}/" for folder in (ROOT, Path.home()) if len(folder.parts) > 2] + [f"{ROOT.parent}/main"]
    words += registry_hosts()
    named = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in tracked()
        if path.stat().st_size < TEXT_LIMIT
        for word in words
        if word.encode() in path.read_bytes()
    ]
    assert not named


def registry_hosts() -> list[str]:
    """Hosts of package registries this machine is set up with, other than the public ones."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    hosts = {urlparse(address).hostname or "" for address in re.findall(r"https?://[^\s'\"]+", said)}
    return sorted(host for host in hosts if host and not host.endswith(("pypi.org", "pytorch.org")))


def test_what_ships_is_never_half_written():
    builders = [path for path in tracked() if path.match("course_utils/assets/build_*.py")]
    assert builders
    assert not [
        path.name for path in builders if re.search(r"\.write_(text|bytes)\(", path.read_text(encoding="utf-8"))
    ]


def test_every_kind_of_package_data_is_there():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    assert [pattern for pattern in patterns["course_utils"] if not any((ROOT / "course_utils").glob(pattern))] == []


def test_kept_copies_of_notebooks_stay_out_of_git():
    names = [
        "notebooks/02_x/02_x.before-reset-02-3.ipynb",
        "notebooks/.kept/02_x.before-release.2.ipynb",
        "a-Copy1.ipynb",
    ]
    listed = subprocess.run(["git", "check-ignore", "--no-index", *names], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 128:
        pytest.skip("not a git checkout")
    assert listed.stdout.split() == names


@pytest.mark.parametrize("module", ["course_utils.assets.build_evidence", "benchmarks._peers"])
def test_a_command_asked_for_help_does_no_work(module: str):
    done = CliRunner().invoke(importlib.import_module(module).main, ["--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


def test_shipped_file_names_work_everywhere():
    odd = [path.name for path in tracked() if not re.fullmatch(r"[A-Za-z0-9._+-]+", path.name)]
    assert not odd
