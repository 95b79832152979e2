"""Lesson 03: geometry of superposition, computation in superposition, memorisation, learning dynamics."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from course_utils import toy
from course_utils.grading import Between, Close, Draw, Exact, Lesson
from course_utils.toy.dynamics import find_jumps
from course_utils.toy.memorise import train_on_points

lesson = Lesson("03", "Geometry and computation in superposition", slug="03_geometry_and_computation")


def _rotated(draw: Draw, blocks: list[Tensor], d_hidden: int) -> Tensor:
    """Shapes side by side in their own dimensions, then turned by a random rotation: `[d_hidden, features]`."""
    W = torch.zeros(d_hidden, sum(block.shape[1] for block in blocks))
    row = column = 0
    for block in blocks:
        W[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    turn, _ = np.linalg.qr(draw.rng.normal(size=(d_hidden, d_hidden)))
    return torch.tensor(turn, dtype=torch.float32) @ W


def _polygon(n: int) -> Tensor:
    angle = 2 * torch.pi * torch.arange(n) / n
    return torch.stack([angle.cos(), angle.sin()])


def _tetrahedron() -> Tensor:
    return torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0], [1.0, -1.0, -1.0, 1.0]]) / 3**0.5


# -- 03.1 feature dimensionality ----------------------------------------------------------------------------------

dimensionality = lesson.exercise(
    1,
    title="The dimensionality of a feature",
    answer="feature_dimensionality",
    reference=toy.feature_dimensionality,
    points=3,
    difficulty=2,
    importance=5,
    minutes=12,
    hints=(
        "The formula asks: of all that points along feature i, how much is feature i itself?",
        "The denominator holds the *unit* vector of feature i and the *full* vectors of all j, and j = i is one of them.",
        "With `norms = W.norm(dim=1)` and `G = W.mT @ W`: the denominator is `(G / norms[..., :, None]).square().sum(-1)`. "
        "Where a norm is zero, give 0 with `torch.where`.",
    ),
)


@dimensionality.case("random directions of unequal length", weight=2)
def _(f, draw):
    return f(draw.normal(3, 4, 9))


@dimensionality.case("a pentagon, a triangle and a feature by itself")
def _(f, draw):
    W = _rotated(draw, [_polygon(5), _polygon(3), torch.ones(1, 1)], 6)
    return f(draw.lend(W[None].numpy()))


@dimensionality.case("instances do not mix")
def _(f, draw):
    W = draw.normal(2, 3, 6)
    return torch.stack([f(W)[1] - f(W[1:])[0], f(W)[0] - f(W[:1])[0]])


@dimensionality.case("a dead feature has dimensionality 0, not NaN")
def _(f, draw):
    W = draw.rng.normal(size=(2, 4, 6)).astype(np.float32)
    W[:, :, 2] = 0
    return f(draw.lend(W))


@dimensionality.mistake(
    "The denominator uses unit vectors for both features; only feature i is made unit, W_j keeps its length."
)
def both_unit(W):
    unit = W / W.norm(dim=1, keepdim=True).clamp(min=1e-6)
    total = (unit.mT @ unit).square().sum(-1)
    return torch.where(total > 0, W.square().sum(1) / total.clamp(min=1e-12), torch.zeros_like(total))


@dimensionality.mistake(
    "The denominator uses unit vectors for both features; only feature i is made unit, W_j keeps its length. "
    "And a dead feature gives 0/0 = NaN."
)
def both_unit_and_nan_for_dead(W):
    unit = torch.nn.functional.normalize(W, dim=1)
    return W.square().sum(1) / (unit.mT @ unit).square().sum(-1)


@dimensionality.mistake(
    "The sum over j leaves out j = i. With it in, a feature alone has dimensionality 1, not infinity."
)
def without_itself(W):
    norms = W.norm(dim=1)
    unit = W / norms[:, None].clamp(min=1e-6)
    total = (unit.mT @ W).square().sum(-1) - norms.square()
    return torch.where(norms > 1e-6, norms.square() / total.clamp(min=1e-12), torch.zeros_like(total))


@dimensionality.mistake(
    "A feature of length zero gives 0/0 = NaN. Decide what a dead feature has (no dimension: 0) and write that down."
)
def nan_for_dead(W):
    unit = W / W.norm(dim=1, keepdim=True)
    return W.square().sum(1) / (unit.mT @ W).square().sum(-1)


@dimensionality.mistake("The numerator is the length; it is the squared length, ||W_i||^2.")
def length_not_squared(W):
    norms = W.norm(dim=1)
    unit = W / norms[:, None].clamp(min=1e-6)
    total = (unit.mT @ W).square().sum(-1)
    return torch.where(norms > 1e-6, norms / total.clamp(min=1e-12), torch.zeros_like(total))


@dimensionality.mistake("The overlaps are not squared before they are summed, so positive and negative ones cancel.")
def overlaps_not_squared(W):
    norms = W.norm(dim=1)
    unit = W / norms[:, None].clamp(min=1e-6)
    total = (unit.mT @ W).sum(-1)
    return torch.where(norms > 1e-6, norms.square() / total, torch.zeros_like(total))


@dimensionality.mistake("The sum runs over i, not j: the full vector is the one that was to be made unit.")
def unit_on_the_wrong_side(W):
    norms = W.norm(dim=1)
    unit = W / norms[:, None].clamp(min=1e-6)
    total = (unit.mT @ W).square().sum(-2)
    return torch.where(norms > 1e-6, norms.square() / total.clamp(min=1e-12), torch.zeros_like(total))


@dimensionality.alternative
def looped(W):
    result = torch.zeros(W.shape[0], W.shape[2])
    for k in range(W.shape[0]):
        for i in range(W.shape[2]):
            w = W[k, :, i]
            if w.norm() > 1e-6:
                result[k, i] = w @ w / sum(((w / w.norm()) @ W[k, :, j]) ** 2 for j in range(W.shape[2]))
    return result


# -- 03.2 naming shapes -------------------------------------------------------------------------------------------


def _name_geometry(W):
    return [(cluster.name, cluster.features) for cluster in toy.name_geometry(W)]


naming = lesson.exercise(
    2,
    title="Name the shapes",
    answer="name_geometry",
    reference=_name_geometry,
    points=3,
    difficulty=3,
    importance=3,
    minutes=20,
    hints=(
        "First decide which features are represented at all (||W_i||^2 > 0.5); the others form one group called `ignored`.",
        "Two represented features are linked when |cosine| > 0.15. A group is everything that can be reached over links.",
        "The number of dimensions of a group is the rounded sum of its features' dimensionalities. (features, dimensions) -> name: "
        "(1, 1) dedicated, (2, 1) digon, (3, 2) triangle, (4, 3) tetrahedron, (5, 2) pentagon, (8, 3) square antiprism, else other.",
    ),
)


def _named(pairs):
    """Order of groups and of features inside a group is the learner's own affair."""
    try:
        return " | ".join(sorted(f"{name} {sorted(int(i) for i in features)}" for name, features in pairs))
    except (TypeError, ValueError):
        raise TypeError('a list of pairs (name, features) is wanted, such as [("digon", (0, 2))]') from None


