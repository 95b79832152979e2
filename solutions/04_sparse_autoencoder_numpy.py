# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # 04 · A sparse autoencoder in NumPy
#
#
#
# *Thirty-two directions hidden in eight dimensions. Light bars: how many of them a dictionary holds at cosine above 0.9; dark bars: above 0.99. A published script
# finds no more than random vectors do, and picking data points at random beats it by far. You will find its bug, and then build what the two bars at the bottom need.
# All numbers come from this lesson (seed 0).*
#
# Lessons 02 and 03 showed that a layer can store more features than it has dimensions. Now turn the question round: given only the activations, **can we get the
# features back?** The classical name is *dictionary learning*; the tool of choice for language models is the **sparse autoencoder** (SAE). In this lesson you build one with nothing but
# NumPy: every gradient by hand, the optimiser too. And you learn to measure honestly, because here, for once, the truth is known.
#
# **After this lesson you can**
#
# - write down an SAE, its loss and every gradient, and check gradients by finite differences;
# - train it with Adam and a unit-norm decoder, and say what goes wrong without either;
# - replace the L1 penalty by TopK, and revive dead latents;
# - say how many true features a dictionary has found, and how many it would have found by chance;
# - explain why a one-layer encoder cannot have both good recovery and good reconstruction in a crowded space, and build one that can.
#
# **Time:** about three hours for the thirteen exercises. All cells of the solved lesson run in one to two minutes on one core; no GPU needed.
# **Before:** lesson 02. PyTorch is not needed here, only NumPy and the chain rule.
#
# **Notation.** Activations `x [batch, d_in]`, latents `f [batch, d_sae]`, reconstruction `x_hat`. Weights as in today's libraries: `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`, so a
# latent's direction is a **row** of `W_dec`. Older papers store the transposes.

# %% tags=["setup"]
import numpy as np
import pandas as pd
import plotly.io as pio
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array
from scipy.optimize import linear_sum_assignment
from tqdm.auto import tqdm

from course_utils import check, hint, progress, solution
from course_utils.sae import numpy_sae
from course_utils.sae.numpy_sae import (
    adam_state,
    init_params,
    numerical_gradients,
    published_gradients,
    random_directions,
)
from course_utils.settings import quick
from course_utils.viz import numpy_sae as draw

pio.renderers.default = "plotly_mimetype"  # figures of about 20 kB that need no network
SEEDS = range(2) if quick() else range(5)

# %% [markdown]
# `check("04.1", your_function)` says at once what agrees and what does not; `hint("04.1")` gives a first nudge, and a plainer one each time you ask;
# `solution("04.1")` shows a worked answer; `progress()` shows how far you are.
#
# ## 1 · Activations whose truth is known
#
# There are $n = 32$ features, each a unit vector $v_i$ in $d$ dimensions. A sample switches a few of them on:
#
# $$x = \sum_{i \in A} c_i\, v_i + \varepsilon, \qquad |A| \in \{2, 3, 4\}, \quad c_i \sim \mathcal N(1.5,\ 0.8^2), \quad \varepsilon \sim \mathcal N(0,\ 0.05^2 I)$$
#
# This is the data of a well-known published toy script, which uses $d = 8$. We start with an easier twin, $d = 16$. Everything else is the same.

# %% [markdown]
# ### Exercise 04.1: Activations whose truth is known
#
# Draw, for every sample: how many features are active (uniform on `min_active ... max_active`, **both included**), which ones (without repetition), and a coefficient for each. Return `x` and the
# coefficients, in this order (a coefficient is 0 where its feature is off). Take all randomness from `rng`; float32 or float64, as you like. A coefficient from $\mathcal N(1.5, 0.8^2)$ is negative 3% of the time: leave those as they are.


# %% answer="04.1"
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
    """Sparse sums of the directions plus noise: the activations x, and the coefficients behind them."""
    ### BEGIN SOLUTION
    n, d = directions.shape
    n_active = rng.integers(min_active, max_active + 1, size=n_samples)
    rank = rng.random((n_samples, n)).argsort(axis=1).argsort(axis=1)  # a random order of the features for each sample
    active = rank < n_active[:, None]
    coefficients = active * rng.normal(mean, std, size=(n_samples, n))
    x = coefficients @ directions + noise * rng.normal(size=(n_samples, d))
    return x, coefficients
    ### END SOLUTION


# %% check="04.1"
check("04.1", make_superposed_activations)


# %%
def make_problem(seed: int, d: int, n: int = 32, n_samples: int = 20_000):
    """Activations in float32, coefficients, and the true directions."""
    rng = np.random.default_rng(seed)
    directions = random_directions(rng, n, d)
    x, coefficients = make_superposed_activations(rng, directions, n_samples)
    return x.astype(np.float32), coefficients, directions


x16, c16, V16 = make_problem(seed=0, d=16)
x8, c8, V8 = make_problem(seed=0, d=8)
draw.readout_histograms(
    {"32 features in 16 dimensions": (x16 @ V16.T, c16), "32 features in 8 dimensions": (x8 @ V8.T, c8)},
    "A dot product cannot tell an active feature from the others' echo",
    subtitle="x · v for features that are active and for features that are not: with half the dimensions the two overlap much more",
)

# %%
for name, x, c, V in (("d = 16", x16, c16, V16), ("d = 8 ", x8, c8, V8)):
    overlap = np.abs(V @ V.T - np.eye(32)).max(axis=1)
    active = c > 0
    readout = x @ V.T
    wrong = np.mean(readout[active][:, None] < np.random.default_rng(0).choice(readout[~active], (active.sum(), 1)))
    print(
        f"{name}: largest |cosine| between two features, on average {overlap.mean():.2f}; an inactive feature reads higher than an active one {wrong:.0%} of the time"
    )

# %% [markdown]
# **Questions**
#
# 1. A random pair of directions in $d$ dimensions has a cosine of standard deviation $1/\sqrt d$ (lesson 01). What does that say about the *echo* that three active features leave in the readout of a fourth?
# 2. Knowing all 32 directions exactly, why is it still hard to say which features are active?
#
# <details><summary>Answers</summary>
#
# 1. Its standard deviation is about $\sqrt{3 \cdot (1.5^2 + 0.8^2)} / \sqrt d = 2.9 / \sqrt d$: 0.74 in 16 dimensions, 1.04 in 8. An active feature adds 1.5 on average. In 8 dimensions the echo is nearly as large as the signal.
# 2. Because each readout contains the echoes of all active features. With the directions known, the *set* of active features has to be found, jointly. Keep this in mind for section 7.
# </details>

# %% [markdown]
# ## 2 · The sparse autoencoder
#
# $$f = \mathrm{ReLU}\big((x - b_{dec})\, W_{enc} + b_{enc}\big) \qquad\qquad \hat x = f\, W_{dec} + b_{dec}$$
#
# There are more latents than dimensions, so without further ado the problem would be solved by any number of dictionaries. **Sparsity** picks one: reconstruct, but with few latents
# (Bricken et al. 2023; the idea is from Olshausen & Field 1996).

# %% [markdown]
# ### Exercise 04.2: The forward pass
#
# `params` is a dict with `W_enc`, `b_enc`, `W_dec`, `b_dec`. Return latents and reconstruction, in this order.


# %% answer="04.2"
def sae_forward(
    params: dict[str, Array], x: Float[Array, "batch d_in"]
) -> tuple[Float[Array, "batch d_sae"], Float[Array, "batch d_in"]]:
    """Latents and reconstruction."""
    ### BEGIN SOLUTION
    latents = np.maximum((x - params["b_dec"]) @ params["W_enc"] + params["b_enc"], 0)
    return latents, latents @ params["W_dec"] + params["b_dec"]
    ### END SOLUTION


