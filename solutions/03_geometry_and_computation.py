# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}
# ---

# %% [markdown]
# # 03 · Geometry and computation in superposition
#
# Lesson 02 ended with features that share dimensions. This lesson asks *how* they share them, and what a network can do with features that
# overlap. Features do not spread out evenly: they gather into small, regular shapes (pairs, triangles, pentagons), as electrons gather
# into levels. And a layer with ReLUs does not only store features in superposition, it computes with them there.
#
# **You will be able to**
# - measure how much of a dimension each feature has, and name the shape it belongs to;
# - explain why a ReLU in the hidden layer gives neurons a meaning, and when they lose it again;
# - build |x| out of two neurons a feature, and see what training does when there are too few;
# - find double descent in a toy model and say, from geometry, what happens at the peak;
# - find the moments in training at which features move.
#
# **Time**: about 1 h 35 min of exercises; the cells run in about three minutes on two CPU cores.
# **Before**: lesson 02. Notation is the same: `n` features, `d` dimensions, p = 1 − S the probability that a feature is active, and S its sparsity.

# %% tags=["setup"]
import torch
from torch import Tensor

from course_utils import check, hint, progress, solution
from course_utils.settings import quick
from course_utils.toy import (
    AbsModel,
    NeuronModel,
    ToyModel,
    ToyModelConfig,
    represented_features,
    train_toy_model,
)
from course_utils.toy.double_descent import load as load_double_descent
from course_utils.toy.double_descent import row
from course_utils.toy.dynamics import dimensionality_over_time
from course_utils.toy.memorise import MemoriseConfig, fixed_points, memorise
from course_utils.viz import geometry as draw

torch.set_num_threads(min(2, torch.get_num_threads()))

# %% [markdown]
# ## A first look: shapes
#
# Take a model with three dimensions and 4, 6 or 8 equally important features that are rarely active (p = 0.03). Turn the figures with the mouse.

# %%
shapes = {}
for n_features in (4, 6, 8):
    config = ToyModelConfig(n_features, 3, n_instances=8, feature_probability=0.03)
    result = train_toy_model(config, steps=1500 if quick() else 3000, batch_size=512, lr=1e-2)
    shapes[n_features] = result.W[result.losses[-1].argmin()]
draw.polytopes(
    list(shapes.values()),
    [f"{n} features" for n in shapes],
    "Three dimensions hold more features than three, in regular shapes",
    subtitle="the best of eight trained models each; one dot is one feature",
)

# %% [markdown]
# Six features take the corners of an octahedron: three pairs of opposites. Eight take a square antiprism, a cube with its lid turned by 45°. Four are
# a surprise: one might expect a tetrahedron, and training finds instead two features with a dimension of their own and one pair of opposites.
# Both fit four features into three dimensions, and in both the ReLU removes every disturbance while one feature is active. When two
# are, the pair disturbs in one combination of six, strongly; the tetrahedron in all six, weakly, and that adds up to more: with unit vectors and no bias the
# expected loss is about 0.37 p² against 0.33 p².

# %% [markdown]
# ## How much of a dimension does a feature have?
#
# Elhage et al. (2022) measure a feature's share with its *dimensionality*
#
# $$D_i = \frac{\lVert W_i\rVert^2}{\sum_j (\hat W_i \cdot W_j)^2}, \qquad \hat W_i = \frac{W_i}{\lVert W_i\rVert}$$
#
# The numerator is how strongly feature i is represented. The denominator looks along feature i's direction and adds up everything that lies there,
# feature i included. A feature alone has D = 1; one of a pair of opposites 1/2; one of a pentagon in the plane 2/5; a feature that is not stored 0.
# Over all features the sum is at most d: dimensions are shared out, never created.

# %% [markdown]
# ### Exercise 03.1: The dimensionality of a feature


# %% answer="03.1"
def feature_dimensionality(W: Tensor) -> Tensor:
    """Dimensionality of every feature. `W` is [instances, d_hidden, features]; the result [instances, features].

    A feature of length (almost) zero has dimensionality 0.
    """
    ### BEGIN SOLUTION
    norms = W.norm(dim=1)
    unit = W / norms[:, None, :].clamp(min=1e-6)
    overlaps = (unit.mT @ W).square()  # [instances, i, j]: (unit W_i . W_j)^2
    total = overlaps.sum(dim=-1)
    return torch.where(norms > 1e-3, norms.square() / total.clamp(min=1e-12), torch.zeros_like(norms))
    ### END SOLUTION