def _square_antiprism() -> Tensor:
    """Two squares, one turned by 45 degrees, as far apart as lets the eight share their three dimensions equally."""
    angle = torch.pi / 2 * torch.arange(4)
    around = torch.cat([angle, angle + torch.pi / 4])
    height = torch.tensor([1.0] * 4 + [-1.0] * 4) / 3**0.5
    return torch.stack([(2 / 3) ** 0.5 * around.cos(), (2 / 3) ** 0.5 * around.sin(), height])


def _shuffled(draw, blocks, d_hidden, dead=0):
    W = _rotated(draw, blocks, d_hidden)
    W = torch.cat([W, torch.zeros(d_hidden, dead)], dim=1)
    return draw.lend(W[:, torch.from_numpy(draw.rng.permutation(W.shape[1]))].numpy())


@naming.case("a digon and two dedicated features", rule=Exact())
def _(f, draw):
    return _named(f(_shuffled(draw, [torch.tensor([[1.0, -1.0]]), torch.ones(1, 1), torch.ones(1, 1)], 4)))


@naming.case("a pentagon beside a triangle", weight=2, rule=Exact())
def _(f, draw):
    return _named(f(_shuffled(draw, [_polygon(5), _polygon(3)], 5)))


@naming.case("a tetrahedron, a digon and ignored features", weight=2, rule=Exact())
def _(f, draw):
    return _named(f(_shuffled(draw, [_tetrahedron(), torch.tensor([[1.0, -1.0]])], 5, dead=3)))


@naming.case("a shape without a name (a hexagon)", rule=Exact())
def _(f, draw):
    return _named(f(_shuffled(draw, [_polygon(6)], 3)))


@naming.case("directions a little longer and shorter than one", rule=Exact())
def _(f, draw):
    return _named(f(_shuffled(draw, [1.1 * _polygon(5), 0.9 * torch.tensor([[1.0, -1.0]])], 4)))


@naming.case("a square antiprism, whose corners are not all linked with each other", rule=Exact())
def _(f, draw):
    return _named(f(_shuffled(draw, [_square_antiprism(), torch.ones(1, 1)], 4)))


@naming.case("long features at a small angle, and a short one", rule=Exact())
def _(f, draw):
    # cosine 0.11, below the limit, but dot product 0.19; the short one's squared length is 0.36
    apart = 1.3 * torch.tensor([[1.0, 0.11], [0.0, (1 - 0.11**2) ** 0.5]])
    return _named(f(_shuffled(draw, [apart, torch.full((1, 1), 0.6), torch.tensor([[1.0, -1.0]])], 5)))