# %% check="04.2"
check("04.2", sae_forward)

# %% [markdown]
# The loss has a term for each wish. The number of active latents (L0) has no useful gradient, so the L1 norm stands in for it:
#
# $$L = \frac1B \sum_{b=1}^{B} \Big[ \underbrace{\sum_{i} (x_{bi} - \hat x_{bi})^2}_{\text{reconstruct}} + \lambda \underbrace{\sum_j f_{bj}}_{\text{with little}} \Big]$$
#
# Mind the conventions: the squared error is **summed** over dimensions and **averaged** over samples. Some code averages over dimensions too, some has a ½ before the square. Then the same $\lambda$ means something else.

# %% [markdown]
# ### Exercise 04.3: The loss


# %% answer="04.3"
def sae_loss(
    x: Float[Array, "batch d_in"], x_hat: Float[Array, "batch d_in"], latents: Float[Array, "batch d_sae"], lam: float
) -> float:
    """Squared error summed over dimensions, plus lam times the L1 norm of the latents; averaged over samples."""
    ### BEGIN SOLUTION
    squared_error = ((x - x_hat) ** 2).sum(axis=1)
    return float((squared_error + lam * np.abs(latents).sum(axis=1)).mean())
    ### END SOLUTION


# %% check="04.3"
check("04.3", sae_loss)

# %% [markdown]
# ### Every gradient by hand
#
# Write $z = x - b_{dec}$, $a = z W_{enc} + b_{enc}$, $f = \mathrm{ReLU}(a)$, $\hat x = f W_{dec} + b_{dec}$, and walk back from the loss. $\delta_y$ stands for $\partial L / \partial y$ and always has the shape of $y$.
#
# $$\delta_{\hat x} = \tfrac{2}{B} (\hat x - x)$$
#
# $\hat x$ is linear in $f$, $W_{dec}$ and $b_{dec}$; the penalty adds $\lambda / B$ to every latent's gradient (latents are never negative, so $|f| = f$):
#
# $$\delta_{W_{dec}} = f^\top \delta_{\hat x} \qquad\quad \delta_f = \delta_{\hat x} W_{dec}^\top + \tfrac{\lambda}{B}$$
#
# The ReLU passes a gradient only where it was on:
#
# $$\delta_a = \delta_f \odot [\,a > 0\,]$$
#
# $a$ is linear in $z$, $W_{enc}$ and $b_{enc}$, and $\delta_z = \delta_a W_{enc}^\top$:
#
# $$\delta_{W_{enc}} = z^\top \delta_a \qquad\quad \delta_{b_{enc}} = \sum_b \delta_a$$
#
# Last, $b_{dec}$ is used **twice**: with a plus at the end and with a minus in $z$. Gradients of several paths add:
#
# $$\delta_{b_{dec}} = \sum_b \delta_{\hat x} - \sum_b \delta_z = \sum_b \delta_{\hat x} - \Big(\sum_b \delta_a\Big) W_{enc}^\top$$

# %% [markdown]
# ### Exercise 04.4: Every gradient by hand
#
# Return a dict with the same names and shapes as `params`. (`@` and `.T` are all you need; $[\,a > 0\,]$ is 1 where $a$ is positive, else 0.)


# %% answer="04.4"
def sae_gradients(params: dict[str, Array], x: Float[Array, "batch d_in"], lam: float) -> dict[str, Array]:
    """The gradient of sae_loss by each parameter."""
    ### BEGIN SOLUTION
    z = x - params["b_dec"]
    latents = np.maximum(z @ params["W_enc"] + params["b_enc"], 0)
    x_hat = latents @ params["W_dec"] + params["b_dec"]
    batch = len(x)
    d_x_hat = 2 * (x_hat - x) / batch
    d_latents = d_x_hat @ params["W_dec"].T + lam / batch
    d_pre = d_latents * (latents > 0)
    return {
        "W_enc": z.T @ d_pre,
        "b_enc": d_pre.sum(axis=0),
        "W_dec": latents.T @ d_x_hat,
        "b_dec": d_x_hat.sum(axis=0) - d_pre.sum(axis=0) @ params["W_enc"].T,
    }
    ### END SOLUTION


# %% check="04.4"
check("04.4", sae_gradients)

# %% [markdown]
# Never trust a gradient, yours or a library's, that has not been compared with **finite differences**: move one entry by $\pm\epsilon$ and look at the loss. In float64 with $\epsilon = 10^{-6}$ about eight digits agree.
# (It fails at a kink: if a pre-activation lies within $\epsilon$ of zero, the two sides see different slopes.) PyTorch's autograd gives the same again.

# %%
rng = np.random.default_rng(1)
small = {name: rng.normal(size=value.shape) for name, value in init_params(rng, 4, 7).items()}
data, lam = rng.normal(size=(9, 4)), 0.8


def loss_of(params):
    latents, x_hat = sae_forward(params, data)
    return sae_loss(data, x_hat, latents, lam)


def autograd(params):
    import torch

    p = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    x = torch.tensor(data)
    latents = torch.relu((x - p["b_dec"]) @ p["W_enc"] + p["b_enc"])
    x_hat = latents @ p["W_dec"] + p["b_dec"]
    (((x - x_hat) ** 2).sum(1).mean() + lam * latents.sum(1).mean()).backward()
    return {name: leaf.grad.numpy() for name, leaf in p.items()}


by_hand, by_differences, by_torch = (
    sae_gradients(small, data, lam),
    numerical_gradients(loss_of, small),
    autograd(small),
)
pd.DataFrame(
    {
        "typical size": {name: np.abs(g).mean() for name, g in by_hand.items()},
        "largest difference from finite differences": {
            name: np.abs(g - by_differences[name]).max() for name, g in by_hand.items()
        },
        "largest difference from autograd": {name: np.abs(g - by_torch[name]).max() for name, g in by_hand.items()},
    }
).style.format("{:.1e}")

# %% [markdown]
# ## 3 · Training
#
# Plain gradient descent gives every parameter the same rate. A latent that fires on one sample in ten gets a tenth of the gradient of one that always fires, and learns ten times more slowly. **Adam** divides each
# parameter's step by the recent size of its own gradient (Kingma & Ba 2015). With $g$ the gradient and $t = 1, 2, \dots$ the step:
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2 \qquad \hat m = \frac{m}{1 - \beta_1^t} \quad \hat v = \frac{v}{1 - \beta_2^t} \qquad \theta \leftarrow \theta - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon}$$
#
# $m$ and $v$ start at zero. After $t$ steps a constant gradient $g$ has made $m = (1 - \beta_1^t)\, g$: dividing by that bracket is the *bias correction*.

# %% [markdown]
# ### Exercise 04.5: Adam
#
# `state` is `{"step": t, "m": {...}, "v": {...}}` with `t` the steps taken *so far*, 0 before the first. Return new parameters and a new state; change nothing in place,
# neither arrays nor dicts: the training loop starts several runs from the same parameters.


# %% answer="04.5"
def adam_step(params, grads, state, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8):
    """One step of Adam: the new parameters and the new state."""
    ### BEGIN SOLUTION
    step = state["step"] + 1
    new, m, v = {}, {}, {}
    for name, value in params.items():
        m[name] = beta1 * state["m"][name] + (1 - beta1) * grads[name]
        v[name] = beta2 * state["v"][name] + (1 - beta2) * grads[name] ** 2
        m_hat = m[name] / (1 - beta1**step)
        v_hat = v[name] / (1 - beta2**step)
        new[name] = value - lr * m_hat / (np.sqrt(v_hat) + eps)
    return new, {"step": step, "m": m, "v": v}
    ### END SOLUTION


