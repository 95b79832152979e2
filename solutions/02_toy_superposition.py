# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Toy models of superposition
#
# <img alt="Feature directions of four trained models: two at right angles, then three, four in two opposite pairs, and five in a pentagon" width="720" src="data:image/svg+xml;base64,PHN2ZyB4bWxucz0naHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmcnIHZpZXdCb3g9JzAgMCA2MDAgMTc0JyBmb250LWZhbWlseT0nc2Fucy1zZXJpZicgZm9udC1zaXplPScxMyc+PHJlY3Qgd2lkdGg9JzYwMCcgaGVpZ2h0PScxNzQnIGZpbGw9J3doaXRlJy8+PHRleHQgeD0nNzUnIHk9JzE2JyB0ZXh0LWFuY2hvcj0nbWlkZGxlJyBmaWxsPScjMjIyJz5wID0gMTwvdGV4dD48Y2lyY2xlIGN4PSc3NScgY3k9Jzk5JyByPSc0OCcgZmlsbD0nbm9uZScgc3Ryb2tlPScjY2NjJy8+PHBhdGggZD0nTTc1IDk5TDM3IDY5JyBzdHJva2U9JyMwMDcyQjInIHN0cm9rZS13aWR0aD0nMycvPjxjaXJjbGUgY3g9JzM3JyBjeT0nNjknIHI9JzUnIGZpbGw9JyMwMDcyQjInLz48cGF0aCBkPSdNNzUgOTlMMTA1IDYxJyBzdHJva2U9JyNFNjlGMDAnIHN0cm9rZS13aWR0aD0nMycvPjxjaXJjbGUgY3g9JzEwNScgY3k9JzYxJyByPSc1JyBmaWxsPScjRTY5RjAwJy8+PHBhdGggZD0nTTc1IDk5TDc1IDk5JyBzdHJva2U9JyMwMDlFNzMnIHN0cm9rZS13aWR0aD0nMycvPjxjaXJjbGUgY3g9Jzc1JyBjeT0nOTknIHI9JzUnIGZpbGw9JyMwMDlFNzMnLz48cGF0aCBkPSdNNzUgOTlMNzUgOTknIHN0cm9rZT0nI0Q1NUUwMCcgc3Ryb2tlLXdpZHRoPSczJy8+PGNpcmNsZSBjeD0nNzUnIGN5PSc5OScgcj0nNScgZmlsbD0nI0Q1NUUwMCcvPjxwYXRoIGQ9J003NSA5OUw3NSA5OScgc3Ryb2tlPScjQ0M3OUE3JyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PSc3NScgY3k9Jzk5JyByPSc1JyBmaWxsPScjQ0M3OUE3Jy8+PHRleHQgeD0nMjI1JyB5PScxNicgdGV4dC1hbmNob3I9J21pZGRsZScgZmlsbD0nIzIyMic+cCA9IDAuNTwvdGV4dD48Y2lyY2xlIGN4PScyMjUnIGN5PSc5OScgcj0nNDgnIGZpbGw9J25vbmUnIHN0cm9rZT0nI2NjYycvPjxwYXRoIGQ9J00yMjUgOTlMMjI2IDE0Nycgc3Ryb2tlPScjMDA3MkIyJyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PScyMjYnIGN5PScxNDcnIHI9JzUnIGZpbGw9JyMwMDcyQjInLz48cGF0aCBkPSdNMjI1IDk5TDI3NCA5Nycgc3Ryb2tlPScjRTY5RjAwJyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PScyNzQnIGN5PSc5Nycgcj0nNScgZmlsbD0nI0U2OUYwMCcvPjxwYXRoIGQ9J00yMjUgOTlMMTgyIDEwMCcgc3Ryb2tlPScjMDA5RTczJyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PScxODInIGN5PScxMDAnIHI9JzUnIGZpbGw9JyMwMDlFNzMnLz48cGF0aCBkPSdNMjI1IDk5TDIyNSA5OScgc3Ryb2tlPScjRDU1RTAwJyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PScyMjUnIGN5PSc5OScgcj0nNScgZmlsbD0nI0Q1NUUwMCcvPjxwYXRoIGQ9J00yMjUgOTlMMjI1IDk5JyBzdHJva2U9JyNDQzc5QTcnIHN0cm9rZS13aWR0aD0nMycvPjxjaXJjbGUgY3g9JzIyNScgY3k9Jzk5JyByPSc1JyBmaWxsPScjQ0M3OUE3Jy8+PHRleHQgeD0nMzc1JyB5PScxNicgdGV4dC1hbmNob3I9J21pZGRsZScgZmlsbD0nIzIyMic+cCA9IDAuMzwvdGV4dD48Y2lyY2xlIGN4PSczNzUnIGN5PSc5OScgcj0nNDgnIGZpbGw9J25vbmUnIHN0cm9rZT0nI2NjYycvPjxwYXRoIGQ9J00zNzUgOTlMNDE5IDEyMycgc3Ryb2tlPScjMDA3MkIyJyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PSc0MTknIGN5PScxMjMnIHI9JzUnIGZpbGw9JyMwMDcyQjInLz48cGF0aCBkPSdNMzc1IDk5TDM1MSAxNDInIHN0cm9rZT0nI0U2OUYwMCcgc3Ryb2tlLXdpZHRoPSczJy8+PGNpcmNsZSBjeD0nMzUxJyBjeT0nMTQyJyByPSc1JyBmaWxsPScjRTY5RjAwJy8+PHBhdGggZD0nTTM3NSA5OUwzOTggNTcnIHN0cm9rZT0nIzAwOUU3Mycgc3Ryb2tlLXdpZHRoPSczJy8+PGNpcmNsZSBjeD0nMzk4JyBjeT0nNTcnIHI9JzUnIGZpbGw9JyMwMDlFNzMnLz48cGF0aCBkPSdNMzc1IDk5TDMzNyA3OCcgc3Ryb2tlPScjRDU1RTAwJyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PSczMzcnIGN5PSc3OCcgcj0nNScgZmlsbD0nI0Q1NUUwMCcvPjxwYXRoIGQ9J00zNzUgOTlMMzc1IDk5JyBzdHJva2U9JyNDQzc5QTcnIHN0cm9rZS13aWR0aD0nMycvPjxjaXJjbGUgY3g9JzM3NScgY3k9Jzk5JyByPSc1JyBmaWxsPScjQ0M3OUE3Jy8+PHRleHQgeD0nNTI1JyB5PScxNicgdGV4dC1hbmNob3I9J21pZGRsZScgZmlsbD0nIzIyMic+cCA9IDAuMDI8L3RleHQ+PGNpcmNsZSBjeD0nNTI1JyBjeT0nOTknIHI9JzQ4JyBmaWxsPSdub25lJyBzdHJva2U9JyNjY2MnLz48cGF0aCBkPSdNNTI1IDk5TDQ4MyAxMzQnIHN0cm9rZT0nIzAwNzJCMicgc3Ryb2tlLXdpZHRoPSczJy8+PGNpcmNsZSBjeD0nNDgzJyBjeT0nMTM0JyByPSc1JyBmaWxsPScjMDA3MkIyJy8+PHBhdGggZD0nTTUyNSA5OUw0ODEgNjcnIHN0cm9rZT0nI0U2OUYwMCcgc3Ryb2tlLXdpZHRoPSczJy8+PGNpcmNsZSBjeD0nNDgxJyBjeT0nNjcnIHI9JzUnIGZpbGw9JyNFNjlGMDAnLz48cGF0aCBkPSdNNTI1IDk5TDU0NCA0Nycgc3Ryb2tlPScjMDA5RTczJyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PSc1NDQnIGN5PSc0Nycgcj0nNScgZmlsbD0nIzAwOUU3MycvPjxwYXRoIGQ9J001MjUgOTlMNTQ3IDE0OScgc3Ryb2tlPScjRDU1RTAwJyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PSc1NDcnIGN5PScxNDknIHI9JzUnIGZpbGw9JyNENTVFMDAnLz48cGF0aCBkPSdNNTI1IDk5TDU3OCA5OCcgc3Ryb2tlPScjQ0M3OUE3JyBzdHJva2Utd2lkdGg9JzMnLz48Y2lyY2xlIGN4PSc1NzgnIGN5PSc5OCcgcj0nNScgZmlsbD0nI0NDNzlBNycvPjwvc3ZnPg==">
#
# *Five features, two dimensions. The same model, trained on denser and on sparser data (each arrow is one feature; the circle has radius 1). Dense data:
# two features get a dimension each and three are thrown away. Sparse data: all five are kept, at the corners of a pentagon. You will make this picture yourself in section 3.*
#
# In lesson 01 neurons answered to several unrelated concepts. The suspicion was that a network stores **more features than it has dimensions**, as
# directions that are almost, but not quite, at right angles: *superposition*. In a language model nobody knows the true features, so the suspicion is hard to
# test. Here we turn it round: we *choose* the features, squeeze them through too few dimensions, and look at what training does with them.
# The model is that of [Toy Models of Superposition](https://transformer-circuits.pub/2022/toy_model/index.html) (Elhage et al. 2022).
#
# **You will be able to**
#
# - build and train the toy model, hundreds of copies at once;
# - measure which features a model represents and how much they get in each other's way;
# - derive when superposition pays, draw the phase diagram on paper, and check it against training;
# - say what importance, density and correlation each do to the arrangement of features.
#
# **Time**: about 2 h 15 min of exercises; the cells run in about 90 seconds on one CPU core. **Before**: lesson 01.
#
# **Notation.** There are $n$ features and $d$ hidden dimensions, $n > d$. A feature is active with probability $p$, its *density*, and $S = 1 - p$ is the *sparsity*:
# the probability that a feature is **zero**. (Some texts write "active with probability $S$". We never do.)

