"""One list of dependencies: constraints.txt, environment.yml and the installed environment agree with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]


def pinned_versions() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip().split("==") for line in lines if line.split("#")[0].strip()]
    return {canonicalize_name(name): Version(version) for name, version in pins}


@pytest.mark.parametrize("requirement", NEEDED, ids=lambda requirement: requirement.name)
def test_the_tested_version_is_one_that_the_project_allows(requirement: Requirement):
    assert requirement.specifier.contains(pinned_versions()[canonicalize_name(requirement.name)])


def test_the_installed_versions_are_the_tested_ones():
    installed: dict[str, Version] = {}
    for (
        dist
    ) in metadata.distributions():  # the first one counts: some packages carry older copies of others inside them
        installed.setdefault(canonicalize_name(dist.metadata["Name"]), Version(dist.version))
    other = {
        name: f"{installed[name]} instead of {version}"
        for name, version in pinned_versions().items()
        if name in installed and Version(installed[name].public) != version
    }
    assert not other
    assert {canonicalize_name(requirement.name) for requirement in NEEDED} <= installed.keys()


def test_every_dependency_is_used():
    """Imported somewhere, or a program that the course starts."""
    started = {"gguf", "jupyterlab"}  # transformers reads the model's file with the one, `course lab` starts the other
    modules = {"scikit-learn": "sklearn", "transformer-lens": "transformer_lens", "sae-lens": "sae_lens"}
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("course_utils", "solutions")
        for path in (ROOT / folder).rglob("*.py")
    )
    names = {Requirement(text).name for text in PROJECT["dependencies"]} - started
    unused = {n for n in names if not re.search(rf"^\s*(?:import|from) {modules.get(n, n)}\b", code, re.MULTILINE)}
    assert not unused


def test_conda_users_get_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, by_pip = environment["dependencies"]
    assert [re.split("[=<>]", name)[0] for name in conda] == ["python", "pip"]
    python = conda[0].removeprefix("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    assert by_pip == {"pip": ["--constraint constraints.txt", "--editable .[dev]"]}