# %% check="04.5"
check("04.5", adam_step)

# %% [markdown]
# ### How the L1 penalty is cheated
#
# Take any SAE and any $c > 1$. Make every latent $c$ times smaller ($W_{enc}, b_{enc} \to W_{enc}/c,\ b_{enc}/c$; the ReLU does not mind) and every decoder row $c$ times longer. $\hat x$ is the same, the penalty is $c$ times smaller, and **not one latent
# has been switched off**. Training finds this at once. So the decoder's rows are held at length 1.
#
# That takes two things. After each step the rows are set back to length 1. And *before* each step the gradient's component along each row is removed:
#
# $$g_j \leftarrow g_j - (g_j \cdot \hat w_j)\, \hat w_j$$
#
# That component only asks for a longer or shorter row, which the normalisation would undo anyway. But Adam would not know: the component fills $m$ and $v$, and the part of the step that *turns* the row drowns in it.

# %% [markdown]
# ### Exercise 04.6: A decoder of unit length
#
# Return `W_dec` with rows of length 1, and `grad` without its part along each (unit) row. Rows may come with any length; a row of zeros stays zero.


# %% answer="04.6"
def normalise_decoder(
    W_dec: Float[Array, "d_sae d_in"], grad: Float[Array, "d_sae d_in"]
) -> tuple[Float[Array, "d_sae d_in"], Float[Array, "d_sae d_in"]]:
    """Rows of length 1, and the gradient across them."""
    ### BEGIN SOLUTION
    length = np.linalg.norm(W_dec, axis=1, keepdims=True)
    rows = W_dec / np.where(length > 0, length, 1)
    along = (grad * rows).sum(axis=1, keepdims=True)
    return rows, grad - along * rows
    ### END SOLUTION


# %% check="04.6"
check("04.6", normalise_decoder)

# %% [markdown]
# Now the training loop. It uses your answers; the last two (TopK, resampling) are only needed from section 4 on. Three habits of SAE training are in it: $\lambda$ rises from zero over the first fifth (latents should first get the chance to be useful),
# the learning rate falls to zero over the last 30%, and no latent is resampled after 70%.


# %%
def train(
    x,
    d_sae,
    lam=0.0,
    k=None,
    steps=3000,
    lr=0.01,
    batch_size=256,
    decoder="unit",
    resample_every=None,
    seed=0,
    params=None,
):
    """Train an L1 SAE (lam) or a TopK SAE (k). Returns the parameters and the history.

    decoder: "unit" (rows of length 1, gradient projected), "unit, gradient not projected", or "free".
    """
    rng = np.random.default_rng([seed, 1])  # not default_rng(seed): see section 5
    params = params or init_params(rng, x.shape[1], d_sae)
    state = adam_state(params)
    history = {"step": [], "loss": [], "l0": [], "fvu": []}
    fired = []
    for step in tqdm(range(1, steps + 1), desc="training", leave=False):
        batch = x[rng.integers(0, len(x), batch_size)]
        lam_now = lam * min(1, step / (0.2 * steps))
        if k is None:
            latents, x_hat = sae_forward(params, batch)
            grads = sae_gradients(params, batch, lam_now)
        else:
            latents, x_hat, grads = topk_forward_backward(params, batch, k)
        if decoder == "unit":
            _, grads["W_dec"] = normalise_decoder(params["W_dec"], grads["W_dec"])
        params, state = adam_step(params, grads, state, lr * min(1, (steps - step + 1) / (0.3 * steps)))
        if decoder != "free":
            params["W_dec"], _ = normalise_decoder(params["W_dec"], grads["W_dec"])
        fired.append((latents > 0).any(axis=0))
        if resample_every and step % resample_every == 0 and step <= 0.7 * steps:
            pool = x[rng.integers(0, len(x), 2048)]
            params, state = resample_dead_latents(
                rng, params, state, pool, encode(params, pool, k), np.stack(fired[-resample_every:])
            )
        if step % 50 == 0 or step == 1:
            history["step"].append(step)
            history["loss"].append(sae_loss(batch, x_hat, latents, lam_now))
            history["l0"].append((latents > 0).sum(axis=1).mean())
            history["fvu"].append(((batch - x_hat) ** 2).sum() / ((batch - batch.mean(axis=0)) ** 2).sum())
    return params, history


def encode(params, x, k=None):
    """The latents of x."""
    return sae_forward(params, x)[0] if k is None else topk_forward_backward(params, x, k)[0]


l1_twin, l1_twin_history = train(x16, d_sae=64, lam=1.0)
free, free_history = train(x16, d_sae=64, lam=1.0, decoder="free")
unprojected, unprojected_history = train(x16, d_sae=64, lam=1.0, decoder="unit, gradient not projected")
draw.training_curves(
    {"unit decoder": l1_twin_history, "gradient not projected": unprojected_history, "free decoder": free_history},
    "A free decoder has the lowest loss and the least sparsity",
    subtitle="L1 SAE with 64 latents, λ = 1, on 32 features in 16 dimensions",
)

# %%
pd.DataFrame(
    {
        name: {
            "mean length of a decoder row": np.linalg.norm(params["W_dec"], axis=1).mean(),
            "mean sum of the latents (L1)": encode(params, x16).sum(axis=1).mean(),
            "mean number of active latents (L0)": (encode(params, x16) > 0).sum(axis=1).mean(),
        }
        for name, params in {
            "unit decoder": l1_twin,
            "gradient not projected": unprojected,
            "free decoder": free,
        }.items()
    }
).style.format("{:.2f}")

# %% [markdown]
# **Questions**
#
# 1. In the middle panel, which run would you have picked by its loss alone?
# 2. What has the free decoder done to the penalty?
# 3. Three features are active on average. Why do the sparse runs end above 3 latents?
#
# <details><summary>Answers</summary>
#
# 1. The free decoder: its loss ends at 0.75 against 3.93. The loss is lower *because* the penalty has been cheated, not because anything was found.
# 2. Its rows have grown to a mean length of 5.9, and the sum of the latents has shrunk to 0.64 (unit decoder: 2.57), while 14.4 latents stay active. Weight decay on the decoder, or an L1 term weighted with the row lengths (Conerly et al. 2024), are other ways to close the hole.
# 3. A one-layer encoder answers to echoes too. With a unit decoder L0 is 5.1 here.
# </details>

# %% [markdown]
# ## 4 · TopK, and dead latents
#
# L1 has a side effect: it does not only switch latents off, it makes those that stay on smaller. For one active latent with a unit row and coefficient $c$, minimise $(c - f)^2 + \lambda f$: $f = c - \lambda/2$. **Shrinkage** is built in. TopK (Makhzani & Frey 2013;
# Gao et al. 2024) fixes the *number* instead: keep the $k$ largest pre-activations of each sample, no penalty at all.

# %% [markdown]
# ### Exercise 04.7: TopK, forward and backward
#
# Keep each sample's `k` largest pre-activations (by value, not by absolute value), then the ReLU. Return latents, reconstruction, and the gradients of the mean squared error: TopK passes gradients only to latents that were kept and are positive. *Which* latents are kept jumps from one to another, but between jumps
# the function is as smooth as before, so nothing else changes in the backward pass.


