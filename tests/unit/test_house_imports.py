"""What is quick stays quick: importing the course and asking the command for help load nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "transformer_lens", "sae_lens", "plotly", "pandas", "nbgrader", "sklearn")
SECONDS = 0.3


def python(code: str) -> dict:
    """Run code in a fresh Python; gives the heavy modules it loaded and the CPU seconds it used."""
    report = (
        f"\nimport json, sys, time; print(json.dumps({{'heavy': [m for m in {HEAVY!r} if m in sys.modules],"
        " 'seconds': time.process_time()}))"
    )
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_course_is_light():
    bare = min(python("pass")["seconds"] for _ in range(3))
    runs = [python("import course_utils") for _ in range(3)]
    assert runs[0]["heavy"] == []
    assert min(run["seconds"] for run in runs) - bare < SECONDS


@pytest.mark.parametrize("module", ["course_utils.notebook", "course_utils.cli", "course_utils.lessons"])
def test_the_verbs_and_the_command_wait_with_heavy_imports(module):
    assert python(f"import {module}")["heavy"] == []


@pytest.mark.parametrize("package", ["course_utils.toy", "course_utils.sae"])
def test_toy_and_sae_do_without_language_models(package):
    heavy = python(f"import {package}")["heavy"]
    assert not {"transformers", "transformer_lens", "sae_lens"} & set(heavy)


def test_grading_knows_nothing_of_autoencoders():
    assert python("import course_utils.grading")["heavy"] == []
