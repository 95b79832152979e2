"""Lesson 09, the deliverable: what a portfolio's objects must bear out on other seeds and other text; and what a person grades."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

import numpy as np
import torch

from course_utils import toy
from course_utils.features.held_back import ENOUGH, author_latents, load_held_back, pattern_says
from course_utils.grading import Between, Close, Draw, Exact, Lesson
from course_utils.grading.judge import Rule
from course_utils.sae import SAEConfig, numpy_sae, train_sae

lesson = Lesson("09", "Deliverable: superposition and SAE features", slug="09_deliverable")


class Said(Rule):
    """A measure's own sentence about what is wrong; empty where nothing is. Two answers are told apart by other values."""

    def problem(self, got, want):
        return str(got) or None

    def same(self, a, b):
        return True


def _told(sentence="", kind="", **values):
    """What is wrong in words, the kind of it (known mistakes are recognised by that), and numbers with bounds."""
    return {"0": sentence, "1": kind if sentence else "", **values}


_TOLD = {"0": Said(), "1": Exact()}


def _brief(numbers):
    return "[" + ", ".join(f"{float(number):.4g}" for number in np.ravel(numbers)) + "]"


# -- graded by hand -----------------------------------------------------------------------------------------------

lesson.task(
    1,
    "Why neurons are polysemantic, and what sparse autoencoders change",
    criteria=(
        "more features than dimensions, and why sparsity makes that cheap",
        "an example of a neuron or direction with several meanings, with a number",
        "what a sparse autoencoder gives, and what it does not prove",
    ),
)
lesson.task(
    2,
    "The loss, derived",
    criteria=(
        "both terms, what each pays for, and the gradient with respect to at least one weight",
        "why L1 shrinks and how TopK avoids it",
        "why the decoder's length has to be fixed",
    ),
)
lesson.task(
    3,
    "Hook points",
    criteria=(
        "which activation is read and why there: residual stream, MLP output or attention output",
        "what is left out (BOS, massive norms) and what goes wrong otherwise",
        "how much of the model's loss survives when the reconstruction is spliced in",
    ),
)
lesson.task(
    4,
    "A minimal sparse autoencoder",
    criteria=(
        "your own code, short, running in this notebook",
        "encode, decode, loss, unit-norm decoder, a training loop",
        "a test that shows it works, with its chance level",
    ),
)
lesson.task(
    5,
    "Feature circuits",
    criteria=(
        "what a node and an edge are, and the difference between an edge estimated and one measured by intervention",
        "the role of the error term",
        "faithfulness and completeness, and what neither shows",
    ),
)
lesson.task(
    6,
    "Steering",
    criteria=(
        "how a latent is added, clamped or removed, and where",
        "dose and response, with the cost in fluency beside the effect",
        "a control, and when a latent that describes well does not steer",
    ),
)
lesson.task(
    7,
    "Practical troubles",
    criteria=(
        "dead latents, splitting and absorption, the expansion factor, the choice of lambda or k: symptom and remedy",
        "which of them you met in this portfolio, with numbers",
        "the limitations of what you found (section e)",
    ),
)
lesson.task(
    8,
    "The link to safety work",
    criteria=(
        "a concrete use: monitoring, auditing, unlearning, model diffing",
        "what would have to be true of features for it to work, and the evidence for and against",
        "a way in which it could mislead",
    ),
)

# -- 09.1 ---------------------------------------------------------------------------------------------------------

N, D = 12, 4
IMPORTANCE = 0.9 ** np.arange(N)
PROBABILITY = (1.0, 0.6, 0.35, 0.2, 0.12, 0.07, 0.04, 0.02)


@functools.lru_cache(maxsize=16)
def _trained(seed: int) -> tuple[np.ndarray, np.ndarray]:
    config = toy.ToyModelConfig(N, D, len(PROBABILITY), torch.tensor(PROBABILITY)[:, None], torch.tensor(IMPORTANCE))
    result = toy.train_toy_model(config, steps=600, lr=1e-2, seed=seed, progress=False)
    return result.W.numpy(), dict(result.model.named_parameters())["b"].detach().numpy()


def _count(W):
    counts = ((W**2).sum(axis=1) > 0.5).sum(axis=1)
    return counts, max((p for p, count in zip(PROBABILITY, counts) if count > D), default=0.0)


def measured_transition(seed):
    """Train the sweep with the library, and count what it represents."""
    W, b = _trained(int(seed))
    counts, onset = _count(W)
    return {"feature_probability": list(PROBABILITY), "W": W, "b": b, "represented": counts, "onset": onset}


phase = lesson.exercise(
    1,
    title="A phase transition, from a seed to its numbers",
    answer="phase_transition",
    reference=measured_transition,
    points=4,
    difficulty=3,
    importance=5,
    minutes=25,
    hints=(
        "One call trains one model for each feature probability: `toy.ToyModelConfig` takes a whole column of them, or "
        "use your own loop from lesson 02. Give `seed` to the training.",
        "Count from the trained weights: a feature is represented where `||W_i||^2 > 0.5`, the sum running over the hidden "
        "dimensions. Write no number into the function that it could compute.",
        "`onset = max(p for p, count in zip(probability, counts) if count > 4)`; 600 steps of Adam at 0.01 are enough.",
    ),
    seconds=60.0,
)


def _read_sweep(values, prefix=""):
    found = {name: np.asarray(values[prefix + name], dtype=float) for name in ("feature_probability", "W", "b")}
    p, W, b = found["feature_probability"].ravel(), found["W"], found["b"]
    if W.ndim != 3 or W.shape[1:] != (D, N) or b.shape != (len(W), N) or p.shape != (len(W),):
        raise ValueError(
            f"W should be [runs, {D}, {N}], b [runs, {N}], feature_probability [runs]; they are {list(W.shape)}, "
            f"{list(b.shape)}, {list(p.shape)}"
        )
    return p, W, b


def _claims(values, draw):
    runs = []
    for name in ("first.", "other."):
        p, W, _ = _read_sweep(values, name)
        said, onset = np.asarray(values[name + "represented"], dtype=float).ravel(), float(values[name + "onset"])
        runs.append((p, (W**2).sum(axis=1), said, onset))

    def onset_of(count, fewest):
        return lambda p, squares: max((q for q, n in zip(p, count(squares)) if n >= fewest), default=0.0)

    def squared(squares):
        return (squares > 0.5).sum(axis=1)

    def plain(squares):
        return (squares > 0.25).sum(axis=1)

    def counts_are(count):
        return all(len(said) == len(p) and (said == count(squares)).all() for p, squares, said, _ in runs)

    def onsets_are(found):
        return all(abs(onset - found(p, squares)) < 1e-6 for p, squares, _, onset in runs)

    if not counts_are(squared):
        _, squares, said, _ = runs[0]
        if counts_are(plain):
            return _told("`represented` counts where ||W_i|| > 0.5; asked is ||W_i||^2 > 0.5.", "lengths not squared")
        return _told(
            f"`represented` is {_brief(said)}; counted from W it is {_brief(squared(squares))}.", "other counts"
        )
    right = onset_of(squared, D + 1)
    if onsets_are(right):
        return _told()
    known = {
        "smallest": lambda p, squares: min((q for q, n in zip(p, squared(squares)) if n > D), default=0.0),
        "at least": onset_of(squared, D),
        "sparsity": lambda p, squares: 1 - right(p, squares),
    }
    kind = next((name for name, found in known.items() if onsets_are(found)), "other onset")
    p, squares, _, onset = next(run for run in runs if abs(run[3] - right(*run[:2])) >= 1e-6)
    return _told(f"`onset` is {onset:.4g}; from W and feature_probability it is {right(p, squares):.4g}.", kind)


def _losses_over_plain(p, W, b, draw, data_p):
    x = draw.rng.uniform(size=(len(p), 4000, N)) * (draw.rng.uniform(size=(len(p), 4000, N)) < data_p[:, None, None])
    x_hat = np.maximum(x @ W.transpose(0, 2, 1) @ W + b[:, None], 0)
    loss = (IMPORTANCE * (x - x_hat) ** 2).sum(axis=-1).mean(axis=-1)
    # what the best D features kept exactly, and the rest guessed by their mean, would cost
    return loss / np.maximum((data_p / 3 - data_p**2 / 4) * IMPORTANCE[D:].sum(), 1e-9)