# %% answer="04.7"
def topk_forward_backward(
    params: dict[str, Array], x: Float[Array, "batch d_in"], k: int
) -> tuple[Float[Array, "batch d_sae"], Float[Array, "batch d_in"], dict[str, Array]]:
    """Latents, reconstruction, and the gradients of the squared error (summed over dimensions, averaged over samples)."""
    ### BEGIN SOLUTION
    z = x - params["b_dec"]
    pre = z @ params["W_enc"] + params["b_enc"]
    largest = np.argpartition(pre, -k, axis=1)[:, -k:]
    kept = np.zeros(pre.shape, dtype=bool)
    np.put_along_axis(kept, largest, True, axis=1)
    latents = np.maximum(pre, 0) * kept
    x_hat = latents @ params["W_dec"] + params["b_dec"]

    d_x_hat = 2 * (x_hat - x) / len(x)
    d_pre = (d_x_hat @ params["W_dec"].T) * (latents > 0)
    grads = {
        "W_enc": z.T @ d_pre,
        "b_enc": d_pre.sum(axis=0),
        "W_dec": latents.T @ d_x_hat,
        "b_dec": d_x_hat.sum(axis=0) - d_pre.sum(axis=0) @ params["W_enc"].T,
    }
    return latents, x_hat, grads
    ### END SOLUTION


# %% check="04.7"
check("04.7", topk_forward_backward)

# %% [markdown]
# A latent that never fires gets no gradient (look at $\delta_a$), so it never comes back: it is **dead**. In small, well-started SAEs this is rare; in large ones, or after a learning rate that was too high, most latents can die. *Resampling* (Bricken et al. 2023) points a dead latent at
# something the dictionary still gets wrong.

# %% [markdown]
# ### Exercise 04.8: Resampling dead latents
#
# - A latent is dead if it fired at **no** step of the window `fired [window, d_sae]`. (`latents` are needed for the residuals only.)
# - Each dead latent draws **its own** sample, with probability proportional to the **squared loss** of that sample; its loss is its squared error $\|x - \hat x\|^2$.
# - Decoder row: the unit vector along the sample's residual $x - \hat x$. Encoder column: the same direction, at 0.2 times the mean length of the living columns. `b_enc`: 0.
# - Adam forgets the latent: zeros in `m` and `v` of `W_enc`, `b_enc`, `W_dec`.
#
# Where all are dead, any length will do for the columns. Return new `params` and `state`; change nothing in place.


# %% answer="04.8"
def resample_dead_latents(
    rng: np.random.Generator,
    params: dict[str, Array],
    state: dict,
    x: Float[Array, "n_samples d_in"],
    latents: Float[Array, "n_samples d_sae"],
    fired: Bool[Array, "window d_sae"],
) -> tuple[dict[str, Array], dict]:
    """Point each dead latent at a sample that is reconstructed badly. `latents` are those of `x`."""
    ### BEGIN SOLUTION
    params = {name: value.copy() for name, value in params.items()}
    state = {
        "step": state["step"],
        "m": {name: value.copy() for name, value in state["m"].items()},
        "v": {name: value.copy() for name, value in state["v"].items()},
    }
    alive = fired.any(axis=0)
    dead = np.flatnonzero(~alive)
    if len(dead) == 0:
        return params, state
    residual = x - (latents @ params["W_dec"] + params["b_dec"])
    squared_loss = (residual.astype(np.float64) ** 2).sum(axis=1) ** 2
    chosen = residual[rng.choice(len(x), size=len(dead), p=squared_loss / squared_loss.sum())]
    direction = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    length = np.linalg.norm(params["W_enc"][:, alive], axis=0).mean()
    params["W_dec"][dead] = direction
    params["W_enc"][:, dead] = 0.2 * length * direction.T
    params["b_enc"][dead] = 0
    for moments in (state["m"], state["v"]):
        moments["W_dec"][dead] = 0
        moments["W_enc"][:, dead] = 0
        moments["b_enc"][dead] = 0
    return params, state
    ### END SOLUTION


# %% check="04.8"
check("04.8", resample_dead_latents)

# %% [markdown]
# On the twin a TopK SAE loses no latent to speak of, so we make some die: 24 of the 32 latents start with a bias of −20.

# %%
topk_twin, topk_twin_history = train(x16, d_sae=32, k=3, resample_every=200)
sick = init_params(np.random.default_rng(7), 16, 32)
sick["b_enc"][8:] = -20
left_dead, left_dead_history = train(x16, d_sae=32, k=3, params=sick)
revived, revived_history = train(x16, d_sae=32, k=3, params=sick, resample_every=200)
alive = {
    name: int((encode(p, x16, 3) > 0).any(axis=0).sum())
    for name, p in {"healthy start": topk_twin, "24 dead, left": left_dead, "24 dead, resampled": revived}.items()
}
print("latents alive at the end:", alive)
draw.training_curves(
    {
        "healthy start": topk_twin_history,
        "24 dead, left dead": left_dead_history,
        "24 dead, resampled": revived_history,
    },
    "Resampling brings the dead back",
    subtitle="TopK SAE with 32 latents, k = 3, on 32 features in 16 dimensions; 24 latents start dead in two of the runs",
)

# %% [markdown]
# **Questions**
#
# 1. L1 and TopK losses cannot be compared. Which of the panels can be?
# 2. Why is the *residual* of a sample a better new direction than the sample itself?
#
# <details><summary>Answers</summary>
#
# 1. L0 and variance unexplained, and only together: at the same L0, less unexplained is better. The L1 run of section 3 left 0.16 unexplained at L0 5.1, the TopK run 0.10 at L0 3. Most of the L1 run's error is shrinkage.
# 2. The sample contains features that other latents have already found. What is left over is nearer to a feature that nobody has.
# </details>

# %% [markdown]
# ## 5 · What has been found? Matching, and chance
#
# We know the true directions, so we can ask. Which latent stands for which feature? Taking the best latent for each feature is too kind: one latent between two similar features would count for both. The **Hungarian algorithm** finds the one-to-one assignment
# $\pi$ with the largest sum of cosines:
#
# $$\max_\pi \sum_{i} \cos(v_i,\, w_{\pi(i)})$$

# %% [markdown]
# ### Exercise 04.9: Which latent is which feature?
#
# Return four things: for each true direction the index of its latent (−1 if there are too few latents and it gets none); the cosine with it (0 if it has none); the *mean max cosine*, the mean over directions of the best cosine with **any** latent; and the fraction of directions whose **own** latent has a cosine above the threshold.
# Rows of `W_dec` can have any length, also zero. A latent that points the opposite way does not count.


# %% answer="04.9"
def match_features(
    W_dec: Float[Array, "d_sae d"], directions: Float[Array, "n d"], threshold: float = 0.9
) -> tuple[Int[Array, "n"], Float[Array, "n"], float, float]:
    """Assignment, matched cosines, mean max cosine, fraction recovered."""

    ### BEGIN SOLUTION
    def unit(rows):
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(length > 0, length, 1)

    cosines = unit(directions) @ unit(W_dec).T
    rows, columns = linear_sum_assignment(-cosines)
    assignment = np.full(len(directions), -1)
    assignment[rows] = columns
    matched = np.zeros(len(directions))
    matched[rows] = cosines[rows, columns]
    return assignment, matched, float(cosines.max(axis=1).mean()), float((matched > threshold).mean())
    ### END SOLUTION


# %% check="04.9"
check("04.9", match_features)

# %%
draw.match_heatmaps(
    {
        "before training": init_params(np.random.default_rng([0, 1]), 16, 64)["W_dec"],
        "L1, 64 latents": l1_twin["W_dec"],
        "TopK, 32 latents": topk_twin["W_dec"],
    },
    V16,
    "Before training no direction has a latent; afterwards all or nearly all have one",
    subtitle="cosine of true directions with decoder rows; columns in the order of the matching, so that a found feature lies on the diagonal",
)


