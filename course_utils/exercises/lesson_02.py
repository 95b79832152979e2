"""The exercises of lesson 02, toy models of superposition: what each asks, how it is probed, which mistakes it knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from course_utils import toy
from course_utils.grading.exercise import Lesson
from course_utils.grading.judge import Between, Close, Exact

lesson = Lesson("02", "Toy models of superposition", slug="02_toy_superposition")

SAMPLES = 20_000
"""Batch size of the statistical cases. A share or a covariance of so many samples has a standard error of at most 0.0036."""

SAMPLED = Close(rtol=0.0, atol=0.026)
"""Two samples' statistics agree: 5 standard errors of the difference of two shares, 5 * 0.0036 * sqrt(2)."""

COVARIES = Close(rtol=0.0, atol=0.0125)
"""The same for covariances of 0/1 variables, whose standard error is at most 0.25 / sqrt(20 000) = 0.0018."""


def shares(x: Tensor) -> Tensor:
    """How often each feature is active: [instances, features]."""
    return (x > 0).float().mean(dim=1)


def deciles(x: Tensor) -> Tensor:
    """The nine deciles of the values that are not zero; zeros if there are none."""
    active = x[x != 0].flatten().float()
    at = torch.linspace(0.1, 0.9, 9)
    return torch.quantile(active[:SAMPLES], at) if len(active) else torch.zeros(9)


def sized(x: Tensor, instances: int, features: int) -> Tensor:
    """`x` if it is a batch of the statistical cases' shape; otherwise an error that says what shape it has."""
    if list(x.shape) != [instances, SAMPLES, features]:
        raise ValueError(f"the batch has shape {list(x.shape)}, expected {[instances, SAMPLES, features]}")
    return x


def covariance(*columns: Tensor) -> Tensor:
    """Covariance matrix of columns of equal length."""
    return torch.cov(torch.stack([column.float() for column in columns]))


def spread_probabilities(draw: Any, instances: int, features: int) -> Tensor:
    """Probabilities that differ clearly: evenly spread over [0.1, 0.85], in random order."""
    values = torch.linspace(0.1, 0.85, instances * features)
    order = torch.from_numpy(draw.rng.permutation(instances * features))
    return draw.lend(values[order].view(instances, features))


# ------------------------------------------------------------------------------------------------ 02.1 the data

batch = lesson.exercise(
    1,
    title="Sparse features whose truth is known",
    answer="generate_batch",
    reference=toy.generate_batch,
    points=2,
    difficulty=1,
    importance=5,
    minutes=8,
    hints=(
        "You need two random numbers for every entry: one decides whether the feature is active, the other how large it is.",
        "`torch.rand(instances, batch_size, features)` is uniform on [0, 1): comparing it with the probability gives the mask.",
        "`feature_probability[:, None, :]` has shape [instances, 1, features] and broadcasts over the batch. "
        "Return `torch.rand(shape) * (torch.rand(shape) < feature_probability[:, None, :])`.",
    ),
)


@batch.case("the shape is [instances, batch, features]", rule=Exact())
def _(f, draw):
    return list(f(7, draw.uniform(3, 5)).shape)


@batch.case("how often each feature is active, when features differ", rule=SAMPLED)
def _(f, draw):
    return shares(sized(f(SAMPLES, spread_probabilities(draw, 1, 5)), 1, 5))


@batch.case("how often features are active, when instances differ", rule=SAMPLED)
def _(f, draw):
    return shares(sized(f(SAMPLES, spread_probabilities(draw, 4, 2)), 4, 2))


