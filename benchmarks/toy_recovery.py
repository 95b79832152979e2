"""How many known directions each library finds on lesson 04's well-posed toy: 32 features in 16 dimensions, 2 to 4 active.

    python -m benchmarks.toy_recovery

Everyone sees the same batches. Learning rates are chosen for each method on a problem that is not counted, from the same four. Then
two comparisons: equal steps, and equal processor time (steps are set from a short timing, so that schedules still finish). A
direction counts as found if its own latent (Hungarian assignment) has a cosine above 0.95. Chance: what untrained dictionaries match.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from benchmarks._common import import_dictionary_learning, provenance, write

N, D, SAMPLES, BATCH, K, L1 = 32, 16, 20_000, 256, 3, 1.0
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TUNING_SEED = 99
THRESHOLD = 0.95


class Problem(NamedTuple):
    x: Any
    directions: Any
    seed: int


class Run(NamedTuple):
    """A method at work: `step(batch)` trains, `dictionary()` gives its rows."""

    step: Callable[[Any], object]
    dictionary: Callable[[], Any]


Method = Callable[[Problem, int, float], Run]
"""(problem, steps, learning rate) -> Run."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--seeds", default=3)
@click.option("--steps", default=1000, help="Steps of the comparison at equal steps.")
@click.option("--budget", default=2.0, help="Processor seconds of the comparison at equal time.")
def main(seeds: int, steps: int, budget: float) -> None:
    """Measure and write benchmarks/results/toy_recovery.md and .json."""
    import torch
    from tqdm import tqdm

    warnings.filterwarnings("ignore")  # scikit-learn's solver warns at nearly every step of the first hundred
    torch.set_num_threads(1)
    problems = [make_problem(seed) for seed in range(seeds)]
    methods, missing = everything()
    rows = []
    for name, method in tqdm(methods.items(), desc="methods", unit="method"):
        rate = choose_rate(method, steps) if "scikit" not in name else None
        at_steps = [measure(method, problem, steps, rate) for problem in problems]
        allowed = steps_within(method, budget, rate)
        at_time = [measure(method, problem, allowed, rate) for problem in problems]
        rows.append({"method": name, "lr": rate, "equal_steps": at_steps, "equal_time": at_time})
    result = {
        **provenance("toy_recovery"),
        "setting": {"features": N, "dimensions": D, "samples": SAMPLES, "batch": BATCH, "k": K, "l1": L1, "seeds": seeds,
                    "steps": steps, "budget_cpu_s": budget, "threshold": THRESHOLD, "rates": RATES},
        "rows": rows,
        "chance": chance(problems),
        "not_importable": missing,
    }  # fmt: skip
    text = report(result)
    click.echo(text)
    write("toy_recovery", text, result)


def make_problem(seed: int) -> Problem:
    import numpy as np

    from course_utils.sae.numpy_sae import make_superposed_activations, random_directions

    rng = np.random.default_rng([seed, 0])
    directions = random_directions(rng, N, D)
    x, _ = make_superposed_activations(rng, directions, SAMPLES)
    return Problem(x.astype(np.float32), directions, seed)


def batch_stream(problem: Problem) -> Any:
    """The same endless batches for every method."""
    import torch

    from course_utils.sae.data import batches

    return batches(torch.from_numpy(problem.x), BATCH, seed=problem.seed)


def measure(method: Method, problem: Problem, steps: int, rate: float | None) -> dict[str, float]:
    """Train for `steps` and count directions found; processor seconds of the steps alone."""
    run = method(problem, steps, rate or 0.0)
    stream = batch_stream(problem)
    cpu = 0.0
    for _ in range(steps):
        batch = next(stream)
        started = time.process_time()
        run.step(batch)
        cpu += time.process_time() - started
    return {"found": count(run.dictionary(), problem), "cpu": round(cpu, 3), "steps": steps}


def count(dictionary: Any, problem: Problem) -> int:
    from course_utils.sae.numpy_sae import match_features

    return match_features(dictionary, problem.directions).count(THRESHOLD)


def choose_rate(method: Method, steps: int) -> float:
    """The learning rate that finds most on a problem that is not counted; the smaller one at a tie."""
    problem = make_problem(TUNING_SEED)
    return max(RATES, key=lambda rate: (measure(method, problem, steps, rate)["found"], -rate))


