"""Finetuning an SAE end to end: the divergence is the definition's, it falls, and only the SAE changes."""

from __future__ import annotations

import pytest
import torch
from features_tiny import HOOK, tiny_model, tiny_tokens

from course_utils.lm import collect_activations, finetune_end_to_end
from course_utils.lm.end_to_end import mean_divergence
from course_utils.sae import SAEConfig, train_sae


def test_mean_divergence_is_the_kl_of_the_two_predictions() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, spliced = (torch.randn(1100, 7, generator=generator) for _ in range(2))  # more than two blocks of rows
    p, q = clean.softmax(-1), spliced.softmax(-1)
    assert float(mean_divergence(clean, spliced)) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    assert float(mean_divergence(clean, clean)) == pytest.approx(0, abs=1e-5)


def test_finetuning_lowers_the_divergence_and_leaves_the_model_alone() -> None:
    model, tokens = tiny_model(), tiny_tokens(64)
    found = collect_activations(model, tokens, HOOK, progress=False, max_norm_ratio=None)
    cfg = SAEConfig(d_in=32, d_sae=48, k=4, steps=200, batch_size=256, metadata={"hook_name": HOOK})
    sae = train_sae(found.acts.float(), cfg, progress=False).sae
    weights = [one.detach().clone() for one in model.parameters()]
    result = finetune_end_to_end(
        model, sae, tokens, steps=60, sequences=16, lr=3e-3, max_norm_ratio=None, progress=False
    )
    kl = [step["kl"] for step in result.history]
    assert sum(kl[-10:]) < 0.9 * sum(kl[:10])
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert torch.allclose(result.sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-5)
    assert not result.sae.training
    # the weighted divergence counts as much as the squared error in every step
    assert all(step["loss"] == pytest.approx(2 * step["reconstruction"], rel=0.2) for step in result.history)