@batch.case("features of probability 0 and 1", rule=Close(rtol=0, atol=1e-3))
def _(f, draw):
    p = draw.lend(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    return shares(f(2000, p))


@batch.case("the magnitudes of active features", rule=SAMPLED, weight=2)
def _(f, draw):
    return deciles(f(SAMPLES, draw.lend(torch.full((1, 2), 0.5))))


@batch.case("features are active independently of each other", rule=COVARIES, weight=2)
def _(f, draw):
    x = sized(f(SAMPLES, draw.lend(torch.full((1, 3), 0.5))), 1, 3)[0]
    return covariance(*(x > 0).T)


@batch.case("magnitudes of different features and instances are independent", rule=Close(rtol=0, atol=0.0045))
def _(f, draw):
    # always active, so that only magnitudes vary: variance 1/12, standard error of a covariance 0.0006
    x = sized(f(SAMPLES, draw.lend(torch.ones(2, 2))), 2, 2)
    return covariance(*x.transpose(1, 2).flatten(0, 1))


@batch.case("each instance has its own data", rule=COVARIES)
def _(f, draw):
    x = sized(f(SAMPLES, draw.lend(torch.full((3, 1), 0.5))), 3, 1)
    return covariance(*(x[:, :, 0] > 0))


@batch.case("every sample and every batch is new", rule=COVARIES)
def _(f, draw):
    p = draw.lend(torch.full((1, 1), 0.5))
    first, second = (sized(f(SAMPLES, p), 1, 1).flatten() for _ in range(2))
    return covariance(first[:-1], first[1:], second[:-1])


def _mask(batch_size: int, p: Tensor) -> Tensor:
    return torch.rand(p.shape[0], batch_size, p.shape[1]) < p[:, None, :]


@batch.mistake("Active features are all exactly 1. They should have a random magnitude, uniform between 0 and 1.")
def binary_magnitudes(batch_size, feature_probability):
    return _mask(batch_size, feature_probability).float()


@batch.mistake(
    "Features are active with probability 1 - p. Here `feature_probability` is p = 1 - S, the chance that a feature is *active*."
)
def sparsity_for_probability(batch_size, feature_probability):
    p = 1 - feature_probability
    return _mask(batch_size, p) * torch.rand(p.shape[0], batch_size, p.shape[1])


@batch.mistake(
    "One random number decides both whether a feature is active and how large it is, so magnitudes stop at p. Draw two."
)
def one_number_for_mask_and_magnitude(batch_size, feature_probability):
    u = torch.rand(feature_probability.shape[0], batch_size, feature_probability.shape[1])
    return u * (u < feature_probability[:, None, :])


@batch.mistake(
    "All instances share one mask. Each instance needs its own: draw random numbers of shape [instances, batch, features]."
)
def one_mask_for_all_instances(batch_size, feature_probability):
    p = feature_probability
    return torch.rand(p.shape[0], batch_size, p.shape[1]) * (torch.rand(1, batch_size, p.shape[1]) < p[:, None, :])


@batch.mistake(
    "All features of a sample are active together: the mask needs a random number for each feature, not one per sample."
)
def features_always_together(batch_size, feature_probability):
    p = feature_probability
    return torch.rand(p.shape[0], batch_size, p.shape[1]) * (torch.rand(p.shape[0], batch_size, 1) < p[:, None, :])


@batch.mistake("The magnitudes lie in a tenth of the range: they should be uniform on [0, 1].")
def small_magnitudes(batch_size, feature_probability):
    return 0.1 * toy.generate_batch(batch_size, feature_probability)


@batch.mistake("The magnitudes are normally distributed; they should be uniform on [0, 1], and never negative.")
def normal_magnitudes(batch_size, feature_probability):
    mask = _mask(batch_size, feature_probability)
    return torch.randn(mask.shape) * mask


@batch.mistake(
    "Every feature is always active and p scales its size. The probability decides *whether* a feature is active, not how large it is."
)
def probability_scales_the_magnitude(batch_size, feature_probability):
    p = feature_probability
    return torch.rand(p.shape[0], batch_size, p.shape[1]) * p[:, None]


@batch.mistake("The same batch comes back every time: a seed is set inside the function. Leave seeding to the caller.")
def same_batch_every_time(batch_size, feature_probability):
    torch.manual_seed(0)
    return toy.generate_batch(batch_size, feature_probability)


@batch.mistake("One sample is repeated over the whole batch: the random numbers need the batch axis.")
def one_sample_repeated(batch_size, feature_probability):
    return toy.generate_batch(1, feature_probability).repeat(1, batch_size, 1)


@batch.mistake("Every instance uses the first instance's probabilities.")
def first_instance_probability(batch_size, feature_probability):
    p = feature_probability[:1].expand_as(feature_probability)
    return toy.generate_batch(batch_size, p)


@batch.mistake("Every feature uses one probability, the average: compare with each feature's own.")
def average_probability(batch_size, feature_probability):
    p = feature_probability.mean(dim=1, keepdim=True).expand_as(feature_probability)
    return toy.generate_batch(batch_size, p)


@batch.mistake(
    "Axes are in another order: the batch comes first. The course keeps instances first: [instances, batch, features]."
)
def batch_axis_first(batch_size, feature_probability):
    return toy.generate_batch(batch_size, feature_probability).transpose(0, 1)


@batch.mistake("All features of a sample share one magnitude: the random magnitudes need the feature axis too.")
def one_magnitude_for_all_features(batch_size, feature_probability):
    p = feature_probability
    return torch.rand(p.shape[0], batch_size, 1) * _mask(batch_size, p)


@batch.mistake("All instances share their magnitudes: the random magnitudes need the instance axis too.")
def one_magnitude_for_all_instances(batch_size, feature_probability):
    p = feature_probability
    return torch.rand(1, batch_size, p.shape[1]) * _mask(batch_size, p)


@batch.alternative
def with_bernoulli_and_loops(batch_size, feature_probability):
    instances = []
    for p in feature_probability:
        x = torch.empty(batch_size, len(p)).uniform_(0, 1)
        instances.append(torch.where(torch.bernoulli(p.repeat(batch_size, 1)) > 0, x, torch.zeros(())))
    return torch.stack(instances)


# ------------------------------------------------------------------------------------------------ 02.2 the model

model = lesson.exercise(
    2,
    title="The model: squeeze and recover",
    answer="ToyModel",
    reference=toy.ToyModel,
    points=3,
    difficulty=2,
    importance=5,
    minutes=12,
    hints=(
        "Write the formula for one sample first: h = W x has `d_hidden` numbers, x_hat = ReLU(W^T h + b) has `n_features`.",
        "With a batch, x is [instances, batch, features] and W is [instances, d_hidden, features]. "
        "`x @ W.mT` gives h of every instance at once (`.mT` exchanges the last two axes).",
        "`self.W = nn.Parameter(torch.randn(instances, d, n) * 0.3)`, `self.b = nn.Parameter(torch.zeros(instances, n))`; "
        "forward: `h = x @ self.W.mT` and `torch.relu(h @ self.W + self.b[:, None, :])`.",
    ),
)


def built(M, draw, n_instances: int, n_features: int, d_hidden: int, bias: bool = True) -> Any:
    """An instance of the learner's class whose weights are set to drawn values."""
    made = M(toy.ToyModelConfig(n_features=n_features, d_hidden=d_hidden, n_instances=n_instances))
    shapes = {"W": [n_instances, d_hidden, n_features], "b": [n_instances, n_features]}
    for name, shape in shapes.items():
        if not hasattr(made, name):
            raise ValueError(f"the model has no `{name}`: `self.{name}` should be a parameter of shape {shape}")
        if list(getattr(made, name).shape) != shape:
            raise ValueError(f"`{name}` has shape {list(getattr(made, name).shape)}, expected {shape}")
    with torch.no_grad():
        made.W.copy_(draw.normal(n_instances, d_hidden, n_features, std=0.7))
        made.b.copy_(draw.normal(n_instances, n_features, std=0.5 if bias else 0.0))
    return made


@model.case("W and b are parameters of the right shapes", rule=Exact())
def _(M, draw):
    made = dict(M(toy.ToyModelConfig(n_features=5, d_hidden=2, n_instances=3)).named_parameters())
    return {name: str(list(made[name].shape)) if name in made else "not an nn.Parameter" for name in ("W", "b")}


@model.case("the output of one instance without bias")
def _(M, draw):
    return built(M, draw, 1, 5, 2, bias=False)(draw.uniform(1, 12, 5))


@model.case("the output with a bias that is not zero", weight=2)
def _(M, draw):
    return built(M, draw, 1, 6, 3)(draw.uniform(1, 12, 6))


@model.case("the output of three instances with different weights", weight=2)
def _(M, draw):
    return built(M, draw, 3, 5, 2)(draw.uniform(3, 4, 5))


@model.case("gradients reach W and b", rule=Close(rtol=1e-3, atol=1e-4), weight=2)
def _(M, draw):
    made = built(M, draw, 2, 5, 2)
    made(draw.uniform(2, 30, 5)).square().sum().backward()
    return {"W": made.W.grad, "b": made.b.grad}


@model.case(
    "W starts random, not zero, and differs between instances", rule={"spread": Between(1e-3, 5.0), "*": Exact()}
)
def _(M, draw):
    W = M(toy.ToyModelConfig(n_features=20, d_hidden=5, n_instances=2)).W.detach()
    return {"spread": float(W.std()), "instances differ": not torch.equal(W[0], W[1])}


class _Variant(nn.Module):
    def __init__(self, config):
        super().__init__()
        shape = (config.n_instances, config.d_hidden, config.n_features)
        self.W = nn.Parameter(torch.randn(shape) * 0.3)
        self.b = nn.Parameter(torch.zeros(config.n_instances, config.n_features))

    def forward(self, x):
        return torch.relu(x @ self.W.mT @ self.W + self.b[:, None])


@model.mistake("The bias is missing: x_hat = ReLU(W^T h + b).")
class no_bias(_Variant):
    def forward(self, x):
        return torch.relu(x @ self.W.mT @ self.W)


@model.mistake("The bias is added after the ReLU. Inside it can push small interference below zero; outside it cannot.")
class bias_after_relu(_Variant):
    def forward(self, x):
        return torch.relu(x @ self.W.mT @ self.W) + self.b[:, None]


@model.mistake("The bias is subtracted; the formula adds it.")
class bias_subtracted(_Variant):
    def forward(self, x):
        return torch.relu(x @ self.W.mT @ self.W - self.b[:, None])


@model.mistake(
    "The ReLU is missing: x_hat = ReLU(W^T h + b). Without it the model is linear and finds no superposition."
)
class no_relu(_Variant):
    def forward(self, x):
        return x @ self.W.mT @ self.W + self.b[:, None]


@model.mistake(
    "There is a ReLU on the hidden layer. Here h = W x is linear; the only ReLU is at the output (lesson 03 adds the other)."
)
class relu_on_the_hidden_layer(_Variant):
    def forward(self, x):
        return torch.relu(torch.relu(x @ self.W.mT) @ self.W + self.b[:, None])


@model.mistake(
    "All instances use the first instance's weights. Multiply instance by instance: `x @ self.W.mT` with "
    "x [instances, batch, features]."
)
class first_instance_for_all(_Variant):
    def forward(self, x):
        return torch.relu(x @ self.W[0].T @ self.W[0] + self.b[:, None])


@model.mistake("All instances use the first instance's bias: `self.b[:, None, :]` keeps them apart.")
class first_bias_for_all(_Variant):
    def forward(self, x):
        return torch.relu(x @ self.W.mT @ self.W + self.b[0])


@model.mistake(
    "No gradient reaches the weights: something is detached (`.data`, `.detach()` or `torch.no_grad()`), so nothing could train."
)
class detached(_Variant):
    def forward(self, x):
        return torch.relu(x @ self.W.data.mT @ self.W.data + self.b.data[:, None])


@model.mistake("No gradient reaches W through the encoder: the first W is detached, the second is not.")
class encoder_detached(_Variant):
    def forward(self, x):
        return torch.relu(x @ self.W.detach().mT @ self.W + self.b[:, None])


@model.mistake(
    "W and b are plain tensors, so `model.parameters()` is empty and nothing trains: wrap them in `nn.Parameter`."
)
class plain_tensors(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.W = torch.randn(config.n_instances, config.d_hidden, config.n_features) * 0.3
        self.b = torch.zeros(config.n_instances, config.n_features)

    forward = _Variant.forward


@model.mistake(
    "W starts at zero, where its gradient is zero too: it would never move. Start from small random numbers."
)
class zero_weights(_Variant):
    def __init__(self, config):
        super().__init__(config)
        nn.init.zeros_(self.W)


@model.mistake(
    "All instances start from the same W. Draw random numbers for each: different starts are why we train several."
)
class same_start_everywhere(_Variant):
    def __init__(self, config):
        super().__init__(config)
        self.W = nn.Parameter(self.W.detach()[:1].repeat(config.n_instances, 1, 1))


@model.mistake(
    "W has its axes exchanged: this course stores [instances, d_hidden, features], so that a column is a feature's direction."
)
class transposed_weights(_Variant):
    def __init__(self, config):
        super().__init__(config)
        self.W = nn.Parameter(self.W.detach().mT.contiguous())

    def forward(self, x):
        return torch.relu(x @ self.W @ self.W.mT + self.b[:, None])


@model.alternative
class with_einsum(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.extra = "anything else is fine"
        self.b = nn.Parameter(torch.full((config.n_instances, config.n_features), 0.01))
        self.W = nn.Parameter(torch.rand(config.n_instances, config.d_hidden, config.n_features) - 0.5)

    def forward(self, batch):
        h = torch.einsum("ibn,idn->ibd", batch, self.W)
        out = torch.einsum("ibd,idn->ibn", h, self.W) + self.b.unsqueeze(1)
        return out.clamp(min=0)


# ------------------------------------------------------------------------------------------------ 02.3 the loss

loss = lesson.exercise(
    3,
    title="The importance-weighted loss",
    answer="importance_weighted_loss",
    reference=toy.importance_weighted_loss,
    points=2,
    difficulty=1,
    importance=4,
    minutes=6,
    hints=(
        "Square the errors, weight them, then ask of each axis: summed, averaged, or kept?",
        "Importance multiplies the *squared* error. Features are summed, samples averaged, instances kept.",
        "`importance[:, None, :]` broadcasts over the batch: `(importance[:, None, :] * (x - x_hat) ** 2).sum(-1).mean(-1)`.",
    ),
)


@loss.case("the loss of one instance", weight=2)
def _(f, draw):
    return f(draw.uniform(1, 16, 5), draw.uniform(1, 16, 5), draw.uniform(1, 5, low=0.2))


@loss.case("instances with importances of their own", weight=2)
def _(f, draw):
    return f(draw.uniform(3, 8, 4), draw.uniform(3, 8, 4), draw.uniform(3, 4, low=0.2))


@loss.case("a perfect reconstruction")
def _(f, draw):
    x = draw.uniform(2, 6, 3)
    return f(x, x.clone(), draw.uniform(2, 3))


@loss.case("the gradient that reaches the model", rule=Close(rtol=1e-3))
def _(f, draw):
    x_hat = draw.uniform(2, 6, 5).requires_grad_()
    f(draw.uniform(2, 6, 5), x_hat, draw.uniform(2, 5, low=0.2)).sum().backward()
    return x_hat.grad


@loss.mistake("The importance is inside the square, so it counts squared: weight the squared error instead.")
def importance_inside_the_square(x, x_hat, importance):
    return ((importance[:, None] * (x - x_hat)) ** 2).sum(-1).mean(-1)


@loss.mistake("The importance is not used.")
def importance_ignored(x, x_hat, importance):
    return ((x - x_hat) ** 2).sum(-1).mean(-1)


@loss.mistake("The errors are not squared: absolute errors pull differently.")
def absolute_error(x, x_hat, importance):
    return (importance[:, None] * (x - x_hat).abs()).sum(-1).mean(-1)


@loss.mistake("Features are averaged; they should be summed (only samples are averaged).")
def features_averaged(x, x_hat, importance):
    return (importance[:, None] * (x - x_hat) ** 2).mean(-1).mean(-1)


@loss.mistake("Samples are summed; they should be averaged, or the loss grows with the batch size.")
def samples_summed(x, x_hat, importance):
    return (importance[:, None] * (x - x_hat) ** 2).sum(-1).sum(-1)


@loss.mistake("The instances are added up into one number. Keep that axis: one loss for each instance.")
def instances_summed(x, x_hat, importance):
    return toy.importance_weighted_loss(x, x_hat, importance).sum()


@loss.mistake("The instances are averaged into one number. Keep that axis: one loss for each instance.")
def instances_averaged(x, x_hat, importance):
    return toy.importance_weighted_loss(x, x_hat, importance).mean()


@loss.mistake("Every instance is weighted with the first instance's importances.")
def first_importance_for_all(x, x_hat, importance):
    return (importance[0] * (x - x_hat) ** 2).sum(-1).mean(-1)


@loss.mistake("The loss is detached from the graph (`.detach()`, `.item()` or `.data`), so nothing could train on it.")
def detached_loss(x, x_hat, importance):
    return toy.importance_weighted_loss(x, x_hat.detach(), importance)


@loss.mistake("The weights are divided by their sum: importances are absolute, not shares.")
def importance_normalised(x, x_hat, importance):
    return toy.importance_weighted_loss(x, x_hat, importance / importance.sum(-1, keepdim=True))


@loss.alternative
def with_einsum_and_a_mean_first(x, x_hat, importance):
    return torch.einsum("if,if->i", (x_hat - x).pow(2).mean(dim=1), importance)


# ------------------------------------------------------------------------------------------------ 02.4 training

train = lesson.exercise(
    4,
    title="A training loop with schedules",
    answer="optimize",
    reference=toy.optimize,
    points=3,
    difficulty=3,
    importance=4,
    minutes=15,
    seconds=60.0,  # the first optimizer of a process imports half of torch: seconds on a busy machine
    hints=(
        "A step: set the learning rate, draw a batch, loss, zero the gradients, backward, step, remember the "
        "loss. Adam is made once, before the loop.",
        'The learning rate lives in the optimizer: `for group in optimizer.param_groups: group["lr"] = lr * factor`. '
        "The factor depends on t / steps, with t = 0 in the first step.",
        "`factor = {'constant': 1.0, 'linear': 1 - t / steps, 'cosine': 0.5 * (1 + math.cos(math.pi * t / steps))}[schedule]`; "
        "`loss = loss_fn(x, model(x))`, `loss.sum().backward()`, and at the end `torch.stack(losses)` of the detached losses.",
    ),
)

STEPS = 7


class _Run:
    """A small model, a list of batches and a loss, the same for every candidate; then one call of the training loop."""

    def __init__(self, f, draw, schedule: str = "constant", instances: int = 1, steps: int = STEPS) -> None:
        config = toy.ToyModelConfig(n_features=4, d_hidden=2, n_instances=instances)
        self.model = toy.ToyModel(config, dtype=torch.float64)
        with torch.no_grad():
            self.model.W.copy_(torch.from_numpy(draw.rng.normal(0, 0.6, self.model.W.shape)))
            self.model.b.fill_(0.05)
        self.calls = 0
        self.batches = torch.from_numpy(draw.rng.uniform(0.05, 1, (3 * steps, instances, 16, 4)))
        importance = torch.from_numpy(draw.rng.uniform(0.5, 1, (instances, 4)))
        self.losses = f(
            self.model,
            sample=self.sample,
            loss_fn=lambda x, x_hat: toy.importance_weighted_loss(x, x_hat, importance),
            steps=steps,
            lr=0.05,
            schedule=schedule,
        )

    def sample(self) -> Tensor:
        self.calls += 1
        return self.batches[(self.calls - 1) % len(self.batches)].clone()

    @property
    def weights(self) -> dict[str, Tensor]:
        return {"W": self.model.W.detach(), "b": self.model.b.detach()}


TRAINED = Close(rtol=1e-3, atol=1e-4)


@train.case("the weights after one step", rule=TRAINED)
def _(f, draw):
    return _Run(f, draw, steps=1).weights


@train.case("the weights after seven steps at a constant rate", rule=TRAINED)
def _(f, draw):
    return _Run(f, draw, instances=2).weights


@train.case("the linear schedule", rule=TRAINED)
def _(f, draw):
    return _Run(f, draw, "linear").weights


@train.case("the cosine schedule", rule=TRAINED)
def _(f, draw):
    return _Run(f, draw, "cosine").weights


@train.case("the losses it returns", rule=TRAINED)
def _(f, draw):
    losses = _Run(f, draw, instances=3).losses
    if isinstance(losses, (list, tuple)):
        raise TypeError("`optimize` should return one tensor, [steps, instances]: `torch.stack(losses)`")
    kept = "still part of the graph" if getattr(losses, "requires_grad", False) else "detached"
    return {"losses": losses, "kept": kept}


@train.case("one fresh batch a step", rule=Exact())
def _(f, draw):
    return _Run(f, draw).calls


def _factor(schedule: str, t: float, steps: int) -> float:
    share = t / steps
    return {"constant": 1.0, "linear": 1 - share, "cosine": 0.5 * (1 + math.cos(math.pi * share))}[schedule]


def _loop(
    model, sample, loss_fn, steps, lr=1e-3, schedule="constant", *, factor=_factor, optimizer_class=torch.optim.Adam,
    zero=True, move=True, one_batch=False, fresh_optimizer=False, compound=False, reduce=torch.sum, keep=lambda v: v,
):  # fmt: skip
    """The loop with one thing wrong."""
    optimizer = optimizer_class(model.parameters(), lr=lr)
    losses, x, rate = [], None, lr
    for t in range(steps):
        now = factor(schedule, t, steps)
        rate = rate * now if compound else lr * now
        if fresh_optimizer:
            optimizer = optimizer_class(model.parameters(), lr=rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if x is None or not one_batch:
            x = sample()
        value = loss_fn(x, model(x))
        if zero:
            optimizer.zero_grad()
        reduce(value).backward()
        if move:
            optimizer.step()
        losses.append(keep(value.detach()))
    return torch.stack(losses)


@train.mistake("Gradients pile up from step to step: call `optimizer.zero_grad()` before `backward()`.")
def gradients_accumulate(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, zero=False)


@train.mistake("The schedule is not used: the learning rate stays the same in every step.")
def schedule_ignored(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, "constant")


@train.mistake("The schedule is one step ahead: the first step has t = 0, so that it uses the full learning rate.")
def schedule_one_step_ahead(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, factor=lambda s, t, n: _factor(s, t + 1, n))


@train.mistake("The schedule divides by steps - 1, so that the last step has rate 0 and does nothing: use t / steps.")
def schedule_reaches_zero(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, factor=lambda s, t, n: _factor(s, t, max(n - 1, 1)))


@train.mistake("The factors multiply up: each step scales the previous step's rate. Scale the initial `lr` instead.")
def schedule_compounds(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, compound=True)


@train.mistake(
    "The cosine schedule goes below zero: cos(pi t / steps) runs from 1 to -1; the factor is half of (1 + cos)."
)
def cosine_goes_negative(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    def factor(s, t, n):
        return math.cos(math.pi * t / n) if s == "cosine" else _factor(s, t, n)

    return _loop(model, sample, loss_fn, steps, lr, schedule, factor=factor)


@train.mistake("One batch is used for every step: call `sample()` inside the loop.")
def same_batch_each_step(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, one_batch=True)


@train.mistake("A new optimizer is made in each step, so Adam forgets its averages: make it once, before the loop.")
def new_optimizer_each_step(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, fresh_optimizer=True)


@train.mistake("This is plain gradient descent; the exercise asks for Adam (`torch.optim.Adam`).")
def gradient_descent(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, optimizer_class=torch.optim.SGD)


@train.mistake(
    "AdamW also shrinks the weights a little in every step; the exercise asks for Adam (`torch.optim.Adam`)."
)
def adamw(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, optimizer_class=torch.optim.AdamW)


@train.mistake("The losses still hang on the graph, which keeps every step's tensors in memory: store `loss.detach()`.")
def graph_kept(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule).requires_grad_()


@train.mistake("The weights never move: `optimizer.step()` is missing.")
def no_step(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, move=False)


@train.mistake("Only the first instance trains: send the sum of all instances' losses backward.")
def first_instance_trains(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, reduce=lambda v: v[0])


@train.mistake("The losses come back as one number a step: keep one for each instance, [steps, instances].")
def losses_summed_over_instances(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    return _loop(model, sample, loss_fn, steps, lr, schedule, keep=torch.sum)


@train.alternative
def with_a_lambda_scheduler(model, sample, loss_fn, steps, lr=1e-3, schedule="constant"):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: _factor(schedule, t, steps))
    history = []
    for _ in range(steps):
        x = sample()
        value = loss_fn(x, model(x))
        value.mean().backward()  # Adam does not care about a constant factor
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        history.append(value.tolist())
    return torch.tensor(history)


# ------------------------------------------------------------------------------------------------ 02.5 measures

overlap = lesson.exercise(
    5,
    title="Represented, and in whose way?",
    answer="superposition_per_feature",
    reference=toy.superposition_per_feature,
    points=3,
    difficulty=2,
    importance=5,
    minutes=12,
    hints=(
        "A feature's direction is a *column* of W. Only the feature that is being measured is scaled to "
        "length 1; the others keep theirs.",
        "`unit = W / W.norm(dim=1, keepdim=True)`, then `unit.mT @ W` holds every (unit W_i) . W_j. Square, "
        "sum over j, and take j = i out again. "
        "What if a column is zero?",
        "`torch.nn.functional.normalize(W, dim=1)` leaves a zero column at zero. Since (unit W_i . W_i)^2 = "
        "||W_i||^2, the second result is "
        "`(unit.mT @ W).square().sum(-1) - represented`.",
    ),
)


def both(result: Any) -> tuple[Tensor, Tensor]:
    """The two results, with a sentence for those who return one."""
    if isinstance(result, Tensor):
        raise TypeError("`superposition_per_feature` should return two tensors: `return represented, superposition`")
    represented, superposition = result
    return represented, superposition


@overlap.case("how strongly features are represented")
def _(f, draw):
    return both(f(draw.normal(1, 3, 5, std=0.7)))[0]


@overlap.case("how much other features overlap", weight=2)
def _(f, draw):
    return both(f(draw.normal(1, 3, 5, std=0.7)))[1]


@overlap.case("several instances at once")
def _(f, draw):
    return both(f(draw.normal(4, 2, 6, std=0.8)))


@overlap.case("as many dimensions as features")
def _(f, draw):
    return both(f(draw.normal(2, 3, 3)))


@overlap.case("features at right angles", rule=Close(atol=1e-4))
def _(f, draw):
    lengths = draw.uniform(3, low=0.6, high=1.4)
    return both(f(torch.diag(lengths)[None]))


@overlap.case("a feature that is not represented at all")
def _(f, draw):
    W = draw.normal(2, 3, 5)
    dead = W.clone()
    dead[:, :, 2] = 0
    return both(f(draw.lend(dead)))


def _products(W: Tensor, unit: Tensor | None = None) -> Tensor:
    unit = nn.functional.normalize(W, dim=1) if unit is None else unit
    return unit.mT @ W


@overlap.mistake("The first result is the length, not its square: ||W_i||^2.")
def length_not_squared(W):
    return W.norm(dim=1), toy.superposition_per_feature(W)[1]


@overlap.mistake("The sum includes the feature's overlap with itself: leave j = i out.")
def counts_itself(W):
    return W.square().sum(1), _products(W).square().sum(-1)


@overlap.mistake(
    "Both features are scaled to length 1, which gives cosines. Only feature i is: a short W_j interferes little."
)
def both_normalised(W):
    unit = nn.functional.normalize(W, dim=1)
    alive = (W.norm(dim=1) > 0).float()
    return W.square().sum(1), (unit.mT @ unit).square().sum(-1) - alive


@overlap.mistake("The measured feature is not scaled to length 1: divide W_i by its length first.")
def not_normalised(W):
    gram = W.mT @ W
    return W.square().sum(1), gram.square().sum(-1) - W.square().sum(1) ** 2


@overlap.mistake(
    "The other feature is scaled to length 1 instead of the measured one: the sum runs over the wrong index."
)
def summed_over_the_wrong_index(W):
    represented = W.square().sum(1)
    return represented, _products(W).square().sum(-2) - represented


@overlap.mistake("Overlaps are added without squaring, so opposite ones cancel.")
def overlaps_not_squared(W):
    return W.square().sum(1), _products(W).sum(-1) - W.norm(dim=1)


@overlap.mistake("Overlaps are added as absolute values; square them.")
def absolute_overlaps(W):
    return W.square().sum(1), _products(W).abs().sum(-1) - W.norm(dim=1)


@overlap.mistake(
    "A feature that is not represented gives NaN: its length is 0, and 0 / 0 is not a number. Guard the division."
)
def nan_on_a_dead_feature(W):
    represented = W.square().sum(1)
    return represented, _products(W, W / W.norm(dim=1, keepdim=True)).square().sum(-1) - represented


@overlap.mistake("Features are taken as rows of W. They are its columns: W has shape [instances, d_hidden, features].")
def rows_for_columns(W):
    return tuple(toy.superposition_per_feature(W.mT))


@overlap.mistake("The two results are exchanged: first ||W_i||^2, then the overlap.")
def results_exchanged(W):
    return tuple(toy.superposition_per_feature(W))[::-1]


@overlap.alternative
def with_loops(W):
    instances, _, features = W.shape
    represented = torch.zeros(instances, features)
    superposition = torch.zeros(instances, features)
    for a in range(instances):
        for i in range(features):
            length = W[a, :, i].norm()
            represented[a, i] = length**2
            for j in range(features):
                if j != i and length > 0:
                    superposition[a, i] += (W[a, :, i] / length @ W[a, :, j]) ** 2
    return represented, superposition


@overlap.alternative
def with_a_small_epsilon(W):
    length = W.norm(dim=1)
    products = (W / (length[:, None] + 1e-8)).mT @ W
    off_diagonal = products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))
    return {"represented": length**2, "superposition": off_diagonal.pow(2).sum(2)}.values()


# ------------------------------------------------------------------------------------------------ 02.6 the sweep

sweep = lesson.exercise(
    6,
    title="Twenty features, five dimensions: where does it change?",
    answer="superposition_onset",
    reference=toy.superposition_onset,
    points=2,
    difficulty=2,
    importance=4,
    minutes=10,
    hints=(
        "Two steps: count the represented features of each instance, then look at which instances have more of them than dimensions.",
        "`(W.square().sum(dim=1) > 0.5).sum(dim=1)` counts. More features than dimensions means `counts > W.shape[1]`.",
        "`crowded = feature_probability[counts > W.shape[1]]`, and the onset is `float(crowded.max())` if there are any, else `0.0`.",
    ),
)


def sweep_weights(draw: Any, counts: list[int], d: int, n: int) -> Tensor:
    """Weights whose represented features are `counts`: squared lengths clear of 1/2, lengths on both sides of it."""
    direction = draw.rng.normal(size=(len(counts), d, n))
    direction /= (direction**2).sum(axis=1, keepdims=True) ** 0.5
    square = draw.rng.uniform(0.02, 0.45, size=(len(counts), 1, n))
    for row, count in enumerate(counts):
        chosen = draw.rng.permutation(n)[:count]
        square[row, 0, chosen] = draw.rng.uniform(0.55, 1.3, size=count)
    return draw.lend((direction * square**0.5).astype("float32"))


@sweep.case("how many features are represented", rule=Exact(), weight=2)
def _(f, draw):
    counts = draw.rng.integers(1, 11, size=6).tolist()
    return f(sweep_weights(draw, counts, 4, 10), draw.lend(torch.linspace(1, 0.05, 6)))[0]


@sweep.case("the onset of superposition")
def _(f, draw):
    p = draw.lend(torch.logspace(0, -2, 8))
    return f(sweep_weights(draw, [3, 4, 4, 4, 6, 7, 9, 9], 4, 9), p)[1]


@sweep.case("instances in any order")
def _(f, draw):
    order = draw.rng.permutation(7)
    crowded = order > 2
    order[crowded] = sorted(order[crowded], reverse=True)  # the onset comes after sparser instances
    counts = [[3, 3, 3, 5, 5, 6, 8][k] for k in order]
    p = torch.tensor([[1.0, 0.7, 0.5, 0.31, 0.2, 0.1, 0.02][k] for k in order])
    return f(sweep_weights(draw, counts, 3, 8), draw.lend(p))[1]


@sweep.case("no superposition anywhere")
def _(f, draw):
    return f(sweep_weights(draw, [2, 3, 3], 3, 6), draw.lend(torch.tensor([1.0, 0.8, 0.6])))


def _counted(W: Tensor) -> Tensor:
    return (W.square().sum(1) > 0.5).sum(1)


def _onset(counts: Tensor, p: Tensor, more_than: int) -> float:
    return max(p[counts > more_than].tolist(), default=0.0)


@sweep.mistake("The length is compared with 1/2, not its square: ||W_i||^2 > 1/2 means a length above 0.71.")
def length_against_half(W, feature_probability):
    counts = (W.norm(dim=1) > 0.5).sum(1)
    return counts, _onset(counts, feature_probability, W.shape[1])


@sweep.mistake("As many features as dimensions is not superposition yet: there must be more.")
def as_many_as_dimensions(W, feature_probability):
    return _counted(W), _onset(_counted(W), feature_probability, W.shape[1] - 1)


@sweep.mistake(
    "This is the sparsest instance with superposition; the onset is the densest one, the largest probability."
)
def sparsest_for_densest(W, feature_probability):
    return _counted(W), min(feature_probability[_counted(W) > W.shape[1]].tolist(), default=0.0)


@sweep.mistake(
    "This is the first such instance in the list. Instances may come in any order: take the largest probability."
)
def first_in_the_list(W, feature_probability):
    crowded = feature_probability[_counted(W) > W.shape[1]].tolist()
    return _counted(W), crowded[0] if crowded else 0.0


@sweep.mistake("This is a sparsity, S = 1 - p; the question asks for the probability p itself.")
def sparsity_for_probability_onset(W, feature_probability):
    onset = _onset(_counted(W), feature_probability, W.shape[1])
    return _counted(W), 1 - onset if onset else 0.0


@sweep.mistake(
    "Dimensions are counted, not features: sum the squares over d_hidden (axis 1), then count over features."
)
def dimensions_counted(W, feature_probability):
    counts = (W.square().sum(2) > 0.5).sum(1)
    return counts, _onset(counts, feature_probability, W.shape[1])


@sweep.mistake("It fails when no instance is in superposition: the maximum of nothing. Return 0.0 then.")
def no_answer_for_none(W, feature_probability):
    return _counted(W), feature_probability[_counted(W) > W.shape[1]].max()


@sweep.alternative
def with_a_loop(W, feature_probability):
    onset, counts = 0.0, []
    for w, p in zip(W, feature_probability):
        counts.append(sum(1 for column in w.T if float(column @ column) > 0.5))
        if counts[-1] > w.shape[0]:
            onset = max(onset, float(p))
    return torch.tensor(counts), torch.tensor(onset)


# ------------------------------------------------------------------------------------------------ 02.7 theory

theory = lesson.exercise(
    7,
    title="What each strategy costs, exactly",
    answer="expected_loss_of_strategies",
    reference=toy.expected_loss_of_strategies,
    points=4,
    difficulty=4,
    importance=5,
    minutes=25,
    hints=(
        "Take one strategy at a time and ask: in which cases is there any error, how likely are they, how "
        "large is the squared error then?",
        "An ignored feature is guessed as a constant; the best one is its mean, p/2, and what remains is the "
        "variance E[x^2] - E[x]^2 with E[x^2] = p/3. "
        "An antipodal pair W = (1, -1) errs only when both are active (chance p^2), by min(x_1, x_2) on either output.",
        "V = p/3 - p^2/4, E[min^2] = 1/6. `ignored` = r V. `dedicated` = V (n = 2), or the smaller of V and "
        "p^2 (1 + 1) / 6 (n = 3: the others may pair up). "
        "`superposition` = p^2 (1 + r) / 6.",
    ),
)


def point(draw: Any, n: int = 6) -> tuple[Tensor, Tensor]:
    return draw.uniform(n, low=0.2, high=3.0), draw.uniform(n, low=0.05, high=1.0)


def _cost(found: Any, name: str, *shape: int) -> Tensor:
    """One strategy's losses, spread over the shape that importance and p have together."""
    if not isinstance(found, Mapping) or name not in found:
        raise TypeError(f"a dictionary with the names {', '.join(toy.PHASES)} is wanted; `{name}` is not in it")
    return torch.broadcast_to(torch.as_tensor(found[name]), shape)


@theory.case("ignored: the loss of never storing the feature")
def _(f, draw):
    return _cost(f(*point(draw)), "ignored", 6)


@theory.case("dedicated: the loss when it takes the only dimension")
def _(f, draw):
    return _cost(f(*point(draw)), "dedicated", 6)


@theory.case("superposition: the loss of an antipodal pair", weight=2)
def _(f, draw):
    return _cost(f(*point(draw)), "superposition", 6)


@theory.case("three features in two dimensions, extra feature dedicated")
def _(f, draw):
    return _cost(f(*point(draw, 12), n_features=3), "dedicated", 12)


@theory.case("three features in two dimensions, ignored and superposition")
def _(f, draw):
    got = f(*point(draw), n_features=3)
    return {name: _cost(got, name, 6) for name in ("ignored", "superposition")}


@theory.case("a grid of importances and densities")
def _(f, draw):
    r, p = draw.uniform(1, 4, low=0.2, high=3.0), draw.uniform(3, 1, low=0.05)
    got = f(r, p)
    return {name: _cost(got, name, 3, 4) for name in toy.PHASES}


def _strategies(r, p, n_features=2, *, alone=None, pair=None, ignored=None, dedicated=None):
    """The exact losses with one ingredient replaced."""
    r, p = torch.broadcast_tensors(torch.as_tensor(r), torch.as_tensor(p))
    v = (alone or toy.ignored_loss)(p)
    pair = pair or (lambda p, r: p**2 * (1 + r) / 6)
    share = v if n_features == 2 else torch.minimum(v, pair(p, torch.ones_like(r)))
    return {
        "ignored": (ignored or (lambda r, v: r * v))(r, v),
        "dedicated": dedicated(r, v) if dedicated else share,
        "superposition": pair(p, r),
    }


@theory.mistake(
    "An ignored feature is guessed as 0, which costs p/3. The bias can do better: guess its mean p/2, and the variance remains."
)
def ignored_without_bias(importance, p, n_features=2):
    return _strategies(importance, p, n_features, alone=lambda p: p / 3)


@theory.mistake(
    "The variance is that of a feature that is always active, times p. Being sometimes zero adds spread: V = p/3 - p^2/4."
)
def variance_of_the_active_part(importance, p, n_features=2):
    return _strategies(importance, p, n_features, alone=lambda p: p / 12)


@theory.mistake(
    "The pair is charged for one active feature. One alone is read without error; both must be active, chance p^2."
)
def pair_errs_with_one_active(importance, p, n_features=2):
    return _strategies(importance, p, n_features, pair=lambda p, r: p * (1 + r) / 6)


@theory.mistake("The pair's error uses E[min]^2 = 1/9; the loss needs the mean of the square, E[min^2] = 1/6.")
def square_of_the_mean(importance, p, n_features=2):
    return _strategies(importance, p, n_features, pair=lambda p, r: p**2 * (1 + r) / 9)


@theory.mistake(
    "The pair's error is taken as the whole feature, E[x^2] = 1/3. What is lost is only the smaller of the two, E[min^2] = 1/6."
)
def whole_feature_lost(importance, p, n_features=2):
    return _strategies(importance, p, n_features, pair=lambda p, r: p**2 * (1 + r) / 3)


@theory.mistake(
    "Only the extra feature's error is counted in the pair; the first one's output is wrong too, with importance 1."
)
def partner_not_counted(importance, p, n_features=2):
    return _strategies(importance, p, n_features, pair=lambda p, r: p**2 * r / 6)


@theory.mistake("Both errors of the pair are counted with importance 1; the extra feature's counts r.")
def importance_not_in_the_pair(importance, p, n_features=2):
    return _strategies(importance, p, n_features, pair=lambda p, r: p**2 * torch.ones_like(r) / 3)


@theory.mistake(
    "The importance is on the wrong strategy: ignoring the extra feature costs r V, ignoring the first costs 1 V."
)
def importance_exchanged(importance, p, n_features=2):
    return _strategies(importance, p, n_features, ignored=lambda r, v: v, dedicated=lambda r, v: r * v)


@theory.mistake(
    "With three features the other two need not lose one: they can share a dimension as a pair, at p^2 / 3. Take the cheaper."
)
def others_cannot_share(importance, p, n_features=2):
    return _strategies(importance, p, n_features, dedicated=lambda r, v: v)


@theory.mistake(
    "With three features the other two are always paired. For dense data ignoring one of them is cheaper: take the smaller cost."
)
def others_always_share(importance, p, n_features=2):
    found = _strategies(importance, p, n_features)
    return found if n_features == 2 else {**found, "dedicated": (p**2 / 3).expand_as(found["ignored"])}


@theory.mistake("The pair's cost lacks the importances: one output's error counts 1, the other's r, together 1 + r.")
def pair_without_importance(importance, p, n_features=2):
    found = _strategies(importance, p, n_features)
    return {**found, "superposition": (p**2 / 6).expand_as(found["ignored"])}


@theory.alternative
def left_to_broadcast(importance, p, n_features=2):
    variance = p / 3 - p**2 / 4
    return {
        "ignored": importance * variance,
        "dedicated": variance if n_features == 2 else torch.minimum(variance, p**2 / 3),
        "superposition": p**2 * (1 + importance) / 6,
    }


@theory.alternative
def by_moments(importance, p, n_features=2):
    mean, mean_square = p / 2, p / 3
    variance = mean_square - mean**2
    both_active = p * p
    smaller_squared = 2 * (1 / 3 - 1 / 4)  # the smaller of two uniforms has density 2 (1 - m)
    zero = importance * p * 0
    pair = both_active * smaller_squared
    dedicated = variance + zero
    if n_features == 3:
        dedicated = torch.where(2 * pair < variance, 2 * pair, variance) + zero
    return {
        "superposition": pair + pair * importance,
        "ignored": importance * variance,
        "dedicated": dedicated,
        "a note": "extra entries are fine",
    }


# ------------------------------------------------------------------------------------------------ 02.8 classify

classify = lesson.exercise(
    8,
    title="Which phase did training land in?",
    answer="classify_solution",
    reference=toy.classify_solution,
    points=2,
    difficulty=3,
    importance=4,
    minutes=12,
    hints=(
        "Exercise 02.5 measured what you need: how strongly the last feature is represented, and how much the others overlap with it.",
        "Not represented: 0. Represented with overlap at most 1/2: 1. Represented with more: 2. "
        "`torch.where` does it for all instances at once.",
        "`extra = W[:, :, -1]`; `overlap = ((nn.functional.normalize(extra, dim=1)[:, :, None] * W[:, :, :-1]).sum(1) ** 2).sum(1)`; "
        "`torch.where(kept, torch.where(overlap > 0.5, 2, 1), 0)` with `kept = extra.square().sum(1) > 0.5`.",
    ),
)


def _numbers(phases: Any) -> Any:
    if isinstance(phases, (list, tuple)) and any(isinstance(phase, str) for phase in phases):
        raise TypeError("the phases' numbers 0, 1, 2 are wanted, not their names: `PHASES.index(name)`")
    return phases


@classify.case("the three textbook solutions", rule=Exact())
def _(f, draw):
    return _numbers(f(draw.lend(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, -1.0]], [[-0.9, 0.95]]]))))


