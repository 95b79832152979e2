"""Measures of superposition on arrangements whose values are known, exact losses against simulation, phase diagrams."""

import math

import pytest
import torch

from course_utils.toy import (
    PHASES,
    ToyModel,
    ToyModelConfig,
    best_allocation,
    classify_solution,
    data_point_dimensionality,
    expected_loss,
    expected_loss_of_strategies,
    feature_dimensionality,
    name_geometry,
    phase_diagram,
    polysemanticity_of_neurons,
    superposition_per_feature,
    triangle_loss,
)


def polygon(k):
    angle = torch.arange(k) * 2 * math.pi / k
    return torch.stack([angle.cos(), angle.sin()])


def tetrahedron():
    return torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).T / 3**0.5


def antiprism():
    low, high = torch.arange(4) * math.pi / 2, torch.arange(4) * math.pi / 2 + math.pi / 4
    z = 1 / 3**0.5  # makes the eight directions a tight frame
    r = (1 - z * z) ** 0.5
    flat = torch.cat([torch.stack([low.cos(), low.sin()]), torch.stack([high.cos(), high.sin()])], dim=1) * r
    return torch.cat([flat, torch.tensor([[z] * 4 + [-z] * 4])])


@pytest.mark.parametrize(
    ("W", "name", "share"),
    [
        (torch.tensor([[1.0, -1.0]]), "digon", 1 / 2),
        (polygon(3), "triangle", 2 / 3),
        (tetrahedron(), "tetrahedron", 3 / 4),
        (polygon(5), "pentagon", 2 / 5),
        (antiprism(), "square antiprism", 3 / 8),
        (torch.eye(1), "dedicated", 1.0),
    ],
)
def test_dimensionality_and_names_of_the_sticky_shapes(W, name, share):
    torch.testing.assert_close(feature_dimensionality(W[None])[0], torch.full((W.shape[1],), share))
    (cluster,) = name_geometry(W)
    assert (cluster.name, cluster.dimensionality) == (name, pytest.approx(share, abs=1e-5))


def test_shapes_side_by_side_are_told_apart():
    W = torch.block_diag(polygon(5), torch.tensor([[1.0, -1.0]]), torch.eye(1))
    W = torch.cat([W, torch.zeros(4, 2)], dim=1)
    named = {cluster.name: cluster.features for cluster in name_geometry(W)}
    assert named == {"pentagon": (0, 1, 2, 3, 4), "digon": (5, 6), "dedicated": (7,), "ignored": (8, 9)}


def test_dimensionalities_add_up_to_at_most_the_dimensions_and_dead_features_have_none():
    W = torch.randn(50, 4, 9, generator=torch.Generator().manual_seed(0))
    W[:, :, 3] = 0
    share = feature_dimensionality(W)
    assert torch.isfinite(share).all()
    assert (share[:, 3] == 0).all()
    assert (share.sum(dim=1) <= 4 + 1e-4).all()
    assert (superposition_per_feature(W).superposition[:, 3] == 0).all()
    assert (feature_dimensionality(torch.zeros(1, 2, 3)) == 0).all()


def test_data_points_are_measured_like_features():
    h = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]]])
    torch.testing.assert_close(data_point_dimensionality(h), torch.tensor([[0.5, 0.5, 1.0]]))


def test_neurons_are_counted_by_participation():
    W = torch.tensor([[[2.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]])
    torch.testing.assert_close(polysemanticity_of_neurons(W), torch.tensor([[1.0, 4.0, 0.0]]))


def with_weights(W, p, importance, b=None):
    model = ToyModel(ToyModelConfig(W.shape[1], W.shape[0], 1, p, importance), dtype=torch.float64)
    with torch.no_grad():
        model.W.copy_(W)
        if b is not None:
            model.b.copy_(torch.as_tensor(b))
    return float(expected_loss(model, points=40_000))


@pytest.mark.parametrize("p", [1.0, 0.4, 0.05])
def test_exact_losses_of_strategies_equal_those_of_models_built_to_follow_them(p):
    r = 0.6
    theory = {name: float(loss) for name, loss in expected_loss_of_strategies(r, p).items()}
    assert with_weights(torch.tensor([[1.0, 0]]), p, [1, r], [0, p / 2]) == pytest.approx(theory["ignored"], rel=0.02)
    assert with_weights(torch.tensor([[0.0, 1]]), p, [1, r], [p / 2, 0]) == pytest.approx(theory["dedicated"], rel=0.02)
    assert with_weights(torch.tensor([[1.0, -1]]), p, [1, r]) == pytest.approx(theory["superposition"], rel=0.02)
    three = {name: float(loss) for name, loss in expected_loss_of_strategies(r, p, 3).items()}
    pair = with_weights(torch.tensor([[1.0, 0, -1], [0, 1, 0]]), p, [1, 1, r])
    assert pair == pytest.approx(three["superposition"], rel=0.02)
    assert with_weights(polygon(3), p, [1, 1, r]) == pytest.approx(float(triangle_loss(p, 2 + r)), rel=0.02)


def test_the_cheapest_allocation_gives_the_denser_feature_its_own_dimension():
    equal_product = best_allocation(torch.tensor([1.0, 1.0, 0.25]), torch.tensor([0.02, 0.02, 0.08]))
    assert equal_product.fate == ("superposition", "superposition", "dedicated")
    assert best_allocation(torch.ones(3), torch.ones(3)).fate.count("ignored") == 1
    with_two = best_allocation(torch.tensor([1.0, 1.0]), torch.tensor([0.1, 0.1]))
    assert with_two.loss == pytest.approx(float(expected_loss_of_strategies(1.0, 0.1)["superposition"]))


def test_solutions_are_classified_without_trouble_over_dead_features():
    W = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, -1.0]], [[0.0, 0.0]], [[-0.9, 0.8]]])
    assert [PHASES[i] for i in classify_solution(W)] == [
        "ignored", "dedicated", "superposition", "ignored", "superposition",
    ]  # fmt: skip
    assert classify_solution(W, feature=0).tolist() == [1, 0, 2, 0, 2]


@pytest.mark.parametrize("n_features", [2, 3])
def test_training_finds_the_phases_that_theory_predicts(n_features):
    importance, density = torch.logspace(-1, 1, 7), torch.logspace(-2, 0, 7)
    diagram = phase_diagram(importance, density, n_features, steps=800, progress=False)
    assert diagram.phase.shape == (7, 7)
    assert diagram.away.float().mean() > 0.8
    assert diagram.agreement >= 0.9