def _quality(values, draw):
    p, W, b = _read_sweep(values)
    counts = ((W**2).sum(axis=1) > 0.5).sum(axis=1)
    densest, sparsest = int(p.argmax()), int(p.argmin())
    ratio = _losses_over_plain(p, W, b, draw, p)
    numbers = {
        "runs": len(p),
        "largest feature probability": float(p.max()),
        "smallest feature probability": float(p.min()),
        "loss over that of no superposition, worst": float(ratio.max()),
        "loss over that of no superposition, sparsest": float(ratio[sparsest]),
        "features represented, densest": int(counts[densest]),
        "features represented, sparsest": int(counts[sparsest]),
    }
    nothing = dict.fromkeys(numbers, 0.0)
    if not 0 <= p.min() <= p.max() <= 1:
        return _told("`feature_probability` has to lie between 0 and 1.", "no probability", **nothing)
    if ratio.max() > 1.25:
        # which slip is it? weights that fit data of probability 1 - p; or no biases, with weights that would do with some
        real = p < 1 - 1e-6
        if real.any() and _losses_over_plain(p[real], W[real], b[real], draw, 1 - p[real]).max() < 1.25:
            return _told("these weights fit data whose features are active with probability 1 - p.", "1 - p", **nothing)
        if not b.any():
            # where features are dense the ReLU matters little, and the best biases can be written down
            x = draw.rng.uniform(size=(len(p), 4000, N)) * (draw.rng.uniform(size=(len(p), 4000, N)) < p[:, None, None])
            best = (x - x @ W.transpose(0, 2, 1) @ W).mean(axis=1)
            trained = _losses_over_plain(p, W, best, draw, p)[p >= np.median(p)].mean() < 1.2
            text = f"all biases are 0, and the loss is up to {ratio.max():.1f} times that of no superposition."
            return _told(text, "no biases" if trained else "untrained", **nothing)
    return _told(**numbers)


def _two_sweeps(f, draw, keys):
    seeds = draw.rng.choice(10**6, 2, replace=False) + 1
    found = {name: f(int(seed)) for name, seed in zip(("first", "other"), seeds)}
    return {name: {key: sweep[key] for key in keys} for name, sweep in found.items()}


def _two_runs(values, draw):
    """One pair of runs for both questions: training them is most of what grading this lesson costs."""
    _, first, _ = _read_sweep(values, "first.")
    _, other, _ = _read_sweep(values, "other.")
    if first.shape == other.shape and np.allclose(first, other, atol=1e-3):
        return _told("two seeds give the very same weights.", "same")
    return _claims(values, draw)


@phase.case(
    "another seed trains other models, and the numbers stated follow from the weights returned",
    weight=3,
    rule=_TOLD,
    measure=_two_runs,
)
def _(f, draw):
    return _two_sweeps(f, draw, ("feature_probability", "W", "b", "represented", "onset"))


@phase.case(
    "the models are trained, and superposition sets in",
    weight=2,
    measure=_quality,
    rule={
        **_TOLD,
        "runs": Between(6, 64),
        "largest feature probability": Between(0.8, 1.0),
        "smallest feature probability": Between(0.001, 0.03),
        "loss over that of no superposition, worst": Between(0, 1.25),
        "loss over that of no superposition, sparsest": Between(0, 0.5),
        "features represented, densest": Between(1, D + 1),
        "features represented, sparsest": Between(2 * D, N),
    },
)
def _(f, draw):
    found = f(int(draw.rng.integers(1, 10**6)))
    return {name: found[name] for name in ("feature_probability", "W", "b")}


@phase.mistake(
    "The numbers you state do not follow from the weights you return: they look pasted. Compute them from W each time."
)
def pasted_numbers(seed):
    return {**measured_transition(seed), "represented": [4, 4, 6, 8, 8, 9, 9, 9], "onset": 0.5}


@phase.mistake(
    "Two seeds give the very same weights: either the run is stored and returned, or the seed never reaches the training."
)
def ignores_the_seed(seed):
    return measured_transition(7)


@phase.mistake("The weights are those of the beginning: nothing was trained, and the loss shows it.")
def never_trained(seed):
    W = np.random.default_rng(seed).normal(0, (2 / (N + D)) ** 0.5, (len(PROBABILITY), D, N))
    counts, onset = _count(W)
    return {**measured_transition(seed), "W": W, "b": np.zeros((len(W), N)), "represented": counts, "onset": onset}


@phase.mistake(
    "The weights fit data of probability 1 - p: `feature_probability` holds the sparsity S where p = 1 - S is asked, or training "
    "got 1 - p."
)
def sparsity_for_probability(seed):
    W, b = _trained(int(seed))
    s = [1 - p for p in PROBABILITY]
    counts, _ = _count(W)
    onset = max((p for p, count in zip(s, counts) if count > D), default=0.0)
    return {"feature_probability": s, "W": W, "b": b, "represented": counts, "onset": onset}


@phase.mistake(
    "The onset is the *largest* probability at which more features than dimensions are represented; this is the smallest."
)
def onset_at_the_sparse_end(seed):
    found = measured_transition(seed)
    return {**found, "onset": min(p for p, count in zip(PROBABILITY, found["represented"]) if count > D)}


@phase.mistake("The onset counts runs with 4 features too: asked is *more* than 4, `count > 4`.")
def onset_at_four(seed):
    found = measured_transition(seed)
    return {**found, "onset": max((p for p, n in zip(PROBABILITY, found["represented"]) if n >= D), default=0.0)}


@phase.mistake("The onset is given as a sparsity, 1 - p: asked is the feature probability p itself.")
def onset_as_sparsity(seed):
    found = measured_transition(seed)
    return {**found, "onset": 1 - found["onset"]}


@phase.mistake("The biases are missing (all zero): with them the loss of these weights would be several times smaller.")
def biases_left_out(seed):
    found = measured_transition(seed)
    return {**found, "b": np.zeros_like(found["b"])}