@naming.mistake("Only features that overlap directly are grouped; a neighbour's neighbour belongs to the same shape.")
def direct_neighbours_only(W):
    share = toy.feature_dimensionality(W[None])[0]
    names = {(shape.n_features, shape.n_dimensions): shape.name for shape in toy.SHAPES}
    norms = W.norm(dim=0)
    alive = norms**2 > 0.5
    unit = W / norms.clamp(min=1e-6)
    cosine, left, groups = (unit.T @ unit).abs(), torch.nonzero(alive).flatten().tolist(), []
    while left:
        group = [j for j in left if j == left[0] or cosine[left[0], j] > 0.15]
        left = [j for j in left if j not in group]
        groups.append((names.get((len(group), max(1, round(float(share[group].sum())))), "other"), tuple(group)))
    dead = torch.nonzero(~alive).flatten().tolist()
    return groups + ([("ignored", tuple(dead))] if dead else [])


@naming.mistake(
    "Features that are not represented are counted as features with a shape; put them into one group, `ignored`."
)
def ignored_forgotten(W):
    return [(c.name if c.name != "ignored" else "other", c.features) for c in toy.name_geometry(W)]


@naming.mistake("The length is compared with 1/2, not its square: ||W_i||^2 > 0.5 means a length above 0.71.")
def length_compared(W):
    found = _name_geometry(torch.where(W.norm(dim=0) > 0.5, torch.nn.functional.normalize(W, dim=0), W))
    return [(name, features) for name, features in found]


@naming.mistake("Features that are not represented are left out; list them as one group, `ignored`.")
def ignored_left_out(W):
    return [(name, features) for name, features in _name_geometry(W) if name != "ignored"]


@naming.mistake("Each feature that is not represented is listed by itself; they form one group, `ignored`.")
def ignored_one_by_one(W):
    found = []
    for name, features in _name_geometry(W):
        found += [(name, (i,)) for i in features] if name == "ignored" else [(name, features)]
    return found


@naming.mistake("Links look at the cosine without its absolute value, so opposite features (a digon) are never linked.")
def opposite_not_linked(W):
    norms = W.norm(dim=0)
    alive = norms**2 > 0.5
    unit = W / norms.clamp(min=1e-6)
    linked = (unit.T @ unit) > 0.15
    share = toy.feature_dimensionality(W[None])[0]
    names = {(shape.n_features, shape.n_dimensions): shape.name for shape in toy.SHAPES}
    left, groups = torch.nonzero(alive).flatten().tolist(), []
    while left:
        group, edge = {left[0]}, [left[0]]
        while edge:
            i = edge.pop()
            new = [j for j in left if linked[i, j] and j not in group]
            group.update(new)
            edge.extend(new)
        left = [j for j in left if j not in group]
        groups.append(
            (names.get((len(group), max(1, round(float(share[sorted(group)].sum())))), "other"), tuple(group))
        )
    dead = torch.nonzero(~alive).flatten().tolist()
    return groups + ([("ignored", tuple(dead))] if dead else [])


@naming.mistake(
    "The name is looked up by the number of features alone; three features in three dimensions are no triangle."
)
def by_size_only(W):
    names = {
        1: "dedicated",
        2: "digon",
        3: "triangle",
        4: "tetrahedron",
        5: "pentagon",
        6: "octahedron",
        8: "square antiprism",
    }
    return [
        (c.name if c.name == "ignored" else names.get(len(c.features), "other"), c.features)
        for c in toy.name_geometry(W)
    ]


@naming.alternative
def with_scipy(W):
    from scipy.sparse.csgraph import connected_components

    norms = W.norm(dim=0)
    alive = torch.nonzero(norms**2 > 0.5).flatten()
    dead = torch.nonzero(norms**2 <= 0.5).flatten().tolist()
    unit = (W / norms.clamp(min=1e-6))[:, alive]
    count, label = connected_components(((unit.T @ unit).abs() > 0.15).numpy())
    share = toy.feature_dimensionality(W[None])[0]
    names = {(1, 1): "dedicated", (2, 1): "digon", (3, 2): "triangle", (4, 3): "tetrahedron", (5, 2): "pentagon"}
    names[8, 3] = "square antiprism"
    groups = [alive[torch.from_numpy(label == k)].tolist() for k in range(count)]
    found = [(names.get((len(g), round(share[g].sum().item())), "other"), g) for g in groups]
    return found + ([("ignored", dead)] if dead else [])


# -- 03.3 neurons -------------------------------------------------------------------------------------------------


def _neuron_model(x, W, b):
    return torch.relu(torch.relu(x @ W.mT) @ W + b[:, None, :])


neuron = lesson.exercise(
    3,
    title="A model with neurons",
    answer="neuron_model",
    reference=_neuron_model,
    points=2,
    difficulty=1,
    importance=4,
    minutes=6,
    hints=(
        "It is the model of lesson 02 with one function more. Where?",
        "h = ReLU(W x) for each instance: `torch.relu(x @ W.mT)` has shape [instances, batch, d_hidden].",
        "`torch.relu(h @ W + b[:, None, :])`",
    ),
)