# %%
def found(W_dec, directions):
    """How many directions are matched at cosine > 0.9, > 0.95, > 0.99."""
    _, matched, _, _ = match_features(W_dec, directions)
    return [int((matched > threshold).sum()) for threshold in (0.9, 0.95, 0.99)]


twin = {
    "before training": init_params(np.random.default_rng([0, 1]), 16, 64),
    "L1, unit decoder": l1_twin,
    "L1, gradient not projected": unprojected,
    "L1, free decoder": free,
    "TopK": topk_twin,
    "TopK, 24 left dead": left_dead,
    "TopK, 24 resampled": revived,
}
pd.DataFrame({name: found(p["W_dec"], V16) for name, p in twin.items()}, index=["> 0.9", "> 0.95", "> 0.99"]).T

# %% [markdown]
# All 32 by L1, 31 by TopK. **Always look at "before training" too.** In the first version of this lesson that row said 32 of 32: the true directions came from `default_rng(0)`, and so did the
# starting weights, so that training *began* with the answer and every figure looked wonderful. The same seed gives the same numbers, whatever they are used for; hence the second number in
# `default_rng([seed, 1])`.
#
# But how much of that is skill? The more latents, and the fewer dimensions, the more directions are "found" by vectors that have learned nothing. A number without its **chance baseline** says little.

# %% [markdown]
# ### Exercise 04.10: What chance would recover
#
# Make `n_trials` dictionaries that have learned nothing, a new one each time, and score them: `n_latents` random unit vectors (evenly over the sphere), or, if `x` is given, `n_latents` different random samples of it. `score(dictionary, directions)` gives a number; return all of them as an array.


# %% answer="04.10"
def chance_baseline(
    rng: np.random.Generator,
    directions: Float[Array, "n d"],
    n_latents: int,
    score,
    x: Float[Array, "n_samples d"] | None = None,
    n_trials: int = 20,
) -> Float[Array, "n_trials"]:
    """Scores of dictionaries that have learned nothing."""
    ### BEGIN SOLUTION
    scores = []
    for _ in range(n_trials):
        if x is None:
            dictionary = rng.normal(size=(n_latents, directions.shape[1]))
            dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
        else:
            dictionary = x[rng.choice(len(x), size=n_latents, replace=False)]
        scores.append(score(dictionary, directions))
    return np.array(scores)
    ### END SOLUTION


# %% check="04.10"
check("04.10", chance_baseline)


# %%
def score(dictionary, directions):
    return 32 * match_features(dictionary, directions)[3]


rng = np.random.default_rng(99)
rows = {}
for name, x, V in (("d = 16", x16, V16), ("d = 8", x8, V8)):
    for n_latents in (32, 64, 128):
        random, samples = chance_baseline(rng, V, n_latents, score), chance_baseline(rng, V, n_latents, score, x)
        rows[name, n_latents] = [f"{s.mean():.1f} ± {s.std():.1f}" for s in (random, samples)]
pd.DataFrame(rows, index=["random directions", "random samples"]).T.rename_axis(["", "latents"])

# %% [markdown]
# **Questions**
#
# 1. In 16 dimensions random directions find nothing. Why do they in 8?
# 2. Why do random *samples* find so many more, and which kind of sample is it that matches a feature?
# 3. "Our SAE recovers 23 of 32 features at cosine above 0.9, with 128 latents in 8 dimensions." What do you answer?
#
# <details><summary>Answers</summary>
#
# 1. The chance that a random direction lies within cosine 0.9 of a given one is about 7 in 10 000 in 8 dimensions, and about one in 10 million in 16. With 128 latents and 32 features there are 4096 pairs, so about three good ones in 8 dimensions (1.4 after one-to-one matching) and none in 16.
# 2. Samples are made of features. One with a strong coefficient and a weak second one points nearly along its strong feature.
# 3. That 128 random data points already get 21.6.
# </details>

# %% [markdown]
# ## 6 · The published setting, and its bug
#
# Now 32 features in 8 dimensions, as published: 128 latents, all samples in every step, plain gradient descent with rate 0.01, $\lambda = 0.03$, 4000 steps, decoder rows set back to length 1. The script's model does not subtract $b_{dec}$ before encoding. Here is its backward pass.
#
# ```python
# def published_gradients(p, x, lam):
#     n = len(x)
#     f = np.maximum(x @ p["W_enc"] + p["b_enc"], 0)
#     error = 2 * (f @ p["W_dec"] + p["b_dec"] - x) / n
#     back = (error @ p["W_dec"].T) * (f > 0)
#     return {
#         "W_enc": x.T @ back + lam * np.sign(p["W_enc"]) / n,   # "L1 sparsity"
#         "b_enc": back.sum(axis=0),
#         "W_dec": f.T @ error,
#         "b_dec": error.sum(axis=0),
#     }
# ```
#
# The loss that it claims to minimise is $\frac1N \sum \big[\|x - \hat x\|^2 + \lambda \|f\|_1\big]$. Does it?


# %%
def published_loss(params):
    latents = np.maximum(data @ params["W_enc"] + params["b_enc"], 0)
    return sae_loss(data, latents @ params["W_dec"] + params["b_dec"], latents, lam)


claimed, measured = published_gradients(small, data, lam), numerical_gradients(published_loss, small)
print(
    "largest difference from finite differences:",
    {name: f"{np.abs(claimed[name] - measured[name]).max():.1e}" for name in small},
)

# %% [markdown]
# ### Exercise 04.11: Find and fix the bug in the published script
#
# Write the right gradients of *that model* and *that loss*.


# %% answer="04.11"
def corrected_gradients(params: dict[str, Array], x: Float[Array, "batch d_in"], lam: float) -> dict[str, Array]:
    """published_gradients with the penalty where it belongs."""
    ### BEGIN SOLUTION
    N = len(x)
    latents = np.maximum(x @ params["W_enc"] + params["b_enc"], 0)
    x_hat = latents @ params["W_dec"] + params["b_dec"]
    d_x_hat = 2 * (x_hat - x) / N
    d_pre = (d_x_hat @ params["W_dec"].T + lam / N) * (
        latents > 0
    )  # the penalty is on the latents, and goes through the ReLU
    return {
        "W_enc": x.T @ d_pre,
        "b_enc": d_pre.sum(axis=0),
        "W_dec": latents.T @ d_x_hat,
        "b_dec": d_x_hat.sum(axis=0),
    }
    ### END SOLUTION


# %% check="04.11"
check("04.11", corrected_gradients)

# %% [markdown]
# Before and after. (All 20 000 samples in every step take minutes; 2 000 give the same picture: the gradient is an average over samples.)

# %%
n_published, steps_published = (1000, 1500) if quick() else (2000, 4000)
scripts = {"as published, λ = 0.03": (published_gradients, 0.03)}
scripts |= {f"bug fixed, λ = {value:g}": (corrected_gradients, value) for value in (0.03, 0.3, 1.0)}
published_rows, published_W = {}, {}
for name, (gradients, value) in scripts.items():
    params = numpy_sae.run_published_script(
        x8[:n_published], gradients, lam=value, steps=steps_published, progress=True
    )
    latents, x_hat = numpy_sae.published_forward(params, x8)
    published_W[name] = params["W_dec"]
    published_rows[name] = [
        *found(params["W_dec"], V8),
        (latents > 0).sum(axis=1).mean(),
        numpy_sae.fraction_variance_unexplained(x8, x_hat),
    ]
columns = ["> 0.9", "> 0.95", "> 0.99", "L0", "variance unexplained"]
pd.DataFrame(published_rows, index=columns).T.style.format("{:.0f}", subset=columns[:3]).format(
    "{:.1f}", subset=["L0"]
).format("{:.3f}", subset=columns[4:])

