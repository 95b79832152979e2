"""Transcoders, crosscoders and cross-layer transcoders: their formulas, and that the course's trainer trains them."""

from __future__ import annotations

import pytest
import torch

from course_utils.sae import (
    Crosscoder,
    CrossLayerTranscoder,
    SAEConfig,
    Transcoder,
    evaluate_coder,
    relay_world,
    rule_world,
    train_sae,
    two_layers,
    two_models,
)

D = 6


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def config(d_sae: int = 12, **others) -> SAEConfig:
    return SAEConfig(**{"d_in": D, "d_sae": d_sae, "architecture": "standard", "unit_norm_decoder": False, **others})


def moved(coder):
    """Every parameter away from where it starts."""
    with torch.no_grad():
        for i, parameter in enumerate(coder.parameters()):
            parameter.add_(0.3 * random(*parameter.shape, seed=100 + i))
    return coder


def test_a_transcoder_reads_x_and_writes_y():
    coder = moved(Transcoder(config(l1_coefficient=0.4), 4, skip=True))
    x, y = random(20, D), random(20, 4, seed=1)
    f = (x @ coder.W_enc + coder.b_enc).relu()
    y_hat = f @ coder.W_dec + coder.b_dec + x @ coder.W_skip
    loss = (y - y_hat).square().sum(1).mean() + 0.4 * (f * coder.W_dec.norm(dim=1)).sum(1).mean()
    output = coder(torch.cat([x, y], dim=1))
    torch.testing.assert_close(output.x_hat, y_hat)
    torch.testing.assert_close(output.loss, loss)


def test_topk_keeps_k():
    coder = moved(Transcoder(config(architecture="topk", k=3)))
    pre = random(20, D) @ coder.W_enc + coder.b_enc
    f = coder.encode(random(20, D))
    assert ((f > 0).sum(1) <= 3).all()
    torch.testing.assert_close(f.amax(1), pre.relu().amax(1))


def test_a_crosscoder_adds_lengths_and_its_twin_joins_them():
    x = random(20, 2 * D)
    added, joined = (moved(Crosscoder(config(l1_coefficient=0.4), penalty=p)) for p in ("sum", "concatenated"))
    lengths = added.decoders.norm(dim=-1)
    torch.testing.assert_close(added.decoder_lengths(), lengths.sum(0))
    torch.testing.assert_close(joined.decoder_lengths(), joined.W_dec.norm(dim=1))
    torch.testing.assert_close(added(x).x_hat, joined(x).x_hat)
    torch.testing.assert_close(added.relative_length(), lengths[1] / lengths.sum(0))


def test_sources_are_written_by_their_own_decoders():
    coder = moved(Crosscoder(config()))
    f = coder.encode(random(5, 2 * D))
    out = coder.predict(f, f).unflatten(1, (2, D))
    torch.testing.assert_close(out[:, 1], f @ coder.decoders[1] + coder.b_dec[D:])


def test_no_latent_of_a_cross_layer_transcoder_writes_backwards():
    coder = moved(CrossLayerTranscoder(config(d_sae=12), 3))
    x = random(10, 3 * D)
    before = coder.predict(coder.encode(x), x).unflatten(1, (3, D))
    changed = x.clone()
    changed[:, 2 * D :] += 1  # what only the last layer reads
    after = coder.predict(coder.encode(changed), changed).unflatten(1, (3, D))
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])
    coder(torch.cat([x, x], dim=1)).loss.backward()
    assert not coder.W_dec.grad[2, 0].any()
    assert coder.W_dec.grad[0, 2].any()


def test_without_crossing_it_is_one_transcoder_a_layer():
    coder = moved(CrossLayerTranscoder(config(d_sae=12), 3, cross=False))
    f = coder.encode(random(10, 3 * D)).unflatten(1, (3, 4))
    out = coder.predict(f.flatten(1), f).unflatten(1, (3, D))
    for layer in range(3):
        torch.testing.assert_close(
            out[:, layer], f[:, layer] @ coder.W_dec[layer, layer] + coder.b_dec.view(3, D)[layer]
        )


@pytest.mark.parametrize("architecture", ["standard", "topk"])
@pytest.mark.parametrize(
    "build", [lambda c: Transcoder(c, 4, skip=True), Crosscoder, lambda c: CrossLayerTranscoder(c, 3)]
)
def test_the_courses_trainer_trains_them(build, architecture):
    cfg = config(architecture=architecture, k=4, l1_coefficient=0.01, steps=150, batch_size=64, lr=1e-2)
    coder = build(cfg)
    rows = random(512, 4) @ random(4, coder.row_width, seed=2)
    before = evaluate_coder(coder, rows)["fvu"]
    trained = train_sae(rows, cfg, sae=coder, progress=False).sae
    assert trained is coder
    assert evaluate_coder(trained, rows)["fvu"] < 0.5 * before


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="set cfg"):
        Transcoder(config(architecture="gated"))
    with pytest.raises(ValueError, match="cannot be shared equally"):
        CrossLayerTranscoder(config(d_sae=10), 3)
    cfg = config()
    with pytest.raises(ValueError, match="Transcoder reads rows of 10"):
        train_sae(random(8, D), cfg, sae=Transcoder(cfg, 4), progress=False)
    with pytest.raises(ValueError, match="checkpoint"):
        train_sae(random(8, 10), cfg, sae=Transcoder(cfg, 4), checkpoint="x", progress=False)
    with pytest.raises(TypeError, match="state_dict"):
        Transcoder(cfg).save("x")


def test_worlds_are_what_they_say():
    generator = torch.Generator().manual_seed(0)
    rules = rule_world(linear=0.5, seed=1)
    x, values, y = rules.sample(500, generator)
    torch.testing.assert_close(y - x @ rules.linear, values @ rules.writes, atol=1e-4, rtol=1e-4)
    features = x @ rules.directions.T  # orthonormal, so this reads the features back
    torch.testing.assert_close((features[:, rules.pairs].sum(-1) - 1).relu(), values, atol=1e-4, rtol=1e-4)

    models = two_models(weak=0.3)
    lengths = models.directions.norm(dim=-1)
    assert models.present.sum(1).tolist() == [30, 30]
    assert int((lengths[1] - 0.3).abs().lt(1e-5).sum()) == 8
    layers = two_layers()
    assert torch.equal(layers.directions[0, :16], layers.directions[1, :16])

    relay = relay_world()
    reads, writes, values = relay.sample(200, generator)
    torch.testing.assert_close(reads[:, 1], reads[:, 0] + writes[:, 0])
    # a relayed rule can be read from the stream one layer on, as what layer 0 wrote
    torch.testing.assert_close(reads[:, 1] @ relay.writes[0, 0], values[:, 0], atol=1e-4, rtol=1e-4)
    assert relay.relayed.tolist() == [True] * 10 + [False] * 10
