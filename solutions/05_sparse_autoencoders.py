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
# # 05 · Sparse autoencoders in PyTorch
#
# A network that stores 20 features in 5 dimensions has no neuron per feature. A **sparse autoencoder** (SAE) tries to give every feature a
# *latent* of its own again: a wide layer in which only a few numbers are not zero. Below, five features live in two dimensions and we know
# where (dotted). Press play: the latents (thick) begin anywhere and lock on. TopK ends on the features; L1, at this strength, stops a few degrees beside some of them.

# %% tags=["setup"]
import math

import plotly.graph_objects as go
import plotly.io as pio
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils import check, hint, progress, solution, toy
from course_utils.sae import (
    SAEConfig,
    SAETrainer,
    chance_baselines,
    evaluate_sae,
    match_directions,
    recovery,
    train_many,
    train_sae,
)
from course_utils.settings import quick
from course_utils.viz import sae as draw
from course_utils.viz.theme import PALETTE, style

pio.renderers.default = "plotly_mimetype"  # figures of about 20 kB that need no network
torch.set_num_threads(1)  # these models are small: a second thread only gets in the way
torch.manual_seed(0)
FULL = False  # True: more seeds and steps, several times slower


# %%
def features_in_superposition(n: int, d: int, p: float, samples: int = 20_000) -> tuple[Tensor, Tensor, Tensor]:
    """A trained toy model of lesson 02: its feature directions [n, d] (unit), features [samples, n], activations [samples, d]."""
    config = toy.ToyModelConfig(n_features=n, d_hidden=d, n_instances=3, feature_probability=p)
    result = toy.train_toy_model(config, steps=400 if quick() else 2000, batch_size=512, lr=5e-3, progress=False)
    W = result.W[result.losses[-1].argmin()]
    features = toy.generate_batch(samples, torch.full((1, n), p), torch.Generator().manual_seed(1))[0]
    return F.normalize(W.T, dim=1), features, features @ W.T


flat_truth, _, flat_activations = features_in_superposition(n=5, d=2, p=0.05)
flat_activations = flat_activations[flat_activations.norm(dim=1) > 0]  # most samples are empty: nothing to see in them
moments = sorted({round(1.32**i) for i in range(23)})


def watch(**settings) -> Tensor:
    """Decoder rows of a library SAE at those moments, [times, latents, 2]."""
    rows = []
    cfg = SAEConfig(
        d_in=2,
        d_sae=5,
        batch_size=256,
        steps=500,
        lr=1e-2,
        seed=3,
        resample="loss_weighted",
        resample_every=60,
        **settings,
    )
    trainer = SAETrainer(cfg)
    for step in range(moments[-1] + 1):
        if step in moments or step == 0:
            rows.append(trainer.sae.W_dec.detach().clone())
        trainer.step(flat_activations[torch.randint(len(flat_activations), (256,))])
    return torch.stack(rows)


runs = {
    "L1 penalty 0.2": watch(architecture="standard", l1_coefficient=0.2),
    "TopK, k = 1": watch(architecture="topk", k=1),
}
draw.latents_locking_on(
    runs,
    flat_truth,
    [0, *moments],
    "Latents lock on to the features",
    subtitle="5 features in 2 dimensions; rows of W_dec during training",
)

# %% [markdown]
# **You will be able to**
#
# - write every common kind of SAE in plain PyTorch: L1, TopK, BatchTopK, gated, JumpReLU, Matryoshka;
# - keep a dictionary healthy: unit-norm decoder, AuxK, resampling;
# - judge an SAE where the truth is known, with the chance level beside every score;
# - say what shrinkage, dead latents, splitting and absorption are, and show each of them.
#
# **Time**: about 5 h of exercises, of which those of section 7, on a real language model (05.13 to 05.16), are one hour and can wait; the cells run in three to four minutes on two CPU cores.
# **Before**: lesson 02, for the data; lesson 04 builds the same machine without PyTorch and explains every gradient.
#
# **Notation**, the same in all lessons. Activations $x \in \mathbb{R}^{d_{in}}$, latents $f \in \mathbb{R}^{d_{sae}}$, reconstruction $\hat x$:
#
# $$f = \mathrm{ReLU}\big((x - b_{dec})\,W_{enc} + b_{enc}\big), \qquad \hat x = f\,W_{dec} + b_{dec},$$
#
# with $W_{enc}$ `[d_in, d_sae]` and $W_{dec}$ `[d_sae, d_in]`, as today's libraries store them (older papers store the transposes). *Row* $i$ of $W_{dec}$ is the
# direction of latent $i$, and $d_{sae} / d_{in}$ is the *expansion factor*. L0 is the number of active latents a sample; *variance unexplained* (FVU) is $\sum|x-\hat x|^2 / \sum|x-\bar x|^2$,
# where $\bar x$ is the mean over the samples, one number a dimension.
#
# **One convention to remember**, that of lesson 04: squared errors are **summed over dimensions and averaged over the batch**; L1 norms are summed over latents and averaged over the batch. Some code
# averages over dimensions as well. That is not wrong in itself, but it makes the penalty $d_{in}$ times stronger for the same $\lambda$, so the checks here reject it.
#
# ## 1 · The machine
#
# ### Exercise 05.1: The four parameters
# Write `__init__`. Row norms of `W_dec` are 1 and its directions random. A good start for `W_enc` is the transpose of `W_dec`: each latent then reads the direction it writes
# (other random starts are accepted). Biases start at or near zero.


# %% answer="05.1"
class SAEParameters(nn.Module):
    """W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in] (rows of norm 1), b_dec [d_in], all trainable."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        ### BEGIN SOLUTION
        self.W_dec = nn.Parameter(F.normalize(torch.randn(d_sae, d_in), dim=1))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        ### END SOLUTION


# %% check="05.1"
check("05.1", SAEParameters)

# %% [markdown]
# ### Exercise 05.2: Encode, decode, forward
# `__init__` is given: it takes over the parameters you just made. Leading axes (batch, position) pass through.


# %% answer="05.2"
class SAE(nn.Module):
    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        for name, parameter in SAEParameters(d_in, d_sae).named_parameters():
            self.register_parameter(name, parameter)

    def encode(self, x: Tensor) -> Tensor:
        """x [..., d_in] -> latents f [..., d_sae], not negative."""
        ### BEGIN SOLUTION
        return F.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        ### END SOLUTION

    def decode(self, f: Tensor) -> Tensor:
        """f [..., d_sae] -> x_hat [..., d_in]."""
        ### BEGIN SOLUTION
        return f @ self.W_dec + self.b_dec
        ### END SOLUTION

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction and the latents, in this order."""
        ### BEGIN SOLUTION
        f = self.encode(x)
        return self.decode(f), f
        ### END SOLUTION


# %% check="05.2"
check("05.2", SAE)

# %% [markdown]
# ## 2 · L1, and what it costs
#
# $$\mathcal{L} = \underbrace{\textstyle\sum_j (x_j - \hat x_j)^2}_{\text{squared error}} + \lambda \underbrace{\textstyle\sum_i f_i}_{L_1}\quad\text{averaged over the batch.}$$
#
# ### Exercise 05.3: The L1 loss
# `sae(x)` gives `x_hat, f`. Return the loss, the squared error and the plain L1 norm (without the coefficient).


# %% answer="05.3"
def l1_loss(sae: nn.Module, x: Tensor, l1_coefficient: float) -> tuple[Tensor, Tensor, Tensor]:
    """x [batch, d_in] -> (loss, squared_error, l1), three scalars; loss = squared_error + l1_coefficient * l1."""
    ### BEGIN SOLUTION
    x_hat, f = sae(x)
    squared_error = (x - x_hat).square().sum(-1).mean()
    l1 = f.abs().sum(-1).mean()
    return squared_error + l1_coefficient * l1, squared_error, l1
    ### END SOLUTION


# %% check="05.3"
check("05.3", l1_loss)