# %% tags=["setup"]
import math

import plotly.io as pio
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils import check, hint, progress, solution, toy
from course_utils.settings import quick
from course_utils.toy import PHASES, ToyModelConfig
from course_utils.viz import toy as draw

pio.renderers.default = "plotly_mimetype"  # figures of about 20 kB that need no network
torch.set_num_threads(1)  # these models are small: a second thread only gets in the way
torch.manual_seed(0)
FULL = False  # True: more starts and finer grids, several times slower

# %% [markdown]
# ## 1 · Features we know
#
# A batch of data is a tensor `x [instances, batch, features]`. An **instance** is one copy of the experiment with its own settings; we train many at once because it costs
# little more than training one. Each entry is
#
# $$x_i = \begin{cases} 0 & \text{with probability } 1 - p_i = S_i \\ \text{uniform on } [0, 1] & \text{with probability } p_i \end{cases}$$
#
# independently for every feature, sample and instance. Why sparse? Because the world is: most of what could be in a picture or a sentence is not in this one.

# %% [markdown]
# ### Exercise 02.1: Sparse features whose truth is known
#
# Write `generate_batch`. `feature_probability` holds $p$ for every instance and feature.


# %% answer="02.1"
def generate_batch(
    batch_size: int, feature_probability: Float[Tensor, "instances features"]
) -> Float[Tensor, "instances batch features"]:
    """Independent sparse features: 0 with probability 1 - p, else uniform on [0, 1]."""
    ### BEGIN SOLUTION
    instances, features = feature_probability.shape
    magnitude = torch.rand(instances, batch_size, features)
    active = torch.rand(instances, batch_size, features) < feature_probability[:, None, :]
    return magnitude * active
    ### END SOLUTION


# %% check="02.1"
check("02.1", generate_batch)

# %%
densities = torch.tensor([0.9, 0.3, 0.05])
sample = generate_batch(20_000, densities[:, None].expand(3, 20))
draw.magnitude_histogram(
    sample,
    [f"p = {p:g}" for p in densities.tolist()],
    "Density changes how many features are active, not how large they are",
    subtitle="20 features, 20 000 samples an instance",
)