@classify.case("random solutions for two features", rule=Exact())
def _(f, draw):
    return _numbers(f(draw.normal(80, 1, 2, std=0.9)))


@classify.case("random solutions for three features", rule=Exact(), weight=2)
def _(f, draw):
    return _numbers(f(draw.normal(80, 2, 3, std=0.7)))


@classify.case("a dedicated feature whose opposite is hardly represented", rule=Exact())
def _(f, draw):
    small = draw.uniform(6, 1, 1, low=0.05, high=0.3)
    return _numbers(f(draw.lend(torch.cat([-small, torch.ones(6, 1, 1)], dim=2))))


@classify.case("instances in which nothing is represented", rule=Exact())
def _(f, draw):
    return _numbers(f(draw.lend(torch.zeros(3, 2, 3))))


def _classified(represented: Tensor, superposition: Tensor, kept_above: float = 0.5) -> Tensor:
    return torch.where(represented > kept_above, torch.where(superposition > 0.5, 2, 1), 0)


@classify.mistake("The first feature is classified; the extra feature is the last one, `W[:, :, -1]`.")
def first_feature(W):
    return toy.classify_solution(W, feature=0)


@classify.mistake("The length is compared with 1/2, not its square: ||W_i||^2 > 1/2 means a length above 0.71.")
def length_compared(W):
    represented, superposition = toy.superposition_per_feature(W)
    return _classified(represented[:, -1].sqrt(), superposition[:, -1])