# %% [markdown]
# **Shrinkage**, as in lesson 04: for one feature of size $a$ and one latent with its direction, $(a - f)^2 + \lambda f$ is smallest at $f = \max(a - \lambda/2,\, 0)$.
# Every active latent is $\lambda/2$ too small. Train that one latent and look.

# %%
torch.manual_seed(0)
size = torch.rand(800) * 2 * (torch.rand(800) < 0.7)
one_feature = size[:, None] * F.normalize(torch.tensor([[1.0, 2.0, 2.0]]), dim=1)
found = {}
for strength in (0.0, 0.4, 1.0):
    model = SAE(3, 1)
    model.W_dec.data = F.normalize(one_feature.sum(0, keepdim=True), dim=1)
    model.W_enc.data = model.W_dec.data.T.clone()
    # decoder held at the truth: only the latent's size can move
    optimizer = torch.optim.Adam([model.W_enc, model.b_enc], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        l1_loss(model, one_feature, strength)[0].backward()
        optimizer.step()
    found[f"λ = {strength:g}"] = (model.encode(one_feature).detach()[:, 0], strength / 2)
draw.shrinkage(
    size,
    found,
    "L1 makes every latent λ/2 too small",
    subtitle="one feature, one latent; decoder held at the true direction",
)

# %% [markdown]
# **Questions.** (a) At λ = 1, which features vanish altogether? (b) Could the decoder repair shrinkage by growing? (c) Does the *direction* suffer?
#
# <details><summary>Answers</summary>
#
# (a) Those smaller than λ/2 = 0.5. (b) Yes, if nothing holds its norm: double the row, halve the latent, and the same reconstruction costs half the penalty. That is why the next exercise exists.
# (c) Not here: with one feature the reconstruction points the right way and is only too short. Section 6 shows L1 dictionaries that hold most true directions and still leave a third of the variance unexplained, for this reason.
# </details>
#
# ### Exercise 05.4: A decoder of unit norm
# Keep the rows at norm 1, as in exercise 04.6: take away the part of the gradient *along* each row, which Adam's running averages would remember,
# let the optimiser step, then normalise. Return the gradient you kept. Rows may have any norm when the function is called.


# %% answer="05.4"
def unit_norm_step(W_dec: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    """One optimiser step with `W_dec [d_sae, d_in]` kept at unit row norm. W_dec.grad is there already.

    Removes from each row of `W_dec.grad` its component along that row (in `W_dec.grad` itself), calls `optimizer.step()`, brings the rows back to
    norm 1 in place, and returns a copy of the gradient that was left.
    """
    ### BEGIN SOLUTION
    with torch.no_grad():
        unit = F.normalize(W_dec, dim=1)
        W_dec.grad -= (W_dec.grad * unit).sum(1, keepdim=True) * unit
        kept = W_dec.grad.clone()
        optimizer.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return kept
    ### END SOLUTION


# %% check="05.4"
check("05.4", unit_norm_step)

# %%
# what happens without it: the one feature of above, λ = 1, decoder free or held
figure = go.Figure()
for held, color in ((False, PALETTE[3]), (True, PALETTE[0])):
    torch.manual_seed(0)
    model = SAE(3, 1)
    model.W_dec.data = F.normalize(one_feature.sum(0, keepdim=True), dim=1)
    model.W_enc.data = model.W_dec.data.T.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    norms = []
    for _ in range(600):
        loss, squared_error, l1 = l1_loss(model, one_feature, 1.0)
        optimizer.zero_grad()
        loss.backward()
        if held:
            unit_norm_step(model.W_dec, optimizer)
        else:
            optimizer.step()
        norms.append(model.W_dec.norm().item())
    name = "held at norm 1" if held else "left free"
    print(f"{name:15s} norm {norms[-1]:.2f}, L1 {l1.item():.3f}, squared error {squared_error.item():.4f}")
    figure.add_scatter(y=norms, name=name, line_color=color)
style(
    figure,
    "Left alone, the decoder grows and the penalty stops meaning anything",
    subtitle="one feature, one latent, λ = 1",
    x="training step",
    y="norm of the decoder row",
)

# %% [markdown]
# **Question.** Free, this run ended with a row of norm 8.3, an L1 of 0.068 and almost no error (0.006); held, with 0.165 and 0.193. Why is the better loss the worse autoencoder?
#
# <details><summary>Answer</summary>
#
# The latent is now eight times too small and the row eight times too long: the product is the same, only the penalty is gone. With several latents nothing pushes them towards zero any more, so nothing is sparse. Holding the
# norm keeps λ meaningful. (Weighting each latent by its row's norm in the penalty is the other cure; this course's library does both.)
# </details>
#
#
# ## 3 · TopK and the dead
#
# Why penalise at all? **TopK** (Gao et al. 2024) simply keeps the $k$ largest pre-activations of every sample. L0 is set, not tuned, and nothing shrinks.
#
# ### Exercise 05.5: TopK
# Keep the k largest of each row, then ReLU; zero elsewhere.


# %% answer="05.5"
def topk(pre: Tensor, k: int) -> Tensor:
    """pre [..., d_sae] -> latents of the same shape: the k largest along the last axis if positive, zero elsewhere."""
    ### BEGIN SOLUTION
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, F.relu(values))
    ### END SOLUTION


# %% check="05.5"
check("05.5", topk)

# %% [markdown]
# A latent that never makes the top k gets no gradient, so it never will: it is **dead** (lesson 04). *AuxK* gives the dead latents homework: reconstruct what the living ones left over,
#
# $$\mathcal{L}_{aux} = \big\| \underbrace{(x - \hat x)}_{\text{held fixed}} - \mathrm{TopK}_{k_{aux}}(\text{dead latents})\,W_{dec} \big\|^2 .$$
#
# ### Exercise 05.6: AuxK: work for dead latents
# `dead` says which latents are dead. Sum over dimensions, mean over the batch; 0 if no latent is dead; at most as many latents as are dead. (The library adds refinements: it weighs this by 1/32, and estimates it on part of the batch.)


# %% answer="05.6"
def auxk_loss(x: Tensor, x_hat: Tensor, pre: Tensor, dead: Tensor, W_dec: Tensor, k_aux: int) -> Tensor:
    """x, x_hat [batch, d_in], pre [batch, d_sae], dead [d_sae] bool, W_dec [d_sae, d_in] -> a scalar."""
    ### BEGIN SOLUTION
    k_aux = min(k_aux, int(dead.sum()))
    if k_aux == 0:
        return x.new_zeros(())
    f = topk(pre.masked_fill(~dead, -torch.inf), k_aux)
    return ((x - x_hat).detach() - f @ W_dec).square().sum(-1).mean()
    ### END SOLUTION


# %% check="05.6"
check("05.6", auxk_loss)

# %% [markdown]
# TopK gives every sample the same k, a crowded one and an empty one. **BatchTopK** (Bussmann et al. 2024) lets the whole batch share k × batch latents. At inference a sample must not depend on its
# neighbours, so a single number, learned during training, decides: pre-activations above the *threshold* count.
#
# ### Exercise 05.7: BatchTopK and its threshold
# `self.training` (True after `.train()`, False after `.eval()`) tells the two modes apart. The first batch sets the threshold to its smallest positive latent; each later batch moves it by `rate` of the difference
# between its own smallest positive latent and the threshold. What counts keeps its value; the threshold is not subtracted.


# %% answer="05.7"
class BatchTopK(nn.Module):
    """pre [batch, d_sae] -> latents. Training: the k * batch largest of the whole batch, if positive. Inference: all above `threshold`.

    `threshold` is a scalar buffer that starts at 0; in training it follows the smallest positive latent of each batch.
    """

    def __init__(self, k: int, rate: float = 0.1) -> None:
        super().__init__()
        ### BEGIN SOLUTION
        self.k, self.rate = k, rate
        self.register_buffer("threshold", torch.zeros(()))
        ### END SOLUTION

    def forward(self, pre: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        if not self.training:
            return pre * (pre > self.threshold)
        positive = F.relu(pre)
        values, indices = positive.flatten().topk(self.k * pre.shape[0])
        f = torch.zeros_like(positive).flatten().scatter(0, indices, values).view_as(pre)
        with torch.no_grad():
            self.threshold.lerp_(f[f > 0].min(), 1.0 if self.threshold == 0 else self.rate)
        return f
        ### END SOLUTION


# %% check="05.7"
check("05.7", BatchTopK)

# %% [markdown]
# ## 4 · Gates and jumps
#
# ### Exercise 05.8: The gated SAE
# Two questions get two paths (Rajamanoharan et al. 2024a): *is* the latent on, and *how much*? With $a = (x - b_{dec}) W_{enc}$,
#
# $$\pi = a + b_{gate}, \qquad f = \mathbb{1}[\pi > 0] \odot \mathrm{ReLU}\big(a \odot e^{r_{mag}} + b_{mag}\big).$$
#
# $\mathbb{1}[\cdot]$ is 1 where the condition holds and 0 elsewhere. It passes no gradient, so the gate is trained by its own two terms, and L1 shrinks only what is not used for the reconstruction:
#
# $$\mathcal{L} = \|x - \hat x\|^2 + \lambda \|\mathrm{ReLU}(\pi)\|_1 + \|x - (\mathrm{ReLU}(\pi)\,W_{dec}^{frozen} + b_{dec}^{frozen})\|^2 .$$
#
# As always, squares and L1 are summed in a sample and averaged over the batch. *Frozen*: the value counts, but no gradient flows into it (`.detach()`).


# %% answer="05.8"
def gated_loss(sae: nn.Module, x: Tensor, l1_coefficient: float) -> tuple[Tensor, Tensor, Tensor]:
    """`sae` has W_enc, W_dec, b_gate, b_mag, r_mag, b_dec. Returns (loss, x_hat, f): a scalar, [batch, d_in], [batch, d_sae]."""
    ### BEGIN SOLUTION
    a = (x - sae.b_dec) @ sae.W_enc
    pi_gate = a + sae.b_gate
    f = (pi_gate > 0) * F.relu(a * sae.r_mag.exp() + sae.b_mag)
    x_hat = f @ sae.W_dec + sae.b_dec
    gate = F.relu(pi_gate)
    x_gate = gate @ sae.W_dec.detach() + sae.b_dec.detach()
    squared_error = (x - x_hat).square().sum(-1).mean()
    auxiliary = (x - x_gate).square().sum(-1).mean()
    return squared_error + l1_coefficient * gate.sum(-1).mean() + auxiliary, x_hat, f
    ### END SOLUTION


# %% check="05.8"
check("05.8", gated_loss)

# %% [markdown]
# ### Exercise 05.9: JumpReLU with straight-through estimators
# **JumpReLU** (Rajamanoharan et al. 2024b) keeps a pre-activation $z$ (before any ReLU) as it is if it exceeds its own learned threshold $\theta > 0$, and penalises the *count*: $\mathcal{L} = \|x-\hat x\|^2 + \lambda \sum_i H(z_i - \theta_i)$,
# with the Heaviside step $H(u) = 1$ for $u > 0$, else 0.
# Both functions jump at $\theta$, so their true derivative there is useless. Averaged over a little noise in $z$ it is not; with a window $K(u) = 1$ for $|u| < \tfrac12$ and bandwidth $\varepsilon$ the *straight-through* estimate is
#
# $$\frac{\partial H(z - \theta)}{\partial \theta} := -\frac{1}{\varepsilon} K\!\left(\frac{z-\theta}{\varepsilon}\right), \qquad
# \frac{\partial\, \mathrm{JumpReLU}_\theta(z)}{\partial \theta} := -\frac{\theta}{\varepsilon} K\!\left(\frac{z-\theta}{\varepsilon}\right).$$
#
# For $z$: JumpReLU passes the gradient where $z > \theta$, $H$ passes none. Write both as `torch.autograd.Function`s; one threshold serves all samples, so its gradient is summed over the batch. The parameter is $\log\theta$, which keeps
# $\theta$ positive. The check sees only `jumprelu`.


# %% answer="05.9"
class Heaviside(torch.autograd.Function):
    """1 where pre > threshold, else 0. pre [batch, d_sae], threshold [d_sae], bandwidth a float."""

    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ### BEGIN SOLUTION
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)
        ### END SOLUTION

    @staticmethod
    def backward(ctx, grad):
        """Gradients for pre (None), threshold [d_sae] and bandwidth (None)."""
        ### BEGIN SOLUTION
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2).to(pre.dtype)
        return None, (-near / ctx.bandwidth * grad).sum(0), None
        ### END SOLUTION


