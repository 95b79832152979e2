"""Lesson 08's own classes are simpler than the library's; both must say the same on the same weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from course_utils import lessons, sae
from course_utils.grading.local import load_answers

D = 6


@pytest.fixture(scope="module")
def lesson() -> SimpleNamespace:
    path = next(source.path for source in lessons.sources() if source.number == "08")
    return SimpleNamespace(**load_answers(path).names)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def config(d_sae: int = 12) -> sae.SAEConfig:
    return sae.SAEConfig(D, d_sae, architecture="standard", l1_coefficient=0.3, unit_norm_decoder=False)


def test_transcoder(lesson):
    theirs, own = sae.Transcoder(config(), skip=True), lesson.Transcoder(D, D, 12, 0.3, skip=True)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip"):
        getattr(own, name).data = getattr(theirs, name).data = random(*getattr(theirs, name).shape, seed=len(name))
    x, y = random(20, D), random(20, D, seed=1)
    torch.testing.assert_close(own.loss(x, y), theirs(torch.cat([x, y], dim=1)).loss)


def test_crosscoder(lesson):
    theirs, own = sae.Crosscoder(config()), lesson.Crosscoder(2, D, 12, 0.3)
    own.W_enc.data = theirs.W_enc.detach().view(2, D, 12)
    own.W_dec.data = theirs.decoders.detach()
    x = random(20, 2, D)
    torch.testing.assert_close(own.loss(x), theirs(x.flatten(1)).loss)
    torch.testing.assert_close(own.relative_length(), theirs.relative_length())


def test_cross_layer_transcoder(lesson):
    theirs, own = sae.CrossLayerTranscoder(config(), 3), lesson.CrossLayerTranscoder(3, D, 4, 0.3)
    own.W_enc.data = theirs.W_enc.detach().view(3, D, 4)
    own.W_dec.data = theirs.W_dec.detach()
    x, y = random(20, 3, D), random(20, 3, D, seed=1)
    torch.testing.assert_close(own.loss(x, y), theirs(torch.cat([x.flatten(1), y.flatten(1)], dim=1)).loss)
