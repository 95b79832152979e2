"""The sparse kernels against their plain twins: same latents, same losses, same gradients, step after step."""

from __future__ import annotations

import copy

import pytest
import torch

from course_utils.sae import SAE, SAEConfig, SAETrainer
from course_utils.sae.sparse import (
    BatchTopK,
    SparseLatents,
    gather_dot,
    gather_dot_plain,
    positions_above,
    row_topk,
    select_latents,
)

FAMILY = ["topk", "batchtopk", "matryoshka"]


def planted(n: int = 300, d_in: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed))


def twins(architecture: str, **changes) -> tuple[SAE, SAE]:
    cfg = SAEConfig(d_in=24, d_sae=160, architecture=architecture, k=5, seed=3, **changes)
    fast = SAE(cfg)
    with torch.no_grad():  # away from the special starting point where biases are 0 and W_enc = W_dec^T
        generator = torch.Generator().manual_seed(5)
        for one in fast.parameters():
            one.add_(0.1 * torch.randn(one.shape, generator=generator))
    plain = SAE(cfg.replace(fast=False))
    plain.load_state_dict(fast.state_dict())
    return fast, plain


@pytest.mark.parametrize("architecture", FAMILY)
@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("with_dead", [False, True])
def test_fast_forward_and_every_gradient_equal_the_plain_twin(architecture, apply_b_dec, with_dead):
    fast, plain = twins(architecture, apply_b_dec_to_input=apply_b_dec, aux_k=7, aux_fraction=0.25)
    dead = (torch.arange(160) % 4 == 0) if with_dead else None
    results = []
    for sae in (fast, plain):
        x = planted().requires_grad_(True)
        output = sae(x, dead=dead, step=2)
        output.loss.backward()
        results.append((output, x.grad))
    (a, dx_a), (b, dx_b) = results
    torch.testing.assert_close(a.latents, b.latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.x_hat, b.x_hat, atol=1e-5, rtol=1e-5)
    assert a.losses.keys() == b.losses.keys()
    assert ("auxk" in a.losses) == with_dead
    for name in a.losses:
        torch.testing.assert_close(a.losses[name], b.losses[name], atol=1e-5, rtol=1e-5)
    for name, one in fast.named_parameters():
        torch.testing.assert_close(one.grad, dict(plain.named_parameters())[name].grad, atol=1e-5, rtol=1e-4)
    if not with_dead:  # AuxK reads x as a constant in the fast path only
        torch.testing.assert_close(dx_a, dx_b, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.fired(), b.fired())
    assert float(a.l0) == pytest.approx(float(b.l0))


@pytest.mark.parametrize("architecture", FAMILY)
def test_training_the_twins_gives_the_same_autoencoder(architecture):
    fast, plain = twins(architecture, dead_after_steps=5, steps=40)
    x = planted(2000)
    for sae in (fast, plain):
        trainer = SAETrainer(sae.cfg, sae)
        for step in range(40):
            trainer.step(x[(step * 50) % 2000 :][:50])
    torch.testing.assert_close(fast.W_dec, plain.W_dec, atol=2e-3, rtol=0)
    torch.testing.assert_close(fast.W_enc, plain.W_enc, atol=5e-3, rtol=0)
    torch.testing.assert_close(fast.b_dec, plain.b_dec, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(7, 4608), (6, 2304), (5, 640), (3, 100), (4, 512)])
@pytest.mark.parametrize("k", [1, 5, 32])
def test_row_topk_is_exact(shape, k):
    pre = torch.randn(*shape, generator=torch.Generator().manual_seed(k))
    values, indices = row_topk(pre, k)
    torch.testing.assert_close(values.sort().values, pre.topk(k).values.sort().values, atol=0, rtol=0)
    torch.testing.assert_close(pre.gather(1, indices), values, atol=0, rtol=0)
    assert all(len(set(row.tolist())) == k for row in indices)


def test_row_topk_with_ties_returns_k_distinct_entries_of_the_right_value():
    pre = torch.randint(0, 3, (6, 640), generator=torch.Generator().manual_seed(0)).float()
    values, indices = row_topk(pre, 5)
    assert bool((values == 2).all())
    assert all(len(set(row.tolist())) == 5 for row in indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [0.0, -2.5, -9.0])
