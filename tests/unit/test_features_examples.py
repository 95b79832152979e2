"""Maximum activating examples, densities, quantiles and the scan that finds them all in one pass."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from features_tiny import tiny_model, tiny_sae, tiny_tokens

from course_utils.features import (
    HISTOGRAM_EDGES,
    LatentBatch,
    LatentScanner,
    activation_density,
    examples_by_quantile,
    latent_stream,
    max_activating_examples,
    scan_latents,
    scan_stream,
)


def test_a_topk_coders_chosen_latents_are_those_of_its_dense_encoding():
    from course_utils.features.stream import encode_some
    from course_utils.sae import SAE, SAEConfig

    torch.manual_seed(0)
    x, columns = torch.randn(3, 7, 8), torch.tensor([30, 2, 17])
    for architecture in ("topk", "batchtopk", "standard"):
        sae = SAE(SAEConfig(d_in=8, d_sae=64, k=4, architecture=architecture)).eval()
        with torch.no_grad():
            torch.testing.assert_close(encode_some(sae, x, columns), sae.encode(x)[..., columns])
            torch.testing.assert_close(encode_some(sae, x, None), sae.encode(x))


def sparse_acts(sequences=40, context=16, latents=6, share=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    acts = torch.rand(sequences, context, latents, generator=generator)
    acts *= torch.rand(sequences, context, latents, generator=generator) < share
    acts[..., -1] = 0  # one dead latent
    tokens = torch.randint(0, 50, (sequences, context), generator=generator)
    return tokens, acts


def plain_top(tokens, acts, latent, k, left):
    """The slow, obvious version: each sequence's best position, best first, a repeated past once."""
    found = []
    for s in range(len(tokens)):
        value, position = acts[s, :, latent].max(0)
        if value > 0:
            found.append((float(value), s, int(position)))
    found.sort(key=lambda entry: -entry[0])
    result, seen = [], set()
    for value, s, p in found:
        past = tuple(tokens[s, max(0, p - left) : p + 1].tolist())
        if past not in seen:
            seen.add(past)
            result.append((value, s, p))
    return result[:k]


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_top_examples_equal_the_plain_version_for_any_batch_size(batch):
    tokens, acts = sparse_acts()
    tokens[20:] = tokens[:20]  # every context twice
    acts[20:] = acts[:20] * 0.9
    parts = [
        LatentBatch(tokens[i : i + batch], acts[i : i + batch], torch.ones_like(tokens[i : i + batch]).bool(), i)
        for i in range(0, 40, batch)
    ]
    got = max_activating_examples(tokens, parts, k=5, left=4, right=2)
    for latent, examples in enumerate(got):
        expected = plain_top(tokens, acts, latent, 5, 4)
        assert [(pytest.approx(v), s, p) for v, s, p in expected] == [
            (e.value, e.sequence, e.position) for e in examples
        ]
        for e in examples:
            assert e.tokens == tuple(tokens[e.sequence, max(0, e.position - 4) : e.position + 3].tolist())
            assert e.acts[e.peak] == pytest.approx(e.value)
            assert e.tokens[e.peak] == int(tokens[e.sequence, e.position])
    assert got[-1] == []


def test_more_examples_than_exist_gives_those_that_exist():
    tokens = torch.arange(6).reshape(2, 3)
    acts = torch.zeros(2, 3, 1)
    acts[1, 0, 0] = 2.0
    (examples,) = max_activating_examples(tokens, acts, k=10, left=5, right=5)
    assert [(e.tokens, e.peak, e.value) for e in examples] == [((3, 4, 5), 0, 2.0)]


def test_density_weighs_tokens_not_batches():
    _, acts = sparse_acts()
    whole = activation_density(acts)
    parts = activation_density([acts[:33], acts[33:]])
    np.testing.assert_allclose(whole.density, (acts > 0).float().mean((0, 1)), rtol=1e-6)
    assert (whole.density == parts.density).all()
    assert whole.dead.tolist() == [False] * 5 + [True]
    assert whole.dense(0.1).tolist() == [True] * 5 + [False]


def test_scan_counts_and_histogram_agree_with_numpy():
    tokens, acts = sparse_acts(seed=3)
    counted = torch.ones_like(tokens, dtype=torch.bool)
    counted[:, 0] = False
    scanner = LatentScanner(acts.shape[-1], k=3, sample=8, left=2, right=1, correlations=True)
    scanner.update(tokens[:25], acts[:25], counted[:25])
    scanner.update(tokens[25:], acts[25:], counted[25:])
    scan = scanner.finish()
    flat = acts[:, 1:].reshape(-1, acts.shape[-1]).double().numpy()
    assert scan.tokens_seen == len(flat)
    assert (scan.fired == (flat > 0).sum(0)).all()
    np.testing.assert_allclose(scan.total, flat.sum(0), rtol=1e-9)
    np.testing.assert_allclose(scan.maximum, flat.max(0), rtol=1e-6)
    for latent in range(acts.shape[-1]):
        values = flat[:, latent][flat[:, latent] > 0]
        assert (scan.histogram[latent] == np.histogram(values, HISTOGRAM_EDGES)[0]).all()
    expected = np.corrcoef(flat[:, :5].T)
    for latent in range(5):
        for other, r in scan.correlated(latent, 5):
            assert r == pytest.approx(expected[latent, other], abs=1e-5)


