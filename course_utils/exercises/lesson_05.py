"""Lesson 05's exercises: a sparse autoencoder in PyTorch, piece by piece, checked on models whose truth is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.exercises import language_model_05
from course_utils.grading.exercise import Lesson
from course_utils.grading.judge import Between, Close, Exact
from course_utils.sae.architectures.gated import GatedSAE
from course_utils.sae.architectures.jumprelu import Heaviside, JumpReLU
from course_utils.sae.config import SAEConfig
from course_utils.sae.metrics import match_directions
from course_utils.sae.model import SAE, remove_parallel_gradient

lesson = Lesson("05", "Sparse autoencoders in PyTorch", slug="05_sparse_autoencoders")

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")

# What the probes hand out ------------------------------------------------------------------------------------


class Coder(nn.Module):
    """A small ReLU autoencoder with every bias away from zero: what probes pass where an answer takes a `sae`."""

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor) -> None:
        super().__init__()
        for name, value in zip(WEIGHTS, (W_enc, b_enc, W_dec, b_dec)):
            self.register_parameter(name, nn.Parameter(value.clone()))

    def encode(self, x: Tensor) -> Tensor:
        return F.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.encode(x)
        return self.decode(f), f


def _coder(draw, d_in: int = 6, d_sae: int = 10) -> Coder:
    W_dec = F.normalize(draw.normal(d_sae, d_in), dim=1)
    return Coder(draw.normal(d_in, d_sae, std=0.6), draw.normal(d_sae, std=0.4), W_dec, draw.normal(d_in, std=0.7))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_()


def _gradients(value: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
    """Gradients of the sum of `value`, by name; zeros where nothing flows."""
    if not value.requires_grad:
        return {name: torch.zeros_like(x) for name, x in inputs.items()}
    found = torch.autograd.grad(value.sum(), list(inputs.values()), allow_unused=True)
    return {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(inputs.items(), found)}


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: getattr(module, name) for name in WEIGHTS}


# 05.1 --------------------------------------------------------------------------------------------------------


class _Parameters(nn.Module):
    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        start = SAE(SAEConfig(d_in, d_sae, architecture="standard", seed=int(torch.randint(2**31, ()))))
        for name in WEIGHTS:
            self.register_parameter(name, nn.Parameter(getattr(start, name).detach().clone()))


parameters = lesson.exercise(
    1,
    title="The four parameters",
    answer="SAEParameters",
    reference=_Parameters,
    points=2,
    difficulty=1,
    importance=4,
    minutes=8,
    hints=(
        "Four tensors: two matrices and two biases. What must a tensor be wrapped in so that `model.parameters()` finds it?",
        "`W_enc` is [d_in, d_sae], `W_dec` is [d_sae, d_in], `b_enc` is [d_sae], `b_dec` is [d_in]. Give the decoder rows of norm 1 "
        "with `F.normalize(..., dim=1)`.",
        "`self.W_dec = nn.Parameter(F.normalize(torch.randn(d_sae, d_in), dim=1))`, then `self.W_enc = "
        "nn.Parameter(self.W_dec.detach().T.clone())`: without `clone` both would share memory. The biases are "
        "`nn.Parameter(torch.zeros(...))`.",
    ),
)


@parameters.case("four parameters of the right shapes", weight=2, rule=Exact())
def _(cls, draw):
    module = cls(6, 10)

    def kind(name):
        value = getattr(module, name, None)
        if value is None:
            return "missing"
        return (
            f"{'an nn.Parameter' if isinstance(value, nn.Parameter) else 'a plain tensor'} of shape {list(value.shape)}"
        )

    return {name: kind(name) for name in WEIGHTS}


@parameters.case("each of them moves by itself when an optimizer moves it", rule=Exact())
def _(cls, draw):
    module = cls(6, 10)
    push = {"W_enc": draw.normal(6, 10), "b_enc": draw.normal(10), "W_dec": draw.normal(10, 6), "b_dec": draw.normal(6)}
    before = {name: getattr(module, name).detach().clone() for name in WEIGHTS}
    for name, parameter in module.named_parameters():
        if name in push:
            parameter.data.add_(push[name])

    def told(name):
        moved = getattr(module, name).detach() - before[name]
        right = torch.allclose(moved, push[name], rtol=1e-3, atol=1e-4)
        return "moves by itself" if right else "does not move" if not moved.any() else "moves with another one"

    return {name: told(name) for name in WEIGHTS}


@parameters.case("decoder rows have norm 1", rule=Exact())
def _(cls, draw):
    W_dec = cls(6, 40).W_dec
    for words, dim in (("rows of norm 1", -1), ("columns of norm 1", 0)):
        if torch.allclose(W_dec.norm(dim=dim), torch.ones(()), atol=1e-4):
            return words
    return f"rows of norm {W_dec.norm(dim=-1).min():.2g} to {W_dec.norm(dim=-1).max():.2g}"


@parameters.case("latents start as different directions, spread all round", rule=Between(0, 1))
def _(cls, draw):
    module = cls(12, 400)
    W_dec = F.normalize(module.W_dec, dim=1)
    W_enc = module.W_enc.T
    norms = W_enc.norm(dim=1)
    cosines = F.normalize(W_enc, dim=1) @ F.normalize(W_enc, dim=1).T - 2 * torch.eye(400)
    return {
        # the mean of 400 random unit vectors has a squared norm near 1/400; above 0.02 they lean to one side
        "50 x squared length of the decoder rows' mean": 50 * W_dec.mean(0).square().sum(),
        "largest cosine of two encoder columns / 0.9999": cosines.max().clamp(min=0) / 0.9999,
        "0.01 / smallest norm of an encoder column": 0.01 / norms.min().clamp(min=1e-9),
        "largest norm of an encoder column / 50": norms.max() / 50,
    }


@parameters.case("biases start near zero", rule=Between(-0.5, 0.5))
def _(cls, draw):
    module = cls(6, 10)
    return module.b_enc, module.b_dec


@parameters.case("two autoencoders start differently", rule=Exact())
def _(cls, draw):
    return bool((cls(6, 10).W_dec - cls(6, 10).W_dec).abs().max() > 1e-3)


@parameters.mistake(
    "The weights are plain tensors. Only an `nn.Parameter` is found by `model.parameters()`: wrap each of the four, or the "
    "optimizer trains nothing."
)
class plain_tensors(nn.Module):
    def __init__(self, d_in, d_sae):
        super().__init__()
        self.W_dec = F.normalize(torch.randn(d_sae, d_in), dim=1).requires_grad_()
        self.W_enc = self.W_dec.detach().T.clone().requires_grad_()
        self.b_enc = torch.zeros(d_sae, requires_grad=True)
        self.b_dec = torch.zeros(d_in, requires_grad=True)


@parameters.mistake(
    "`W_enc` is a plain tensor (`W_dec.T.clone()` of a parameter is no parameter): the encoder would never learn. Wrap it in "
    "`nn.Parameter`."
)
class plain_encoder(_Parameters):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        del self.W_enc
        self.W_enc = self.W_dec.detach().T.clone()


@parameters.mistake("The biases are plain tensors, so they stay at zero for ever: wrap them in `nn.Parameter` too.")
class plain_biases(_Parameters):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        del self.b_enc, self.b_dec
        self.b_enc, self.b_dec = torch.zeros(d_sae), torch.zeros(d_in)


@parameters.mistake("`b_dec` is missing: the decoder's bias is also what the encoder subtracts from its input.")
class no_decoder_bias(_Parameters):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        del self.b_dec


@parameters.mistake(
    "`W_enc` is a view of `W_dec`: `nn.Parameter(self.W_dec.T)` shares its memory, so each optimizer step on one also moves "
    "the other. Add `.clone()`."
)
class encoder_is_a_view(_Parameters):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        self.W_enc = nn.Parameter(self.W_dec.data.T)


@parameters.mistake("The decoder's rows do not have norm 1: divide each row by its norm, `F.normalize(W_dec, dim=1)`.")
class rows_not_normalised(_Parameters):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        self.W_dec = nn.Parameter(torch.randn(d_sae, d_in))


@parameters.mistake(
    "The decoder's columns have norm 1. A latent's direction is a *row* of `W_dec [d_sae, d_in]`: normalise over dim 1."
)
class columns_normalised(_Parameters):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        self.W_dec = nn.Parameter(F.normalize(torch.randn(d_sae, d_in), dim=0))


@parameters.mistake(
    "The matrices are stored transposed (as some older papers do). Here `W_enc` is [d_in, d_sae] and `W_dec` is [d_sae, d_in]."
)
class transposed(_Parameters):
    def __init__(self, d_in, d_sae):
        super().__init__(d_sae, d_in)
        self.b_enc, self.b_dec = self.b_dec, self.b_enc


@parameters.mistake(
    "The encoder starts at zero: all latents are then equal and silent. Start it as the decoder's transpose."
)
class zero_encoder(_Parameters):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        self.W_enc = nn.Parameter(torch.zeros(d_in, d_sae))


@parameters.mistake("`torch.rand` gives positive numbers only, so all rows point into one corner: use `torch.randn`.")
class positive_weights(_Parameters):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        self.W_dec = nn.Parameter(F.normalize(torch.rand(d_sae, d_in), dim=1))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())


@parameters.mistake(
    "The seed is set inside `__init__`, so every autoencoder starts the same. Seeds belong to the caller."
)
class seed_inside(_Parameters):
    def __init__(self, d_in, d_sae):
        torch.manual_seed(0)
        super().__init__(d_in, d_sae)


@parameters.alternative
class untied_kaiming(nn.Module):
    def __init__(self, d_in, d_sae):
        super().__init__()
        self.W_enc = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(d_in, d_sae)))
        W_dec = nn.init.xavier_normal_(torch.empty(d_sae, d_in))
        self.W_dec = nn.Parameter(W_dec / W_dec.norm(dim=-1, keepdim=True))
        self.b_enc = nn.Parameter(torch.full((d_sae,), -0.1))
        self.b_dec = nn.Parameter(0.01 * torch.randn(d_in))
        self.extra = nn.Parameter(torch.ones(()))


# 05.2 --------------------------------------------------------------------------------------------------------


class _SAE(Coder):
    def __init__(self, d_in: int, d_sae: int) -> None:
        start = _Parameters(d_in, d_sae)
        super().__init__(*_parameters(start).values())


forward = lesson.exercise(
    2,
    title="Encode, decode, forward",
    answer="SAE",
    reference=_SAE,
    points=3,
    difficulty=2,
    importance=5,
    minutes=10,
    hints=(
        "`b_dec` is the centre of the data: the encoder takes it away before anything else, the decoder puts it back.",
        "f = ReLU((x - b_dec) W_enc + b_enc) and x_hat = f W_dec + b_dec. With `@` leading axes look after themselves.",
        "`return F.relu((x - self.b_dec) @ self.W_enc + self.b_enc)`; `return f @ self.W_dec + self.b_dec`; `forward` calls both "
        "and returns `x_hat, f` in this order.",
    ),
)


def _filled(cls, draw, d_in: int = 6, d_sae: int = 10) -> nn.Module:
    """The learner's SAE holding weights of ours; their `__init__` may still be missing, so it is not needed."""
    try:
        sae = cls(d_in, d_sae)
    except Exception:
        sae = cls.__new__(cls)
        nn.Module.__init__(sae)
    for name, value in _parameters(_coder(draw, d_in, d_sae)).items():
        setattr(sae, name, nn.Parameter(value.detach().clone()))
    return sae


@forward.case("encode a batch", weight=2)
def _(cls, draw):
    return _filled(cls, draw).encode(draw.normal(16, 6))


@forward.case("decode latents")
def _(cls, draw):
    return _filled(cls, draw).decode(draw.uniform(16, 10))


@forward.case("forward gives x_hat and f")
def _(cls, draw):
    x_hat, f = _filled(cls, draw)(draw.normal(16, 6))
    return {"x_hat": x_hat, "f": f}


@forward.case("an input with two leading axes (sequence, position)")
def _(cls, draw):
    x_hat, f = _filled(cls, draw)(draw.normal(3, 5, 6))
    return {"x_hat": x_hat, "f": f}


@forward.case("gradients of the squared error in all four parameters", weight=2, rule=Close(1e-3, 1e-4))
def _(cls, draw):
    sae, x = _filled(cls, draw), draw.normal(16, 6)
    return _gradients((x - sae(x)[0]).square(), **_parameters(sae))


@forward.mistake(
    "`b_dec` is not subtracted before encoding: the encoder should see the data about its centre, x - b_dec."
)
class b_dec_not_subtracted(_SAE):
    def encode(self, x):
        return F.relu(x @ self.W_enc + self.b_enc)


@forward.mistake("`b_enc` is not added, so a latent has no threshold of its own.")
class no_encoder_bias(_SAE):
    def encode(self, x):
        return F.relu((x - self.b_dec) @ self.W_enc)


@forward.mistake("The ReLU is missing: latents must not be negative, or nothing makes them sparse.")
class no_relu(_SAE):
    def encode(self, x):
        return (x - self.b_dec) @ self.W_enc + self.b_enc


@forward.mistake("`b_enc` is added after the ReLU: it must shift the pre-activation, or it switches nothing off.")
class bias_after_relu(_SAE):
    def encode(self, x):
        return F.relu((x - self.b_dec) @ self.W_enc) + self.b_enc


@forward.mistake("The decoder does not add `b_dec` back, so x_hat is off by the centre of the data.")
class b_dec_not_added(_SAE):
    def decode(self, f):
        return f @ self.W_dec


@forward.mistake("The decoder uses the encoder's transpose. They start equal, but `W_dec` is a parameter of its own.")
class tied_decoder(_SAE):
    def decode(self, f):
        return f @ self.W_enc.T + self.b_dec


@forward.mistake("There is a ReLU on the reconstruction: activations of a model may well be negative.")
class relu_on_reconstruction(_SAE):
    def decode(self, f):
        return F.relu(f @ self.W_dec + self.b_dec)