@neuron.case("the output on random inputs with a bias that is not zero", weight=2)
def _(f, draw):
    return f(draw.uniform(3, 16, 6), draw.normal(3, 4, 6), draw.normal(3, 6, std=0.3))


@neuron.case("gradients reach W and b")
def _(f, draw):
    W, b = draw.normal(2, 3, 5).requires_grad_(), draw.normal(2, 5, std=0.3).requires_grad_()
    f(draw.uniform(2, 8, 5), W, b).square().sum().backward()
    return W.grad, b.grad


@neuron.mistake(
    "The hidden layer has no ReLU: that is the linear model of lesson 02, whose hidden basis means nothing."
)
def no_hidden_relu(x, W, b):
    return torch.relu(x @ W.mT @ W + b[:, None, :])


@neuron.mistake("The output has no ReLU.")
def no_output_relu(x, W, b):
    return torch.relu(x @ W.mT) @ W + b[:, None, :]


@neuron.mistake(
    "The bias is added after the output's ReLU; it belongs inside, where it can push small interference below zero."
)
def bias_outside(x, W, b):
    return torch.relu(torch.relu(x @ W.mT) @ W) + b[:, None, :]


@neuron.mistake("The bias is left out.")
def no_bias(x, W, b):
    return torch.relu(torch.relu(x @ W.mT) @ W)


@neuron.mistake("Every instance uses the first instance's weights.")
def first_instance_everywhere(x, W, b):
    return torch.relu(torch.relu(x @ W[0].T) @ W[0] + b[0])


@neuron.alternative
def with_einsum(x, W, b):
    h = torch.einsum("kbn,kdn->kbd", x, W).clamp(min=0)
    return (torch.einsum("kbd,kdn->kbn", h, W) + b.unsqueeze(1)).clamp(min=0)


# -- 03.4 absolute value ------------------------------------------------------------------------------------------


def _exact_abs_weights(n_features):
    eye = torch.eye(n_features)
    return torch.cat([eye, -eye]), torch.cat([eye, eye], dim=1)


def _computed(values, draw):
    """|x| as the returned weights compute it, recomputed on the trusted side."""
    W_in, W_out = (torch.as_tensor(np.asarray(values[key]), dtype=torch.float32) for key in ("W_in", "W_out"))
    x = torch.from_numpy(draw.rng.uniform(-1, 1, size=(64, 5)).astype(np.float32))
    before = torch.relu(x @ W_in.T) @ W_out.T  # before the output's ReLU, so that x itself and max(x, 0) are told apart
    return {"output": before, "neurons": int(W_in.shape[0])}


absolute = lesson.exercise(
    4,
    title="|x| with two neurons a feature",
    answer="exact_abs_weights",
    reference=_exact_abs_weights,
    points=2,
    difficulty=2,
    importance=4,
    minutes=10,
    hints=(
        "A ReLU passes one half of the line. Which two halves add up to |x|?",
        "|x| = ReLU(x) + ReLU(-x): one neuron reads +x_i, another reads -x_i, both write +1 to output i.",
        "`W_in = torch.cat([eye, -eye])` has shape [2n, n]; `W_out = torch.cat([eye, eye], dim=1)` has shape [n, 2n].",
    ),
)


@absolute.case(
    "the model with your weights computes |x| for five features",
    weight=2,
    essential=True,
    rule={"output": Close(), "neurons": Between(1, 10, " neurons")},
    measure=_computed,
)
def _(f, draw):
    W_in, W_out = f(5)
    return {"W_in": W_in, "W_out": W_out}


@absolute.case("the shapes for another number of features", rule={"*": Exact()})
def _(f, draw):
    W_in, W_out = f(3)
    return {
        "features read": W_in.shape[1],
        "features written": W_out.shape[0],
        "same neurons": W_in.shape[0] == W_out.shape[1],
    }


@absolute.mistake("One neuron a feature passes only positive x; negative x needs a neuron that reads -x.")
def positive_half_only(n_features):
    return torch.eye(n_features), torch.eye(n_features)


@absolute.mistake(
    "The negative half is written with a minus sign: ReLU(x) - ReLU(-x) is x again, and the output's ReLU then cuts it."
)
def gives_x_back(n_features):
    eye = torch.eye(n_features)
    return torch.cat([eye, -eye]), torch.cat([eye, -eye], dim=1)


@absolute.mistake("Both neurons read +x, so positive x counts twice and negative x not at all.")
def positive_twice(n_features):
    eye = torch.eye(n_features)
    return torch.cat([eye, eye]), torch.cat([eye, eye], dim=1)


@absolute.mistake(
    "W_in is [features, neurons]; this lesson's shape is [neurons, features], so that h = ReLU(W_in x). "
    "Or the two results are exchanged: W_in comes first."
)
def transposed_weights(n_features):
    W_in, W_out = _exact_abs_weights(n_features)
    return W_in.T, W_out.T