def test_row_topk_finds_all_that_is_positive_even_when_little_or_nothing_is(dtype, shift):
    """Floats are compared by their bits, which order negative numbers the wrong way round."""
    pre = (torch.randn(20, 4608, generator=torch.Generator().manual_seed(7)) + shift).to(dtype)
    values, indices = row_topk(pre, 32)
    torch.testing.assert_close(pre.gather(1, indices), values, atol=0, rtol=0)
    expected = pre.topk(32).values.relu()
    torch.testing.assert_close(values.relu().sort(descending=True).values, expected, atol=0, rtol=0)
    assert all(len(set(row.tolist())) == 32 for row in indices)


@pytest.mark.parametrize("floor", [0.0, 0.3, 1.2, 9.0])
@pytest.mark.parametrize("width", [160, 100])
def test_positions_above_finds_exactly_the_entries_above(floor, width):
    pre = torch.randn(9, width, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(positions_above(pre, floor), (pre.flatten() > floor).nonzero().squeeze(1))


@pytest.mark.parametrize("floor", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("wanted", [40, 400, 4000])
def test_streaming_batch_topk_equals_the_flat_topk(floor, wanted, monkeypatch):
    """Whatever the first floor: too low costs work, too high is noticed and repeated."""
    monkeypatch.setattr("course_utils.sae.sparse.CHUNK_BYTES", 160 * 16 * 4)
    x, W = planted(90), torch.randn(24, 160, generator=torch.Generator().manual_seed(2)) / 5
    found = select_latents(x, W, torch.zeros(160), [BatchTopK(wanted, floor), BatchTopK(wanted)]).to_dense()
    pre = (x @ W).relu()
    expected = torch.where(pre >= pre.flatten().topk(min(wanted, int((pre > 0).sum()))).values.min(), pre, 0.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_streaming_batch_topk_cuts_ties_to_the_wanted_number():
    selector = BatchTopK(10)
    selector.add(torch.ones(4, 32))
    found = selector.result(32)
    assert found is not None
    assert len(found.values) == 10
    assert found.offsets.tolist() == [0, 10, 10, 10, 10]


def test_sparse_latents_round_trip_and_transposes():
    dense = torch.randn(20, 33, generator=torch.Generator().manual_seed(4)).relu()
    dense[3] = 0  # a row with nothing active
    latents = SparseLatents.from_dense(dense)
    torch.testing.assert_close(latents.to_dense(), dense)
    torch.testing.assert_close(latents.within(10, 20).to_dense()[:, 10:20], dense[:, 10:20])
    assert bool((latents.within(10, 20).to_dense()[:, :10] == 0).all())
    order, rows, offsets = latents.by_latent()
    assert bool((latents.indices[order].diff() >= 0).all())
    torch.testing.assert_close(rows, latents.rows()[order])
    torch.testing.assert_close(offsets.diff(), (dense > 0).sum(0))
    left, table = torch.randn(20, 7), torch.randn(33, 7)
    torch.testing.assert_close(
        gather_dot(left, table, latents), gather_dot_plain(left, table, latents), atol=1e-5, rtol=1e-5
    )


def test_the_fast_path_never_makes_a_dense_latent_matrix():
    """Every tensor that a training step creates is smaller than batch x d_sae."""
    from torch.utils._python_dispatch import TorchDispatchMode

    batch, d_sae = 2048, 4608

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for one in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(one, torch.Tensor):
                    self.elements = max(self.elements, one.numel())
            return result

    for architecture in FAMILY:
        trainer = SAETrainer(SAEConfig(d_in=16, d_sae=d_sae, architecture=architecture, k=4))
        with Largest() as seen:
            trainer.step(torch.randn(batch, 16))
        assert seen.elements < batch * d_sae / 2, architecture


@pytest.mark.parametrize("architecture", FAMILY)
def test_bfloat16_products_with_float32_weights_follow_float32(architecture):
    fast, _ = twins(architecture)
    narrow = copy.deepcopy(fast)
    x = planted(512)
    losses = []
    for sae, precision in ((fast, "float32"), (narrow, "bfloat16")):
        trainer = SAETrainer(sae.cfg.replace(precision=precision), sae)
        losses.append([trainer.step(x)["loss"] for _ in range(60)][-1])
    assert all(one.dtype == torch.float32 for one in narrow.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