@forward.mistake("The latents are detached before decoding, so the encoder never learns.")
class encoder_detached(_SAE):
    def forward(self, x):
        f = self.encode(x)
        return self.decode(f.detach()), f


@forward.mistake("The decoder is detached, so `W_dec` and `b_dec` never learn.")
class decoder_detached(_SAE):
    def decode(self, f):
        return f @ self.W_dec.detach() + self.b_dec.detach()


@forward.mistake("`forward` returns (f, x_hat); the order asked for is (x_hat, f).")
class wrong_order(_SAE):
    def forward(self, x):
        return super().forward(x)[::-1]


@forward.alternative
class with_linear(nn.Module):
    def __init__(self, d_in, d_sae):
        super().__init__()
        self.relu = nn.ReLU()

    def encode(self, x):
        return F.linear(x, self.W_enc.T, self.b_enc - self.b_dec @ self.W_enc).clamp(min=0)

    def decode(self, f):
        return torch.einsum("...s,sd->...d", f, self.W_dec) + self.b_dec

    def forward(self, x):
        f = self.encode(x)
        return self.decode(f), f


# 05.3 --------------------------------------------------------------------------------------------------------


def _l1_loss(sae: nn.Module, x: Tensor, l1_coefficient: float) -> tuple[Tensor, Tensor, Tensor]:
    x_hat, f = sae(x)
    squared_error = (x - x_hat).square().sum(-1).mean()
    l1 = f.abs().sum(-1).mean()
    return squared_error + l1_coefficient * l1, squared_error, l1


l1_loss = lesson.exercise(
    3,
    title="The L1 loss",
    answer="l1_loss",
    reference=_l1_loss,
    points=2,
    difficulty=2,
    importance=5,
    minutes=10,
    hints=(
        "Two numbers: how far x_hat is from x, and how much the latents add up to. Which axis is summed, which averaged?",
        "Sum over dimensions (and over latents), then average over the batch. The penalty is on f, never on the weights.",
        "`squared_error = (x - x_hat).square().sum(-1).mean()`, `l1 = f.sum(-1).mean()` (f is not negative), and the loss is "
        "`squared_error + l1_coefficient * l1`.",
    ),
)

_LOSS_NAMES = ("loss", "squared_error", "l1")


@l1_loss.case("the three values on a batch", weight=2)
def _(f, draw):
    return dict(zip(_LOSS_NAMES, f(_coder(draw), draw.normal(32, 6), 0.3)))


@l1_loss.case("the values for another width and batch size")
def _(f, draw):
    return dict(zip(_LOSS_NAMES, f(_coder(draw, 4, 24), draw.normal(7, 4), 0.05)))


@l1_loss.case("gradients in all four parameters", weight=2, rule=Close(1e-3, 1e-4))
def _(f, draw):
    sae = _coder(draw)
    return _gradients(f(sae, draw.normal(16, 6), 0.7)[0], **_parameters(sae))


@l1_loss.mistake(
    "The squared error is averaged over dimensions. Sum over them, then average over the batch: otherwise the meaning of the L1 "
    "coefficient changes with d_in."
)
def mean_over_dimensions(sae, x, l1_coefficient):
    x_hat, f = sae(x)
    squared_error, l1 = (x - x_hat).square().mean(), f.sum(-1).mean()
    return squared_error + l1_coefficient * l1, squared_error, l1


@l1_loss.mistake("The L1 term is averaged over latents. Sum over them, or the penalty fades as the dictionary grows.")
def mean_over_latents(sae, x, l1_coefficient):
    x_hat, f = sae(x)
    squared_error, l1 = (x - x_hat).square().sum(-1).mean(), f.mean()
    return squared_error + l1_coefficient * l1, squared_error, l1


@l1_loss.mistake(
    "Both terms are summed over the batch. Average over it, or a larger batch means a larger learning rate."
)
def sum_over_batch(sae, x, l1_coefficient):
    x_hat, f = sae(x)
    squared_error, l1 = (x - x_hat).square().sum(), f.sum()
    return squared_error + l1_coefficient * l1, squared_error, l1


@l1_loss.mistake(
    "The L1 term is on the weights. It must be on the latents f: small weights do not make few latents active, and nothing is sparse."
)
def l1_on_the_weights(sae, x, l1_coefficient):
    x_hat, _ = sae(x)
    squared_error, l1 = (x - x_hat).square().sum(-1).mean(), sae.W_enc.abs().sum()
    return squared_error + l1_coefficient * l1, squared_error, l1


@l1_loss.mistake("The latents are squared. That is an L2 penalty: it makes latents small, never exactly zero.")
def l2_on_the_latents(sae, x, l1_coefficient):
    x_hat, f = sae(x)
    squared_error, l1 = (x - x_hat).square().sum(-1).mean(), f.square().sum(-1).mean()
    return squared_error + l1_coefficient * l1, squared_error, l1


@l1_loss.mistake(
    "Active latents are counted. A count has no gradient, so this penalty trains nothing; L1 is its stand-in."
)
def l0_count(sae, x, l1_coefficient):
    x_hat, f = sae(x)
    squared_error, l1 = (x - x_hat).square().sum(-1).mean(), (f > 0).float().sum(-1).mean()
    return squared_error + l1_coefficient * l1, squared_error, l1


@l1_loss.mistake("The latents are detached in the L1 term: the number is right, but its gradient is gone.")
def l1_detached(sae, x, l1_coefficient):
    x_hat, f = sae(x)
    squared_error, l1 = (x - x_hat).square().sum(-1).mean(), f.detach().sum(-1).mean()
    return squared_error + l1_coefficient * l1, squared_error, l1


@l1_loss.mistake("The error's length is not squared. The lesson's loss is the *squared* error.")
def error_not_squared(sae, x, l1_coefficient):
    x_hat, f = sae(x)
    squared_error, l1 = (x - x_hat).norm(dim=-1).mean(), f.sum(-1).mean()
    return squared_error + l1_coefficient * l1, squared_error, l1


@l1_loss.mistake("`l1` already holds the coefficient. Return the plain L1 norm; multiply by it only in the loss.")
def coefficient_in_l1(sae, x, l1_coefficient):
    loss, squared_error, l1 = _l1_loss(sae, x, l1_coefficient)
    return loss, squared_error, l1_coefficient * l1


@l1_loss.alternative
def with_encode_and_decode(sae, x, l1_coefficient):
    f = sae.encode(x)
    error = torch.stack([(a - b).pow(2).sum() for a, b in zip(sae.decode(f), x)]).mean()
    l1 = torch.linalg.vector_norm(f, ord=1, dim=1).mean()
    return error.add(l1, alpha=l1_coefficient), error, l1


# 05.4 --------------------------------------------------------------------------------------------------------


def _unit_norm_step(W_dec: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    assert W_dec.grad is not None
    with torch.no_grad():
        kept = remove_parallel_gradient(F.normalize(W_dec, dim=1), W_dec.grad).clone()
        optimizer.step()
        W_dec.div_(W_dec.norm(dim=1, keepdim=True))
    return kept


unit_norm = lesson.exercise(
    4,
    title="A decoder of unit norm",
    answer="unit_norm_step",
    reference=_unit_norm_step,
    points=3,
    difficulty=3,
    importance=4,
    minutes=15,
    hints=(
        "Three things in this order: change the gradient, let the optimizer step, change the rows. None of it should be recorded "
        "for backpropagation.",
        "With w a row and u = w / ||w||, the part of its gradient g along w is (g . u) u. Take it away before the step. After the "
        "step divide each row by its norm.",
        "Inside `with torch.no_grad():` do `u = F.normalize(W_dec, dim=1)`, `W_dec.grad -= (W_dec.grad * u).sum(1, keepdim=True) * u`, "
        "`optimizer.step()`, `W_dec /= W_dec.norm(dim=1, keepdim=True)`; return a clone of the gradient you kept.",
    ),
)


def _decoder_problem(draw, norm: float = 1.0):
    W_dec = nn.Parameter(norm * F.normalize(draw.normal(7, 5), dim=1))
    f, x = draw.uniform(20, 7), draw.normal(20, 5)
    return W_dec, lambda: (x - f @ W_dec).square().sum(1).mean()


@unit_norm.case("the gradient that is left", weight=2)
def _(f, draw):
    W_dec, loss = _decoder_problem(draw)
    loss().backward()
    return {"returned": f(W_dec, torch.optim.SGD([W_dec], lr=0.1)), "W_dec.grad": W_dec.grad}


@unit_norm.case("the rows after one step", weight=2)
def _(f, draw):
    W_dec, loss = _decoder_problem(draw)
    loss().backward()
    f(W_dec, torch.optim.SGD([W_dec], lr=0.3))
    return W_dec


@unit_norm.case("the rows after four Adam steps", rule=Close(1e-3, 1e-4))
def _(f, draw):
    W_dec, loss = _decoder_problem(draw)
    optimizer = torch.optim.Adam([W_dec], lr=0.05)
    for _step in range(4):
        optimizer.zero_grad()
        loss().backward()
        f(W_dec, optimizer)
    return W_dec


@unit_norm.case("rows that do not start at norm 1")
def _(f, draw):
    W_dec, loss = _decoder_problem(draw, norm=2.5)
    loss().backward()
    return {"returned": f(W_dec, torch.optim.SGD([W_dec], lr=0.1)), "W_dec": W_dec}


@unit_norm.mistake("The gradient is not projected: take away its part along each row before the step.")
def not_projected(W_dec, optimizer):
    optimizer.step()
    with torch.no_grad():
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return W_dec.grad.clone()


@unit_norm.mistake(
    "The parameter's rows are not normalised after the step: even a step at right angles makes them longer. (`W_dec = "
    "F.normalize(W_dec)` inside the function only renames a local variable: write `W_dec.data = ...` or `W_dec /= ...`)."
)
def not_normalised(W_dec, optimizer):
    with torch.no_grad():
        unit = F.normalize(W_dec, dim=1)
        W_dec.grad -= (W_dec.grad * unit).sum(1, keepdim=True) * unit
        optimizer.step()
    return W_dec.grad.clone()


@unit_norm.mistake(
    "A new normalised tensor is made, but the parameter itself is not changed: `W_dec = F.normalize(W_dec)` only renames a local "
    "variable. Write into it with `W_dec.data = ...` or `W_dec /= ...`, and into `W_dec.grad` likewise."
)
def only_renamed(W_dec, optimizer):
    unit = F.normalize(W_dec.detach(), dim=1)
    grad = W_dec.grad - (W_dec.grad * unit).sum(1, keepdim=True) * unit
    optimizer.step()
    W_dec = F.normalize(W_dec.detach(), dim=1)
    return grad


@unit_norm.mistake(
    "Columns are normalised and projected. A latent's direction is a row of `W_dec [d_sae, d_in]`: dim 1."
)
def columns(W_dec, optimizer):
    with torch.no_grad():
        unit = F.normalize(W_dec, dim=0)
        W_dec.grad -= (W_dec.grad * unit).sum(0, keepdim=True) * unit
        optimizer.step()
        W_dec /= W_dec.norm(dim=0, keepdim=True)
    return W_dec.grad.clone()


@unit_norm.mistake("The gradient is projected after the step, when the optimizer has already used it.")
def projected_too_late(W_dec, optimizer):
    with torch.no_grad():
        unit = F.normalize(W_dec, dim=1)
        optimizer.step()
        W_dec.grad -= (W_dec.grad * unit).sum(1, keepdim=True) * unit
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return W_dec.grad.clone()


@unit_norm.mistake(
    "The gradient is projected after the step, when the optimizer has already used it (and along the moved row at that)."
)
def projected_on_the_moved_row(W_dec, optimizer):
    with torch.no_grad():
        optimizer.step()
        unit = F.normalize(W_dec, dim=1)
        W_dec.grad -= (W_dec.grad * unit).sum(1, keepdim=True) * unit
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return W_dec.grad.clone()


@unit_norm.mistake(
    "The projected gradient is returned but never written back, so the optimizer still steps along the old one: put it into "
    "`W_dec.grad` before `optimizer.step()`."
)
def gradient_not_written_back(W_dec, optimizer):
    with torch.no_grad():
        unit = F.normalize(W_dec, dim=1)
        kept = W_dec.grad - (W_dec.grad * unit).sum(1, keepdim=True) * unit
        optimizer.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return kept


@unit_norm.mistake(
    "The rows are brought to norm 1 *before* the step too. The gradient was taken at the row as it was, so step from there; "
    "only a unit vector along the row is needed for the projection."
)
def normalised_before_the_step(W_dec, optimizer):
    with torch.no_grad():
        W_dec.data = F.normalize(W_dec.data, dim=1)
        W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        optimizer.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return W_dec.grad.clone()


@unit_norm.mistake(
    "The part *along* the rows is kept. Subtract it from the gradient: what is left is at right angles to the row."
)
def kept_the_parallel_part(W_dec, optimizer):
    with torch.no_grad():
        unit = F.normalize(W_dec, dim=1)
        W_dec.grad.copy_((W_dec.grad * unit).sum(1, keepdim=True) * unit)
        optimizer.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return W_dec.grad.clone()


@unit_norm.mistake(
    "The projection uses the row itself in place of a unit vector along it: right only while every norm is exactly 1. Divide by "
    "the norm first."
)
def assumes_unit_rows(W_dec, optimizer):
    with torch.no_grad():
        W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        optimizer.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return W_dec.grad.clone()


@unit_norm.mistake("`optimizer.step()` is never called, so nothing is learned.")
def no_step(W_dec, optimizer):
    with torch.no_grad():
        unit = F.normalize(W_dec, dim=1)
        W_dec.grad -= (W_dec.grad * unit).sum(1, keepdim=True) * unit
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return W_dec.grad.clone()


@unit_norm.mistake(
    "A parameter is changed in place while gradients are recorded, which torch forbids: use `torch.no_grad()`."
)
def without_no_grad(W_dec, optimizer):
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    return W_dec


@unit_norm.alternative
def row_by_row(W_dec, optimizer):
    grad = W_dec.grad.clone()
    for i, w in enumerate(W_dec.detach()):
        grad[i] = grad[i] - (grad[i] @ w) / (w @ w) * w
    W_dec.grad = grad
    optimizer.step()
    W_dec.data = F.normalize(W_dec.data, dim=-1)
    return grad


# 05.5 --------------------------------------------------------------------------------------------------------


def _topk(pre: Tensor, k: int) -> Tensor:
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, F.relu(values))