def test_sample_is_uniform_and_does_not_depend_on_batches():
    tokens, acts = sparse_acts(sequences=64, latents=400, share=0.5, seed=5)
    by_one = scan_stream([LatentBatch(tokens, acts, torch.ones_like(tokens).bool(), 0)], k=1, sample=10)
    by_many = scan_stream(
        [
            LatentBatch(tokens[i : i + 5], acts[i : i + 5], torch.ones_like(tokens[i : i + 5]).bool(), i)
            for i in range(0, 64, 5)
        ],
        k=1,
        sample=10,
    )
    assert (by_one.sample_place == by_many.sample_place).all()
    live = by_one.sample_value > 0
    assert live[:-1].all()
    # 3,990 sampled firings: their mean place in the corpus and their mean value are those of all firings
    places = by_one.sample_place[:-1, :, 0].ravel()
    n = len(places)
    assert abs(places.mean() - 31.5) < 4 * np.sqrt((64**2 - 1) / 12 / n)
    values = acts[acts > 0].numpy()
    assert abs(by_one.sample_value[:-1].mean() - values.mean()) < 4 * values.std() / np.sqrt(n)


def test_quantile_bands_are_ordered_and_equal_in_size():
    tokens, acts = sparse_acts(sequences=200, latents=2, share=0.5)
    bands = examples_by_quantile(tokens, acts, bands=4, per_band=3, sample=80)[0]
    assert len(bands) == 4
    values = np.sort(acts[..., 0][acts[..., 0] > 0].numpy())
    for i, band in enumerate(bands):
        assert len(band.examples) == 3
        assert all(band.low <= e.value <= band.high for e in band.examples)
        if i:
            assert band.high <= bands[i - 1].low
        # the band's ends, found from 80 samples, are near the quantiles of all firings: four standard errors
        share = (values < band.low).mean()
        q = band.from_quantile
        assert abs(share - q) < 4 * np.sqrt(max(q * (1 - q), 0.02) / 80)


def test_scan_latents_is_cached_and_a_damaged_file_is_recomputed(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens()
    first = scan_latents(model, sae, tokens, latents=[3, 7], progress=False)
    (file,) = (tmp_path / "features" / "scan").glob("*.npz")
    calls = []
    monkeypatch.setattr(sae, "encode", lambda x: calls.append(1) or torch.zeros(*x.shape[:2], 48), raising=False)
    again = scan_latents(model, sae, tokens, latents=[3, 7], progress=False)
    assert not calls
    assert (again.top_tokens == first.top_tokens).all()
    assert again.top(7) == first.top(7)
    file.write_bytes(file.read_bytes()[:-10])
    scan_latents(model, sae, tokens, latents=[3, 7], progress=False)
    assert calls
    assert len(list((tmp_path / "features" / "scan").glob("*.npz"))) == 1


def test_stream_leaves_out_the_first_position_and_agrees_with_a_direct_run():
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens()
    _, cache = model.run_with_cache(tokens)
    direct = sae.encode(cache[sae.cfg.hook_name])
    got = torch.cat([b.acts for b in latent_stream(model, sae, tokens, batch_size=5)])
    assert (got[:, 0] == 0).all()
    torch.testing.assert_close(got[:, 1:], direct[:, 1:], rtol=1e-5, atol=1e-5)


def test_wrong_shapes_say_what_was_expected():
    with pytest.raises(ValueError, match=r"\[2, 3, 4\]"):
        LatentScanner(4).update(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="GiB"):
        LatentScanner(100_000, correlations=True)
    with pytest.raises(KeyError, match="latent 9"):
        LatentScanner(4).finish().row(9)


def test_docstring_examples():
    import doctest

    from course_utils.features import concepts, examples, explain

    for module in (concepts, examples, explain):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


def test_bos_never_counts_wherever_it_stands():
    tokens = tiny_tokens(4)
    tokens[:, 9] = tiny_model().tokenizer.bos_token_id
    for batch in latent_stream(tiny_model(), tiny_sae(), tokens):
        assert not batch.counted[:, [0, 9]].any()
        assert (batch.acts[:, 9] == 0).all()


def test_cache_forgets_the_least_recently_used(tmp_path, monkeypatch):
    from course_utils.features import cache

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "KEPT_BYTES", 2500)
    for i, key in enumerate("abcd"):
        cache.cached_arrays("kind", key, lambda: {"x": np.zeros(100)})
        os.utime(tmp_path / "features" / "kind" / f"{key}.npz", (i, i))
    assert {p.stem for p in (tmp_path / "features" / "kind").glob("*.npz")} == {"c", "d"}
    assert {p.stem for p in (tmp_path / "features" / "kind").glob("*.json")} == {"c", "d"}
