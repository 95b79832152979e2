"""The libraries to compare with: installs each group into an environment of its own, and says why one cannot be had.

    python -m benchmarks._peers

SAELens, scikit-learn and nbgrader are part of the course's environment. The others ask for versions that would break it. One
group reads the course's packages and adds only its own; the others bring everything with them. An environment that works is left
as it is; remove its folder below `build/` to have it made again.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks._common import ROOT, provenance, write

LIMIT_SECONDS = 1800


@dataclass(frozen=True)
class Group:
    """Peers that share an environment."""

    folder: str
    packages: tuple[str, ...]
    peers: dict[str, tuple[str, str]]
    """Name -> (distribution, statement that proves that it can be used)."""
    borrows: bool = False
    """Reads the course's packages and installs its own without their dependencies."""
    removed: tuple[str, ...] = ()
    """Packages taken out again after installing."""

    @property
    def python(self) -> Path:
        scripts = "Scripts" if sys.platform == "win32" else "bin"
        return ROOT / "build" / self.folder / scripts / "python"


DICTIONARY_LEARNING = (
    "from benchmarks._common import import_dictionary_learning as i; i(); "
    "import dictionary_learning.trainers.top_k, dictionary_learning.trainers.standard"
)
GROUPS = {
    "libraries": Group(
        "peers",
        ("dictionary-learning", "eai-sparsify", "natsort", "simple-parsing", "docstring-parser", "schedulefree"),
        {
            "dictionary_learning": ("dictionary-learning", DICTIONARY_LEARNING),
            "sparsify": ("eai-sparsify", "import sparsify.sparse_coder"),
        },
        borrows=True,
    ),
    "dashboard": Group(
        "peer_dashboard",
        ("torch=={torch}", "sae-dashboard", "pyarrow<22"),  # later ones need numpy 2, which it forbids
        {"sae-dashboard": ("sae-dashboard", "import sae_dashboard.sae_vis_runner")},
        removed=("torchvision",),  # its wheel is built for another torch and breaks transformers
    ),
    "otter": Group(
        "peer_otter",
        ("torch=={torch}", "numpy", "pandas", "ipykernel", "otter-grader"),
        {"otter-grader": ("otter-grader", "import otter, torch, ipykernel")},
    ),
}
OWN = {"SAELens": "sae-lens", "scikit-learn": "scikit-learn", "nbgrader": "nbgrader"}
"""Peers that are part of the course's own environment."""


def ensure(group: Group, install: bool = True) -> list[dict[str, Any]]:
    """Make sure that a group can be used: a row a peer with `version`, or with the `reason` why it cannot be had."""
    rows = [probe(group, name) for name in group.peers]
    if install and any("reason" in row for row in rows):
        print(f"== installing {', '.join(group.peers)} into build/{group.folder}", flush=True)
        failed = make(group)
        rows = [probe(group, name) for name in group.peers]
        for row in rows:
            if failed and "reason" in row:
                row["reason"] = last_line(failed)
    return rows


def probe(group: Group, name: str) -> dict[str, Any]:
    """Try to import a peer in its environment."""
    distribution, statement = group.peers[name]
    row: dict[str, Any] = {"peer": name, "environment": f"build/{group.folder}"}
    if not group.python.exists():
        return {**row, "reason": "not installed: `make bench` installs it"}
    done = ask(group, f"{statement}\nimport importlib.metadata as m; print(m.version({distribution!r}))")
    return (
        {**row, "version": last_line(done.stdout)}
        if done.returncode == 0
        else {**row, "reason": last_line(done.stderr)}
    )


def ask(group: Group, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([group.python, "-c", code], cwd=ROOT, capture_output=True, text=True)


def make(group: Group) -> str:
    """Create the environment and install into it; gives what went wrong, or nothing."""
    folder = ROOT / "build" / group.folder
    pip = [group.python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    try:
        if not group.python.exists():
            venv.create(folder, with_pip=True, symlinks=sys.platform != "win32")
        if group.borrows:
            (site_packages(group) / "course.pth").write_text(f"{own_site_packages()}\n", encoding="utf-8")
        wanted = [package.format(torch=torch_version()) for package in group.packages]
        run([*pip, "install", *(["--no-deps"] if group.borrows else []), *wanted])
        if group.removed:
            run([*pip, "uninstall", "--yes", *group.removed])
    except subprocess.CalledProcessError as error:
        return error.stderr or str(error)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""


def run(command: list[Any]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def site_packages(group: Group) -> Path:
    return Path(ask(group, "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())


def own_site_packages() -> str:
    import sysconfig

    return sysconfig.get_path("purelib")


def torch_version() -> str:
    import torch

    return torch.__version__.partition("+")[0]


def last_line(text: str) -> str:
    """The line that says most: the last one that is not empty, without pip's hints."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("[notice]", "hint:"))]
    return lines[-1] if lines else "no reason given"


def gather(install: bool = True) -> list[dict[str, Any]]:
    """Every peer, installed where needed; also written to results/peers.md and .json."""
    import importlib.metadata

    rows = [
        {"peer": name, "environment": "the course's", "version": importlib.metadata.version(distribution)}
        for name, distribution in OWN.items()
    ]
    for group in GROUPS.values():
        rows += ensure(group, install)
    result = {**provenance("_peers"), "rows": rows}
    lines = [
        "## What is compared with",
        "",
        f"`{result['command']}`, {result['date']}.",
        "",
        "| peer | version | environment |",
        "|---|---|---|",
    ]
    lines += [
        f"| {row['peer']} | {row.get('version') or 'cannot be had: ' + row['reason']} | {row['environment']} |"
        for row in rows
    ]
    write("peers", "\n".join(lines), result)
    return rows


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--install/--no-install", default=True, help="Install peers that are missing, each into build/.")
def main(install: bool) -> None:
    """Install the libraries to compare with, each group into an environment of its own, and say which can be had."""
    for row in gather(install):
        click.echo(f"{row['peer']:20} {row.get('version') or row['reason']}")


if __name__ == "__main__":
    main()