topk = lesson.exercise(
    5,
    title="TopK",
    answer="topk",
    reference=_topk,
    points=2,
    difficulty=2,
    importance=5,
    minutes=10,
    hints=(
        "`torch.topk` gives the k largest values of each row and where they stand. Everything else is zero.",
        "Put the values back with `torch.zeros_like(pre).scatter(-1, indices, values)`. Two traps: a row may hold fewer than k "
        "positive numbers, and `abs` does not belong here.",
        "`values, indices = pre.topk(k, dim=-1)`; `return torch.zeros_like(pre).scatter(-1, indices, F.relu(values))`.",
    ),
)


@topk.case("the latents of a batch", weight=2)
def _(f, draw):
    return f(draw.normal(12, 20, mean=0.5), 4)


@topk.case("rows with fewer than k positive numbers")
def _(f, draw):
    return f(draw.normal(12, 20, mean=-1.5), 4)


@topk.case("large negative numbers")
def _(f, draw):
    x = draw.normal(12, 20)
    return f(draw.lend((3 * x * (x < 0) + x * (x > 0)).numpy()), 3)


@topk.case("an input with two leading axes, and k = 1")
def _(f, draw):
    return f(draw.normal(3, 4, 9), 1)


@topk.case("the gradient: only latents that are kept pass it on", weight=2)
def _(f, draw):
    pre = _leaf(draw.normal(12, 20))
    return _gradients(f(pre, 12) * draw.normal(12, 20), pre=pre)


@topk.mistake(
    "The ReLU is missing: where a row has fewer than k positive numbers, the rest of its top k are negative latents."
)
def no_relu_after_topk(pre, k):
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values)


@topk.mistake("The k largest by *absolute value* are kept. Large negative numbers must not win: drop the `abs`.")
def by_absolute_value(pre, k):
    indices = pre.abs().topk(k, dim=-1).indices
    return torch.zeros_like(pre).scatter(-1, indices, F.relu(pre.gather(-1, indices)))


@topk.mistake("Top k by absolute value, with negative latents kept: neither is wanted. Take the k largest, then ReLU.")
def by_absolute_value_no_relu(pre, k):
    indices = pre.abs().topk(k, dim=-1).indices
    return torch.zeros_like(pre).scatter(-1, indices, pre.gather(-1, indices))


@topk.mistake("The absolute values are kept: large negative numbers become large latents. Drop the `abs`.")
def absolute_values_kept(pre, k):
    return _topk(pre.abs(), k)


@topk.mistake("The k largest are taken down the batch. Each sample has its own k latents: dim -1.")
def over_the_batch(pre, k):
    values, indices = pre.topk(min(k, pre.shape[0]), dim=0)
    return torch.zeros_like(pre).scatter(0, indices, F.relu(values))


@topk.mistake("The k *smallest* are kept. `argsort` counts up: take the last k, or pass `descending=True`.")
def smallest(pre, k):
    values, indices = pre.topk(k, dim=-1, largest=False)
    return torch.zeros_like(pre).scatter(-1, indices, F.relu(values))


@topk.mistake("The kept latents are set to 1. They keep their value; only the others become 0.")
def only_the_mask(pre, k):
    indices = pre.topk(k, dim=-1).indices
    return torch.zeros_like(pre).scatter(-1, indices, 1.0) * (pre > 0)


@topk.mistake("k + 1 latents are kept: with `>` and the k-th value, or `>=` and the k-th, it is exactly k.")
def one_too_many(pre, k):
    return _topk(pre, min(k + 1, pre.shape[-1]))


@topk.mistake(
    "The values are detached, or written into a fresh tensor through `.data`, so no gradient reaches the encoder."
)
def detached_topk(pre, k):
    return _topk(pre.detach(), k)


@topk.mistake(
    "Only the k values are returned. The latents keep their places: an array as wide as `pre`, zero elsewhere."
)
def only_the_values(pre, k):
    return F.relu(pre.topk(k, dim=-1).values)


@topk.alternative
def with_a_threshold(pre, k):
    kth = pre.sort(dim=-1, descending=True).values[..., k - 1 : k]
    return torch.where(pre >= kth, pre, torch.zeros_like(pre)).clamp(min=0)


@topk.alternative
def relu_first(pre, k):
    positive = pre.relu()
    mask = torch.zeros_like(positive)
    mask.scatter_(-1, positive.detach().topk(k, dim=-1).indices, 1.0)
    return positive * mask


# 05.6 --------------------------------------------------------------------------------------------------------


def _auxk_loss(x: Tensor, x_hat: Tensor, pre: Tensor, dead: Tensor, W_dec: Tensor, k_aux: int) -> Tensor:
    k_aux = min(k_aux, int(dead.sum()))
    if k_aux == 0:
        return x.new_zeros(())
    f = _topk(pre.masked_fill(~dead, -torch.inf), k_aux)
    return ((x - x_hat).detach() - f @ W_dec).square().sum(-1).mean()


auxk = lesson.exercise(
    6,
    title="AuxK: work for dead latents",
    answer="auxk_loss",
    reference=_auxk_loss,
    points=3,
    difficulty=3,
    importance=3,
    minutes=15,
    hints=(
        "What did the living latents leave over? Ask the k_aux strongest *dead* latents to reconstruct that, and measure how well "
        "they do.",
        "The target is the residual `(x - x_hat).detach()`. Only dead latents may compete: set the others' pre-activations to -inf. "
        "There may be fewer than k_aux dead ones, or none (then the loss is 0).",
        "`k = min(k_aux, int(dead.sum()))`; `if k == 0: return x.new_zeros(())`; "
        "`values, i = pre.masked_fill(~dead, -torch.inf).topk(k, dim=-1)`; scatter `F.relu(values)`; "
        "`return ((x - x_hat).detach() - f @ W_dec).square().sum(-1).mean()`. No `b_dec`: a residual has no centre to add.",
    ),
)


def _auxk_problem(draw, n_dead: int):
    x, x_hat, pre = draw.normal(14, 5), _leaf(draw.normal(14, 5)), _leaf(draw.normal(14, 12))
    dead = torch.zeros(12, dtype=torch.bool)
    dead[torch.from_numpy(draw.rng.permutation(12)[:n_dead])] = True
    W_dec = _leaf(F.normalize(draw.normal(12, 5), dim=1))
    return x, x_hat, pre, dead, W_dec


@auxk.case("more dead latents than k_aux", weight=2)
def _(f, draw):
    return f(*_auxk_problem(draw, 7), 3)


@auxk.case("fewer dead latents than k_aux")
def _(f, draw):
    return f(*_auxk_problem(draw, 2), 6)


@auxk.case("no dead latent")
def _(f, draw):
    return float(f(*_auxk_problem(draw, 0), 3))


@auxk.case("gradients in pre and W_dec", weight=2)
def _(f, draw):
    x, x_hat, pre, dead, W_dec = _auxk_problem(draw, 7)
    return _gradients(f(x, x_hat, pre, dead, W_dec, 3), pre=pre, W_dec=W_dec)


@auxk.case("the gradient in x_hat")
def _(f, draw):
    x, x_hat, pre, dead, W_dec = _auxk_problem(draw, 7)
    return _gradients(f(x, x_hat, pre, dead, W_dec, 3), x_hat=x_hat)


@auxk.mistake(
    "The residual is not detached, so this loss also pulls on the living latents' reconstruction. The residual is a target: "
    "`(x - x_hat).detach()`."
)
def residual_not_detached(x, x_hat, pre, dead, W_dec, k_aux):
    k_aux = min(k_aux, int(dead.sum()))
    if k_aux == 0:
        return torch.zeros(())
    return (x - x_hat - _topk(pre.masked_fill(~dead, -torch.inf), k_aux) @ W_dec).square().sum(-1).mean()


@auxk.mistake(
    "All latents compete, so living ones win. Only dead latents may: mask the others with -inf before the top k."
)
def all_latents(x, x_hat, pre, dead, W_dec, k_aux):
    return _auxk_loss(x, x_hat, pre, torch.ones_like(dead) if dead.any() else dead, W_dec, min(k_aux, int(dead.sum())))


@auxk.mistake(
    "The k_aux largest of *all* latents are chosen and the living ones dropped afterwards, so few dead ones are left. Mask "
    "first, then take the top k."
)
def masked_after_topk(x, x_hat, pre, dead, W_dec, k_aux):
    if not dead.any():
        return torch.zeros(())
    return ((x - x_hat).detach() - (_topk(pre, k_aux) * dead) @ W_dec).square().sum(-1).mean()


@auxk.mistake("The mask is the wrong way round: the living latents compete, the dead ones are left out.")
def living_latents(x, x_hat, pre, dead, W_dec, k_aux):
    return _auxk_loss(x, x_hat, pre, ~dead, W_dec, k_aux)


@auxk.mistake("The dead latents are asked to reconstruct x. Their target is what is left over, x - x_hat.")
def target_is_x(x, x_hat, pre, dead, W_dec, k_aux):
    return _auxk_loss(x, torch.zeros_like(x), pre, dead, W_dec, k_aux)


@auxk.mistake(
    "The ReLU is missing after the top k: a dead latent's pre-activation is usually negative, its activation is then 0."
)
def negative_latents(x, x_hat, pre, dead, W_dec, k_aux):
    k_aux = min(k_aux, int(dead.sum()))
    if k_aux == 0:
        return torch.zeros(())
    values, i = pre.masked_fill(~dead, -torch.inf).topk(k_aux, dim=-1)
    f = torch.zeros_like(pre).scatter(-1, i, values)
    return ((x - x_hat).detach() - f @ W_dec).square().sum(-1).mean()


@auxk.mistake("`topk` is asked for more latents than are dead. Use `min(k_aux, number of dead latents)`.")
def k_aux_not_limited(x, x_hat, pre, dead, W_dec, k_aux):
    if not dead.any():
        return torch.zeros(())
    values, i = pre[:, dead].topk(k_aux, dim=-1)
    f = torch.zeros_like(pre[:, dead]).scatter(-1, i, F.relu(values))
    return ((x - x_hat).detach() - f @ W_dec[dead]).square().sum(-1).mean()


@auxk.mistake("The error is averaged over dimensions. As in the main loss: sum over dimensions, mean over the batch.")
def auxk_mean_over_dimensions(x, x_hat, pre, dead, W_dec, k_aux):
    return _auxk_loss(x, x_hat, pre, dead, W_dec, k_aux) / x.shape[-1]


@auxk.mistake("With no dead latent the loss should be 0: there is nothing to revive.")
def residual_when_none_is_dead(x, x_hat, pre, dead, W_dec, k_aux):
    f = _topk(pre.masked_fill(~dead, -torch.inf), max(1, min(k_aux, int(dead.sum()))))
    return ((x - x_hat).detach() - f @ W_dec).square().sum(-1).mean()


@auxk.mistake("The pre-activations are detached, so the dead latents' encoder gets no gradient and they stay dead.")
def pre_detached(x, x_hat, pre, dead, W_dec, k_aux):
    return _auxk_loss(x, x_hat, pre.detach(), dead, W_dec, k_aux)


@auxk.alternative
def dead_columns_only(x, x_hat, pre, dead, W_dec, k_aux):
    n = min(k_aux, int(dead.sum()))
    if n == 0:
        return 0.0
    columns = pre[:, dead]
    values, i = columns.topk(n, dim=1)
    sparse = torch.zeros_like(columns).scatter(1, i, values.clamp(min=0))
    return F.mse_loss(sparse @ W_dec[dead], (x - x_hat).detach(), reduction="sum") / len(x)


@auxk.alternative
def others_set_to_zero(x, x_hat, pre, dead, W_dec, k_aux):
    if not dead.any():
        return torch.zeros(())
    f = _topk(
        F.relu(pre) * dead, min(k_aux, pre.shape[1])
    )  # a zero takes a place only where no dead latent is positive
    return (f @ W_dec - (x - x_hat.detach())).pow(2).sum(-1).mean()


# 05.7 --------------------------------------------------------------------------------------------------------


class _BatchTopK(nn.Module):
    threshold: Tensor

    def __init__(self, k: int, rate: float = 0.1) -> None:
        super().__init__()
        self.k, self.rate = k, rate
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, pre: Tensor) -> Tensor:
        if not self.training:
            return pre * (pre > self.threshold)
        positive = F.relu(pre)
        values, indices = positive.flatten().topk(self.k * pre.shape[0])
        f = torch.zeros_like(positive).flatten().scatter(0, indices, values).view_as(pre)
        with torch.no_grad():
            self.follow(f[f > 0].min())
        return f

    def follow(self, smallest: Tensor) -> None:
        self.threshold.lerp_(smallest, 1.0 if self.threshold == 0 else self.rate)


batch_topk = lesson.exercise(
    7,
    title="BatchTopK and its threshold",
    answer="BatchTopK",
    reference=_BatchTopK,
    points=4,
    difficulty=4,
    importance=3,
    minutes=20,
    hints=(
        "In training, the batch as a whole may keep k x batch latents: flatten before the top k. At inference a sample must not "
        "depend on its neighbours: compare with one number.",
        "That number is a running average of the smallest latent that was kept: after the first batch it is that number, then each batch "
        "moves it by `rate * (smallest - threshold)`. It is a buffer (`self.register_buffer`), no parameter, and changes in training only.",
        "`if not self.training: return pre * (pre > self.threshold)`. In training: `positive = F.relu(pre)`, `values, i = "
        "positive.flatten().topk(self.k * pre.shape[0])`, scatter back, then under `no_grad`: `self.threshold.lerp_(f[f > 0].min(), 1.0 if "
        "self.threshold == 0 else self.rate)`.",
    ),
)