# %% [markdown]
# **Questions**
#
# 1. With 20 features and $p = 0.05$, how often is a sample empty? How often are two *given* features active together?
# 2. Which of these two numbers will decide whether two features can share a dimension?
#
# <details><summary>Answers</summary>
#
# 1. Empty: $0.95^{20} \approx 0.36$. Two given features together: $p^2 = 0.0025$, one sample in 400.
# 2. The second. Two features stored as *opposite* directions, with a ReLU at the output (section 2), disturb each other only when both are active. That chance falls with $p^2$,
#    while the benefit of storing a feature falls only with $p$. The whole lesson follows from this.
# </details>

# %% [markdown]
# ## 2 · The model
#
# The features are squeezed linearly into $d$ dimensions and recovered by the same matrix, transposed, a bias, and a ReLU:
#
# $$h = W x \qquad \hat x = \mathrm{ReLU}(W^\top h + b) \qquad W \in \mathbb R^{d \times n},\; b \in \mathbb R^n$$
#
# Column $W_i$ is the **direction** of feature $i$ in the hidden space: where the model puts it. Without the ReLU, $W^\top W$ would be a linear map of rank $d$, and the best it can do
# is to keep the $d$ features that matter most, like PCA. The ReLU changes the game: small *negative* interference is cut off at zero for free, and a negative $b$ also removes
# small positive interference.

# %% [markdown]
# ### Exercise 02.2: The model: squeeze and recover
#
# Write the class. Parameters: `W [n_instances, d_hidden, n_features]`, small and random, and `b [n_instances, n_features]`, zero. Instances must not mix.
# Sizes are `config.n_instances`, `config.d_hidden`, `config.n_features`.


# %% answer="02.2"
class ToyModel(nn.Module):
    """h = W x, x_hat = ReLU(W^T h + b), for every instance separately."""

    def __init__(self, config: ToyModelConfig):
        super().__init__()
        self.config = config
        ### BEGIN SOLUTION
        std = (2 / (config.d_hidden + config.n_features)) ** 0.5
        self.W = nn.Parameter(std * torch.randn(config.n_instances, config.d_hidden, config.n_features))
        self.b = nn.Parameter(torch.zeros(config.n_instances, config.n_features))
        ### END SOLUTION

    def forward(self, x: Float[Tensor, "instances batch features"]) -> Float[Tensor, "instances batch features"]:
        ### BEGIN SOLUTION
        h = x @ self.W.mT  # [instances, batch, d_hidden]
        return torch.relu(h @ self.W + self.b[:, None, :])
        ### END SOLUTION


# %% check="02.2"
check("02.2", ToyModel)

# %% [markdown]
# Not every feature matters equally. The loss weights each feature's squared error with its **importance** $I_i$:
#
# $$L = \mathbb E_x \Big[ \sum_i I_i \, (x_i - \hat x_i)^2 \Big]$$

# %% [markdown]
# ### Exercise 02.3: The importance-weighted loss
#
# Sum over features, average over the batch, and **keep the instances apart**: return one loss for each.


# %% answer="02.3"
def importance_weighted_loss(
    x: Float[Tensor, "instances batch features"],
    x_hat: Float[Tensor, "instances batch features"],
    importance: Float[Tensor, "instances features"],
) -> Float[Tensor, "instances"]:
    """Squared error times importance, summed over features, averaged over the batch."""
    ### BEGIN SOLUTION
    squared_error = (x - x_hat) ** 2
    return (importance[:, None, :] * squared_error).sum(dim=-1).mean(dim=-1)
    ### END SOLUTION


# %% check="02.3"
check("02.3", importance_weighted_loss)

# %% [markdown]
# ## 3 · Training
#
# Data is free here, so every step gets a fresh batch: nothing can be memorised (lesson 03 takes that away and meets double descent). What remains to choose is the learning rate
# $\eta_t$ in step $t = 0, 1, \dots, T - 1$:
#
# | schedule | $\eta_t / \eta$ |
# |---|---|
# | `"constant"` | $1$ |
# | `"linear"` | $1 - t / T$ |
# | `"cosine"` | $\tfrac12 \left(1 + \cos(\pi t / T)\right)$ |

# %% [markdown]
# ### Exercise 02.4: A training loop with schedules
#
# Train with Adam (PyTorch's defaults apart from the learning rate). `sample()` gives a fresh batch, `loss_fn(x, x_hat)` one loss per instance. Return the loss of every instance at every step,
# detached, as `[steps, instances]`. The model is trained in place. The instances share no parameters, so the gradient of the *sum* of their losses trains each by itself.


# %% answer="02.4"
def optimize(
    model, sample, loss_fn, steps: int, lr: float = 1e-3, schedule: str = "constant"
) -> Float[Tensor, "steps instances"]:
    """Train `model` in place with Adam and a learning-rate schedule: "constant", "linear" or "cosine"."""
    ### BEGIN SOLUTION
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    losses = []
    for t in range(steps):
        done = t / steps
        factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        x = sample()
        loss = loss_fn(x, model(x))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)
    ### END SOLUTION


# %% check="02.4"
check("02.4", optimize)


# %% [markdown]
# All the pieces are there. `run` puts your four answers together, and `best_of` picks, among several random starts, the one that ended with the lowest loss: small models
# get stuck in local minima, and we want to know what the loss *prefers*, not where one start happened to end.


# %%
def run(
    config: ToyModelConfig,
    steps: int = 2500,
    lr: float = 0.01,
    schedule: str = "cosine",
    generate=generate_batch,
    batch_size: int = 256,
):
    """Train your ToyModel on your data with your loop. Returns the model and the losses [steps, instances]."""
    model = ToyModel(config)
    p, importance = config.probabilities(), config.importances()
    bar = tqdm(total=steps, desc=f"training {config.n_instances} models", leave=False, mininterval=0.5)

    def sample():
        bar.update()
        return generate(batch_size, p)

    def loss_fn(x, x_hat):
        return importance_weighted_loss(x, x_hat, importance)

    losses = optimize(model, sample, loss_fn, steps, lr, schedule)
    bar.close()
    return model, losses


def best_of(starts: int, model, losses):
    """Of every `starts` neighbouring instances the one of lowest final loss: its W, b and loss."""
    final = losses[-250:].mean(dim=0).view(-1, starts)
    chosen = final.argmin(dim=1) + starts * torch.arange(final.shape[0])
    return model.W.detach()[chosen], model.b.detach()[chosen], final.amin(dim=1)