# %% [markdown]
# **Questions**
#
# 1. The loss went down and the reconstruction is nearly perfect. What should have made the authors suspicious?
# 2. With the bug fixed and $\lambda = 0.03$ nothing is gained. Why not?
# 3. With $\lambda = 1$ it finds 6. Is that good?
#
# <details><summary>Answers</summary>
#
# 1. L0. With 67.7 latents active in every sample and only 8 dimensions, reconstruction is no feat: any 8 independent directions can do it. (The script's text claims 3.8 active latents; we measure 67.7.) And `lam * sign(W_enc) / N` pulls on weights by 0.03/N, which is nothing.
# 2. The penalty is far too weak for this loss: L0 stays at 41.5. Fixing the gradient is not enough; the right gradient of the wrong loss still finds 2 of 32, hardly more than the 1.4 of random vectors. Only a *sweep* can find $\lambda$.
# 3. 128 random samples get 21.6. The script's 6 are fewer than a handful of data points would give, and they cost 6% of the variance.
# </details>

# %% [markdown]
# ### Exercise 04.12: The sparsity-reconstruction curve
#
# `train(x, lam)` trains and returns the latents and the reconstruction of `x`. For every `lam`, in the order given, measure L0 (mean number of active latents) and the fraction of variance
# unexplained, in which $\bar x$ is the mean of $x$ over the samples, one number a dimension:
#
# $$\mathrm{FVU} = \frac{\sum_b \|x_b - \hat x_b\|^2}{\sum_b \|x_b - \bar x\|^2}$$


# %% answer="04.12"
def sparsity_curve(
    x: Float[Array, "n_samples d_in"], lams, train
) -> tuple[Float[Array, "n_lams"], Float[Array, "n_lams"]]:
    """L0 and fraction of variance unexplained for every lam."""
    ### BEGIN SOLUTION
    variance = ((x - x.mean(axis=0)) ** 2).sum()
    l0, fvu = [], []
    for lam in lams:
        latents, x_hat = train(x, lam)
        l0.append((latents > 0).sum(axis=1).mean())
        fvu.append(((x - x_hat) ** 2).sum() / variance)
    return np.array(l0), np.array(fvu)
    ### END SOLUTION


# %% check="04.12"
check("04.12", sparsity_curve)

# %%
lams = [0.03, 0.3, 1.0, 3.0] if quick() else [0.03, 0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0]
l1_runs = {}


def train_and_keep(x, lam):
    l1_runs[lam], _ = train(x, d_sae=64, lam=lam, resample_every=200)
    return sae_forward(l1_runs[lam], x)


l1_l0, l1_fvu = sparsity_curve(x8, lams, train_and_keep)
rng = np.random.default_rng(99)
levels = {
    "64 random samples": chance_baseline(rng, V8, 64, score, x8).mean(),
    "64 random directions": chance_baseline(rng, V8, 64, score).mean(),
}
draw.recovery_against_lambda(
    lams,
    [found(l1_runs[value]["W_dec"], V8)[0] for value in lams],
    32,
    levels,
    "With Adam, a unit decoder and a strong penalty, L1 finds every direction",
    subtitle="L1 SAE, 64 latents, 32 features in 8 dimensions",
)

# %%
ks = [3] if quick() else [1, 2, 3, 4, 5, 6, 8]
topk_runs = {k: train(x8, d_sae=64, k=k, resample_every=200)[0] for k in ks}
topk_fvu = [numpy_sae.fraction_variance_unexplained(x8, topk_forward_backward(topk_runs[k], x8, k)[1]) for k in ks]
print("TopK, directions found at > 0.9:", {k: found(topk_runs[k]["W_dec"], V8)[0] for k in ks})
print("L1,   directions found at > 0.9:", {value: found(l1_runs[value]["W_dec"], V8)[0] for value in lams})
draw.sparsity_curve(
    {"L1 (one point a λ)": (l1_l0, l1_fvu), "TopK (one point a k)": (ks, topk_fvu)},
    "At the same number of active latents TopK reconstructs far better, yet L1 finds more",
    subtitle="64 latents, 32 features in 8 dimensions",
)

# %% [markdown]
# At $\lambda = 3$ the L1 SAE has all 32 directions. Look at the values of its latents.

# %%
l1_best = l1_runs[3.0]
l1_latents, l1_x_hat = sae_forward(l1_best, x8)
own = match_features(l1_best["W_dec"], V8)[0]
print(
    f"found {found(l1_best['W_dec'], V8)}, L0 {(l1_latents > 0).sum(axis=1).mean():.2f}, variance unexplained {numpy_sae.fraction_variance_unexplained(x8, l1_x_hat):.3f}"
)
print(
    f"latents are {numpy_sae.shrinkage(c8, l1_latents[:, own]):.2f} times the true coefficients, where both are active"
)
draw.shrinkage_scatter(
    c8,
    {"L1, λ = 3": l1_latents[:, own]},
    "All directions found, all values wrong: shrinkage",
    subtitle="true coefficient against the value of the matched latent; on the dashed line they are equal",
)

# %% [markdown]
# **Questions**
#
# 1. Shrinkage predicts $f = c - \lambda / 2 = c - 1.5$ for a feature that is active alone. Does the cloud agree?
# 2. L1 at $\lambda = 3$ finds all directions and leaves 54% of the variance unexplained; TopK at $k = 3$ leaves 11% and finds 18. Which one would you rather be given, if you wanted to *interpret* the latents? And to *replace* the activations?
#
# <details><summary>Answers</summary>
#
# 1. Roughly: its upper edge runs parallel to the dashed line, about 1.5 below it, and features below 1.5 are mostly missing.
# 2. To interpret, L1: its directions are the true ones. To replace, TopK: L1 throws most of the signal away. That no SAE here gives both is the subject of the last section.
# </details>

# %% [markdown]
# ## 7 · Iterate the encoder
#
# Is it the *dictionary* that cannot be learned, or the *encoder* that cannot read it? Give the encoder the true dictionary and see. A TopK SAE that starts from the true directions drifts away from them:

# %%
start = {
    **init_params(np.random.default_rng(0), 8, 32),
    "W_dec": V8.astype(np.float32),
    "W_enc": V8.T.astype(np.float32),
}
drifted, _ = train(x8, d_sae=32, k=3, params=start)
print(
    "directions found, starting from the truth:",
    found(start["W_dec"], V8),
    "-> after training:",
    found(drifted["W_dec"], V8),
)

# %% [markdown]
# So the truth is not the best dictionary *for this encoder*. One linear layer and a threshold must decide about each latent alone, from $x \cdot w_j$ and nothing else, and section 1 showed how badly signal and echo overlap in 8 dimensions. Latents
# that are wrong in a way that the encoder can read beat latents that are right.
#
# What would a better encoder do? If feature 3 explains part of $x$, its echo in the others' readouts should be *taken off* before they are judged ("explaining away"). That needs a loop. Minimise the SAE's own loss over the codes of one sample:
#
# $$\min_{f \ge 0}\ \|x - f W_{dec}\|^2 + \lambda \sum_j f_j$$
#
# A gradient step on the first term, with step size $\tfrac{1}{2L}$, then the penalty and the constraint in one ReLU. With $G = W_{dec} W_{dec}^\top$ and $L$ its largest eigenvalue (a longer step would overshoot):
#
# $$f \leftarrow \mathrm{ReLU}\Big( f + \frac{1}{L} \big( x W_{dec}^\top - f G \big) - \frac{\lambda}{2L} \Big)$$
#
# This is **ISTA** (Daubechies et al. 2004). Starting from $f = 0$, the first step is $\mathrm{ReLU}(x W_{dec}^\top / L - \lambda / 2L)$: *exactly the encoder of an SAE*. The term $-fG$ is what the SAE lacks: every active latent takes its echo off the others. (Unrolled and trained, this is LISTA: Gregor & LeCun 2010.)
#
# The penalty is needed to find the **support**, the set of active latents. It is not needed to set their values. So afterwards *refit*: the same steps without the penalty, on the support only. That undoes the shrinkage.