@batch_topk.case("training: the latents of a batch", weight=2)
def _(cls, draw):
    return cls(3)(draw.normal(10, 16, mean=0.3))


@batch_topk.case("training: fewer positive numbers than k x batch")
def _(cls, draw):
    return cls(6)(draw.normal(10, 16, mean=-1.3))


@batch_topk.case("training: the gradient")
def _(cls, draw):
    pre = _leaf(draw.normal(10, 16))
    return _gradients(cls(3)(pre) * draw.normal(10, 16), pre=pre)


@batch_topk.case("the threshold after three batches", weight=2)
def _(cls, draw):
    layer = cls(3, rate=0.2)
    for _batch in range(3):
        layer(draw.normal(10, 16, mean=1.0))
    return layer.threshold


@batch_topk.case("the threshold after a batch with few positive numbers")
def _(cls, draw):
    layer = cls(6, rate=0.5)
    layer(draw.normal(10, 16, mean=1.0))
    layer(draw.normal(10, 16, mean=-1.3))  # fewer than 6 x 10 are positive: the k x batch largest end in zeros
    return layer.threshold


@batch_topk.case("inference: one sample at a time, after training", weight=2)
def _(cls, draw):
    layer = cls(3, rate=0.5)
    for _batch in range(4):
        layer(draw.normal(10, 16, mean=1.0))
    layer.eval()
    pre = draw.normal(6, 16, mean=1.0)
    return torch.stack([layer(row[None])[0] for row in pre])


@batch_topk.case("inference leaves the threshold as it is")
def _(cls, draw):
    layer = cls(3, rate=0.5)
    layer(draw.normal(10, 16, mean=1.0))
    layer.eval()
    before = float(layer.threshold)
    layer(draw.normal(10, 16, mean=3.0))
    return float(layer.threshold) - before


@batch_topk.case("the threshold is saved with the weights and not trained", rule=Exact())
def _(cls, draw):
    layer = cls(3)
    layer(draw.normal(10, 16))
    return {"in state_dict": "threshold" in layer.state_dict(), "parameters": len(list(layer.parameters()))}


@batch_topk.mistake(
    "The top k is taken per row: that is TopK. BatchTopK keeps the k x batch largest of the whole batch, so that a hard sample may "
    "use more latents than an easy one."
)
class per_row(_BatchTopK):
    def forward(self, pre):
        if not self.training:
            return pre * (pre > self.threshold)
        f = _topk(pre, self.k)
        with torch.no_grad():
            self.follow(f[f > 0].min())
        return f


@batch_topk.mistake(
    "The threshold follows the last of the k x batch values. Where the batch holds fewer positive numbers that is 0 and no latent: "
    "take the smallest *positive* one, `f[f > 0].min()`."
)
class last_of_the_largest(_BatchTopK):
    def forward(self, pre):
        if not self.training:
            return pre * (pre > self.threshold)
        positive = F.relu(pre)
        values, indices = positive.flatten().topk(self.k * pre.shape[0])
        with torch.no_grad():
            self.follow(values[-1])
        return torch.zeros_like(positive).flatten().scatter(0, indices, values).view_as(pre)


@batch_topk.mistake("Only k latents are kept in the whole batch. It is k per sample *on average*: k x batch.")
class k_in_all(_BatchTopK):
    def forward(self, pre):
        k, self.k = self.k, self.k / pre.shape[0]
        if self.training:
            self.k = 1
            flat = F.relu(pre).flatten()
            values, i = flat.topk(k)
            f = torch.zeros_like(flat).scatter(0, i, values).view_as(pre)
            with torch.no_grad():
                self.follow(f[f > 0].min())
        else:
            f = pre * (pre > self.threshold)
        self.k = k
        return f


@batch_topk.mistake(
    "The ReLU is missing: if the batch holds fewer than k x batch positive numbers, negative ones are kept."
)
class batch_topk_without_relu(_BatchTopK):
    def forward(self, pre):
        if not self.training:
            return pre * (pre > self.threshold)
        values, i = pre.flatten().topk(self.k * pre.shape[0])
        f = torch.zeros_like(pre).flatten().scatter(0, i, values).view_as(pre)
        with torch.no_grad():
            self.follow(values[values > 0].min())
        return f


@batch_topk.mistake(
    "Inference still takes the top k of its batch, so a sample's latents depend on its neighbours: use the threshold."
)
class topk_at_inference(_BatchTopK):
    def forward(self, pre):
        before, was = self.threshold.clone(), self.training
        self.train()
        f = super().forward(pre)
        self.train(was)
        if not was:
            self.threshold.copy_(before)
        return f


@batch_topk.mistake("The threshold also changes at inference: update it only while `self.training`.")
class updates_at_inference(_BatchTopK):
    def forward(self, pre):
        if self.training:
            return super().forward(pre)
        f = pre * (pre > self.threshold)
        self.train()
        super().forward(pre)
        self.eval()
        return f


@batch_topk.mistake(
    "The threshold stays at 0, so at inference every positive pre-activation counts. Update it in training, with the smallest latent "
    "*above zero*: `f.min()` is always 0."
)
class threshold_stays(_BatchTopK):
    def forward(self, pre):
        before = self.threshold.clone()
        f = super().forward(pre)
        self.threshold.copy_(before)
        return f


@batch_topk.mistake(
    "The threshold follows the *mean* of the kept latents. The smallest one kept is where keeping starts."
)
class mean_of_the_kept(_BatchTopK):
    def forward(self, pre):
        before = self.threshold.clone()
        f = super().forward(pre)
        if self.training:
            with torch.no_grad():
                self.threshold.copy_(before)
                self.follow(f[f > 0].mean())
        return f


@batch_topk.mistake(
    "The threshold follows the *largest* latent of each batch; then hardly anything passes at inference. The smallest positive "
    "one is where keeping starts."
)
class largest_of_the_kept(_BatchTopK):
    def forward(self, pre):
        before = self.threshold.clone()
        f = super().forward(pre)
        if self.training:
            with torch.no_grad():
                self.threshold.copy_(before)
                self.follow(f.max())
        return f


@batch_topk.mistake(
    "At inference the threshold is subtracted. It only decides which latents count: those above it keep their value."
)
class threshold_subtracted(_BatchTopK):
    def forward(self, pre):
        return super().forward(pre) if self.training else F.relu(pre - self.threshold)


@batch_topk.mistake("The rate is the wrong way round: threshold = (1 - rate) x old + rate x new.")
class rate_reversed(_BatchTopK):
    def __init__(self, k, rate=0.1):
        super().__init__(k, 1 - rate)


@batch_topk.mistake("Only the last batch counts. Its smallest latent is noisy: average over batches.")
class last_batch_only(_BatchTopK):
    def __init__(self, k, rate=0.1):
        super().__init__(k, 1.0)


@batch_topk.mistake(
    "The average starts at 0 and needs many batches to arrive. Let the first batch count in full: threshold = its smallest latent."
)
class slow_start(_BatchTopK):
    def follow(self, smallest):
        self.threshold.lerp_(smallest, self.rate)


@batch_topk.mistake(
    'The threshold is a plain attribute, so `state_dict()` does not save it: `self.register_buffer("threshold", ...)`.'
)
class not_a_buffer(_BatchTopK):
    def __init__(self, k, rate=0.1):
        super().__init__(k, rate)
        del self.threshold
        self.threshold = torch.zeros(())


@batch_topk.mistake(
    "The threshold is an `nn.Parameter`: an optimizer would move it. It is a running average, so a buffer."
)
class a_parameter(_BatchTopK):
    def __init__(self, k, rate=0.1):
        super().__init__(k, rate)
        del self.threshold
        self.threshold = nn.Parameter(torch.zeros(()))


@batch_topk.alternative
class with_kthvalue(nn.Module):
    def __init__(self, k, rate=0.1):
        super().__init__()
        self.k, self.rate, self.batches = k, rate, 0
        self.register_buffer("threshold", torch.tensor(0.0))

    def forward(self, pre):
        pre = pre.clamp(min=0)
        if self.training:
            cut = pre.detach().reshape(-1).sort(descending=True).values[self.k * len(pre) - 1]
            f = torch.where(pre >= cut, pre, 0.0)
            share = self.rate if self.batches else 1
            self.threshold = (1 - share) * self.threshold + share * f.detach()[f > 0].min()
            self.batches += 1
            return f
        return torch.where(pre > self.threshold, pre, 0.0)


# 05.8 --------------------------------------------------------------------------------------------------------


class GatedWeights(GatedSAE):
    """A gated SAE with none of its six parameters zero: what the probes of 05.8 pass as `sae`."""

    def __init__(self, draw, d_in: int = 6, d_sae: int = 10) -> None:
        super().__init__(SAEConfig(d_in, d_sae, architecture="gated", l1_coefficient=1.0))
        values = {
            "W_enc": draw.normal(d_in, d_sae, std=0.6),
            "W_dec": F.normalize(draw.normal(d_sae, d_in), dim=1),
            "b_gate": draw.normal(d_sae, std=0.4),
            "b_mag": draw.normal(d_sae, std=0.4),
            "r_mag": draw.normal(d_sae, std=0.5),
            "b_dec": draw.normal(d_in, std=0.7),
        }
        for name, value in values.items():
            setattr(self, name, nn.Parameter(value.clone()))


def _gated_loss(sae: GatedSAE, x: Tensor, l1_coefficient: float) -> tuple[Tensor, Tensor, Tensor]:
    output = sae(x, sparsity_scale=l1_coefficient)
    return output.loss, output.x_hat, output.latents


gated = lesson.exercise(
    8,
    title="The gated SAE",
    answer="gated_loss",
    reference=_gated_loss,
    points=4,
    difficulty=4,
    importance=3,
    minutes=25,
    hints=(
        "Two questions, two paths: *is* the latent on (the gate), and *how much* (the magnitude)? L1 shrinks only the gate's path.",
        "A step function passes no gradient, so the gate is trained by a second reconstruction made from ReLU(pi_gate). That one must "
        "not train the decoder: use `W_dec.detach()` and `b_dec.detach()` in it.",
        "`a = (x - b_dec) @ W_enc`; `pi_gate = a + b_gate`; `f = (pi_gate > 0) * F.relu(a * r_mag.exp() + b_mag)`; loss = |x - x_hat|^2 + "
        "l1_coefficient * F.relu(pi_gate).sum(-1) + |x - (F.relu(pi_gate) @ W_dec.detach() + b_dec.detach())|^2, each averaged over "
        "the batch.",
    ),
)


@gated.case("the latents", weight=2)
def _(f, draw):
    return f(GatedWeights(draw), draw.normal(16, 6), 0.3)[2]


@gated.case("the reconstruction")
def _(f, draw):
    return f(GatedWeights(draw), draw.normal(16, 6), 0.3)[1]


@gated.case("the loss")
def _(f, draw):
    return f(GatedWeights(draw), draw.normal(16, 6), 0.3)[0]


@gated.case("the loss with an L1 coefficient of 0")
def _(f, draw):
    return f(GatedWeights(draw), draw.normal(16, 6), 0.0)[0]


@gated.case("gradients of the loss in W_dec and b_dec", weight=2, rule=Close(1e-3, 1e-4))
def _(f, draw):
    sae = GatedWeights(draw)
    return _gradients(f(sae, draw.normal(16, 6), 0.3)[0], W_dec=sae.W_dec, b_dec=sae.b_dec)


@gated.case("gradients of the loss in the encoder", weight=2, rule=Close(1e-3, 1e-4))
def _(f, draw):
    sae = GatedWeights(draw)
    inputs = {name: getattr(sae, name) for name in ("W_enc", "b_gate", "b_mag", "r_mag")}
    return _gradients(f(sae, draw.normal(16, 6), 0.3)[0], **inputs)


def _gated_parts(sae, x):
    """pi_gate, latents: the two paths share W_enc; exp(r_mag) rescales it for the magnitudes."""
    gate, magnitude = sae.paths(x)
    return gate, (gate > 0) * magnitude


def _gated_with(parts=_gated_parts, l1=None, auxiliary=None):
    """The gated loss with one part replaced: for the mistakes below."""

    def loss(sae, x, l1_coefficient):
        pi_gate, f = parts(sae, x)
        x_hat = f @ sae.W_dec + sae.b_dec
        gate = F.relu(pi_gate)
        frozen = gate @ sae.W_dec.detach() + sae.b_dec.detach()
        extra = (x - frozen).square().sum(-1).mean() if auxiliary is None else auxiliary(sae, x, gate)
        penalty = gate.sum(-1).mean() if l1 is None else l1(gate, f)
        return (x - x_hat).square().sum(-1).mean() + l1_coefficient * penalty + extra, x_hat, f

    return loss


def _gated_mistake(explanation, name, **parts):
    gated.mistake(explanation, name=name)(_gated_with(**parts))


_gated_mistake(
    "The auxiliary loss flows into the decoder: there `W_dec` and `b_dec` must be frozen with `.detach()`, or the decoder learns to "
    "undo the shrinkage of the gate's path.",
    "decoder_not_frozen",
    auxiliary=lambda sae, x, gate: (x - gate @ sae.W_dec - sae.b_dec).square().sum(-1).mean(),
)
_gated_mistake(
    "`W_dec` is frozen in the auxiliary loss, `b_dec` is not: detach both.",
    "bias_not_frozen",
    auxiliary=lambda sae, x, gate: (x - gate @ sae.W_dec.detach() - sae.b_dec).square().sum(-1).mean(),
)
_gated_mistake(
    "The auxiliary reconstruction lacks `b_dec`: it is a reconstruction of x like the other one.",
    "auxiliary_without_bias",
    auxiliary=lambda sae, x, gate: (x - gate @ sae.W_dec.detach()).square().sum(-1).mean(),
)
_gated_mistake(
    "There is no auxiliary loss. The step function passes no gradient, so nothing but L1 trains the gate, and L1 alone shuts it.",
    "no_auxiliary_loss",
    auxiliary=lambda sae, x, gate: 0.0,
)
_gated_mistake(
    "The L1 term is on the latents f. It belongs on ReLU(pi_gate): sparing the magnitudes is the point of a gated SAE.",
    "l1_on_the_latents",
    l1=lambda gate, f: f.sum(-1).mean(),
)
_gated_mistake(
    "The L1 term counts open gates, and a count has no gradient: use ReLU(pi_gate).",
    "l1_counts_gates",
    l1=lambda gate, f: (gate > 0).float().sum(-1).mean(),
)