starts = 16 if FULL else 2 if quick() else 8
torch.manual_seed(1)
config = ToyModelConfig(n_features=5, d_hidden=2, n_instances=starts, feature_probability=0.3)
curves = {}
for schedule in ("constant", "linear", "cosine"):
    _, losses = run(config, steps=1500, lr=0.1, schedule=schedule)
    smooth = losses.view(30, 50, starts).mean(dim=1)
    curves[schedule] = smooth.median(dim=1).values
schedule_losses = torch.stack(list(curves.values()), dim=1)
print({name: round(float(values[-1]), 5) for name, values in curves.items()})
draw.loss_curves(
    schedule_losses,
    list(curves),
    "A rate that falls to zero ends lower than a constant one",
    steps=torch.arange(50, 1501, 50),
    subtitle=f"5 features in 2 dimensions, p = 0.3, peak learning rate 0.1; median of {starts} starts, averaged over 50 steps",
    log=False,
)

# %% [markdown]
# **Questions**
#
# 1. Why does the constant rate stop improving, although every batch is fresh?
# 2. The batch is the same size all along. What does a falling rate do that a larger batch would also do?
#
# <details><summary>Answers</summary>
#
# 1. Each batch's gradient is noisy, and with a large fixed rate the weights keep jumping around the minimum at a distance that the rate sets. In our run the constant rate ended at
#    a loss of 0.142, linear at 0.136 and cosine at 0.135.
# 2. It averages the noise: ten steps of a tenth of the rate move about as far as one full step, but their noise partly cancels.
# </details>
#
# Now the experiment of the picture at the top: five features of falling importance, $I_i = 0.7^i$, in two dimensions, at twelve densities from 1 (all features always active) to 0.02.

# %%
densities = torch.tensor([1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02])
importance = 0.7 ** torch.arange(5)
config = ToyModelConfig(
    n_features=5,
    d_hidden=2,
    n_instances=len(densities) * starts,
    feature_probability=densities.repeat_interleave(starts)[:, None],
    importance=importance,
)
torch.manual_seed(2)
model, losses = run(config, steps=3000)
W_five, b_five, loss_five = best_of(starts, model, losses)

shown = [0, 2, 4, 9, 11]
labels = [f"p = {p:g}   (S = {1 - p:.2f})" for p in densities[shown].tolist()]
draw.feature_directions(
    W_five[shown],
    labels,
    "As data gets sparser, two features become three, four, and a pentagon of five",
    subtitle=f"Columns of W; dark: important, light: unimportant. Best of {starts} starts each.",
    importance=importance,
)

# %%
draw.gram_heatmaps(
    W_five[shown],
    labels,
    "What is kept (diagonal) and what leaks (off the diagonal)",
    subtitle="WᵀW: how much of input feature j arrives at output feature i, before the bias and the ReLU",
    columns=5,
)

# %% [markdown]
# Move the slider to watch it happen (it needs a running notebook).

# %%
draw.sparsity_explorer(densities, W_five, loss_five)

# %% [markdown]
# **Questions**
#
# 1. At $p = 1$ which two features are kept, and why those?
# 2. In an antipodal pair (two opposite arrows) the off-diagonal entry of $W^\top W$ is $-1$. Why does that hardly hurt, when $+1$ would?
# 3. In the pentagon, a feature's two neighbours at 72° have overlap $+0.31\,\|W\|^2$. What keeps them from turning each other on? (Look at `b_five`.)
#
# <details><summary>Answers</summary>
#
# 1. Features 0 and 1, the most important: without sparsity the model does what PCA would.
# 2. When only one of the pair is active, the other's output gets a negative input, and the ReLU makes it exactly 0. A positive overlap would turn it on.
# 3. The bias. In our run at $p = 0.02$ the five biases lie between −0.27 and −0.23: negative, so that positive leaks stay below zero. The price is that the feature itself comes out too small, which longer
#    vectors make up for: ‖W_i‖² lies between 1.23 and 1.34 there.
# </details>

# %%
print("bias at p = 0.02:          ", [round(v, 3) for v in b_five[-1].tolist()])
print("squared length at p = 0.02:", [round(v, 2) for v in W_five[-1].square().sum(dim=0).tolist()])

# %% [markdown]
# ## 4 · Measuring superposition
#
# Arrows can be looked at only in two dimensions. Two numbers per feature work in any:
#
# $$\underbrace{\|W_i\|^2}_{\text{is feature } i \text{ represented?}} \qquad\qquad \underbrace{\sum_{j \neq i} \big(\hat W_i \cdot W_j\big)^2}_{\text{how much do others lie in its direction?}} \qquad \hat W_i = \frac{W_i}{\|W_i\|}$$
#
# The first is near 1 for a stored feature and near 0 for a dropped one. The second is 0 for a feature with a dimension of its own, and larger the more it shares: with vectors of length 1, 1/2 in a triangle, 1 in an opposite pair, 1.5 in a pentagon.

# %% [markdown]
# ### Exercise 02.5: Represented, and in whose way?
#
# Return both, `[instances, features]` each. A feature that is not represented at all ($W_i = 0$) has no direction: give it an overlap of 0, not NaN.


# %% answer="02.5"
def superposition_per_feature(
    W: Float[Tensor, "instances d_hidden features"],
) -> tuple[Float[Tensor, "instances features"], Float[Tensor, "instances features"]]:
    """||W_i||^2, and the sum over j != i of (unit W_i . W_j)^2, for every feature i."""
    ### BEGIN SOLUTION
    represented = W.square().sum(dim=1)
    unit = nn.functional.normalize(W, dim=1)  # leaves a zero column at zero
    squared_overlaps = (unit.mT @ W) ** 2  # [instances, i, j]
    superposition = squared_overlaps.sum(dim=-1) - represented  # take j = i out again
    return represented, superposition
    ### END SOLUTION


# %% check="02.5"
check("02.5", superposition_per_feature)

# %% [markdown]
# With measures in hand we can go up: **20 features in 5 dimensions**, importance $0.9^i$, thirteen densities from 1 to 0.01.

