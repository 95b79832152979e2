"""Milliseconds a training step and peak memory: this library, its plain twin and other libraries, side by side.

Everything runs in one process, interleaved round by round, with the same threads and the same matmul precision, so that a
busy machine disturbs all alike; medians and ratios are reported. Peers that cannot be imported are left out and named.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from tqdm import tqdm

from benchmarks._common import import_dictionary_learning

RESULTS = Path(__file__).parent / "results"
D_IN, D_SAE, K, BATCH = 576, 4608, 32, 2048
BF16 = "ours TopK, bf16 products"
Step = Callable[["object"], object]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rounds", default=15, help="Measured rounds, after 2 to warm up.")
@click.option(
    "--clock", default="wall", type=click.Choice(["wall", "cpu"]), help="cpu: processor time, for busy machines."
)
@click.option("--memory/--no-memory", default=True, help="Also measure each entry's peak memory, in a process each.")
@click.option(
    "--only", default="", help="Comma-separated parts of names; measure only entries that contain one (floors always)."
)
@click.option("--threads", default=2, help="Threads for everything.")
@click.option(
    "--precision",
    default="highest",
    type=click.Choice(["highest", "high", "medium"]),
    help="fp32 matmul precision, for all.",
)
@click.option(
    "--memory-of", default=None, hidden=True, help="Print the peak memory of a process that runs only this entry."
)
@click.option("--out", default="sae_speed", help="Name of the files in benchmarks/results.")
def main(
    rounds: int, only: str, threads: int, clock: str, memory: bool, precision: str, memory_of: str | None, out: str
) -> None:
    """Measure and write benchmarks/results/NAME.md and NAME.json."""
    import torch

    from course_utils.precision import bfloat16_cost

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    if memory_of:
        click.echo(json.dumps(peak_memory(memory_of)))
        return
    torch.manual_seed(0)
    data = torch.randn(8 * BATCH, D_IN)
    steps, missing = entries()
    wanted = [part.strip() for part in only.split(",")]
    steps = {name: step for name, step in steps.items() if "GEMM" in name or any(part in name for part in wanted)}
    times = interleave(steps, [data[i * BATCH : (i + 1) * BATCH] for i in range(8)], rounds, clock)
    toys = toy_times(rounds, clock)
    peaks = {name: measure_memory(name, threads) for name in steps if "GEMM" not in name} if memory else {}
    quality = final_losses()
    result = {
        "command": "python -m benchmarks.sae_speed " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(threads, precision, clock),
        "ms": times,
        "toy_ms": toys,
        "peak_mb_of_a_step": peaks,
        "final_loss": quality,
        "bf16_product_cost": bfloat16_cost(),
        "not_importable": missing,
    }
    text = report(result)
    click.echo(text)
    from course_utils.io import atomic_write, write_json

    write_json(RESULTS / f"{out}.json", result)
    with atomic_write(RESULTS / f"{out}.md") as file:
        file.write(text)


def entries() -> tuple[dict[str, Step], dict[str, str]]:
    """Everything that can be timed here, and why the rest cannot."""
    steps: dict[str, Step] = {**floors(), **own()}
    missing = {}
    for name, make in {
        "SAELens": sae_lens_steps,
        "dictionary_learning": dictionary_learning_steps,
        "sparsify": sparsify_steps,
    }.items():
        try:
            steps |= make()
        except ImportError as error:
            missing[name] = str(error)
    return steps, missing


def floors() -> dict[str, Step]:
    """The dense products themselves: encoder forward and dW, and the five of a plain training step."""
    import torch

    W, V, g = torch.randn(D_IN, D_SAE), torch.randn(D_SAE, D_IN), torch.randn(BATCH, D_SAE)

    def two(x):
        return x @ W, x.T @ g

    def five(x):
        return x @ W, x.T @ g, g @ V, g.T @ x, x @ V.T

    return {"two encoder GEMMs": two, "five dense GEMMs": five}


def own() -> dict[str, Step]:
    """This library's steps."""
    import torch

    from course_utils.precision import quicker_precision
    from course_utils.sae import SAEConfig, SAETrainer

    def trainer(**changes) -> SAETrainer:
        return SAETrainer(SAEConfig(**{"d_in": D_IN, "d_sae": D_SAE, "k": K, "dead_after_steps": 10**6, **changes}))

    quarter_dead = torch.arange(D_SAE) % 4 == 0
    with_aux = trainer()
    with_aux.dead_latents = lambda: quarter_dead  # type: ignore[method-assign]
    made = {
        "ours TopK": trainer(),
        BF16: trainer(precision="bfloat16"),
        "ours TopK + AuxK, 25% dead": with_aux,
        "ours BatchTopK": trainer(architecture="batchtopk"),
        "ours Matryoshka": trainer(architecture="matryoshka"),
        "ours TopK, plain twin": trainer(fast=False),
        "ours Standard": trainer(architecture="standard"),
    }
    if quicker_precision() == "float32":
        del made[BF16]  # this processor would need a minute and more for it; the report says so
    return {name: one.step for name, one in made.items()}