def _gate_multiplies(sae, x):
    pi_gate, _ = _gated_parts(sae, x)
    magnitude = F.relu((x - sae.b_dec) @ sae.W_enc * sae.r_mag.exp() + sae.b_mag)
    return pi_gate, F.relu(pi_gate) * magnitude


def _no_exponential(sae, x):
    a = (x - sae.b_dec) @ sae.W_enc
    return a + sae.b_gate, (a + sae.b_gate > 0) * F.relu(a * sae.r_mag + sae.b_mag)


def _scaled_after_bias(sae, x):
    a = (x - sae.b_dec) @ sae.W_enc
    return a + sae.b_gate, (a + sae.b_gate > 0) * F.relu((a + sae.b_mag) * sae.r_mag.exp())


def _one_bias(sae, x):
    a = (x - sae.b_dec) @ sae.W_enc
    return a + sae.b_gate, (a + sae.b_gate > 0) * F.relu(a * sae.r_mag.exp() + sae.b_gate)


def _uncentred(sae, x):
    a = x @ sae.W_enc
    return a + sae.b_gate, (a + sae.b_gate > 0) * F.relu(a * sae.r_mag.exp() + sae.b_mag)


def _no_magnitude_relu(sae, x):
    a = (x - sae.b_dec) @ sae.W_enc
    return a + sae.b_gate, (a + sae.b_gate > 0) * (a * sae.r_mag.exp() + sae.b_mag)


_gated_mistake(
    "The gate multiplies by ReLU(pi_gate). It is a switch: 1 where pi_gate > 0, else 0.",
    "gate_is_a_relu",
    parts=_gate_multiplies,
)
_gated_mistake(
    "`r_mag` is used as it is. The factor is exp(r_mag), which cannot become negative.",
    "no_exponential",
    parts=_no_exponential,
)
_gated_mistake(
    "`b_mag` is scaled by exp(r_mag) too. Only the product with W_enc is rescaled; the bias is added afterwards.",
    "bias_scaled_too",
    parts=_scaled_after_bias,
)
_gated_mistake("Both paths use `b_gate`. The magnitude's bias is `b_mag`.", "one_bias_for_both", parts=_one_bias)
_gated_mistake("`b_dec` is not subtracted before encoding.", "gated_b_dec_not_subtracted", parts=_uncentred)
_gated_mistake(
    "The magnitude has no ReLU, so an open gate can let a negative latent through.",
    "magnitude_without_relu",
    parts=_no_magnitude_relu,
)


@gated.alternative
def two_encoders(sae, x, l1_coefficient):
    centre = x - sae.b_dec
    W_mag = sae.W_enc * sae.r_mag.exp()[None, :]
    pi = torch.addmm(sae.b_gate, centre, sae.W_enc)
    f = torch.where(pi > 0, torch.addmm(sae.b_mag, centre, W_mag).clamp(min=0), 0.0)
    x_hat = torch.addmm(sae.b_dec, f, sae.W_dec)
    with torch.no_grad():
        W, b = sae.W_dec.clone(), sae.b_dec.clone()
    total = F.mse_loss(x_hat, x, reduction="sum") + F.mse_loss(pi.relu() @ W + b, x, reduction="sum")
    return (total + l1_coefficient * pi.relu().sum()) / len(x), x_hat, f


# 05.9 --------------------------------------------------------------------------------------------------------


def _window(u: Tensor) -> Tensor:
    return ((u > -0.5) & (u < 0.5)).to(u.dtype)


def _jumprelu(pre: Tensor, log_threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    threshold = log_threshold.exp()
    return JumpReLU.apply(pre, threshold, bandwidth), Heaviside.apply(pre, threshold, bandwidth).sum(-1)


jumprelu = lesson.exercise(
    9,
    title="JumpReLU with straight-through estimators",
    answer="jumprelu",
    reference=_jumprelu,
    points=4,
    difficulty=5,
    importance=3,
    minutes=30,
    hints=(
        "Both functions jump at the threshold, so their true derivative there is 0 or infinite. What would a small random wiggle of "
        "pre see, on average, if the threshold moved a little?",
        "With K(u) = 1 for |u| < 1/2, else 0: the Heaviside's pseudo-derivative in the threshold is -K((pre - threshold) / bandwidth) / "
        "bandwidth, JumpReLU's is threshold times that. JumpReLU passes the gradient of pre on where pre > threshold; Heaviside "
        "passes none.",
        "`threshold = log_threshold.exp()`. In `backward`: `K = ((pre - threshold).abs() < bandwidth / 2)`; Heaviside returns `None, (-K / "
        "bandwidth * grad).sum(0), None`; JumpReLU returns `(pre > threshold) * grad, (-threshold * K / bandwidth * grad).sum(0), None`. "
        "Then `return JumpReLU.apply(pre, threshold, bandwidth), Heaviside.apply(pre, threshold, bandwidth).sum(-1)`.",
    ),
)


def _jump_problem(draw):
    return _leaf(draw.normal(40, 8, mean=0.3)), _leaf(draw.uniform(8, low=-1.5, high=-0.1))


@jumprelu.case("the latents", weight=2)
def _(f, draw):
    return f(*_jump_problem(draw), 0.4)[0]


@jumprelu.case("how many latents are active in each sample")
def _(f, draw):
    return f(*_jump_problem(draw), 0.4)[1]


@jumprelu.case("the latents' gradient in pre")
def _(f, draw):
    pre, log_threshold = _jump_problem(draw)
    return _gradients(f(pre, log_threshold, 0.4)[0] * draw.normal(40, 8), pre=pre)


@jumprelu.case("the latents' gradient in log_threshold", weight=2, rule=Close(1e-3, 1e-4))
def _(f, draw):
    pre, log_threshold = _jump_problem(draw)
    return _gradients(f(pre, log_threshold, 0.4)[0] * draw.normal(40, 8), log_threshold=log_threshold)


@jumprelu.case("the count's gradient in log_threshold", weight=2, rule=Close(1e-3, 1e-4))
def _(f, draw):
    pre, log_threshold = _jump_problem(draw)
    return _gradients(f(pre, log_threshold, 0.4)[1] * draw.normal(40), log_threshold=log_threshold)


@jumprelu.case("the count's gradient in pre")
def _(f, draw):
    pre, log_threshold = _jump_problem(draw)
    return _gradients(f(pre, log_threshold, 0.4)[1] * draw.normal(40), pre=pre)


@jumprelu.case("the gradients with another bandwidth", rule=Close(1e-3, 1e-4))
def _(f, draw):
    pre, log_threshold = _jump_problem(draw)
    latents, l0 = f(pre, log_threshold, 1.1)
    return _gradients(latents.sum() + l0.sum(), log_threshold=log_threshold)


def _jump_with(threshold=torch.exp, heaviside=None, jump=None):
    """JumpReLU built from given pseudo-derivatives in the threshold: for the mistakes below.

    `heaviside(u, theta, bandwidth)` and `jump(u, theta, bandwidth)` with u = (pre - theta) / bandwidth.
    """

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, pre, theta, bandwidth):
            ctx.save_for_backward(pre, theta)
            ctx.bandwidth = bandwidth
            return (pre > theta).to(pre.dtype)

        @staticmethod
        def backward(ctx, grad):
            pre, theta = ctx.saved_tensors
            u = (pre - theta) / ctx.bandwidth
            pseudo = -_window(u) / ctx.bandwidth if heaviside is None else heaviside(u, theta, ctx.bandwidth)
            return None, (pseudo * grad).sum_to_size(theta.shape), None

    class Jump(torch.autograd.Function):
        @staticmethod
        def forward(ctx, pre, theta, bandwidth):
            ctx.save_for_backward(pre, theta)
            ctx.bandwidth = bandwidth
            return pre * (pre > theta)

        @staticmethod
        def backward(ctx, grad):
            pre, theta = ctx.saved_tensors
            u = (pre - theta) / ctx.bandwidth
            pseudo = -theta * _window(u) / ctx.bandwidth if jump is None else jump(u, theta, ctx.bandwidth)
            return (pre > theta) * grad, (pseudo * grad).sum_to_size(theta.shape), None

    def jumprelu(pre, log_threshold, bandwidth):
        theta = threshold(log_threshold)
        return Jump.apply(pre, theta, bandwidth), Step.apply(pre, theta, bandwidth).sum(-1)

    return jumprelu


def _jump_mistake(explanation, name, **parts):
    jumprelu.mistake(explanation, name=name)(_jump_with(**parts))


_jump_mistake(
    "The step has its true gradient, which is zero, so nothing ever moves the threshold. Write a `torch.autograd.Function` whose "
    "`backward` gives the straight-through estimate.",
    "true_gradient",
    heaviside=lambda u, theta, e: torch.zeros_like(u),
    jump=lambda u, theta, e: torch.zeros_like(u),
)
_jump_mistake(
    "The threshold can be negative: the parameter is its logarithm, so that exp(log_threshold) is always above zero.",
    "threshold_not_positive",
    threshold=lambda log_threshold: log_threshold * 1.0,
)
_jump_mistake(
    "`abs` is used in place of `exp`: the parameter is the threshold's logarithm.",
    "absolute_threshold",
    threshold=torch.abs,
)
_jump_mistake(
    "The pseudo-derivatives have the wrong sign: raising the threshold switches latents *off*.",
    "wrong_sign",
    heaviside=lambda u, theta, e: _window(u) / e,
    jump=lambda u, theta, e: theta * _window(u) / e,
)
_jump_mistake(
    "The pseudo-derivatives are not divided by the bandwidth, so their size depends on the window's width.",
    "not_divided_by_bandwidth",
    heaviside=lambda u, theta, e: -_window(u),
    jump=lambda u, theta, e: -theta * _window(u),
)
_jump_mistake(
    "JumpReLU's pseudo-derivative lacks the factor threshold: at the jump the latent falls from `threshold` to 0, not from 1.",
    "no_factor_threshold",
    jump=lambda u, theta, e: -_window(u) / e,
)
_jump_mistake(
    "The window is twice too wide: K(u) is 1 for |u| < 1/2, so |pre - threshold| < bandwidth / 2.",
    "window_too_wide",
    heaviside=lambda u, theta, e: -_window(u / 2) / e,
    jump=lambda u, theta, e: -theta * _window(u / 2) / e,
)
_jump_mistake(
    "The window has one side only. Samples just below the threshold count as well as those just above.",
    "one_sided_window",
    heaviside=lambda u, theta, e: -_window(u) * (u > 0) / e,
    jump=lambda u, theta, e: -theta * _window(u) * (u > 0) / e,
)


_jump_mistake(
    "`Heaviside.backward` has the wrong sign: raising the threshold switches latents *off*, so the count falls.",
    "wrong_sign_of_the_count",
    heaviside=lambda u, theta, e: _window(u) / e,
)
_jump_mistake(
    "`Heaviside.backward` does not divide by the bandwidth, so the estimate's size depends on the window's width.",
    "count_not_divided_by_bandwidth",
    heaviside=lambda u, theta, e: -_window(u),
)
_jump_mistake(
    "In `Heaviside.backward` the window is twice too wide: K(u) is 1 for |u| < 1/2, so |pre - threshold| < bandwidth / 2.",
    "window_of_the_count_too_wide",
    heaviside=lambda u, theta, e: -_window(u / 2) / e,
)
_jump_mistake(
    "The count is taken with a plain comparison, whose gradient is zero, so the penalty never moves a threshold: count with "
    "`Heaviside.apply`.",
    "count_without_gradient",
    heaviside=lambda u, theta, e: torch.zeros_like(u),
)


@jumprelu.mistake(
    "`pre` goes through a ReLU first. The values are the same, but the window also holds pre-activations below zero when it is "
    "wide, and their true distance to the threshold counts: pass `pre` as it is."
)
def through_a_relu_first(pre, log_threshold, bandwidth):
    return _jumprelu(F.relu(pre), log_threshold, bandwidth)


@jumprelu.mistake(
    "The gradient in the threshold is averaged over the batch. Each sample uses the same threshold, so their gradients add: "
    "`.sum(0)`."
)
def averaged_over_the_batch(pre, log_threshold, bandwidth):
    latents, count = _jumprelu(pre, log_threshold, bandwidth)
    shared = _jumprelu(pre.detach(), log_threshold, bandwidth)
    weak = 1 / len(pre) - 1  # adds (1/n - 1) times the gradient in the threshold, and no value
    return latents + weak * (shared[0] - shared[0].detach()), count + weak * (shared[1] - shared[1].detach())


@jumprelu.mistake(
    "The Heaviside also passes a gradient to `pre`. Only the threshold gets one; for `pre` return None (or zeros)."
)
def heaviside_moves_pre(pre, log_threshold, bandwidth):
    latents, l0 = _jumprelu(pre, log_threshold, bandwidth)
    theta = log_threshold.exp().detach()
    slope = _window((pre.detach() - theta) / bandwidth) / bandwidth
    return latents, l0 + ((pre - pre.detach()) * slope).sum(-1)


@jumprelu.mistake(
    "The threshold is subtracted from the latents: that is a shifted ReLU, which shrinks. JumpReLU keeps pre as it is."
)
def shifted_relu(pre, log_threshold, bandwidth):
    return F.relu(pre - log_threshold.exp()), _jumprelu(pre, log_threshold, bandwidth)[1]


@jumprelu.mistake(
    "The latents sum what passes for the whole batch: the count is one number per sample, summed over latents."
)
def counted_over_the_batch(pre, log_threshold, bandwidth):
    latents, _ = _jumprelu(pre, log_threshold, bandwidth)
    return latents, Heaviside.apply(pre, log_threshold.exp(), bandwidth).sum(0)


