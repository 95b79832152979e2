"""The NumPy twin: hand gradients against finite differences and autograd, its parts one by one, and what training reaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_utils.sae import numpy_sae as ns
from course_utils.viz import numpy_sae as figures


def random_params(rng: np.random.Generator, d_in: int = 5, d_sae: int = 9) -> ns.Params:
    """Float64 parameters with nothing at zero."""
    return {
        "W_enc": rng.normal(size=(d_in, d_sae)),
        "b_enc": 0.3 * rng.normal(size=d_sae),
        "W_dec": rng.normal(size=(d_sae, d_in)),
        "b_dec": 0.5 * rng.normal(size=d_in),
    }


def problem(seed: int, d: int, n_samples: int = 20_000):
    rng = np.random.default_rng(seed)
    directions = ns.random_directions(rng, 32, d)
    x, coefficients = ns.make_superposed_activations(rng, directions, n_samples)
    return x.astype(np.float32), coefficients, directions


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


# -- data -----------------------------------------------------------------------------------------------------


def test_activations_are_sparse_sums_with_the_stated_statistics(rng):
    n = 20_000
    directions = ns.random_directions(rng, 12, 6)
    x, coefficients = ns.make_superposed_activations(rng, directions, n, 1, 3, mean=2.0, std=0.5, noise=0.1)
    active = coefficients != 0
    counts = np.bincount(active.sum(axis=1), minlength=5)
    assert counts[0] == counts[4] == 0
    np.testing.assert_allclose(counts[1:4] / n, 1 / 3, atol=5 * np.sqrt(2 / 9 / n))
    np.testing.assert_allclose(active.mean(axis=0), 2 / 12, atol=5 * np.sqrt(5 / 36 / n))
    values = coefficients[active]
    assert abs(values.mean() - 2.0) < 5 * 0.5 / np.sqrt(len(values))
    assert abs(values.std() - 0.5) < 5 * 0.5 / np.sqrt(2 * len(values))
    noise = x - coefficients @ directions
    assert abs(noise.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * noise.size)


# -- gradients ------------------------------------------------------------------------------------------------


def torch_loss(params: dict[str, torch.Tensor], x: torch.Tensor, lam: float, k: int | None) -> torch.Tensor:
    pre = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]
    if k is not None:
        pre = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, pre.topk(k).values)
    latents = torch.relu(pre)
    x_hat = latents @ params["W_dec"] + params["b_dec"]
    return ((x - x_hat) ** 2).sum(dim=1).mean() + lam * latents.sum(dim=1).mean()


@pytest.mark.parametrize(("lam", "k"), [(0.0, None), (0.7, None), (0.0, 3), (0.0, 1)])
def test_gradients_equal_finite_differences_and_autograd(rng, lam, k):
    params, x = random_params(rng), rng.normal(size=(7, 5))

    def loss(p: ns.Params) -> float:
        latents, x_hat = ns.sae_forward(p, x) if k is None else ns.topk_forward(p, x, k)
        return ns.sae_loss(x, x_hat, latents, lam)

    by_hand = ns.sae_gradients(params, x, lam) if k is None else ns.topk_gradients(params, x, k)
    measured = ns.numerical_gradients(loss, params)
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    value = torch_loss(leaves, torch.tensor(x), lam, k)
    value.backward()
    assert loss(params) == pytest.approx(value.item(), rel=1e-12)
    for name, gradient in by_hand.items():
        np.testing.assert_allclose(gradient, leaves[name].grad.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(gradient, measured[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_the_published_gradient_is_not_the_gradient_and_the_corrected_one_is(rng):
    params, x, lam = random_params(rng), rng.normal(size=(6, 5)), 0.8

    def loss(p: ns.Params) -> float:
        latents, x_hat = ns.published_forward(p, x)
        return ns.sae_loss(x, x_hat, latents, lam)

    measured = ns.numerical_gradients(loss, params)
    corrected, published = ns.corrected_gradients(params, x, lam), ns.published_gradients(params, x, lam)
    for name in params:
        np.testing.assert_allclose(corrected[name], measured[name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert np.abs(published["W_enc"] - measured["W_enc"]).max() > 0.01


# -- parts of a step ------------------------------------------------------------------------------------------


def test_topk_keeps_the_k_largest_and_nothing_below_zero(rng):
    params, x = random_params(rng), rng.normal(size=(50, 5))
    latents, x_hat = ns.topk_forward(params, x, 4)
    pre = ns.pre_activations(params, x)
    for row, before in zip(latents, pre):
        largest = np.argsort(-before)[:4]
        expected = np.zeros_like(before)
        expected[largest] = np.maximum(before[largest], 0)
        np.testing.assert_array_equal(row, expected)
    np.testing.assert_allclose(x_hat, latents @ params["W_dec"] + params["b_dec"])


def test_adam_agrees_with_torch_for_several_steps(rng):
    params = random_params(rng)
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=0.05, betas=(0.8, 0.95), eps=1e-6)
    state = ns.adam_state(params)
    for _ in range(5):
        grads = {name: rng.normal(size=value.shape) for name, value in params.items()}
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(grads[name])
        optimizer.step()
        params, state = ns.adam_step(params, grads, state, 0.05, 0.8, 0.95, 1e-6)
    for name, value in params.items():
        np.testing.assert_allclose(value, leaves[name].detach().numpy(), rtol=1e-10)


def test_normalised_rows_have_length_one_and_no_gradient_along_them(rng):
    W_dec, grad = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    W_dec[2] = 0
    rows, across = ns.normalise_decoder(W_dec, grad)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 1, 1, 1])
    np.testing.assert_allclose((rows * across).sum(axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(across[2], grad[2])


def test_resampling_revives_only_the_dead_and_adam_forgets_them(rng):
    params, x = random_params(rng, 4, 6), rng.normal(size=(300, 4))
    state = ns.adam_state(params)
    for _ in range(2):
        params, state = ns.adam_step(params, ns.sae_gradients(params, x, 0.1), state, 0.01)
    fired = np.ones((3, 6), dtype=bool)
    fired[:, [1, 4]] = False
    fired[:2, 2] = False  # quiet at first, but not dead
    latents = ns.sae_forward(params, x)[0]
    new, new_state = ns.resample_dead_latents(rng, params, state, x, latents, fired)
    alive = [0, 2, 3, 5]
    np.testing.assert_array_equal(new["W_enc"][:, alive], params["W_enc"][:, alive])
    np.testing.assert_array_equal(new["W_dec"][alive], params["W_dec"][alive])
    residual = ns._unit(x - ns.decode(params, latents))
    length = 0.2 * np.linalg.norm(params["W_enc"][:, alive], axis=0).mean()
    picked = [int(np.abs(residual - new["W_dec"][j]).sum(axis=1).argmin()) for j in (1, 4)]
    assert picked[0] != picked[1]
    for j, sample in zip((1, 4), picked):
        np.testing.assert_allclose(new["W_dec"][j], residual[sample])
        np.testing.assert_allclose(new["W_enc"][:, j], length * residual[sample])
        for moments in (new_state["m"], new_state["v"]):
            assert not moments["W_enc"][:, j].any()
            assert not moments["W_dec"][j].any()
            assert not moments["b_enc"][j]
    assert state["m"]["b_enc"].all(), "the state given is left alone"


# -- matching -------------------------------------------------------------------------------------------------


def test_matching_is_one_to_one_and_best_overall():
    directions = np.eye(3)[:2]
    W_dec = 3 * np.array([[0.9, 0.1, 0.42426], [0.95, 0.31, 0.0374]])
    match = ns.match_features(W_dec, directions, 0.8)
    assert match.assignment.tolist() == [0, 1]  # greedy would give row 1 to direction 0: 0.95 + 0.1 < 0.9 + 0.31
    assert match.fraction_recovered == 0.5
    assert match.mean_max_cosine == pytest.approx((0.95 + 0.31) / 2, abs=1e-3)
    assert match.count(0.3) == 2


def test_fewer_rows_than_directions_leave_some_unmatched(rng):
    directions = ns.random_directions(rng, 5, 3)
    match = ns.match_features(directions[[3]], directions)
    assert match.assignment.tolist() == [-1, -1, -1, 0, -1]
    assert match.fraction_recovered == pytest.approx(0.2)


def test_chance_is_about_what_was_measured_for_the_published_setting(rng):
    x, _, directions = problem(0, 8)

    def count(dictionary, truth):
        return ns.match_features(dictionary, truth).count(0.9)

    by_chance = ns.chance_baseline(rng, directions, 128, count, n_trials=10)
    by_data = ns.chance_baseline(rng, directions, 128, count, x, n_trials=10)
    assert 1 < by_chance.mean() < 6
    assert 17 < by_data.mean() < 25


# -- iterating encoders ---------------------------------------------------------------------------------------


def test_ista_reaches_the_minimum_of_its_objective(rng):
    W_dec, x, lam = ns.random_directions(rng, 12, 6), rng.normal(size=(40, 6)), 0.4
    for accelerate, steps in ((True, 2000), (False, 6000)):
        codes = ns.ista_encode(x, W_dec, lam, steps, accelerate=accelerate)
        gradient = 2 * (codes @ W_dec - x) @ W_dec.T + lam
        assert np.abs(gradient[codes > 0]).max() < 1e-3  # stationary where active
        assert gradient[codes == 0].min() > -1e-3  # and nothing to gain elsewhere


def test_the_first_ista_step_is_a_one_layer_encoder(rng):
    W_dec, x, lam = ns.random_directions(rng, 12, 6), rng.normal(size=(40, 6)), 0.4
    curvature = np.linalg.norm(W_dec @ W_dec.T, 2)
    expected = np.maximum((x @ W_dec.T - lam / 2) / curvature, 0)
    np.testing.assert_allclose(ns.ista_encode(x, W_dec, lam, 1), expected)


def test_refitting_keeps_the_support_and_lowers_the_error(rng):
    x, _, directions = problem(0, 16, 500)
    codes = ns.ista_encode(x, directions, 1.0, 200)
    refitted = ns.refit_on_support(x, directions, codes, 200)
    assert not (refitted[codes == 0]).any()
    before, after = (ns.fraction_variance_unexplained(x, f @ directions) for f in (codes, refitted))
    assert after < 0.5 * before


def test_gradient_pursuit_finds_the_support_where_features_are_few(rng):
    directions = ns.random_directions(rng, 20, 40)
    x, truth = ns.make_superposed_activations(rng, directions, 500, mean=2.0, std=0.2, noise=0.01)
    found = ns.gradient_pursuit_encode(x, directions, tolerance=0.1)
    assert ns.support_scores(truth, found)["f1"] > 0.98


# -- what training reaches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_the_well_posed_twin_is_solved(seed):
    # measured over five seeds: L1 with 64 latents 31 to 32 at cosine > 0.95, TopK with 32 latents 26 to 30; 64 data points 10
    x, _, directions = problem(seed, 16)
    for bound, settings in ((31, {"lam": 1.0, "d_sae": 64}), (24, {"k": 3, "d_sae": 32})):
        sae = ns.train_sae(x, steps=3000 if "lam" in settings else 2000, seed=seed, **settings)
        match = ns.match_features(sae.params["W_dec"][sae.living(x)], directions)
        assert match.count(0.95) >= bound, settings


def test_the_published_setting_l1_finds_all_and_shrinks():
    # measured over five seeds: 32, 32, 32, 32 and 29 of 32 at cosine > 0.9; 64 data points 12
    x, coefficients, directions = problem(1, 8)
    sae = ns.train_sae(x, 64, lam=3.0, seed=1)
    latents = sae.encode(x)
    match = ns.match_features(sae.params["W_dec"], directions)
    assert match.count(0.9) >= 29
    assert ns.l0(latents) < 6
    assert ns.shrinkage(coefficients, latents[:, match.assignment]) < 0.5
    # the same dictionary with an encoder that iterates reconstructs
    living = sae.params["W_dec"][sae.living(x)]
    codes = ns.PursuitSAE(living).encode(x - sae.params["b_dec"])
    assert ns.fraction_variance_unexplained(x, codes @ living + sae.params["b_dec"]) < 0.05


def test_the_published_setting_an_iterating_encoder_has_everything_at_once():
    x, _, directions = problem(1, 8)
    sae = ns.train_pursuit_sae(x, 32, seed=1)
    latents = sae.encode(x)
    match = ns.match_features(sae.W_dec, directions)
    assert match.count(0.9) == 32
    assert match.count(0.99) >= 28
    assert ns.l0(latents) <= 4.5
    assert ns.fraction_variance_unexplained(x, sae.decode(latents)) < 0.04
    assert latents.dtype == np.float32


def test_the_same_seed_for_data_and_training_gives_nothing_away():
    x, _, directions = problem(0, 16, 2000)
    start = ns.train_sae(x, 32, k=3, steps=1, seed=0).params["W_dec"]
    assert ns.match_features(start, directions).count(0.9) <= 1


def test_training_is_repeatable_and_says_what_it_needs(rng):
    x, _, _ = problem(0, 8, 1000)
    first, second = (ns.train_sae(x, 16, k=2, steps=40, seed=5).params for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    with pytest.raises(ValueError, match="one of lam"):
        ns.train_sae(x, 16)


# -- figures --------------------------------------------------------------------------------------------------


def test_every_figure_draws(rng):
    x, coefficients, directions = problem(0, 8, 500)
    sae = ns.train_sae(x, 16, lam=1.0, steps=60, directions=directions)
    drawn = [
        figures.readout_histograms({"d = 8": (x @ directions.T, coefficients)}, "title"),
        figures.training_curves({"L1": sae.history}, "title"),
        figures.match_heatmaps({"before": directions, "after": sae.params["W_dec"]}, directions, "title"),
        figures.recovery_against_lambda([0.1, 1.0], [10, 20], 32, {"random": 3.0}, "title"),
        figures.sparsity_curve({"L1": ([5, 3], [0.1, 0.4])}, "title", points={"pursuit": (3.7, 0.01)}),
        figures.shrinkage_scatter(coefficients[:, :4], {"L1": coefficients[:, :4] * 0.5}, "title"),
        figures.recovery_bars({"chance": (3, 0), "ours": (32, 31)}, 32, "title"),
        figures.support_curve([1, 10], {"ISTA": [0.5, 0.9]}, {"one layer": 0.6}, "title"),
    ]
    for figure in drawn:
        assert figure.data
        assert "title" in figure.layout.title.text
