"""Resuming a model, circuits of latents, patching maps, the tasks' prompts: each against a direct computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from features_tiny import HOOK, tiny_model, tiny_sae, tiny_tokens

from course_utils import features as F
from course_utils.exercises import circuits_07
from course_utils.features import support_desk
from course_utils.lm import tasks


class Words:
    """A tokenizer of whole words, digits apart: what the prompt generators need to know of one."""

    bos_token_id, pad_token_id = 0, 1

    def __init__(self):
        self.known = {}

    def __call__(self, text, add_special_tokens=True):
        parts = []
        for word in text.replace("\n", " \n ").split(" "):
            head = word.rstrip("0123456789")
            parts += ([head] if head or not word else []) + list(word[len(head) :])
        ids = [2 + self.known.setdefault(part, len(self.known)) for part in parts if part]
        return type("Encoded", (), {"input_ids": ids})

    def decode(self, ids):
        return " ".join(str(i) for i in ids)


class Joined(Words):
    """Keeps a number in one token."""

    def __call__(self, text, add_special_tokens=True):
        ids = [2 + self.known.setdefault(part, len(self.known)) for part in text.split(" ") if part]
        return type("Encoded", (), {"input_ids": ids})


def gap(logits):
    return logits[:, 5] - logits[:, 9]


def test_resuming_after_a_layer_equals_the_whole_model_with_a_hook():
    model, tokens = tiny_model(), tiny_tokens(3)
    with torch.no_grad():
        x = F.activations_at(model, tokens, HOOK) + 0.3
        whole = model.run_with_hooks(tokens, fwd_hooks=[(HOOK, lambda _, hook: x)])
        at = torch.tensor([4, 23, 11])
        torch.testing.assert_close(F.last_logits(model, x, HOOK), whole[:, -1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            F.last_logits(model, x, HOOK, at=at), whole[torch.arange(3), at], atol=1e-5, rtol=1e-4
        )
        assert len(model.blocks) == 3
        assert torch.isfinite(model(tokens)).all()
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(gap(F.last_logits(model, leaf, HOOK)).sum(), leaf)
    assert gradient.abs().sum() > 0
    with pytest.raises(ValueError, match="hook_resid_post"):
        F.last_logits(model, x, "blocks.1.hook_mlp_out")


def test_keeping_all_latents_and_the_error_is_the_real_state_and_keeping_none_the_mean():
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens(4)
    states = F.latent_states(model, sae, tokens, tiny_tokens(9, seed=1))
    everything = range(states.f.shape[-1])
    torch.testing.assert_close(F.keep_only(states, everything, error=True), states.x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(F.keep_only(states, []), states.x_mean.expand_as(states.x))
    torch.testing.assert_close(F.remove(states, []), states.x)
    both = F.keep_only(states, [3, 5]) + F.remove(states, [3, 5])
    torch.testing.assert_close(both, states.x + states.x_mean, atol=1e-4, rtol=1e-4)


def test_circuit_curve_repeats_circuit_scores_and_ends_where_it_must():
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens(4)
    states = F.latent_states(model, sae, tokens, tiny_tokens(9, seed=1))

    def run(x):
        with torch.no_grad():
            return float(gap(F.last_logits(model, x, HOOK)).mean())

    order = F.circuit_attribution(model, states, gap, HOOK).abs().argsort(descending=True).tolist()
    curve = F.circuit_curve(run, states, order, [2, 48], repeats=2, progress=False)
    for n, faithful, left in zip(curve.sizes, curve.faithfulness, curve.left, strict=True):
        np.testing.assert_allclose(F.circuit_scores(run, states, order[:n]), (faithful, left), atol=1e-6)
    assert curve.random_faithfulness.shape == (2, 2)
    assert curve.active <= 48
    np.testing.assert_allclose(curve.faithfulness[-1], curve.all_latents, atol=1e-4)
    with pytest.raises(ValueError, match="nothing to attribute"):
        F.circuit_scores(lambda x: 1.0, states, [0])


def test_circuit_attribution_is_the_slope_of_the_metric_along_a_latent():
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens(3)
    states = F.latent_states(model, sae, tokens, tiny_tokens(9, seed=1))
    found = F.circuit_attribution(model, states, gap, HOOK)
    small = 1e-3
    for latent in found.abs().topk(4).indices.tolist():
        step = small * states.deviation[..., [latent]] * sae.W_dec[latent]
        with torch.no_grad():
            moved = [gap(F.last_logits(model, states.x + s * step, HOOK)).mean() for s in (-1, 1)]
        slope = float(moved[1] - moved[0]) / (2 * small)
        assert abs(slope - float(found[latent])) < 0.02 * abs(slope) + 0.02


def test_patching_maps_agree_with_the_exercise_and_are_zero_before_the_difference():
    model, tokens = tiny_model(), tiny_tokens(2, 8)
    corrupt = tokens.clone()
    corrupt[:, 3] = tokens[:, 3] % 100 + 1  # another token
    ours = F.patch_positions(model, tokens, corrupt, gap, [0, 2], progress=False)
    names = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
    plain = circuits_07.patched(model, tokens, corrupt, names, lambda logits: gap(logits[:, -1]).mean())
    torch.testing.assert_close(ours, plain, atol=1e-3, rtol=1e-3)
    assert ours[:, :3].abs().max() == 0
    torch.testing.assert_close(ours[1, -1], torch.tensor(1.0), atol=1e-3, rtol=1e-3)  # after the last layer


def test_edges_of_a_feature_graph_are_gradient_times_deviation():
    model, tokens, reference = tiny_model(), tiny_tokens(1, 10), tiny_tokens(6, 10, seed=1)
    coders = [tiny_sae(seed=s, hook_name=f"blocks.{s}.hook_resid_post") for s in range(3)]
    graph = F.feature_graph(model, coders, tokens, reference, gap, roots=3, parents=2, per_layer=4)
    assert graph.layers == [0, 1, 2]
    assert {node.layer for node in graph.nodes} == {0, 1, 2}
    keys = {node.key for node in graph.nodes}
    assert graph.edges
    assert all(edge.source in keys and edge.target in keys for edge in graph.edges)
    edge = graph.edges[0]
    up, down = edge.source[0], edge.target[0]
    gradient = F.latent_to_latent_gradients(model, coders[up], coders[down], tokens, [edge.target[1:]])
    deviation = F.latent_states(model, coders[up], tokens, reference).deviation
    expected = float(gradient[0][edge.source[1:]] * deviation[0][edge.source[1:]])
    assert abs(edge.weight - expected) < 1e-4 * max(1, abs(expected))


def test_ioi_pairs_differ_in_the_giver_and_balance_the_order():
    prompts = tasks.ioi_prompts(Words(), 20, seed=3)
    assert len(prompts) == 20
    assert prompts.tokens.shape == prompts.corrupt.shape
    differs = prompts.tokens != prompts.corrupt
    assert (differs.sum(dim=1) == 1).all()
    assert int(differs.any(dim=0).sum()) == 1
    assert prompts.first_difference == int(differs[0].nonzero()[0])
    for row in range(20):
        place = prompts.first_difference
        assert (prompts.tokens[row] == prompts.wrong[row]).sum() == 2  # the giver, twice
        assert prompts.corrupt[row, place] == prompts.answer[row]
    assert len(prompts[:5]) == 5
    assert (prompts.answer != prompts.wrong).all()


def test_years_are_single_digits_and_the_metric_counts_above_minus_below():
    prompts = tasks.greater_than_prompts(Words(), 12, seed=1)
    assert ((prompts.tokens != prompts.corrupt).sum(dim=1) == 1).all()
    assert int(prompts.answer.min()) >= 2
    assert int(prompts.answer.max()) <= 8
    digits = tasks.digit_tokens(Words())
    assert len(digits.unique()) == 10
    logits = torch.full((2, 40), -50.0)
    logits[0, digits[7]], logits[1, digits[1]] = 50.0, 50.0
    score = tasks.mass_above_minus_below(logits, digits, torch.tensor([4, 4]))
    torch.testing.assert_close(score, torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="single digits"):
        tasks.greater_than_prompts(Joined(), 2)


def test_topic_messages_mark_the_message_and_the_answering_position():
    found = support_desk.topic_messages(Words(), "heldout", 12, max_tokens=60)
    assert len(found) == 12
    assert found.topic.max() <= 3
    for row in range(12):
        inside = found.in_message[row].nonzero()[:, 0]
        assert inside.min() > 0
        assert inside.max() < found.last[row]
        assert (inside.diff() == 1).all()


def test_steering_by_unit_length_ignores_the_length_of_the_decoder_row():
    sae = tiny_sae()
    sae.W_dec[3] *= 5
    x = torch.zeros(1, 2, 32)
    assert abs(float(F.steering_hook(sae, 3, 2.0, unit=True)(x)[0, 0].norm()) - 2.0) < 1e-5
    assert abs(float(F.steering_hook(sae, 3, 2.0)(x)[0, 0].norm()) - 10.0) < 1e-4