@jumprelu.alternative
def with_detach_tricks(pre, log_threshold, bandwidth):
    theta = log_threshold.exp()
    on = (pre > theta).float()
    near = ((pre - theta).abs() < bandwidth / 2).float() / bandwidth
    moved = theta.detach() - theta  # zero, with gradient -1 in theta
    return pre * on.detach() + (near * theta).detach() * moved, (on + near.detach() * moved).sum(-1)


# 05.10 -------------------------------------------------------------------------------------------------------


def _resample_latents(
    sae: Coder, optimizer: torch.optim.Optimizer, fired: Tensor, x: Tensor, loss_weighted: bool = True
) -> Tensor:
    dead = (~fired.any(0)).nonzero().flatten()
    if len(dead) == 0:
        return dead
    with torch.no_grad():
        weight = (x - sae(x)[0]).square().sum(-1).square() if loss_weighted else torch.ones(len(x))
        chosen = x[torch.multinomial(weight, len(dead), replacement=True)] - sae.b_dec
        direction = F.normalize(chosen, dim=1)
        alive = fired.any(0)
        sae.W_dec[dead] = direction
        sae.W_enc[:, dead] = 0.2 * sae.W_enc[:, alive].norm(dim=0).mean() * direction.T
        sae.b_enc[dead] = 0
        for parameter, part in ((sae.W_dec, (dead,)), (sae.W_enc, (slice(None), dead)), (sae.b_enc, (dead,))):
            for key in ("exp_avg", "exp_avg_sq"):
                if key in optimizer.state[parameter]:
                    optimizer.state[parameter][key][part] = 0
    return dead


resampling = lesson.exercise(
    10,
    title="Resampling dead latents",
    answer="resample_latents",
    reference=_resample_latents,
    points=4,
    difficulty=4,
    importance=3,
    minutes=25,
    hints=(
        "A latent is dead if it fired at *no* step of the window. Point it at an input that the autoencoder reconstructs badly, and let "
        "the optimizer forget what it knew about it.",
        "`torch.multinomial(weight, n_dead, replacement=True)` draws one input per dead latent; the weight is the squared loss of the "
        "input (or 1 for all). Decoder row: unit vector along x - b_dec. Encoder column: the same direction, 0.2 times the mean norm of "
        "the living columns. Bias: 0. Then set Adam's `exp_avg` and `exp_avg_sq` to 0 at these places.",
        "`alive = fired.any(0)`; `weight = (x - sae(x)[0]).square().sum(-1) ** 2`; `u = F.normalize(x[picked] - sae.b_dec, dim=1)`; "
        "`sae.W_dec[dead] = u`; `sae.W_enc[:, dead] = 0.2 * sae.W_enc[:, alive].norm(dim=0).mean() * u.T`; `sae.b_enc[dead] = 0`; "
        "`if 'exp_avg' in optimizer.state[sae.W_enc]:` (Adam has no memory before its first step) set "
        "`optimizer.state[sae.W_enc][key][:, dead] = 0`, and `[dead]` for `W_dec` and `b_enc`, for both keys. All under "
        "`torch.no_grad()`.",
    ),
)


def _window_of_firing(draw, steps: int, d_sae: int, dead: list[int]) -> Tensor:
    """Living latents fire at some steps only; dead ones at none."""
    fired = draw.rng.random((steps, d_sae)) < 0.5
    fired[0], fired[1] = draw.rng.random(d_sae) < 0.5, True
    fired[2] = False
    fired[:, dead] = False
    return draw.lend(fired)


def _resampling_problem(draw, dead=(1, 4, 5), d_sae: int = 9, same_input: bool = True):
    """A trained-a-little autoencoder with Adam's memory; one input repeated makes the outcome certain."""
    sae = _coder(draw, 5, d_sae)
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.01)
    for _step in range(2):
        optimizer.zero_grad()
        (draw.normal(30, 5) - sae(draw.normal(30, 5))[0]).square().sum(-1).mean().backward()
        optimizer.step()
    x = draw.lend(draw.normal(1, 5, std=2).expand(12, 5).numpy().copy()) if same_input else draw.normal(12, 5, std=2)
    return sae, optimizer, _window_of_firing(draw, 6, d_sae, list(dead)), x


@resampling.case("which latents count as dead", rule=Exact())
def _(f, draw):
    return torch.as_tensor(f(*_resampling_problem(draw))).sort().values


@resampling.case("new decoder rows", weight=2)
def _(f, draw):
    sae, optimizer, fired, x = _resampling_problem(draw)
    f(sae, optimizer, fired, x)
    return sae.W_dec


@resampling.case("new encoder columns", weight=2)
def _(f, draw):
    sae, optimizer, fired, x = _resampling_problem(draw)
    f(sae, optimizer, fired, x)
    return sae.W_enc


@resampling.case("new encoder biases")
def _(f, draw):
    sae, optimizer, fired, x = _resampling_problem(draw)
    f(sae, optimizer, fired, x)
    return {"b_enc": sae.b_enc, "b_dec": sae.b_dec}


@resampling.case("Adam's memory of W_enc, W_dec and b_enc", weight=2)
def _(f, draw):
    sae, optimizer, fired, x = _resampling_problem(draw)
    f(sae, optimizer, fired, x)
    state = optimizer.state
    return {
        f"{key} of {name}": state[parameter][key]
        for name, parameter in sae.named_parameters()
        for key in ("exp_avg", "exp_avg_sq")
    }


@resampling.case("no dead latent: nothing changes")
def _(f, draw):
    sae, optimizer, fired, x = _resampling_problem(draw, dead=())
    f(sae, optimizer, fired, x)
    return {**_parameters(sae), "memory": optimizer.state[sae.W_enc]["exp_avg"]}


def _how_often(f, draw, d_sae: int, calls: int, loss_weighted: bool) -> Tensor:
    """Four different inputs, many dead latents: which input each was given, in every call. [calls, dead]"""
    inputs = 0.4 * torch.eye(4, 5) * torch.tensor([3.0, 4.0, 4.6, 5.0])[:, None]
    given = []
    for _call in range(calls):
        sae = Coder(torch.zeros(5, d_sae), torch.zeros(d_sae), torch.ones(d_sae, 5) / 5**0.5, torch.zeros(5))
        with torch.no_grad():
            sae.W_enc[:, 0] = torch.tensor([0, 0, 0, 0, 1.0])
        fired = torch.zeros(3, d_sae, dtype=torch.bool)
        fired[1, 0] = True
        f(sae, torch.optim.Adam(sae.parameters()), fired, inputs.clone(), loss_weighted)
        given.append((sae.W_dec[1:] @ F.normalize(inputs, dim=1).T).argmax(dim=1))
    return torch.stack(given)


def _shares(given: Tensor) -> Tensor:
    return torch.bincount(given.flatten(), minlength=4).double() / given.numel()


# 6000 draws: a share has a standard deviation of at most 0.0065, the difference of two answers 0.0091; 0.045 is five of these
@resampling.case("how often each input is drawn, by squared loss (sorted shares)", weight=2, rule=Close(0, 0.045))
def _(f, draw):
    return _shares(_how_often(f, draw, 6001, 1, True)).sort().values


@resampling.case("how often each input is drawn without weights (sorted shares)", rule=Close(0, 0.045))
def _(f, draw):
    return _shares(_how_often(f, draw, 6001, 1, False)).sort().values


# 150 calls: shares have a standard deviation of at most 0.041, differences 0.058; 0.3 is five of these. With or without replacement
@resampling.case(
    "many small calls: two new latents need not be equal, the worst input is likely, not certain",
    rule={"calls in which both new latents are equal": Between(0, 0.8), "*": Close(0, 0.3)},
)
def _(f, draw):
    given = _how_often(f, draw, 3, 150, True)
    return {
        "calls in which both new latents are equal": (given[:, 0] == given[:, 1]).double().mean(),
        "share of the input with the largest loss": _shares(given)[3],
    }


def _resample_with(
    dead_of=None,
    picked=None,
    scale=None,
    keep_moments=False,
    keep_bias=False,
    row=None,
    power=2,
    optimizer_all=False,
    target=None,
    all_columns=False,
):
    """Resampling with one part replaced: for the mistakes below."""

    def resample_latents(sae, optimizer, fired, x, loss_weighted=True):
        is_dead = ~fired.any(0) if dead_of is None else dead_of(fired)
        dead = is_dead.nonzero().flatten()
        if len(dead) == 0:
            return dead
        with torch.no_grad():
            loss = (x - sae(x)[0]).square().sum(-1)
            weight = loss**power if loss_weighted else torch.ones(len(x))
            if picked is None:
                rows = torch.multinomial(weight, len(dead), replacement=True)
            else:
                rows = picked(weight, len(dead))
            direction = F.normalize((x - sae.b_dec if target is None else target(x, sae))[rows], dim=1)
            alive = (sae.W_enc if all_columns else sae.W_enc[:, ~is_dead]).norm(dim=0).mean()
            sae.W_dec[dead] = direction if row is None else row(x[rows], sae)
            sae.W_enc[:, dead] = (0.2 * alive if scale is None else scale(alive)) * direction.T
            if not keep_bias:
                sae.b_enc[dead] = 0
            places = {sae.W_dec: (dead,), sae.W_enc: (slice(None), dead), sae.b_enc: (dead,)}
            for parameter, part in places.items():
                for key in ("exp_avg", "exp_avg_sq"):
                    if key in optimizer.state[parameter] and not keep_moments:
                        optimizer.state[parameter][key][... if optimizer_all else part] = 0
        return dead

    return resample_latents


def _resampling_mistake(explanation, name, **parts):
    resampling.mistake(explanation, name=name)(_resample_with(**parts))


_resampling_mistake(
    "Adam's moments are left: what its dead predecessor did still scales (and, after a short window, pushes) the fresh latent's first "
    "steps. Set `exp_avg` and `exp_avg_sq` to 0 at its places.",
    "moments_left",
    keep_moments=True,
)
_resampling_mistake(
    "Adam's whole memory is cleared, the living latents' too. Only the places of dead latents are to be set to 0.",
    "all_moments_cleared",
    optimizer_all=True,
)
_resampling_mistake(
    "The input with the largest loss is always taken (argmax). Draw with `torch.multinomial`, or all dead latents become the same "
    "outlier.",
    "argmax_not_sampled",
    picked=lambda weight, n: weight.argmax().expand(n),
)
_resampling_mistake(
    "One input is drawn and used for all dead latents. Draw one for each, with replacement.",
    "one_vector_for_all",
    picked=lambda weight, n: torch.multinomial(weight, 1).expand(n),
)
_resampling_mistake(
    "The weights are ignored: inputs are drawn uniformly even with `loss_weighted=True`.",
    "weights_ignored",
    picked=lambda weight, n: torch.randint(len(weight), (n,)),
)
_resampling_mistake(
    "Inputs are drawn by their loss; it is the *square* of the loss that favours the worst ones.",
    "loss_not_squared",
    power=1,
)
_resampling_mistake(
    "A latent counts as dead if it was silent at *any* step. It is dead only if it fired at no step of the whole window: "
    "`~fired.any(0)`.",
    "dead_at_any_step",
    dead_of=lambda fired: ~fired.all(0),
)
_resampling_mistake(
    "Only the last step decides. Dead means silent over the whole window: `~fired.any(0)`.",
    "dead_at_the_last_step",
    dead_of=lambda fired: ~fired[-1],
)
_resampling_mistake(
    "The living latents are resampled: `fired.any(0)` says who is alive.",
    "living_resampled",
    dead_of=lambda fired: fired.any(0),
)
_resampling_mistake(
    "New encoder columns have norm 1: use 0.2 times the mean norm of the living columns, or the newcomers fire on everything.",
    "encoder_norm_one",
    scale=lambda alive: 1.0,
)
_resampling_mistake(
    "New encoder columns have the mean norm of the living ones; the factor 0.2 is missing.",
    "factor_missing",
    scale=lambda alive: alive,
)
_resampling_mistake(
    "`b_dec` is not subtracted, neither for the decoder row nor for the encoder column: the encoder sees x - b_dec, so the new "
    "direction is along that.",
    "input_not_centred",
    target=lambda x, sae: x,
)
_resampling_mistake(
    "The new direction is the residual x - x_hat, as in exercise 04.8. Both recipes are in use; here it is the input less b_dec.",
    "residual_for_input",
    target=lambda x, sae: x - sae(x)[0],
)
_resampling_mistake(
    "The mean norm is taken over all encoder columns, the dead ones too. Only the living ones say how long one should be.",
    "dead_columns_in_the_mean",
    all_columns=True,
)
_resampling_mistake("The encoder bias of a new latent keeps its old value; set it to 0.", "bias_left", keep_bias=True)
_resampling_mistake(
    "The decoder row is the input itself. Divide it by its norm: rows of W_dec have norm 1.",
    "row_not_normalised",
    row=lambda x, sae: x - sae.b_dec,
)
_resampling_mistake(
    "`b_dec` is not subtracted: the encoder sees x - b_dec, so the new direction is along that.",
    "resampling_b_dec_not_subtracted",
    row=lambda x, sae: F.normalize(x, dim=1),
)


@resampling.alternative
def latent_by_latent(sae, optimizer, fired, x, loss_weighted=True):
    alive = fired.sum(dim=0) > 0
    dead = [i for i in range(len(alive)) if not alive[i]]
    if not dead:
        return torch.empty(0, dtype=torch.long)
    with torch.no_grad():
        error = ((x - sae(x)[0]) ** 2).sum(dim=1)
        p = error**2 if loss_weighted else torch.ones_like(error)
        rows = torch.distributions.Categorical(probs=p / p.sum()).sample((len(dead),))
        size = torch.linalg.norm(sae.W_enc.data[:, alive], dim=0).mean() / 5
        centred = x[rows] - sae.b_dec
        unit = centred / centred.norm(dim=1, keepdim=True)
        index = torch.tensor(dead, dtype=torch.long)
        for parameter, new in ((sae.W_enc, size * unit.T), (sae.W_dec, unit), (sae.b_enc, torch.zeros(len(dead)))):
            axis = parameter.ndim - 1 if parameter is sae.W_enc else 0
            parameter.data.index_copy_(axis, index, new)
            for moment in optimizer.state.get(parameter, {}).values():
                if moment.shape == parameter.shape:
                    moment.index_fill_(axis, index, 0.0)
    return index


