"""What each architecture computes, against its formula written out; the loss parts; gradients against finite differences."""

from __future__ import annotations

import pickle

import pytest
import torch

from course_utils.sae import ARCHITECTURES, SAE, SAEConfig, SparseLatents, remove_parallel_gradient

ALL = list(ARCHITECTURES)


def build(architecture: str, **changes) -> SAE:
    sae = SAE(SAEConfig(**{"d_in": 6, "d_sae": 20, "architecture": architecture, "k": 3, "seed": 1, **changes}))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for one in sae.parameters():
            one.add_(0.2 * torch.randn(one.shape, generator=generator))
    return sae


def inputs(n: int = 40) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("architecture", ALL)
def test_encode_follows_the_formula(architecture):
    sae, x = build(architecture), inputs()
    z = (x - sae.b_dec) @ sae.W_enc
    if architecture == "gated":
        expected = (z + sae.b_gate > 0) * (z * sae.r_mag.exp() + sae.b_mag).relu()
    elif architecture == "topk":
        z = z + sae.b_enc
        expected = torch.where(z >= z.topk(3).values[:, -1:], z, 0.0).relu()
    else:
        z = (z + sae.b_enc).relu()
        expected = z * (z > sae.threshold) if architecture == "jumprelu" else z
    torch.testing.assert_close(sae.encode(x), expected)
    torch.testing.assert_close(sae.encode(x[None])[0], expected)  # any number of leading axes
    torch.testing.assert_close(sae.encode_sparse(x).to_dense(), expected)
    torch.testing.assert_close(sae.decode(expected), expected @ sae.W_dec + sae.b_dec)
    torch.testing.assert_close(sae.decode(SparseLatents.from_dense(expected)), expected @ sae.W_dec + sae.b_dec)


@pytest.mark.parametrize("architecture", ALL)
def test_forward_in_evaluation_is_decode_of_encode(architecture):
    sae, x = build(architecture).eval(), inputs()
    output = sae(x)
    torch.testing.assert_close(output.latents, sae.encode(x))
    torch.testing.assert_close(output.x_hat, sae.decode(sae.encode(x)))
    torch.testing.assert_close(output.losses["reconstruction"], (output.x_hat - x).square().sum(1).mean())
    torch.testing.assert_close(output.loss, torch.stack(list(output.losses.values())).sum())
    assert float(output.l0) == pytest.approx(float((sae.encode(x) > 0).sum(1).float().mean()))
    torch.testing.assert_close(output.fired(), (sae.encode(x) > 0).any(0))


def test_loss_parts_of_standard_gated_and_jumprelu():
    x = inputs()
    sae = build("standard", l1_coefficient=0.3)
    f = sae.encode(x)
    torch.testing.assert_close(
        sae(x, sparsity_scale=0.5).losses["l1"], 0.15 * (f * sae.W_dec.norm(dim=1)).sum(1).mean()
    )
    sae = build("jumprelu", l0_coefficient=0.3)
    torch.testing.assert_close(sae(x).losses["l0"], 0.3 * (sae.encode(x) > 0).sum(1).float().mean())
    sae = build("gated", l1_coefficient=0.3)
    gate = ((x - sae.b_dec) @ sae.W_enc + sae.b_gate).relu()
    losses = sae(x).losses
    torch.testing.assert_close(losses["l1"], 0.3 * (gate * sae.W_dec.norm(dim=1)).sum(1).mean())
    torch.testing.assert_close(losses["gate_reconstruction"], (gate @ sae.W_dec + sae.b_dec - x).square().sum(1).mean())


def test_the_gates_own_losses_leave_the_decoder_alone():
    sae = build("gated")
    losses = sae(inputs()).losses
    (losses["l1"] + losses["gate_reconstruction"]).backward()
    assert sae.W_dec.grad is None
    assert float(sae.W_enc.grad.abs().sum()) > 0
    assert float(sae.b_gate.grad.abs().sum()) > 0


@pytest.mark.parametrize("architecture", ["standard", "gated", "topk", "batchtopk", "matryoshka"])
def test_gradients_equal_finite_differences(architecture):
    """In float64, away from the kinks (all losses here are differentiable almost everywhere)."""
    sae = build(architecture, dtype="float64")
    x = inputs(10).double()

    def loss() -> torch.Tensor:
        if hasattr(sae, "threshold"):
            sae.threshold.zero_()
        parts = sae(x).losses
        return torch.stack(
            [part for name, part in parts.items() if name != "gate_reconstruction" and name != "l1"]
        ).sum()

    loss().backward()
    step = 1e-6
    for name, one in sae.named_parameters():
        if one.grad is None:
            continue
        flat = one.data.T if name == "W_enc" else one.data
        gradient = one.grad.T if name == "W_enc" else one.grad
        for position in range(0, flat.numel(), max(1, flat.numel() // 7)):
            before = float(flat.view(-1)[position])
            ends = []
            for side in (step, -step):
                flat.view(-1)[position] = before + side
                ends.append(float(loss().detach()))
            flat.view(-1)[position] = before
            expected = (ends[0] - ends[1]) / (2 * step)
            assert float(gradient.reshape(-1)[position]) == pytest.approx(expected, abs=1e-5, rel=1e-4), name


def test_jumprelu_threshold_learns_from_the_window_only():
    from course_utils.sae.architectures.jumprelu import Heaviside, JumpReLU

    z = torch.tensor([[0.50, 0.58, 0.70], [0.52, 0.40, 0.61]], requires_grad=True)
    threshold = torch.tensor([0.5, 0.6, 0.6], requires_grad=True)
    Heaviside.apply(z, threshold, 0.1).sum().backward()
    torch.testing.assert_close(threshold.grad, -torch.tensor([2.0, 1.0, 1.0]) / 0.1)
    assert z.grad is None
    threshold.grad = None
    JumpReLU.apply(z, threshold, 0.1).sum().backward()
    torch.testing.assert_close(threshold.grad, -torch.tensor([2.0, 1.0, 1.0]) * threshold.detach() / 0.1)
    torch.testing.assert_close(z.grad, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]))
    # the expected number of active latents really changes at about this rate: uniform z, so density 1 at the threshold
    many = torch.rand(200_000, 1, generator=torch.Generator().manual_seed(0))
    threshold = torch.tensor([0.5], requires_grad=True)
    Heaviside.apply(many, threshold, 0.1).mean().backward()
    assert float(threshold.grad) == pytest.approx(-1.0, abs=5 * (0.9 / 0.1 / 200_000) ** 0.5)


