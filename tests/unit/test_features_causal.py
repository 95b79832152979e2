"""Steering, clamping, ablating, attribution: each against a direct computation."""

from __future__ import annotations

import torch
from features_tiny import HOOK, tiny_model, tiny_sae, tiny_tokens

from course_utils import features as F


def residual(model, tokens, hooks):
    seen = {}

    def look(x, hook):
        seen["x"] = x.detach().clone()

    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[*hooks, (HOOK, look)])
    return seen["x"]


def test_steering_adds_exactly_the_direction_where_asked():
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens(2)
    before = residual(model, tokens, [])
    after = residual(model, tokens, [(HOOK, F.steering_hook(sae, 3, 2.5, positions=[4]))])
    change = after - before
    torch.testing.assert_close(change[:, 4], (2.5 * sae.W_dec[3]).expand(2, -1), atol=1e-5, rtol=1e-5)
    assert change[:, :4].abs().max() == 0
    rows = residual(model, tokens, [(HOOK, F.steering_hook(sae, 3, torch.tensor([0.0, 1.0])))]) - before
    assert rows[0].abs().max() == 0
    torch.testing.assert_close(rows[1], sae.W_dec[3].expand(24, -1), atol=1e-5, rtol=1e-5)


def test_clamp_changes_one_latents_part_and_keeps_the_error():
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens(2)
    x = residual(model, tokens, [])
    y = residual(model, tokens, [(HOOK, F.clamp_latent(sae, 3, 4.0))])
    f = sae.encode(x)
    edited = f.clone()
    edited[..., 3] = 4.0
    error = x - sae.decode(f)
    torch.testing.assert_close(y, sae.decode(edited) + error, atol=1e-4, rtol=1e-4)
    z = residual(model, tokens, [(HOOK, F.ablate_latent(sae, [3, 5]))])
    edited[..., [3, 5]] = 0
    torch.testing.assert_close(z, sae.decode(edited) + error, atol=1e-4, rtol=1e-4)


def test_splice_replaces_everything_but_the_first_position():
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens(2)
    x = residual(model, tokens, [])
    with F.splice(model, sae):
        y = residual(model, tokens, [])
    torch.testing.assert_close(y[:, 1:], sae.decode(sae.encode(x))[:, 1:])
    torch.testing.assert_close(y[:, 0], x[:, 0])
    torch.testing.assert_close(residual(model, tokens, []), x)  # and nothing stays behind


def test_continuations_equal_generating_one_token_at_a_time():
    model, sae = tiny_model(), tiny_sae()
    alphas = [0.0, 6.0]
    got = F.continuations(model, sae, "the river", 8, alphas, max_new_tokens=6)
    for alpha, new in zip(alphas, got, strict=True):
        tokens = model.to_tokens("the river", prepend_bos=True)
        n = tokens.shape[1]
        hook = F.steering_hook(sae, 8, alpha, positions=slice(1, None))
        for _ in range(len(new)):
            logits = model.run_with_hooks(tokens, fwd_hooks=[(HOOK, hook)])
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        assert tokens[0, n:].tolist() == new
    assert got[0] != got[1]


def test_random_control_has_the_same_norm_and_another_direction():
    sae = tiny_sae()
    sae.W_dec[2] *= 3
    control = F.random_control(sae, 2)
    torch.testing.assert_close(control.norm(), sae.W_dec[2].norm())
    assert torch.cosine_similarity(control, sae.W_dec[2], dim=0).abs() < 0.8


def test_direct_attribution_adds_up_after_the_last_layer():
    model, tokens = tiny_model(), tiny_tokens(3)
    sae = tiny_sae(hook_name="blocks.2.hook_resid_post")
    answer, wrong = torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])
    parts = F.direct_logit_attribution(model, sae, tokens, answer, wrong)
    with torch.no_grad():
        logits = model(tokens)[:, -1]
        x = F.activations_at(model, tokens, sae.cfg.hook_name)[:, -1]
        rest = x - sae.encode(x) @ sae.W_dec  # bias and error
        scale = (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        other = (rest / scale * model.ln_final.weight) @ model.W_U
    row = torch.arange(3)
    expected = logits[row, answer] - logits[row, wrong]
    got = parts.sum(-1) + other[row, answer] - other[row, wrong]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def logit_metric(logits):
    return logits[:, -1, 5].sum() - logits[:, -1, 9].sum()


def test_attribution_patching_is_the_derivative_of_real_ablation():
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens(2)
    found = F.attribution_patching(model, sae, tokens, logit_metric)
    best = found.acts[:, 1:].sum((0, 1)).topk(5).indices.tolist()
    small = 1e-3
    for latent in best:

        def shrink(x, hook, latent=latent):
            f = sae.encode(x)[..., latent : latent + 1]
            return x - small * f * sae.W_dec[latent]

        with torch.no_grad():
            moved = logit_metric(model.run_with_hooks(tokens, fwd_hooks=[(HOOK, shrink)])) - logit_metric(model(tokens))
        expected = float(moved) / small
        assert abs(float(found.effect[..., latent].sum()) - expected) < 0.02 * abs(expected) + 0.02
    real = F.ablation_effect(model, sae, tokens, logit_metric, best)
    assert real.shape == (5,)


def test_virtual_weights_and_gradients_agree_on_the_direct_path():
    model, tokens = tiny_model(), tiny_tokens(1)
    up, down = tiny_sae(), tiny_sae(seed=1)  # same hook: the direct path is the only one
    weights = F.virtual_weights(up, down)
    assert weights.shape == (48, 48)
    torch.testing.assert_close(weights[3, 4], up.W_dec[3] @ down.W_enc[:, 4])
    f = down.encode(residual(model, tokens, []))[0]
    position, latent = (f[1:] > 0.05).nonzero()[0].tolist()
    position += 1
    gradient = F.latent_to_latent_gradients(model, up, down, tokens, [(position, latent)])
    torch.testing.assert_close(gradient[0, position], weights[:, latent], atol=1e-5, rtol=1e-4)
    assert gradient[0, :position].abs().max() == 0


def test_gradients_through_a_layer_match_a_small_push():
    model, tokens = tiny_model(), tiny_tokens(1)
    up, down = tiny_sae(hook_name="blocks.0.hook_resid_post"), tiny_sae(seed=1)
    f = down.encode(residual(model, tokens, []))[0]
    position, latent = (f[8:] > 0.5).nonzero()[0].tolist()
    position += 8
    gradient = F.latent_to_latent_gradients(model, up, down, tokens, [(position, latent)])[0]
    source, size = 6, 1e-2
    values = [
        down.encode(
            residual(model, tokens, [("blocks.0.hook_resid_post", F.steering_hook(up, source, s, positions=[5]))])
        )[0, position, latent]
        for s in (-size, size)
    ]
    slope = float(values[1] - values[0]) / (2 * size)
    assert abs(slope - float(gradient[5, source])) < 2e-2 * abs(slope) + 2e-3