# 05.11 -------------------------------------------------------------------------------------------------------


def _matryoshka_loss(x: Tensor, f: Tensor, W_dec: Tensor, b_dec: Tensor, widths: tuple[int, ...]) -> Tensor:
    errors = [(x - f[:, :m] @ W_dec[:m] - b_dec).square().sum(-1).mean() for m in widths]
    return torch.stack(errors).sum()


matryoshka = lesson.exercise(
    11,
    title="The Matryoshka loss",
    answer="matryoshka_loss",
    reference=_matryoshka_loss,
    points=2,
    difficulty=3,
    importance=3,
    minutes=12,
    hints=(
        "A doll within a doll: the first 4 latents must reconstruct x by themselves, and so must the first 8, and the first 16.",
        "For each width m use `f[:, :m] @ W_dec[:m] + b_dec`. Each prefix starts at latent 0; the prefixes overlap.",
        "`errors = [(x - f[:, :m] @ W_dec[:m] - b_dec).square().sum(-1).mean() for m in widths]`; `return sum(errors)`.",
    ),
)


def _nested_problem(draw):
    return draw.normal(15, 5), draw.uniform(15, 16), F.normalize(draw.normal(16, 5), dim=1), draw.normal(5)


@matryoshka.case("three widths", weight=2)
def _(f, draw):
    return f(*_nested_problem(draw), (3, 8, 16))


@matryoshka.case("one width: the plain reconstruction error")
def _(f, draw):
    return f(*_nested_problem(draw), (16,))


@matryoshka.case("a largest width below d_sae")
def _(f, draw):
    return f(*_nested_problem(draw), (2, 6))


@matryoshka.case("gradients in f, W_dec and b_dec", weight=2, rule=Close(1e-3, 1e-4))
def _(f, draw):
    x, latents, W_dec, b_dec = _nested_problem(draw)
    latents, W_dec, b_dec = _leaf(latents), _leaf(W_dec), _leaf(b_dec)
    return _gradients(f(x, latents, W_dec, b_dec, (3, 8, 16)), f=latents, W_dec=W_dec, b_dec=b_dec)


def _nested(x, f, W_dec, b_dec, starts_and_ends):
    return torch.stack([(x - f[:, a:b] @ W_dec[a:b] - b_dec).square().sum(-1).mean() for a, b in starts_and_ends])


@matryoshka.mistake(
    "The groups are disjoint: latents 3 to 8 without the first 3. Each width takes *all* latents from 0 on."
)
def disjoint_groups(x, f, W_dec, b_dec, widths):
    return _nested(x, f, W_dec, b_dec, zip((0, *widths[:-1]), widths)).sum()


@matryoshka.mistake("Only the full dictionary is scored: then nothing makes the first latents general.")
def full_width_only(x, f, W_dec, b_dec, widths):
    return _nested(x, f, W_dec, b_dec, [(0, f.shape[1])]).sum()


@matryoshka.mistake(
    "The errors of the widths are averaged. Add them, as the paper does: the L1 or L0 term is weighed against the sum."
)
def mean_over_widths(x, f, W_dec, b_dec, widths):
    return _nested(x, f, W_dec, b_dec, [(0, m) for m in widths]).mean()


@matryoshka.mistake("`b_dec` is missing from the reconstructions: every doll gets the whole bias.")
def matryoshka_without_bias(x, f, W_dec, b_dec, widths):
    return _nested(x, f, W_dec, 0 * b_dec, [(0, m) for m in widths]).sum()


@matryoshka.mistake(
    "The prefixes are taken from the batch, not from the latents: slice the second axis of f, `f[:, :m]`."
)
def sliced_batch(x, f, W_dec, b_dec, widths):
    return torch.stack([(x[:m] - f[:m] @ W_dec - b_dec).square().sum(-1).mean() for m in widths]).sum()


@matryoshka.mistake("The last latents are taken (`-m:`). A prefix is the *first* m of them.")
def suffixes(x, f, W_dec, b_dec, widths):
    d_sae = f.shape[1]
    return _nested(x, f, W_dec, b_dec, [(d_sae - m, d_sae) for m in widths]).sum()


@matryoshka.mistake("The error is averaged over dimensions: sum over them, as in every loss of this lesson.")
def matryoshka_mean_over_dimensions(x, f, W_dec, b_dec, widths):
    return _matryoshka_loss(x, f, W_dec, b_dec, widths) / x.shape[1]


@matryoshka.mistake(
    "Each doll reconstructs only what the smaller one left, with the smaller one frozen. Here each prefix is trained as a whole."
)
def residual_of_frozen_prefix(x, f, W_dec, b_dec, widths):
    errors, before = [], b_dec
    for a, b in zip((0, *widths[:-1]), widths):
        now = before + f[:, a:b] @ W_dec[a:b]
        errors.append((x - now).square().sum(-1).mean())
        before = now.detach()
    return torch.stack(errors).sum()


@matryoshka.alternative
def running_reconstruction(x, f, W_dec, b_dec, widths):
    x_hat, start, total = b_dec.expand_as(x), 0, 0.0
    for end in widths:
        x_hat = x_hat + f[:, start:end] @ W_dec[start:end]
        total = total + F.mse_loss(x_hat, x, reduction="sum") / x.shape[0]
        start = end
    return total


# 05.12 -------------------------------------------------------------------------------------------------------


def _train(sae: Coder, activations: Tensor, loss_fn, steps: int, batch_size: int, lr: float) -> Tensor:
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr)
    losses = []
    for _step in range(steps):
        x = activations[torch.randint(len(activations), (batch_size,))]
        loss = loss_fn(sae, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        losses.append(loss.item())
    return torch.tensor(losses)


train = lesson.exercise(
    12,
    title="Train it",
    answer="train",
    reference=_train,
    points=3,
    difficulty=3,
    importance=5,
    minutes=20,
    hints=(
        "One Adam over all of the SAE's parameters; then, `steps` times: a random batch, the loss, zero the gradients, backward, step, and "
        "the decoder's rows back to norm 1.",
        "`activations[torch.randint(len(activations), (batch_size,))]` is a random batch. `loss_fn(sae, x)` gives the loss. Write down "
        "`loss.item()`, not the tensor: that would keep every step's graph in memory.",
        "`optimizer = torch.optim.Adam(sae.parameters(), lr=lr)`; in the loop: `loss = loss_fn(sae, x)`; `optimizer.zero_grad()`; "
        "`loss.backward()`; `optimizer.step()`; `sae.W_dec.data = F.normalize(sae.W_dec.data, dim=1)`; `losses.append(loss.item())`. "
        "Return `torch.tensor(losses)`.",
    ),
)


def _truth(draw, n: int = 6, d: int = 4, samples: int = 1500) -> tuple[Tensor, Tensor]:
    """Six directions in four dimensions, each active in a sixth of the samples."""
    directions = F.normalize(draw.normal(n, d), dim=1)
    f = draw.uniform(samples, n, low=0.5, high=1.5) * (draw.uniform(samples, n) < 1 / 6)
    return directions, draw.lend((f @ directions + 0.3 + 0.02 * draw.normal(samples, d)).numpy())


def _topk_objective(sae: Coder, x: Tensor) -> Tensor:
    f = _topk((x - sae.b_dec) @ sae.W_enc + sae.b_enc, 2)
    return (x - sae.decode(f)).square().sum(-1).mean()


@train.case("the loss falls", weight=2, rule=Between(0, 1))
def _(f, draw):
    sae, (_, x) = _coder(draw, 4, 8), _truth(draw)
    losses = torch.as_tensor(f(sae, x, _topk_objective, 150, 128, 0.02))
    with torch.no_grad():
        after = _topk_objective(sae, x)
    # the reference ends at 2 to 8% of where it starts (seeds 0 to 30)
    return {
        "after / first loss x 3": 3 * after / losses[0],
        "last / first loss x 3": 3 * losses[-10:].mean() / losses[0],
    }


@train.case("one loss for each step", rule=Exact())
def _(f, draw):
    sae, (_, x) = _coder(draw, 4, 8), _truth(draw)
    losses = torch.as_tensor(f(sae, x, _topk_objective, 7, 32, 0.01))
    return {"shape": str(list(losses.shape)), "carries a graph": bool(losses.requires_grad)}


@train.case("all four parameters move, and decoder rows keep norm 1", rule=Exact())
def _(f, draw):
    sae, (_, x) = _coder(draw, 4, 8), _truth(draw)
    before = {name: value.detach().clone() for name, value in _parameters(sae).items()}
    f(sae, x, _topk_objective, 12, 64, 0.02)
    moved = {
        f"{name} moved": bool((value - before[name]).abs().max() > 1e-3) for name, value in _parameters(sae).items()
    }
    unit = torch.allclose(sae.W_dec.norm(dim=1), torch.ones(()), atol=1e-4)
    return {**moved, "rows of W_dec have norm 1": unit}


@train.case(
    "batches are random rows of the activations",
    weight=2,
    rule={"*": Exact(), "share of all rows seen": Between(0.7, 1)},
)
def _(f, draw):
    sae, (_, x) = _coder(draw, 4, 8), _truth(draw, samples=400)
    seen = []

    def objective(model, batch):
        seen.append(batch.detach().clone())
        return _topk_objective(model, batch)

    f(sae, x, objective, 25, 32, 0.01)  # 800 rows of 400: with replacement 86% are seen, in epochs all
    nearest = [torch.cdist(batch, x, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1) for batch in seen]
    return {
        "batch sizes": str(sorted({len(batch) for batch in seen})),
        "batches": len(seen),
        "rows that are not activations": int(sum((near.values > 1e-4).sum() for near in nearest)),
        "share of all rows seen": len(torch.cat([near.indices for near in nearest]).unique()) / len(x),
        "first batch in the order of the data": bool((nearest[0].indices.diff() == 1).all()),
    }


@train.case("Adam steps under a steady slope: each moves a parameter by lr", weight=2, rule=Close(2e-3, 1e-6))
def _(f, draw):
    # with Adam and a constant gradient each step is lr long; gradients that pile up (no zero_grad) change that
    sae, (_, x) = _coder(draw, 4, 8), _truth(draw)
    slope, before = draw.normal(8), sae.b_enc.detach().clone()
    f(sae, x, lambda model, batch: (model.b_enc * slope).sum() + 0 * model.W_dec.sum(), 10, 32, 0.05)
    return (sae.b_enc.detach() - before).abs() / 0.05


@train.case("one Adam for all steps: it remembers earlier gradients", rule=Between(1.5, 4))
def _(f, draw):
    # the slope is 1, -3, 1, -3 ... and turns round after each step, however often the loss is asked for. A new optimizer sees the
    # sign alone: its ten steps cancel (0.00 lr). One that remembers follows the mean slope: 2.62 lr (betas=(0.9, 0.99): 2.62 too).
    sae, (_, x) = _coder(draw, 4, 8), _truth(draw)
    before = sae.b_enc.detach().clone()
    places = [before]

    def objective(model, batch):
        if not torch.equal(model.b_enc.detach(), places[-1]):
            places.append(model.b_enc.detach().clone())
        return model.b_enc.sum() * (1 if len(places) % 2 else -3) + 0 * model.W_dec.sum()

    f(sae, x, objective, 10, 32, 0.05)
    return (sae.b_enc.detach() - before).abs().mean() / 0.05


def _train_with(
    pick=None, zero=True, step=True, normalise=True, parameters=None, optimizer=torch.optim.Adam, out=None, anew=False
):
    """The training loop with one part replaced: for the mistakes below."""

    def train(sae, activations, loss_fn, steps, batch_size, lr):
        chosen = list(sae.parameters()) if parameters is None else parameters(sae)
        opt = optimizer(chosen, lr=lr)
        losses = []
        fixed = torch.randint(len(activations), (batch_size,))
        for i in range(steps):
            if anew:
                opt = optimizer(chosen, lr=lr)
            rows = (
                torch.randint(len(activations), (batch_size,))
                if pick is None
                else pick(i, len(activations), batch_size, fixed)
            )
            loss = loss_fn(sae, activations[rows])
            if zero:
                opt.zero_grad()
            if loss.requires_grad:
                loss.backward()
            if step:
                opt.step()
            if normalise:
                sae.W_dec.data = F.normalize(sae.W_dec.data, dim=1)
            losses.append(loss.item())
        return torch.tensor(losses) if out is None else out(losses)

    return train


def _train_mistake(explanation, name, **parts):
    train.mistake(explanation, name=name)(_train_with(**parts))


_train_mistake(
    "Gradients pile up from step to step: call `optimizer.zero_grad()` before `backward`.", "no_zero_grad", zero=False
)
_train_mistake(
    "`optimizer.step()` is missing: gradients are computed and nothing moves.", "no_optimizer_step", step=False
)
_train_mistake(
    "The decoder's rows are not brought back to norm 1 after each step: L1 is then cheated by long rows and small latents.",
    "decoder_left_to_grow",
    normalise=False,
)
_train_mistake(
    "Every step sees the same batch. Draw a new one inside the loop.",
    "same_batch_each_step",
    pick=lambda i, n, size, fixed: fixed,
)
_train_mistake(
    "Batches are taken in the data's own order. Neighbouring activations come from the same text: draw rows at random.",
    "batches_in_order",
    pick=lambda i, n, size, fixed: (torch.arange(size) + i * size) % n,
)
_train_mistake(
    "Each step uses all activations and not `batch_size` of them.",
    "whole_data_each_step",
    pick=lambda i, n, size, fixed: torch.randperm(n),
)
_train_mistake(
    "Only the decoder is trained: give the optimizer `sae.parameters()`.",
    "only_the_decoder",
    parameters=lambda sae: [sae.W_dec, sae.b_dec],
)
_train_mistake(
    "The biases are left out of the optimizer: give it `sae.parameters()`.",
    "no_biases",
    parameters=lambda sae: [sae.W_enc, sae.W_dec],
)
_train_mistake("Plain gradient descent is used; the exercise asks for Adam.", "plain_sgd", optimizer=torch.optim.SGD)
_train_mistake(
    "A new Adam is made in each step: it remembers no earlier gradient, so it has neither momentum nor a scale for the step. Make "
    "one before the loop.",
    "new_adam_each_step",
    anew=True,
)
_train_mistake(
    "Only the last loss is returned: return one for each step.",
    "last_loss_only",
    out=lambda losses: torch.tensor(losses[-1]),
)
_train_mistake(
    "The learning rate is not passed on, so Adam uses its own 0.001.",
    "default_learning_rate",
    optimizer=lambda chosen, lr: torch.optim.Adam(chosen),
)


@train.alternative
def in_epochs(sae, activations, loss_fn, steps, batch_size, lr):
    optimizer = torch.optim.AdamW(sae.parameters(), lr=lr, weight_decay=0.0, betas=(0.9, 0.99))
    losses, order = [], torch.empty(0, dtype=torch.long)
    while len(losses) < steps:
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(activations))])
        rows, order = order[:batch_size], order[batch_size:]
        sae.zero_grad()
        loss = loss_fn(sae, activations[rows])
        loss.backward()
        with torch.no_grad():
            unit = F.normalize(sae.W_dec, dim=1)
            sae.W_dec.grad -= (sae.W_dec.grad * unit).sum(1, keepdim=True) * unit
            optimizer.step()
            sae.W_dec.copy_(F.normalize(sae.W_dec, dim=1))
        losses.append(float(loss))
    return losses