class JumpReLU(torch.autograd.Function):
    """pre where pre > threshold, else 0."""

    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ### BEGIN SOLUTION
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)
        ### END SOLUTION

    @staticmethod
    def backward(ctx, grad):
        ### BEGIN SOLUTION
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2).to(pre.dtype)
        return grad * (pre > threshold), (-threshold * near / ctx.bandwidth * grad).sum(0), None
        ### END SOLUTION


def jumprelu(pre: Tensor, log_threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """pre [batch, d_sae], log_threshold [d_sae] -> latents [batch, d_sae] and how many are active in each sample [batch]."""
    ### BEGIN SOLUTION
    threshold = log_threshold.exp()
    return JumpReLU.apply(pre, threshold, bandwidth), Heaviside.apply(pre, threshold, bandwidth).sum(-1)
    ### END SOLUTION


# %% check="05.9"
check("05.9", jumprelu)

# %%
z = torch.linspace(-0.5, 1.5, 401)
# one threshold per point, so that each shows its own gradient
log_threshold = torch.full((401,), math.log(0.6), requires_grad=True)
latents, _ = jumprelu(z[None], log_threshold, 0.5)
(slope,) = torch.autograd.grad(latents.sum(), log_threshold)
figure = go.Figure()
figure.add_scatter(x=z, y=latents.detach()[0], name="JumpReLU(z), θ = 0.6", line_color=PALETTE[0])
figure.add_scatter(x=z, y=F.relu(z - 0.6), name="a shifted ReLU (shrinks)", line={"color": "#999999", "dash": "dot"})
figure.add_scatter(
    x=z, y=slope / 0.6, name="its estimated derivative in θ, ε = 0.5", line={"color": PALETTE[3], "dash": "dash"}
)
style(
    figure,
    "Only samples near the threshold teach it",
    subtitle="straight-through estimate: zero outside a window of width ε",
    x="pre-activation z",
    y="value",
)

# %% [markdown]
# **Questions.** (a) What happens with a very small bandwidth? (b) Why does the estimate for JumpReLU carry the factor θ?
#
# <details><summary>Answers</summary>
#
# (a) Hardly any sample falls into the window: the estimate is nearly unbiased but so noisy that thresholds move at random. Too large, and samples far away drag the threshold.
# (b) Raising θ past z turns a latent of size θ into 0: the output falls by θ, the count by 1.
# </details>
#
# ## 5 · Reviving the dead, and dolls within dolls
#
# ### Exercise 05.10: Resampling dead latents
# The blunter cure for dead latents (Bricken et al. 2023). `fired [window, d_sae]` says which latents were active at each of the last steps. For every latent that fired at **no** step of the window:
#
# 1. draw an input from `x`, **with replacement**, with probability proportional to its *squared* loss (`loss_weighted=True`; the loss is the squared error summed over dimensions), or uniformly (`False`, the simple way);
# 2. its decoder row becomes the unit vector along (that input − `b_dec`);
# 3. its encoder column becomes the same direction with 0.2 times the mean norm of the living columns, its encoder bias 0;
# 4. Adam forgets it: `exp_avg` and `exp_avg_sq` become 0 at its places in `W_dec`, `W_enc` and `b_enc` (if Adam has a memory yet: `optimizer.state[sae.W_enc]`).
#
# The factor 0.2 lets a newcomer start quietly. With a column as long as the others' it would fire on much of the data at once and push aside latents that work; at a fifth it is heard only on inputs
# close to its own, and grows if that helps. (Lesson 04 pointed dead latents along the residual $x - \hat x$; this is the recipe of the paper. Both are in use.)


# %% answer="05.10"
def resample_latents(
    sae: nn.Module, optimizer: torch.optim.Optimizer, fired: Tensor, x: Tensor, loss_weighted: bool = True
) -> Tensor:
    """Replaces dead latents of `sae` in place (`sae(x)` gives x_hat, f) and returns their indices."""
    ### BEGIN SOLUTION
    alive = fired.any(0)
    dead = (~alive).nonzero().flatten()
    if len(dead) == 0:
        return dead
    with torch.no_grad():
        loss = (x - sae(x)[0]).square().sum(-1)
        weight = loss**2 if loss_weighted else torch.ones_like(loss)
        picked = torch.multinomial(weight, len(dead), replacement=True)
        direction = F.normalize(x[picked] - sae.b_dec, dim=1)
        sae.W_dec[dead] = direction
        sae.W_enc[:, dead] = 0.2 * sae.W_enc[:, alive].norm(dim=0).mean() * direction.T
        sae.b_enc[dead] = 0
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimizer.state[sae.W_dec]:
                optimizer.state[sae.W_dec][moment][dead] = 0
                optimizer.state[sae.W_enc][moment][:, dead] = 0
                optimizer.state[sae.b_enc][moment][dead] = 0
    return dead
    ### END SOLUTION


# %% check="05.10"
check("05.10", resample_latents)

# %%
truth, features, activations = features_in_superposition(n=20, d=5, p=0.05)
# the same TopK dictionary, far too wide for 20 features in 5 dimensions, with and without a cure
steps = 150 if quick() else 800
wide = {
    "d_in": 5,
    "d_sae": 256,
    "architecture": "topk",
    "k": 2,
    "steps": steps,
    "batch_size": 512,
    "lr": 5e-3,
    "dead_after_steps": 60,
}
cures = {
    "no cure": {"aux_coefficient": 0.0},
    "AuxK": {"aux_k": 16, "aux_fraction": 1.0},
    "resampling": {"aux_coefficient": 0.0, "resample": "loss_weighted", "resample_every": 100},
}
densities = {}
for name, cure in cures.items():
    model = train_sae(activations, SAEConfig(**wide, **cure), progress=False).sae
    on = model.encode(activations) > 0
    densities[name] = on.float().mean(0)
    scores = evaluate_sae(model, activations, true_directions=truth)
    print(
        f"{name:11s} dead {scores['dead_fraction']:.0%}, variance unexplained {scores['fvu']:.3f}, recovered {scores['recovered_0.9']:.0f} of 20"
    )
draw.latent_densities(
    densities,
    "A dictionary far too wide: most latents die, and no cure brings them back",
    subtitle="TopK, k = 2, 256 latents on 20 features in 5 dimensions; density over 20 000 samples",
)

# %% [markdown]
# **What did not work, and why that is fine.** In our runs about 80% of the latents were dead without a cure, 85% with AuxK and 79% with resampling; each of the three recovered all 20 features.
# There is nothing for 200 spare latents to do here: a resampled one takes over a corner of a feature, is beaten by its neighbours, and dies again.
# Dead latents are a symptom to read beside recovery or loss, not a score by themselves. Where the data still holds features that no latent has found, as in a language model, cures pay.
#
# **Questions.** (a) Why does a latent that is never in the top k get no gradient at all? (b) AuxK has a ReLU too. Which dead latents can it *not* revive? (c) Why clear Adam's moments?
#
# <details><summary>Answers</summary>
#
# (a) Its activation is 0 whatever its weights, as long as they change little: the loss is flat there. (b) Those whose pre-activation is negative on every sample; only new weights (resampling) help them.
# (c) `exp_avg` still holds the direction in which the old latent was moving, and a tiny `exp_avg_sq` makes the first steps huge.
# </details>
#
#
# ### Exercise 05.11: The Matryoshka loss
# When a dictionary grows, its general latents break up: "animal" hands over dogs to "dog". **Matryoshka** SAEs (Bussmann et al. 2025) ask that the first $m_1$ latents reconstruct alone, and the first $m_2 > m_1$, and so on:
#
# $$\mathcal{L} = \sum_{m \in \text{widths}} \big\| x - (f_{1..m} W_{dec,\,1..m} + b_{dec}) \big\|^2 .$$
#
# Early latents must then do without later ones, so they stay general. Section 9 measures whether that works.


# %% answer="05.11"
def matryoshka_loss(x: Tensor, f: Tensor, W_dec: Tensor, b_dec: Tensor, widths: tuple[int, ...]) -> Tensor:
    """x [batch, d_in], f [batch, d_sae] -> the sum over widths m of the squared error with the first m latents, a scalar."""
    ### BEGIN SOLUTION
    errors = [(x - f[:, :m] @ W_dec[:m] - b_dec).square().sum(-1).mean() for m in widths]
    return torch.stack(errors).sum()
    ### END SOLUTION


# %% check="05.11"
check("05.11", matryoshka_loss)

# %% [markdown]
# ## 6 · Train, and compare with the truth
#
# ### Exercise 05.12: Train it
# Adam; a random batch each step; decoder rows back to norm 1 after each step (removing the parallel gradient first is welcome and not demanded here).


# %% answer="05.12"
def train(sae: nn.Module, activations: Tensor, loss_fn, steps: int, batch_size: int, lr: float) -> Tensor:
    """Trains `sae` in place. `loss_fn(sae, x)` is the scalar loss of a batch x [batch_size, d_in]. Returns the losses [steps], without graph."""
    ### BEGIN SOLUTION
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr)
    losses = []
    for _step in range(steps):
        x = activations[torch.randint(len(activations), (batch_size,))]
        loss = loss_fn(sae, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
        losses.append(loss.item())
    return torch.tensor(losses)
    ### END SOLUTION


# %% check="05.12"
check("05.12", train)

# %% [markdown]
# First the picture of the beginning, this time entirely your own: your SAE, your losses, your loop.


# %%
def l1_objective(strength):
    return lambda sae, x: l1_loss(sae, x, strength)[0]


def topk_objective(k):
    def loss(sae, x):
        f = topk((x - sae.b_dec) @ sae.W_enc + sae.b_enc, k)
        return (x - sae.decode(f)).square().sum(-1).mean()

    return loss


def filmed(objective, seed):
    """Train a 2-D SAE and keep its decoder at some moments, by looking each time the loss is asked for."""
    rows, count = [], iter(range(10_000))

    def loss(sae, x):
        if next(count) in (0, *moments):
            rows.append(sae.W_dec.detach().clone())
        return objective(sae, x)

    torch.manual_seed(seed)
    train(SAE(2, 5), flat_activations, loss, steps=moments[-1] + 1, batch_size=256, lr=1e-2)
    return torch.stack(rows)


draw.latents_locking_on(
    {"your L1, λ = 0.2": filmed(l1_objective(0.2), 1), "your TopK, k = 1": filmed(topk_objective(1), 1)},
    flat_truth,
    [0, *moments],
    "TopK latents lock on; L1 latents may settle between two features",
    subtitle="5 features in 2 dimensions, 5 latents, nothing resampled",
)

# %% [markdown]
# **Questions.** (a) Does every latent end on a feature of its own? (b) What would a sixth latent do?
#
# <details><summary>Answers</summary>
#
# (a) TopK's five do. Of L1's five two end between two features (grey) in our run, where one latent serves both at a lower penalty. Change the seeds in the cell and watch. (b) Share a feature with another latent, or die: there is nothing else to find.
# </details>
#
#
# Now the bottleneck of lesson 02: **20 features in 5 dimensions**, each active in 5% of the samples, so about one a sample. Which recovers more, L1 or TopK? Your own code first, one run each.

# %%
steps = 100 if quick() else 800
for name, objective in {
    "L1, λ = 0.1": l1_objective(0.1),
    "L1, λ = 0.6": l1_objective(0.6),
    "TopK, k = 2": topk_objective(2),
}.items():
    torch.manual_seed(1)
    model = SAE(5, 40)
    losses = train(model, activations, objective, steps=steps, batch_size=256, lr=5e-3)
    print(
        f"{name:12s} loss {losses[0]:.3f} -> {losses[-20:].mean():.3f}, recovered {recovery(model.W_dec, truth)['recovered_0.9']:.0f} of 20"
    )

# %% [markdown]
# One run proves little. Four starts of each setting, trained as one batched model by the library, with resampling, and beside them what a dictionary scores that was never trained.
# *Recovered* counts true directions with a matched cosine above 0.9, one latent per feature (Hungarian assignment).

# %%
SEEDS = 8 if FULL else 2 if quick() else 4
COEFFICIENT = {"standard": "l1_coefficient", "gated": "l1_coefficient", "jumprelu": "l0_coefficient"}
common = {
    "d_in": 5, "d_sae": 40, "steps": 120 if quick() else 800, "batch_size": 256, "lr": 5e-3, "lr_decay_share": 0.4, "dead_after_steps": 100,
    "resample": "loss_weighted", "resample_every": 100, "resample_until": 0.6,
}  # fmt: skip


def sweep(architecture: str, strengths: list[float], **more) -> list[dict]:
    """Scores at each strength: mean over seeds, and the spread of the recovered features."""
    key = COEFFICIENT.get(architecture, "k")
    groups = [strengths] if key != "k" else [[k] for k in strengths]  # runs trained as one batch must share k
    points = []
    for group in groups:
        cfgs = [
            SAEConfig(**common, architecture=architecture, seed=s, **{key: v}, **more)
            for v in group
            for s in range(SEEDS)
        ]
        saes = train_many(activations, cfgs, progress=False).saes
        for i, strength in enumerate(group):
            scores = [
                evaluate_sae(sae, activations[:4000]) | recovery(sae.W_dec, truth)
                for sae in saes[i * SEEDS : (i + 1) * SEEDS]
            ]
            mean = {name: sum(score[name] for score in scores) / SEEDS for name in scores[0]}
            found = torch.tensor([score["recovered_0.9"] for score in scores])
            points.append(mean | {
                "setting": f"{'k' if key == 'k' else 'λ'} = {strength:g}", "recovered": float(found.mean()), "recovered_spread": float(found.std()),
                "range": f"{found.min():.0f} to {found.max():.0f}", "saes": saes[i * SEEDS : (i + 1) * SEEDS],
            })  # fmt: skip
    return points


points = {"L1": sweep("standard", [0.05, 0.1, 0.2, 0.4, 0.6]), "TopK": sweep("topk", [1, 2, 3])}
chance = chance_baselines(activations, truth, 40)
rows = [
    {
        "method": f"{name}, {point['setting']}", "recovered of 20": f"{point['recovered']:.1f}", "over seeds": point["range"], "L0": f"{point['l0']:.2f}",
        "variance unexplained": f"{point['fvu']:.3f}", "length of x̂ / x": f"{point['length_ratio']:.2f}", "dead": f"{point['dead_fraction']:.0%}",
    }
    for name, line in points.items() for point in line
]  # fmt: skip
rows.append({"method": "40 random directions", "recovered of 20": f"{chance['random']:.1f}"})
rows.append({"method": "40 random data points", "recovered of 20": f"{chance['data']:.1f}"})
for row in rows:
    print("  ".join(f"{value:>22s}" for value in row.values()))
draw.comparison_table(
    rows,
    "TopK finds all 20 features with little error; L1 pays for features with reconstruction",
    subtitle=f"20 features in 5 dimensions, 40 latents, {SEEDS} seeds",
)

# %% [markdown]
# In our run TopK with k = 1 or 2 recovered all 20 features in all four seeds, at 12% and 6% of the variance unexplained. L1 traded one for the other: at λ = 0.05 it left 3.5% unexplained and recovered 5.5 features, *no more than
# random directions* (5.4); at λ = 0.6 it recovered 15.5 (14 to 16), left 33% unexplained, and its reconstructions had 31% of the right length. (Longer training helps L1: your own single run above, whose learning rate does not fall, found 19.)
# Mind the second chance level: **40 random data points** match 15.1 features, because with one active feature a sample many data points *are* features.
#
# **Questions.** (a) Why does TopK with k = 3 recover fewer, although it reconstructs best? (b) Why is the best L1 reconstruction the worst dictionary? (c) Which rows of the table beat both chance levels?
#
# <details><summary>Answers</summary>
#
# (a) There is about one active feature a sample. With three latents to spend in five dimensions, other directions reconstruct just as well. (b) Five dimensions and four or five active latents a sample: nearly any dictionary
# reconstructs. A good reconstruction is no evidence of true features. (c) TopK with k = 1 and 2 clearly; L1 at λ = 0.6 (15.5) only just.
# </details>
#
#
# ### All architectures

# %%
points["BatchTopK"] = sweep("batchtopk", [1, 2, 3])
points["gated"] = sweep("gated", [0.1, 0.3, 0.6])
points["JumpReLU"] = sweep("jumprelu", [0.01, 0.05, 0.2], threshold_init=0.1, bandwidth=0.1)
points["Matryoshka"] = sweep("matryoshka", [1, 2, 3], widths=(10, 20, 40))
for name, line in points.items():
    print(name, [(p["setting"], round(p["l0"], 2), round(p["fvu"], 3), p["recovered"], p["range"]) for p in line])
draw.pareto_curves(
    points,
    "The best reconstruction and the best dictionary are not the same thing",
    recovered_of=20,
    subtitle=f"20 features in 5 dimensions, 40 latents, mean of {SEEDS} seeds (bars: their standard deviation)",
)

# %% [markdown]
# Left: the usual Pareto plot, lower left is better. At two active latents a sample Matryoshka (2.5% unexplained in the mean over seeds) and BatchTopK (4.1%) beat TopK (6.3%). Right, what only a toy can show: there TopK recovers 20 of 20,
# BatchTopK 6.5 and Matryoshka 5.3, which is the level of random directions (5.4). The gated SAE does what it was made for: at λ = 0.3 it leaves 7% unexplained where L1 at 0.2 to 0.4, at a similar L0, leaves 11 to 23%. JumpReLU recovers 16 at its strongest penalty, with 27% unexplained.
# Do not read this as a ranking: 5 dimensions are few, one hyperparameter a method was varied, and real activations have another structure.
#
# **Questions.** (a) Which plot could you draw for a language model? (b) The true mean L0 is about 1. What does that suggest about choosing k? (c) Why may a batch-wide budget hurt recovery here?
#
# <details><summary>Answers</summary>
#
# (a) Only the left one. The right one needs the truth, which is why toys are worth the trouble. (b) More latents than there are causes buy reconstruction with false features; fewer force mixtures. Where the truth is unknown, compare several k.
# (c) One sample in three holds no feature at all, so others may use two to four latents each, and large samples use several latents for what is one feature.
# </details>

# %% [markdown]
# ## 7 · A real language model
#
# Toy models let us check answers. Now to the thing itself: the residual stream of SmolLM2-135M after layer 11 (of 30), 576 numbers for every token. Nobody knows the true features here, so
# every claim needs another kind of evidence: how much variance is explained, and above all whether *the model itself* still works when the reconstruction takes the place of the original.

# %% [markdown]
# ### Exercise 05.13: Collect activations from a language model
#
# `model.run_with_cache(tokens, names_filter=hook_name, stop_at_layer=n)` returns `(output, cache)`; `cache[hook_name]` is `[batch, positions, d]`. It runs blocks 0 … n−1 only. Return one row
# per *real* token, in the order of the texts: padding (where `mask` is False) and every BOS token (`tokens == bos`, wherever it stands) are left out. `hook_name` says which block is the last one needed.


# %% answer="05.13"
def collect(model, tokens: Tensor, hook_name: str, bos: int, mask: Tensor) -> Tensor:
    """Activations at `hook_name` (such as "blocks.11.hook_resid_post"), [rows, d], detached; `tokens` and `mask` are [batch, positions]."""
    ### BEGIN SOLUTION
    layer = int(hook_name.split(".")[1])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=hook_name, stop_at_layer=layer + 1)
    return cache[hook_name][mask & (tokens != bos)]
    ### END SOLUTION


