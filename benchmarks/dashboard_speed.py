"""Dashboards of 256 latents over the same tokens: this library beside sae-dashboard, in its own environment.

    python -m venv peer && peer/bin/pip install torch==2.13.0 sae-dashboard && peer/bin/pip uninstall -y torchvision
    COURSE_DASHBOARD_PEER=peer/bin/python python -m benchmarks.dashboard_speed

The two take turns, each in a process of its own with the same number of threads. Loading the model is not counted; running it,
finding examples and writing pages are. Without the peer's environment only our side is measured, and the table says so.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks._common import provenance, write

HERE = Path(__file__).parent
WIDE, MIXED = "", ", bfloat16 products"
"""Added to a side's name: everything in float32, or float32 with products in bfloat16 (matmul precision "medium")."""
NARROW = "course, model in bfloat16"


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """One timed run of `build_dashboard`."""
    import torch

    from course_utils.features import scan_latents
    from course_utils.lm.model import load_model
    from course_utils.sae import SAE
    from course_utils.viz import build_dashboard

    torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision(job["matmul"])
    torch.set_grad_enabled(False)
    model = load_model(job["model"], dtype=getattr(torch, job["dtype"]))
    tokens, sae = torch.load(job["tokens"]), SAE.load(job["sae"], dtype="float32")
    model(tokens[:2])  # first-call costs belong to neither side
    started, work = time.perf_counter(), time.process_time()
    scan = scan_latents(
        model, sae, tokens, job["latents"], correlations=True, hook_name=job["hook"], cache=False, progress=False
    )
    computed = time.perf_counter() - started
    site = Path(job["out"]) / "site"
    build_dashboard(
        site, model, sae, tokens, job["latents"], scan=scan, hook_name=job["hook"], examples=20, progress=False
    )
    seconds, work = time.perf_counter() - started, time.process_time() - work
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    tops = {i: [e.value for e in scan.top(i)] for i in job["latents"]}
    return {"seconds": seconds, "cpu": work, "computed": computed, "bytes": size, "tops": tops}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sae", "sae_folder", help="An SAE folder in SAELens' format (a shipped one by default).")