# 05.13 to 05.16: on a real language model ----------------------------------------------------------------------
# (collecting activations, the shuffling buffer, metrics with the reconstruction spliced in, the Pareto curve)

language_model_05.add_to(lesson)

# 05.17 -------------------------------------------------------------------------------------------------------


def _stability(W_a: Tensor, W_b: Tensor, threshold: float = 0.9) -> tuple[float, Tensor]:
    matched = match_directions(W_b, W_a)[1]
    return float((matched > threshold).float().mean()), matched


stability = lesson.exercise(
    17,
    title="Stability: do two seeds agree?",
    answer="stability",
    reference=_stability,
    points=2,
    difficulty=3,
    importance=4,
    minutes=12,
    hints=(
        "Latent 7 of one run need not be latent 7 of the other. Who is whose partner, if each may have only one?",
        "Cosines of all pairs of decoder rows, then `scipy.optimize.linear_sum_assignment`, which *minimises*: give it the negative.",
        "`cosines = F.normalize(W_a, dim=1) @ F.normalize(W_b, dim=1).T`; `rows, columns = linear_sum_assignment(-cosines)`; `matched = "
        "cosines[rows, columns]`; return `(matched > threshold).float().mean()` and `matched`.",
    ),
)


def _two_runs(draw, n: int = 14, d: int = 6, noise: float = 0.25) -> tuple[Tensor, Tensor]:
    W_a = draw.normal(n, d)
    W_b = W_a[torch.from_numpy(draw.rng.permutation(n))] + noise * draw.normal(n, d)
    return draw.lend((2 * W_a).numpy()), draw.lend((3 * W_b).numpy())


def _agreement(result) -> dict:
    share, matched = result
    return {"share": float(share), "cosine of each latent's partner": torch.as_tensor(matched)}


@stability.case("two noisy copies in another order", weight=2)
def _(f, draw):
    return _agreement(f(*_two_runs(draw), 0.9))


@stability.case("two unrelated dictionaries")
def _(f, draw):
    return _agreement(f(draw.normal(14, 6), draw.normal(14, 6), 0.5))


@stability.case("several latents of one run near one of the other", weight=2)
def _(f, draw):
    W_a, W_b = _two_runs(draw)
    W_a = W_a.clone()
    W_a[:5] = W_a[0] + 0.1 * draw.normal(5, 6)
    return _agreement(f(W_a, W_b, 0.9))


@stability.case("partners that point the opposite way")
def _(f, draw):
    W_a, W_b = _two_runs(draw, noise=0.1)
    return _agreement(f(W_a, -W_b, 0.5))


@stability.case("the threshold is an argument", rule=Close(0, 1e-6))
def _(f, draw):
    runs = _two_runs(draw, noise=0.5)
    return [float(f(*runs, threshold)[0]) for threshold in (0.5, 0.8, 0.95)]


@stability.mistake(
    "Each latent takes its best partner, even if another has taken it already: five copies of one latent then count as five "
    "agreements. Match one to one (`linear_sum_assignment`)."
)
def best_partner(W_a, W_b, threshold=0.9):
    matched = (F.normalize(W_a, dim=1) @ F.normalize(W_b, dim=1).T).max(dim=1).values
    return float((matched > threshold).float().mean()), matched


@stability.mistake(
    "The sign is dropped. Latents are never negative, so a row and its opposite mean different things: no `abs`."
)
def sign_dropped(W_a, W_b, threshold=0.9):
    from scipy.optimize import linear_sum_assignment

    cosines = (F.normalize(W_a, dim=1) @ F.normalize(W_b, dim=1).T).abs()
    matched = cosines[linear_sum_assignment(-cosines.numpy())]
    return float((matched > threshold).float().mean()), matched


@stability.mistake(
    "`linear_sum_assignment` minimises, so this finds the *worst* partners: give it the negative of the cosines."
)
def worst_partners(W_a, W_b, threshold=0.9):
    from scipy.optimize import linear_sum_assignment

    cosines = F.normalize(W_a, dim=1) @ F.normalize(W_b, dim=1).T
    matched = cosines[linear_sum_assignment(cosines.numpy())]
    return float((matched > threshold).float().mean()), matched


@stability.mistake("Latent i is compared with latent i. The order of latents is arbitrary: match them first.")
def same_number(W_a, W_b, threshold=0.9):
    matched = (F.normalize(W_a, dim=1) * F.normalize(W_b, dim=1)).sum(1)
    return float((matched > threshold).float().mean()), matched


@stability.mistake("Rows are not divided by their norms: dot products are compared, not cosines.")
def dot_products(W_a, W_b, threshold=0.9):
    from scipy.optimize import linear_sum_assignment

    products = W_a @ W_b.T
    matched = products[linear_sum_assignment(-products.numpy())]
    return float((matched > threshold).float().mean()), matched


@stability.mistake("The threshold is fixed at 0.9 inside: use the argument.")
def fixed_threshold(W_a, W_b, threshold=0.9):
    _, matched = _stability(W_a, W_b)
    return float((matched > 0.9).float().mean()), matched


@stability.alternative
def with_numpy(W_a, W_b, threshold=0.9):
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    a, b = W_a.numpy(), W_b.numpy()
    cosines = a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    i, j = linear_sum_assignment(cosines, maximize=True)
    return np.mean(cosines[i, j] > threshold), cosines[i, j]


# 05.18 -------------------------------------------------------------------------------------------------------


def _absorption(f: Tensor, parent: Tensor, child: Tensor) -> tuple[int, float, float]:
    on = f > 0
    both = (on & parent[:, None]).sum(0)
    f1 = 2 * both / (on.sum(0) + parent.sum())
    latent = int(f1.argmax())
    silent = ~on[:, latent]
    return latent, float(silent[child].float().mean()), float(silent[parent & ~child].float().mean())


absorption = lesson.exercise(
    18,
    title="Splitting and absorption",
    answer="absorption",
    reference=_absorption,
    points=3,
    difficulty=3,
    importance=4,
    minutes=18,
    hints=(
        "First find the latent that stands for the parent: the one that fires when the parent is there and only then. Then look at the "
        "samples with the child: does that latent still fire?",
        "F1 of latent j as a detector of the parent: 2 x (samples with both) / (samples with latent j on + samples with the parent). The "
        "largest wins. Absorbed = share of the child's samples in which it is silent; compare with its silence on the parent *without* the "
        "child.",
        "`on = f > 0`; `f1 = 2 * (on & parent[:, None]).sum(0) / (on.sum(0) + parent.sum())`; `latent = int(f1.argmax())`; "
        "`silent = ~on[:, latent]`; return `latent, silent[child].float().mean(), silent[parent & ~child].float().mean()`.",
    ),
)


def _hierarchy_problem(draw, samples: int = 240):
    """A parent in half of the samples, a child in a third of those; latent 2 follows the parent but is often silent at the child.

    Latent 0 is on nearly always (perfect recall), latent 1 is rare and precise, latent 3 follows the child, latent 4 is large and
    random.
    """
    u = draw.rng.random((samples, 8))
    parent = u[:, 0] < 0.5
    child = parent & (u[:, 1] < 1 / 3)
    on = draw.rng.random((samples, 5)) < 0.3
    on[:, 0] = u[:, 2] < 0.97
    on[:, 1] = parent & ~child & (u[:, 3] < 0.15)
    on[:, 2] = (parent & ~child & (u[:, 4] < 0.9)) | (child & (u[:, 5] < 0.3)) | (~parent & (u[:, 6] < 0.05))
    on[:, 3] = child & (u[:, 7] < 0.95)
    size = draw.rng.uniform(0.5, 1.0, (samples, 5)) * [1, 1, 1, 2, 6]
    return draw.lend((on * size).astype("float32")), draw.lend(parent), draw.lend(child)


@absorption.case("the parent's latent", rule=Exact())
def _(f, draw):
    return int(f(*_hierarchy_problem(draw))[0])


@absorption.case("how often it is silent at the child", weight=2)
def _(f, draw):
    return float(f(*_hierarchy_problem(draw))[1])


@absorption.case("how often it is silent at the parent alone")
def _(f, draw):
    return float(f(*_hierarchy_problem(draw))[2])


@absorption.case("a parent latent that is never silent")
def _(f, draw):
    latents, parent, child = _hierarchy_problem(draw)
    latents = latents.clone()
    latents[:, 2] = parent.float()
    # latent 1 is the perfect detector of the parent *alone*, and silent at every child: the more absorbed, the better it would look
    latents[:, 1] = (parent & ~child).float()
    return [float(value) for value in f(latents, parent, child)]


def _absorption_by(choose=None, shares=None):
    def absorption(f, parent, child):
        on = f > 0
        both = (on & parent[:, None]).sum(0)
        f1 = 2 * both / (on.sum(0) + parent.sum())
        latent = int((f1 if choose is None else choose(f, on, parent, child)).argmax())
        silent = ~on[:, latent]
        if shares is None:
            return latent, float(silent[child].float().mean()), float(silent[parent & ~child].float().mean())
        return latent, *(float(share) for share in shares(silent, parent, child))

    return absorption


def _absorption_mistake(explanation, name, **parts):
    absorption.mistake(explanation, name=name)(_absorption_by(**parts))


_absorption_mistake(
    "The latent is chosen by recall alone, so one that is always on wins. F1 also asks that it be off elsewhere.",
    "chosen_by_recall",
    choose=lambda f, on, parent, child: (on & parent[:, None]).sum(0) / parent.sum(),
)
_absorption_mistake(
    "The latent is chosen by precision alone, so one that hardly ever fires wins. F1 also asks that it find most of the samples.",
    "chosen_by_precision",
    choose=lambda f, on, parent, child: (
        (on & parent[:, None]).sum(0) / on.sum(0) + 1e-6 * (f.shape[1] - torch.arange(f.shape[1]))
    ),
)
_absorption_mistake(
    "F1 is taken against the parent *alone*: that rewards a latent for being silent at the child, the very thing to be measured. "
    "Take it against `parent`.",
    "f1_against_the_parent_alone",
    choose=lambda f, on, parent, child: (
        2 * (on & (parent & ~child)[:, None]).sum(0) / (on.sum(0) + (parent & ~child).sum())
    ),
)
_absorption_mistake(
    "The latent with the largest mean activation is chosen: size says nothing about what it stands for.",
    "chosen_by_size",
    choose=lambda f, on, parent, child: f[parent].mean(0),
)
_absorption_mistake(
    "The *child's* latent is chosen. Absorption is seen in the parent's latent: it goes silent where the child's has taken over.",
    "the_childs_latent",
    choose=lambda f, on, parent, child: (on & child[:, None]).sum(0) / (on.sum(0) + child.sum()),
)
_absorption_mistake(
    "The share counts samples where the latent *fires*. Absorption is where it is silent.",
    "firing_not_silent",
    shares=lambda silent, parent, child: ((~silent)[child].float().mean(), (~silent)[parent & ~child].float().mean()),
)
_absorption_mistake(
    "The counts are divided by all samples. The first share is of the samples with the child, the second of those with the parent alone.",
    "share_of_all_samples",
    shares=lambda silent, parent, child: ((silent & child).float().mean(), (silent & parent & ~child).float().mean()),
)
_absorption_mistake(
    "The second share includes samples with the child: compare with the parent *alone*, `parent & ~child`.",
    "parent_with_the_child",
    shares=lambda silent, parent, child: (silent[child].float().mean(), silent[parent].float().mean()),
)
_absorption_mistake(
    "The second share is over samples without the child, parent or not: where the parent is absent its latent ought to be silent.",
    "all_without_the_child",
    shares=lambda silent, parent, child: (silent[child].float().mean(), silent[~child].float().mean()),
)


@absorption.alternative
def with_numpy_loops(f, parent, child):
    import numpy as np

    on, parent, child = f.numpy() > 0, parent.numpy(), child.numpy()
    scores = []
    for j in range(on.shape[1]):
        hits = np.sum(on[:, j] * parent)
        precision, recall = hits / max(on[:, j].sum(), 1), hits / parent.sum()
        scores.append(2 * precision * recall / max(precision + recall, 1e-9))
    best = int(np.argmax(scores))
    return best, 1 - on[child, best].mean(), 1 - on[parent & ~child, best].mean()