@phase.alternative
def with_autograd(seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.tensor([1.0, 0.5, 0.25, 0.12, 0.06, 0.02])
    W = torch.nn.Parameter(0.35 * torch.randn(6, D, N, generator=generator))
    b = torch.nn.Parameter(torch.zeros(6, N))
    data = torch.Generator().manual_seed(seed + 77)
    optimizer, importance = torch.optim.Adam([W, b], lr=1e-2), torch.tensor(IMPORTANCE).float()
    for step in range(700):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 700)
        x = torch.rand(6, 256, N, generator=data)
        x = x * (torch.rand(6, 256, N, generator=data) < p[:, None, None])
        loss = (importance * (x - torch.relu(x @ W.mT @ W + b[:, None])) ** 2).sum(-1).mean(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    counts = (W.detach().square().sum(dim=1) > 0.5).sum(dim=1)
    onset = max([q for q, count in zip(p.tolist(), counts.tolist()) if count > D], default=0.0)
    return {"feature_probability": p, "W": W, "b": b, "represented": counts.tolist(), "onset": onset}


# -- 09.2 ---------------------------------------------------------------------------------------------------------


def _sparse_samples(draw: Draw, n: int, d: int, k: int, size: int = 5000):
    """Samples of which each adds up `k` of `n` unit directions in `d` dimensions, and those directions."""
    directions = numpy_sae.random_directions(draw.rng, n, d)
    chosen = draw.rng.uniform(size=(size, n)).argsort(axis=1)[:, :k]
    coefficients = np.zeros((size, n))
    np.put_along_axis(coefficients, chosen, draw.rng.uniform(0.5, 1.5, (size, k)), axis=1)
    samples = coefficients @ directions + 0.01 * draw.rng.normal(size=(size, d))
    return samples.astype(np.float32), directions


@functools.lru_cache(maxsize=16)
def _dictionary(content: bytes, shape: tuple[int, int], n_latents: int, seed: int) -> torch.Tensor:
    x = torch.from_numpy(np.frombuffer(content, dtype=np.float32).reshape(shape).copy())
    cfg = SAEConfig(
        shape[1], n_latents, k=3, steps=500, lr=6e-3, batch_size=256, seed=seed, resample="simple", resample_every=150
    )
    return train_sae(x, cfg.replace(fast=False), progress=False).sae.W_dec.detach().clone()


def trained_dictionary(samples, n_latents, seed):
    """The decoder of a TopK autoencoder trained on the samples."""
    x = np.ascontiguousarray(np.asarray(samples, dtype=np.float32))
    return _dictionary(x.tobytes(), x.shape, int(n_latents), int(seed))


recover = lesson.exercise(
    2,
    title="A toy autoencoder that recovers known features",
    answer="recover_features",
    reference=trained_dictionary,
    points=4,
    difficulty=3,
    importance=5,
    minutes=25,
    hints=(
        "Train any sparse autoencoder of lessons 04 or 05 on `samples` and return its decoder, one row a latent. The check "
        "knows the features the samples were made of; your function does not.",
        "TopK with k = 3 and resampling of dead latents finds them in 500 steps of 256 samples; an L1 loss works too.",
        "`train_sae(samples, SAEConfig(d, n_latents, k=3, steps=500, lr=6e-3, batch_size=256, seed=seed, "
        'resample="simple", resample_every=150)).sae.W_dec.detach()`.',
    ),
    seconds=60.0,
)
_SETTINGS = {"one": (24, 16, 3, 48), "two": (20, 14, 2, 40)}


def _recovery(which):
    n, d, k, n_latents = _SETTINGS[which]

    def measure(values, draw):
        samples, truth = _sparse_samples(draw, n, d, k)
        rows = np.asarray(values[""], dtype=float)
        if rows.shape != (n_latents, d):
            kind = "transposed" if rows.shape == (d, n_latents) else "shape"
            text = f"the dictionary should be [{n_latents}, {d}], it is {list(rows.shape)}."
            return _told(text, kind, **dict.fromkeys(_RECOVERED, 0.0))
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        share = numpy_sae.match_features(rows, truth).count(0.9) / n
        points = samples[draw.rng.choice(len(samples), n_latents, replace=False)]
        unit = samples / np.linalg.norm(samples, axis=1, keepdims=True)
        numbers = {
            "share of features recovered": share,
            "beyond as many data points": share - numpy_sae.match_features(points, truth).count(0.9) / n,
            "cosine of a sample and its nearest row": float((unit @ rows.T).max(axis=1).mean()),
            "rows that repeat another": float(((rows @ rows.T) - 2 * np.eye(n_latents) > 0.99).any(axis=1).mean()),
        }
        return _told(**numbers)

    return measure


_RECOVERED = {
    "share of features recovered": Between(0.7, 1.0),
    "beyond as many data points": Between(0.3, 1.0),
    "cosine of a sample and its nearest row": Between(0.7, 1.0),
    "rows that repeat another": Between(0.0, 0.6),
}


@recover.case(
    "24 features in 16 dimensions, three at a time", weight=2, rule=_TOLD | _RECOVERED, measure=_recovery("one")
)
def _(f, draw):
    n, d, k, n_latents = _SETTINGS["one"]
    return f(draw.lend(_sparse_samples(draw, n, d, k)[0]), n_latents, int(draw.rng.integers(10**6)))


@recover.case(
    "20 features in 14 dimensions, two at a time", weight=1, rule=_TOLD | _RECOVERED, measure=_recovery("two")
)
def _(f, draw):
    n, d, k, n_latents = _SETTINGS["two"]
    return f(draw.lend(_sparse_samples(draw, n, d, k)[0]), n_latents, int(draw.rng.integers(10**6)))


@recover.mistake(
    "These rows are no better than random directions. Is the decoder of before the training returned, or the wrong matrix? Or "
    "did training learn nothing: is k still at its default of 32 (two or three features are active), too few steps, a small lr?"
)
def random_directions(samples, n_latents, seed):
    return torch.randn(n_latents, samples.shape[1], generator=torch.Generator().manual_seed(seed))


@recover.mistake("The rows are data points. Some lie near a feature by luck: that is the chance level, not a recovery.")
def data_points(samples, n_latents, seed):
    return samples[torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:n_latents]].clone()


@recover.mistake(
    "The rows are principal components, which are orthogonal; there are more features than dimensions, so they cannot be."
)
def principal_components(samples, n_latents, seed):
    parts = torch.linalg.svd(samples - samples.mean(dim=0), full_matrices=False).Vh
    return torch.cat([parts, -parts]).repeat(3, 1)[:n_latents]


@recover.mistake("The dictionary is transposed: one row for each latent, one column for each dimension.")
def transposed(samples, n_latents, seed):
    return trained_dictionary(samples, n_latents, seed).T


@recover.alternative
def with_a_plain_loop(samples, n_latents, seed):
    generator = torch.Generator().manual_seed(seed)

    def some(n):
        return samples[torch.randint(len(samples), (n,), generator=generator)]

    W = torch.nn.Parameter(torch.nn.functional.normalize(some(n_latents), dim=1))  # rows begin at data points
    V = torch.nn.Parameter(W.detach().T.clone())
    optimizer = torch.optim.Adam([W, V], lr=5e-3)
    for step in range(900):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 900)
        x = some(384)
        best = torch.relu(x @ V).topk(3, dim=1)
        loss = (x - torch.einsum("bk,bkd->bd", best.values, W[best.indices])).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            W /= W.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return W


# -- 09.3 ---------------------------------------------------------------------------------------------------------


def report_with_chance(dictionary, truth, samples, seed, draws=100):
    """The library's one-to-one matching, for the dictionary and for two kinds of dictionaries nobody trained."""
    rng = np.random.default_rng(seed)
    rows, directions, points = (np.asarray(part, dtype=float) for part in (dictionary, truth, samples))

    def share(candidate):
        return numpy_sae.match_features(candidate, directions).count(0.9) / len(directions)

    return {
        "recovered": share(rows),
        "chance_random": np.mean([share(rng.normal(size=rows.shape)) for _ in range(draws)]),
        "chance_data": np.mean(
            [share(points[rng.choice(len(points), len(rows), replace=False)]) for _ in range(draws)]
        ),
    }


report = lesson.exercise(
    3,
    title="What chance would have recovered",
    answer="recovery_report",
    reference=report_with_chance,
    points=3,
    difficulty=3,
    importance=5,
    minutes=15,
    hints=(
        "A feature is recovered when a latent of its own has a cosine above 0.9 with it: divide by both lengths, keep the sign.",
        "A latent of its own: match one to one (`scipy.optimize.linear_sum_assignment(-cosines)`), then count. For chance, "
        "do the same with dictionaries of the same shape: random directions, and random data points.",
        "Average at least 50 random dictionaries of each kind: `rng.normal(size=dictionary.shape)` and "
        "`samples[rng.choice(len(samples), len(dictionary), replace=False)]`.",
    ),
)
_REPORT = {"recovered": Close(rtol=0, atol=1e-6), "*": Close(rtol=0, atol=0.06)}
# these two are about `recovered`; the chance of a single dictionary varies much there, and the other cases judge chance
_RARE_CHANCE = {"recovered": Close(rtol=0, atol=1e-6), "*": Close(rtol=0, atol=0.65)}


def _near(draw: Draw, directions, noise=0.08):
    return directions + noise * draw.rng.normal(size=directions.shape)


def _planted(draw: Draw, n=10, d=4, n_latents=48, size=400):
    samples, truth = _sparse_samples(draw, n, d, 2, size)
    found = int(draw.rng.integers(3, 8))
    rows = np.concatenate([_near(draw, truth[:found]), draw.rng.normal(size=(n_latents - found, d))])
    return draw.rng.permutation(rows), truth, samples


def _lend(draw: Draw, *arrays):
    return [draw.lend(np.asarray(array, dtype=np.float32)) for array in arrays]