def steps_within(method: Method, budget: float, rate: float | None, sample: int = 100) -> int:
    """Steps that fit into `budget` processor seconds, from the second half of a short run."""
    problem = make_problem(TUNING_SEED)
    run, stream, taken = method(problem, sample, rate or 0.0), batch_stream(problem), []
    for _ in range(sample):
        batch = next(stream)
        started = time.process_time()
        run.step(batch)
        taken.append(time.process_time() - started)
    return max(20, int(budget / statistics.mean(taken[sample // 2 :])))


def chance(problems: list[Problem]) -> dict[str, float]:
    """Directions matched by dictionaries that learned nothing, mean over problems and ten draws each."""
    import numpy as np

    from course_utils.sae.numpy_sae import chance_baseline

    found = {}
    for size in (N, 2 * N):
        for name, use in (("random directions", False), ("data points", True)):
            scores = [
                chance_baseline(
                    np.random.default_rng([p.seed, 7]), p.directions, size, lambda w, _, p=p: count(w, p),
                    p.x if use else None, 10,
                ).mean()
                for p in problems
            ]  # fmt: skip
            found[f"{size} {name}"] = float(np.mean(scores))
    return found


# -- the methods ---------------------------------------------------------------------------------------------------


def everything() -> tuple[dict[str, Method], dict[str, str]]:
    """Every method that can be imported, and why the others cannot."""
    methods: dict[str, Method] = {"ours, L1": ours_l1, "ours, TopK": ours_topk}
    missing = {}
    makers: dict[str, Callable[[], dict[str, Method]]] = {
        "SAELens": sae_lens,
        "dictionary_learning": dictionary_learning,
        "sparsify": sparsify,
        "scikit-learn": scikit_learn,
    }
    for name, make in makers.items():
        try:
            methods |= make()
        except ImportError as error:
            missing[name] = str(error)
    return methods, missing


def _ours(problem: Problem, steps: int, rate: float, **changes: Any) -> Run:
    from course_utils.sae import SAEConfig, SAETrainer

    cfg = SAEConfig(
        d_in=D, steps=steps, batch_size=BATCH, lr=rate, seed=problem.seed, resample="loss_weighted",
        resample_every=max(50, steps // 10), dead_after_steps=max(25, steps // 20), **changes,
    )  # fmt: skip
    trainer = SAETrainer(cfg)
    return Run(trainer.step, lambda: trainer.sae.W_dec.detach().numpy())


def ours_l1(problem: Problem, steps: int, rate: float) -> Run:
    """This library: ReLU and L1, 64 latents."""
    return _ours(
        problem, steps, rate, d_sae=2 * N, architecture="standard", l1_coefficient=L1, sparsity_warmup_steps=steps // 5
    )


def ours_topk(problem: Problem, steps: int, rate: float) -> Run:
    """This library: TopK, 32 latents."""
    return _ours(problem, steps, rate, d_sae=N, architecture="topk", k=K)


def sae_lens() -> dict[str, Method]:
    """SAELens' training SAEs, with Adam, gradient clipping and the rate's decay of its trainer."""
    import torch
    from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    def run_of(sae: Any, problem: Problem, steps: int, rate: float) -> Run:
        optimizer = torch.optim.Adam(sae.parameters(), lr=rate)
        silent = torch.zeros(sae.cfg.d_sae)
        sae.train()
        taken = 0

        def step(x: Any) -> None:
            nonlocal taken
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (steps - taken) / (0.2 * steps))
            warm = {name: c.value * min(1.0, taken / (0.2 * steps)) for name, c in coefficients.items()}
            output = sae.training_forward_pass(
                TrainStepInput(x, warm, silent > steps // 20, n_training_steps=taken, is_logging_step=False)
            )
            optimizer.zero_grad()
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
            optimizer.step()
            silent.add_(1).masked_fill_((output.feature_acts.to_dense() > 0).any(0), 0)
            taken += 1

        coefficients = {
            name: value if isinstance(value, TrainCoefficientConfig) else TrainCoefficientConfig(value, 0)
            for name, value in sae.get_coefficients().items()
        }
        return Run(step, lambda: sae.W_dec.detach().numpy())

    def l1(problem: Problem, steps: int, rate: float) -> Run:
        torch.manual_seed(problem.seed)
        return run_of(
            StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D, d_sae=2 * N, l1_coefficient=L1)), problem, steps, rate
        )

    def topk(problem: Problem, steps: int, rate: float) -> Run:
        torch.manual_seed(problem.seed)
        return run_of(TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=N, k=K)), problem, steps, rate)

    return {"SAELens, L1": l1, "SAELens, TopK": topk}


def dictionary_learning() -> dict[str, Method]:
    """dictionary_learning's trainers, with its resampling where it has one."""
    import_dictionary_learning()
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    def run_of(trainer: Any) -> Run:
        counter = iter(range(10**9))
        return Run(
            lambda x: trainer.update(next(counter), x),
            lambda: trainer.ae.decoder.weight.detach().T.contiguous().numpy(),
        )

    def common(problem: Problem, steps: int, rate: float) -> dict[str, Any]:
        return {"steps": steps, "activation_dim": D, "layer": 0, "lm_name": "none", "lr": rate, "seed": problem.seed,
                "device": "cpu", "warmup_steps": steps // 20, "decay_start": int(0.8 * steps)}  # fmt: skip

    def l1(problem: Problem, steps: int, rate: float) -> Run:
        # no resampling: it resets the rate's warm-up, and finds less here
        return run_of(
            StandardTrainer(
                dict_size=2 * N, l1_penalty=L1, sparsity_warmup_steps=steps // 5, **common(problem, steps, rate)
            )
        )

    def topk(problem: Problem, steps: int, rate: float) -> Run:
        return run_of(TopKTrainer(dict_size=N, k=K, **common(problem, steps, rate)))

    return {"dictionary_learning, L1": l1, "dictionary_learning, TopK": topk}


def sparsify() -> dict[str, Method]:
    """sparsify's coder with Adam, its decoder constraint and a linear decay."""
    import torch
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    def topk(problem: Problem, steps: int, rate: float) -> Run:
        torch.manual_seed(problem.seed)
        coder = SparseCoder(D, SparseCoderConfig(num_latents=N, k=K), device="cpu", dtype=torch.float32)
        optimizer = torch.optim.Adam(coder.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda t: max(0.0, min(1.0, (steps - t) / (0.2 * steps)))
        )

        def step(x: Any) -> None:
            coder.set_decoder_norm_to_unit_norm()
            output = coder(x)
            optimizer.zero_grad()
            output.fvu.backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            optimizer.step()
            schedule.step()

        return Run(step, lambda: coder.W_dec.detach().numpy())

    return {"sparsify, TopK": topk}


def scikit_learn() -> dict[str, Method]:
    """scikit-learn's online dictionary learning (no encoder: it solves a lasso for every sample; no learning rate)."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    def online(problem: Problem, steps: int, rate: float) -> Run:
        model = MiniBatchDictionaryLearning(
            N, alpha=0.3, batch_size=BATCH, fit_algorithm="cd", positive_code=True, random_state=problem.seed,
            transform_max_iter=100,  # finds as much as the default 1,000 here, three times faster
        )  # fmt: skip
        return Run(lambda x: model.partial_fit(x.numpy()), lambda: model.components_)

    return {"scikit-learn, online dictionary": online}


def report(result: dict[str, Any]) -> str:
    """The table as Markdown."""
    s = result["setting"]
    lines = [
        "## Known directions found on a toy",
        "",
        f"{s['features']} features in {s['dimensions']} dimensions, 2 to 4 active, noise 0.05 (lesson 04's well-posed twin); "
        f"{s['seeds']} seeds, batches of {s['batch']}, the same for everyone. "
        f"`{result['command']}`, {result['date']}. {result['machine']}.",
        f"L1: 64 latents, coefficient {s['l1']:g}. TopK: 32 latents, k = {s['k']}. Learning rate: the best of "
        f"{', '.join(f'{rate:g}' for rate in s['rates'])} for each method on a problem that is not counted. "
        f"Found: own latent with a cosine above {s['threshold']}, of {s['features']}; median of the seeds (each seed).",
        "",
        f"| method | lr | found in {s['steps']} steps | CPU s for them | found in {s['budget_cpu_s']:g} CPU s | steps done in them |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = []
        for key in ("equal_steps", "equal_time"):
            each = [run["found"] for run in row[key]]
            cells.append(f"{statistics.median(each):g} ({', '.join(map(str, each))})")
        cpu = statistics.median(run["cpu"] for run in row["equal_steps"])
        rate = f"{row['lr']:g}" if row["lr"] else "none"
        lines.append(
            f"| {row['method']} | {rate} | {cells[0]} | {cpu:.2f} | {cells[1]} | {row['equal_time'][0]['steps']:,} |"
        )
    by_chance = "; ".join(f"{name}: {value:.1f}" for name, value in result["chance"].items())
    lines += ["", f"By chance, with no training at all: {by_chance}."]
    lines += [f"Not measured: {name}: {reason}." for name, reason in result["not_importable"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