@classify.mistake(
    "Overlap is measured with cosines, so an opposite feature that is hardly represented counts as a full partner. Do not scale W_j."
)
def cosine_overlap(W):
    unit = nn.functional.normalize(W, dim=1)
    superposition = (unit[:, :, -1:].mT @ unit[:, :, :-1]).square().sum((1, 2))
    return _classified(W[:, :, -1].square().sum(1), superposition)


@classify.mistake(
    "It is never asked whether the extra feature is represented at all: an ignored feature is none of the other two."
)
def never_ignored(W):
    represented, superposition = toy.superposition_per_feature(W)
    return _classified(represented[:, -1], superposition[:, -1], kept_above=-1.0)


@classify.mistake(
    "Overlaps are added with their signs, so an antipodal pair (negative) does not count. Square them first."
)
def signed_overlap(W):
    represented = W.square().sum(1)
    overlaps = (nn.functional.normalize(W[:, :, -1:], dim=1).mT @ W[:, :, :-1]).sum((1, 2))
    return _classified(represented[:, -1], overlaps)


@classify.mistake(
    "The feature's overlap with itself is counted, so that every represented feature looks shared. Leave j = i out."
)
def overlap_with_itself(W):
    represented, superposition = toy.superposition_per_feature(W)
    return _classified(represented[:, -1], (superposition + represented)[:, -1])


