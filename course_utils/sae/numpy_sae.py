"""A sparse autoencoder in plain NumPy: data with known truth, hand-written gradients, training, honest matching, iterating encoders.

Everything works on plain arrays and on `Params`, a dict with `W_enc [d_in, d_sae]`, `b_enc [d_sae]`, `W_dec [d_sae, d_in]`, `b_dec [d_in]`.
Nothing is changed in place: functions take arrays and give new ones back. The loss everywhere is

    mean over samples of  sum over dimensions (x - x_hat)^2  +  lam * sum over latents f .

Older papers store the transposes of these matrices, and some put 1/2 before the square (their lam is half of ours).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array
from scipy.optimize import linear_sum_assignment
from tqdm.auto import tqdm

Params = dict[str, Array]
"""`W_enc [d_in, d_sae]`, `b_enc [d_sae]`, `W_dec [d_sae, d_in]`, `b_dec [d_in]`."""

START_STREAM = 1
"""Second part of the seed where training starts. Without it, data made with `default_rng(0)` and a start drawn from
`default_rng(0)` would be the same numbers: a dictionary that begins as the very directions it should find."""

GROUP_BYTES = 64_000
"""Size of one temporary array where samples are worked on in groups."""

REVIVED_ENCODER_LENGTH = 0.2
"""A revived latent's encoder norm, as a share of the mean norm of the living (Bricken et al. 2023)."""


class AdamState(TypedDict):
    """What Adam remembers: the number of steps taken, and the running means of the gradients and of their squares."""

    step: int
    m: Params
    v: Params


# -- data with known truth ------------------------------------------------------------------------------------


def random_directions(rng: np.random.Generator, n: int, d: int) -> Float[Array, "n d"]:
    """`n` unit vectors, uniform on the sphere in `d` dimensions."""
    directions = rng.normal(size=(n, d))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def make_superposed_activations(
    rng: np.random.Generator,
    directions: Float[Array, "n d"],
    n_samples: int,
    min_active: int = 2,
    max_active: int = 4,
    mean: float = 1.5,
    std: float = 0.8,
    noise: float = 0.05,
) -> tuple[Float[Array, "n_samples d"], Float[Array, "n_samples n"]]:
    """Activations that are sparse sums of known directions, and the coefficients behind them.

    Each sample has k features active, k uniform on `min_active ... max_active` (both included), chosen without
    repetition, each with a coefficient from N(mean, std^2); the rest are 0. Gaussian noise of standard deviation
    `noise` is added to every dimension.
    """
    n, d = directions.shape
    n_active = rng.integers(min_active, max_active + 1, size=n_samples)
    rank = rng.random((n_samples, n)).argsort(axis=1).argsort(axis=1)  # a random order of the features, one a sample
    active = rank < n_active[:, None]
    coefficients = np.where(active, rng.normal(mean, std, size=(n_samples, n)), 0.0)
    return coefficients @ directions + noise * rng.normal(size=(n_samples, d)), coefficients


# -- forward, loss, gradients ---------------------------------------------------------------------------------


def init_params(rng: np.random.Generator, d_in: int, d_sae: int, dtype: Any = np.float32) -> Params:
    """Random unit decoder rows, the encoder their transpose, biases zero."""
    W_dec = random_directions(rng, d_sae, d_in).astype(dtype)
    return {
        "W_enc": W_dec.T.copy(),
        "b_enc": np.zeros(d_sae, dtype),
        "W_dec": W_dec,
        "b_dec": np.zeros(d_in, dtype),
    }


def pre_activations(params: Params, x: Float[Array, "batch d_in"]) -> Float[Array, "batch d_sae"]:
    """(x - b_dec) W_enc + b_enc."""
    return (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]


def decode(params: Params, latents: Float[Array, "batch d_sae"]) -> Float[Array, "batch d_in"]:
    """f W_dec + b_dec."""
    return latents @ params["W_dec"] + params["b_dec"]


