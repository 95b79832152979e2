"""Toy models train: by-hand gradients equal autograd's, the plain and the fast loop agree, known geometry appears."""

import pytest
import torch

from course_utils.toy import (
    SCHEDULES,
    AbsModel,
    NeuronModel,
    ToyModel,
    ToyModelConfig,
    expected_loss,
    feature_dimensionality,
    generate_batch,
    importance_weighted_loss,
    optimize,
    represented_features,
    superposition_per_feature,
    train_toy_model,
)
from course_utils.toy.training import _HandGradients


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def train(config, **kwargs):
    return train_toy_model(config, progress=False, **kwargs)


def test_gradients_by_hand_equal_autograd():
    config = ToyModelConfig(6, 3, 2, [[0.9], [0.3]], torch.linspace(1, 0.2, 6))
    model = ToyModel(config, gen(), dtype=torch.float64)
    with torch.no_grad():
        model.b.normal_(generator=gen(1))
    hand = _HandGradients(model, 50, seed=3)
    loss = hand.step()
    by_hand = model.W.grad.clone(), model.b.grad.clone()
    x = hand.stream._batch.clone()
    model.zero_grad()
    expected = importance_weighted_loss(x, model(x), config.importances(dtype=torch.float64))
    expected.sum().backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(by_hand[0], model.W.grad)
    torch.testing.assert_close(by_hand[1], model.b.grad)


def test_instances_do_not_influence_each_other():
    both = ToyModel(ToyModelConfig(4, 2, 2, 0.5), gen())
    alone = ToyModel(ToyModelConfig(4, 2, 1, 0.5), gen(9))
    with torch.no_grad():
        alone.W.copy_(both.W[1:])
        both.b.normal_(generator=gen(2))
        alone.b.copy_(both.b[1:])
    x = generate_batch(7, torch.full((2, 4), 0.5), gen(3))
    torch.testing.assert_close(both(x)[1:], alone(x[1:]))


def test_the_loss_is_zero_for_a_perfect_copy_and_counts_importance():
    x = torch.zeros(1, 2, 3)
    x_hat = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
    assert importance_weighted_loss(x, x, torch.ones(1, 3)).tolist() == [0.0]
    assert importance_weighted_loss(x, x_hat, torch.tensor([[1.0, 0.5, 9.0]])).tolist() == [1.5]


@pytest.mark.parametrize(("name", "half"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_schedules_start_at_one_and_are_where_they_should_be_half_way(name, half):
    assert SCHEDULES[name](0, 100) == pytest.approx(1.0)
    assert SCHEDULES[name](50, 100) == pytest.approx(half)


def test_the_plain_loop_and_the_fast_loop_reach_the_same_loss():
    config = ToyModelConfig(5, 2, 8, 0.1, [0.9**i for i in range(5)])
    p = config.probabilities()
    plain = ToyModel(config, gen())
    data = gen(1)
    optimize(
        plain,
        sample=lambda: generate_batch(256, p, data),
        loss_fn=lambda x, x_hat: importance_weighted_loss(x, x_hat, config.importances()),
        steps=1500,
        lr=0.01,
        schedule="cosine",
    )
    fast = train(config, steps=1500, lr=0.01)
    x = generate_batch(50_000, p, gen(5))
    losses = [importance_weighted_loss(x, m(x), config.importances()).min().item() for m in (plain, fast.model)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_an_unknown_schedule_is_explained():
    with pytest.raises(ValueError, match="constant, linear, cosine"):
        train(ToyModelConfig(), steps=1, schedule="quadratic")


def test_five_features_in_two_dimensions_two_when_dense_a_pentagon_when_sparse():
    seeds = 6
    p = torch.tensor([1.0] * seeds + [0.03] * seeds)[:, None]
    config = ToyModelConfig(5, 2, 2 * seeds, p, [0.9**i for i in range(5)])
    trained = train(config, steps=2500, lr=0.01)
    loss = expected_loss(trained.model)
    dense, sparse = int(loss[:seeds].argmin()), seeds + int(loss[seeds:].argmin())
    represented, superposition = superposition_per_feature(trained.W)
    assert (represented[dense] > 0.5).tolist() == [True, True, False, False, False]
    assert superposition[dense, :2].max() < 0.05
    assert (represented[sparse] > 0.5).all()
    assert (feature_dimensionality(trained.W)[sparse] - 0.4).abs().max() < 0.05


def test_twenty_features_in_five_dimensions_keep_five_when_dense_and_many_when_sparse():
    config = ToyModelConfig(20, 5, 2, [[1.0], [0.01]], [0.9**i for i in range(20)])
    counts = (represented_features(train(config, steps=2000, lr=0.01).W) > 0.5).sum(dim=1).tolist()
    assert counts[0] == 5
    assert counts[1] >= 12


def test_neuron_and_abs_models_learn():
    neuron = train(NeuronModel(ToyModelConfig(6, 6, 2, 0.3), gen()), steps=800, lr=0.01)
    assert neuron.losses[-1].min() < 0.1 * neuron.losses[0].min()
    absolute = train(AbsModel(ToyModelConfig(3, 6, 2, 0.3), gen()), steps=800, lr=0.01)
    assert absolute.losses[-1].min() < 0.1 * absolute.losses[0].min()


def test_same_seed_same_weights_and_snapshots_are_kept():
    config = ToyModelConfig(5, 2, 2, 0.1)
    one, two = (train(config, steps=20, snapshot_every=10, seed=4) for _ in range(2))
    assert torch.equal(one.W, two.W)
    assert one.snapshot_steps == [0, 10, 20]
    assert torch.equal(one.snapshots[-1], one.W)
    assert not torch.equal(one.W, train(config, steps=20, seed=5).W)