def test_matryoshka_levels_reconstruct_from_the_first_latents_alone():
    sae, x = build("matryoshka", widths=(4, 10, 20)).eval(), inputs()
    output = sae(x)
    for m, name in ((4, "reconstruction_4"), (10, "reconstruction_10"), (20, "reconstruction")):
        x_hat = output.latents[:, :m] @ sae.W_dec[:m] + sae.b_dec
        torch.testing.assert_close(output.losses[name], (x_hat - x).square().sum(1).mean())


def test_auxk_touches_dead_latents_only():
    sae, x = build("topk", aux_fraction=1.0, aux_k=2), inputs()
    dead = torch.zeros(20, dtype=torch.bool)
    dead[[1, 5, 7, 8]] = True
    sae(x, dead=dead).losses["auxk"].backward()
    assert set(sae.W_dec.grad.abs().sum(1).nonzero().squeeze(1).tolist()) <= {1, 5, 7, 8}
    assert set(sae.W_enc.grad.abs().sum(0).nonzero().squeeze(1).tolist()) <= {1, 5, 7, 8}
    assert float(sae.b_dec.grad.abs().max()) == 0
    # and it is the residual's squared error from the two most active dead latents of each sample
    pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc)[:, dead]
    f = torch.where(pre >= pre.topk(2).values[:, -1:], pre, 0.0).relu()
    residual = x - sae(x).x_hat
    expected = (f @ sae.W_dec[dead] - residual).square().sum(1).mean() / 32
    torch.testing.assert_close(sae(x, dead=dead).losses["auxk"], expected)


@pytest.mark.parametrize("architecture", ALL)
def test_scaling_the_input_changes_units_and_nothing_else(architecture):
    sae, x = build(architecture), inputs()
    f, x_hat = sae.encode(x).detach(), sae.decode(sae.encode(x)).detach()
    sae.scale_input(4.0)
    torch.testing.assert_close(sae.encode(x / 4), f / 4, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(sae.decode(sae.encode(x / 4)), x_hat / 4, atol=1e-6, rtol=1e-4)


def test_decoder_norm_and_gradient_projection():
    sae = build("topk")
    sae.normalise_decoder()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    gradient = torch.randn(20, 6)
    wanted = gradient - (gradient * sae.W_dec).sum(1, keepdim=True) * sae.W_dec
    torch.testing.assert_close(remove_parallel_gradient(sae.W_dec.detach(), gradient), wanted.detach())
    torch.testing.assert_close((gradient * sae.W_dec).sum(1), torch.zeros(20), atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes_and_pickling(architecture, dtype):
    sae = build(architecture, dtype=dtype)
    x = inputs().to(getattr(torch, dtype))
    output = sae(x)
    output.loss.backward()
    assert output.x_hat.dtype == x.dtype
    again = pickle.loads(pickle.dumps(sae))
    assert type(again) is type(sae)
    torch.testing.assert_close(again.encode(x), sae.encode(x))


@pytest.mark.parametrize("architecture", ALL)
def test_torch_compile_gives_the_same_loss_and_gradients(architecture):
    """With the tracer and autograd of torch.compile, without its code generator (which needs a C++ compiler)."""
    torch._dynamo.reset()
    sae, x = build(architecture), inputs()
    compiled = torch.compile(sae, backend="aot_eager")
    losses = []
    for module in (sae, compiled):
        sae.zero_grad()
        if hasattr(sae, "threshold") and architecture != "jumprelu":
            sae.threshold.zero_()
        loss = module(x).loss
        loss.backward()
        losses.append((float(loss), sae.W_enc.grad.clone()))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    torch.testing.assert_close(losses[0][1], losses[1][1], atol=1e-5, rtol=1e-4)


def test_errors_say_what_to_do():
    sae = build("topk")
    with pytest.raises(ValueError, match=r"last axis of x has 7 numbers .*d_in = 6"):
        sae.encode(torch.randn(3, 7))
    with pytest.raises(TypeError, match=r"x\.float\(\)"):
        sae.encode(torch.ones(3, 6, dtype=torch.long))
    with pytest.raises(ValueError, match="there are: standard, topk"):
        SAEConfig(d_in=3, d_sae=4, architecture="tpok")
    with pytest.raises(ValueError, match="end with d_sae = 20"):
        SAEConfig(d_in=3, d_sae=20, architecture="matryoshka", k=2, widths=(4, 8))
    assert SAEConfig.from_dict(sae.cfg.to_dict()) == sae.cfg
