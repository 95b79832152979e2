"""The exercises of lesson 04, a sparse autoencoder in NumPy: what each asks, how it is probed, which mistakes it knows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy import ndarray as Array
from scipy.optimize import linear_sum_assignment

from course_utils.grading.exercise import Lesson
from course_utils.grading.judge import Between, Close, Exact
from course_utils.sae import numpy_sae as ns
from course_utils.sae.numpy_sae import AdamState, Params

lesson = Lesson("04", "A sparse autoencoder in NumPy", slug="04_sparse_autoencoder_numpy")

SAMPLES = 2_500
"""Samples in the statistical cases: a share has a standard error of at most 0.5 / sqrt(2500) = 0.01."""

SAMPLED = Close(rtol=0.0, atol=0.071)
"""Two samples' shares agree: 5 standard errors of their difference, 5 * 0.01 * sqrt(2)."""

EXACT64 = Close(rtol=1e-5, atol=1e-8)
"""For float64 inputs: loose enough for answers that compute in float32."""


def float64(draw: Any, *shape: int, mean: float = 0.0, std: float = 1.0) -> Array:
    """A random normal array in float64, remembered by `draw`."""
    return draw.lend(draw.rng.normal(mean, std, size=shape), numpy=True)


def some_params(draw: Any, d_in: int = 4, d_sae: int = 7) -> Params:
    """Parameters with no zero anywhere, so that nothing can be left out unnoticed."""
    return {
        "W_enc": float64(draw, d_in, d_sae),
        "b_enc": float64(draw, d_sae, std=0.6),
        "W_dec": float64(draw, d_sae, d_in),
        "b_dec": float64(draw, d_in, mean=0.7, std=0.6),
    }


def backward(
    params: Params,
    x: Array,
    lam: float = 0.0,
    *,
    latents: Array | None = None,
    factor: float = 2.0,
    error_scale: float | None = None,
    penalty_scale: float | None = None,
    masked: bool = True,
    penalty_masked: bool = True,
    encoder_input: bool = True,
    both_paths: bool = True,
) -> Params:
    """The backward pass with switches for what can go wrong; the defaults are right. Only known mistakes use it."""
    z = x - params["b_dec"]
    if latents is None:
        latents = np.maximum(z @ params["W_enc"] + params["b_enc"], 0)
    x_hat = latents @ params["W_dec"] + params["b_dec"]
    d_x_hat = factor * (x_hat - x) * (1 / len(x) if error_scale is None else error_scale)
    mask = (latents > 0) if masked else np.ones(latents.shape)
    penalty = lam * (1 / len(x) if penalty_scale is None else penalty_scale)
    d_pre = (d_x_hat @ params["W_dec"].T) * mask + penalty * (mask if penalty_masked else 1)
    d_b_dec = d_x_hat.sum(axis=0)
    return {
        "W_enc": (z if encoder_input else x).T @ d_pre,
        "b_enc": d_pre.sum(axis=0),
        "W_dec": latents.T @ d_x_hat,
        "b_dec": d_b_dec - d_pre.sum(axis=0) @ params["W_enc"].T if both_paths else d_b_dec,
    }


# ------------------------------------------------------------------------------------------------ 04.1 the data

data = lesson.exercise(
    1,
    title="Activations whose truth is known",
    answer="make_superposed_activations",
    reference=ns.make_superposed_activations,
    points=2,
    difficulty=2,
    importance=4,
    minutes=10,
    hints=(
        "Three random things: how many features each sample has, which ones, and how strong. Then one matrix "
        "product, then noise.",
        "`rng.integers(low, high)` leaves `high` out. For 'which ones, without repetition', sort random numbers: "
        "`rng.random((n_samples, n)).argsort(axis=1)` is a random order of the features for every sample.",
        "Order twice to get ranks: `rank = rng.random((n_samples, n)).argsort(1).argsort(1)`; "
        "`active = rank < n_active[:, None]`; `coefficients = active * rng.normal(mean, std, size=(n_samples, n))`; "
        "`x = coefficients @ directions + noise * rng.normal(size=(n_samples, d))`.",
    ),
)


def drawn(f: Any, draw: Any, n: int = 10, d: int = 6, **settings: Any) -> tuple[Array, Array, Array]:
    """A large batch in the statistical cases' setting: x, coefficients, directions."""
    directions = draw.lend(ns.random_directions(draw.rng, n, d), numpy=True)
    settings = {"min_active": 2, "max_active": 4, "mean": 1.5, "std": 0.8, "noise": 0.05} | settings
    x, coefficients = f(draw.rng, directions, SAMPLES, **settings)
    if np.shape(x) != (SAMPLES, d) or np.shape(coefficients) != (SAMPLES, n):
        raise ValueError(
            f"shapes {list(np.shape(x))} and {list(np.shape(coefficients))}, expected {[SAMPLES, d]} and {[SAMPLES, n]}"
        )
    return np.asarray(x), np.asarray(coefficients), directions


@data.case("the shapes of both results", rule=Exact())
def _(f, draw):
    x, coefficients = f(draw.rng, draw.lend(ns.random_directions(draw.rng, 6, 3), numpy=True), 5)
    return {"x": list(np.shape(x)), "coefficients": list(np.shape(coefficients))}


# 1e-5: float32 answers are welcome, and the lesson goes on in float32
@data.case("without noise, x is the coefficients times the directions", rule=Close(0.0, 1e-5))
def _(f, draw):
    x, coefficients, directions = drawn(f, draw, noise=0.0)
    return {"largest difference": np.abs(x - coefficients @ directions).max()}


@data.case("how many features are active in a sample", rule=SAMPLED)
def _(f, draw):
    _, coefficients, _ = drawn(f, draw)
    return np.bincount((coefficients != 0).sum(axis=1), minlength=7)[:7] / SAMPLES


@data.case("every feature is active equally often, and no two go together", rule=SAMPLED)
def _(f, draw):
    _, coefficients, _ = drawn(f, draw)
    active = (coefficients != 0).astype(float)
    return {"active": active.mean(axis=0), "together": active.T @ active / SAMPLES}


@data.case("the coefficients: mean, spread, share below zero", rule={"*": SAMPLED, "negative": Close(0.0, 0.015)})
def _(f, draw):
    _, coefficients, _ = drawn(f, draw)
    values = coefficients[coefficients != 0]
    return {"mean": values.mean(), "standard deviation": values.std(), "negative": (values < 0).mean()}


@data.case("the coefficients of one sample differ", rule=Close(0.0, 0.15))
def _(f, draw):
    _, coefficients, _ = drawn(f, draw, min_active=2, max_active=2)
    pairs = np.sort(np.where(coefficients == 0, np.nan, coefficients), axis=1)[:, :2]
    first_is_larger = draw.rng.random(SAMPLES) < 0.5
    shuffled = np.where(first_is_larger[:, None], pairs, pairs[:, ::-1])
    return {"correlation": np.corrcoef(np.nan_to_num(shuffled).T)[0, 1]}


@data.case("the noise: its size in every dimension, independent", rule=Close(0.0, 0.055))
def _(f, draw):
    x, coefficients, directions = drawn(f, draw, noise=0.5)
    return np.cov((x - coefficients @ directions).T)


@data.case("all randomness comes from rng", rule=Exact())
def _(f, draw):
    directions = draw.lend(ns.random_directions(draw.rng, 6, 3), numpy=True)
    first, again, other = (
        f(np.random.default_rng(s), directions, 40)[0] for s in (draw.seed, draw.seed, draw.seed + 1)
    )
    return {
        "the same rng gives the same data": bool(np.allclose(first, again)),
        "another rng gives other data": not np.allclose(first, other),
    }


def _generate(
    rng: np.random.Generator,
    directions: Array,
    n_samples: int,
    min_active: int,
    max_active: int,
    coefficient: Any,
    noise: Any,
    choose: Any = None,
) -> tuple[Array, Array]:
    n, d = directions.shape
    n_active = rng.integers(min_active, max_active + 1, size=n_samples)
    if choose is None:
        active = rng.random((n_samples, n)).argsort(axis=1).argsort(axis=1) < n_active[:, None]
    else:
        active = choose(n_active, n)
    coefficients = np.where(active, coefficient((n_samples, n)), 0.0)
    return coefficients @ directions + noise((n_samples, d)), coefficients