# %% [markdown]
# ### Exercise 04.13: An encoder that iterates
#
# Start from zeros, do `n_steps` steps of ISTA, then `n_refit` steps with $\lambda = 0$ in which codes outside the support (those that are zero after the ISTA steps) stay zero. Return the codes `[batch, d_sae]`. (There is no bias here; subtract `b_dec` from `x` yourself where there is one.)


# %% answer="04.13"
def iterate_encoder(
    x: Float[Array, "batch d"], W_dec: Float[Array, "d_sae d"], lam: float, n_steps: int, n_refit: int
) -> Float[Array, "batch d_sae"]:
    """Sparse non-negative codes: ISTA finds the support, a refit sets the values."""
    ### BEGIN SOLUTION
    G = W_dec @ W_dec.T
    L = float(np.linalg.norm(G, 2))
    drive = x @ W_dec.T
    codes = np.zeros_like(drive)
    for _ in range(n_steps):
        codes = np.maximum(codes + (drive - codes @ G - lam / 2) / L, 0)
    support = codes > 0
    for _ in range(n_refit):
        codes = np.maximum(codes + (drive - codes @ G) / L, 0) * support
    return codes
    ### END SOLUTION


# %% check="04.13"
check("04.13", iterate_encoder)

# %% [markdown]
# First the true dictionary. How well is the active set found, by how many steps? For comparison: the best one-layer encoders we can train for the *true*, frozen dictionary.

# %%
test_x, test_c = x8[:3000], c8[:3000]
step_counts = [1, 2, 5, 10, 20, 50, 100, 200, 500]
V = V8.astype(np.float32)
f1 = [numpy_sae.support_scores(test_c, iterate_encoder(test_x, V, 0.8, n, 0))["f1"] for n in step_counts]
frozen_l1 = numpy_sae.train_sae(x8, 32, lam=1.0, params=start, train_decoder=False)
frozen_topk = numpy_sae.train_sae(x8, 32, k=3, params=start, train_decoder=False)
one_layer = {
    "one layer, L1, trained": numpy_sae.support_scores(test_c, frozen_l1.encode(test_x))["f1"],
    "one layer, TopK, trained": numpy_sae.support_scores(test_c, frozen_topk.encode(test_x))["f1"],
    "gradient pursuit": numpy_sae.support_scores(test_c, numpy_sae.gradient_pursuit_encode(test_x, V))["f1"],
}
draw.support_curve(
    step_counts,
    {"ISTA, λ = 0.8": f1},
    one_layer,
    "A loop finds active sets that one layer cannot",
    subtitle="the true dictionary is given: 32 features in 8 dimensions; gradient pursuit adds one feature at a time (Blumensath & Davies 2008)",
)

# %% [markdown]
# Now swap the encoder of the L1 SAE, and leave its dictionary as it is.


# %%
def report(name, W_dec, latents, x_hat, x, directions):
    l0, fvu = (latents > 1e-3).sum(axis=1).mean(), numpy_sae.fraction_variance_unexplained(x, x_hat)
    return {
        "dictionary and encoder": name,
        "latents": len(W_dec),
        "> 0.9": found(W_dec, directions)[0],
        "> 0.99": found(W_dec, directions)[2],
        "L0": l0,
        "variance unexplained": fvu,
    }


table = [report("L1 dictionary, its own encoder", l1_best["W_dec"], l1_latents, l1_x_hat, x8, V8)]
living = l1_best["W_dec"][(l1_latents > 0).mean(axis=0) > 1e-4]
for n_steps, n_refit in ((400, 0), (400, 100)):
    codes = iterate_encoder(test_x - l1_best["b_dec"], living, 0.8, n_steps, n_refit)
    table.append(
        report(
            f"L1 dictionary, {n_steps} ISTA steps, {n_refit} refit",
            living,
            codes,
            codes @ living + l1_best["b_dec"],
            test_x,
            V8,
        )
    )
pd.DataFrame(table).set_index("dictionary and encoder").style.format({"L0": "{:.2f}", "variance unexplained": "{:.4f}"})

# %% [markdown]
# The dictionary was good all along; the encoder could not read it. The last step is to *learn* the dictionary with the better encoder, in turns: codes for a batch, then the least-squares dictionary for those codes (Mairal et al. 2010). Three things make it
# find all features: $\lambda$ starts high and falls (only sure coefficients at first, so rows snap to features); there are spare rows at first, and the least used are dropped one by one; and the last rounds use refitted codes, which take the last bias out of the rows.
# `numpy_sae.train_pursuit_sae` does that, with FISTA (Beck & Teboulle 2009), the accelerated form of your loop.

# %%
pursuit = numpy_sae.train_pursuit_sae(x8, 32, directions=V8, progress=True)
pursuit_codes = pursuit.encode(x8)
table += [
    report(
        "TopK, k = 3, its own encoder", topk_runs[3]["W_dec"], *topk_forward_backward(topk_runs[3], x8, 3)[:2], x8, V8
    ),
    report("pursuit dictionary and encoder", pursuit.W_dec, pursuit_codes, pursuit.decode(pursuit_codes), x8, V8),
    report(
        "true dictionary, the same encoder",
        V,
        numpy_sae.PursuitSAE(V).encode(x8),
        numpy_sae.PursuitSAE(V).encode(x8) @ V,
        x8,
        V8,
    ),
]
pd.DataFrame(table).set_index("dictionary and encoder").style.format({"L0": "{:.2f}", "variance unexplained": "{:.4f}"})

# %%
pursuit_l0, pursuit_fvu = (
    (pursuit_codes > 1e-3).sum(axis=1).mean(),
    numpy_sae.fraction_variance_unexplained(x8, pursuit.decode(pursuit_codes)),
)
draw.sparsity_curve(
    {"L1 (one point a λ)": (l1_l0, l1_fvu), "TopK (one point a k)": (ks, topk_fvu)},
    "An encoder that iterates leaves the one-layer curves behind",
    points={
        "L1 dictionary, iterated": (table[2]["L0"], table[2]["variance unexplained"]),
        "pursuit": (pursuit_l0, pursuit_fvu),
    },
    subtitle="32 features in 8 dimensions; down and left is better",
)

# %%
pursuit_own = match_features(pursuit.W_dec, V8)[0]
draw.shrinkage_scatter(
    c8,
    {
        "L1, λ = 3": l1_latents[:, own],
        "TopK, k = 3": encode(topk_runs[3], x8, 3)[:, match_features(topk_runs[3]["W_dec"], V8)[0]],
        "pursuit": pursuit_codes[:, pursuit_own],
    },
    "With the right dictionary and a refit, most values are right too",
    subtitle="true coefficient against the value of the matched latent; on the dashed line they are equal",
)

# %% [markdown]
# One seed is an anecdote. All of it again, with other directions and other data:

