"""Logit effects, concept search, explanation scoring, token-only share, neighbours."""

from __future__ import annotations

import http.server
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from features_tiny import tiny_model, tiny_sae, tiny_tokenizer, tiny_tokens

from course_utils import features as F


def test_norm_jacobian_equals_autograd():
    torch.manual_seed(0)
    x, gain = torch.randn(7, 12), torch.rand(12) + 0.5
    for centre in (False, True):

        def norm(v, centre=centre):
            v = v - v.mean(-1, keepdim=True) if centre else v
            return v / (v.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * gain

        exact = torch.stack([torch.autograd.functional.jacobian(norm, row).T for row in x]).mean(0)
        got = F.norm_jacobian(x, gain, centre=centre, eps=1e-5)
        torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-5)


def test_logit_effects_predict_what_adding_the_direction_after_the_last_layer_does():
    model, tokens = tiny_model(), tiny_tokens(8)
    sae = tiny_sae(hook_name="blocks.2.hook_resid_post")
    effects = F.logit_effects(model, sae, [5], k=4, norm=F.final_norm(model, tokens))
    assert effects.measured
    with torch.no_grad():
        small = 1e-2
        hook = F.steering_hook(sae, 5, small)
        moved = model.run_with_hooks(tokens, fwd_hooks=[(sae.cfg.hook_name, hook)])
        change = ((moved - model(tokens)) / small)[:, 1:].mean((0, 1))
    change -= change.mean()
    torch.testing.assert_close(effects.top_values[0], change[effects.top_tokens[0]], rtol=0.02, atol=0.02)
    torch.testing.assert_close(effects.bottom_values[0], change[effects.bottom_tokens[0]], rtol=0.02, atol=0.02)
    assert int(effects.histogram.sum()) == len(change)


def test_logit_effects_fold_the_gain_in_and_refuse_other_spaces():
    model, sae = tiny_model(), tiny_sae()
    effects = F.logit_effects(model, sae, [0], k=1)
    direct = (sae.W_dec[0] * model.ln_final.weight.detach()) @ model.W_U.detach()
    assert int(effects.top_tokens[0, 0]) == int((direct - direct.mean()).argmax())
    assert not effects.measured
    with pytest.raises(ValueError, match="16 dimensions"):
        F.logit_effects(model, tiny_sae(d_in=16), [0])


@pytest.mark.parametrize("vocabulary", [640, 50])  # searched in groups, and too few for it
def test_logit_effects_list_the_extremes_of_all_tokens(vocabulary):
    torch.manual_seed(0)
    sae = tiny_sae(d_in=16, d_sae=9)
    model = SimpleNamespace(W_U=torch.randn(16, vocabulary), ln_final=SimpleNamespace(), cfg=SimpleNamespace())
    effects = F.logit_effects(model, sae, [2, 7], k=3, norm=F.FinalNorm(torch.eye(16), True))
    exact = sae.W_dec[[2, 7]] @ model.W_U
    exact -= exact.mean(-1, keepdim=True)
    top, bottom = exact.topk(3), exact.topk(3, largest=False)
    assert torch.equal(effects.top_tokens, top.indices)
    assert torch.equal(effects.bottom_tokens, bottom.indices)
    torch.testing.assert_close(effects.bottom_values, bottom.values)
    torch.testing.assert_close(effects.deviation, exact.std(-1))


def test_concept_search_finds_the_planted_latent_by_both_methods():
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.rand(30, 20, generator=generator), torch.rand(30, 20, generator=generator)
    positive[:, 7] += 2
    negative[:, 3] += 2  # fires on the contrast instead
    for method in ("auc", "contrast"):
        found = F.find_latents_for_concept(positive, negative, k=3, method=method)
        assert found.latents[0] == 7
        assert found.auc[7] == 1.0
        assert found.auc[3] == 0.0
    with pytest.raises(ValueError, match="same latents"):
        F.find_latents_for_concept(positive, negative[:, :5])


def test_auc_agrees_with_sklearn_with_ties():
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    positive, negative = random.integers(0, 4, (15, 5)).astype(float), random.integers(0, 3, (25, 5)).astype(float)
    labels = np.r_[np.ones(15), np.zeros(25)]
    expected = [roc_auc_score(labels, np.r_[positive[:, i], negative[:, i]]) for i in range(5)]
    np.testing.assert_allclose(F.concept_auc(positive, negative), expected)