@data.mistake("`rng.integers(low, high)` never gives `high`: samples with `max_active` features are missing. Add 1.")
def max_active_left_out(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    return ns.make_superposed_activations(rng, directions, n_samples, min_active, max_active - 1, mean, std, noise)


@data.mistake(
    "The same feature is drawn twice in some samples, which then have fewer active features. Choose without repetition."
)
def features_repeat(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    def choose(n_active, n):
        active = np.zeros((n_samples, n), dtype=bool)
        rows, places = np.nonzero(np.arange(max_active) < n_active[:, None])
        active[rows, rng.integers(0, n, size=(n_samples, max_active))[rows, places]] = True
        return active

    return _generate(
        rng, directions, n_samples, min_active, max_active,
        lambda shape: rng.normal(mean, std, size=shape), lambda shape: noise * rng.normal(size=shape), choose,
    )  # fmt: skip


@data.mistake("The number of active features is drawn once and used for every sample. Draw one for each sample.")
def one_count_for_the_batch(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    k = int(rng.integers(min_active, max_active + 1))
    return ns.make_superposed_activations(rng, directions, n_samples, k, k, mean, std, noise)


@data.mistake("One coefficient is shared by all active features of a sample. Each active feature needs its own.")
def one_coefficient_per_sample(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    return _generate(
        rng, directions, n_samples, min_active, max_active,
        lambda shape: np.broadcast_to(rng.normal(mean, std, size=(n_samples, 1)), shape),
        lambda shape: noise * rng.normal(size=shape),
    )  # fmt: skip


@data.mistake("`std` is the standard deviation, and `rng.normal` takes just that; you passed its square, the variance.")
def variance_for_std(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    return ns.make_superposed_activations(rng, directions, n_samples, min_active, max_active, mean, std**2, noise)


@data.mistake(
    "Negative coefficients are cut off or folded over. N(1.5, 0.8²) is below zero 3% of the time; keep those, as "
    "published."
)
def coefficients_made_positive(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    return _generate(
        rng, directions, n_samples, min_active, max_active,
        lambda shape: np.abs(rng.normal(mean, std, size=shape)), lambda shape: noise * rng.normal(size=shape),
    )  # fmt: skip


@data.mistake("The noise is missing from x.")
def no_noise(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    return ns.make_superposed_activations(rng, directions, n_samples, min_active, max_active, mean, std, 0.0)


@data.mistake("One noise value is added to all dimensions of a sample. Draw noise of the shape of x.")
def one_noise_per_sample(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    return _generate(
        rng, directions, n_samples, min_active, max_active,
        lambda shape: rng.normal(mean, std, size=shape), lambda shape: noise * rng.normal(size=(n_samples, 1)),
    )  # fmt: skip


@data.mistake(
    "Active features are neighbours (a run of indices), so some always come together. Choose each sample's "
    "features at random."
)
def neighbours_together(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    def choose(n_active, n):
        start = rng.integers(0, n, size=n_samples)
        return (np.arange(n) - start[:, None]) % n < n_active[:, None]

    return _generate(
        rng, directions, n_samples, min_active, max_active,
        lambda shape: rng.normal(mean, std, size=shape), lambda shape: noise * rng.normal(size=shape), choose,
    )  # fmt: skip


@data.mistake(
    "Random numbers come from `np.random`, not from `rng`: a result made this way cannot be repeated from its seed."
)
def global_randomness(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    own = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
    return ns.make_superposed_activations(own, directions, n_samples, min_active, max_active, mean, std, noise)


@data.mistake("A generator with a seed of its own is made inside, so every call gives the same data: draw from `rng`.")
def own_generator(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    own = np.random.default_rng(0)
    return ns.make_superposed_activations(own, directions, n_samples, min_active, max_active, mean, std, noise)


@data.mistake("The two results are in the wrong order: first the activations x, then the coefficients.")
def activations_and_coefficients_exchanged(
    rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05
):
    return ns.make_superposed_activations(rng, directions, n_samples, min_active, max_active, mean, std, noise)[::-1]


@data.alternative
def in_float32(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    drawn = sample_by_sample(rng, directions, n_samples, min_active, max_active, mean, std, noise)
    return tuple(array.astype(np.float32) for array in drawn)


@data.alternative
def sample_by_sample(rng, directions, n_samples, min_active=2, max_active=4, mean=1.5, std=0.8, noise=0.05):
    n, d = directions.shape
    coefficients = np.zeros((n_samples, n))
    for row in coefficients:
        k = rng.integers(min_active, max_active, endpoint=True)
        row[rng.choice(n, size=k, replace=False)] = rng.normal(mean, std, size=k)
    return coefficients @ directions + rng.normal(0, noise, size=(n_samples, d)), coefficients


# --------------------------------------------------------------------------------------------- 04.2 the forward

forward = lesson.exercise(
    2,
    title="The forward pass",
    answer="sae_forward",
    reference=ns.sae_forward,
    points=2,
    difficulty=1,
    importance=5,
    minutes=6,
    hints=(
        "Two lines, one for each formula. `params` is a dict: `params['W_enc']`.",
        "`b_dec` is used twice: taken off x before the encoder, added again after the decoder.",
        "`latents = np.maximum((x - params['b_dec']) @ params['W_enc'] + params['b_enc'], 0)`; "
        "`x_hat = latents @ params['W_dec'] + params['b_dec']`; return both.",
    ),
)


@forward.case("the latents of a batch", rule=EXACT64)
def _(f, draw):
    return f(some_params(draw), float64(draw, 9, 4))[0]


@forward.case("the reconstruction of a batch", rule=EXACT64)
def _(f, draw):
    return f(some_params(draw), float64(draw, 9, 4))[1]


@forward.case("as many latents as dimensions", rule=EXACT64, weight=0.5)
def _(f, draw):
    return f(some_params(draw, 5, 5), float64(draw, 5, 5))


def _pre(params: Params, x: Array) -> Array:
    return (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]


@forward.mistake(
    "`b_dec` is not subtracted before encoding: the encoder should see x relative to the decoder's origin."
)
def b_dec_not_subtracted(params, x):
    latents = np.maximum(x @ params["W_enc"] + params["b_enc"], 0)
    return latents, latents @ params["W_dec"] + params["b_dec"]


@forward.mistake("`b_dec` is subtracted before the encoder but not added again after the decoder.")
def b_dec_not_added(params, x):
    latents = np.maximum(_pre(params, x), 0)
    return latents, latents @ params["W_dec"]


@forward.mistake("The ReLU is missing: without it the whole thing is linear, and latents can be negative.")
def no_relu(params, x):
    latents = _pre(params, x)
    return latents, latents @ params["W_dec"] + params["b_dec"]


@forward.mistake(
    "The bias is added after the ReLU. It has to be inside, where a negative bias can switch a latent off."
)
def bias_after_relu(params, x):
    latents = np.maximum((x - params["b_dec"]) @ params["W_enc"], 0) + params["b_enc"]
    return latents, latents @ params["W_dec"] + params["b_dec"]


@forward.mistake("`b_enc` is missing.")
def no_encoder_bias(params, x):
    latents = np.maximum((x - params["b_dec"]) @ params["W_enc"], 0)
    return latents, latents @ params["W_dec"] + params["b_dec"]


@forward.mistake(
    "The reconstruction goes through a ReLU too. Activations have negative entries, so x_hat must be able to."
)
def relu_on_reconstruction(params, x):
    latents = np.maximum(_pre(params, x), 0)
    return latents, np.maximum(latents @ params["W_dec"] + params["b_dec"], 0)


@forward.mistake("The decoder is the encoder's transpose. Here both are free: use `W_dec`.")
def tied_weights(params, x):
    latents = np.maximum(_pre(params, x), 0)
    return latents, latents @ params["W_enc"].T + params["b_dec"]


@forward.mistake("The two results are in the wrong order: first the latents, then the reconstruction.")
def results_exchanged(params, x):
    return ns.sae_forward(params, x)[::-1]


@forward.alternative
def einsum_and_where(params, x):
    pre = np.einsum("bi,ij->bj", x, params["W_enc"]) - params["b_dec"] @ params["W_enc"] + params["b_enc"]
    latents = np.where(pre > 0, pre, 0)
    return latents, np.einsum("bj,ji->bi", latents, params["W_dec"]) + params["b_dec"]


@forward.alternative
def one_sample_at_a_time(params, x):
    rows = [np.clip(params["W_enc"].T @ (row - params["b_dec"]) + params["b_enc"], 0, None) for row in x]
    return np.stack(rows), np.stack([params["W_dec"].T @ row + params["b_dec"] for row in rows])


# ------------------------------------------------------------------------------------------------ 04.3 the loss

loss = lesson.exercise(
    3,
    title="The loss",
    answer="sae_loss",
    reference=ns.sae_loss,
    points=1,
    difficulty=1,
    importance=5,
    minutes=5,
    hints=(
        "Two terms, each first summed inside a sample and then averaged over samples.",
        "`((x - x_hat) ** 2).sum(axis=1)` is one squared error a sample.",
        "`((x - x_hat) ** 2).sum(axis=1).mean() + lam * latents.sum(axis=1).mean()`",
    ),
)


def loss_inputs(draw: Any, batch: int = 6, d_in: int = 4, d_sae: int = 9) -> tuple[Array, Array, Array]:
    latents = draw.lend(np.maximum(draw.rng.normal(size=(batch, d_sae)), 0), numpy=True)
    return float64(draw, batch, d_in), float64(draw, batch, d_in), latents


@loss.case("the squared error alone (lam = 0)", rule=EXACT64)
def _(f, draw):
    return float(f(*loss_inputs(draw), 0.0))


@loss.case("the penalty alone (a perfect reconstruction)", rule=EXACT64)
def _(f, draw):
    x, _, latents = loss_inputs(draw)
    return float(f(x, x, latents, 0.3))


@loss.case("both terms together", rule=EXACT64)
def _(f, draw):
    return float(f(*loss_inputs(draw, 11, 3, 5), 1.7))


@loss.mistake(
    "The squared error is averaged over the dimensions; here it is summed. Both are in use, but with a mean the "
    "same lam weighs d_in times as much, "
    "so a lam found in 8 dimensions would be wrong in 16. That is why this course insists on the sum."
)
def mean_over_dimensions(x, x_hat, latents, lam):
    return ((x - x_hat) ** 2).mean() + lam * np.abs(latents).sum(axis=1).mean()


@loss.mistake(
    "The loss is summed over the batch. Average over samples, or the learning rate depends on the batch size."
)
def sum_over_batch(x, x_hat, latents, lam):
    return ((x - x_hat) ** 2).sum() + lam * np.abs(latents).sum()


@loss.mistake(
    "The latents are averaged in the penalty; sum them. With a mean, twice as many latents would halve the penalty."
)
def mean_over_latents(x, x_hat, latents, lam):
    return ((x - x_hat) ** 2).sum(axis=1).mean() + lam * np.abs(latents).mean()


@loss.mistake("The penalty counts active latents (L0). A count has no gradient; use the L1 norm, their sum.")
def l0_for_l1(x, x_hat, latents, lam):
    return ((x - x_hat) ** 2).sum(axis=1).mean() + lam * (latents > 0).sum(axis=1).mean()


@loss.mistake("The penalty is the sum of squares (L2). Squares make latents small but not zero; use the L1 norm.")
def l2_for_l1(x, x_hat, latents, lam):
    return ((x - x_hat) ** 2).sum(axis=1).mean() + lam * (latents**2).sum(axis=1).mean()


@loss.mistake(
    "The penalty is the length of the latents (`np.linalg.norm` without `ord=1`), a root of squares. It makes no latent "
    "exactly zero; use the L1 norm, the sum."
)
def length_for_l1(x, x_hat, latents, lam):
    return ((x - x_hat) ** 2).sum(axis=1).mean() + lam * np.linalg.norm(latents, axis=1).mean()


@loss.mistake(
    "The squared error carries a factor 1/2. Some papers have it (their lam is then half of ours); here it has none."
)
def half_the_squared_error(x, x_hat, latents, lam):
    return 0.5 * ((x - x_hat) ** 2).sum(axis=1).mean() + lam * np.abs(latents).sum(axis=1).mean()


@loss.mistake("The error is not squared: that is the distance, or the absolute error.")
def error_not_squared(x, x_hat, latents, lam):
    return np.sqrt(((x - x_hat) ** 2).sum(axis=1)).mean() + lam * np.abs(latents).sum(axis=1).mean()


@loss.mistake("`lam` multiplies both terms.")
def lam_on_everything(x, x_hat, latents, lam):
    return lam * (((x - x_hat) ** 2).sum(axis=1).mean() + np.abs(latents).sum(axis=1).mean())


@loss.alternative
def sample_losses(x, x_hat, latents, lam):
    return sum(np.linalg.norm(a - b) ** 2 + lam * f.sum() for a, b, f in zip(x, x_hat, latents)) / len(x)


# ------------------------------------------------------------------------------------------- 04.4 the gradients

gradients = lesson.exercise(
    4,
    title="Every gradient by hand",
    answer="sae_gradients",
    reference=ns.sae_gradients,
    points=4,
    difficulty=4,
    importance=5,
    minutes=30,
    hints=(
        "Follow the derivation from the loss backwards: first by x_hat, then by the latents, then by the "
        "pre-activations, then by the parameters. "
        "Each gradient has the shape of the thing it belongs to.",
        "`d_x_hat = 2 * (x_hat - x) / batch`; `d_latents = d_x_hat @ W_dec.T + lam / batch`; the ReLU lets "
        "through only where latents > 0: "
        "`d_pre = d_latents * (latents > 0)`.",
        "`W_dec`: `latents.T @ d_x_hat`; `W_enc`: `(x - b_dec).T @ d_pre`; `b_enc`: `d_pre.sum(axis=0)`; "
        "`b_dec` lies on two paths: `d_x_hat.sum(axis=0) - d_pre.sum(axis=0) @ W_enc.T`.",
    ),
)


def _gradient_case(name: str, weight: float) -> None:
    @gradients.case(f"the gradient by {name}", weight=weight, rule=EXACT64)
    def _(f, draw):
        return f(some_params(draw), float64(draw, 9, 4), 0.8)[name]


for _name, _weight in (("W_dec", 1.0), ("b_enc", 1.0), ("W_enc", 1.5), ("b_dec", 1.5)):
    _gradient_case(_name, _weight)


@gradients.case("without a penalty (lam = 0)", rule=EXACT64)
def _(f, draw):
    return dict(f(some_params(draw), float64(draw, 5, 4), 0.0))


@gradients.case("a latent that never fires gets none", rule=EXACT64)
def _(f, draw):
    params = some_params(draw)
    dead = draw.lend(np.where(np.arange(7) == 3, -1e3, params["b_enc"]), numpy=True)
    grads = f({**params, "b_enc": dead}, float64(draw, 6, 4), 0.8)
    return {"W_enc": grads["W_enc"][:, 3], "b_enc": grads["b_enc"][3], "W_dec": grads["W_dec"][3]}


@gradients.mistake("The ReLU's mask is missing: latents at zero pass no gradient back. Multiply by (latents > 0).")
def relu_mask_missing(params, x, lam):
    return backward(params, x, lam, masked=False)


@gradients.mistake("The penalty reaches latents that are zero. Add lam / batch before the ReLU's mask, not after it.")
def penalty_on_inactive_latents(params, x, lam):
    return backward(params, x, lam, penalty_masked=False)


@gradients.mistake(
    "The L1 penalty is put on the weights, lam * sign(W_enc). It is a penalty on the latents and goes through "
    "them (see 04.11)."
)
def penalty_on_the_weights(params, x, lam):
    grads = backward(params, x)
    return {**grads, "W_enc": grads["W_enc"] + lam * np.sign(params["W_enc"])}


@gradients.mistake(
    "The same, divided by the batch size: lam * sign(W_enc) / N is a penalty on weights. The published script has "
    "this bug (see 04.11)."
)
def penalty_on_the_weights_averaged(params, x, lam):
    grads = backward(params, x)
    return {**grads, "W_enc": grads["W_enc"] + lam * np.sign(params["W_enc"]) / len(x)}


@gradients.mistake("The penalty's gradient is missing.")
def penalty_missing(params, x, lam):
    return backward(params, x)


@gradients.mistake("The factor 2 of the square is missing: d(e²)/de = 2e.")
def factor_two_missing(params, x, lam):
    return backward(params, x, lam, factor=1.0)


@gradients.mistake("The error's gradient is x - x_hat; the derivative of (x - x_hat)² by x_hat is 2 (x_hat - x).")
def error_sign_wrong(params, x, lam):
    return backward(params, x, lam, factor=-2.0)


@gradients.mistake("The loss averages over the batch, so its gradient carries 1 / batch. Yours is that of the sum.")
def not_averaged_over_the_batch(params, x, lam):
    return backward(params, x, lam, error_scale=1.0, penalty_scale=1.0)


@gradients.mistake(
    "The squared error is averaged over the batch, so its gradient is 2 (x_hat - x) / batch; your 1 / batch is missing."
)
def error_not_averaged(params, x, lam):
    return backward(params, x, lam, error_scale=1.0)


@gradients.mistake("The penalty is averaged over the batch too: its gradient is lam / batch for each active latent.")
def penalty_not_averaged(params, x, lam):
    return backward(params, x, lam, penalty_scale=1.0)


@gradients.mistake("The squared error is summed over dimensions, not averaged: there is no 1 / d_in in its gradient.")
def averaged_over_dimensions(params, x, lam):
    return backward(params, x, lam, error_scale=1 / x.size)


@gradients.mistake(
    "`b_dec` is used twice, and only one path is there: it is also subtracted before the encoder, which adds "
    "-sum(d_pre) W_enc^T."
)
def b_dec_one_path(params, x, lam):
    return backward(params, x, lam, both_paths=False)


@gradients.mistake("The encoder multiplies x - b_dec, so the gradient of W_enc is (x - b_dec)^T d_pre, not x^T d_pre.")
def b_dec_not_subtracted_in_W_enc(params, x, lam):
    return backward(params, x, lam, encoder_input=False)


@gradients.alternative
def outer_products(params, x, lam):
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    for row in x:
        z = row - params["b_dec"]
        f = np.maximum(z @ params["W_enc"] + params["b_enc"], 0)
        error = 2 * (f @ params["W_dec"] + params["b_dec"] - row)
        d_pre = np.where(f > 0, params["W_dec"] @ error + lam, 0)
        grads["W_enc"] += np.outer(z, d_pre) / len(x)
        grads["b_enc"] += d_pre / len(x)
        grads["W_dec"] += np.outer(f, error) / len(x)
        grads["b_dec"] += (error - params["W_enc"] @ d_pre) / len(x)
    return grads


@gradients.alternative
def by_autograd(params, x, lam):
    import torch

    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    data = torch.tensor(x)
    latents = torch.relu((data - leaves["b_dec"]) @ leaves["W_enc"] + leaves["b_enc"])
    x_hat = latents @ leaves["W_dec"] + leaves["b_dec"]
    (((data - x_hat) ** 2).sum(1).mean() + lam * latents.sum(1).mean()).backward()
    return {name: leaf.grad.numpy() for name, leaf in leaves.items()}


# ------------------------------------------------------------------------------------------------ 04.5 Adam

adam = lesson.exercise(
    5,
    title="Adam",
    answer="adam_step",
    reference=ns.adam_step,
    points=2,
    difficulty=2,
    importance=3,
    minutes=12,
    hints=(
        "Two running means for every parameter, of the gradient and of its square. Both start at zero, and that "
        "is what the correction is for.",
        "Count the step first: `step = state['step'] + 1`. Then `m = beta1 * m + (1 - beta1) * grad`, `v = beta2 "
        "* v + (1 - beta2) * grad ** 2`.",
        "`new = value - lr * (m / (1 - beta1 ** step)) / (np.sqrt(v / (1 - beta2 ** step)) + eps)`. Build new "
        "dicts; return "
        "`new_params, {'step': step, 'm': m, 'v': v}` with m and v as they are *before* the correction.",
    ),
)

BETAS = {"beta1": 0.8, "beta2": 0.95}


def adam_inputs(draw: Any, step: int) -> tuple[Params, Params, AdamState]:
    """Parameters, gradients and a state after `step` steps."""
    shapes = {"W": (3, 2), "b": (4,)}

    def draws(scale: float, positive: bool = False) -> Params:
        values = {name: scale * draw.rng.normal(size=shape) for name, shape in shapes.items()}
        values = {name: np.abs(value) if positive else value for name, value in values.items()}
        return {
            name: draw.lend(value if step or not positive else 0 * value, numpy=True) for name, value in values.items()
        }

    params, grads = draws(1.0), draws(0.5)
    m = draws(0.3) if step else {name: draw.lend(np.zeros(shape), numpy=True) for name, shape in shapes.items()}
    return params, grads, {"step": step, "m": m, "v": draws(0.2, positive=True)}


@adam.case("the parameters after the first step", rule=EXACT64)
def _(f, draw):
    return dict(f(*adam_inputs(draw, 0), lr=0.1, **BETAS)[0])


@adam.case("the parameters after a later step", rule=EXACT64)
def _(f, draw):
    return dict(f(*adam_inputs(draw, 6), lr=0.1, **BETAS)[0])


@adam.case("the new state: step, m and v", rule=EXACT64)
def _(f, draw):
    return dict(f(*adam_inputs(draw, 2), lr=0.1, **BETAS)[1])


@adam.case("five steps in a row", rule=EXACT64)
def _(f, draw):
    params, grads, state = adam_inputs(draw, 0)
    for _ in range(5):
        params, state = f(params, grads, state, lr=0.05, **BETAS)
        grads = {name: 0.7 * value - 0.1 for name, value in grads.items()}
    return dict(params)


@adam.case("eps keeps a parameter without gradients where it is", rule=EXACT64)
def _(f, draw):
    params, grads, state = adam_inputs(draw, 0)
    nothing = {name: draw.lend(np.zeros_like(value), numpy=True) for name, value in grads.items()}
    return dict(f(params, nothing, state, lr=0.1, **BETAS)[0])


@adam.case("the dicts that were passed in are left as they were", rule=Exact(), weight=0.5)
def _(f, draw):
    params, grads, state = adam_inputs(draw, 4)
    before = {"params": dict(params), "m": dict(state["m"]), "v": dict(state["v"])}
    f(params, grads, state, lr=0.1, **BETAS)
    after = {"params": params, "m": state["m"], "v": state["v"]}
    changed = [key for key in before if any(after[key].get(k) is not value for k, value in before[key].items())]
    return {"changed": ", ".join(changed) or "nothing", "step": int(state["step"])}


@adam.case("a large eps slows it down", rule=EXACT64, weight=0.5)
def _(f, draw):
    return dict(f(*adam_inputs(draw, 4), lr=0.1, **BETAS, eps=0.5)[0])


def _adam(
    params: Params,
    grads: Params,
    state: AdamState,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    *,
    correct: int | None = 0,
    inside: bool = False,
    root: bool = True,
    square: bool = True,
    count: bool = True,
    sign: int = 1,
    keep_corrected: bool = False,
) -> tuple[Params, AdamState]:
    step = state["step"] + 1
    m = {k: beta1 * state["m"][k] + (1 - beta1) * grads[k] for k in params}
    v = {k: beta2 * state["v"][k] + (1 - beta2) * (grads[k] ** 2 if square else np.abs(grads[k])) for k in params}
    at = step if correct == 0 else state["step"]
    m_hat = {k: m[k] / (1 - beta1**at) if correct is not None else m[k] for k in params}
    v_hat = {k: v[k] / (1 - beta2**at) if correct is not None else v[k] for k in params}
    new = {}
    for k in params:
        below = np.sqrt(v_hat[k] + eps) if inside else (np.sqrt(v_hat[k]) if root else v_hat[k]) + eps
        new[k] = params[k] - sign * lr * m_hat[k] / below
    kept = (m_hat, v_hat) if keep_corrected else (m, v)
    return new, {"step": step if count else state["step"], "m": kept[0], "v": kept[1]}


@adam.mistake(
    "The bias correction is missing. m and v start at zero and are far too small at first, each by another factor."
)
def no_bias_correction(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return _adam(params, grads, state, lr, beta1, beta2, eps, correct=None)


@adam.mistake(
    "The correction uses the step before it is counted: at the first step that divides by 1 - beta**0 = 0. Count first."
)
def step_counted_too_late(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return _adam(params, grads, state, lr, beta1, beta2, eps, correct=1)


@adam.mistake("`step` is not counted up in the state you return, so every step is corrected as if it were the first.")
def step_not_counted(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return _adam(params, grads, state, lr, beta1, beta2, eps, count=False)


@adam.mistake("eps belongs outside the square root: sqrt(v_hat) + eps, not sqrt(v_hat + eps).")
def eps_inside_the_root(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return _adam(params, grads, state, lr, beta1, beta2, eps, inside=True)


@adam.mistake("The square root of v_hat is missing: Adam divides by the size of recent gradients, not by its square.")
def no_square_root(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return _adam(params, grads, state, lr, beta1, beta2, eps, root=False)


@adam.mistake("v is the running mean of the gradient's square; yours does not square it.")
def gradient_not_squared(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return _adam(params, grads, state, lr, beta1, beta2, eps, square=False)


@adam.mistake("The step goes uphill: subtract it.")
def uphill(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return _adam(params, grads, state, lr, beta1, beta2, eps, sign=-1)


@adam.mistake("beta1 and beta2 are exchanged: beta1 belongs to m, beta2 to v.")
def betas_exchanged(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return _adam(params, grads, state, lr, beta2, beta1, eps)


@adam.mistake(
    "The state keeps m and v after their correction, so the next step corrects them again. Keep them as they were "
    "before it."
)
def corrected_means_kept(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return _adam(params, grads, state, lr, beta1, beta2, eps, keep_corrected=True)


@adam.mistake(
    "The right step, but written into the dicts that were passed in: the caller's parameters and state change under it. "
    "Build new dicts."
)
def written_into_the_dicts(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    new, moved = _adam(params, grads, state, lr, beta1, beta2, eps)
    params.update(new)
    state.update(moved)
    return params, state


@adam.alternative
def one_factor_for_both_corrections(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    t = state["step"] + 1
    new: AdamState = {"step": t, "m": {}, "v": {}}
    moved = {}
    for name in params:
        new["m"][name] = state["m"][name] + (1 - beta1) * (grads[name] - state["m"][name])
        new["v"][name] = state["v"][name] + (1 - beta2) * (np.square(grads[name]) - state["v"][name])
        root = np.sqrt(1 - beta2**t)
        size = lr * root / (1 - beta1**t)
        moved[name] = params[name] - size * new["m"][name] / (np.sqrt(new["v"][name]) + eps * root)
    return moved, new


# --------------------------------------------------------------------------------------- 04.6 the decoder's norm

norm = lesson.exercise(
    6,
    title="A decoder of unit length",
    answer="normalise_decoder",
    reference=ns.normalise_decoder,
    points=2,
    difficulty=2,
    importance=4,
    minutes=10,
    hints=(
        "A latent's direction is a *row* of `W_dec`. First give every row length 1, then look at the gradient row "
        "by row.",
        "The part of a vector g along a unit vector u is (g · u) u. Take it away from g.",
        "`length = np.linalg.norm(W_dec, axis=1, keepdims=True)`; `rows = W_dec / np.where(length > 0, length, 1)`; "
        "`return rows, grad - (grad * rows).sum(axis=1, keepdims=True) * rows`.",
    ),
)


@norm.case("every row has length 1", rule=EXACT64)
def _(f, draw):
    return f(float64(draw, 5, 3, std=2.0), float64(draw, 5, 3))[0]


@norm.case("rows shorter than 1 too", rule=EXACT64, weight=0.5)
def _(f, draw):
    return f(float64(draw, 5, 3, std=0.1), float64(draw, 5, 3))[0]


@norm.case("the gradient across each row", rule=EXACT64, weight=1.5)
def _(f, draw):
    return f(float64(draw, 5, 3, std=2.0), float64(draw, 5, 3))[1]


@norm.case("the gradient, where the rows have length 1 already", rule=EXACT64, weight=0.5)
def _(f, draw):
    return f(draw.lend(ns.random_directions(draw.rng, 5, 3), numpy=True), float64(draw, 5, 3))[1]


@norm.case("a row of zeros stays zero", rule=EXACT64, weight=0.5)
def _(f, draw):
    W_dec = draw.lend(draw.rng.normal(size=(4, 3)) * np.array([1, 0, 1, 1])[:, None], numpy=True)
    return f(W_dec, float64(draw, 4, 3))[0]


@norm.mistake(
    "Columns are normalised. A latent's direction is a row of `W_dec [d_sae, d_in]`: take the norm over axis 1."
)
def columns_normalised(W_dec, grad):
    columns = W_dec / np.linalg.norm(W_dec, axis=0, keepdims=True)
    return columns, grad - (grad * columns).sum(axis=0, keepdims=True) * columns


@norm.mistake("The whole matrix is divided by one number. Each row has its own length.")
def one_norm_for_all(W_dec, grad):
    rows = W_dec / np.linalg.norm(W_dec)
    return rows, grad - (grad * rows).sum(axis=1, keepdims=True) * rows


@norm.mistake("The gradient comes back unchanged: its part along each row has to go.")
def gradient_left_alone(W_dec, grad):
    return ns.normalise_decoder(W_dec, grad)[0], grad.copy()


@norm.mistake("You kept the part of the gradient along the row; that is the part to take away.")
def kept_the_parallel_part(W_dec, grad):
    rows, across = ns.normalise_decoder(W_dec, grad)
    return rows, grad - across


@norm.mistake(
    "The gradient is projected with rows that do not have length 1 yet: (g · w) w is too large by |w|². Use the "
    "unit rows."
)
def projected_along_long_rows(W_dec, grad):
    rows, _ = ns.normalise_decoder(W_dec, grad)
    return rows, grad - (grad * W_dec).sum(axis=1, keepdims=True) * W_dec


@norm.mistake(
    "Only rows longer than 1 are shortened. That is the constraint of classical dictionary learning; here short "
    "rows grow to 1 too."
)
def only_long_rows_shortened(W_dec, grad):
    return W_dec / np.maximum(np.linalg.norm(W_dec, axis=1, keepdims=True), 1), ns.normalise_decoder(W_dec, grad)[1]


@norm.mistake("A row of zeros gives NaN: 0 / 0. Divide by 1 where the length is 0.")
def nan_on_a_zero_row(W_dec, grad):
    rows = W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True)
    return rows, grad - (grad * rows).sum(axis=1, keepdims=True) * rows


@norm.alternative
def with_einsum(W_dec, grad):
    rows = W_dec / np.maximum(np.sqrt(np.einsum("ij,ij->i", W_dec, W_dec)), 1e-12)[:, None]
    return rows, grad - np.einsum("i,ij->ij", np.einsum("ij,ij->i", rows, grad), rows)


# ------------------------------------------------------------------------------------------------------ 04.7 TopK

topk = lesson.exercise(
    7,
    title="TopK, forward and backward",
    answer="topk_forward_backward",
    reference=ns.topk_forward_backward,
    points=3,
    difficulty=3,
    importance=4,
    minutes=15,
    hints=(
        "Forward: keep the k largest pre-activations of each sample, set the rest to zero, then the ReLU. "
        "Backward: as in 04.4, with lam = 0; "
        "which latents pass gradients is now decided by what was kept.",
        "`np.argsort(pre, axis=1)[:, -k:]` (or `argpartition`) are the places of the k largest; "
        "`np.put_along_axis` writes a mask there.",
        "`mask = np.zeros(pre.shape, bool); np.put_along_axis(mask, pre.argsort(axis=1)[:, -k:], True, axis=1)`; "
        "`latents = np.maximum(pre, 0) * mask`. "
        "In the backward pass `d_pre = (d_x_hat @ W_dec.T) * (latents > 0)`; the four gradients are those of 04.4.",
    ),
)


@topk.case("the latents, k = 3", rule=EXACT64)
def _(f, draw):
    return f(some_params(draw), float64(draw, 9, 4), 3)[0]


@topk.case("the latents where fewer than k are positive", rule=EXACT64)
def _(f, draw):
    params = some_params(draw)
    low = draw.lend(params["b_enc"] - 2.5, numpy=True)
    return f({**params, "b_enc": low}, float64(draw, 9, 4), 4)[0]


@topk.case("the latents, k = 1", rule=EXACT64, weight=0.5)
def _(f, draw):
    return f(some_params(draw), float64(draw, 6, 4), 1)[0]


@topk.case("the reconstruction", rule=EXACT64)
def _(f, draw):
    return f(some_params(draw), float64(draw, 9, 4), 3)[1]


@topk.case("the gradients by W_dec and b_enc", rule=EXACT64)
def _(f, draw):
    grads = f(some_params(draw), float64(draw, 9, 4), 3)[2]
    return {name: grads[name] for name in ("W_dec", "b_enc")}


@topk.case("the gradients by W_enc and b_dec", rule=EXACT64)
def _(f, draw):
    grads = f(some_params(draw), float64(draw, 9, 4), 2)[2]
    return {name: grads[name] for name in ("W_enc", "b_dec")}


def _with_latents(params: Params, x: Array, latents: Array, grads: Params | None = None) -> tuple[Array, Array, Params]:
    x_hat = latents @ params["W_dec"] + params["b_dec"]
    return latents, x_hat, backward(params, x, latents=latents) if grads is None else grads


def _kept(pre: Array, order: Array, k: int) -> Array:
    latents = np.zeros_like(pre)
    places = np.argsort(order, axis=1)[:, -k:]
    np.put_along_axis(latents, places, np.take_along_axis(pre, places, axis=1), axis=1)
    return latents


@topk.mistake(
    "The ReLU after TopK is missing: where fewer than k pre-activations are positive, negative ones are kept."
)
def relu_missing_after_topk(params, x, k):
    pre = _pre(params, x)
    latents = _kept(pre, pre, k)
    x_hat = latents @ params["W_dec"] + params["b_dec"]
    d_x_hat = 2 * (x_hat - x) / len(x)
    d_pre = (d_x_hat @ params["W_dec"].T) * (latents != 0)
    return latents, x_hat, {
        "W_enc": (x - params["b_dec"]).T @ d_pre,
        "b_enc": d_pre.sum(axis=0),
        "W_dec": latents.T @ d_x_hat,
        "b_dec": d_x_hat.sum(axis=0) - d_pre.sum(axis=0) @ params["W_enc"].T,
    }  # fmt: skip


@topk.mistake(
    "The k largest by absolute value are chosen: strongly negative pre-activations push positive ones out, and "
    "then the ReLU removes them."
)
def topk_by_absolute_value(params, x, k):
    pre = _pre(params, x)
    return _with_latents(params, x, np.maximum(_kept(pre, np.abs(pre), k), 0))


@topk.mistake("The k largest of every *latent* over the batch are kept. Choose within each sample: axis 1.")
def topk_along_the_batch(params, x, k):
    pre = _pre(params, x)
    return _with_latents(params, x, np.maximum(_kept(pre.T, pre.T, k).T, 0))


@topk.mistake(
    "The batch-size times k largest of the whole batch are kept. That is BatchTopK (lesson 05); here each sample "
    "keeps k."
)
def batch_topk(params, x, k):
    pre = _pre(params, x)
    threshold = np.sort(pre.ravel())[-k * len(x)]
    return _with_latents(params, x, np.maximum(pre, 0) * (pre >= threshold))


@topk.mistake("The k smallest are kept: sorting is ascending, the largest are at the end.")
def k_smallest(params, x, k):
    pre = _pre(params, x)
    return _with_latents(params, x, np.maximum(_kept(pre, -pre, k), 0))


@topk.mistake("One too few is kept: compare with the k-th largest by >=, not by >.")
def one_too_few(params, x, k):
    pre = _pre(params, x)
    threshold = np.sort(pre, axis=1)[:, [-k]]
    return _with_latents(params, x, np.maximum(pre, 0) * (pre > threshold))


@topk.mistake(
    "The gradient flows through every positive pre-activation. Only latents that were kept took part in the "
    "reconstruction."
)
def gradient_through_all_positive(params, x, k):
    latents, _ = ns.topk_forward(params, x, k)
    pre = _pre(params, x)
    d_x_hat = 2 * (latents @ params["W_dec"] + params["b_dec"] - x) / len(x)
    d_pre = (d_x_hat @ params["W_dec"].T) * (pre > 0)
    grads = {
        "W_enc": (x - params["b_dec"]).T @ d_pre,
        "b_enc": d_pre.sum(axis=0),
        "W_dec": latents.T @ d_x_hat,
        "b_dec": d_x_hat.sum(axis=0) - d_pre.sum(axis=0) @ params["W_enc"].T,
    }
    return _with_latents(params, x, latents, grads)


@topk.mistake("`b_dec` is not subtracted before the encoder.")
def b_dec_not_subtracted_topk(params, x, k):
    centred = params | {"b_enc": params["b_enc"] + params["b_dec"] @ params["W_enc"]}
    latents, _ = ns.topk_forward(centred, x, k)
    return _with_latents(
        params, x, latents, backward(params, x, latents=latents, encoder_input=False, both_paths=False)
    )


@topk.mistake("`b_dec` is used twice, and only its decoder path is in the gradient (as in 04.4).")
def b_dec_one_path_topk(params, x, k):
    latents, _ = ns.topk_forward(params, x, k)
    return _with_latents(params, x, latents, backward(params, x, latents=latents, both_paths=False))


@topk.alternative
def by_threshold(params, x, k):
    pre = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]
    threshold = -np.sort(-pre, axis=1)[:, k - 1 : k]
    support = (pre >= threshold) & (pre > 0)
    latents = np.where(support, pre, 0)
    x_hat = latents @ params["W_dec"] + params["b_dec"]
    error = (2 / x.shape[0]) * (x_hat - x)
    back = np.where(support, error @ params["W_dec"].T, 0)
    return latents, x_hat, {
        "b_dec": (error - back @ params["W_enc"].T).sum(axis=0),
        "W_dec": np.einsum("bj,bi->ji", latents, error),
        "b_enc": back.sum(axis=0),
        "W_enc": np.einsum("bi,bj->ij", x - params["b_dec"], back),
    }  # fmt: skip


# --------------------------------------------------------------------------------------------- 04.8 resampling

resample = lesson.exercise(
    8,
    title="Resampling dead latents",
    answer="resample_dead_latents",
    reference=ns.resample_dead_latents,
    points=3,
    difficulty=4,
    importance=3,
    minutes=20,
    hints=(
        "Find the dead ones; compute each sample's residual and loss; draw one sample for each dead latent; write "
        "the three parameters and forget Adam's means. Work on copies.",
        "Dead: `~fired.any(axis=0)`. Squared loss as a probability: `weight = ((x - x_hat) ** 2).sum(axis=1) ** "
        "2`, then `weight / weight.sum()`, "
        "and `rng.choice(len(x), size=n_dead, p=weight)`.",
        "`direction = residual[chosen] / norm`; `W_dec[dead] = direction`; `W_enc[:, dead] = 0.2 * "
        "np.linalg.norm(W_enc[:, alive], axis=0).mean() * direction.T`; `b_enc[dead] = 0`; "
        "for both `m` and `v`: `W_dec[dead] = 0`, `W_enc[:, dead] = 0`, `b_enc[dead] = 0`.",
    ),
)

DEAD = [1, 4, 5]


def resample_inputs(draw: Any, n_samples: int = 60) -> tuple[Any, ...]:
    """rng, params, state, x, latents, fired: 8 latents, of which 1, 4 and 5 never fire and 2 fires only sometimes."""
    params = some_params(draw, 5, 8)
    state: AdamState = {
        "step": 9,
        "m": {name: float64(draw, *value.shape, mean=2.0) for name, value in params.items()},
        "v": {name: float64(draw, *value.shape, mean=9.0) for name, value in params.items()},
    }
    x = float64(draw, n_samples, 5, mean=0.5)
    fired = np.ones((6, 8), dtype=bool)
    fired[:, DEAD] = False
    fired[1:, 2] = False
    fired[0, 6] = False
    latents = np.maximum(_pre(params, x), 0)
    latents[:, DEAD] = 0
    return draw.rng, params, state, x, draw.lend(latents, numpy=True), draw.lend(fired, numpy=True)


def residual_directions(params: Params, x: Array, latents: Array) -> Array:
    residual = x - latents @ params["W_dec"] - params["b_dec"]
    return residual / np.linalg.norm(residual, axis=1, keepdims=True)


@resample.case("which latents get a new direction", rule=Exact())
def _(f, draw):
    inputs = resample_inputs(draw)
    new = f(*inputs)[0]
    return [int(changed) for changed in (np.abs(new["W_dec"] - inputs[1]["W_dec"]) > 1e-9).any(axis=1)]


def along(rows: Array, params: Params, x: Array, latents: Array) -> str:
    """What the rows point along, in words: which sample was drawn does not matter, so mistakes are recognised."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    candidates = {
        "x - x_hat": residual_directions(params, x, latents),
        "x": x / np.linalg.norm(x, axis=1, keepdims=True),
        "x - b_dec": (x - params["b_dec"]) / np.linalg.norm(x - params["b_dec"], axis=1, keepdims=True),
    }
    for name, directions in candidates.items():
        if np.allclose((unit @ directions.T).max(axis=1), 1, atol=1e-5):
            return f"{name} of a sample"
    return "something else"


@resample.case(
    "the new decoder rows: unit vectors along some sample's residual",
    rule={"direction": Exact(), "lengths are 1": Exact()},
)
def _(f, draw):
    inputs = resample_inputs(draw)
    rows = np.asarray(f(*inputs)[0]["W_dec"], dtype=float)[DEAD]
    return {
        "direction": along(rows, inputs[1], inputs[3], inputs[4]),
        "lengths are 1": bool(np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)),
    }


@resample.case("the new encoder columns: the same direction, 0.2 times the living columns' mean length", rule=EXACT64)
def _(f, draw):
    new = f(*resample_inputs(draw))[0]
    columns, rows = np.asarray(new["W_enc"])[:, DEAD].T, np.asarray(new["W_dec"])[DEAD]
    lengths = np.linalg.norm(columns, axis=1)
    return {
        "length": lengths,
        "cosine with the decoder row": (columns * rows).sum(1) / lengths / np.linalg.norm(rows, axis=1),
    }


@resample.case("the revived latents' biases", rule=EXACT64, weight=0.5)
def _(f, draw):
    return np.asarray(f(*resample_inputs(draw))[0]["b_enc"])[DEAD]


def touched(new: Params, old: Params) -> dict[str, str]:
    """The latents whose part of each parameter is another than before."""
    changed = {name: np.abs(np.asarray(new[name]) - old[name]) > 1e-7 for name in old}
    by_latent = {name: changed[name].any(axis=0) if name == "W_enc" else changed[name] for name in ("W_enc", "b_enc")}
    by_latent["W_dec"] = changed["W_dec"].any(axis=1)
    told = {name: " ".join(str(j) for j in np.flatnonzero(where)) or "none" for name, where in by_latent.items()}
    return told | {"b_dec": "changed" if changed["b_dec"].any() else "as it was"}


@resample.case("the living latents and b_dec stay as they are", rule=Exact(), weight=0.5)
def _(f, draw):
    inputs = resample_inputs(draw)
    old, moments = inputs[1], inputs[2]
    new, state = f(*inputs)
    living = [j for j in range(8) if j not in DEAD]
    kept = {
        name: (value[:, living] if name == "W_enc" else value[living]) for name, value in old.items() if name != "b_dec"
    }
    now = {name: (new[name][:, living] if name == "W_enc" else new[name][living]) for name in kept}
    names = {str(i): str(j) for i, j in enumerate(living)}
    told = touched({**now, "b_dec": new["b_dec"]}, {**kept, "b_dec": old["b_dec"]})
    told = {
        f"living latents changed in {k}" if k != "b_dec" else k: " ".join(
            names.get(word, word) for word in text.split()
        )
        for k, text in told.items()
    }
    kept_by_adam = {
        f"Adam's {key} of living latents kept": bool(
            np.allclose(state[key]["W_dec"][living], moments[key]["W_dec"][living])
        )
        for key in ("m", "v")
    }
    return told | kept_by_adam | {"Adam's step": state.get("step", "missing")}


@resample.case("what was passed in is left as it was", rule=Exact(), weight=0.5)
def _(f, draw):
    inputs = resample_inputs(draw)
    params, state = inputs[1], inputs[2]
    before = {"params": dict(params), "m": dict(state["m"]), "v": dict(state["v"])}
    f(*inputs)
    after = {"params": params, "m": state["m"], "v": state["v"]}
    return ", ".join(k for k in before if any(after[k][n] is not v for n, v in before[k].items())) or "nothing changed"


@resample.case("Adam forgets the revived latents", rule=EXACT64)
def _(f, draw):
    state = f(*resample_inputs(draw))[1]
    seen = {f"{key} of {name}": state[key][name][DEAD] for key in ("m", "v") for name in ("W_dec", "b_enc")}
    return seen | {f"{key} of W_enc": state[key]["W_enc"][:, DEAD] for key in ("m", "v")}


REVIVALS, REVIVED = 40, 50


@resample.case(
    "drawn with probability proportional to the squared loss, one for each latent",
    weight=1.5,
    # 2000 draws with a share near 0.9: standard error 0.0067; 5 * sqrt(2) of those
    rule={
        "share of high-loss samples": Close(0.0, 0.048),
        "another call draws anew": Exact(),
        "*": Between(low=0.5),
    },
)
def _(f, draw):
    d_in, n = 6, 500
    d_sae = REVIVED + 2
    x = ns.random_directions(draw.rng, n, d_in) * np.where(np.arange(n) < n // 2, np.sqrt(3.0), 1.0)[:, None]
    params = {
        "W_enc": draw.rng.normal(size=(d_in, d_sae)),
        "b_enc": np.zeros(d_sae),
        "W_dec": ns.random_directions(draw.rng, d_sae, d_in),
        "b_dec": np.zeros(d_in),
    }
    fired = np.zeros((4, d_sae), dtype=bool)
    fired[:, REVIVED:] = True
    high, different, first = [], [], []
    for _ in range(REVIVALS):
        new, _ = f(draw.rng, params, ns.adam_state(params), x, np.zeros((n, d_sae)), fired)
        chosen = (np.asarray(new["W_dec"])[:REVIVED] @ x.T / np.linalg.norm(x, axis=1)).argmax(axis=1)
        high.append((chosen < n // 2).mean())
        different.append(len(set(chosen.tolist())) / REVIVED)
        first.append(int(chosen[0]))
    own = np.mean(different) >= 0.5
    return {
        "share of different samples in one call": np.mean(different),
        "another call draws anew": len(set(first)) > 1,
        # one sample for all makes the share a matter of luck: nothing to be told from it
        "share of high-loss samples": np.mean(high) if own else 0.0,
    }


@resample.case("when no latent is dead nothing changes", rule=Exact(), weight=0.5)
def _(f, draw):
    rng, params, state, x, latents, fired = resample_inputs(draw)
    new = f(rng, params, state, x, latents, draw.lend(np.ones_like(fired), numpy=True))[0]
    return {f"latents changed in {k}" if k != "b_dec" else k: v for k, v in touched(new, params).items()}


def _revive(
    rng: np.random.Generator,
    params: Params,
    state: AdamState,
    x: Array,
    latents: Array,
    fired: Array,
    *,
    dead: Any = None,
    power: float = 2.0,
    pick: str = "sample",
    target: str = "residual",
    scale: float | None = 0.2,
    all_columns: bool = False,
    in_place: bool = False,
    forget: bool = True,
    bias: bool = True,
    encoder: bool = True,
    clear_all_of: tuple[str, ...] = (),
) -> tuple[Params, AdamState]:
    """Resampling with switches for what can go wrong. Only known mistakes use it."""
    dead = np.flatnonzero(~fired.any(axis=0) if dead is None else dead(fired))
    given = params, state
    params = {name: value.copy() for name, value in params.items()}
    m, v = ({name: value.copy() for name, value in state[key].items()} for key in ("m", "v"))
    if len(dead):
        residual = x - ns.decode(params, latents)
        weight = (residual**2).sum(axis=1) ** power
        if pick == "argmax":
            chosen = np.argsort(-weight, kind="stable")[: len(dead)]
        else:
            chosen = rng.choice(len(x), size=len(dead), p=weight / weight.sum())
        if pick == "one":
            chosen[:] = chosen[0]
        if pick == "worst":
            chosen[:] = weight.argmax()
        targets = {"residual": residual, "long": residual, "input": x, "centred": x - params["b_dec"]}
        direction = targets[target][chosen]
        if target != "long":
            direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        alive = np.arange(fired.shape[1]) if all_columns else np.setdiff1d(np.arange(fired.shape[1]), dead)
        length = np.linalg.norm(params["W_enc"][:, alive], axis=0).mean() if len(alive) else 1.0
        params["W_dec"][dead] = direction
        if encoder:
            params["W_enc"][:, dead] = (scale * length if scale is not None else 1.0) * direction.T
        if bias:
            params["b_enc"][dead] = 0
        for moments in (m, v) if forget else ():
            moments["W_dec"][dead] = 0
            moments["W_enc"][:, dead] = 0
            moments["b_enc"][dead] = 0
    for key in clear_all_of:
        for values in {"m": m, "v": v}[key].values():
            values[:] = 0
    if in_place:
        given[0].update(params)
        given[1]["m"], given[1]["v"] = m, v
        return given
    return params, {"step": state["step"], "m": m, "v": v}


@resample.mistake(
    "A latent that was quiet at *any* step counts as dead. Sparse latents are quiet often: dead means never fired "
    "in the whole window."
)
def dead_at_any_step(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, dead=lambda seen: ~seen.all(axis=0))


@resample.mistake("Only the last step of the window is looked at. Dead means never fired in the whole window.")
def dead_at_the_last_step(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, dead=lambda seen: ~seen[-1])


@resample.mistake("The living latents are replaced and the dead ones kept.")
def living_and_dead_exchanged(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, dead=lambda seen: seen.any(axis=0))


@resample.mistake("All dead latents get the same sample. They would compete for one feature; draw one for each.")
def one_sample_for_all(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, pick="one")


@resample.mistake(
    "The samples of largest loss are taken. Those are often near copies of one another, or outliers: draw at "
    "random, with probability proportional to the squared loss."
)
def argmax_instead_of_sampling(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, pick="argmax")


@resample.mistake(
    "Samples are drawn uniformly. Badly reconstructed samples should come up more often: probability proportional "
    "to the squared loss."
)
def drawn_uniformly(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, power=0.0)


@resample.mistake(
    "The probability is proportional to the loss, not to its square: the squared error of a sample is its loss, "
    "and that is squared once more."
)
def loss_not_squared(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, power=1.0)


@resample.mistake(
    "The new direction is the sample itself. Use its residual x - x_hat, which is what the dictionary still lacks."
)
def input_for_residual(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, target="input")


@resample.mistake(
    "The new direction is the sample less `b_dec`, as in some recipes (and in lesson 05). Here it is the residual "
    "x - x_hat, which is what the dictionary still lacks."
)
def centred_input_for_residual(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, target="centred")


@resample.mistake(
    "The one worst sample is given to all dead latents. They would be copies of each other, of an outlier: draw one "
    "for each, with probability proportional to the squared loss."
)
def worst_sample_for_all(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, pick="worst")


@resample.mistake(
    "The mean length is taken over all encoder columns, the dead ones too. Only living columns say how long one should be."
)
def dead_columns_in_the_mean(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, all_columns=True)


@resample.mistake(
    "Dead is read off `latents`, the pool's own activations. `fired`, the window of training steps, decides: a latent "
    "may be silent on this pool and alive."
)
def dead_on_the_pool(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, dead=lambda seen: ~(latents > 0).any(axis=0))


@resample.mistake(
    "The right values, but written into the dicts that were passed in: the caller's parameters change under it. "
    "Work on copies."
)
def written_into_what_was_passed(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, in_place=True)


@resample.mistake("The new decoder row does not have length 1.")
def row_not_normalised(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, target="long")


@resample.mistake(
    "Adam's moments are left: what its dead predecessor did still scales (and, after a short window, pushes) the fresh "
    "latent's first steps. Set `m` and `v` to 0 at its places in `W_enc`, `b_enc` and `W_dec`."
)
def adam_remembers(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, forget=False)


@resample.mistake(
    "All of `v` is cleared, the living latents' too. The divisor of their steps is gone, and each would jump: only the "
    "places of dead latents are to be set to 0."
)
def all_of_v_cleared(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, clear_all_of=("v",))


@resample.mistake(
    "Adam's whole memory is cleared, the living latents' too. Only the places of dead latents are to be set to 0."
)
def all_moments_cleared(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, clear_all_of=("m", "v"))


@resample.mistake(
    "The new state has no `step`, and the next `adam_step` needs it for its bias correction: "
    '`{"step": state["step"], "m": ..., "v": ...}`.'
)
def step_lost(rng, params, state, x, latents, fired):
    params, state = _revive(rng, params, state, x, latents, fired)
    return params, {key: value for key, value in state.items() if key != "step"}


@resample.mistake(
    "`step` starts again at 0, but the living latents' means are those of many steps: the bias correction would make "
    "their next steps wrong. Keep `step` as it is."
)
def step_reset(rng, params, state, x, latents, fired):
    params, state = _revive(rng, params, state, x, latents, fired)
    return params, {**state, "step": 0}


@resample.mistake("The old bias is kept. It is usually what killed the latent: set it to 0.")
def bias_kept(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, bias=False)


@resample.mistake(
    "The new encoder column is a unit vector, far louder than its neighbours. Scale it to 0.2 times the mean "
    "length of the living columns."
)
def encoder_at_full_length(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, scale=None)


@resample.mistake("The encoder column stays as it was, so the latent keeps looking for what it never found.")
def encoder_left_alone(rng, params, state, x, latents, fired):
    return _revive(rng, params, state, x, latents, fired, encoder=False)


@resample.alternative
def one_latent_at_a_time(rng, params, state, x, latents, fired):
    import copy

    params, state = copy.deepcopy(params), copy.deepcopy(state)
    alive = fired.sum(axis=0) > 0
    if alive.all():
        return params, state
    error = x - (latents @ params["W_dec"] + params["b_dec"])
    squared_loss = np.square(np.square(error).sum(axis=-1))
    cumulative = np.cumsum(squared_loss) / squared_loss.sum()
    length = 0.2 * np.mean([np.linalg.norm(column) for column in params["W_enc"].T[alive]])
    for j in np.where(~alive)[0]:
        row = error[min(np.searchsorted(cumulative, rng.random()), len(x) - 1)]
        params["W_dec"][j] = row / np.sqrt(row @ row)
        params["W_enc"][:, j] = params["W_dec"][j] * length
        params["b_enc"][j] = 0.0
        for moment in (state["m"], state["v"]):
            moment["W_dec"][j] = moment["b_enc"][j] = moment["W_enc"][:, j] = 0.0
    return params, state


# ----------------------------------------------------------------------------------------------- 04.9 matching

match = lesson.exercise(
    9,
    title="Which latent is which feature?",
    answer="match_features",
    reference=ns.match_features,
    points=3,
    difficulty=3,
    importance=5,
    minutes=15,
    hints=(
        "Normalise both sets of rows, then one matrix product gives all cosines. A latent may stand for one "
        "feature only.",
        "`scipy.optimize.linear_sum_assignment(cost)` finds the pairing of lowest total cost: use minus the "
        "cosines. It returns row and column indices.",
        "`rows, columns = linear_sum_assignment(-cosines)`; fill `assignment = np.full(n, -1)` and `cosine = "
        "np.zeros(n)` at `rows`; "
        "`mean_max_cosine = cosines.max(axis=1).mean()`; `fraction_recovered = (cosine > threshold).mean()`.",
    ),
)


def crowded(draw: Any, n: int = 7, d_sae: int = 10, d: int = 3) -> tuple[Array, Array]:
    """A dictionary and directions in so few dimensions that rows are wanted by several directions; rows of many lengths."""
    directions = draw.lend(ns.random_directions(draw.rng, n, d), numpy=True)
    rows = ns.random_directions(draw.rng, d_sae, d) * draw.rng.uniform(0.2, 4.0, size=(d_sae, 1))
    return draw.lend(rows, numpy=True), directions


def contested(draw: Any) -> tuple[Array, Array]:
    """Pairs of directions where the greedy choice costs the partner more than it gains, and one row points the wrong way."""
    eye = np.eye(6)
    W_dec = [
        0.9 * eye[0] + 0.05 * eye[1], 0.92 * eye[0] + 0.38 * eye[1],
        0.93 * eye[2] + 0.1 * eye[3], 0.95 * eye[2] + 0.3 * eye[3],
        -1.0 * eye[4], 0.4 * eye[4] + 0.9 * eye[5], 0.91 * eye[5] + 0.1 * eye[0],
    ]  # fmt: skip
    W_dec = np.stack(W_dec) + 0.01 * draw.rng.normal(size=(7, 6))
    order = draw.rng.permutation(7)
    lengths = np.array([0.5, 2.0, 3.0, 0.3, 5.0, 1.0, 1.0])[:, None]
    return draw.lend((lengths * W_dec)[order], numpy=True), draw.lend(eye[draw.rng.permutation(6)], numpy=True)


@match.case("the assignment", rule=Exact())
def _(f, draw):
    return np.asarray(f(*contested(draw))[0])


@match.case("the cosine of each direction with its own latent", rule=EXACT64)
def _(f, draw):
    return {"contested": f(*contested(draw))[1], "crowded": f(*crowded(draw))[1]}


@match.case("the mean max cosine", rule=EXACT64)
def _(f, draw):
    return {"contested": float(f(*contested(draw))[2]), "crowded": float(f(*crowded(draw))[2])}


@match.case("the fraction recovered", rule=EXACT64)
def _(f, draw):
    return {"0.9": float(f(*contested(draw))[3]), "0.7": float(f(*crowded(draw, 12, 12), 0.7)[3])}


@match.case("fewer latents than directions: the others get -1 and cosine 0", rule=EXACT64, weight=0.5)
def _(f, draw):
    assignment, cosine, _, fraction = f(*crowded(draw, 8, 3, 5))
    return {"unmatched": (np.asarray(assignment) == -1).astype(int), "cosine": cosine, "fraction": float(fraction)}


@match.case("a dead latent (a row of zeros)", rule=EXACT64, weight=0.5)
def _(f, draw):
    W_dec, directions = crowded(draw, 4, 9, 5)
    W_dec = draw.lend(W_dec * (np.arange(9) != 2)[:, None], numpy=True)
    return f(W_dec, directions)[1:]


def _cosines(W_dec: Array, directions: Array) -> Array:
    return ns.cosine_similarities(W_dec, directions)


def _result(cosines: Array, assignment: Array, threshold: float) -> tuple[Array, Array, float, float]:
    own = np.where(assignment >= 0, cosines[np.arange(len(cosines)), assignment], 0)
    return assignment, own, float(cosines.max(axis=1).mean()), float((own > threshold).mean())


def _hungarian(cosines: Array) -> Array:
    rows, columns = linear_sum_assignment(-cosines)
    assignment = np.full(len(cosines), -1)
    assignment[rows] = columns
    return assignment


@match.mistake(
    "Each direction takes its best latent, even one that another direction has taken. One latent would then count "
    "as several features: match one to one."
)
def best_latent_for_each(W_dec, directions, threshold=0.9):
    cosines = _cosines(W_dec, directions)
    return _result(cosines, cosines.argmax(axis=1), threshold)


@match.mistake(
    "The pairs are chosen greedily, largest cosine first. One greedy choice can cost another direction more than "
    "it gains; use the Hungarian algorithm."
)
def greedy_matching(W_dec, directions, threshold=0.9):
    cosines = _cosines(W_dec, directions)
    assignment, left = np.full(len(cosines), -1), cosines.copy()
    for _ in range(min(cosines.shape)):
        row, column = np.unravel_index(left.argmax(), left.shape)
        assignment[row] = column
        left[row], left[:, column] = -np.inf, -np.inf
    return _result(cosines, assignment, threshold)


@match.mistake(
    "`linear_sum_assignment` minimises: you matched the *worst* pairs. Pass minus the cosines, or `maximize=True`."
)
def worst_matching(W_dec, directions, threshold=0.9):
    cosines = _cosines(W_dec, directions)
    rows, columns = linear_sum_assignment(cosines)
    assignment = np.full(len(cosines), -1)
    assignment[rows] = columns
    return _result(cosines, assignment, threshold)


@match.mistake("The rows of W_dec are not normalised: a dot product with a long row is not a cosine.")
def rows_not_normalised(W_dec, directions, threshold=0.9):
    dots = directions @ W_dec.T
    return _result(dots, _hungarian(dots), threshold)


@match.mistake(
    "The sign is thrown away. A latent that points the opposite way reconstructs the opposite; with a ReLU it "
    "does not stand for the feature."
)
def sign_ignored(W_dec, directions, threshold=0.9):
    cosines = np.abs(_cosines(W_dec, directions))
    return _result(cosines, _hungarian(cosines), threshold)


@match.mistake(
    "The mean max cosine is taken over latents. It asks how well each true *direction* is covered: the maximum "
    "over latents, the mean over directions."
)
def mean_over_latents_instead(W_dec, directions, threshold=0.9):
    cosines = _cosines(W_dec, directions)
    assignment, own, _, fraction = _result(cosines, _hungarian(cosines), threshold)
    return assignment, own, float(cosines.max(axis=0).mean()), fraction


@match.mistake(
    "The fraction counts directions whose *best* latent passes the threshold, shared or not. Count matched cosines."
)
def fraction_from_the_maximum(W_dec, directions, threshold=0.9):
    cosines = _cosines(W_dec, directions)
    assignment, own, mean_max, _ = _result(cosines, _hungarian(cosines), threshold)
    return assignment, own, mean_max, float((cosines.max(axis=1) > threshold).mean())


@match.mistake(
    "The third value is the mean of the *matched* cosines. The mean max cosine looks at the best latent of each "
    "direction, taken or not: `cosines.max(axis=1).mean()`."
)
def mean_of_the_matched(W_dec, directions, threshold=0.9):
    assignment, own, _, fraction = ns.match_features(W_dec, directions, threshold)
    return assignment, own, float(np.mean(own)), fraction


@match.mistake(
    "Directions without a latent are left out. There is one entry for *every* direction: -1, and cosine 0, where there "
    "are too few latents."
)
def unmatched_left_out(W_dec, directions, threshold=0.9):
    assignment, own, mean_max, _ = ns.match_features(W_dec, directions, threshold)
    has = np.asarray(assignment) >= 0
    return assignment[has], own[has], mean_max, float((own[has] > threshold).mean())


@match.mistake("The last value is a count; return the fraction of the directions.")
def count_for_fraction(W_dec, directions, threshold=0.9):
    assignment, own, mean_max, fraction = ns.match_features(W_dec, directions, threshold)
    return assignment, own, mean_max, fraction * len(directions)


@match.mistake("A row of zeros has no direction and gives NaN. Divide by 1 where the length is 0.")
def nan_on_a_dead_latent(W_dec, directions, threshold=0.9):
    cosines = directions @ (W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True)).T
    return _result(cosines, _hungarian(cosines), threshold)


@match.alternative
def with_maximize_and_a_loop(W_dec, directions, threshold=0.9):
    lengths = np.maximum(np.linalg.norm(W_dec, axis=1), 1e-12)
    table = np.array([[v @ w / (s * np.linalg.norm(v)) for w, s in zip(W_dec, lengths)] for v in directions])
    pairs = dict(zip(*linear_sum_assignment(table, maximize=True)))
    assignment = [int(pairs.get(i, -1)) for i in range(len(directions))]
    own = [table[i, j] if j >= 0 else 0.0 for i, j in enumerate(assignment)]
    return assignment, own, np.mean(np.max(table, axis=1)), np.mean(np.array(own) > threshold)


# ------------------------------------------------------------------------------------------------- 04.10 chance

chance = lesson.exercise(
    10,
    title="What chance would recover",
    answer="chance_baseline",
    reference=ns.chance_baseline,
    points=2,
    difficulty=2,
    importance=5,
    minutes=10,
    hints=(
        "Make a dictionary that has learned nothing, score it, repeat.",
        "Random directions: normal vectors `rng.normal(size=(n_latents, d))`, each divided by its length. Random "
        "samples: `rng.choice(len(x), size=n_latents, replace=False)`.",
        "A loop over `n_trials`: if `x is None` random unit vectors, else `x[rng.choice(len(x), size=n_latents, "
        "replace=False)]`; append `score(dictionary, directions)`; return `np.array(scores)`.",
    ),
)

TRIALS = 60


def _dictionaries(f: Any, draw: Any, n_latents: int, x: Array | None, d: int = 4) -> tuple[list[Array], Array]:
    """The dictionaries that the candidate has scored, and what it returned."""
    seen: list[Array] = []

    def score(dictionary: Array, directions: Array) -> float:
        seen.append(np.asarray(dictionary, dtype=float))
        return float(len(seen))

    directions = draw.lend(ns.random_directions(draw.rng, 6, d), numpy=True)
    returned = f(draw.rng, directions, n_latents, score, x=x, n_trials=TRIALS)
    return seen, np.asarray(returned, dtype=float)


@chance.case("one score for every trial", rule=Exact())
def _(f, draw):
    seen, returned = _dictionaries(f, draw, 9, None)
    return {"dictionaries scored": len(seen), "scores": returned}


@chance.case("the size of the dictionary", rule=Exact())
def _(f, draw):
    return {"random directions": list(_dictionaries(f, draw, 9, None)[0][0].shape),
            "samples": list(_dictionaries(f, draw, 9, float64(draw, 40, 4))[0][0].shape)}  # fmt: skip


@chance.case(
    "random directions cover the sphere evenly",
    # 60 x 100 unit vectors in 4 dimensions: a mean has standard error 0.5 / sqrt(6000) = 0.0065, a fourth moment less
    rule=Close(rtol=0.0, atol=0.046),
)
def _(f, draw):
    rows = np.concatenate(_dictionaries(f, draw, 100, None)[0])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return {
        "mean": rows.mean(axis=0),
        "covariance": rows.T @ rows / len(rows),
        "fourth moment": 4 * (rows**4).mean(axis=0),
    }


@chance.case("every trial has another dictionary", rule=Exact())
def _(f, draw):
    random, _ = _dictionaries(f, draw, 9, None)
    samples, _ = _dictionaries(f, draw, 9, float64(draw, 40, 4))
    return {
        "random": len({round(float(d.sum()), 9) for d in random}) == len(random),
        "samples": len({tuple(np.round(np.sort(d[:, 0]), 9)) for d in samples}) == len(samples),
    }


@chance.case("samples: rows of x, none twice in one dictionary", rule=Exact())
def _(f, draw):
    x = float64(draw, 12, 4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    seen, _ = _dictionaries(f, draw, 12, x)
    picks = [(d / np.linalg.norm(d, axis=1, keepdims=True) @ unit.T) for d in seen]
    return {
        "rows of x": bool(all(np.allclose(p.max(axis=1), 1) for p in picks)),
        "different rows": sorted({len(set(p.argmax(axis=1).tolist())) for p in picks}),
    }


@chance.case("samples: every row of x comes up", rule=Close(0.0, 0.2))
def _(f, draw):
    # 60 trials x 10 of 40: a row's share has standard error sqrt(.25 * .75 / 60) = 0.056; the largest of 40 differences is below 0.2
    x = float64(draw, 40, 4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    seen, _ = _dictionaries(f, draw, 10, x)
    halves = np.zeros(40)
    for d in seen:
        halves[np.unique((d / np.linalg.norm(d, axis=1, keepdims=True) @ unit.T).argmax(axis=1))] += 1 / TRIALS
    return halves.reshape(8, 5).mean(axis=1)


@chance.mistake(
    "One random dictionary is scored again and again: the spread over trials is lost. Draw a new one each time."
)
def one_dictionary_for_all_trials(rng, directions, n_latents, score, x=None, n_trials=20):
    if x is None:
        dictionary = ns.random_directions(rng, n_latents, directions.shape[1])
    else:
        dictionary = x[rng.choice(len(x), size=n_latents, replace=False)]
    return np.array([score(dictionary, directions) for _ in range(n_trials)])


@chance.mistake(
    "The random directions have only positive entries (`rng.random`): one corner of the sphere. Use normal vectors."
)
def positive_corner(rng, directions, n_latents, score, x=None, n_trials=20):
    d = directions.shape[1]
    return ns_loop(rng, n_latents, score, directions, x, n_trials, lambda: rng.random((n_latents, d)))


@chance.mistake(
    "Vectors from a cube (`rng.uniform(-1, 1)`) prefer its corners. Only normal vectors, normalised, cover the "
    "sphere evenly."
)
def from_a_cube(rng, directions, n_latents, score, x=None, n_trials=20):
    d = directions.shape[1]
    return ns_loop(rng, n_latents, score, directions, x, n_trials, lambda: rng.uniform(-1, 1, (n_latents, d)))


@chance.mistake(
    "The dictionary has as many rows as there are true directions. It must have `n_latents`: a larger dictionary "
    "matches more by luck."
)
def wrong_number_of_latents(rng, directions, n_latents, score, x=None, n_trials=20):
    return ns.chance_baseline(rng, directions, len(directions), score, x, n_trials)


@chance.mistake("`x` is not used: where samples are given, the dictionary is made of samples.")
def samples_ignored(rng, directions, n_latents, score, x=None, n_trials=20):
    return ns.chance_baseline(rng, directions, n_latents, score, None, n_trials)


@chance.mistake("The same sample can be drawn twice in one dictionary: `replace=False`.")
def samples_repeat(rng, directions, n_latents, score, x=None, n_trials=20):
    def draw_dictionary():
        if x is None:
            return ns.random_directions(rng, n_latents, directions.shape[1])
        return x[rng.choice(len(x), size=n_latents)]

    return np.array([score(draw_dictionary(), directions) for _ in range(n_trials)])


@chance.mistake("The first `n_latents` samples are taken every time. Choose at random.")
def first_samples(rng, directions, n_latents, score, x=None, n_trials=20):
    def draw_dictionary():
        return ns.random_directions(rng, n_latents, directions.shape[1]) if x is None else x[:n_latents]

    return np.array([score(draw_dictionary(), directions) for _ in range(n_trials)])


@chance.mistake("Only the mean is returned; return the score of every trial, so that the spread can be shown.")
def mean_only(rng, directions, n_latents, score, x=None, n_trials=20):
    return ns.chance_baseline(rng, directions, n_latents, score, x, n_trials).mean()


def ns_loop(
    rng: np.random.Generator,
    n_latents: int,
    score: Any,
    directions: Array,
    x: Array | None,
    n_trials: int,
    draw_random: Any,
) -> Array:
    """The loop over trials with another way to draw random directions; for known mistakes."""

    def draw_dictionary() -> Array:
        return draw_random() if x is None else x[rng.choice(len(x), size=n_latents, replace=False)]

    return np.array([score(draw_dictionary(), directions) for _ in range(n_trials)])


@chance.alternative
def by_permutation(rng, directions, n_latents, score, x=None, n_trials=20):
    scores = np.zeros(n_trials)
    for trial in range(n_trials):
        if x is not None:
            dictionary = rng.permutation(x)[:n_latents]
        else:
            dictionary = rng.standard_normal((n_latents, directions.shape[-1]))
            dictionary = dictionary / np.sqrt((dictionary**2).sum(1, keepdims=True))
        scores[trial] = score(dictionary, directions)
    return scores


# ---------------------------------------------------------------------------------- 04.11 the published script

bug = lesson.exercise(
    11,
    title="Find and fix the bug in the published script",
    answer="corrected_gradients",
    reference=ns.corrected_gradients,
    points=2,
    difficulty=3,
    importance=4,
    minutes=15,
    hints=(
        "Compare `published_gradients` with finite differences, parameter by parameter: more than one disagrees. "
        "Which term should be in all of them and is in one only?",
        "The loss penalises |f|. What you do with the penalty on the way back starts at the latents, before the "
        "ReLU's mask; nothing in the loss penalises weights.",
        "`d_latents = d_x_hat @ W_dec.T + lam / N`, masked by `latents > 0` as before; drop `lam * np.sign(W_enc) "
        "/ N`. Mind that this model encodes x, not x - b_dec.",
    ),
)


def _bug_case(name: str, weight: float) -> None:
    @bug.case(f"the gradient by {name}", weight=weight, rule=EXACT64)
    def _(f, draw):
        return f(some_params(draw), float64(draw, 9, 4), 0.9)[name]


for _name, _weight in (("W_enc", 1.5), ("b_enc", 1.0), ("W_dec", 0.5), ("b_dec", 0.5)):
    _bug_case(_name, _weight)


@bug.case("another lam and batch size", rule=EXACT64, weight=0.5)
def _(f, draw):
    return dict(f(some_params(draw), float64(draw, 4, 4), 3.0))


def _published(params: Params, x: Array, lam_latents: float, lam_weights: float, masked: bool = True) -> Params:
    latents, x_hat = ns.published_forward(params, x)
    d_x_hat = 2 * (x_hat - x) / len(x)
    active = latents > 0
    d_pre = (d_x_hat @ params["W_dec"].T) * active + lam_latents * (active if masked else 1)
    return {
        "W_enc": x.T @ d_pre + lam_weights * np.sign(params["W_enc"]),
        "b_enc": d_pre.sum(axis=0),
        "W_dec": latents.T @ d_x_hat,
        "b_dec": d_x_hat.sum(axis=0),
    }


@bug.mistake("The bug is still there: lam * sign(W_enc) / N penalises weights. The loss penalises the latents.")
def bug_still_there(params, x, lam):
    return ns.published_gradients(params, x, lam)


@bug.mistake("The wrong term is gone, but the right one is not there: nothing penalises the latents now.")
def penalty_only_removed(params, x, lam):
    return _published(params, x, 0.0, 0.0)


@bug.mistake("The right term was added, and the wrong one kept.")
def both_penalties(params, x, lam):
    return _published(params, x, lam / len(x), lam / len(x))


@bug.mistake("The penalty's gradient reaches latents that are zero. Add it before the ReLU's mask.")
def penalty_past_the_relu(params, x, lam):
    return _published(params, x, lam / len(x), 0.0, masked=False)


@bug.mistake("The penalty is a mean over samples: its gradient is lam / N for each active latent.")
def penalty_not_averaged_here(params, x, lam):
    return _published(params, x, lam, 0.0)


@bug.mistake("The penalty reaches W_enc but not b_enc. It flows through the pre-activation, and both are in it.")
def penalty_on_W_enc_only(params, x, lam):
    right = _published(params, x, lam / len(x), 0.0)
    return {**right, "b_enc": _published(params, x, 0.0, 0.0)["b_enc"]}


@bug.mistake("The penalty moved to the decoder's weights, lam * sign(W_dec) / N. It belongs to the latents.")
def penalty_on_W_dec(params, x, lam):
    grads = _published(params, x, 0.0, 0.0)
    return {**grads, "W_dec": grads["W_dec"] + lam * np.sign(params["W_dec"]) / len(x)}


@bug.mistake(
    "You return the gradients of the model of 04.2, which subtracts b_dec before encoding. The published model "
    "does not."
)
def of_the_other_model(params, x, lam):
    return ns.sae_gradients(params, x, lam)


@bug.alternative
def sample_by_sample_gradients(params, x, lam):
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    for row in x:
        f = np.clip(row @ params["W_enc"] + params["b_enc"], 0, None)
        error = 2 * (f @ params["W_dec"] + params["b_dec"] - row)
        d_pre = np.where(f > 0, params["W_dec"] @ error + lam * np.sign(f), 0)
        for name, part in zip(params, (np.outer(row, d_pre), d_pre, np.outer(f, error), error)):
            grads[name] += part / len(x)
    return grads


# --------------------------------------------------------------------------------------- 04.12 sweeping lambda

sweep = lesson.exercise(
    12,
    title="The sparsity-reconstruction curve",
    answer="sparsity_curve",
    reference=ns.sparsity_curve,
    points=2,
    difficulty=2,
    importance=4,
    minutes=10,
    hints=(
        "For every lam: `latents, x_hat = train(x, lam)`; then two numbers.",
        "L0: how many latents are above zero, averaged over samples. Unexplained: the summed squared error over "
        "the summed squared distance of x from its mean.",
        "`(latents > 0).sum(axis=1).mean()` and `((x - x_hat) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()`.",
    ),
)

CURVE = Close(rtol=1e-5, atol=1e-9)
LAMS = (1.0, 0.1, 3.0)


def _curve_inputs(draw: Any) -> tuple[Array, Any]:
    """Data whose dimensions have very different means and spreads, and a stand-in for training that depends on lam."""
    x = draw.lend(draw.rng.normal(size=(30, 4)) * np.array([3, 1, 0.2, 1]) + np.array([5, 0, -2, 1]), numpy=True)
    base, noise = draw.rng.normal(size=(30, 12)), draw.rng.normal(size=(30, 4)) * np.linspace(0.1, 1, 30)[:, None]

    def train(data: Array, lam: float) -> tuple[Array, Array]:
        return np.maximum(base - 0.4 * lam, 0), x + noise * (0.3 + lam)

    return x, train


@sweep.case("L0 for each lam, in the order given", rule=CURVE)
def _(f, draw):
    return np.asarray(f(_curve_inputs(draw)[0], list(LAMS), _curve_inputs(draw)[1])[0])


@sweep.case("variance unexplained for each lam, in the order given", rule=CURVE)
def _(f, draw):
    x, train = _curve_inputs(draw)
    return np.asarray(f(x, list(LAMS), train)[1])


@sweep.case("reconstructing the mean leaves everything unexplained", rule=CURVE)
def _(f, draw):
    x = _curve_inputs(draw)[0]
    return np.asarray(f(x, [1.0], lambda data, lam: (np.zeros((30, 5)), np.tile(x.mean(axis=0), (30, 1))))[1])


@sweep.case("train is called once for each lam, with x", rule=Exact())
def _(f, draw):
    x, train = _curve_inputs(draw)
    called: list[float] = []

    def noted(data, lam):
        called.append(float(lam) if np.array_equal(data, x) else float("nan"))
        return train(data, lam)

    f(x, list(LAMS), noted)
    return np.array(called)


def _curve(x: Array, lams: Any, train: Any, l0: Any = None, fvu: Any = None) -> tuple[Array, Array]:
    runs = [train(x, lam) for lam in lams]
    l0, fvu = l0 or ns.l0, fvu or ns.fraction_variance_unexplained
    return np.array([l0(latents) for latents, _ in runs]), np.array([fvu(x, x_hat) for _, x_hat in runs])


@sweep.mistake(
    "The variance is not centred: (x²).sum() counts the mean too, and unexplained comes out too small. Subtract "
    "x.mean(axis=0)."
)
def variance_not_centred(x, lams, train):
    return _curve(x, lams, train, fvu=lambda x, x_hat: ((x - x_hat) ** 2).sum() / (x**2).sum())


@sweep.mistake("One mean is taken over all dimensions together. Each dimension has its own: x.mean(axis=0).")
def one_mean_for_all_dimensions(x, lams, train):
    return _curve(x, lams, train, fvu=lambda x, x_hat: ((x - x_hat) ** 2).sum() / ((x - x.mean()) ** 2).sum())


@sweep.mistake("You return the variance explained; the curve shows what is left unexplained, 1 minus that.")
def explained_for_unexplained(x, lams, train):
    return _curve(x, lams, train, fvu=lambda x, x_hat: 1 - ns.fraction_variance_unexplained(x, x_hat))


@sweep.mistake(
    "The ratio is taken for each dimension and then averaged: a dimension with hardly any variance weighs as much "
    "as the largest. Sum first, divide once."
)
def ratio_by_dimension(x, lams, train):
    def fvu(x, x_hat):
        return (((x - x_hat) ** 2).sum(axis=0) / ((x - x.mean(axis=0)) ** 2).sum(axis=0)).mean()

    return _curve(x, lams, train, fvu=fvu)


@sweep.mistake(
    "You return the mean squared error. Divide by the variance of x, or numbers from different data cannot be compared."
)
def not_divided_by_the_variance(x, lams, train):
    return _curve(x, lams, train, fvu=lambda x, x_hat: ((x - x_hat) ** 2).sum(axis=1).mean())


@sweep.mistake("That is the L1 norm, the sum of the latents; L0 counts how many are above zero.")
def l1_for_l0(x, lams, train):
    return _curve(x, lams, train, l0=lambda latents: latents.sum(axis=1).mean())


@sweep.mistake("L0 is divided by the number of latents. It is a number of latents a sample, not a share.")
def share_of_latents(x, lams, train):
    return _curve(x, lams, train, l0=lambda latents: (latents > 0).mean())


@sweep.mistake("L0 is summed over the samples; average it.")
def summed_over_samples(x, lams, train):
    return _curve(x, lams, train, l0=lambda latents: (latents > 0).sum())


@sweep.mistake("The results come sorted by lam; keep the order in which the lams were given.")
def sorted_by_lam(x, lams, train):
    return _curve(x, sorted(lams), train)


@sweep.mistake("Every run uses the first lam.")
def always_the_first_lam(x, lams, train):
    return _curve(x, [lams[0]] * len(lams), train)


@sweep.alternative
def from_norms(x, lams, train):
    total = np.linalg.norm(x - x.mean(0)) ** 2
    pairs = [
        (np.count_nonzero(f) / len(x), np.linalg.norm(x - x_hat) ** 2 / total)
        for f, x_hat in itertools.starmap(train, [(x, lam) for lam in lams])
    ]
    return tuple(np.array(pairs).T)


# -------------------------------------------------------------------------------- 04.13 an encoder that iterates

iterate = lesson.exercise(
    13,
    title="An encoder that iterates",
    answer="iterate_encoder",
    reference=ns.iterate_encoder,
    points=4,
    difficulty=4,
    importance=5,
    minutes=25,
    hints=(
        "One step is: gradient of the squared error by f, a small step down, minus the penalty, ReLU. Start from "
        "zeros. The refit is the same step with lam = 0 and a mask.",
        "With G = W_dec W_dec^T the update is `f = np.maximum(f + (x @ W_dec.T - f @ G - lam / 2) / L, 0)`, where "
        "`L = np.linalg.norm(G, 2)` is the largest eigenvalue.",
        "After `n_steps`: `support = f > 0`, then `n_refit` times `f = np.maximum(f + (x @ W_dec.T - f @ G) / L, "
        "0) * support`.",
    ),
)


def pursuit_inputs(draw: Any, batch: int = 12, d_sae: int = 9, d: int = 4) -> tuple[Array, Array]:
    W_dec = draw.lend(ns.random_directions(draw.rng, d_sae, d), numpy=True)
    return float64(draw, batch, d, std=2.0), W_dec


@iterate.case("one step: the encoder of an SAE", rule=EXACT64)
def _(f, draw):
    return f(*pursuit_inputs(draw), 0.6, 1, 0)


@iterate.case("a few steps", rule=EXACT64)
def _(f, draw):
    return f(*pursuit_inputs(draw), 0.6, 5, 0)


@iterate.case("many steps: the minimum of |x - f W_dec|² + lam sum f", rule=Close(1e-3, 1e-4))
def _(f, draw):
    return f(*pursuit_inputs(draw), 0.9, 3000, 0)


@iterate.case("a few refitting steps", rule=EXACT64)
def _(f, draw):
    return f(*pursuit_inputs(draw), 1.5, 20, 3)


@iterate.case("refitting a support that is too large", rule=EXACT64, weight=0.5)
def _(f, draw):
    return f(*pursuit_inputs(draw), 0.1, 2, 60)


@iterate.case("refitting never leaves the support, and lowers the error", rule=EXACT64)
def _(f, draw):
    x, W_dec = pursuit_inputs(draw)
    before, after = np.asarray(f(x, W_dec, 2.0, 60, 0)), np.asarray(f(x, W_dec, 2.0, 60, 40))
    return {
        "codes off the support": int(((after > 0) & (before <= 0)).sum()),
        "error before": float(((x - before @ W_dec) ** 2).sum()),
        "error after": float(((x - after @ W_dec) ** 2).sum()),
    }


def _steps(
    x: Array,
    W_dec: Array,
    lam: float,
    n_steps: int,
    n_refit: int,
    *,
    step_length: float | None = None,
    threshold: float = 0.5,
    relu: bool = True,
    sign: int = 1,
    start: str = "zeros",
    refit_lam: float = 0.0,
    masked: bool = True,
    clip_refit: bool = True,
    shrink_scaled: bool = True,
) -> Array:
    gram = W_dec @ W_dec.T
    rate: float = 1 / float(np.linalg.norm(gram, 2)) if step_length is None else step_length
    f = np.zeros((len(x), len(W_dec))) if start == "zeros" else np.maximum(x @ W_dec.T, 0)
    penalty = lam * threshold * (rate if shrink_scaled else 1)
    for _ in range(n_steps):
        f = f + sign * rate * (x @ W_dec.T - f @ gram) - penalty
        f = np.maximum(f, 0) if relu else f
    support = (f > 0) if masked else np.ones(f.shape)
    for _ in range(n_refit):
        f = f + sign * rate * (x @ W_dec.T - f @ gram) - refit_lam * threshold * rate
        f = (np.maximum(f, 0) if clip_refit else f) * support
    return f


@iterate.mistake("The refit is missing: the codes keep the shrinkage that the penalty gave them.")
def no_refit(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, 0)


@iterate.mistake("The refit still subtracts the penalty, so nothing is undone. Without lam, on the support.")
def penalty_in_the_refit(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, n_refit, refit_lam=lam)


@iterate.mistake(
    "The refit is not held to the support: without a penalty, codes come up everywhere and the sparsity is gone. "
    "Multiply by the mask."
)
def refit_everywhere(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, n_refit, masked=False)


@iterate.mistake("The ReLU is missing from the steps: codes can be negative, and nothing is ever exactly zero.")
def no_relu_in_the_steps(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, n_refit, relu=False)


@iterate.mistake("Codes turn negative in the refit: keep the ReLU there.")
def negative_after_the_refit(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, n_refit, clip_refit=False)


@iterate.mistake(
    "The penalty is twice too strong. The squared error has no 1/2, so its gradient carries a 2: with steps of "
    "1/(2L) the penalty is lam / (2L)."
)
def penalty_twice_as_strong(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, n_refit, threshold=1.0)


@iterate.mistake(
    "The penalty is not scaled by the step size: each step takes lam / 2 off, whatever the length of the step. It "
    "should be lam / (2L)."
)
def penalty_not_scaled(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, n_refit, shrink_scaled=False)


@iterate.mistake(
    "The step is too long: without dividing by L, the largest eigenvalue of W_dec W_dec^T, the codes jump over "
    "the minimum and grow for ever."
)
def step_too_long(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, n_refit, step_length=1.0)


@iterate.mistake("The steps go uphill: the codes should move along (x - f W_dec) W_dec^T.")
def uphill_steps(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, n_refit, sign=-1)


@iterate.mistake(
    "The codes start at ReLU(x W_dec^T). Start from zeros: then the first step is the one-layer encoder, and "
    "overlapping latents do not all begin switched on."
)
def starts_from_the_overlaps(x, W_dec, lam, n_steps, n_refit):
    return _steps(x, W_dec, lam, n_steps, n_refit, start="overlaps")


@iterate.alternative
def through_the_residual(x, W_dec, lam, n_steps, n_refit):
    L = np.linalg.svd(W_dec, compute_uv=False)[0] ** 2
    codes = np.zeros((x.shape[0], W_dec.shape[0]))
    for _ in range(n_steps):
        gradient = -2 * (x - codes @ W_dec) @ W_dec.T
        codes = np.clip(codes - gradient / (2 * L) - lam / (2 * L), 0, None)
    off = codes == 0
    for _ in range(n_refit):
        codes = np.clip(codes + (x - codes @ W_dec) @ W_dec.T / L, 0, None)
        codes[off] = 0
    return codes