def _reported(found):
    return {name: float(found[name]) for name in ("recovered", "chance_random", "chance_data")}


_CHANCES = ("chance_random", "chance_data")


_CALLS, _FEW = 4, 24


def _averaged(planted):
    """Judge several calls, each on inputs of its own: chance over m dictionaries is a whole number of 1/m features every time."""

    def measure(values, draw):
        sets = [planted(draw) for _ in range(_CALLS)]
        n = len(sets[0][1])
        found = {name: [float(values[f"{call}.{name}"]) for call in range(_CALLS)] for name in ("recovered", *_CHANCES)}
        means = {name: float(np.mean(said)) for name, said in found.items()}
        counts = n * np.array([found[name] for name in _CHANCES])
        if not np.isfinite(counts).all() or not counts.any():
            return _told(**means)
        few = next((m for m in range(1, _FEW + 1) if (abs(m * counts - (m * counts).round()) < 1e-3).all()), 0)
        if not few:
            return _told(**means)
        blank = {**means, **dict.fromkeys(_CHANCES, 0.0)}
        if few > 1:
            text = f"each chance is a multiple of 1/{few} of a feature, as with {few} dictionaries; asked is a mean over at least 50."
            return _told(text, "few dictionaries", **blank)
        right = [
            [numpy_sae.match_features(some, truth).count(0.9) for rows, truth, samples in sets for _ in range(10)
             for some in (samples[draw.rng.choice(len(samples), len(rows), replace=False)] if data
                          else draw.rng.normal(size=rows.shape),)]
            for data in (False, True)
        ]  # fmt: skip
        above = sum((mine.mean() - np.mean(luck)) / max(np.std(luck), 0.3) for mine, luck in zip(counts, right))
        text = f"chance is a whole number of features ({_brief(counts[:, 0])} of {n}), which a mean over 50 dictionaries hardly is."
        return _told(text, "best of many" if above > 3 else "one dictionary", **blank)

    return measure


def _reported_often(f, draw, planted):
    lent = [_lend(draw, *planted(draw)) for _ in range(_CALLS)]
    return [_reported(f(*inputs, int(draw.rng.integers(10**6)))) for inputs in lent]


def _of_other_lengths(draw: Draw):
    rows, truth, samples = _planted(draw, n=9, d=5, n_latents=40)
    return rows * draw.rng.uniform(0.1, 4, (40, 1)), truth, samples


@report.case("some features recovered, some not", weight=2, rule=_TOLD | _REPORT, measure=_averaged(_planted))
def _(f, draw):
    return _reported_often(f, draw, _planted)


@report.case("latents of different lengths", weight=1, rule=_TOLD | _REPORT, measure=_averaged(_of_other_lengths))
def _(f, draw):
    return _reported_often(f, draw, _of_other_lengths)


@report.case("latents that point the other way", weight=1, rule=_RARE_CHANCE)
def _(f, draw):
    samples, truth = _sparse_samples(draw, 8, 12, 2, 300)
    rows = np.concatenate([-truth[:5], _near(draw, truth[5:7], 0.03), draw.rng.normal(size=(9, 12))])
    return _reported(f(*_lend(draw, rows, truth, samples), int(draw.rng.integers(10**6))))


@report.case("one latent between two features that nearly coincide", weight=1, rule=_RARE_CHANCE)
def _(f, draw):
    samples, truth = _sparse_samples(draw, 8, 12, 2, 300)
    truth[1] = truth[0] + 0.08 * truth[1]
    truth[1] /= np.linalg.norm(truth[1])
    rows = np.concatenate([truth[:1] + truth[1:2], truth[2:5], -samples[:12]])
    return _reported(f(*_lend(draw, rows, truth, samples), int(draw.rng.integers(10**6))))


def _cosines(rows, directions):
    return (directions @ rows.T) / np.outer(np.linalg.norm(directions, axis=1), np.linalg.norm(rows, axis=1))


def _report_with(cosines=None, share=None, rows_of=len, random=None, over=np.mean, draws=100):
    def one_to_one(table):
        from scipy.optimize import linear_sum_assignment

        return (table[linear_sum_assignment(-table)] > 0.9).sum() / len(table)

    cosines, share = cosines or _cosines, share or one_to_one
    random = random or (lambda rng, size: rng.normal(size=size))

    def made(dictionary, truth, samples, seed):
        rng = np.random.default_rng(seed)
        rows, directions, points = (np.asarray(part, dtype=float) for part in (dictionary, truth, samples))
        n = len(directions) if rows_of == "truth" else len(rows)
        by_luck = [share(cosines(random(rng, (n, rows.shape[1])), directions)) for _ in range(draws)]
        by_data = [share(cosines(points[rng.choice(len(points), n, replace=False)], directions)) for _ in range(draws)]
        return {
            "recovered": share(cosines(rows, directions)),
            "chance_random": over(by_luck),
            "chance_data": over(by_data),
        }

    return made


report.mistake(
    "A latent is counted for every feature it is near: match one to one, so that it can recover only one.",
    name="not_one_to_one",
)(_report_with(share=lambda table: (table.max(axis=1) > 0.9).mean()))
report.mistake(
    "The sign is thrown away. Latents are never negative, so a row that points the other way writes the opposite.",
    name="sign_ignored",
)(_report_with(cosines=lambda rows, directions: np.abs(_cosines(rows, directions))))
report.mistake(
    "These are dot products: divide by the lengths, or long latents match everything.", name="not_normalised"
)(_report_with(cosines=lambda rows, directions: directions @ rows.T))
report.mistake(
    "Chance is given fewer tries: its dictionaries need as many rows as the one you judge.", name="chance_too_small"
)(_report_with(rows_of="truth"))
report.mistake(
    "This is the share of *latents* near a feature; asked is the share of features that have a latent.",
    name="share_of_latents",
)(_report_with(share=lambda table: (table.max(axis=0) > 0.9).mean()))
report.mistake(
    "Chance comes from a single dictionary of each kind: take the mean over at least 50, or it is a matter of luck.",
    name="one_dictionary",
)(_report_with(draws=1))
report.mistake(
    "Chance is a mean over a handful of dictionaries: take at least 50 of each kind, or it is a matter of luck.",
    name="few_dictionaries",
)(_report_with(draws=5))
report.mistake(
    "Chance is the best of your random dictionaries: asked is their mean, which one dictionary may expect.",
    name="maximum_of_chance",
)(_report_with(over=np.max))
report.mistake(
    "The random directions all have positive coordinates (`torch.rand`): draw them from a normal distribution.",
    name="uniform_rows",
)(_report_with(random=lambda rng, size: rng.uniform(size=size)))
report.alternative(_report_with(draws=60), name="with_scipy")

# -- 09.4 ---------------------------------------------------------------------------------------------------------


REFERENCE_AUTHOR = "Worked example"
# findings about the shipped middle SAE, as the lesson's worked example measured them on open text
_REFERENCE: list[dict] = [
    {
        "latent": 2701,
        "explanation": "The word file in any spelling, alone or inside names such as filename, and its Chinese translation.",
        "pattern": r"(?i)(file\w{0,6}|文件|datei\w*|fichiers?|archivos?|ficheiros?)$",
        "score": 0.96,
        "promotes": [16981, 46071, 13594, 35307, 23643],
        "support": 1.04,
        "control": -0.15,
    },
    {
        "latent": 4226,
        "explanation": "The characters that open a comment in code, whatever the programming language.",
        "pattern": r"(//+|#+|--+|/\*+)$",
        "score": 0.97,
        "promotes": [23980, 30695, 2686, 23922, 47244],
        "support": 1.06,
        "control": -0.07,
    },
    {
        "latent": 3241,
        "explanation": "A single space after which a number has to come.",
        "pattern": r"\S $",
        "score": 0.96,
        "promotes": [32192, 5980, 6659, 609, 4522],
        "support": 1.19,
        "control": -0.19,
    },
    {
        "latent": 1579,
        "explanation": "Masculine pronouns: he, his, him, himself.",
        "pattern": r"(?i)\b(he|his|him|himself)$",
        "score": 0.96,
        "promotes": [31, 29313, 21429, 31194, 8877],
        "support": 0.98,
        "control": -0.08,
    },
    {
        "latent": 2260,
        "explanation": "Words for being inside: in, into, within, and dans in French.",
        "pattern": r"(?i)\b(in|into|within|dans)$",
        "score": 0.99,
        "promotes": [13377, 30153, 47116, 7438, 40930],
        "support": 2.39,
        "control": -0.11,
    },
    {
        "latent": 1399,
        "explanation": "Words of denial: not, no, cannot and the ending n't.",
        "pattern": r"(?i)(\b(not|no|cannot|nicht|non)|'t)$",
        "score": 1.0,
        "promotes": [805, 8979, 48788, 44339, 6906],
        "support": 0.71,
        "control": 0.003,
    },
]