def sae_forward(
    params: Params, x: Float[Array, "batch d_in"]
) -> tuple[Float[Array, "batch d_sae"], Float[Array, "batch d_in"]]:
    """Latents f = ReLU((x - b_dec) W_enc + b_enc) and reconstruction x_hat = f W_dec + b_dec (Bricken et al. 2023)."""
    latents = np.maximum(pre_activations(params, x), 0)
    return latents, decode(params, latents)


def sae_loss(
    x: Float[Array, "batch d_in"], x_hat: Float[Array, "batch d_in"], latents: Float[Array, "batch d_sae"], lam: float
) -> float:
    """Mean over samples of the squared error summed over dimensions, plus `lam` times the latents' L1 norm."""
    return float(((x - x_hat) ** 2).sum(axis=1).mean() + lam * np.abs(latents).sum(axis=1).mean())


def sae_gradients(params: Params, x: Float[Array, "batch d_in"], lam: float) -> Params:
    """Gradient of `sae_loss` by each parameter, by hand."""
    latents, x_hat = sae_forward(params, x)
    return _backward(params, x, latents, x_hat, lam)


def topk_forward(
    params: Params, x: Float[Array, "batch d_in"], k: int
) -> tuple[Float[Array, "batch d_sae"], Float[Array, "batch d_in"]]:
    """The k largest pre-activations of each sample, those below zero set to zero; and the reconstruction (Gao et al. 2024)."""
    pre = pre_activations(params, x)
    largest = np.argpartition(pre, -k, axis=1)[:, -k:]
    latents = np.zeros_like(pre)
    np.put_along_axis(latents, largest, np.maximum(np.take_along_axis(pre, largest, axis=1), 0), axis=1)
    return latents, decode(params, latents)


def topk_gradients(params: Params, x: Float[Array, "batch d_in"], k: int) -> Params:
    """Gradient of the mean squared error of `topk_forward`: as for ReLU, on the k chosen latents only."""
    latents, x_hat = topk_forward(params, x, k)
    return _backward(params, x, latents, x_hat, 0.0)


def topk_forward_backward(
    params: Params, x: Float[Array, "batch d_in"], k: int
) -> tuple[Float[Array, "batch d_sae"], Float[Array, "batch d_in"], Params]:
    """`topk_forward` and `topk_gradients` in one: latents, reconstruction, gradients."""
    latents, x_hat = topk_forward(params, x, k)
    return latents, x_hat, _backward(params, x, latents, x_hat, 0.0)


def _backward(params: Params, x: Array, latents: Array, x_hat: Array, lam: float) -> Params:
    """The backward pass that ReLU and TopK share: the latents that are zero pass no gradient."""
    batch = len(x)
    d_x_hat = 2 * (x_hat - x) / batch
    d_latents = d_x_hat @ params["W_dec"].T + lam / batch
    d_pre = d_latents * (latents > 0)
    return {
        "W_enc": (x - params["b_dec"]).T @ d_pre,
        "b_enc": d_pre.sum(axis=0),
        "W_dec": latents.T @ d_x_hat,
        # b_dec is used twice: added at the end, and subtracted before the encoder
        "b_dec": d_x_hat.sum(axis=0) - d_pre.sum(axis=0) @ params["W_enc"].T,
    }


def numerical_gradients(loss: Callable[[Params], float], params: Params, eps: float = 1e-6) -> Params:
    """Central differences of `loss` by every entry of `params`, one at a time. Slow; for checking gradients, in float64."""
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    for name, value in params.items():
        for index in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * eps
                ends.append(loss({**params, name: moved}))
            grads[name][index] = (ends[0] - ends[1]) / (2 * eps)
    return grads


# -- one training step ----------------------------------------------------------------------------------------


def adam_state(params: Params) -> AdamState:
    """Adam's memory before the first step: all zero."""
    zeros = {name: np.zeros_like(value) for name, value in params.items()}
    return {"step": 0, "m": zeros, "v": {name: value.copy() for name, value in zeros.items()}}