@absolute.alternative
def scaled_and_interleaved(n_features):
    W_in, W_out = torch.zeros(2 * n_features, n_features), torch.zeros(n_features, 2 * n_features)
    for i in range(n_features):
        W_in[2 * i, i], W_in[2 * i + 1, i] = 4.0, -0.5
        W_out[i, 2 * i], W_out[i, 2 * i + 1] = 0.25, 2.0
    return W_in, W_out


# -- 03.5 polysemantic neurons ------------------------------------------------------------------------------------

polysemantic = lesson.exercise(
    5,
    title="How many features does a neuron answer to?",
    answer="polysemanticity_of_neurons",
    reference=toy.polysemanticity_of_neurons,
    points=2,
    difficulty=2,
    importance=3,
    minutes=8,
    hints=(
        "A count that does not need a threshold: 1 for one weight, k for k equal ones, something between for unequal ones.",
        "The participation ratio of the squared weights a_i = w_i^2 is (sum a)^2 / sum a^2.",
        "`square = W_in.square(); square.sum(-1) ** 2 / square.square().sum(-1)`, and 0 where the neuron is dead.",
    ),
)


@polysemantic.case("random weights", weight=2)
def _(f, draw):
    return f(draw.normal(3, 4, 7))


@polysemantic.case("a neuron with one feature, and one with four equal ones of either sign")
def _(f, draw):
    W = np.zeros((1, 2, 6), dtype=np.float32)
    W[0, 0, 3] = -2.0
    W[0, 1, :4] = [0.5, -0.5, 0.5, -0.5]
    return f(draw.lend(W))


@polysemantic.case("a dead neuron answers to nothing: 0, not NaN")
def _(f, draw):
    W = draw.rng.normal(size=(2, 3, 5)).astype(np.float32)
    W[1, 2] = 0
    return f(draw.lend(W))


@polysemantic.mistake("The ratio is taken of the weights; signs cancel there. Take it of the squared weights.")
def of_plain_weights(W_in):
    top, bottom = W_in.sum(-1) ** 2, W_in.square().sum(-1)
    return torch.where(bottom > 0, top / bottom.clamp(min=1e-12), torch.zeros_like(top))


@polysemantic.mistake("The ratio is taken of the absolute weights; take it of the squared ones: (sum w^2)^2 / sum w^4.")
def of_absolute_weights(W_in):
    top, bottom = W_in.abs().sum(-1) ** 2, W_in.square().sum(-1)
    return torch.where(bottom > 0, top / bottom.clamp(min=1e-12), torch.zeros_like(top))


@polysemantic.mistake("The numerator is not squared: it is the square of the sum of squares.")
def numerator_not_squared(W_in):
    top, bottom = W_in.square().sum(-1), W_in.square().square().sum(-1)
    return torch.where(bottom > 0, top / bottom.clamp(min=1e-12), torch.zeros_like(top))


@polysemantic.mistake("The sum runs over neurons; it should run over the features of each neuron.")
def over_neurons(W_in):
    square = W_in.square()
    bottom = square.square().sum(-2)
    return torch.where(bottom > 0, square.sum(-2) ** 2 / bottom.clamp(min=1e-12), torch.zeros_like(bottom))


@polysemantic.mistake("A dead neuron gives 0/0 = NaN.")
def nan_for_dead_neuron(W_in):
    square = W_in.square()
    return square.sum(-1) ** 2 / square.square().sum(-1)


@polysemantic.mistake("Counting weights that are not exactly zero says 'all of them' for a trained network.")
def count_nonzero(W_in):
    return (W_in != 0).sum(-1).float()


@polysemantic.mistake("The ratio is upside down.")
def upside_down(W_in):
    square = W_in.square()
    top, bottom = square.square().sum(-1), square.sum(-1) ** 2
    return torch.where(bottom > 0, top / bottom.clamp(min=1e-12), torch.zeros_like(top))


@polysemantic.alternative
def from_shares(W_in):
    share = W_in**2 / (W_in**2).sum(-1, keepdim=True)
    return torch.nan_to_num(1 / (share**2).sum(-1), nan=0.0)


# -- 03.6 memorisation --------------------------------------------------------------------------------------------

points = lesson.exercise(
    6,
    title="Memorise fixed points",
    answer="train_on_points",
    reference=train_on_points,
    points=4,
    difficulty=3,
    importance=4,
    minutes=20,
    seconds=60,
    hints=(
        "The loop is that of lesson 02, but the batch is always the whole of `x`.",
        "Parameters: `W [d_hidden, features]` small and random, `b [features]` zero. Loss: squared error summed over features, "
        "averaged over points.",
        "`optimizer = torch.optim.AdamW([W, b], lr=lr, weight_decay=weight_decay)`, then `steps` times: forward, zero_grad, "
        "backward, step.",
    ),
)


def _sparse_points(draw: Draw, n_points: int) -> Tensor:
    x = draw.rng.uniform(size=(n_points, 240)) * (draw.rng.uniform(size=(n_points, 240)) < 0.04)
    x[:, 0] += 0.05  # no point is empty
    return draw.lend((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))