def sae_lens_steps() -> dict[str, Step]:
    """SAELens' training SAEs with Adam, as its trainer steps them; sparse activations as an option of its own."""
    import torch
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    def step_of(sae) -> Step:
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
        nobody = torch.zeros(D_SAE, dtype=torch.bool)

        def step(x):
            sae.train()
            output = sae.training_forward_pass(
                TrainStepInput(x, {}, dead_neuron_mask=nobody, n_training_steps=0, is_logging_step=False)
            )
            optimizer.zero_grad()
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
            optimizer.step()

        return step

    shape = {"d_in": D_IN, "d_sae": D_SAE, "k": K}
    sparse = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}
    return {
        "SAELens TopK": step_of(TopKTrainingSAE(TopKTrainingSAEConfig(**shape))),
        "SAELens TopK, sparse option": step_of(TopKTrainingSAE(TopKTrainingSAEConfig(**shape, **sparse))),
        "SAELens BatchTopK": step_of(BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shape))),
    }


def dictionary_learning_steps() -> dict[str, Step]:
    """dictionary_learning's TopK trainer."""
    import_dictionary_learning()
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer

    trainer = TopKTrainer(
        steps=10_000,
        activation_dim=D_IN,
        dict_size=D_SAE,
        k=K,
        layer=0,
        lm_name="none",
        dict_class=AutoEncoderTopK,
        device="cpu",
        warmup_steps=10,
    )
    counter = iter(range(10**9))
    return {"dictionary_learning TopK": lambda x: trainer.update(next(counter) + 1, x)}


def sparsify_steps() -> dict[str, Step]:
    """sparsify's coder with Adam and its decoder constraint."""
    import torch
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K), device="cpu", dtype=torch.float32)
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-3)

    def step(x):
        output = coder(x)
        optimizer.zero_grad()
        output.fvu.backward()
        if coder.cfg.normalize_decoder:
            coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        if coder.cfg.normalize_decoder:
            coder.set_decoder_norm_to_unit_norm()

    return {"sparsify TopK": step}


