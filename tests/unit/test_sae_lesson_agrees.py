"""Lesson 05's own code is simpler than the library; both must say the same on the same weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from course_utils import lessons
from course_utils.grading.local import load_answers
from course_utils.sae import SAE, SAEConfig, match_directions
from course_utils.sae.architectures.jumprelu import Heaviside, JumpReLU

D_IN, D_SAE, BATCH = 6, 20, 32


@pytest.fixture(scope="module")
def lesson() -> SimpleNamespace:
    path = next(source.path for source in lessons.sources() if source.number == "05")
    return SimpleNamespace(**load_answers(path).names)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(1))


def library(architecture: str, **settings) -> SAE:
    """A library SAE with unit decoder rows and every other parameter away from where it starts."""
    sae = SAE(SAEConfig(D_IN, D_SAE, architecture=architecture, fast=False, **{"aux_coefficient": 0.0, **settings}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name != "W_dec":
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return sae


def as_lesson(lesson: SimpleNamespace, sae: SAE):
    own = lesson.SAE(D_IN, D_SAE)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        getattr(own, name).data = getattr(sae, name).detach().clone()
    return own


def test_l1(lesson, x):
    theirs = library("standard", l1_coefficient=0.3)
    own, output = as_lesson(lesson, theirs), theirs(x)
    x_hat, f = own(x)
    torch.testing.assert_close(f, output.latents)
    torch.testing.assert_close(x_hat, output.x_hat)
    loss, squared_error, _ = lesson.l1_loss(own, x, 0.3)
    torch.testing.assert_close(loss, output.loss)
    torch.testing.assert_close(squared_error, output.losses["reconstruction"])


def test_topk(lesson, x):
    theirs = library("topk", k=3)
    pre = (x - theirs.b_dec) @ theirs.W_enc + theirs.b_enc
    torch.testing.assert_close(lesson.topk(pre, 3), theirs.encode(x))


def test_batchtopk_and_its_threshold(lesson, x):
    theirs = library("batchtopk", k=3, threshold_rate=0.1).train()
    layer = lesson.BatchTopK(3, rate=0.1)
    for scale in (1.0, 1.5, 0.7):
        pre = (scale * x - theirs.b_dec) @ theirs.W_enc + theirs.b_enc
        torch.testing.assert_close(layer(pre), theirs(scale * x).latents)
    torch.testing.assert_close(layer.threshold, theirs.threshold)
    torch.testing.assert_close(layer.eval()(pre), theirs.eval().encode(scale * x))


def test_gated(lesson, x):
    theirs = library("gated", l1_coefficient=0.2)
    output = theirs(x)
    loss, x_hat, f = lesson.gated_loss(theirs, x, 0.2)
    torch.testing.assert_close(loss, output.loss)
    torch.testing.assert_close(x_hat, output.x_hat)
    torch.testing.assert_close(f, output.latents)


def test_jumprelu_gradients(lesson):
    pre, log_threshold = torch.randn(BATCH, D_SAE), (-torch.rand(D_SAE)).requires_grad_()
    latents, l0 = lesson.jumprelu(pre, log_threshold, 0.4)
    threshold = log_threshold.exp()
    reference = JumpReLU.apply(pre, threshold, 0.4), Heaviside.apply(pre, threshold, 0.4).sum(-1)
    weight = torch.randn(BATCH)
    for own, theirs in zip(
        (latents * weight[:, None], l0 * weight), (reference[0] * weight[:, None], reference[1] * weight)
    ):
        torch.testing.assert_close(own, theirs)
        torch.testing.assert_close(
            torch.autograd.grad(own.sum(), log_threshold, retain_graph=True),
            torch.autograd.grad(theirs.sum(), log_threshold, retain_graph=True),
        )


def test_matryoshka(lesson, x):
    theirs = library("matryoshka", k=4, widths=(5, 10, D_SAE)).train()
    output = theirs(x)
    own = lesson.matryoshka_loss(x, output.latents, theirs.W_dec, theirs.b_dec, (5, 10, D_SAE))
    torch.testing.assert_close(own, output.loss)


def test_auxk(lesson, x):
    theirs = library("topk", k=3, aux_k=2, aux_fraction=1.0, aux_coefficient=1.0)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[[1, 4, 9, 15]] = True
    pre = (x - theirs.b_dec) @ theirs.W_enc + theirs.b_enc
    output = theirs(x, dead=dead)
    own = lesson.auxk_loss(x, output.x_hat, pre, dead, theirs.W_dec, 2)
    torch.testing.assert_close(own, output.losses["auxk"])


def test_unit_norm_step(lesson):
    theirs = library("standard")
    own = torch.nn.Parameter(theirs.W_dec.detach().clone())
    gradient = torch.randn(D_SAE, D_IN)
    theirs.W_dec.grad, own.grad = gradient.clone(), gradient.clone()
    theirs.project_decoder_gradient()
    torch.optim.SGD([theirs.W_dec], lr=0.1).step()
    theirs.normalise_decoder()
    lesson.unit_norm_step(own, torch.optim.SGD([own], lr=0.1))
    torch.testing.assert_close(own, theirs.W_dec)


def test_stability(lesson):
    a, b = F.normalize(torch.randn(12, 5), dim=1), F.normalize(torch.randn(12, 5), dim=1)
    torch.testing.assert_close(lesson.stability(a, b)[1], match_directions(b, a)[1])