# %%
sweep_p = torch.logspace(0, -2, 13)
sweep_starts = 8 if FULL else 1 if quick() else 3
config = ToyModelConfig(
    n_features=20,
    d_hidden=5,
    n_instances=len(sweep_p) * sweep_starts,
    feature_probability=sweep_p.repeat_interleave(sweep_starts)[:, None],
    importance=0.9 ** torch.arange(20),
)
torch.manual_seed(3)
model, losses = run(config, steps=2500)
W_twenty, b_twenty, loss_twenty = best_of(sweep_starts, model, losses)

shown = [0, 2, 4, 6, 8, 10, 11, 12]
draw.represented_bars(
    W_twenty[shown],
    [f"p = {p:.2g}   (S = {1 - p:.2f})" for p in sweep_p[shown].tolist()],
    "Dense: five features, cleanly. Sparse: nearly all twenty, each in the others' way",
    subtitle="20 features in 5 dimensions; height: squared length; colour: overlap with the other features",
)

# %% [markdown]
# ### Exercise 02.6: Twenty features, five dimensions: where does it change?
#
# Count the represented features ($\|W_i\|^2 > \tfrac12$) of each instance, and find the **onset**: the largest feature probability at which an instance represents *more features than it has dimensions*.
# Instances come in any order; return `0.0` if none does.


# %% answer="02.6"
def superposition_onset(
    W: Float[Tensor, "instances d_hidden features"], feature_probability: Float[Tensor, "instances"]
) -> tuple[Int[Tensor, "instances"], float]:
    """How many features each instance represents, and the largest probability with more of them than dimensions."""
    ### BEGIN SOLUTION
    counts = (W.square().sum(dim=1) > 0.5).sum(dim=1)
    crowded = feature_probability[counts > W.shape[1]]
    return counts, float(crowded.max()) if len(crowded) else 0.0
    ### END SOLUTION


# %% check="02.6"
check("02.6", superposition_onset)

# %%
counts, onset = superposition_onset(W_twenty, sweep_p)
print("features represented:", counts.tolist(), f" onset: p = {onset:.2f}")
draw.features_per_dimension(
    sweep_p,
    W_twenty,
    f"From {int(counts[0])} features to {int(counts[-1])}: sparsity buys capacity",
    subtitle="20 features in 5 dimensions, importance 0.9ⁱ",
    represented=counts,
    onset=onset,
)

# %% [markdown]
# **Questions**
#
# 1. The soft count $\|W\|_F^2 / d$ stays at 1 and 2 for a while before it moves on. What are the two plateaus?
# 2. At the sparsest end the soft count exceeds the number of features divided by dimensions. Is that a mistake?
#
# <details><summary>Answers</summary>
#
# 1. At 1 every dimension holds one feature; at 2 every dimension holds an antipodal pair. In our run two densities have 5 features and three have 10 exactly. The arrangement moves from one "sticky"
#    shape to the next (lesson 03 finds more of them).
# 2. No: ‖W_i‖² rises above 1 when a negative bias has to be made up for, as in the pentagon. That is why the plot also shows the plain count.
# </details>

# %% [markdown]
# ## 5 · When does superposition pay? The phase diagram on paper
#
# The smallest case can be solved exactly: **two features, one dimension**. The first has importance 1, the second, the *extra* feature, has importance $r$; both are active with probability $p$. Three strategies:
#
# | | $W$ | what is lost |
# |---|---|---|
# | **ignored** | $(1, 0)$ | the extra feature |
# | **dedicated** | $(0, 1)$ | the first feature |
# | **superposition** | $(1, -1)$ | something, when both are active |
#
# What an ignored feature costs: its output can only be a constant, $b$. The best constant is the mean, and what remains is the variance, times the importance. What an antipodal pair costs: $h = x_1 - x_2$, so
# $\hat x_1 = \mathrm{ReLU}(x_1 - x_2)$ and $\hat x_2 = \mathrm{ReLU}(x_2 - x_1)$ (take $b = 0$). If one feature is active, both outputs are exact. If both are, work out the error of each.
#
# **Three features, two dimensions** (importances $1, 1, r$) need one more thought: if the extra feature gets a dimension of its own, the *other two* must live on what is left: one of them is ignored, or they pair up, whichever is cheaper.
# "Ignored" and "superposition" cost what they did before, because the second feature keeps a dimension to itself.

# %% [markdown]
# ### Exercise 02.7: What each strategy costs, exactly
#
# Take pencil and paper. Return a dictionary with the expected losses under the names `"ignored"`, `"dedicated"`, `"superposition"`. `importance` ($r$) and `p` are tensors that broadcast
# against each other.
# You need $\mathbb E[u^2] = \tfrac13$ for a uniform $u$, and the mean square of the *smaller* of two uniforms, whose density is $2(1 - m)$.


# %% answer="02.7"
def expected_loss_of_strategies(importance: Tensor, p: Tensor, n_features: int = 2) -> dict[str, Tensor]:
    """Exact expected losses for n_features=2 in 1 dimension, or n_features=3 in 2 dimensions."""
    ### BEGIN SOLUTION
    # Ignored: E[x] = p/2 and E[x^2] = p/3, so the variance is p/3 - p^2/4.
    variance = p / 3 - p**2 / 4
    # Pair: both active with chance p^2; each output misses by min(x1, x2), and E[min^2] = 2 (1/3 - 1/4) = 1/6.
    ones = torch.ones_like(importance * p)
    pair = p**2 * (1 + importance) / 6
    pair_of_others = p**2 * (1 + 1) / 6 * ones
    dedicated = variance * ones
    if n_features == 3:
        dedicated = torch.minimum(dedicated, pair_of_others)
    return {"ignored": importance * variance, "dedicated": dedicated, "superposition": pair}
    ### END SOLUTION


# %% check="02.7"
check("02.7", expected_loss_of_strategies)

# %%
fine_p = torch.logspace(-2, 0, 400)
costs = expected_loss_of_strategies(torch.full_like(fine_p, 0.8), fine_p)
some_p = torch.logspace(-2, 0, 12)
config = ToyModelConfig(
    n_features=2,
    d_hidden=1,
    n_instances=12 * starts,
    feature_probability=some_p.repeat_interleave(starts)[:, None],
    importance=[1.0, 0.8],
)
torch.manual_seed(4)
model, losses = run(config, steps=1500)
with torch.no_grad():
    trained_loss = toy.expected_loss(model).view(-1, starts).amin(dim=1)
