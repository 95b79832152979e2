"""CONTRIBUTING.md's examples, followed to the letter in a copy of the repository: an exercise, a lesson, an architecture."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"(A new file|At the end of|In) `([^`]+)`")
FOLDER = "course_utils/sae/architectures"
DATA = 1 << 20
"""Files larger than this are data: linked, not copied."""


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that can be changed: code, lessons, tests."""
    copy = tmp_path_factory.mktemp("repository")

    def place(source: str, target: str) -> None:
        os.symlink(source, target) if os.path.getsize(source) > DATA else shutil.copy(source, target)

    for name in ("course_utils", "solutions", "notebooks", "tests"):
        shutil.copytree(ROOT / name, copy / name, copy_function=place, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "nbgrader_config.py", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, copy)
    return copy


def follow(title: str, repository: Path) -> list[str]:
    """Write the files that a section says to write; gives the commands it says to run."""
    text, commands, end_of_last = section(title), [], 0
    for block in BLOCK.finditer(text):
        language, code = block.groups()
        if language == "bash":
            commands += code.splitlines()
        else:
            how, name = PLACE.findall(text[end_of_last : block.start()])[-1]
            write(how, repository / name, code)
        end_of_last = block.end()
    return commands


def write(how: str, path: Path, code: str) -> None:
    if how == "A new file":
        assert not path.exists(), f"{path.name} is there already: CONTRIBUTING.md needs another example"
        path.write_text(code, encoding="utf-8")
    elif how == "At the end of":
        path.write_text(f"{path.read_text(encoding='utf-8').rstrip()}\n\n\n{code}", encoding="utf-8")
    else:  # one line more in a mapping: an entry where the others stand, an assignment behind them
        before = path.read_text(encoding="utf-8")
        at = re.search(r"^(STORED_AS|ARCHITECTURES)[^\n]*= \{.*?(^\}|\}$)", before, re.MULTILINE | re.DOTALL)
        assert at
        where = at.start(2) if code.startswith(" ") else at.end() + 1
        path.write_text(before[:where] + code + before[where:], encoding="utf-8")


def run(script: str, folder: Path) -> str:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "PYTEST_"))},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(folder),
        "COURSE_ROOT": str(folder),
        "COURSE_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", f"set -e\n{script}"], cwd=folder, env=environment, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, (script + done.stdout + done.stderr)[-5000:]
    return done.stdout


def together(commands: list[str]) -> str:
    """Several `pytest PATHS -k WORDS` as one, to import everything once."""
    paths, words = [], []
    for command in commands:
        program, *options = shlex.split(command)
        assert (program, options[-2]) == ("pytest", "-k"), command
        paths += [path for path in options[:-2] if path not in paths]
        words.append(f"({options[-1]})")
    return f"pytest -rA {' '.join(paths)} -k {shlex.quote(' or '.join(words))}"


@pytest.fixture(scope="module")
def proved(repository: Path) -> list[str]:
    """All three examples followed: the tests that passed."""
    titles = ("Add an exercise", "Add a lesson", "Add a sparse-autoencoder architecture")
    commands = [command for title in titles for command in follow(title, repository)]
    proofs = [command for command in commands if command.startswith("pytest")]
    assert len(proofs) == 3
    others = [command for command in commands if command not in proofs]
    assert others
    output = run("\n".join([*others, together(proofs)]), repository)
    return re.findall(r"^PASSED (\S+)", output, re.MULTILINE)


@pytest.mark.slow
def test_add_an_exercise(repository: Path, proved: list[str]) -> None:
    # the reference, the worked answer, three mistakes, another style, the untouched copy, complete
    assert sum("[02.11" in name for name in proved) == 8, proved
    assert "02.11" in (repository / "notebooks/02_toy_superposition/02_toy_superposition.ipynb").read_text("utf-8")


@pytest.mark.slow
def test_add_a_lesson(repository: Path, proved: list[str]) -> None:
    assert sum("[10.1" in name for name in proved) == 8, proved
    assert [name for name in proved if "test_the_solved_lesson_runs" in name and "10_room" in name], proved
    copy = (repository / "notebooks/10_room_for_directions/10_room_for_directions.ipynb").read_text("utf-8")
    assert "NotImplementedError" in copy
    assert "torch.eye" not in copy


@pytest.mark.slow
def test_add_an_architecture(repository: Path, proved: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("architectures", "files", "train"):
        assert [name for name in proved if f"test_sae_{file}" in name and "tanh" in name], proved
    from course_utils.sae import ARCHITECTURES, SAEConfig, architectures, evaluate_sae, train_sae

    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(repository / FOLDER)])
    monkeypatch.setitem(ARCHITECTURES, "tanh", "course_utils.sae.architectures.tanh:TanhSAE")
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator), dim=1)
    active = torch.rand(8000, 32, generator=generator) < 0.08
    x = (active * (1 + torch.rand(8000, 32, generator=generator))) @ directions

    def unexplained(architecture: str, steps: int) -> float:
        cfg = SAEConfig(16, 64, architecture=architecture, l1_coefficient=1.0, steps=steps, batch_size=256, lr=1e-2)
        return evaluate_sae(train_sae(x, cfg, progress=False).sae, x)["fvu"]

    trained = unexplained("tanh", 300)
    assert trained < 0.3 * unexplained("tanh", 1)
    assert trained < unexplained("standard", 300), "the point of the penalty: less shrinkage at the same coefficient"
