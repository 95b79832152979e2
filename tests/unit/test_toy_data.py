"""Synthetic features have the distribution they are said to have, and configurations reject what cannot be."""

import pytest
import torch

from course_utils.toy import (
    IndependentStream,
    ToyModelConfig,
    generate_anticorrelated_batch,
    generate_batch,
    generate_correlated_batch,
    generate_for,
    generate_signed_batch,
)

N = 40_000


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def five_sigma(p, n=N):
    """Bound for an observed share of n draws: five standard errors."""
    return 5 * (p * (1 - p) / n) ** 0.5 + 1e-9


@pytest.mark.parametrize("stream", [False, True])
def test_independent_features_have_their_probability_and_uniform_magnitudes(stream):
    p = torch.tensor([[0.0, 0.02, 0.3, 1.0], [1.0, 0.5, 0.1, 0.0]])
    x = IndependentStream(p, N, seed=1).next() if stream else generate_batch(N, p, gen())
    assert x.shape == (2, N, 4)
    assert x.min() >= 0
    assert x.max() <= 1
    for instance in range(2):
        for feature in range(4):
            column, chance = x[instance, :, feature], float(p[instance, feature])
            assert abs(float((column > 0).float().mean()) - chance) <= five_sigma(chance) + 1e-4
            active = column[column > 0]
            if chance > 0:
                assert abs(float(active.mean()) - 0.5) < 5 * (1 / 12 / len(active)) ** 0.5
                assert abs(float(active.square().mean()) - 1 / 3) < 5 * (4 / 45 / len(active)) ** 0.5


@pytest.mark.parametrize("stream", [False, True])
def test_features_instances_and_batches_are_independent(stream):
    p = torch.full((2, 3), 0.5)
    if stream:
        source = IndependentStream(p, N, seed=1)
        first, second = source.next().clone(), source.next().clone()
    else:
        generator = gen()
        first, second = generate_batch(N, p, generator), generate_batch(N, p, generator)
    columns = torch.cat([first[0], first[1], second[0]], dim=1)
    correlation = torch.corrcoef(columns.T) - torch.eye(9)
    assert correlation.abs().max() < 5 / N**0.5


def test_same_seed_same_batch_and_device_and_dtype_follow_the_probabilities():
    p = torch.full((1, 3), 0.5, dtype=torch.float64)
    assert torch.equal(generate_batch(10, p, gen(3)), generate_batch(10, p, gen(3)))
    assert generate_batch(10, p, gen()).dtype == torch.float64
    assert torch.equal(IndependentStream(p, 10, 3).next(), IndependentStream(p, 10, 3).next())


def test_correlated_pairs_fire_together_with_independent_magnitudes():
    x = generate_correlated_batch(N, torch.full((1, 4), 0.3), gen())[0]
    active = x > 0
    assert torch.equal(active[:, 0], active[:, 1])
    assert abs(float(active[:, 0].float().mean()) - 0.3) < five_sigma(0.3)
    both_pairs = (active[:, 0] & active[:, 2]).float().mean()
    assert abs(float(both_pairs) - 0.09) < five_sigma(0.09)
    on = x[active[:, 0]]
    assert abs(float(torch.corrcoef(on[:, :2].T)[0, 1])) < 5 / len(on) ** 0.5


def test_anticorrelated_pairs_never_fire_together_and_keep_their_probability():
    x = generate_anticorrelated_batch(N, torch.full((1, 4), 0.4), gen())[0]
    active = x > 0
    assert not bool((active[:, 0] & active[:, 1]).any())
    for feature in range(4):
        assert abs(float(active[:, feature].float().mean()) - 0.4) < five_sigma(0.4)
    with pytest.raises(ValueError, match=r"0\.6 > 0\.5"):
        generate_anticorrelated_batch(10, torch.full((1, 2), 0.6))


def test_signed_features_are_symmetric():
    x = generate_signed_batch(N, torch.full((1, 1), 1.0), gen()).flatten()
    assert x.min() < -0.9
    assert abs(float(x.mean())) < 5 * (1 / 3 / N) ** 0.5


def test_a_config_mixes_pairs_and_independent_features():
    config = ToyModelConfig(5, 2, 2, 0.3, n_correlated_pairs=1, n_anticorrelated_pairs=1)
    active = generate_for(config, 2000, gen()) > 0
    assert torch.equal(active[..., 0], active[..., 1])
    assert not bool((active[..., 2] & active[..., 3]).any())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"n_features": 0}, "at least 1"),
        ({"feature_probability": 1.5}, r"outside \[0, 1\]"),
        ({"feature_probability": [0.1, 0.2, 0.3], "n_instances": 3}, "one value per instance has shape"),
        ({"importance": -1.0}, "negative"),
        ({"n_correlated_pairs": 3}, "need 6 features"),
    ],
)
def test_a_config_says_what_is_wrong(wrong, sentence):
    with pytest.raises(ValueError, match=f"(?i){sentence}"):
        ToyModelConfig(**wrong)


def test_shapes_are_explained():
    with pytest.raises(ValueError, match="add an axis"):
        generate_batch(3, torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match="even number"):
        generate_correlated_batch(3, torch.full((1, 3), 0.1))
    with pytest.raises(ValueError, match="same probability"):
        generate_correlated_batch(3, torch.tensor([[0.1, 0.2]]))