def test_sentence_heatmap_rows_are_latents_and_columns_tokens():
    model, sae = tiny_model(), tiny_sae()
    heat = F.sentence_heatmap(model, sae, "the river ran", k=4)
    assert heat.tokens[0] == "<|endoftext|>"
    assert "".join(heat.tokens[1:]) == "the river ran"
    assert heat.acts.shape == (len(heat.latents), len(heat.tokens))
    assert (heat.acts[:, 0] == 0).all()
    chosen = F.sentence_heatmap(model, sae, "the river ran", latents=[9, 2])
    assert chosen.latents == [9, 2]
    row = heat.latents.index(heat.latents[0])
    assert heat.acts[row].max() > 0


def test_tokens_keep_spaces_and_show_bytes_of_split_characters():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(" river 🌊</script>\n")
    shown = F.token_strings(tokenizer, ids)
    assert any(s.startswith("\\x") for s in shown)
    assert "".join(s for s in shown if "\\x" not in s).replace(" ", "").endswith("</script>\n")
    assert F.token_strings(tokenizer, [-1]) == [""]


class TestScoring:
    texts = [f"river {i}" if i % 2 else f"stone {i}" for i in range(60)]
    fires = [bool(i % 2) for i in range(60)]

    def test_perfect_useless_and_inverted_rules(self):
        perfect = F.score_explanation(F.mentions("river"), self.texts, self.fires)
        assert (perfect.balanced_accuracy, perfect.low, perfect.high, perfect.n) == (1.0, 1.0, 1.0, 60)
        assert perfect.beats_chance
        always = F.score_explanation(lambda texts: [1] * len(texts), self.texts, self.fires)
        assert (always.balanced_accuracy, always.sensitivity, always.specificity) == (0.5, 1.0, 0.0)
        assert not always.beats_chance
        assert F.score_explanation(F.mentions("stone"), self.texts, self.fires).balanced_accuracy == 0.0

    def test_unbalanced_labels_do_not_help_the_majority_answer(self):
        fires = [i < 5 for i in range(60)]
        assert F.score_explanation(lambda t: [0] * len(t), self.texts, fires).balanced_accuracy == 0.5

    def test_interval_covers_the_truth(self):
        random = np.random.default_rng(1)
        covered = 0
        for trial in range(60):
            fires = random.random(80) < 0.5
            said = np.where(random.random(80) < 0.8, fires, ~fires)
            score = F.score_explanation(
                lambda t, said=said: said, [str(i) for i in range(80)], fires, repeats=300, seed=trial
            )
            covered += score.low <= 0.8 <= score.high
        assert covered >= 48  # 95% nominal; the binomial's 4-sigma lower end for a true coverage of 92% is 48

    def test_text_it_was_written_from_is_refused(self):
        with pytest.raises(ValueError, match="held-out"):
            F.score_explanation(F.mentions("river"), self.texts, self.fires, written_from=[self.texts[0]])
        with pytest.raises(ValueError, match="one answer for each text"):
            F.score_explanation(lambda t: [1], self.texts, self.fires)
        with pytest.raises(ValueError, match="does not"):
            F.score_explanation(F.mentions("river"), self.texts, [True] * 60)

    def test_detection_set_is_balanced_and_true_to_the_latent(self):
        model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens(30)
        chosen = F.detection_set(model, sae, tokens, 4, n=20, window=5)
        assert chosen.fires.sum() * 2 == len(chosen.texts)
        acts = torch.cat([b.acts for b in F.latent_stream(model, sae, tokens, [4])])[..., 0]
        for (sequence, start), fires in zip(chosen.places, chosen.fires, strict=True):
            assert bool((acts[sequence, start : start + 5] > 0).any()) == bool(fires)
        with pytest.raises(ValueError, match="too few"):
            F.detection_set(model, sae, tokens, 4, threshold=1e9)

    def test_held_out_split_is_a_partition(self):
        tokens = torch.arange(50).reshape(10, 5)
        look, score = F.held_out_split(tokens, 0.3)
        assert len(score) == 3
        assert set(look[:, 0].tolist()) | set(score[:, 0].tolist()) == set(tokens[:, 0].tolist())