def course_findings():
    """Five latents of the middle SAE, each with an explanation, its score, and what removing the latent does."""
    return {"author": REFERENCE_AUTHOR, "latents": [dict(record) for record in _REFERENCE]}


latents = lesson.exercise(
    4,
    title="Five latents, explained and tested",
    answer="my_latents",
    reference=course_findings,
    points=8,
    difficulty=4,
    importance=5,
    minutes=90,
    hints=(
        "Choose among `author_latents(your name)`. For each, list the tokens on which it fires strongly and read a dozen "
        "contexts; take those you can put into one sentence.",
        "A pattern sees the last sixteen tokens and must tell whether the latent fires on the last one, so it usually ends with "
        "`$`: `r'(?i)\\b(she|her)$'`. Write it while looking at one part of the text, score it on another, and state that score.",
        "For `promotes`, remove the latent where it fires on the first part, and take the five tokens that lose most. `support` is "
        "what these five lose on average on the *second* part; `control` is the same with random directions of that length.",
    ),
)
_FIELDS = ("latent", "explanation", "pattern", "score", "promotes", "support", "control")
FEWEST, MOST, LONGEST_PATTERN, FEWEST_WORDS = 5, 20, 200, 5
MOST_OF_FIVE = 3
"""Latents that have to hold before the numbers stated about them can earn points."""
N_LATENTS, N_TOKENS = 4608, 49152
_SHAPE = (
    'return {"author": "Your Name", "latents": [...]}, five to twenty records, each a dictionary with the keys '
    + ", ".join(_FIELDS)
)


class _Shape(ValueError):
    """What was returned is no list of records."""


def _record(record, place):
    if not isinstance(record, Mapping):
        raise _Shape(f"{_SHAPE}; record {place} is of type {type(record).__name__}")
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        raise _Shape(f"record {place} lacks {', '.join(missing)}; each needs {', '.join(_FIELDS)}")
    made = {"explanation": str(record["explanation"])}
    made["pattern"] = str(getattr(record["pattern"], "pattern", record["pattern"]))
    for name, convert, wanted in (
        ("latent", int, "a whole number"), ("score", _finite, "a number"), ("support", _finite, "a number"),
        ("control", _finite, "a number"), ("promotes", _token_ids, "a list of token ids, which are whole numbers"),
    ):  # fmt: skip
        try:
            made[name] = convert(record[name])
        except (TypeError, ValueError):
            text = (
                f"record {place} (latent {record['latent']}): `{name}` is {str(record[name])[:60]!r}, asked is {wanted}"
            )
            raise _Shape(text) from None
    return made


def _finite(number):
    if not np.isfinite(float(number)):
        raise ValueError("not finite")
    return float(number)


def _token_ids(tokens):
    return np.asarray([int(token) for token in tokens], dtype=np.int64)


def _handed_in(f, draw):
    found = f()
    try:
        return _read_portfolio(found)
    except _Shape as error:  # told once, by the first case; the others have no record to measure
        return {"author": "", "shape": f"{error}."}


def _read_portfolio(found):
    if not isinstance(found, Mapping) or not {"author", "latents"} <= set(found):
        kind = f"a dictionary with {', '.join(map(str, found)) or 'no keys'}"
        raise _Shape(f"{_SHAPE}; this is {kind if isinstance(found, Mapping) else 'a ' + type(found).__name__}")
    if isinstance(found["latents"], (Mapping, str)) or not hasattr(found["latents"], "__iter__"):
        raise _Shape(f"{_SHAPE}; `latents` is of type {type(found['latents']).__name__}")
    records = list(found["latents"])
    if len(records) > MOST:
        raise _Shape(f"{len(records)} records are handed in; {MOST} at most: choose your best")
    return {"author": str(found["author"]), "records": {str(i): _record(r, i) for i, r in enumerate(records)}}


def _records(values):
    """The records handed in; none where the portfolio is empty or unsigned."""
    rows: dict[int, dict] = {}
    for name, value in values.items():
        if name.startswith("records."):
            _, number, key = name.split(".")
            rows.setdefault(int(number), {})[key] = value
    return [rows[number] for number in sorted(rows)] if values["author"].strip() else []


def _firings(latent):
    return len(load_held_back().firings["middle"][latent]) if 0 <= latent < N_LATENTS else 0


def _measurable(records):
    """Each different latent's first record, of those that fire often enough in the held-back text; and what to say of the rest."""
    different = {record["latent"]: record for record in reversed(records)}
    different = {latent: different[latent] for latent in dict.fromkeys(record["latent"] for record in records)}
    said = [
        f"latent {latent} fires strongly only {_firings(latent)} times in the held-back text ({ENOUGH} needed): not measured"
        for latent in different
        if _firings(latent) < ENOUGH
    ]
    return [record for latent, record in different.items() if _firings(latent) >= ENOUGH], said


def _sentence(values, start, troubles):
    if not _records(values):
        return "there is no record to measure."
    return f"{start} {'; '.join(troubles)}.".replace(" .", "")


def _chosen(values, draw):
    records = _records(values)
    author, numbers = values["author"].strip(), sorted({record["latent"] for record in records})
    foreign = sorted(set(numbers) - set(author_latents(author))) if author else []
    found = {"different latents": len(numbers), "latents from another share": len(foreign)}
    if "shape" in values:
        return _told(values["shape"], "shape", **found)
    if not records:
        return _told("no record is handed in, or `author` is empty.", "empty", **found)
    if foreign:
        text = f"not in the share of {author!r}: latent {', '.join(map(str, foreign))}."
        return _told(text, "foreign", **found)
    if len(numbers) < FEWEST:
        text = f"{len(records)} records of {len(numbers)} different latents ({', '.join(map(str, numbers))})"
        return _told(f"{text}; at least {FEWEST} different ones are asked for.", "too few", **found)
    return _told(**found)


_CHOSEN = _TOLD | {"different latents": Between(FEWEST, MOST), "latents from another share": Between(0, 0)}


# no points of its own: to name five latents shows nothing yet; but without it nothing is earned
@latents.case(
    "at least five different latents from your share", weight=0, rule=_CHOSEN, measure=_chosen, essential=True
)
def _(f, draw):
    return _handed_in(f, draw)


def _rescored(record, draw):
    """Balanced accuracy of a record's pattern on contexts drawn from the held-back text, what shuffled labels reach, its answers."""
    latent, pattern = record["latent"], record["pattern"]
    if len(pattern) > LONGEST_PATTERN:
        text = f"has {len(pattern)} characters, more than {LONGEST_PATTERN}: it is a list, not an explanation"
        raise ValueError(f"latent {latent}: the pattern {text}")
    texts, fires = load_held_back().contexts(latent, 60, draw.rng)
    try:
        said = pattern_says(pattern, texts)
    except TimeoutError:
        raise ValueError(f"latent {latent}: this pattern backtracks without end. Nest fewer `*` and `+`") from None
    except Exception as error:
        raise ValueError(f"latent {latent}: this is no regular expression ({error})") from None

    def accuracy(labels):
        return (said[labels].mean() + (~said[~labels]).mean()) / 2

    chance = np.quantile([accuracy(draw.rng.permutation(fires)) for _ in range(200)], 0.975)
    return accuracy(fires), chance, said