@classify.mistake(
    "The numbers of dedicated and superposition are exchanged: PHASES is (ignored 0, dedicated 1, superposition 2)."
)
def numbers_exchanged(W):
    return torch.tensor([0, 2, 1])[toy.classify_solution(W)]


@classify.mistake(
    "The extra feature is not scaled to length 1 in the overlap: divide W_n by its length, as in exercise 02.5."
)
def overlap_not_scaled(W):
    overlaps = (W[:, :, -1:].mT @ W[:, :, :-1]).square().sum((1, 2))
    return _classified(W[:, :, -1].square().sum(1), overlaps)


@classify.mistake(
    "The *other* features are scaled to length 1 in the overlap; scale the extra one, W_n, and leave W_j."
)
def others_scaled(W):
    overlaps = (W[:, :, -1:].mT @ nn.functional.normalize(W, dim=1)[:, :, :-1]).square().sum((1, 2))
    return _classified(W[:, :, -1].square().sum(1), overlaps)


@classify.mistake("Every feature is classified; only the last one is asked for, one number an instance.")
def all_features(W):
    return _classified(*toy.superposition_per_feature(W))


@classify.alternative
def with_a_loop_over_instances(W):
    phases = []
    for w in W:
        extra, others = w[:, -1], w[:, :-1]
        length = float(extra.norm())
        if length**2 <= 0.5:
            phases.append(0)
        else:
            phases.append(2 if float((extra / length @ others).square().sum()) > 0.5 else 1)
    return torch.tensor(phases, dtype=torch.int32)