# %% check="05.13"
check("05.13", collect)

# %%
from course_utils.lm import collect_activations, evaluate_on_model, load_corpus, load_model, load_sae

HOOK = "blocks.11.hook_resid_post"
model = load_model()
torch.set_num_threads(1 if quick() else 2)  # from here on matrices are large
few = load_corpus("train").pack(model, context=128, max_tokens=2_000)
with_bos = collect(model, few.tokens, HOOK, bos=-1, mask=torch.ones_like(few.tokens, dtype=torch.bool))
without_bos = collect(model, few.tokens, HOOK, bos=few.bos, mask=torch.ones_like(few.tokens, dtype=torch.bool))
print(
    f"with BOS:    {len(with_bos)} rows, median length {with_bos.norm(dim=1).median():.0f}, longest {with_bos.norm(dim=1).max():.0f}"
)
print(
    f"without BOS: {len(without_bos)} rows, median length {without_bos.norm(dim=1).median():.0f}, longest {without_bos.norm(dim=1).max():.0f}"
)
mean = with_bos.mean(dim=0)
share = (with_bos - mean).square().sum(dim=1).topk(len(with_bos) - len(without_bos)).values.sum() / (
    with_bos - mean
).square().sum()
print(f"share of all variance that sits in the {len(with_bos) - len(without_bos)} longest rows: {share:.3f}")