@click.option("--hook-name", help="Where the SAE reads, if it does not say.")
@click.option("--latents", default=256, show_default=True)
@click.option("--sequences", default=128, show_default=True)
@click.option("--context", default=128, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--peer", envvar="COURSE_DASHBOARD_PEER", help="Python of an environment that has sae-dashboard.")
@click.option("--out", default="dashboard_speed", show_default=True, help="Name of the files in benchmarks/results.")
@click.option("--side", hidden=True)
def main(
    sae_folder: str | None,
    hook_name: str | None,
    latents: int,
    sequences: int,
    context: int,
    repeats: int,
    threads: int,
    peer: str | None,
    out: str,
    side: str | None,
) -> None:
    """Measure, and write benchmarks/results/NAME.md and .json."""
    if side:
        job = json.loads(Path(side).read_text())
        Path(job["result"]).write_text(json.dumps(ours(job)))
        return
    import torch

    from course_utils.features import hook_name_of
    from course_utils.lm.model import fetch_model, load_model
    from course_utils.lm.saes import SAES, available_saes
    from course_utils.precision import quicker_precision
    from course_utils.viz.commands import corpus_tokens, open_sae

    middle = next((name for name, entry in available_saes().items() if entry["alias"] == "middle"), "")
    folder = sae_folder or str(SAES / middle)
    with tempfile.TemporaryDirectory() as scratch:
        tokens = corpus_tokens(load_model(), sequences * context, context)
        torch.save(tokens, Path(scratch) / "tokens.pt")
        job = {
            "tokens": f"{scratch}/tokens.pt",
            "model": str(fetch_model()),
            "sae": folder,
            "hook": hook_name or hook_name_of(open_sae(folder)),
            "latents": list(range(latents)),
            "threads": threads,
            "out": scratch,
            "result": f"{scratch}/result.json",
        }
        sides = {}
        kinds = [(WIDE, "float32", "highest"), (MIXED, "float32", "medium"), (NARROW, "bfloat16", "highest")]
        if quicker_precision() == "float32":
            kinds = kinds[:1]  # "medium" changes nothing there, and bfloat16 takes many times as long
        for kind, dtype, matmul in kinds:
            job_file = f"{scratch}/job-{dtype}-{matmul}.json"
            Path(job_file).write_text(json.dumps({**job, "dtype": dtype, "matmul": matmul}))
            own = kind if kind == NARROW else f"course{kind}"
            sides[own] = [sys.executable, "-m", "benchmarks.dashboard_speed", "--side", job_file]
            if peer and kind != NARROW:
                sides[f"sae-dashboard{kind}"] = [peer, str(HERE / "_dashboard_peer.py"), job_file]
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        for repeat in range(repeats):
            for name, command in sides.items():
                subprocess.run(command, check=True, cwd=HERE.parent, env=env)
                results[name].append(json.loads(Path(job["result"]).read_text()))
                click.echo(f"run {repeat + 1}, {name}: {results[name][-1]['seconds']:.1f} s")
    run = provenance("dashboard_speed", threads)
    setting = f"{latents} latents, {tokens.numel():,} tokens, {threads} threads, {repeats} runs each, in turns"
    text = table(results, f"{setting}. {run['date']}, {run['machine']}")
    click.echo(text)
    kept = {
        name: [{k: r[k] for k in ("seconds", "cpu", "computed", "bytes")} for r in runs]
        for name, runs in results.items()
    }
    write(out, text, {**run, "setting": setting, "runs": kept})


def table(results: dict[str, list[dict[str, Any]]], setting: str) -> str:
    """The Markdown that goes into the report."""
    middle = {name: statistics.median(r["seconds"] for r in runs) for name, runs in results.items()}
    work = {name: statistics.median(r["cpu"] for r in runs) for name, runs in results.items()}
    lines = [
        "## Dashboards: time and agreement",
        "",
        f"`python -m benchmarks.dashboard_speed`: {setting}; seconds from tokens to written pages, model loading not counted. "
        "bfloat16 products: matmul precision 'medium', for both sides alike.",
        "",
        "CPU seconds depend less than elapsed ones on what else the machine does.",
        "",
        "| | CPU s | elapsed s, median | elapsed s, fastest | of it, finding examples | pages, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        computed, size = statistics.median(r["computed"] for r in runs), runs[0]["bytes"] / 1e6
        fastest = min(r["seconds"] for r in runs)
        lines.append(
            f"| {name} | {work[name]:.1f} | {middle[name]:.1f} | {fastest:.1f} | {computed:.1f} | {size:.1f} |"
        )
    if "sae-dashboard" not in results:
        lines += ["", "sae-dashboard was not there (`--peer`), so this is our side alone."]
        return "\n".join(lines) + "\n"
    pairs = (
        ("course", "sae-dashboard"),
        (f"course{MIXED}", f"sae-dashboard{MIXED}"),
        (NARROW, f"sae-dashboard{MIXED}"),
    )
    for own, theirs in (pair for pair in pairs if set(pair) <= set(results)):
        ratio, cpu = (m[theirs] / m[own] for m in (middle, work))
        same, both = agreement(results[own][0]["tops"], results["sae-dashboard"][0]["tops"])
        lines += [
            "",
            f"**{theirs} takes {ratio:.1f} times as long as {own}** ({cpu:.1f} times the CPU time). The strongest activation of "
            f"{own} agrees within 2% with sae-dashboard in float32 for {same} of {both} latents that fire in both.",
        ]
    return "\n".join(lines) + "\n"


def agreement(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> tuple[int, int]:
    """How many latents have the same strongest activation within 2% on both sides, of how many that fire on both."""
    pairs = [(ours[i][0], theirs[i][0]) for i in ours if ours[i] and theirs.get(i)]
    return sum(abs(a - b) <= 0.02 * max(abs(b), 1e-6) for a, b in pairs), len(pairs)


if __name__ == "__main__":
    main()