# ------------------------------------------------------------------------------------------------ 02.9 pairs

pairs = lesson.exercise(
    9,
    title="Features that fire together, and features that never do",
    answer="pair_generators",
    reference=(toy.generate_correlated_batch, toy.generate_anticorrelated_batch),
    points=3,
    difficulty=3,
    importance=3,
    minutes=15,
    hints=(
        "Draw the masks for pairs, [instances, batch, features / 2], and spread them over the two features; "
        "draw the magnitudes for features.",
        "`mask.repeat_interleave(2, dim=-1)` turns [a, b] into [a, a, b, b]. For exclusive features let one uniform number u decide: "
        "u < p the first, p <= u < 2p the second, otherwise neither.",
        "Correlated: `(torch.rand(i, n, f // 2) < p[:, None, ::2]).repeat_interleave(2, -1) * torch.rand(i, n, f)`. "
        "Exclusive: `torch.stack([u < p, (u >= p) & (u < 2 * p)], dim=-1).flatten(-2)` times magnitudes.",
    ),
)


def pair_probability(draw: Any, instances: int, n_pairs: int, high: float = 0.45) -> Tensor:
    """The same probability for the two features of a pair, different between pairs and instances."""
    values = torch.linspace(0.12, high, instances * n_pairs)
    order = torch.from_numpy(draw.rng.permutation(instances * n_pairs))
    return draw.lend(values[order].view(instances, n_pairs).repeat_interleave(2, dim=1))