class StubJudge(http.server.BaseHTTPRequestHandler):
    """Answers like an OpenAI-compatible server: says yes to texts with "river" in them."""

    answer = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        lines = [line for line in body["messages"][0]["content"].splitlines() if line[:1].isdigit()]
        said = self.server.answer or json.dumps([int("river" in line) for line in lines])
        reply = json.dumps({"choices": [{"message": {"content": f"Sure: {said}"}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args):
        pass


@pytest.fixture
def judge_server():
    server = http.server.HTTPServer(("127.0.0.1", 0), StubJudge)
    server.seen, server.answer = [], None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_language_model_judge_over_http(judge_server):
    base = f"http://127.0.0.1:{judge_server.server_port}/v1/"
    judge = F.LanguageModelJudge("rivers", base, "stub", api_key="secret", batch=7)
    score = F.score_explanation(judge, TestScoring.texts, TestScoring.fires)
    assert score.balanced_accuracy == 1.0
    assert len(judge_server.seen) == 9
    path, key, body = judge_server.seen[0]
    assert path == "/v1/chat/completions"
    assert key == "Bearer secret"
    assert body["temperature"] == 0
    judge_server.answer = "[1, 1]"
    with pytest.raises(RuntimeError, match="7 zeros and ones"):
        judge(TestScoring.texts)


def test_judge_with_nobody_there_says_so():
    judge = F.LanguageModelJudge("rivers", "http://127.0.0.1:9", "stub", timeout=2)
    with pytest.raises(RuntimeError, match="no answer from the judge"):
        judge(["x"])


class TestTokenOnlyShare:
    def test_token_latent_near_one_and_noise_near_zero(self):
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, 20, (200, 30), generator=generator)
        value = torch.rand(20, generator=generator)
        by_token = value[tokens]
        noise = torch.rand(200, 30, generator=generator)
        half = by_token + (noise - 0.5) * (by_token.std() / noise.std())
        dead = torch.zeros(200, 30)
        share = F.token_only_share(tokens, torch.stack([by_token, noise, half, dead], dim=-1))
        assert share[0] == pytest.approx(1.0)
        assert abs(share[1]) < 0.02  # 20 tokens, 3,000 places: the estimate costs 20/3000
        assert share[2] == pytest.approx(0.5, abs=0.03)
        assert np.isnan(share[3])

    def test_rare_tokens_do_not_explain_themselves(self):
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randperm(4000, generator=generator).reshape(200, 20)  # every token once
        share = F.token_only_share(tokens, torch.rand(200, 20, 1, generator=generator))
        assert abs(share[0]) < 0.01

    def test_same_for_any_batch_size(self):
        tokens = torch.randint(0, 9, (30, 8), generator=torch.Generator().manual_seed(2))
        acts = torch.rand(30, 8, 3, generator=torch.Generator().manual_seed(3))
        parts = [
            F.LatentBatch(tokens[i : i + 7], acts[i : i + 7], torch.ones_like(tokens[i : i + 7]).bool(), i)
            for i in range(0, 30, 7)
        ]
        np.testing.assert_allclose(F.token_only_share(None, parts), F.token_only_share(tokens, acts))


def test_nearest_neighbours_leave_the_latent_out_and_find_a_twin():
    sae = tiny_sae()
    sae.W_dec[20] = sae.W_dec[4] * 3 + 0.01
    index, cosine = F.nearest_decoder_neighbours(sae, [4], k=3)
    assert int(index[0, 0]) == 20
    assert float(cosine[0, 0]) > 0.99
    assert 4 not in index[0]
    index, cosine = F.nearest_decoder_neighbours(sae, [4], k=1, other=tiny_sae())
    assert (int(index[0, 0]), round(float(cosine[0, 0]), 4)) == (4, 1.0)


def test_match_across_finds_the_permutation():
    tokens, model = tiny_tokens(30), tiny_model()
    sae, other = tiny_sae(), tiny_sae()
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    other.W_enc, other.W_dec, other.b_enc = sae.W_enc[:, order], sae.W_dec[order], sae.b_enc[order]
    best, r = F.match_across(F.latent_stream(model, sae, tokens), F.latent_stream(model, other, tokens), k=1)
    live = torch.cat([b.acts for b in F.latent_stream(model, sae, tokens)]).amax((0, 1)) > 0
    assert (order[torch.as_tensor(best[:, 0])] == torch.arange(48))[live].all()
    np.testing.assert_allclose(r[live.numpy(), 0], 1.0, atol=1e-4)