def adam_step(
    params: Params,
    grads: Params,
    state: AdamState,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> tuple[Params, AdamState]:
    """One step of Adam (Kingma & Ba 2015, Algorithm 1): the new parameters and the new state."""
    step = state["step"] + 1
    m = {name: beta1 * state["m"][name] + (1 - beta1) * grads[name] for name in params}
    v = {name: beta2 * state["v"][name] + (1 - beta2) * grads[name] ** 2 for name in params}
    new = {}
    for name, value in params.items():
        m_hat = m[name] / (1 - beta1**step)
        v_hat = v[name] / (1 - beta2**step)
        new[name] = value - lr * m_hat / (np.sqrt(v_hat) + eps)
    return new, {"step": step, "m": m, "v": v}


def normalise_decoder(
    W_dec: Float[Array, "d_sae d_in"], grad: Float[Array, "d_sae d_in"]
) -> tuple[Float[Array, "d_sae d_in"], Float[Array, "d_sae d_in"]]:
    """Decoder rows at length 1, and the gradient without its part along each row (Bricken et al. 2023). Zero rows stay zero.

    Along its row, the gradient asks for a longer row; the next normalisation would undo that, but Adam's moments would
    remember it and spoil the steps that turn the row.
    """
    rows = _unit(W_dec)
    return rows, grad - (grad * rows).sum(axis=1, keepdims=True) * rows


def resample_dead_latents(
    rng: np.random.Generator,
    params: Params,
    state: AdamState,
    x: Float[Array, "n_samples d_in"],
    latents: Float[Array, "n_samples d_sae"],
    fired: Bool[Array, "window d_sae"],
) -> tuple[Params, AdamState]:
    """Point latents that never fired in the window at samples the dictionary reconstructs badly (Bricken et al. 2023).

    Dead: not fired at any step of the window. Each dead latent draws its own sample, with probability proportional to
    the squared loss of that sample, where the loss is its squared error. Its decoder row becomes the unit vector along
    the sample's residual x - x_hat, its encoder column the same vector at 0.2 times the living columns' mean length,
    its bias 0; Adam forgets it.
    """
    dead = np.flatnonzero(~fired.any(axis=0))
    params = {name: value.copy() for name, value in params.items()}
    m, v = ({name: value.copy() for name, value in state[key].items()} for key in ("m", "v"))
    if len(dead):
        residual = x - decode(params, latents)
        weight = (residual.astype(np.float64) ** 2).sum(axis=1) ** 2
        weight = weight / weight.sum()
        spare = np.count_nonzero(weight) < len(dead)
        chosen = residual[rng.choice(len(x), size=len(dead), replace=bool(spare), p=weight)]
        direction = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
        alive = np.setdiff1d(np.arange(fired.shape[1]), dead)
        length = np.linalg.norm(params["W_enc"][:, alive], axis=0).mean() if len(alive) else 1.0
        params["W_dec"][dead] = direction
        params["W_enc"][:, dead] = REVIVED_ENCODER_LENGTH * length * direction.T
        params["b_enc"][dead] = 0
        for moments in (m, v):
            moments["W_dec"][dead] = 0
            moments["W_enc"][:, dead] = 0
            moments["b_enc"][dead] = 0
    return params, {"step": state["step"], "m": m, "v": v}


# -- measuring ------------------------------------------------------------------------------------------------


def l0(latents: Float[Array, "batch d_sae"], tolerance: float = 0.0) -> float:
    """Mean number of latents above `tolerance` in a sample."""
    return float((latents > tolerance).sum(axis=1).mean())


def fraction_variance_unexplained(x: Float[Array, "batch d"], x_hat: Float[Array, "batch d"]) -> float:
    """Squared error over the squared distance from the mean, each summed over samples and dimensions; 0 is perfect."""
    return float(((x - x_hat) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())


def shrinkage(true: Float[Array, "batch n"], found: Float[Array, "batch n"]) -> float:
    """Mean of found over mean of true coefficients where both are positive: 1 is unbiased, L1 pushes it below 1."""
    both = (true > 0) & (found > 0)
    return float(found[both].sum() / true[both].sum())


class Match(NamedTuple):
    """How well a dictionary holds known directions."""

    assignment: Int[Array, " n"]
    """The row of the dictionary given to each direction, -1 where there are fewer rows than directions."""
    cosine: Float[Array, " n"]
    """Cosine of each direction with its row (0 where it has none)."""
    mean_max_cosine: float
    """Mean over directions of the best cosine with any row; rows may serve twice."""
    fraction_recovered: float
    """Share of directions whose own row has a cosine above the threshold."""

    def count(self, threshold: float) -> int:
        """How many directions have their own row at a cosine above `threshold`."""
        return int((self.cosine > threshold).sum())


def cosine_similarities(W_dec: Float[Array, "d_sae d"], directions: Float[Array, "n d"]) -> Float[Array, "n d_sae"]:
    """Cosine of every true direction with every dictionary row; zero rows give 0."""
    rows, columns = _unit(directions), _unit(W_dec)
    return rows @ columns.T


def match_features(W_dec: Float[Array, "d_sae d"], directions: Float[Array, "n d"], threshold: float = 0.9) -> Match:
    """Give each true direction a dictionary row of its own, so that the sum of cosines is the largest possible (Hungarian)."""
    cosines = cosine_similarities(W_dec, directions)
    rows, columns = linear_sum_assignment(-cosines)
    assignment = np.full(len(directions), -1)
    assignment[rows] = columns
    matched = np.zeros(len(directions))
    matched[rows] = cosines[rows, columns]
    return Match(assignment, matched, float(cosines.max(axis=1).mean()), float((matched > threshold).mean()))


def chance_baseline(
    rng: np.random.Generator,
    directions: Float[Array, "n d"],
    n_latents: int,
    score: Callable[[Array, Array], float],
    x: Float[Array, "n_samples d"] | None = None,
    n_trials: int = 20,
) -> Float[Array, " n_trials"]:
    """`score(dictionary, directions)` of dictionaries that learned nothing: random unit vectors, or different samples of `x`."""
    scores = []
    for _ in range(n_trials):
        if x is None:
            dictionary = random_directions(rng, n_latents, directions.shape[1])
        else:
            dictionary = x[rng.choice(len(x), size=n_latents, replace=False)]
        scores.append(score(dictionary, directions))
    return np.array(scores)


def _unit(rows: Array) -> Array:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1)


# -- training -------------------------------------------------------------------------------------------------


@dataclass
class TrainedSAE:
    """A trained NumPy SAE: parameters, `k` for TopK (None for L1), and what was seen on the way."""

    params: Params
    k: int | None = None
    history: dict[str, list[float]] = field(default_factory=dict)

    def encode(self, x: Float[Array, "batch d_in"]) -> Float[Array, "batch d_sae"]:
        """Latents of `x`."""
        return (sae_forward(self.params, x) if self.k is None else topk_forward(self.params, x, self.k))[0]

    def decode(self, latents: Float[Array, "batch d_sae"]) -> Float[Array, "batch d_in"]:
        """Reconstruction from latents."""
        return decode(self.params, latents)

    def living(self, x: Float[Array, "batch d_in"], min_rate: float = 1e-4) -> Bool[Array, " d_sae"]:
        """Which latents fire on more than `min_rate` of the samples."""
        return (self.encode(x) > 0).mean(axis=0) > min_rate


def train_sae(
    x: Float[Array, "n_samples d_in"],
    d_sae: int,
    *,
    lam: float | None = None,
    k: int | None = None,
    steps: int = 3000,
    lr: float = 1e-2,
    batch_size: int = 256,
    resample_every: int | None = 200,
    seed: int = 0,
    params: Params | None = None,
    train_decoder: bool = True,
    directions: Float[Array, "n d_in"] | None = None,
    record_every: int = 50,
    progress: bool = False,
) -> TrainedSAE:
    """Train with Adam, a unit-norm decoder and resampling; an L1 SAE if `lam` is given, a TopK SAE if `k` is.

    The learning rate falls to zero over the last 30% of the steps, L1 rises over the first 20%, and resampling stops
    after 70%: a latent needs time to settle. With `directions` the history holds how many are matched at cosine 0.9.

    Args:
        params: where to start; random by default.
        train_decoder: False keeps `W_dec` and `b_dec` as they are and trains the encoder alone.
    """
    if (lam is None) == (k is None):
        raise ValueError("train_sae needs one of lam (an L1 SAE) and k (a TopK SAE), not both: train_sae(x, 64, k=3)")
    rng = np.random.default_rng([seed, START_STREAM])
    params = params or init_params(rng, x.shape[1], d_sae, x.dtype)
    state = adam_state(params)
    history: dict[str, list[float]] = {"step": [], "loss": [], "l0": [], "fvu": []}
    fired = np.zeros((resample_every or 1, d_sae), dtype=bool)  # whether each latent fired, for each step of the window
    for step in tqdm(range(1, steps + 1), disable=not progress, desc="L1" if k is None else "TopK"):
        batch = x[rng.integers(0, len(x), batch_size)]
        coefficient = 0.0 if lam is None else lam * min(1, step / (0.2 * steps))
        latents, x_hat = sae_forward(params, batch) if k is None else topk_forward(params, batch, k)
        grads = _backward(params, batch, latents, x_hat, coefficient)
        if not train_decoder:
            grads |= {name: np.zeros_like(params[name]) for name in ("W_dec", "b_dec")}
        _, grads["W_dec"] = normalise_decoder(params["W_dec"], grads["W_dec"])
        params, state = adam_step(params, grads, state, lr * min(1.0, (steps - step + 1) / (0.3 * steps)))
        params["W_dec"], _ = normalise_decoder(params["W_dec"], grads["W_dec"])
        fired[step % len(fired)] = (latents > 0).any(axis=0)
        if resample_every and step % resample_every == 0 and step <= 0.7 * steps:
            pool = x[rng.integers(0, len(x), 8 * batch_size)]
            codes = (sae_forward(params, pool) if k is None else topk_forward(params, pool, k))[0]
            params, state = resample_dead_latents(rng, params, state, pool, codes, fired)
        if step % record_every == 0 or step == 1:
            seen = {
                "step": step,
                "loss": sae_loss(batch, x_hat, latents, coefficient),
                "l0": l0(latents),
                "fvu": fraction_variance_unexplained(batch, x_hat),
            }
            if directions is not None:
                seen["recovered"] = match_features(params["W_dec"], directions).count(0.9)
            for name, value in seen.items():
                history.setdefault(name, []).append(value)
    return TrainedSAE(params, k, history)


def sparsity_curve(
    x: Float[Array, "n_samples d_in"], lams: Sequence[float], train: Callable[[Array, float], tuple[Array, Array]]
) -> tuple[Float[Array, " n_lams"], Float[Array, " n_lams"]]:
    """L0 and fraction of variance unexplained for each lam; `train(x, lam)` gives the latents and reconstruction of `x`."""
    l0s, fvus = [], []
    for lam in lams:
        latents, x_hat = train(x, lam)
        l0s.append(l0(latents))
        fvus.append(fraction_variance_unexplained(x, x_hat))
    return np.array(l0s), np.array(fvus)


# -- the published script -------------------------------------------------------------------------------------


def published_gradients(params: Params, x: Float[Array, "batch d_in"], lam: float) -> Params:
    """The published script's backward pass, bug included: the "L1 term" is lam * sign(W_enc) / N on the encoder's weights.

    Its model does not subtract `b_dec` before encoding.
    """
    return _published_backward(params, x, lam, on_weights=True)


def corrected_gradients(params: Params, x: Float[Array, "batch d_in"], lam: float) -> Params:
    """The same with the penalty where it belongs: on the latents, and so through the ReLU."""
    return _published_backward(params, x, lam, on_weights=False)


def published_forward(
    params: Params, x: Float[Array, "batch d_in"]
) -> tuple[Float[Array, "batch d_sae"], Float[Array, "batch d_in"]]:
    """The published model: f = ReLU(x W_enc + b_enc), x_hat = f W_dec + b_dec."""
    latents = np.maximum(x @ params["W_enc"] + params["b_enc"], 0)
    return latents, latents @ params["W_dec"] + params["b_dec"]


def _published_backward(params: Params, x: Array, lam: float, on_weights: bool) -> Params:
    latents, x_hat = published_forward(params, x)
    d_x_hat = 2 * (x_hat - x) / len(x)
    d_latents = d_x_hat @ params["W_dec"].T + (0 if on_weights else lam / len(x))
    d_pre = d_latents * (latents > 0)
    d_W_enc = x.T @ d_pre
    return {
        "W_enc": d_W_enc + lam * np.sign(params["W_enc"]) / len(x) if on_weights else d_W_enc,
        "b_enc": d_pre.sum(axis=0),
        "W_dec": latents.T @ d_x_hat,
        "b_dec": d_x_hat.sum(axis=0),
    }


def run_published_script(
    x: Float[Array, "n_samples d_in"],
    gradients: Callable[[Params, Array, float], Params] = published_gradients,
    *,
    d_sae: int = 128,
    lam: float = 0.03,
    lr: float = 0.01,
    steps: int = 4000,
    init_scale: float = 0.1,
    seed: int = 0,
    progress: bool = False,
) -> Params:
    """The published recipe: all samples in every step, plain gradient descent, decoder rows set back to length 1, no resampling.

    The details that the description leaves open (how the weights start, 0.1 here) change which directions are found, not how many.
    """
    rng = np.random.default_rng([seed, START_STREAM])
    d_in = x.shape[1]
    params = {
        "W_enc": init_scale * rng.normal(size=(d_in, d_sae)),
        "b_enc": np.zeros(d_sae),
        "W_dec": random_directions(rng, d_sae, d_in),
        "b_dec": np.zeros(d_in),
    }
    params = {name: value.astype(x.dtype) for name, value in params.items()}
    for _ in tqdm(range(steps), disable=not progress, desc="published script"):
        grads = gradients(params, x, lam)
        params = {name: value - lr * grads[name] for name, value in params.items()}
        params["W_dec"] = _unit(params["W_dec"])
    return params


# -- encoders that iterate ------------------------------------------------------------------------------------


def ista_encode(
    x: Float[Array, "batch d"],
    W_dec: Float[Array, "d_sae d"],
    lam: float,
    n_steps: int = 50,
    *,
    support: Bool[Array, "batch d_sae"] | None = None,
    start: Float[Array, "batch d_sae"] | None = None,
    accelerate: bool = True,
) -> Float[Array, "batch d_sae"]:
    """Non-negative codes that minimise |x - f W_dec|^2 + lam sum f, by proximal gradient steps.

    Each step is `f <- ReLU(f - step * gradient)`. Started from zero the first one is ReLU(x W_dec^T / L - lam / 2L): the
    one-layer encoder of an SAE. (F)ISTA: Beck & Teboulle 2009; as an encoder: Gregor & LeCun 2010.

    Args:
        support: where codes may be non-zero; everywhere by default.
        accelerate: FISTA's momentum; False gives plain ISTA.
    """
    gram = W_dec @ W_dec.T
    rate = 1 / float(np.linalg.norm(gram, 2))  # a longer step than 1 / the largest curvature would overshoot
    result = np.empty((len(x), len(W_dec)), x.dtype)
    # Samples are independent: small groups keep the temporaries in the cache (3 to 10 times faster than all at once).
    size = max(16, GROUP_BYTES // (len(W_dec) * x.itemsize))
    for group in (slice(i, i + size) for i in range(0, len(x), size)):
        drive = x[group] @ W_dec.T - float(lam) / 2  # a numpy float64 would turn float32 arrays into float64
        allowed = None if support is None else support[group]
        codes = np.zeros_like(drive) if start is None else start[group]
        ahead, t = codes, 1.0
        for _ in range(n_steps):
            new = np.maximum(ahead + rate * (drive - ahead @ gram), 0)
            if allowed is not None:
                new *= allowed
            t_new = (1 + math.sqrt(1 + 4 * t * t)) / 2 if accelerate else 1.0
            ahead = new + ((t - 1) / t_new) * (new - codes) if accelerate else new
            codes, t = new, t_new
        result[group] = codes
    return result


def refit_on_support(
    x: Float[Array, "batch d"],
    W_dec: Float[Array, "d_sae d"],
    latents: Float[Array, "batch d_sae"],
    n_steps: int = 50,
    accelerate: bool = True,
) -> Float[Array, "batch d_sae"]:
    """Least squares with codes that stay non-negative and zero where `latents` are: undoes L1's shrinkage."""
    return ista_encode(x, W_dec, 0.0, n_steps, support=latents > 0, start=latents, accelerate=accelerate)


def iterate_encoder(
    x: Float[Array, "batch d"], W_dec: Float[Array, "d_sae d"], lam: float, n_steps: int, n_refit: int
) -> Float[Array, "batch d_sae"]:
    """`n_steps` of ISTA from zero find the support, `n_refit` steps without the penalty set the values on it."""
    latents = ista_encode(x, W_dec, lam, n_steps, accelerate=False)
    return refit_on_support(x, W_dec, latents, n_refit, accelerate=False)


def gradient_pursuit_encode(
    x: Float[Array, "batch d"],
    W_dec: Float[Array, "d_sae d"],
    max_active: int = 6,
    tolerance: float = 0.1,
    n_inner: int = 10,
) -> Float[Array, "batch d_sae"]:
    """Add the row that best fits the residual, then improve all chosen codes by gradient steps; repeat (Blumensath & Davies 2008).

    A sample is finished when its squared residual is below `tolerance`, or `max_active` rows are in use. Codes are non-negative.
    """
    gram = W_dec @ W_dec.T
    drive = x @ W_dec.T
    energy = (x**2).sum(axis=1)
    codes = np.zeros_like(drive)
    support = np.zeros(drive.shape, dtype=bool)
    everyone = np.arange(len(x))
    for _ in range(max_active):
        fit = codes @ gram
        open_ = energy - (codes * (2 * drive - fit)).sum(axis=1) > tolerance
        wish = np.where(support, -np.inf, drive - fit)
        best = wish.argmax(axis=1)
        grow = open_ & (wish[everyone, best] > 0)
        if not grow.any():
            break
        support[everyone[grow], best[grow]] = True
        for _ in range(n_inner):
            gradient = (drive - codes @ gram) * support
            along = (gradient * (gradient @ gram)).sum(axis=1)
            step = (gradient**2).sum(axis=1) / np.maximum(along, 1e-12)  # exact line search
            codes = np.maximum(codes + step[:, None] * gradient, 0)
    return codes


def update_dictionary(
    W_dec: Float[Array, "d_sae d"],
    latents: Float[Array, "batch d_sae"],
    x: Float[Array, "batch d"],
    n_sweeps: int = 3,
    min_energy: float = 1e-3,
) -> Float[Array, "d_sae d"]:
    """Least-squares dictionary for fixed codes, one unit row at a time (Mairal et al. 2010, Algorithm 2).

    Rows whose codes have a mean square below `min_energy` are left as they are.
    """
    W_dec = W_dec.copy()
    together, drive = latents.T @ latents, latents.T @ x
    in_use = np.flatnonzero(np.diag(together) > min_energy * len(x))
    for _ in range(n_sweeps):
        for j in in_use:
            row = W_dec[j] + (drive[j] - together[j] @ W_dec) / together[j, j]
            W_dec[j] = row / max(np.linalg.norm(row), 1e-9)
    return W_dec


@dataclass
class PursuitSAE:
    """A dictionary with an encoder that iterates: FISTA with penalty `lam` finds the support, a refit sets the values."""

    W_dec: Float[Array, "d_sae d"]
    lam: float = 0.8
    n_steps: int = 50
    n_refit: int = 50
    history: dict[str, list[float]] = field(default_factory=dict)

    def encode(self, x: Float[Array, "batch d"]) -> Float[Array, "batch d_sae"]:
        """Latents of `x`."""
        found = ista_encode(x, self.W_dec, self.lam, self.n_steps)
        return refit_on_support(x, self.W_dec, found, self.n_refit)

    def decode(self, latents: Float[Array, "batch d_sae"]) -> Float[Array, "batch d"]:
        """Reconstruction from latents."""
        return latents @ self.W_dec


def train_pursuit_sae(
    x: Float[Array, "n_samples d"],
    d_sae: int,
    *,
    d_start: int | None = None,
    lams: tuple[float, float, float] = (2.0, 1.0, 0.8),
    rounds: tuple[int, int, int] = (60, 2, 25),
    batch_size: int = 3000,
    n_steps: int = 30,
    seed: int = 0,
    directions: Float[Array, "n d"] | None = None,
    progress: bool = False,
) -> PursuitSAE:
    """Learn a dictionary with an encoder that iterates. Three stages:

    1. `d_start` rows (1.5 times `d_sae` by default) that start as samples; codes by FISTA with a penalty that falls from
       `lams[0]` to `lams[1]` (a strong one keeps only the sure coefficients, so rows snap to features); unused rows
       restart at badly explained samples.
    2. The row that carries the least energy is dropped and the others settle for `rounds[1]` rounds, until `d_sae` are left.
    3. Codes at `lams[2]`, refitted on their support, remove the last bias that the penalty gives the rows.
    """
    rng = np.random.default_rng([seed, START_STREAM])
    d_start = max(d_sae, d_start or round(1.5 * d_sae))
    W_dec = _unit(x[rng.choice(len(x), d_start, replace=False)])
    history: dict[str, list[float]] = {"round": [], "d_sae": [], "fvu": [], "l0": []}
    n_drop = d_start - d_sae
    bar = tqdm(total=rounds[0] + n_drop * rounds[1] + rounds[2], disable=not progress, desc="pursuit dictionary")

    def settle(W_dec: Array, lam: float, refit: bool = False) -> tuple[Array, Array, Array]:
        batch = x[rng.choice(len(x), min(batch_size, len(x)), replace=False)]
        latents = ista_encode(batch, W_dec, lam, n_steps)
        if refit:
            latents = refit_on_support(batch, W_dec, latents)
        seen = {
            "round": len(history["round"]),
            "d_sae": len(W_dec),
            "fvu": fraction_variance_unexplained(batch, latents @ W_dec),
            "l0": l0(latents),
        }
        if directions is not None:
            seen["recovered"] = match_features(W_dec, directions).count(0.9)
        for name, value in seen.items():
            history.setdefault(name, []).append(value)
        bar.update()
        return update_dictionary(W_dec, latents, batch), latents, batch

    for lam in np.geomspace(lams[0], lams[1], rounds[0]):
        W_dec, latents, batch = settle(W_dec, float(lam))
        if len(history["round"]) < 0.7 * rounds[0]:
            W_dec = _restart_unused(rng, W_dec, latents, batch)
    for _ in range(n_drop):
        W_dec = np.delete(W_dec, (latents**2).sum(axis=0).argmin(), axis=0)
        for _ in range(rounds[1]):
            W_dec, latents, batch = settle(W_dec, lams[1])
    for _ in range(rounds[2]):
        W_dec, latents, batch = settle(W_dec, lams[2], refit=True)
    bar.close()
    return PursuitSAE(W_dec, lams[2], history=history)


def _restart_unused(rng: np.random.Generator, W_dec: Array, latents: Array, x: Array, min_rate: float = 2e-3) -> Array:
    unused = np.flatnonzero((latents > 0).mean(axis=0) < min_rate)
    if len(unused):
        residual = x - latents @ W_dec
        weight = (residual.astype(np.float64) ** 2).sum(axis=1) ** 2
        W_dec = W_dec.copy()
        W_dec[unused] = _unit(residual[rng.choice(len(x), len(unused), replace=False, p=weight / weight.sum())])
    return W_dec


def support_scores(
    true: Float[Array, "batch n"], found: Float[Array, "batch n"], at_least: float = 0.0
) -> dict[str, float]:
    """Precision, recall and F1 of the active set, over all samples together; `true` counts where it is above zero."""
    actual, claimed = true > 0, found > at_least
    hits = float((actual & claimed).sum())
    precision, recall = hits / max(claimed.sum(), 1), hits / max(actual.sum(), 1)
    return {"precision": precision, "recall": recall, "f1": 2 * hits / max(actual.sum() + claimed.sum(), 1)}