def _returned(values, draw):
    """The points trained on, and the weights that came back."""
    x = _sparse_points(draw, int(values["points"]))
    W, b = (torch.as_tensor(np.asarray(values[key]), dtype=torch.float32) for key in ("W", "b"))
    return x, W, b


def _losses_of(x, W, b):
    loss = ((x @ W.T @ W + b).relu() - x).square().sum(-1)
    lengths = {"length": float(W.norm()), "length of b": float(b.norm())}
    return {"loss": float(loss.mean()), "loss on the first point": float(loss[0]), **lengths}


def _losses(values, draw):
    """Loss on the points trained on, for the returned weights, beside the loss of answering zero (which is 1)."""
    return _losses_of(*_returned(values, draw))


def _fitted(values, draw):
    """The losses, and which forward pass the returned weights were trained for."""
    x, W, b = _returned(values, draw)
    losses = _losses_of(x, W, b)
    hidden = float((((x @ W.T).relu() @ W + b).relu() - x).square().sum(-1).mean())
    linear = float((x @ W.T @ W + b - x).square().sum(-1).mean())
    fits = "the model of the exercise"
    if hidden < 0.6 * losses["loss"]:
        fits = "a model with a ReLU on its hidden layer"
    elif linear < 0.7:  # 0.2 where it was trained for; 16 and more where the exercise's model was
        fits = "a model without the output's ReLU"
    return {**losses, "fits": fits}


def _weights(result, x, d_hidden):
    """W and b of the right shapes, or a sentence that says which were wanted."""
    shapes = [d_hidden, x.shape[1]], [x.shape[1]]
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(f"two results are wanted, `return W, b`: shapes {shapes[0]} and {shapes[1]}")
    for name, found, shape in zip("Wb", result, shapes):
        if list(found.shape) != shape:
            raise TypeError(f"`{name}` has shape {list(found.shape)}, expected {shape}")
    return result


@points.case(
    "four points in two dimensions are memorised (loss on them below 0.4; answering zero has 1)",
    weight=2,
    essential=True,
    rule={
        "loss": Between(0, 0.4),
        "loss on the first point": Between(0, 0.7),
        "length": Between(0.1, 1e6),
        "length of b": Between(),
        "fits": Exact(),
    },
    measure=_fitted,
)
def _(f, draw):
    x = _sparse_points(draw, 4)
    W, b = _weights(f(x, 2, steps=300, lr=0.03, weight_decay=0.0), x, 2)
    return {"W": W, "b": b, "points": 4}


@points.case(
    "sixty points do not fit into two dimensions, but training helps (loss between 0.3 and 0.95)",
    rule={
        "loss": Between(0.3, 0.95),
        "loss on the first point": Between(),
        "length": Between(0.1, 1e6),
        "length of b": Between(0.1, 1e6),
    },
    measure=_losses,
)
def _(f, draw):
    x = _sparse_points(draw, 60)
    W, b = _weights(f(x, 2, steps=300, lr=0.03, weight_decay=0.0), x, 2)
    return {"W": W, "b": b, "points": 60}


@points.case("strong weight decay keeps W small: its length is at most 0.8 of that without", rule=Between(0.01, 0.8))
def _(f, draw):
    x = _sparse_points(draw, 12)
    free, held = (_weights(f(x, 2, steps=150, lr=0.03, weight_decay=decay), x, 2)[0].norm() for decay in (0.0, 3.0))
    return held / free


@points.case(
    "the number of steps is obeyed: no step leaves the loss near 1",
    rule=Between(0.8, 1.6),
    measure=lambda v, d: _losses(v, d)["loss"],
)
def _(f, draw):
    x = _sparse_points(draw, 4)
    W, b = _weights(f(x, 2, steps=0, lr=0.05, weight_decay=0.0), x, 2)
    return {"W": W, "b": b, "points": 4}


def _loop(x, d_hidden, steps, lr, weight_decay, forward=None, make=torch.optim.AdamW, draw=None, start=0.1):
    W = (start * torch.randn(d_hidden, x.shape[1])).requires_grad_()
    b = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = make([W, b], lr=lr, weight_decay=weight_decay)
    forward = forward or (lambda x, W, b: (x @ W.T @ W + b).relu())
    for _ in range(steps):
        batch = draw(x) if draw else x
        loss = (forward(batch, W, b) - batch).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return W.detach(), b.detach()


@points.mistake("Each step draws fresh points; memorisation needs the same ones every time.")
def fresh_points_each_step(x, d_hidden, steps, lr, weight_decay):
    def fresh(x):
        noise = torch.rand_like(x) * (torch.rand_like(x) < 0.15)
        return noise / noise.norm(dim=-1, keepdim=True).clamp(min=1e-6)

    return _loop(x, d_hidden, steps, lr, weight_decay, draw=fresh)


@points.mistake("`weight_decay` is not passed to the optimizer.")
def weight_decay_ignored(x, d_hidden, steps, lr, weight_decay):
    return _loop(x, d_hidden, steps, lr, 0.0)