# %%
seed_rows = []
for seed in tqdm(SEEDS, desc="seeds"):
    for d in (16, 8):
        x, c, V_true = make_problem(seed, d)
        rng = np.random.default_rng([seed, 2])
        row = {"d": d, "seed": seed, "chance: 64 samples": chance_baseline(rng, V_true, 64, score, x).mean()}
        runs = {
            "L1, 64": train(x, 64, lam=1.0 if d == 16 else 3.0, resample_every=200, seed=seed)[0],
            "TopK, 32": train(x, 32, k=3, resample_every=200, seed=seed)[0],
        }
        for name, params in runs.items():
            latents = encode(params, x, 3 if name.startswith("TopK") else None)
            fvu = numpy_sae.fraction_variance_unexplained(x, latents @ params["W_dec"] + params["b_dec"])
            row[name] = (
                "{} / {} / {}".format(*found(params["W_dec"], V_true))
                + f"   L0 {(latents > 0).sum(axis=1).mean():.1f}   FVU {fvu:.3f}"
            )
        if d == 8:
            sae = numpy_sae.train_pursuit_sae(x, 32, seed=seed)
            codes = sae.encode(x)
            fvu = numpy_sae.fraction_variance_unexplained(x, sae.decode(codes))
            row["pursuit, 32"] = (
                "{} / {} / {}".format(*found(sae.W_dec, V_true))
                + f"   L0 {(codes > 1e-3).sum(axis=1).mean():.1f}   FVU {fvu:.3f}"
            )
        seed_rows.append(row)
print("directions found at > 0.9 / > 0.95 / > 0.99, of 32")
pd.DataFrame(seed_rows).fillna("").set_index(["d", "seed"]).sort_index(ascending=[False, True]).style.format(
    {"chance: 64 samples": "{:.1f}"}
)

# %% [markdown]
# And the picture from the top of the page:

# %%
rng = np.random.default_rng(99)


def strict(dictionary, directions):
    return found(dictionary, directions)[2]


bars = {
    "128 random directions": [chance_baseline(rng, V8, 128, s).mean() for s in (score, strict)],
    "published script (128 latents)": [published_rows["as published, λ = 0.03"][i] for i in (0, 2)],
    "128 random samples": [chance_baseline(rng, V8, 128, s, x8).mean() for s in (score, strict)],
    "TopK SAE, k = 3 (64)": [found(topk_runs[3]["W_dec"], V8)[i] for i in (0, 2)],
    "L1 SAE, λ = 3 (64)": [found(l1_best["W_dec"], V8)[i] for i in (0, 2)],
    "pursuit (32)": [found(pursuit.W_dec, V8)[i] for i in (0, 2)],
}
draw.recovery_bars(
    bars,
    32,
    "What it takes to find 32 directions in 8 dimensions",
    subtitle="light: cosine > 0.9, dark: > 0.99; size of the dictionary in brackets",
)

# %% [markdown]
# **Questions**
#
# 1. Real language models have thousands of dimensions. Is the 8-dimensional problem relevant to them?
# 2. An iterating encoder costs tens of matrix products a sample instead of one. What else is lost, compared with one linear layer and a ReLU?
# 3. Here we could count recovered directions because we knew them. What can be measured when we do not?
#
# <details><summary>Answers</summary>
#
# 1. In part. Random directions interfere less in more dimensions, but there are also far more features, and related ones have similar directions. Whether a real SAE's errors come from its dictionary or from its encoder is the same question. There are results for real models: swapping the encoder of a trained SAE for a pursuit at inference helps there too
#    (Smith 2024, on inference-time optimisation), and a gap between what one layer can decode and what the dictionary holds has been shown to be there in principle (O'Neill et al. 2024).
# 2. A simple meaning: "this latent is on because $x$ has a large enough component along this one direction". In the loop a latent's value depends on all the others, and it is harder to say what changes it.
# 3. Sparsity and reconstruction, agreement between seeds, the effect of replacing activations by their reconstruction on the model's loss, and, in the end, what the latents mean and do. That is what lessons 05, 06 and 07 do.
# </details>

# %% [markdown]
# ## Common mistakes
#
# | mistake | what happens | the check says |
# |---|---|---|
# | the penalty on the weights, not on the latents | no sparsity at all: the published script | 04.4, 04.11 |
# | the ReLU's mask forgotten in the backward pass | latents that are off keep learning | 04.4 `relu_mask_missing` |
# | only one of the two paths of `b_dec` | the bias drifts; finite differences tell | 04.4 `b_dec_one_path` |
# | squared error averaged over dimensions | $\lambda$ means something else in every $d$ | 04.3 `mean_over_dimensions` (we insist on the sum) |
# | no bias correction in Adam | the first steps are several times too long | 04.5 `no_bias_correction` |
# | decoder free, or its gradient not projected | the penalty is cheated, or Adam is misled | 04.6 |
# | TopK by absolute value, or without the ReLU | negative evidence counts as evidence | 04.7 |
# | "dead" = quiet at some step; the worst sample for all | healthy latents thrown away; many copies of one direction | 04.8 |
# | best latent for each feature, greedy matching | one latent counts for several features | 04.9 |
# | no chance baseline | 23 of 32 looks like a result | 04.10 |
# | variance without centring | unexplained looks too small | 04.12 |
# | no refit | right directions, wrong values | 04.13 |
#
# ## Summary
#
# - An SAE learns an overcomplete dictionary by asking for sparse codes. Its gradients fit on five lines; finite differences catch every slip in them.
# - On the well-posed twin (32 features in 16 dimensions) L1 with 64 latents finds 31 or 32 at cosine above 0.95 in each of five seeds; TopK with 32 latents 26 to 30. Chance: none for random directions, about 10 for 64 random samples.
# - In 8 dimensions the published script finds 2, no more than random vectors (1.4 with 128). Its "L1 term" acts on the wrong thing; fixing that alone changes little, because $\lambda$ is also far too small.
# - L1 with Adam, a unit decoder, projected gradients and $\lambda = 3$ finds all 32, and shrinks the values to 0.19 of what they should be: 54% of the variance is lost. TopK reconstructs better and finds 18.
# - The limit is the one-layer encoder. With an encoder that iterates: all 32 in four seeds of five (31 in the other), at least 30 of them above 0.99, at L0 3.7 to 4.2 and about 1% of the variance unexplained.
# - What did not work: resampling changes nothing where no latent is dead; starting from the true dictionary does not keep a TopK SAE there (22 of 32 after training).
#
# ## Further reading
#
# - Olshausen & Field 1996, [Emergence of simple-cell receptive field properties by learning a sparse code](https://www.nature.com/articles/381607a0): where the idea comes from.
# - Bricken et al. 2023, [Towards Monosemanticity](https://transformer-circuits.pub/2023/monosemantic-features/index.html): SAEs on a language model; resampling, unit-norm decoder.
# - Cunningham et al. 2023, [Sparse autoencoders find highly interpretable features in language models](https://arxiv.org/abs/2309.08600).
# - Gao et al. 2024, [Scaling and evaluating sparse autoencoders](https://arxiv.org/abs/2406.04093): TopK.
# - Gregor & LeCun 2010, *Learning fast approximations of sparse coding*: the loop as a network.
# - Mairal et al. 2010, [Online learning for matrix factorization and sparse coding](https://arxiv.org/abs/0908.0050): the dictionary update.
# - O'Neill et al. 2024, [Compute optimal inference and provable amortisation gap in sparse autoencoders](https://arxiv.org/abs/2411.13117).
#
# ### In your own words (optional)
#
# 1. Why is "variance explained 99.8%" no evidence that features were found?
# 2. You train an SAE with $d_{sae} < d_{in}$. What does sparsity buy you now?
#
# <details><summary>Answers to compare with</summary>
#
# 1. Any dictionary that spans the space reconstructs perfectly if enough latents may be active. Reconstruction says something only together with L0, and even then (TopK above) good numbers can come with wrong directions.
# 2. It can still choose *which* directions represent a sample, so it can favour a sparse basis over PCA's, but it cannot hold more features than latents: in superposed data most features are missing from the start.
# </details>

# %%
progress()
