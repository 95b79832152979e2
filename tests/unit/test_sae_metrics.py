"""Metrics against values worked out by hand or by another route."""

from __future__ import annotations

import pytest
import torch

from course_utils.sae import SAE, SAEConfig, chance_baselines, evaluate_sae, match_directions, recovery, seed_stability


def test_perfect_mean_and_shrunk_reconstructions():
    """Identity dictionary on non-negative data: perfect; with everything dead: as good as the mean; shrunk by half."""
    x = torch.rand(500, 6, generator=torch.Generator().manual_seed(0)) + 100  # a large offset, where naive sums fail
    sae = SAE(SAEConfig(d_in=6, d_sae=6, architecture="standard")).double().eval()
    sae.W_enc.data.copy_(torch.eye(6))
    sae.W_dec.data.copy_(torch.eye(6))
    found = evaluate_sae(sae, x.double(), batch_size=64)
    assert found["fvu"] == pytest.approx(0, abs=1e-9)
    assert found["cosine"] == pytest.approx(1)
    assert found["l0"] == 6
    assert found["dense_fraction"] == 1
    sae.b_enc.data.fill_(-1000)
    sae.b_dec.data.copy_(x.double().mean(0))
    found = evaluate_sae(sae, x.double(), batch_size=64)
    assert found["fvu"] == pytest.approx(1, abs=1e-9)
    assert found["dead_fraction"] == 1
    assert found["l0"] == 0
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    sae.W_dec.data.copy_(torch.eye(6) / 2)
    found = evaluate_sae(sae, x.double(), batch_size=64)
    assert found["length_ratio"] == pytest.approx(0.5)
    assert found["mse"] == pytest.approx(float((x.double() / 2).square().sum(1).mean()))


def test_fvu_is_about_the_mean_and_does_not_depend_on_batches():
    x = torch.randn(700, 8, generator=torch.Generator().manual_seed(1)) + 3
    sae = SAE(SAEConfig(d_in=8, d_sae=24, k=4)).eval()
    x_hat = sae.decode(sae.encode(x)).detach()
    expected = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
    for batch_size in (700, 64, 1):
        assert evaluate_sae(sae, x, batch_size=batch_size)["fvu"] == pytest.approx(expected, rel=1e-4)


def test_matching_gives_each_direction_one_of_its_own():
    wanted = torch.eye(4)
    found = torch.stack([wanted[2], wanted[0] + 0.1 * wanted[1], wanted[0], -wanted[3], wanted[1]])
    index, cosine = match_directions(found, wanted)
    assert index.tolist()[:3] == [2, 4, 0]
    torch.testing.assert_close(cosine[:3], torch.ones(3))
    few, value = match_directions(found[:1], wanted)
    assert few.tolist() == [-1, -1, 0, -1]
    assert value.tolist() == [0, 0, 1, 0]
    assert recovery(found, wanted)["recovered_0.9"] == 3


def test_chance_depends_on_dimension_as_it_should():
    """In 2 dimensions random directions match nearly anything; in 64 nothing; sparse data points are features themselves."""
    generator = torch.Generator().manual_seed(0)
    assert chance_baselines(torch.randn(100, 2, generator=generator), torch.eye(2), 64)["random"] == 2
    wide = chance_baselines(torch.randn(100, 64, generator=generator), torch.eye(64), 64)
    assert wide["random"] == 0
    assert chance_baselines(torch.eye(64).repeat(3, 1), torch.eye(64), 640)["data"] > 60


def test_stability_is_one_for_copies_up_to_order_and_low_for_strangers():
    cfg = SAEConfig(d_in=32, d_sae=48, k=4)
    a, b = SAE(cfg), SAE(cfg)
    b.W_dec.data = a.W_dec.data[torch.randperm(48, generator=torch.Generator().manual_seed(0))]
    assert seed_stability([a, b])["shared_fraction"] == 1
    assert seed_stability([a, SAE(cfg.replace(seed=7))])["shared_fraction"] < 0.2
    with pytest.raises(ValueError, match="at least two"):
        seed_stability([a])
