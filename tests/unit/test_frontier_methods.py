"""Meta-SAEs, absorption, circles and heads: measured on cases whose answer is known by hand."""

from __future__ import annotations

import math

import torch

from course_utils import sae


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ring(n: int, stretch: float = 1.0) -> torch.Tensor:
    angle = 2 * math.pi * torch.arange(n) / n
    plane = torch.linalg.qr(random(9, 2))[0].T
    return torch.stack([stretch * angle.cos(), angle.sin()], dim=1) @ plane + random(9, seed=1)


def test_a_ring_is_all_circle_and_half_line():
    found = sae.circular_structure(ring(7))
    assert abs(found.share - 1) < 1e-5
    assert abs(found.line - 0.5) < 1e-4
    assert abs(sae.circular_structure(ring(12, stretch=3)).line - 0.9) < 1e-4


def test_the_order_matters():
    means = ring(7)[[0, 2, 4, 6, 1, 3, 5]]  # goes round twice
    assert sae.circular_structure(means).share < 1e-5


def test_chance_is_two_over_n_minus_one():
    means = random(7, 20)
    shares = sae.shares_of_random_orders(means, 2000)
    spread = 4 * float(shares.std()) / 2000**0.5
    assert abs(float(shares.mean()) - 1 / 3) < spread
    own = sae.circular_structure(means).share
    assert float((shares - own).abs().min()) < 1e-4  # the natural order is among the orders


def test_absorption_needs_parent_silence_and_a_carrier():
    direction = torch.tensor([2.0, 0.0])
    W = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    f = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    present = torch.tensor([True, True, True, False])
    found = sae.feature_absorption(f, W, present, torch.ones(4), direction, 0)
    assert abs(found.silent - 2 / 3) < 1e-6
    assert abs(found.absorbed - 1 / 3) < 1e-6
    assert found.absorber == 1
    assert sae.feature_absorption(f, W, present, torch.ones(4), direction, 0, share=0.7).absorber == -1


def test_children_imply_parents_only_where_linked():
    generator = torch.Generator().manual_seed(0)
    for linked in (True, False):
        world = sae.hierarchy_world(linked=linked)
        _, on = world.sample(4000, generator)
        child = on[:, 4:].unflatten(1, (4, 5)).any(2)
        with_parent = float(on[:, :4][child].float().mean())
        assert with_parent == 1 if linked else abs(with_parent - 0.15) < 4 * (0.15 * 0.85 / int(child.sum())) ** 0.5


def test_heads_and_constants_make_up_the_pre_activation():
    z, W_O, W_enc = random(50, 3, 4), random(3, 4, 7, seed=1), random(7, 5, seed=2)
    everywhere = torch.ones(50, 5)
    parts = sae.head_attribution(z, W_O, W_enc, everywhere)
    whole = (torch.einsum("nhe,hed->nd", z, W_O) @ W_enc).mean(0)
    torch.testing.assert_close(parts.sum(0), whole, atol=1e-4, rtol=1e-4)
    silent = everywhere.index_fill(1, torch.tensor([2]), 0)
    assert not sae.head_attribution(z, W_O, W_enc, silent)[:, 2].any()


def test_the_top_head_counts_positive_parts():
    head, share = sae.top_head_share(torch.tensor([[3.0, -1.0], [1.0, -2.0], [-5.0, -3.0]]))
    assert int(head[0]) == 0
    torch.testing.assert_close(share, torch.tensor([0.75, 0.0]))


def test_a_meta_sae_finds_planted_parts_and_its_twin_has_none():
    planted = sae.composed_dictionary()
    meta = sae.train_meta_sae(planted.W_dec, 32, 3, steps=300, seed=1)
    families = sae.meta_families(planted.W_dec, meta)
    _, cosine = sae.match_directions(meta.W_dec, planted.parts)
    assert int((cosine > 0.9).sum()) >= 20
    twin = sae.gaussian_twin(planted.W_dec)
    assert sae.meta_families(twin, sae.train_meta_sae(twin, 32, 3, steps=300, seed=1)).fvu > 3 * families.fvu


def test_the_gaussian_twin_has_the_covariance():
    W = random(3000, 5) @ random(5, 5, seed=1)
    rows = torch.nn.functional.normalize(W, dim=1)
    # 15 different entries, each with a relative error of about sqrt(2 / 3000)
    assert (torch.cov(sae.gaussian_twin(W).T) - torch.cov(rows.T)).norm() < 0.15 * torch.cov(rows.T).norm()