crossing = fine_p[(costs["superposition"] < costs["ignored"])].max()
print(f"superposition is cheaper than ignoring up to p = {crossing:.2f}")
at_some_p = expected_loss_of_strategies(torch.full_like(some_p, 0.8), some_p)
ratio = trained_loss / torch.stack(list(at_some_p.values())).amin(dim=0)
print("trained loss / cheapest strategy:", [round(r, 3) for r in ratio.tolist()])
draw.strategy_costs(
    fine_p,
    costs,
    "A pair costs p², an ignored feature costs p: sparse data makes sharing cheap",
    subtitle=f"Two features in one dimension, relative importance 0.8; circles: the best of {starts} trained models",
    trained=(some_p, trained_loss),
)

# %% [markdown]
# **Questions**
#
# 1. Which power of $p$ is the slope of each line at the left end, and what does that say about very sparse data?
# 2. Here the crossing is at $p \approx$ 0.53. Set the two losses equal: where is it for $r = 1$?
# 3. At $p = 0.43$, near the crossing, the best trained model ended 4% *below* the cheapest strategy. How can it beat an "exact" loss?
#
# <details><summary>Answers</summary>
#
# 1. Ignored (and dedicated) fall like $p$, the pair like $p^2$. However unimportant the extra feature, at small enough $p$ sharing wins.
# 2. $\tfrac{p}{3} - \tfrac{p^2}{4} = \tfrac{2 p^2}{6}$ gives $p = \tfrac47 \approx 0.57$.
# 3. The strategies are exact for *fixed* weights $(1, -1)$ and $b = 0$. A trained model also tunes the lengths and biases, so it can do a little better, most of all where two strategies are about equally good.
# </details>
#
# ### From weights to phases
#
# To compare training with theory over a whole grid, a program has to say what each trained model did with its extra feature, which is always the **last** one.

# %% [markdown]
# ### Exercise 02.8: Which phase did training land in?
#
# Return one number for each instance, the place in `PHASES` = (`"ignored"` 0, `"dedicated"` 1, `"superposition"` 2):
# ignored if $\|W_n\|^2 \le \tfrac12$; otherwise superposition if the others' overlap with it (exercise 02.5) exceeds $\tfrac12$, else dedicated.


# %% answer="02.8"
def classify_solution(W: Float[Tensor, "instances d_hidden features"]) -> Int[Tensor, "instances"]:
    """What became of the last feature: 0 ignored, 1 dedicated, 2 superposition."""
    ### BEGIN SOLUTION
    extra, others = W[:, :, -1], W[:, :, :-1]
    kept = extra.square().sum(dim=1) > 0.5
    unit = nn.functional.normalize(extra, dim=1)
    overlap = (unit[:, :, None] * others).sum(dim=1).square().sum(dim=1)
    return torch.where(kept, torch.where(overlap > 0.5, 2, 1), 0)
    ### END SOLUTION


# %% check="02.8"
check("02.8", classify_solution)

# %% [markdown]
# `toy.phase_diagram` trains a grid of 20 relative importances x 20 densities, from eight starts each: 3,200 models as one batch (with hand-written gradients; a test in this repository shows that
# they equal autograd's). For each cell the start with the lowest expected loss counts, and *your* function names its phase.
#
# **Away from the boundaries** means: in theory the second best strategy costs at least 10% more than the best. Closer than that, fine-tuned lengths and biases can tip the balance either way.

# %%
grid = 30 if FULL else 8 if quick() else 20
diagrams = {}
for n_features in (2, 3):
    diagrams[n_features] = toy.phase_diagram(
        torch.logspace(-1, 1, grid), torch.logspace(-2, 0, grid), n_features=n_features, classify=classify_solution
    )
for n_features, diagram in diagrams.items():
    cells = int(diagram.away.sum())
    print(
        f"n = {n_features}: theory and training agree on {diagram.agreement:.1%} of {cells} cells away from the boundaries"
    )

# %%
draw.phase_diagrams(
    diagrams[2],
    "Paper predicts training: three phases meet where data is dense",
    subtitle=f"Agreement away from the boundaries: {diagrams[2].agreement:.1%}. The other feature has importance 1.",
)

# %%
draw.phase_diagrams(
    diagrams[3],
    "With a dimension to spare, an important extra feature pushes the others into a pair",
    subtitle=f"Agreement away from the boundaries: {diagrams[3].agreement:.1%}. The other two features have importance 1.",
)

# %% [markdown]
# **Questions**
#
# 1. These are *phase* diagrams: colours change abruptly, not gradually. Where does the abruptness come from, given that the losses are smooth functions of $r$ and $p$?
# 2. In the first diagram ($n = 2$), why is there no "dedicated" region at low density, even for $r = 10$?
# 3. In the second ($n = 3$), the boundary at low density is the vertical line $r = 1$. Why?
#
# <details><summary>Answers</summary>
#
# 1. Training picks the cheapest of several separate local minima. The minima's depths change smoothly, but which of them is deepest changes at a point: a first-order phase change.
# 2. There "dedicated" costs $V(p) \sim p/3$, the whole first feature, whereas the pair costs only $p^2 (1 + r) / 6$. For $r = 10$ the pair is cheaper up to $p \approx 0.16$.
# 3. One pair has to share in any case. It costs $p^2 (1 + r) / 6$ if the extra feature is in it, $p^2 (1 + 1) / 6$ if it is not: the cheapest pair leaves out the most important feature.
# </details>
#
# In our run theory and training agree on **99.0%** of the 388 cells away from the boundaries for $n = 2$, and on **99.2%** of 360 for $n = 3$.

# %% [markdown]
# ## 6 · Features that come in pairs
#
# Real features are not independent. "Is a dog" and "has fur" fire together; "the sentence is French" and "the sentence is Finnish" exclude each other. Make two kinds of data whose features
# $2k$ and $2k + 1$ are a pair:
#
# - **correlated**: both active (probability $p$) or neither, each with its own magnitude;
# - **anticorrelated**: never both; each one active with probability $p \le \tfrac12$.