@points.mistake(
    "W starts with numbers of size 1, from where the points are not found: start small, such as 0.1 * torch.randn."
)
def starts_large(x, d_hidden, steps, lr, weight_decay):
    return _loop(x, d_hidden, steps, lr, weight_decay, start=1.0)


@points.mistake(
    "This is Adam with weight decay inside the gradient; AdamW shrinks the weights by themselves (`torch.optim.AdamW`)."
)
def adam_with_decay_in_the_gradient(x, d_hidden, steps, lr, weight_decay):
    return _loop(x, d_hidden, steps, lr, weight_decay, make=torch.optim.Adam)


@points.mistake("The output has no ReLU: x_hat = ReLU(W^T h + b).")
def output_relu_missing(x, d_hidden, steps, lr, weight_decay):
    return _loop(x, d_hidden, steps, lr, weight_decay, forward=lambda x, W, b: x @ W.T @ W + b)


@points.mistake(
    "The hidden layer has a ReLU. Here it is linear, h = W x: the model of lesson 02, not that of exercise 03.3."
)
def relu_on_the_hidden_layer(x, d_hidden, steps, lr, weight_decay):
    return _loop(x, d_hidden, steps, lr, weight_decay, forward=lambda x, W, b: ((x @ W.T).relu() @ W + b).relu())


@points.mistake("The bias is not trained: give the optimizer W and b, and use b in the forward pass.")
def bias_not_trained(x, d_hidden, steps, lr, weight_decay):
    return _loop(x, d_hidden, steps, lr, weight_decay, forward=lambda x, W, b: (x @ W.T @ W + 0 * b).relu())


@points.mistake("Only the first point is trained on; the loss is the mean over all rows of `x`.")
def first_point_only(x, d_hidden, steps, lr, weight_decay):
    return _loop(x, d_hidden, steps, lr, weight_decay, draw=lambda x: x[:1])