def _both_functions(pair: Any) -> tuple[Any, Any]:
    correlated, anticorrelated = pair
    return correlated, anticorrelated


@pairs.case("correlated: how often each feature is active", rule=SAMPLED)
def _(pair, draw):
    return shares(sized(_both_functions(pair)[0](SAMPLES, pair_probability(draw, 2, 2)), 2, 4))


@pairs.case("correlated: which features are active together", rule=COVARIES, weight=2)
def _(pair, draw):
    x = sized(_both_functions(pair)[0](SAMPLES, draw.lend(torch.full((2, 6), 0.4))), 2, 6)
    return covariance(*(x > 0).transpose(1, 2).flatten(0, 1))


@pairs.case("correlated: magnitudes are uniform", rule=SAMPLED)
def _(pair, draw):
    return deciles(_both_functions(pair)[0](SAMPLES, draw.lend(torch.full((1, 2), 0.5))))


@pairs.case("correlated: the two magnitudes of a pair are independent", rule=COVARIES)
def _(pair, draw):
    x = sized(_both_functions(pair)[0](SAMPLES, draw.lend(torch.full((1, 2), 0.5))), 1, 2)[0]
    together = x[(x > 0).all(dim=1)]  # about half of the samples; none where the two exclude each other
    return covariance(*together.T) if len(together) > 1 else torch.zeros(2, 2)


@pairs.case("anticorrelated: how often each feature is active", rule=SAMPLED)
def _(pair, draw):
    return shares(sized(_both_functions(pair)[1](SAMPLES, pair_probability(draw, 2, 2)), 2, 4))


@pairs.case("anticorrelated: which features are active together", rule=COVARIES, weight=2)
def _(pair, draw):
    x = sized(_both_functions(pair)[1](SAMPLES, draw.lend(torch.full((2, 6), 0.4))), 2, 6)
    return covariance(*(x > 0).transpose(1, 2).flatten(0, 1))


@pairs.case("anticorrelated: how often both features of a pair are active", rule=Close(rtol=0, atol=1e-4))
def _(pair, draw):
    x = sized(_both_functions(pair)[1](SAMPLES, draw.lend(torch.full((1, 2), 0.45))), 1, 2)[0]
    return float((x > 0).all(dim=1).float().mean())


@pairs.case("anticorrelated: magnitudes are uniform", rule=SAMPLED)
def _(pair, draw):
    return deciles(_both_functions(pair)[1](SAMPLES, draw.lend(torch.full((1, 2), 0.4))))


def _sized(batch_size: int, p: Tensor) -> Tensor:
    return torch.rand(p.shape[0], batch_size, p.shape[1])


def _spread(mask: Tensor) -> Tensor:
    return mask.repeat_interleave(2, dim=-1)


def _exclusive(u: Tensor, p: Tensor) -> Tensor:
    return torch.stack([u < p, (u >= p) & (u < 2 * p)], dim=-1).flatten(-2)


_correlated, _anticorrelated = toy.generate_correlated_batch, toy.generate_anticorrelated_batch


def _one_magnitude(batch_size, p):
    return _spread(toy.generate_batch(batch_size, p[:, ::2]))