# %% [markdown]
# ### Exercise 02.9: Features that fire together, and features that never do
#
# `feature_probability [instances, features]` has an even number of features and equal values within a pair. Different pairs, and different instances, are independent.
# The last line, which collects both functions for the check, stays as it is.


# %% answer="02.9"
def generate_correlated_batch(
    batch_size: int, feature_probability: Float[Tensor, "instances features"]
) -> Float[Tensor, "instances batch features"]:
    """Features 2k and 2k+1 are active together; their magnitudes are independent."""
    ### BEGIN SOLUTION
    instances, features = feature_probability.shape
    p = feature_probability[:, None, ::2]
    together = torch.rand(instances, batch_size, features // 2) < p
    return together.repeat_interleave(2, dim=-1) * torch.rand(instances, batch_size, features)
    ### END SOLUTION


def generate_anticorrelated_batch(
    batch_size: int, feature_probability: Float[Tensor, "instances features"]
) -> Float[Tensor, "instances batch features"]:
    """Features 2k and 2k+1 are never active together; each is active with probability p."""
    ### BEGIN SOLUTION
    instances, features = feature_probability.shape
    p = feature_probability[:, None, ::2]
    u = torch.rand(instances, batch_size, features // 2)  # decides: first, second, or neither
    active = torch.stack([u < p, (u >= p) & (u < 2 * p)], dim=-1).flatten(-2)
    return active * torch.rand(instances, batch_size, features)
    ### END SOLUTION


pair_generators = (generate_correlated_batch, generate_anticorrelated_batch)

# %% check="02.9"
check("02.9", pair_generators)

# %%
config = ToyModelConfig(n_features=4, d_hidden=2, n_instances=16, feature_probability=0.2)
W_pairs = []
for generate in (generate_correlated_batch, generate_batch, generate_anticorrelated_batch):
    torch.manual_seed(5)
    model, losses = run(config, steps=2000, generate=generate)
    W, b, loss = best_of(1, model, losses)
    W_pairs.append(W[loss.argmin()])
    cosine = nn.functional.normalize(W, dim=1)
    within = (cosine[:, :, 0] * cosine[:, :, 1]).sum(dim=1), (cosine[:, :, 2] * cosine[:, :, 3]).sum(dim=1)
    good = loss < 1.15 * loss.min() + 1e-6  # starts that did not get stuck
    mean_cosine = torch.stack(within)[:, good].mean()
    opposite = (torch.stack(within)[:, good] < -0.8).float().mean()
    print(f"{generate.__name__:30s} best loss {loss.min():.5f}, {int(good.sum()):2d} good starts", end=": ")
    print(f"mean cosine of partners {mean_cosine:+.2f}, opposite in {opposite:.0%}")
draw.feature_directions(
    torch.stack(W_pairs),
    ["fire together", "independent", "never fire together"],
    "Pairs that fire together keep at right angles; pairs that never do share a dimension",
    subtitle="4 features in 2 dimensions, p = 0.2; features 0 and 1 (blue, orange) are a pair, 2 and 3 (green, red) another",
    columns=3,
)

# %% [markdown]
# **Questions**
#
# 1. The anticorrelated model reaches a loss of practically zero with four features in two dimensions. Why is that possible?
# 2. Independent features also end as antipodal pairs. What distinguishes them from the anticorrelated ones?
#
# <details><summary>Answers</summary>
#
# 1. An antipodal pair errs only when both are active. Features that never are can share a dimension for free.
# 2. *Who* is paired with whom is left to chance for independent features. Anticorrelated features choose their rival, correlated ones avoid their friend: look at the printed cosines within pairs.
# </details>
#
# In our run, over the starts that did not get stuck, partners ended opposite each other in 0% of correlated pairs, 25% of independent ones and 100% of anticorrelated ones.

# %% [markdown]
# ## 7 · Importance or density: who gets a dimension of its own?
#
# So far all features were equally dense. Now each feature has its own importance $I_i$ and probability $p_i$. Take $n$ features in $n - 1$ dimensions: there is exactly one feature too many. Either
#
# - one feature $k$ is **ignored**, at the cost $I_k \left(\tfrac{p_k}{3} - \tfrac{p_k^2}{4}\right)$, or
# - two features $i, j$ **share** a dimension as an antipodal pair, at the cost $\tfrac16\, p_i\, p_j\, (I_i + I_j)$,
#
# and every other feature has a dimension of its own, at no cost.

# %% [markdown]
# ### Exercise 02.10: Who gets a dimension of its own?
#
# Find the cheapest arrangement. Return each feature's fate, a list of `"ignored"`, `"dedicated"` or `"superposition"`, and the loss.


# %% answer="02.10"
def best_allocation(importance: Float[Tensor, "features"], p: Float[Tensor, "features"]) -> tuple[list[str], float]:
    """The cheapest way to fit n features into n - 1 dimensions: every feature's fate, and the expected loss."""
    ### BEGIN SOLUTION
    n = len(importance)
    options = []  # (cost, {feature: fate})
    for i in range(n):
        options.append((float(importance[i] * (p[i] / 3 - p[i] ** 2 / 4)), {i: "ignored"}))
        for j in range(i + 1, n):
            cost = float(p[i] * p[j] * (importance[i] + importance[j]) / 6)
            options.append((cost, {i: "superposition", j: "superposition"}))
    cost, fate = min(options, key=lambda option: option[0])
    return [fate.get(i, "dedicated") for i in range(n)], cost
    ### END SOLUTION


# %% check="02.10"
check("02.10", best_allocation)

# %% [markdown]
# Three features in two dimensions. Two of them have importance 1 and $p = 0.2$; the third's importance and density are varied around those, relative to theirs. On the dashed line the
# product of importance and density is the same for all three: on average all contribute equally to the loss.

# %%
cells = 17 if FULL else 7 if quick() else 13
relative_importance, relative_density = torch.logspace(-1, 1, cells), torch.logspace(-0.7, 0.6, cells)
I = torch.ones(cells, cells, 3)
I[:, :, 2] = relative_importance[None, :]
P = torch.full_like(I, 0.2)
P[:, :, 2] *= relative_density[:, None]
I, P = I.view(-1, 3), P.view(-1, 3)
fates = [best_allocation(importance, p)[0][2] for importance, p in zip(I, P)]
predicted = torch.tensor([PHASES.index(fate) for fate in fates]).view(cells, cells)

tries = 6
config = ToyModelConfig(3, 2, len(I) * tries, P.repeat_interleave(tries, dim=0), I.repeat_interleave(tries, dim=0))
result = toy.train_toy_model(config, steps=1200, batch_size=128, lr=0.01, seed=6)  # your loop, faster
chosen = toy.expected_loss(result.model).view(-1, tries).argmin(dim=1) + tries * torch.arange(len(I))
found = classify_solution(result.W[chosen]).view(cells, cells)
agreement = float((found == predicted).float().mean())
print(f"prediction and training agree on {agreement:.1%} of all {cells * cells} cells")
draw.fate_map(
    relative_importance,
    relative_density,
    predicted,
    found,
    "At equal importance × density, the denser feature gets the dimension",
    subtitle=f"Fate of the third feature; agreement on all cells: {agreement:.1%}",
)

# %% [markdown]
# **Questions**
#
# 1. Follow the dashed line from bottom right (important, rare) to top left (unimportant, frequent). What happens to the third feature, and which formula says so?
# 2. How much can importance alone do? Take a feature half as dense as the others: how important must it be for a dimension of its own?
#
# <details><summary>Answers</summary>
#
# 1. Important but rare: it shares. Frequent but unimportant: it has a dimension of its own (until it is so dense and so unimportant that it is ignored). With $I_i = c / p_i$ a pair costs $\tfrac c6 (p_i + p_j)$:
#    at equal product the pair that costs least is the *rarest* two. Whether a feature is stored **at all** depends on importance x density (its variance); **how** it is stored depends more on density, because a dense feature is an expensive flatmate.
# 2. Compare the pairs (1, 2) and (1, 3): $2 p^2$ against $p \cdot p_3 (1 + r)$. With $p_3 = p / 2$ the third wins its own dimension when $\tfrac12 (1 + r) > 2$: it must be more than **three times** as important.
#    The other way round, a feature half as important needs only **4/3** of the others' density ($p_3 \cdot 1.5 > 2 p$), and one that is twice as dense gets its dimension for any $r > 0$ (unless it is ignored).
#    Density enters as a factor; importance only as $1 + r$, because the partner's importance is part of the price too.
# </details>

# %% [markdown]
# **Questions to answer in words**
#
# 1. Why does a *linear* autoencoder never show superposition, however sparse the data?
# 2. You look at a real network and find that two features have cosine $-0.9$. Name two explanations from this lesson, and a measurement that tells them apart.
#
# <details><summary>Answers to compare with</summary>
#
# 1. Its loss depends on the data only through second moments. For independent features it is a weighted low-rank approximation, solved by keeping the $d$ heaviest features: sparsity only rescales the problem. Cutting interference off needs a nonlinearity.
# 2. They may exclude each other (anticorrelated), or both be rare and paired by chance. Count how often both are active: near zero for the first, near the product of their frequencies for the second.
# </details>
#
# ## Common mistakes
#
# | mistake | what happens | the check says |
# |---|---|---|
# | the bias after the ReLU, or none | positive leaks can only be reduced by shorter vectors: with this lesson's importances four features are kept and the pentagon never forms | 02.2 `bias_after_relu`, `no_bias` |
# | one random number for "active?" and "how large?" | sparse data is also *small* data, and losses look better than they are | 02.1 `one_number_for_mask_and_magnitude` |
# | one mask for all instances | results of different instances are not independent | 02.1 `one_mask_for_all_instances` |
# | averaging the loss over features | the loss comes out $n$ times too small: it no longer matches the exact losses of section 5, nor models with another $n$ (Adam itself does not notice) | 02.3 `features_averaged` |
# | `.detach()`, `.data` or `.item()` on the way to the loss | the loss prints well and nothing trains | 02.2, 02.3 `detached...` |
# | dividing by the norm of a feature that is not represented | NaN in every plot from there on | 02.5 `nan_on_a_dead_feature` |
# | drawing conclusions from one random start | a local minimum is taken for the model's preference | `best_of` |
# | reading sparsity as density | phase diagrams upside down | 02.1 `sparsity_for_probability` |
#
# ## Summary
#
# - A layer can store more features than it has dimensions. It pays when features are **sparse**: interference costs $p^2$, dropping a feature costs $p$.
# - The price is **interference**. A ReLU with a bias hides it as long as few features are active at once. A linear model cannot do this.
# - What happens to a feature changes **abruptly** with importance and density. Expected losses on paper predicted training on 99.0% ($n = 2$) and 99.2% ($n = 3$) of the cells away from the boundaries.
# - 20 features in 5 dimensions: 5 represented when dense, all 20 at $p = 0.01$; superposition began at $p \approx$ 0.46.
# - Features that exclude each other share a dimension for free; features that fire together keep apart. Density counts for more than importance when dimensions are handed out.
# - For a network whose features we do *not* know, all of this means: neurons, and even orthogonal directions, need not be features.
#
# **Next**: lesson 03 looks at the shapes that features form; from lesson 04 on you learn to find features that nobody knows.
#
# ## Further reading
#
# - Elhage et al. 2022, [Toy Models of Superposition](https://transformer-circuits.pub/2022/toy_model/index.html): the source of the model; sections on phase change and geometry.
# - Scherlis et al. 2022, [Polysemanticity and Capacity in Neural Networks](https://arxiv.org/abs/2210.01892): who gets how much of a dimension, as an allocation problem.
# - Henighan et al. 2023, [Superposition, Memorization, and Double Descent](https://transformer-circuits.pub/2023/toy-double-descent/index.html): the same model on a finite data set (lesson 03).
# - Hänni et al. 2024, [Mathematical Models of Computation in Superposition](https://arxiv.org/abs/2408.05451): not only storing but computing with too few neurons.

# %%
progress()