# %% check="03.1"
check("03.1", feature_dimensionality)

# %% [markdown]
# Now a larger model, so that many shapes can appear at once: 200 features in 20 dimensions, all equally important, at 20 sparsities, trained
# as one batched model. (Published code for this figure takes some ten minutes of one core; this takes about one. The gain comes from
# gradients written out by hand and from making random numbers faster: see `course_utils/toy/training.py`.)

# %%
density = torch.logspace(0, -1, 20)
config = ToyModelConfig(n_features=200, d_hidden=20, n_instances=20, feature_probability=density[:, None])
sweep = train_toy_model(config, steps=2_000 if quick() else 10_000, batch_size=256, lr=5e-3)
D = feature_dimensionality(sweep.W)
soft = 20 / sweep.W.square().sum(dim=(1, 2))
draw.dimensionality_scatter(
    density,
    D,
    soft,
    "Features gather at simple fractions of a dimension",
    subtitle="200 features in 20 dimensions; every dot is one feature of one trained model",
)

# %% tags=["solution-only"]
for p, shares in zip(density, D):
    near = {
        name: int(((shares - level).abs() < 0.02).sum())
        for name, level in {"1/2": 0.5, "2/5": 0.4, "3/8": 0.375, "0": 0.0}.items()
    }
    print(f"p = {p:.3f}: {near}, sum of D {shares.sum():.1f}")

# %% [markdown]
# **Questions**
# 1. Between 1/(1−S) ≈ 2 and 4 the curve is flat. What are the features doing there?
# <details><summary>Answer</summary>All represented features stand in pairs of opposites: forty features with D = 1/2 share the twenty dimensions, and the other 160 are
# ignored. In our run
# exactly that happens at p = 0.38, 0.34 and 0.30, and all but a few features do it from p = 0.48 to 0.26: the number of features kept hardly changes while p halves.</details>
#
# 2. Where is the tetrahedron (3/4), and where the triangle (2/3)?
# <details><summary>Answer</summary>Nearly absent: a few dozen features lie between 0.65 and 0.73 for 1/(1−S) between 1.3 and 1.6, beside a crowd near 0 that is stored weakly; `name_geometry` finds no
# clean tetrahedron or triangle there.
# A line in a figure marks a possibility; dots show what happened.</details>
#
# 3. For small p the dots no longer lie on lines. Why?
# <details><summary>Answer</summary>With ten times more features than dimensions, most shapes that pay there are large and irregular. The mean share d/‖W‖² goes on falling
# smoothly. The sum of all D stays at 20: every dimension is used.</details>

# %% [markdown]
# ### Exercise 03.2: Name the shapes
#
# Features that overlap belong to one shape. Group them and look the group up in the table:
#
# | features | dimensions | name |
# |---|---|---|
# | 1 | 1 | `dedicated` |
# | 2 | 1 | `digon` |
# | 3 | 2 | `triangle` |
# | 4 | 3 | `tetrahedron` |
# | 5 | 2 | `pentagon` |
# | 8 | 3 | `square antiprism` |
#
# Two represented features (‖W_i‖² > 0.5) are *linked* when the absolute value of their cosine exceeds 0.15. A group is everything that
# can be reached over links. Its number of dimensions is the sum of its features' dimensionalities, rounded (at least 1). A group that is not in the table is `other`;
# all features that are not represented form one group, `ignored` (left out if there are none).