def _neighbours_apart(batch_size, p):
    return torch.cat([_correlated(batch_size, p)[:, :, 0::2], _correlated(batch_size, p)[:, :, 0::2]], dim=-1) * 0 + (
        (torch.rand(p.shape[0], batch_size, p.shape[1] // 2) < p[:, None, ::2]).repeat(1, 1, 2) * _sized(batch_size, p)
    )


def _all_pairs_together(batch_size, p):
    u = torch.rand(p.shape[0], batch_size, 1)
    return (u < p[:, None, :]) * _sized(batch_size, p)


def _half_each(batch_size, p):
    return _anticorrelated(batch_size, p / 2)


def _collisions_dropped(batch_size, p):
    x = toy.generate_batch(batch_size, p)
    clash = (x > 0).unflatten(-1, (-1, 2)).all(-1)
    return x * ~_spread(clash)


def _first_wins(batch_size, p):
    x = toy.generate_batch(batch_size, p).unflatten(-1, (-1, 2))
    second = x[..., 1] * (x[..., 0] == 0)
    return torch.stack([x[..., 0], second], dim=-1).flatten(-2)


def _exactly_one(batch_size, p):
    first = torch.rand(p.shape[0], batch_size, p.shape[1] // 2) < p[:, None, ::2]
    return torch.stack([first, ~first], dim=-1).flatten(-2) * _sized(batch_size, p)


def _one_mask_correlated(batch_size, p):
    mask = torch.rand(1, batch_size, p.shape[1] // 2) < p[:, None, ::2]
    return _spread(mask) * _sized(batch_size, p)


def _one_mask_anticorrelated(batch_size, p):
    return _exclusive(torch.rand(1, batch_size, p.shape[1] // 2), p[:, None, ::2]) * _sized(batch_size, p)


def _binary_correlated(batch_size, p):
    return (_correlated(batch_size, p) > 0).float()


def _binary_anticorrelated(batch_size, p):
    return (_anticorrelated(batch_size, p) > 0).float()


for _name, _wrong, _why in (
    ("one_magnitude_for_both", (_one_magnitude, _anticorrelated),
     "The two correlated features share their magnitude too. They are active together, but each has its own size."),
    ("pairs_not_neighbours", (_neighbours_apart, _anticorrelated),
     "The correlated pairs are (0, n/2), (1, n/2 + 1), ...; pairs are neighbours, (0, 1), (2, 3), ...: `repeat_interleave`, not `repeat`."),
    ("all_pairs_together", (_all_pairs_together, _anticorrelated),
     "All correlated pairs are active at once: different pairs need random numbers of their own."),
    ("correlated_are_independent", (toy.generate_batch, _anticorrelated),
     "The correlated features are independent: one random number must decide for both of a pair."),
    ("half_the_probability_each", (_correlated, _half_each),
     "The *pair* of exclusive features is active with probability p, each with p/2. Each one should keep its p, so the pair has 2p."),
    ("collisions_dropped", (_correlated, _collisions_dropped),
     "Samples where both are active are emptied, which leaves each feature with p (1 - p). Let one random number decide which is active."),
    ("first_feature_wins", (_correlated, _first_wins),
     "Where both are active the first wins, so that the second is left with p (1 - p). Let one random number decide which is active."),
    ("exactly_one_active", (_correlated, _exactly_one),
     "Exactly one of the exclusive features is always active. Most of the time neither should be: both have probability p."),
    ("one_mask_for_all_instances", (_one_mask_correlated, _one_mask_anticorrelated),
     "All instances share one mask. Draw random numbers for each: [instances, batch, features / 2]."),
    ("binary_pairs", (_binary_correlated, _binary_anticorrelated),
     "Active features are all exactly 1; they should be uniform between 0 and 1."),
    ("exclusive_features_fire_together", (_correlated, _correlated),
     "The second function makes correlated pairs too; its features must never be active together."),
    ("exclusive_features_are_independent", (_correlated, toy.generate_batch),
     "The second function's features are independent, so that both are active at times; they must never be."),
    ("generators_exchanged", (_anticorrelated, _correlated),
     "The two functions are exchanged: first the correlated, then the anticorrelated one."),
):  # fmt: skip
    pairs.mistake(_why, name=_name)(_wrong)


def _correlated_by_indexing(batch_size, feature_probability):
    x = torch.rand(feature_probability.shape[0], batch_size, feature_probability.shape[1])
    for k in range(0, x.shape[-1], 2):
        silent = torch.rand(x.shape[:2]) >= feature_probability[:, k : k + 1]
        x[..., k : k + 2][silent] = 0
    return x


def _anticorrelated_by_choice(batch_size, feature_probability):
    p = feature_probability[:, None, ::2]
    shape = (p.shape[0], batch_size, p.shape[2])
    active, second = torch.rand(shape) < 2 * p, torch.rand(shape) < 0.5
    x = torch.zeros(*shape, 2)
    x[..., 0] = active & ~second
    x[..., 1] = active & second
    return x.flatten(-2) * torch.rand(shape[0], batch_size, 2 * shape[2])


pairs.alternative((_correlated_by_indexing, _anticorrelated_by_choice), name="by_indexing_and_choice")


# ------------------------------------------------------------------------------------------------ 02.10 allocation

allocate = lesson.exercise(
    10,
    title="Who gets a dimension of its own?",
    answer="best_allocation",
    reference=toy.best_allocation,
    points=3,
    difficulty=4,
    importance=4,
    minutes=20,
    hints=(
        "There is one feature too many. List all ways out: ignore feature k, or let i and j share. Price each; take the cheapest.",
        "Ignoring k costs I_k V(p_k) with V(p) = p/3 - p^2/4. A pair errs when both are active: p_i p_j (I_i + I_j) / 6.",
        "Keep a list of `(cost, {feature: fate})`, `min(options, key=lambda option: option[0])`, and give "
        "every other feature the fate `dedicated`.",
    ),
)


def allocation(result: Any) -> dict[str, Any]:
    """The two results in one form, whatever sequence types they are."""
    if not isinstance(result, (tuple, list)) or len(result) != 2 or isinstance(result[0], str):
        raise TypeError("two results are wanted, `return fates, loss`: a list with one word a feature, and a number")
    fate, cost = result
    return {"fate": ", ".join(str(one) for one in fate), "loss": float(cost)}


@allocate.case("two features in one dimension")
def _(f, draw):
    return [allocation(f(draw.uniform(2, low=0.2), draw.uniform(2, low=0.05, high=0.9))) for _ in range(4)]


@allocate.case("three sparse features in two dimensions", weight=2)
def _(f, draw):
    return [allocation(f(draw.uniform(3, low=0.3), draw.uniform(3, low=0.01, high=0.15))) for _ in range(6)]


@allocate.case("three dense features in two dimensions")
def _(f, draw):
    return [allocation(f(draw.uniform(3, low=0.3), draw.uniform(3, low=0.75))) for _ in range(6)]


@allocate.case("one feature is denser, but importance times density is the same for all")
def _(f, draw):
    found = []
    for _ in range(6):
        p = draw.uniform(3, low=0.01, high=0.1)
        found.append(allocation(f(0.01 / p, p)))
    return found


@allocate.case("five features in four dimensions")
def _(f, draw):
    return [allocation(f(draw.uniform(5, low=0.1), draw.uniform(5, low=0.02, high=0.9))) for _ in range(4)]


def _allocated(I, p, *, alone=None, pair=None, ignoring=True, sharing=True):
    """The cheapest arrangement with one ingredient replaced; the loss is that of the ingredient used."""
    alone = alone or (lambda I, p: I * (p / 3 - p**2 / 4))
    pair = pair or (lambda Ii, Ij, pi, pj: pi * pj * (Ii + Ij) / 6)
    I, p = I.tolist(), p.tolist()
    options = [(alone(I[k], p[k]), {k: "ignored"}) for k in range(len(I)) if ignoring]
    for i in range(len(I)):
        for j in range(i + 1, len(I)):
            if sharing:
                options.append((pair(I[i], I[j], p[i], p[j]), {i: "superposition", j: "superposition"}))
    cost, changed = min(options, key=lambda option: option[0])
    return [changed.get(k, "dedicated") for k in range(len(I))], cost


@allocate.mistake(
    "Sharing a dimension is never considered: besides ignoring one feature, two can be an antipodal pair."
)
def never_shares(importance, p):
    return _allocated(importance, p, sharing=False)


@allocate.mistake("Ignoring a feature is never considered; for dense features it is often the cheapest.")
def never_ignores(importance, p):
    return _allocated(importance, p, ignoring=False)


@allocate.mistake(
    "The pair's cost uses one feature's probability squared; here the two differ: both are active with p_i p_j."
)
def one_probability_squared(importance, p):
    return _allocated(importance, p, pair=lambda Ii, Ij, pi, pj: pi**2 * (Ii + Ij) / 6)


@allocate.mistake(
    "The pair's cost multiplies the importances; both outputs are wrong, so the importances add: I_i + I_j."
)
def importances_multiplied(importance, p):
    return _allocated(importance, p, pair=lambda Ii, Ij, pi, pj: pi * pj * Ii * Ij / 6)


@allocate.mistake("The pair's cost counts only one of the two errors: both outputs miss, I_i + I_j.")
def one_error_counted(importance, p):
    return _allocated(importance, p, pair=lambda Ii, Ij, pi, pj: pi * pj * Ij / 6)


@allocate.mistake(
    "An ignored feature is charged p/3. Its bias guesses the mean: what remains is the variance, p/3 - p^2/4."
)
def ignored_without_the_mean(importance, p):
    return _allocated(importance, p, alone=lambda I, p: I * p / 3)


@allocate.mistake("An ignored feature is charged its variance without its importance.")
def ignored_without_importance(importance, p):
    return _allocated(importance, p, alone=lambda I, p: p / 3 - p**2 / 4)


@allocate.mistake(
    "The two least important features share, whatever their density. Compare the costs: density counts more."
)
def least_important_share(importance, p):
    i, j = sorted(importance.argsort()[:2].tolist())
    cost = float(p[i] * p[j] * (importance[i] + importance[j]) / 6)
    return ["superposition" if k in (i, j) else "dedicated" for k in range(len(p))], cost


@allocate.mistake("A feature is paired with itself. A pair is two different features: i < j.")
def paired_with_itself(importance, p):
    twice = p**2 * importance / 3
    k, (fates, cost) = int(twice.argmin()), _allocated(importance, p)
    if float(twice[k]) >= _allocated(importance, p, sharing=False)[1] or float(twice[k]) >= cost:
        return fates, cost
    return ["superposition" if i == k else "dedicated" for i in range(len(p))], float(twice[k])


@allocate.mistake(
    "The two features of smallest importance times density share. That product does not set a pair's cost: compare all pairs."
)
def least_contributing_share(importance, p):
    i, j = sorted((importance * p).argsort()[:2].tolist())
    shared = float(p[i] * p[j] * (importance[i] + importance[j]) / 6)
    fates, alone = _allocated(importance, p, sharing=False)
    if alone < shared:
        return fates, alone
    return ["superposition" if k in (i, j) else "dedicated" for k in range(len(p))], shared


@allocate.alternative
def with_combinations(importance, p):
    from itertools import combinations

    best_cost, best = math.inf, []
    for group in [*combinations(range(len(p)), 1), *combinations(range(len(p)), 2)]:
        group_list = list(group)
        both_active = float(p[group_list].prod())
        if len(group) == 1:
            k = group[0]
            cost = float(importance[k]) * (both_active / 3 - both_active**2 / 4)
        else:
            cost = both_active * float(importance[group_list].sum()) / 6
        if cost < best_cost:
            name = "ignored" if len(group) == 1 else "superposition"
            best_cost, best = cost, [name if k in group else "dedicated" for k in range(len(p))]
    return best, torch.tensor(best_cost)