# %% [markdown]
# A few rows are more than a hundred times longer than the rest, and in our run 17 of 1,920 rows hold 99% of all variance. Keep them, and "variance explained" is about them: an SAE that rebuilds BOS and nothing else would look excellent, and one latent would be spent on it.
# The library's `collect_activations` does what yours does, drops such massive tokens wherever they occur (more than ten times the median length), shows a progress bar, and can write to disk.

# %% [markdown]
# ### Exercise 05.14: A shuffling activation buffer
#
# Neighbouring tokens resemble each other, so batches must be mixed; and a large run does not fit into memory, so the mixing has to happen on the way. Write a generator. It fills up from `chunks` (tensors [rows, d])
# until it holds at least `capacity` rows (stop reading then), mixes all it holds with `generator`, hands out about half in batches of `batch_size`, fills up again, and ends by handing out what is left.
# Every row comes exactly once; only the last batch may be short.


# %% answer="05.14"
def shuffling_buffer(chunks, capacity: int, batch_size: int, generator: torch.Generator):
    """Yields batches [batch_size, d] of mixed rows."""
    ### BEGIN SOLUTION
    source, held, exhausted = iter(chunks), [], False
    while True:
        while sum(len(rows) for rows in held) < capacity and not exhausted:
            chunk = next(source, None)
            exhausted = chunk is None
            if not exhausted:
                held.append(chunk)
        if not held or sum(len(rows) for rows in held) == 0:
            return
        mixed = torch.cat(held)
        mixed = mixed[torch.randperm(len(mixed), generator=generator)]
        give = len(mixed) if exhausted else max(batch_size, len(mixed) // 2 // batch_size * batch_size)
        yield from mixed[:give].split(batch_size)
        held = [mixed[give:]]
    ### END SOLUTION


# %% check="05.14"
check("05.14", shuffling_buffer)

# %%
n_tokens = 6_000 if quick() else 60_000
packed = load_corpus("train").pack(model, context=128, max_tokens=n_tokens)
activations = collect_activations(model, packed, HOOK)
print(f"{len(activations)} rows of {activations.d}; left out: {activations.dropped}")


def cosine_of_neighbours(rows: Tensor) -> float:
    """How alike rows are that follow each other in a batch."""
    return float(F.cosine_similarity(rows[1:] - rows.mean(0), rows[:-1] - rows.mean(0), dim=1).mean())


mixed = torch.cat(
    list(shuffling_buffer(activations.acts.float().split(512), 16_384, 1024, torch.Generator().manual_seed(0)))
)
print(
    f"mean cosine of neighbours: {cosine_of_neighbours(activations.acts.float()):.3f} in the text's order, {cosine_of_neighbours(mixed):.3f} mixed"
)

# %%
D_SAE = 2304  # expansion factor 4; the shipped SAE has 8
steps = 40 if quick() else 500
mine = train_sae(
    mixed, SAEConfig(d_in=576, d_sae=D_SAE, architecture="topk", k=32, steps=steps, batch_size=1024, lr=2e-3)
).sae

# %% [markdown]
# ### Exercise 05.15: Measure an autoencoder
#
# Given batches `(x, x_hat, f)` that may differ in size, and four cross-entropies of the model (as it is, `clean`; with the reconstruction `spliced` in; with the stream replaced by its `mean`; by `zero`):
#
# - `l0`: active latents a token; `dead_fraction`: share of latents active on no token;
# - `fvu`: $\sum \lVert x - \hat x\rVert^2 \,/\, \sum \lVert x - \bar x\rVert^2$, about the **mean** of each dimension; `cosine`: mean cosine of x and x_hat;
# - `loss_recovered_zero` $= (L_{zero} - L_{spliced}) / (L_{zero} - L_{clean})$, and `loss_recovered_mean` likewise.


# %% answer="05.15"
def sae_metrics(batches: list[tuple[Tensor, Tensor, Tensor]], cross_entropy: dict[str, float]) -> dict[str, float]:
    """The six numbers above, as floats. Each batch is (x [n, d], x_hat [n, d], f [n, d_sae])."""
    ### BEGIN SOLUTION
    x, x_hat, f = (torch.cat(parts) for parts in zip(*batches))
    clean, spliced = cross_entropy["clean"], cross_entropy["spliced"]
    return {
        "l0": float((f > 0).sum(dim=1).float().mean()),
        "fvu": float((x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()),
        "cosine": float(F.cosine_similarity(x, x_hat, dim=1).mean()),
        "dead_fraction": float((~(f > 0).any(dim=0)).float().mean()),
        "loss_recovered_zero": (cross_entropy["zero"] - spliced) / (cross_entropy["zero"] - clean),
        "loss_recovered_mean": (cross_entropy["mean"] - spliced) / (cross_entropy["mean"] - clean),
    }
    ### END SOLUTION


# %% check="05.15"
check("05.15", sae_metrics)

# %% [markdown]
# Now measure yours beside the shipped one, on documents neither of them saw. (`evaluate_on_model` splices for you; it leaves BOS and massive tokens alone, because no SAE was trained on them.)

# %%
heldout = load_corpus("heldout").pack(model, context=128, max_tokens=1_000 if quick() else 6_000)
shipped = load_sae("middle")
rows = {
    f"yours: {D_SAE} latents, {steps} steps": evaluate_on_model(
        model, mine, heldout, HOOK, loss_tokens=400 if quick() else 4_000
    ),
    f"shipped: {shipped.cfg.d_sae} latents": evaluate_on_model(
        model, shipped, heldout, HOOK, loss_tokens=400 if quick() else 4_000
    ),
}
columns = {
    "L0": "l0",
    "variance unexplained": "fvu",
    "cosine": "cosine",
    "dead": "dead_fraction",
    "loss recovered (mean)": "loss_versus_mean",
    "loss recovered (zero)": "loss_versus_zero",
    "model's loss, nats": "loss_clean",
    "loss with the SAE": "loss_spliced",
}
print(" " * 34 + "  ".join(columns))
for name, row in rows.items():
    print(f"{name:34}" + "  ".join(f"{row[key]:{len(title)}.3f}" for title, key in columns.items()))

# %% [markdown]
# **Questions**
# 1. Loss recovered looks close to 1 even for your small SAE. Is it nearly perfect?
# <details><summary>Answer</summary>No. The scale is generous: 0 is a model whose stream was replaced by a constant, which hardly predicts anything. Look at the two losses themselves, in nats a token: in our run the model's 3.35 becomes 3.63 with the small SAE and 3.41 with the shipped one.
# And against zero ablation the number is better than against the mean, because zero breaks more. Always say which.</details>
#
# 2. Some latents of the shipped SAE are silent on these held-out tokens. Are they dead?
# <details><summary>Answer</summary>On six thousand tokens a latent that fires once in ten thousand is often silent. "Dead" is a statement about how much text was looked at; the model card says how much that was.</details>

# %% [markdown]
# ### Exercise 05.16: The sparsity-fidelity front
#
# More active latents always explain more. So SAEs are compared at equal sparsity, or by their *front*: those that no other one beats in both numbers (smaller is better for L0 and for the variance unexplained).


# %% answer="05.16"
def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Indices of the points (L0, FVU) that no other point beats, smallest L0 first. Beaten: another is as good in both and better in one."""

    ### BEGIN SOLUTION
    def beaten(l0: float, fvu: float) -> bool:
        return any(a <= l0 and b <= fvu and (a < l0 or b < fvu) for a, b in points)

    return sorted((i for i, point in enumerate(points) if not beaten(*point)), key=lambda i: points[i])
    ### END SOLUTION


# %% check="05.16"
check("05.16", pareto_front)

# %%
test_rows = collect_activations(model, heldout, HOOK, progress=False).acts.float()
real = {}
for name, settings in {
    "TopK": [{"architecture": "topk", "k": k} for k in (8, 16, 32, 64)],
    "L1": [{"architecture": "standard", "l1_coefficient": c} for c in (2.0, 5.0, 12.0)],
}.items():
    line = []
    for setting in settings:
        sae = train_sae(
            mixed,
            SAEConfig(d_in=576, d_sae=1152, steps=20 if quick() else 250, batch_size=1024, lr=2e-3, **setting),
            progress=False,
        ).sae
        scores = evaluate_sae(sae, test_rows)
        line.append(
            {"l0": scores["l0"], "fvu": scores["fvu"], "setting": setting.get("k", setting.get("l1_coefficient"))}
        )
    real[name] = line
every = [(name, point) for name, line in real.items() for point in line]
front = pareto_front([(point["l0"], point["fvu"]) for _, point in every])
print(
    "on the front:",
    [(every[i][0], every[i][1]["setting"], round(every[i][1]["l0"], 1), round(every[i][1]["fvu"], 3)) for i in front],
)
draw.pareto_curves(
    real,
    "TopK can be asked for a sparsity; L1 has to be tuned towards one",
    subtitle="1152 latents, 250 steps each on the same activations; held-out text",
)

# %% [markdown]
# **Questions**
# 1. Why may one not compare the lowest point of one curve with the lowest of the other?
# <details><summary>Answer</summary>They have different sparsities, and more active latents always explain more. Compare at equal L0, with the same data, steps and latents. And remember exercise 05.3: an L1 penalty also *shrinks* what it finds,
# which costs variance at any length of training.</details>

# %% [markdown]
# ## 8 · Do two runs agree?
#
# ### Exercise 05.17: Stability: do two seeds agree?
# Same data, another start. If a latent is a fact about the data, the other run should have it too. Match the rows of two decoders one to one, so that the sum of cosines is largest (exercise 04.9), and count.


# %% answer="05.17"
def stability(W_a: Tensor, W_b: Tensor, threshold: float = 0.9) -> tuple[float, Tensor]:
    """Two decoders [n, d_in], rows of any norm -> share of matched cosines above `threshold`, and the matched cosine of each row of W_a [n]."""
    ### BEGIN SOLUTION
    from scipy.optimize import linear_sum_assignment

    cosines = F.normalize(W_a, dim=1) @ F.normalize(W_b, dim=1).T
    rows, columns = linear_sum_assignment(-cosines.numpy())
    matched = cosines[rows, columns]
    return float((matched > threshold).float().mean()), matched
    ### END SOLUTION


# %% check="05.17"
check("05.17", stability)


# %%
def pair(name: str, setting: str) -> tuple[Tensor, Tensor]:
    """Decoders of the first two seeds of one setting."""
    first, second = next(point["saes"] for point in points[name] if point["setting"] == setting)[:2]
    return first.W_dec.detach(), second.W_dec.detach()


chosen = [("TopK", "k = 1"), ("TopK", "k = 3"), ("L1", "λ = 0.05"), ("L1", "λ = 0.6"), ("BatchTopK", "k = 3")]
matched = {f"{name}, {setting}": stability(*pair(name, setting))[1] for name, setting in chosen}
for name, cosines in matched.items():
    print(
        f"{name:18s} {float((cosines > 0.9).float().mean()):.0%} of latents have a partner above 0.9; mean cosine {cosines.mean():.2f}"
    )
generator = torch.Generator().manual_seed(0)
random_pair = stability(torch.randn(40, 5, generator=generator), torch.randn(40, 5, generator=generator))[1]
draw.stability_curves(
    matched,
    "Two seeds agree where the dictionary is true, and only there",
    chance=random_pair,
    subtitle="40 latents each, matched one to one; 20 features in 5 dimensions",
)

# %% [markdown]
# In five dimensions even two *random* dictionaries match 25% of their rows above 0.9 (dotted): without that line every number here misleads. In our run 55% of TopK latents with k = 1 had such a partner: 22 of 40, and there were 20
# true features to agree on. L1 at λ = 0.6: 38%. TopK with k = 3, at 30%, is hardly above chance, and the two settings that reconstruct well and recover nothing, L1 at λ = 0.05 (15%) and BatchTopK with k = 3 (10%), lie below it.
#
# **Questions.** (a) 40 latents, 20 features: what agreement would a perfect dictionary reach? (b) Is a latent that both seeds share a true feature? (c) And one that only one seed has?
#
# <details><summary>Answers</summary>
#
# (a) If each run holds the 20 features and 20 arbitrary others, about 50% plus chance. (b) Not necessarily: both may fall for the same shortcut; section 9 has one. (c) It may still be a true feature the other run missed. Agreement is evidence, not proof;
# on language models, too, different seeds share only part of their latents (Paulo and Belrose 2025).
# </details>
#
#
# ## 9 · Features in families
#
# Real features come in families: a *dog* is an *animal*. Plant that: 4 parents, each active in 15% of the samples; given a parent, one of its 3 children is there with probability 0.6. All 16 features have directions of their own,
# at right angles in 20 dimensions, so **there is no superposition here and nothing to excuse a mistake**. But whenever a child is active its parent is too, so a sparse dictionary can save a latent by storing
# *parent + child* in one. Two things follow, and both happen in language models (Chanin et al. 2024):
# **splitting**, one feature becomes several latents as the dictionary grows, and **absorption**, the parent's latent stays silent exactly where the child's has taken over.
#
# ### Exercise 05.18: Splitting and absorption
# Find the parent's latent (largest F1 as a detector of the parent: $F_1 = 2\,|\text{both}| / (|\text{latent on}| + |\text{parent there}|)$), and report how often it is silent with the child there, and with the parent alone.


# %% answer="05.18"
def absorption(f: Tensor, parent: Tensor, child: Tensor) -> tuple[int, float, float]:
    """f [samples, d_sae]; parent, child [samples] bool (child implies parent) -> the parent's latent, its share of silence at samples with
    the child, and at samples with the parent but not the child."""
    ### BEGIN SOLUTION
    on = f > 0
    f1 = 2 * (on & parent[:, None]).sum(0) / (on.sum(0) + parent.sum())
    latent = int(f1.argmax())
    silent = ~on[:, latent]
    return latent, float(silent[child].float().mean()), float(silent[parent & ~child].float().mean())
    ### END SOLUTION


# %% check="05.18"
check("05.18", absorption)


# %%
def family(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features [samples, 16]: 4 parents, then 3 children of each; and which are active (bool)."""
    parents = torch.rand(samples, 4, generator=generator) < 0.15
    # below 0.6: one of three children, never two of the same parent
    which = torch.rand(samples, 4, 1, generator=generator)
    children = ((which / 0.2).floor() == torch.arange(3)) & parents[:, :, None]
    active = torch.cat([parents, children.flatten(1)], dim=1)
    return (0.8 + 0.4 * torch.rand(samples, 16, generator=generator)) * active, active


generator = torch.Generator().manual_seed(0)
directions = torch.linalg.qr(torch.randn(20, 16, generator=generator))[0].T
features, active = family(20_000, generator)
family_activations = features @ directions
tested = slice(0, 6000)


def family_run(architecture: str, d_sae: int, **settings) -> dict:
    """Three seeds: their SAEs, and how often parents' latents are silent with any child there and with the parent alone."""
    cfg = dict(common, d_in=20, d_sae=d_sae, lr=3e-3, architecture=architecture, **settings)
    saes = train_many(family_activations, [SAEConfig(**cfg, seed=s) for s in range(3)], progress=False).saes
    silent = []
    for sae in saes:
        f = sae.encode(family_activations[tested])
        shares = [absorption(f, active[tested, p], active[tested, 4 + 3 * p : 7 + 3 * p].any(1))[1:] for p in range(4)]
        silent.append(torch.tensor(shares).mean(0))
    scores = [evaluate_sae(sae, family_activations[tested]) | recovery(sae.W_dec, directions) for sae in saes]
    mean = {name: sum(score[name] for score in scores) / 3 for name in ("l0", "fvu", "recovered_0.9", "dead_fraction")}
    return {
        "saes": saes,
        "with a child": [float(s[0]) for s in silent],
        "parent alone": [float(s[1]) for s in silent],
        **mean,
    }


def summary(result: dict) -> str:
    silent = ", ".join(f"{share:.2f}" for share in result["with a child"])
    alone = ", ".join(f"{share:.2f}" for share in result["parent alone"])
    return (
        f"parent silent with a child {silent}, alone {alone}; recovered {result['recovered_0.9']:.1f} of 16, "
        f"L0 {result['l0']:.2f}, unexplained {result['fvu']:.3f}, dead {result['dead_fraction']:.0%}"
    )


names = [*"ABCD", *(f"{p}{c}" for p in "ABCD" for c in "123")]
sizes = {f"{n} latents": family_run("standard", n, l1_coefficient=0.3) for n in (4, 16, 64)}
for name, result in sizes.items():
    print(f"{name:11s} {summary(result)}")


def cosines(result: dict) -> Tensor:
    """Latents that are ever active, against the true features."""
    sae = result["saes"][0]
    alive = (sae.encode(family_activations[tested]) > 0).any(0)
    return F.normalize(sae.W_dec.detach()[alive], dim=1) @ directions.T


draw.hierarchy_heatmaps(
    {name: cosines(result) for name, result in sizes.items()},
    names,
    "With more latents, children appear as parent + child",
    children_from=4,
    subtitle="L1, λ = 0.3; cosine of decoder rows with the true directions; one seed, living latents",
)

# %% [markdown]
# With 4 latents you get the parents (3.7 of 16 features recovered on average). With 16 there is one latent per feature, and yet only 3.3 are recovered: the child latents have cosine near 0.7 with their parent *and* their child. They store $(\text{parent} + \text{child})/\sqrt{2}$, for which
# L1 pays √2 where two latents would pay 2. With 64 latents nothing improves (4.0 recovered): more width cures no absorption.
#
# **Questions.** (a) Which of the three has 'split' a parent? (b) Would a better optimiser find the true dictionary?
#
# <details><summary>Answers</summary>
#
# (a) The second and third: what the parent's one latent did in the first is now done by several, one for each child and one for the parent alone. (b) No. The merged dictionary has the *lower loss*; it is the objective that prefers it.
# </details>

# %%
methods = {
    "L1, λ = 0.1": family_run("standard", 16, l1_coefficient=0.1),
    "L1, λ = 0.3": sizes["16 latents"],
    "TopK, k = 2": family_run("topk", 16, k=2),
    "BatchTopK, k = 1": family_run("batchtopk", 16, k=1),
    "Matryoshka, k = 1": family_run("matryoshka", 16, k=1, widths=(4, 16)),
}
for name, result in methods.items():
    print(f"{name:18s} {summary(result)}")
draw.absorption_bars(
    {name: (result["with a child"], result["parent alone"]) for name, result in methods.items()},
    "Absorption: the parent's latent falls silent exactly where a child is present",
    subtitle="16 latents for 4 parents and 12 children; bars: mean of 3 seeds",
)

# %% [markdown]
# With the parent alone its latent is hardly ever silent (at most 9%). With a child present, L1 at λ = 0.3 misses the parent in 35 to 42% of the samples, TopK in 42 to 48%; a weaker penalty (λ = 0.1) in 10 to 20%. BatchTopK varies with the seed (15 to 45%). Matryoshka: 0, 6 and 22% for the three seeds,
# and it recovers most features (10 of 16 on average). It is the best here and not a cure; it also leaves 5% of the variance unexplained where L1 at λ = 0.1 leaves 0.7%.
#
# **Questions.** (a) You look at the parent's latent on a feature browser. Would you notice? (b) Why does a *smaller* λ absorb less? (c) Why does TopK absorb although it has no penalty?
#
# <details><summary>Answers</summary>
#
# (a) Hardly: every example shown does contain the parent. The missing ones are not shown. (b) The merged latent saves $(2-\sqrt2)\lambda$ a sample but costs error whenever sizes vary independently; with a small λ the error wins.
# (c) Its budget is the penalty: a merged latent frees one of the k for something else.
# </details>
#
#
# ## Common mistakes
#
# | mistake | what you see |
# |---|---|
# | a tensor is not an `nn.Parameter` | the loss falls a little and stops; `list(sae.parameters())` is too short |
# | `b_dec` is not subtracted before encoding | many latents spend themselves on the mean |
# | decoder rows left free under L1 | L1 falls, L0 does not |
# | `abs` in TopK | "active" latents below zero, or fewer than k |
# | BatchTopK taken per row | it is TopK: every sample has the same L0 |
# | the auxiliary loss reaches the decoder | the gated SAE shrinks as if it were L1 |
# | the step function's true gradient | thresholds never move |
# | Adam's moments kept after resampling | new latents jump off where the old ones were going |
# | a score without its chance level | 40 random data points already "recover" most features here |
#
# ## Summary
#
# - An SAE is four parameters and two lines; the differences between architectures are how latents are switched off and what gradient the switch passes.
# - L1 shrinks each latent by λ/2 (with unit rows); TopK, gated and JumpReLU do not.
# - On 20 features in 5 dimensions TopK with k near the true count recovered everything; good reconstruction elsewhere hid dictionaries no better than chance.
# - Dead latents matter if something is left to find. Seeds agree on true features, and sometimes on shared shortcuts.
# - Sparsity itself rewards absorption. Matryoshka dictionaries reduce it, not to zero.
#
# **Next**: lesson 06 asks what the latents of the shipped SAE mean.
#
# ## Further reading
# - Bricken et al. 2023, [Towards Monosemanticity](https://transformer-circuits.pub/2023/monosemantic-features): L1, unit-norm decoder, resampling.
# - Gao et al. 2024, [Scaling and evaluating sparse autoencoders](https://arxiv.org/abs/2406.04093): TopK, AuxK.
# - Bussmann et al. 2024, [BatchTopK](https://arxiv.org/abs/2412.06410), and 2025, [Matryoshka](https://arxiv.org/abs/2503.17547).
# - Rajamanoharan et al. 2024, [gated](https://arxiv.org/abs/2404.16014) and [JumpReLU](https://arxiv.org/abs/2407.14435) SAEs.
# - Chanin et al. 2024, [A is for Absorption](https://arxiv.org/abs/2409.14507).
# - Paulo and Belrose 2025, [SAEs trained on the same data learn different features](https://arxiv.org/abs/2501.16615).

# %%
progress()