def _judged(record, draw):
    """A record's balanced accuracy, whether it holds, and the answer its pattern gives to every text (yes, no, or various)."""
    accuracy, chance, said = _rescored(record, draw)
    return (
        accuracy,
        bool(accuracy >= 0.7 and accuracy > chance),
        "yes" if said.all() else "various" if said.any() else "no",
    )


def _words(sentence):
    # a Chinese or Japanese sentence has no spaces: each character counts
    return len(re.findall(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+", sentence))


def _explained(values, draw):
    records, troubles = _measurable(_records(values))
    holding, all_yes, sentences = 0, 0, set()
    remark = {"yes": " and says yes to every text", "no": " and is found in no text", "various": ""}
    for record in records:
        accuracy, holds, answers = _judged(record, draw)
        sentence = " ".join(record["explanation"].lower().split())
        problem = "" if holds else f"pattern {accuracy:.2f} (needs 0.70){remark[answers]}"
        if _words(sentence) < FEWEST_WORDS:
            problem = problem or f"the explanation has {_words(sentence)} words ({FEWEST_WORDS} needed)"
        elif sentence in sentences:
            problem = problem or "the explanation is that of another latent"
        else:
            sentences.add(sentence)
        troubles += [f"latent {record['latent']}: {problem}"] * bool(problem)
        holding, all_yes = holding + (not problem), all_yes + (answers == "yes")
    numbers = {"explanations that hold": holding, "patterns that say yes everywhere": all_yes}
    if holding >= FEWEST:
        return _told(**(numbers | {"patterns that say yes everywhere": 0}))
    return _told(_sentence(values, f"{holding} hold, at least {FEWEST} have to.", troubles), "too few", **numbers)


_EXPLAINED = _TOLD | {
    "explanations that hold": Between(FEWEST, MOST),
    "patterns that say yes everywhere": Between(0, FEWEST - 1),
}


@latents.case("the explanations predict text that nobody has looked at", weight=3, rule=_EXPLAINED, measure=_explained)
def _(f, draw):
    return _handed_in(f, draw)


def _scores_hold(values, draw):
    records, rare = _measurable(_records(values))
    troubles, gaps, holding = [], [0.0], 0
    for record in records:
        accuracy, holds, _ = _judged(record, draw)
        gap, holding = record["score"] - accuracy, holding + holds
        if holds and abs(gap) <= 0.17:
            continue
        text = f"latent {record['latent']}: pattern {accuracy:.2f}" + " (needs 0.70)" * (not holds)
        troubles.append(f"{text}, score stated {record['score']:.2f}")
        gaps.append(gap if np.isfinite(gap) else 1.0)
    numbers = {
        "too high by, at worst": max(gaps),
        "too low by, at worst": -min(gaps),
        "patterns that hold": holding,
    }
    if max(map(abs, gaps)) <= 0.17 and holding >= MOST_OF_FIVE:
        return _told(**numbers)
    start = "scores have to be right within 0.17."
    if holding < MOST_OF_FIVE:
        start = f"{holding} patterns hold; a score counts beside {MOST_OF_FIVE} at least that do."
    return _told(_sentence(values, start, troubles + rare), "scores", **numbers)


_SCORES = _TOLD | {"*": Between(-1, 0.17), "patterns that hold": Between(MOST_OF_FIVE, MOST)}


@latents.case("the scores you state are borne out", weight=1, rule=_SCORES, measure=_scores_hold)
def _(f, draw):
    return _handed_in(f, draw)


def _held_support(record):
    """Mean support of the record's tokens in the held-back text (0 for a token that is not among those supported most)."""
    effect = load_held_back().effects[record["latent"]]
    known = dict(zip(effect.tokens.tolist(), effect.support.tolist()))
    named = np.atleast_1d(record["promotes"])
    return float(np.mean([known.get(int(token), 0.0) for token in named])) if named.size else 0.0, effect.control


def _tokens_trouble(tokens):
    different = sorted(set(np.atleast_1d(tokens).tolist()))
    strange = [token for token in different if not 0 <= token < N_TOKENS]
    if strange:
        return f"{strange[0]} is no token id (0 to {N_TOKENS - 1})"
    if len(different) < len(np.atleast_1d(tokens)):
        return f"{len(np.atleast_1d(tokens))} tokens, only {len(different)} of them different"
    return "" if 3 <= len(different) <= 10 else f"{len(different)} tokens named, asked are three to ten"


def _causal(values, draw):
    records, troubles = _measurable(_records(values))
    lowered = 0
    for record in records:
        (support, control), problem = _held_support(record), _tokens_trouble(record["promotes"])
        if not problem and not support > control:
            problem = f"its tokens lose {support:.2f}; {control:.2f} is what 97.5% of tokens stay below at random"
        troubles += [f"latent {record['latent']}: {problem}"] * bool(problem)
        lowered += not problem
    numbers = {"latents whose tokens lose more than at random": lowered}
    if lowered >= FEWEST:
        return _told(**numbers)
    return _told(_sentence(values, f"{lowered} do, at least {FEWEST} have to.", troubles), "too few", **numbers)


@latents.case(
    "removing each latent lowers what it is said to promote",
    weight=3,
    rule=_TOLD | {"*": Between(FEWEST, MOST)},
    measure=_causal,
)
def _(f, draw):
    return _handed_in(f, draw)


def _effects_hold(values, draw):
    records, rare = _measurable(_records(values))
    troubles, ratios, controls, lowered = [], [1.0], [0.0], 0
    for record in records:
        measured, control = _held_support(record)
        ratio, beside = (
            record["support"] / max(measured, 0.02),
            abs(record["control"]) / max(abs(record["support"]), 1e-9),
        )
        ratios, controls, lowered = [*ratios, ratio], [*controls, beside], lowered + (measured > control)
        if not (measured > control and 0.25 <= ratio <= 4):
            troubles.append(
                f"latent {record['latent']}: support stated {record['support']:.2f}, measured {measured:.2f}"
            )
        if record["control"] == 0 or not beside <= 0.9:
            troubles.append(
                f"latent {record['latent']}: control {record['control']:.2f}, support {record['support']:.2f}"
            )
    numbers = {
        "stated over measured, largest": max(ratios),
        "stated over measured, smallest": min(ratios),
        "controls missing": sum(record["control"] == 0 for record in records),
        "largest control over its support": max(controls),
        "latents with an effect": lowered,
    }
    if all(_EFFECTS[name].problem(number) is None for name, number in numbers.items()):
        return _told(**numbers)
    start = "effects have to be right within a factor of four, beside a control that is smaller and not 0."
    if lowered < MOST_OF_FIVE:
        start = f"{lowered} latents have an effect; {MOST_OF_FIVE} at least are needed."
    return _told(_sentence(values, start, troubles + rare), "effects", **numbers)


_EFFECTS = {
    "stated over measured, largest": Between(0, 4),
    "stated over measured, smallest": Between(0.25, 100),
    "controls missing": Between(0, 0),
    "largest control over its support": Between(0, 0.9),
    "latents with an effect": Between(MOST_OF_FIVE, MOST),
}


@latents.case(
    "the effects you state are borne out, and stand beside a control",
    weight=1,
    rule=_TOLD | _EFFECTS,
    measure=_effects_hold,
)
def _(f, draw):
    return _handed_in(f, draw)


def _findings_with(author=None, keep=None, **changes):
    """The reference's findings, each record changed by functions of the record."""

    def made():
        found = course_findings()
        found["latents"] = [
            {**record, **{name: change(record) for name, change in changes.items()}} for record in found["latents"]
        ]
        found["latents"] = keep(found["latents"]) if keep else found["latents"]
        return {**found, "author": found["author"] if author is None else author}

    return made


latents.mistake(
    "Neither the scores nor the effects you state are those of these latents: the numbers look pasted. State what you measured.",
    name="pasted_numbers",
)(_findings_with(score=lambda r: r["score"] + 0.4, support=lambda r: 50 * r["support"]))
latents.mistake(
    "Your scores do not survive on other text: they look as if measured on the contexts the patterns were written from.",
    name="scored_where_written",
)(_findings_with(score=lambda r: r["score"] + 0.3))
latents.mistake(
    "These patterns say yes to everything: sensitivity 1, specificity 0, balanced accuracy 0.5.",
    name="explains_everything",
)(_findings_with(pattern=lambda r: "", score=lambda r: 0.5))
latents.mistake("One latent is handed in several times: five different ones are asked for.", name="same_latent_again")(
    _findings_with(keep=lambda records: [records[0]] * 5)
)
latents.mistake(
    "These latents are not in the share that goes with this name. Each author studies their own: see `author_latents`.",
    name="latents_of_another_author",
)(_findings_with(author="Somebody Else"))
latents.mistake(
    "The tokens you name lose nothing when the latents are removed: take those that lose most in your own ablation.",
    name="tokens_not_promoted",
)(_findings_with(promotes=lambda r: [7, 11, 13, 17, 19]))
latents.mistake(
    "The effects have the wrong sign: support is log-probability as it is minus log-probability with the latent removed.",
    name="sign_of_the_effect",
)(_findings_with(support=lambda r: -r["support"]))
latents.mistake(
    "There is no control (0 is stated): remove random directions of the same length as well, and state what that does.",
    name="control_missing",
)(_findings_with(control=lambda r: 0.0))
latents.mistake(
    "The portfolio is empty or unsigned: put your name in `author` and your findings into `latents`.",
    name="empty_portfolio",
)(_findings_with(author="", keep=lambda records: []))


@latents.alternative
def in_another_style():
    """Compiled patterns, tensors, numbers as text, other cases in the name, more than is asked for."""
    made = []
    for record in _REFERENCE[1:]:
        changed = {"pattern": re.compile(record["pattern"]), "promotes": torch.tensor(record["promotes"][:4])}
        numbers = {
            "latent": np.int64(record["latent"]),
            "score": str(record["score"]),
            "support": torch.tensor(record["support"]),
        }
        made.append({"note": "anything else is welcome", **record, **changed, **numbers})
    return {"latents": tuple(made), "author": "  WORKED   example "}


# -- 09.5 ---------------------------------------------------------------------------------------------------------


def token_share(tokens, fires):
    """For each latent the share of the variance of "it fires here" that the current token explains; half predicts half."""
    tokens, fires = np.asarray(tokens).astype(int), np.asarray(fires, dtype=float)
    half = (np.arange(len(tokens)) // 500) % 2 == 0
    size = tokens.max() + 1
    shares = []
    for values in fires.T:
        error = 0.0
        for fit, test in ((half, ~half), (~half, half)):
            count = np.bincount(tokens[fit], minlength=size)
            total = np.bincount(tokens[fit], weights=values[fit], minlength=size)
            guess = np.where(count > 0, total / np.maximum(count, 1), values[fit].mean())
            error += ((values[test] - guess[tokens[test]]) ** 2).sum()
        shares.append(1 - error / ((values - values.mean()) ** 2).sum())
    return np.array(shares)


def _difference(first, second, rng, repeats=1000):
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    means = [rng.choice(part, (repeats, len(part))).mean(axis=1) for part in (first, second)]
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return {"first": first, "second": second, "difference": second.mean() - first.mean(), "low": low, "high": high}


def compare_token_shares(first, second, seed):
    """The share explained by the current token, latent by latent, and the difference of the two means."""
    return _difference(token_share(*first), token_share(*second), np.random.default_rng(seed))


comparison = lesson.exercise(
    5,
    title="A comparison, with its interval",
    answer="compare",
    reference=compare_token_shares,
    points=4,
    difficulty=3,
    importance=4,
    minutes=25,
    hints=(
        "Choose any measure that gives one number for each latent from the tokens and from where it fires. Ideas: how much the "
        "current token explains (06.10), over how many different tokens it is spread, how often two firings are neighbours.",
        "The unit that you draw again is the latent: for each of 1,000 repeats draw as many values of each group as there are, "
        "with replacement, and take the difference of the two means.",
        "`means = rng.choice(values, (1000, len(values))).mean(axis=1)` for each group; "
        "`low, high = np.quantile(second_means - first_means, [0.025, 0.975])`.",
    ),
)


def _group(draw: Draw, alias: str, m: int = 16):
    """Tokens of the text held back, and where `m` of an SAE's latents fire in it."""
    held = load_held_back()
    often = [i for i, places in enumerate(held.firings[alias]) if 40 <= len(places) <= 400]
    fires = np.zeros((held.tokens.size, m), dtype=bool)
    for column, latent in enumerate(draw.rng.choice(often, m, replace=False)):
        fires[held.firings[alias][latent], column] = True
    return held.tokens.ravel()[held.places], fires[held.places]


def _plain_result(found):
    return {name: np.asarray(found[name], dtype=float) for name in ("first", "second", "difference", "low", "high")}


_M = {"early": 16, "late": 12, "middle": 14}
"""Latents of each group: groups of different sizes cannot be drawn as pairs."""
_PAIRS = (("early", "late"), ("late", "early"), ("middle", "early"))


def _interval_kind(calls):
    """What an interval that is not that of the difference of means is instead, told from three calls."""
    if all(low > high for *_, low, high, _ in calls):
        return "ends exchanged"

    def off(level, draw_first, draw_second):
        gaps = []
        for first, second, _, low, high, right in calls:
            rng = np.random.default_rng(1)
            parts = [
                rng.choice(part, (4000, len(part))).mean(axis=1) if again else part.mean()
                for part, again in ((first, draw_first), (second, draw_second))
            ]
            ends = np.quantile(parts[1] - parts[0], [(1 - level) / 2, (1 + level) / 2])
            gaps.append(abs(ends - [low, high]).max() / (right["high"] - right["low"]))
        return float(np.mean(gaps))

    known = {
        "90%": off(0.9, True, True),
        "99%": off(0.99, True, True),
        "only the first drawn": off(0.95, True, False),
        "only the second drawn": off(0.95, False, True),
    }
    nearest = min(known, key=lambda name: known[name])
    if known[nearest] < 0.08:
        return nearest if nearest.endswith("%") else "one group drawn"
    ratio = np.mean([(high - low) / (right["high"] - right["low"]) for *_, low, high, right in calls])
    return "narrow" if ratio < 0.6 else "wide" if ratio > 1.5 else "other interval"


def _stated(values, draw):
    calls = []
    for call, pair in zip(("0.", "1.", "2."), _PAIRS):
        first, second = (np.atleast_1d(np.asarray(values[call + name], dtype=float)) for name in ("first", "second"))
        if first.size == second.size == 1:
            return _told("`first` and `second` are single numbers; one for each latent is asked for.", "one number")
        sizes = [_M[alias] for alias in pair]
        if [first.shape, second.shape] != [(size,) for size in sizes]:
            shapes = f"`first` has shape {list(first.shape)}, `second` {list(second.shape)}"
            return _told(
                f"{shapes}; one value for each of the {sizes[0]} and {sizes[1]} latents is asked for.", "shape"
            )
        said, low, high = (float(np.squeeze(values[call + name])) for name in ("difference", "low", "high"))
        for name, numbers in (("first", first), ("second", second), ("difference, low or high", [said, low, high])):
            if not np.isfinite(numbers).all():
                return _told(f"{name} holds NaN or infinity. Is there a division by 0 for some latent?", "nan")
        if np.ptp(first) == 0 or np.ptp(second) == 0:
            return _told("all latents of a group have the same value.", "one number")
        calls.append((first, second, said, low, high, _difference(first, second, np.random.default_rng(1), 4000)))

    def differences_are(found):
        return all(
            abs(said - found(first, second)) < 0.02 * (right["high"] - right["low"]) + 1e-9
            for first, second, said, _, _, right in calls
        )

    first, second, said, low, high, right = calls[0]
    if not differences_are(lambda a, b: b.mean() - a.mean()):
        kind = "other difference"
        if differences_are(lambda a, b: a.mean() - b.mean()):
            kind = "first minus second"
        elif differences_are(lambda a, b: np.median(b) - np.median(a)):
            kind = "medians"
        text = f"`difference` is {said:.4g}; the mean of `second` minus that of `first` is {right['difference']:.4g}."
        return _told(text, kind)
    widths = [right["high"] - right["low"] for *_, right in calls]
    gap = max(
        max(abs(low - right["low"]), abs(high - right["high"])) / width
        for (*_, low, high, right), width in zip(calls, widths)
    )
    ratio = np.mean([(high - low) / width for (*_, low, high, _), width in zip(calls, widths)])
    if gap <= 0.15 and 0.9 <= ratio <= 1.15:
        return _told()
    given, found = f"[{low:.3g}, {high:.3g}]", f"[{right['low']:.3g}, {right['high']:.3g}]"
    return _told(
        f"the interval is {given}; drawing latents again gives {found} (widths {ratio:.2f} times that, on average).",
        _interval_kind(calls),
    )


@comparison.case(
    "the difference and its interval follow from the values", weight=2, rule=_TOLD, measure=_stated, essential=True
)
def _(f, draw):
    groups = {alias: _group(draw, alias, m) for alias, m in _M.items()}
    return [_plain_result(f(groups[a], groups[b], int(draw.rng.integers(10**6)))) for a, b in _PAIRS]


def _equivariant(values, draw):
    order = np.argsort(np.asarray(values["order"]))
    before, after = (np.atleast_1d(np.asarray(values[name], dtype=float)) for name in ("first", "again"))
    if before.size == after.size == 1:
        order = np.zeros(1, dtype=int)
    if before.shape == after.shape and np.allclose(before, after[order], rtol=1e-3, atol=1e-6, equal_nan=True):
        return _told()
    return _told("with the latents in another order the values do not come in that order.", "order")


@comparison.case("each value belongs to its latent", weight=1, rule=_TOLD, measure=_equivariant)
def _(f, draw):
    (tokens, fires), other = _group(draw, "early"), _group(draw, "late")
    order, seed = draw.rng.permutation(fires.shape[1]), int(draw.rng.integers(10**6))
    first = f((tokens, fires), other, seed)["first"]
    return {"order": order, "first": first, "again": f((tokens, fires[:, order]), other, seed)["first"]}


def _with_itself(values, draw):
    width = max(abs(float(values["high"] - values["low"])), 1e-12)
    share = abs(float(values["difference"])) / width
    if np.isfinite(share) and share <= 0.1:
        return _told()
    return _told(f"the difference is {share:.2g} times the interval's width, expected 0.", "differs from itself")


@comparison.case("a group compared with itself", weight=1, rule=_TOLD, measure=_with_itself)
def _(f, draw):
    group = _group(draw, "middle")
    return _plain_result(f(group, group, int(draw.rng.integers(10**6))))


@comparison.mistake(
    "The numbers you state do not follow from the latents given: they look pasted. Compute them each time.",
    name="pasted_numbers",
)
def pasted_comparison(first, second, seed):
    one, two = np.linspace(0.3, 0.9, 16), np.linspace(0.1, 0.7, 16)
    return {"first": one, "second": two, "difference": -0.31, "low": -0.35, "high": -0.27}


@comparison.mistake(
    "The interval is that of the single latents, not of the difference of the means: draw latents again and take means."
)
def spread_of_the_values(first, second, seed):
    found = compare_token_shares(first, second, seed)
    low, high = np.quantile(found["second"][:, None] - found["first"], [0.025, 0.975])
    return {**found, "low": low, "high": high}


@comparison.mistake("The difference has the wrong sign: it is the second group's mean minus the first's.")
def first_minus_second(first, second, seed):
    found = compare_token_shares(first, second, seed)
    return {**found, "difference": -found["difference"], "low": -found["high"], "high": -found["low"]}


@comparison.mistake(
    "One number stands for a whole layer: measure every latent, or there is nothing to draw an interval from."
)
def one_number_a_layer(first, second, seed):
    found = compare_token_shares(first, second, seed)
    layers = [np.full_like(found[name], found[name].mean()) for name in ("first", "second")]
    return _difference(*layers, np.random.default_rng(0))


@comparison.mistake(
    "The interval comes from tokens or from far too many draws: with so few latents it cannot be this narrow. The unit is the latent."
)
def interval_too_narrow(first, second, seed):
    found = compare_token_shares(first, second, seed)
    many = {name: np.repeat(found[name], 500) for name in ("first", "second")}
    narrow = _difference(many["first"], many["second"], np.random.default_rng(seed), 200)
    return {**found, "difference": narrow["difference"], "low": narrow["low"], "high": narrow["high"]}


@comparison.mistake("`low` is above `high`: the two ends of the interval are exchanged.")
def ends_exchanged(first, second, seed):
    found = compare_token_shares(first, second, seed)
    return {**found, "low": found["high"], "high": found["low"]}


@comparison.mistake(
    "Only one group is drawn again and the other kept: draw both, in each repeat, before the difference."
)
def one_group_drawn(first, second, seed):
    found = compare_token_shares(first, second, seed)
    means = np.random.default_rng(seed).choice(found["second"], (1000, len(found["second"]))).mean(axis=1)
    low, high = np.quantile(means - found["first"].mean(), [0.025, 0.975])
    return {**found, "low": low, "high": high}


def _interval_of(level):
    def made(first, second, seed):
        found = compare_token_shares(first, second, seed)
        rng = np.random.default_rng(seed)
        parts = [found[name] for name in ("first", "second")]
        means = [rng.choice(part, (1000, len(part))).mean(axis=1) for part in parts]
        low, high = np.quantile(means[1] - means[0], [(1 - level) / 2, (1 + level) / 2])
        return {**found, "low": low, "high": high}

    return made


comparison.mistake(
    "This is the interval of 90%; asked is that of 95%, from the 2.5% to the 97.5% quantile.", name="interval_of_90"
)(_interval_of(0.9))
comparison.mistake(
    "The interval is wider than that of 95%, nearer to that of 99%: asked is from the 2.5% to the 97.5% quantile.",
    name="interval_of_99",
)(_interval_of(0.99))


@comparison.mistake(
    "The same row numbers are drawn for both groups, as if the latents were pairs. They are not, and groups may differ in size: "
    "draw each group by itself."
)
def drawn_as_pairs(first, second, seed):
    found = compare_token_shares(first, second, seed)
    rows = np.random.default_rng(seed).integers(len(found["first"]), size=(1000, len(found["first"])))
    low, high = np.quantile(found["second"][rows].mean(axis=1) - found["first"][rows].mean(axis=1), [0.025, 0.975])
    return {**found, "low": low, "high": high}


@comparison.mistake("These are medians: `difference` is the mean of the second group minus the mean of the first.")
def medians_for_means(first, second, seed):
    found = compare_token_shares(first, second, seed)
    rng = np.random.default_rng(seed)
    parts = [found[name] for name in ("first", "second")]
    middles = [np.median(rng.choice(part, (1000, len(part))), axis=1) for part in parts]
    low, high = np.quantile(middles[1] - middles[0], [0.025, 0.975])
    return {**found, "difference": np.median(found["second"]) - np.median(found["first"]), "low": low, "high": high}


@comparison.alternative
def spread_over_tokens(first, second, seed):
    def distinct(tokens, fires):
        tokens, fires = torch.as_tensor(tokens), torch.as_tensor(fires).bool()
        return torch.tensor([len(tokens[column].unique()) / int(column.sum()) for column in fires.T])

    one, two = distinct(*first), distinct(*second)
    generator = torch.Generator().manual_seed(seed)

    def means(values):
        return values[torch.randint(len(values), (2000, len(values)), generator=generator)].mean(dim=1)

    low, high = (means(two) - means(one)).quantile(torch.tensor([0.025, 0.975]))
    return {"measure": "distinct tokens", "first": one, "second": two, "difference": two.mean() - one.mean(),
            "low": low, "high": high}  # fmt: skip