@points.mistake("All weights start at zero: the gradient of W is then zero too, and only the bias ever learns.")
def starts_at_zero(x, d_hidden, steps, lr, weight_decay):
    W = torch.zeros(d_hidden, x.shape[1])
    b = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([b], lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        loss = (b.relu() - x).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return W, b.detach()


@points.alternative
def with_adam_and_decoupled_decay(x, d_hidden, steps, lr, weight_decay):
    W = (torch.randn(d_hidden, x.shape[1]) * x.shape[1] ** -0.5).requires_grad_()
    b = torch.zeros(x.shape[1]).requires_grad_()
    optimizer = torch.optim.Adam([W, b], lr=lr)
    for _ in range(steps):
        with torch.no_grad():
            W.mul_(1 - lr * weight_decay)
            b.mul_(1 - lr * weight_decay)
        gradients = torch.autograd.grad(((x @ W.T @ W + b).relu() - x).pow(2).sum() / len(x), [W, b])
        W.grad, b.grad = gradients
        optimizer.step()
    return W.detach(), b.detach()


# -- 03.7 dimensionality of data points ---------------------------------------------------------------------------

data_points = lesson.exercise(
    7,
    title="Dimensionality of data points",
    answer="data_point_dimensionality",
    reference=lambda h: toy.data_point_dimensionality(h[None])[0],
    points=1,
    difficulty=2,
    importance=3,
    minutes=5,
    hints=(
        "A data point's hidden vector h_t plays the part that a feature's column W_i played in exercise 03.1.",
        "Mind the axes: `h` is [points, d_hidden], one point a row.",
        "`feature_dimensionality(h.T[None])[0]`",
    ),
)


@data_points.case("random hidden vectors", weight=2)
def _(f, draw):
    return f(draw.normal(9, 3))


@data_points.case("five points on a pentagon have 2/5 of a dimension each")
def _(f, draw):
    return f(draw.lend((2.0 * _polygon(5).T).contiguous().numpy()))


@data_points.case("a point at the origin has 0, not NaN")
def _(f, draw):
    h = draw.rng.normal(size=(6, 2)).astype(np.float32)
    h[4] = 0
    return f(draw.lend(h))


@data_points.mistake("The axes are exchanged: this is the dimensionality of hidden units, not of points.")
def of_hidden_units(h):
    return toy.feature_dimensionality(h[None])[0]


@data_points.mistake(
    "The vectors are made unit before the formula, which forgets that some points are stored more strongly than others."
)
def normalised_first(h):
    unit = h / h.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return toy.feature_dimensionality(unit.T[None])[0]


@data_points.mistake("The axis for instances is still there, [1, points]: take `[0]` of it.")
def instance_axis_left(h):
    return toy.feature_dimensionality(h.T[None])


@data_points.mistake("A point at the origin gives 0/0 = NaN.")
def nan_at_the_origin(h):
    unit = h / h.norm(dim=-1, keepdim=True)
    return h.square().sum(-1) / (unit @ h.T).square().sum(-1)


@data_points.alternative
def by_gram_matrix(h):
    gram = (h @ h.T).square()
    length = h.square().sum(-1)
    return torch.nan_to_num(length * length / gram.sum(-1), nan=0.0)


# -- 03.8 learning dynamics ---------------------------------------------------------------------------------------

jumps = lesson.exercise(
    8,
    title="Find the jumps",
    answer="find_jumps",
    reference=find_jumps,
    points=2,
    difficulty=3,
    importance=2,
    minutes=12,
    hints=(
        "A jump is a change that stays: compare the level before with the level after, not two neighbouring snapshots alone.",
        "For snapshot t compare the mean of the `window` snapshots before t with the mean of the `window` snapshots from t on.",
        "Among neighbouring candidates of one feature keep the t with the largest difference: one jump, one entry.",
    ),
)


def _steps(draw: Draw, changes: dict[int, tuple[int, float]], snapshots: int = 60, features: int = 4) -> np.ndarray:
    D = np.full((snapshots, features), 0.5) + draw.rng.normal(0, 0.01, size=(snapshots, features))
    for feature, (at, size) in changes.items():
        D[at:, feature] += size
    return D.astype(np.float32)


def _listed(found):
    return " ".join(f"({int(t)},{int(i)})" for t, i in sorted((int(t), int(i)) for t, i in found))


@jumps.case("one jump up and one down", weight=2, rule=Exact())
def _(f, draw):
    at = [int(t) for t in draw.rng.integers(12, 48, 2)]
    return _listed(f(draw.lend(_steps(draw, {1: (at[0], 0.3), 3: (at[1], -0.25)})), 0.15, 5))


@jumps.case("a single odd snapshot is no jump", rule=Exact())
def _(f, draw):
    D = _steps(draw, {2: (30, 0.3)})
    D[15, 0] += 0.6
    return _listed(f(draw.lend(D), 0.15, 5))


@jumps.case("a slow drift is no jump", rule=Exact())
def _(f, draw):
    D = _steps(draw, {0: (25, 0.3)})
    D[:, 1] += np.linspace(0, 0.4, 60)
    return _listed(f(draw.lend(D), 0.15, 5))


@jumps.case("the size asked for is obeyed", rule=Exact())
def _(f, draw):
    D = draw.lend(_steps(draw, {0: (20, 0.2), 1: (35, 0.4)}))
    return _listed(f(D, 0.3, 5)) + " / " + _listed(f(D, 0.1, 5))


@jumps.case("two jumps of one feature, and two features that jump together", weight=2, rule=Exact())
def _(f, draw):
    D = _steps(draw, {0: (15, 0.3), 1: (30, 0.3), 2: (30, -0.3)})
    D[45:, 0] -= 0.25
    return _listed(f(draw.lend(D), 0.15, 5))


@jumps.mistake("Comparing neighbouring snapshots alone takes a single odd snapshot for a jump.")
def neighbours_only(D, size, window):
    change = (D[1:] - D[:-1]).abs()
    return [(t + 1, i) for t, i in torch.nonzero(change > size).tolist()]


@jumps.mistake("Only upward changes are found; features lose dimensions too.")
def upward_only(D, size, window):
    return [(t, i) for t, i in find_jumps(D, size, window) if D[t : t + window, i].mean() > D[t - window : t, i].mean()]


@jumps.mistake("One jump is listed several times: keep only the snapshot where the difference is largest.")
def listed_many_times(D, size, window):
    means = D.unfold(0, window, 1).mean(-1)
    change = (means[window:] - means[:-window]).abs()
    return [(t + window, i) for t, i in torch.nonzero(change > size).tolist()]


@jumps.mistake("The snapshot is counted from the window's start, so every jump is reported `window` snapshots early.")
def reported_early(D, size, window):
    return [(t - window, i) for t, i in find_jumps(D, size, window)]


def _largest_of_each(found, D, window, place):
    """Of all jumps with the same `place` (0 the snapshot, 1 the feature) only the largest."""
    largest = {}
    for t, i in found:
        size = float((D[t : t + window, i].mean() - D[t - window : t, i].mean()).abs())
        if size > largest.get((t, i)[place], (0.0,))[0]:
            largest[(t, i)[place]] = size, (t, i)
    return [jump for _, jump in largest.values()]


@jumps.mistake("Only the largest jump of each feature is reported; a feature may jump more than once.")
def one_per_feature(D, size, window):
    return _largest_of_each(find_jumps(D, size, window), D, window, 1)


@jumps.mistake("Only the largest jump of each snapshot is reported; several features may jump at the same moment.")
def one_per_snapshot(D, size, window):
    return _largest_of_each(find_jumps(D, size, window), D, window, 0)


@jumps.alternative
def looped_over_features(D, size, window):
    found = []
    for i in range(D.shape[1]):
        change = torch.zeros(D.shape[0])
        for t in range(window, D.shape[0] - window + 1):
            change[t] = (D[t : t + window, i].mean() - D[t - window : t, i].mean()).abs()
        while change.max() > size:
            t = int(change.argmax())
            found.append((t, i))
            change[max(0, t - window + 1) : t + window] = 0
    return found