def interleave(
    steps: dict[str, Step], batches: list, rounds: int, clock: str, warmup: int = 2
) -> dict[str, dict[str, float]]:
    """Median and smallest milliseconds of each entry; every round runs all of them once."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for i in tqdm(range(rounds + warmup), desc="rounds", unit="round", leave=False):
        for name, step in steps.items():
            started = now()
            step(batches[i % len(batches)])
            if i >= warmup:
                taken[name].append(1e3 * (now() - started))
    return {name: {"median": statistics.median(one), "min": min(one)} for name, one in taken.items()}


def toy_times(rounds: int, clock: str) -> dict[str, dict[str, float]]:
    """One toy SAE against 16 of them as one batch (lesson 05's sizes: 5 dimensions, 20 latents)."""
    import torch

    from course_utils.sae import ManySAEs, SAEConfig, SAETrainer

    def cfg(seed: int) -> SAEConfig:
        return SAEConfig(d_in=5, d_sae=20, k=2, batch_size=256, seed=seed, aux_coefficient=0.0)

    steps = {
        "one toy SAE": SAETrainer(cfg(0)).step,
        "16 toy SAEs as one": ManySAEs([cfg(seed) for seed in range(16)]).step,
    }
    return interleave(steps, [torch.randn(256, 5) for _ in range(8)], 10 * rounds, clock)


def final_losses(steps: int = 150) -> dict[str, float]:
    """Loss at the end of the same short run in float32 and with bfloat16 products, on sparse planted data."""
    import torch

    from course_utils.sae import SAEConfig, evaluate_sae, train_sae

    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(512, 128, generator=generator), dim=1)
    x = (
        (torch.rand(20_000, 512, generator=generator) < 0.02) * torch.rand(20_000, 512, generator=generator)
    ) @ directions
    found = {}
    for precision in ("float32", "bfloat16"):
        cfg = SAEConfig(d_in=128, d_sae=512, k=10, steps=steps, batch_size=1024, lr=3e-3, precision=precision)
        found[precision] = evaluate_sae(train_sae(x, cfg, progress=False).sae, x)["mse"]
    return found


def peak_memory(name: str) -> float:
    """Megabytes by which the peak of two further steps exceeds what the process holds between steps (Linux)."""
    import torch

    step = entries()[0][name]
    x = torch.randn(BATCH, D_IN)
    step(x)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present size
    before = _status("VmRSS")
    for _ in range(2):
        step(x)
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def measure_memory(name: str, threads: int) -> float | None:
    """`peak_memory` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sae_speed", "--memory-of", name, "--threads", str(threads)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=RESULTS.parent.parent, env=os.environ
    )
    return float(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None


def describe_machine(threads: int, precision: str, clock: str) -> str:
    """Processor, threads, versions and load, in one line."""
    import torch

    model = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        model = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), model
        )
    flags = "with AMX-BF16" if info.exists() and "amx_bf16" in info.read_text() else ""
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return f"{model} {flags}, {threads} threads, {clock} time, fp32 matmul precision {precision!r}, torch {torch.__version__}, {load}"


def report(result: dict) -> str:
    """The tables as Markdown."""
    ms, memory = result["ms"], result["peak_mb_of_a_step"]
    floor, ours = ms["two encoder GEMMs"], ms["ours TopK"]
    lines = [
        "## Sparse autoencoders: a training step",
        "",
        f"d_in {D_IN}, d_sae {D_SAE}, k {K}, batch {BATCH}; interleaved in one process. "
        f"`{result['command'].strip()}`, {result['date']}. {result['machine']}.",
        "Ratios are of medians; in brackets of minima. Memory: how far a step's peak exceeds what the process holds between steps.",
        "",
        "| | median ms | against two encoder GEMMs | against ours TopK | peak MB |",
        "|---|---|---|---|---|",
    ]
    for name, one in ms.items():
        ratios = [f"{one['median'] / base['median']:.2f} ({one['min'] / base['min']:.2f})" for base in (floor, ours)]
        peak = f"{memory[name]:.0f}" if memory.get(name) is not None else ""
        lines.append(f"| {name} | {one['median']:.0f} | {ratios[0]} | {ratios[1]} | {peak} |")
    one, many = result["toy_ms"].values()
    loss = result["final_loss"]
    lines += [
        "",
        f"Sixteen toy SAEs (5 dimensions, 20 latents, batch 256) as one batch: {many['median']:.2f} ms a step, one alone "
        f"{one['median']:.2f}: {many['median'] / one['median']:.2f} times (minima: {many['min'] / one['min']:.2f}).",
        f"The same short run with bf16 products ends at {loss['bfloat16'] / loss['float32']:.4f} times the float32 loss.",
    ]
    if BF16 not in ms:
        lines.append(
            f"A product in bf16 takes {result['bf16_product_cost']:.0f} times as long as in float32 on this processor: its step is "
            "left out."
        )
    if result["not_importable"]:
        lines.append(f"Not importable here: {', '.join(result['not_importable'])} (see benchmarks/README.md).")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