# %% answer="03.2"
def name_geometry(W: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Shapes of one model. `W` is [d_hidden, features]; the result lists (name, features of the group) in any order."""
    ### BEGIN SOLUTION
    names = {
        (1, 1): "dedicated",
        (2, 1): "digon",
        (3, 2): "triangle",
        (4, 3): "tetrahedron",
        (5, 2): "pentagon",
        (8, 3): "square antiprism",
    }
    norms = W.norm(dim=0)
    represented = norms.square() > 0.5
    unit = W / norms.clamp(min=1e-6)
    linked = (unit.T @ unit).abs() > 0.15
    share = feature_dimensionality(W[None])[0]
    left = torch.nonzero(represented).flatten().tolist()
    found = []
    while left:
        group, edge = [left[0]], [left[0]]
        while edge:
            here = edge.pop()
            new = [other for other in left if linked[here, other] and other not in group]
            group += new
            edge += new
        left = [feature for feature in left if feature not in group]
        dimensions = max(1, round(float(share[group].sum())))
        found.append((names.get((len(group), dimensions), "other"), tuple(sorted(group))))
    ignored = torch.nonzero(~represented).flatten().tolist()
    return found + ([("ignored", tuple(ignored))] if ignored else [])
    ### END SOLUTION


# %% check="03.2"
check("03.2", name_geometry)

# %%
for n_features, W in shapes.items():
    print(f"{n_features} features in 3 dimensions:", ", ".join(name for name, _ in name_geometry(W)))
for instance in (7, 11, 13):
    names = [name for name, group in name_geometry(sweep.W[instance]) if name != "ignored"]
    counts = {name: names.count(name) for name in sorted(set(names))}
    print(f"200 in 20, p = {density[instance]:.2f}: {counts}")

# %% [markdown]
# In our run: nineteen digons at p = 0.43; eighteen digons and a pentagon at p = 0.26 (18 · 1 + 2 = 20 dimensions, all used); two pentagons and three square antiprisms at p = 0.21,
# with one larger group that has no name.

# %% [markdown]
# ## Neurons: a basis that means something
#
# So far the hidden layer was linear. Turn its basis by any rotation R (h → R h, W → R W) and the model computes the same: no coordinate of h is special,
# and it makes no sense to ask what "neuron 3" does. A ReLU in the hidden layer acts on each coordinate by itself and ends that freedom:
#
# $$h = \mathrm{ReLU}(W x), \qquad \hat x = \mathrm{ReLU}(W^\top h + b)$$
#
# Now the basis is *privileged*. That allows neurons to mean one thing each. It does not force them to.

# %% [markdown]
# ### Exercise 03.3: A model with neurons


# %% answer="03.3"
def neuron_model(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """x_hat of the model above for many instances at once.

    `x` is [instances, batch, features], `W` [instances, d_hidden, features], `b` [instances, features].
    """
    ### BEGIN SOLUTION
    h = torch.relu(x @ W.mT)
    return torch.relu(h @ W + b[:, None, :])
    ### END SOLUTION


# %% check="03.3"
check("03.3", neuron_model)

# %%
neuron_density = torch.tensor([1.0, 0.35, 0.2, 0.1, 0.05])
config = ToyModelConfig(
    10, 5, n_instances=5, feature_probability=neuron_density[:, None], importance=0.75 ** torch.arange(10.0)
)
model = NeuronModel(config, torch.Generator().manual_seed(0))
neurons = train_toy_model(model, steps=1500 if quick() else 5000, batch_size=512, lr=5e-3)
draw.neuron_stacks(
    neurons.W,
    [f"p = {p:.2f}" for p in neuron_density],
    "Dense features get a neuron each; sparse ones share",
    subtitle="each bar is a neuron, each colour a feature (10 features, importance 0.75^i, 5 neurons)",
)

# %% [markdown]
# **Questions**
# 1. The linear model of lesson 02 at p = 1 also kept the five most important features. Why would this figure make no sense for it?
# <details><summary>Answer</summary>Its hidden basis can be rotated freely, so how a feature's direction splits over "neurons" is an accident of initialisation. With the ReLU,
# a feature that is spread over several neurons would be cut where it is negative.</details>
#
# 2. At p = 0.05 one neuron answers to many features. Is this model worse than the one with one feature a neuron?
# <details><summary>Answer</summary>No: it stores more features, and its importance-weighted loss is lower. Polysemantic neurons are a price the model pays for capacity, and at this
# sparsity the price is small.</details>

# %% [markdown]
# ## Computing in superposition: |x|
#
# Storing is not computing. Give the model a task that needs its ReLUs: features now have either sign, uniform on (−1, 1) when active, and the output should be |x|:
#
# $$h = \mathrm{ReLU}(W_{in} x), \qquad y = \mathrm{ReLU}(W_{out} h + b), \qquad y \approx |x|$$

# %% [markdown]
# ### Exercise 03.4: |x| with two neurons a feature
#
# With enough neurons there is an exact answer and you can write it down. Give weights for n features and at most 2n neurons, with b = 0.


# %% answer="03.4"
def exact_abs_weights(n_features: int) -> tuple[Tensor, Tensor]:
    """`W_in` [neurons, features] and `W_out` [features, neurons] that compute |x| exactly with at most 2 n_features neurons."""
    ### BEGIN SOLUTION
    eye = torch.eye(n_features)
    return torch.cat([eye, -eye]), torch.cat([eye, eye], dim=1)
    ### END SOLUTION


# %% check="03.4"
check("03.4", exact_abs_weights)

# %% [markdown]
# Training has to manage with fewer: here 20 features and 10 neurons, where exactness would need 40.

# %%
abs_density = torch.tensor([1.0, 0.1, 0.03, 0.01])
config = ToyModelConfig(
    20, 10, n_instances=4, feature_probability=abs_density[:, None], importance=0.8 ** torch.arange(20.0)
)
absolute = train_toy_model(
    AbsModel(config, torch.Generator().manual_seed(0)), steps=1500 if quick() else 5000, batch_size=512, lr=5e-3
)
draw.neuron_stacks(
    absolute.W,
    [f"p = {p:.2f}" for p in abs_density],
    "|x|: monosemantic neurons when features are dense, shared ones when they are sparse",
    subtitle="input weights of 10 neurons, 20 features; hover for signs",
)

# %% [markdown]
# ### Exercise 03.5: How many features does a neuron answer to?
#
# How shared are the neurons of the last two figures? A neuron has weights in w_1 … w_n. Counting those that are not zero
# says "all" for any trained model. The *participation ratio* of the squared weights does not need a threshold:
#
# $$\text{polysemanticity} = \frac{(\sum_i w_i^2)^2}{\sum_i w_i^4}$$
#
# It is 1 for one weight, k for k equally strong ones, whatever their signs, and something between otherwise. A dead neuron gets 0.


# %% answer="03.5"
def polysemanticity_of_neurons(W_in: Tensor) -> Tensor:
    """The participation ratio of every neuron: `W_in` is [instances, d_hidden, features], the result [instances, d_hidden]."""
    ### BEGIN SOLUTION
    square = W_in.square()
    total, fourth = square.sum(dim=-1), square.square().sum(dim=-1)
    return torch.where(fourth > 0, total.square() / fourth.clamp(min=1e-20), torch.zeros_like(total))
    ### END SOLUTION


# %% check="03.5"
check("03.5", polysemanticity_of_neurons)

# %%
for name, densities, weights in (
    ("neurons model", neuron_density, neurons.W),
    ("|x|", abs_density, absolute.W),
):
    for p, counts in zip(densities, polysemanticity_of_neurons(weights)):
        print(f"{name:13} p = {p:.2f}: features a neuron answers to: {[round(float(c), 1) for c in counts]}")

# %%
W_in, W_out = absolute.model.W_in[2].detach(), absolute.model.W_out[2].detach()
neuron = int((polysemanticity_of_neurons(W_in[None])[0] - 2).abs().argmin())
pair = W_in[neuron].abs().topk(2).indices.tolist()
print(f"neuron {neuron} at p = 0.03 reads mainly features {pair}:")
for feature in pair:
    print(
        f"  feature {feature:2d}: in {W_in[neuron, feature]:+.2f}, out {W_out[feature, neuron]:+.2f}, product of sizes {(W_in[neuron, feature] * W_out[feature, neuron]).abs():.2f}"
    )

# %% [markdown]
# **Asymmetric superposition.** Two features that share a neuron can do so on unequal terms: a large weight in goes with a small weight out, and the reverse.
# That is a trick to control who disturbs whom. If the weights in are $2$ and $1/2$ and the weights out $1/2$ and $2$, both features pass with product 1. But
# feature A, when active, pushes into B's output with $2 \cdot 2 = 4$, and B into A's only with $1/2 \cdot 1/2 = 1/4$. The strong disturbance can then be
# cancelled by another neuron that writes a negative number into B's output, and the weak one is small enough to live with. Elhage et al. (2022)
# show clean cases. Ours is a small model and the picture is rougher: the neuron printed above reads one feature strongly and writes it strongly (product near 1),
# and reads a second one nearly as strongly but hardly writes it (product near 0.1): the second one is what it has to live with, and other neurons carry it.
#
# **Questions**
# 1. Why does a dense model (p = 1) spend its ten neurons on so few features?
# <details><summary>Answer</summary>Each feature needs two neurons, one for each sign. Ten neurons serve five features exactly, and sharing would disturb every sample.</details>
#
# 2. Would a linear hidden layer with the same number of dimensions do?
# <details><summary>Answer</summary>No. The output's ReLU alone makes max(0, ·) of a linear function of x, and |x| is not one: it needs both half-lines.</details>

# %% [markdown]
# ## Memorisation: data points instead of features
#
# A model that sees only T points can store the *points* instead of the features they are made of. Henighan et al. (2023) found that this is how overfitting
# looks in a toy model, and that between "stores points" and "stores features" the test loss has a peak: *double descent*.
#
# The data: sparse points scaled to length one, drawn once. The model: that of lesson 02 with d = 2, trained on the same T points in every step.

# %% [markdown]
# ### Exercise 03.6: Memorise fixed points
#
# Start $W$ with small random numbers (`0.1 * torch.randn`; from numbers of size 1 training does not find the points) and $b$ with zeros. With `steps=0` return them as they are.


# %% answer="03.6"
def train_on_points(x: Tensor, d_hidden: int, steps: int, lr: float, weight_decay: float) -> tuple[Tensor, Tensor]:
    """Train h = W x, x_hat = ReLU(W^T h + b) on all points `x` [points, features] in each of `steps` steps, with AdamW.

    The loss is the squared error summed over features and averaged over points. Returns W [d_hidden, features] and b [features], detached.
    """
    ### BEGIN SOLUTION
    W = (0.1 * torch.randn(d_hidden, x.shape[1])).requires_grad_()
    b = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([W, b], lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        x_hat = torch.relu(x @ W.T @ W + b)
        loss = (x_hat - x).square().sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return W.detach(), b.detach()
    ### END SOLUTION


# %% check="03.6"
check("03.6", train_on_points)

# %% [markdown]
# ### Exercise 03.8: Dimensionality of data points
#
# The measure of exercise 03.1 works for data points too, with their hidden vectors $h_t$ in the place of the $W_i$. (Exercise 03.7 follows in the next section.)


# %% answer="03.8"
def data_point_dimensionality(h: Tensor) -> Tensor:
    """Dimensionality of each data point: `h` is [points, d_hidden], the result [points]."""
    ### BEGIN SOLUTION
    return feature_dimensionality(h.T[None])[0]
    ### END SOLUTION


# %% check="03.8"
check("03.8", data_point_dimensionality)

# %%
torch.manual_seed(0)
five = fixed_points(5, 300, 0.03, torch.Generator().manual_seed(1))
W, b = train_on_points(five, 2, steps=1500, lr=0.02, weight_decay=0.0)
print("dimensionality of the five points:", [round(float(v), 2) for v in data_point_dimensionality(five @ W.T)])
print("largest dimensionality of a feature:", round(float(feature_dimensionality(W[None]).max()), 2))

# %% [markdown]
# Five points, two dimensions: a pentagon again, 2/5 each. But now the corners are data points. Next, many sizes of the training set. Yours is a small run (300 features);
# the second figure is a larger one (600 features, three seeds) that ships with the course, made by
# `python -m course_utils.toy.double_descent`.

# %%
sizes = (3, 5, 8, 15, 30, 50, 80, 100, 150, 200, 300, 500, 1000)
mine = [
    row(
        memorise(
            MemoriseConfig(size, n_features=300, feature_probability=0.03, steps=500 if quick() else 2000, lr=0.02),
            progress=True,
        )
    )
    for size in sizes
]
draw.double_descent(
    mine, "Test loss peaks where the model stops storing points", subtitle="300 features, 2 dimensions, one seed"
)

# %%
shipped = load_double_descent()
three_seeds = [entry for entry in shipped["rows"] if entry["weight_decay"] == 0.01]
draw.double_descent(
    three_seeds, "The same with 600 features and three seeds", subtitle="shipped run; lines are medians over seeds"
)

# %%
draw.decay_curves(shipped["rows"], "Weight decay flattens the peak", subtitle="600 features, one seed each")

# %% [markdown]
# **Questions**
# 1. What do the two lower panels show on the left and on the right of the peak?
# <details><summary>Answer</summary>On the left, data points have a large share of a dimension each and features almost none: the model stores points. On the right it is the reverse: a few features
# stand out (about 0.3 of a dimension each in our runs, where the mean is 2/600), and points are what falls out of their features.</details>
#
# 2. The test loss at the peak is far above 1, the loss of answering nothing. How can a model be so much worse than silence?
# <details><summary>Answer</summary>To squeeze many points into a plane it makes W long (the points must be told apart by angles of a few degrees, so small differences are blown up). A fresh point is projected onto
# the same long directions and switches on the features of points it does not resemble. Weight decay forbids long weights, and with it the peak goes.</details>
#
# 3. Where would you expect the peak with twice the number of features, each half as often active?
# <details><summary>Answer</summary>Further right. Our two runs differ in just that way: with 300 features (9 active in a point) the test loss is highest at T = 100, with 600 features (about as many active) at T = 200,
# where its median over three seeds is 6.7. There is more to learn about features before storing them beats storing points. With weight decay 1 the largest test loss is 1.1.</details>

# %% [markdown]
# ## When do features move?
#
# Training does not slide smoothly into the final shapes. Each feature sits at a level for a while and then moves, often together with others, and the loss falls when they do.

# %% [markdown]
# ### Exercise 03.7: Find the jumps
#
# A *jump* is a change of a feature's dimensionality that stays. At snapshot t compare the mean of the `window` snapshots before t with the mean of the `window` snapshots from t on; if they
# differ by more than `size`, there is a jump nearby. Report the t with the largest difference, once: two jumps of the same feature are at least `window` snapshots apart.


# %% answer="03.7"
def find_jumps(D: Tensor, size: float, window: int) -> list[tuple[int, int]]:
    """Jumps of `D` [snapshots, features] as pairs (snapshot, feature), in any order."""
    ### BEGIN SOLUTION
    found = []
    for feature in range(D.shape[1]):
        difference = torch.zeros(D.shape[0])
        for t in range(window, D.shape[0] - window + 1):
            difference[t] = (D[t : t + window, feature].mean() - D[t - window : t, feature].mean()).abs()
        while difference.max() > size:
            t = int(difference.argmax())
            found.append((t, feature))
            difference[max(0, t - window + 1) : t + window] = 0
    return found
    ### END SOLUTION


# %% check="03.7"
check("03.7", find_jumps)

# %%
config = ToyModelConfig(20, 6, n_instances=6, feature_probability=0.3)
start = ToyModel(config, torch.Generator().manual_seed(1))
with torch.no_grad():
    start.W.mul_(0.3)  # a small start: features first have to appear at all
training = train_toy_model(
    start, steps=2000 if quick() else 8000, batch_size=1024, lr=5e-4, schedule="constant", snapshot_every=50, seed=1
)
paths = [dimensionality_over_time(training.snapshots, instance) for instance in range(6)]
found = [find_jumps(path, size=0.08, window=5) for path in paths]
chosen = max(range(6), key=lambda instance: len(found[instance]))
print("jumps found in each of six models:", [len(jumps) for jumps in found])
draw.dimensionality_paths(
    training.snapshot_steps,
    paths[chosen],
    training.steps,
    training.losses[:, chosen],
    found[chosen],
    "Features stay at a level, then move together",
    subtitle="20 features in 6 dimensions, p = 0.3; diamonds mark the jumps that find_jumps reports",
)

# %% [markdown]
# **Questions**
# 1. Some jumps come in twos at the same moment. Why?
# <details><summary>Answer</summary>Dimensionality is relative: when one feature leaves a shape or joins one, its neighbours' shares change in the same step.</details>
#
# 2. What happens to the loss at a late jump?
# <details><summary>Answer</summary>It falls by a small step, no more than the noise of single batches. Averaged over the logged hundred steps it is visible; on one batch it would not be.</details>

# %% [markdown]
# ## Common mistakes
# - Making *both* vectors unit in the dimensionality: then a feature stored at half strength looks like any other.
# - Letting a dead feature be 0/0. Decide what it is (0) and write that down; NaN spreads through every mean.
# - Reading a hidden basis that is not privileged as if its coordinates were neurons.
# - Calling a model overfitted because its weights are large, without looking at what it stores.
# - Taking one odd snapshot for a jump.
#
# ## Summary
# - D_i measures a feature's share of a dimension. Shares gather at simple fractions because features gather into small regular shapes; their sum is d.
# - A ReLU privileges a basis. Neurons are monosemantic while features are dense, polysemantic when they are sparse.
# - ReLUs can compute on features in superposition (|x|), with asymmetric weights that decide who disturbs whom.
# - With few data points a model stores points, with many it stores features; in between the test loss peaks, and weight decay flattens the peak.
# - Shapes form in moves, several features at a time.
#
# ## Further reading
# - Elhage et al., *Toy Models of Superposition* (2022), sections on geometry, on computation and on learning dynamics.
# - Henighan et al., *Superposition, Memorization, and Double Descent* (2023).
# - Scherlis et al., *Polysemanticity and Capacity in Neural Networks* (2022): another measure of a feature's share.

# %%
progress()
