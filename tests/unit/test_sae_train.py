"""Training: recovery of planted features above chance, exact resumption, schedules, resampling, clear errors, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from course_utils.sae import (
    ARCHITECTURES,
    SAE,
    ManySAEs,
    SAEConfig,
    SAETrainer,
    TrainingDiverged,
    evaluate_sae,
    resample_dead_latents,
    train_many,
    train_sae,
)
from course_utils.sae.data import batches

PENALTY = {"l1_coefficient": 0.2, "l0_coefficient": 0.1}


def planted(n: int = 8000, features: int = 32, d: int = 16, p: float = 0.06) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(features, d, generator=generator), dim=1)
    on = torch.rand(n, features, generator=generator) < p
    return (on * (0.5 + torch.rand(n, features, generator=generator))) @ directions, directions


def small(architecture: str = "topk", **changes) -> SAEConfig:
    return SAEConfig(
        **{
            "d_in": 16,
            "d_sae": 32,
            "architecture": architecture,
            "k": 3,
            "steps": 30,
            "batch_size": 128,
            "lr": 3e-3,
            **PENALTY,
            **changes,
        }
    )


def test_topk_recovers_planted_features_far_above_chance():
    x, directions = planted()
    cfg = small(steps=800, batch_size=256, resample="loss_weighted", resample_every=200, dead_after_steps=100)
    found = evaluate_sae(train_sae(x, cfg, progress=False).sae, x, true_directions=directions)
    assert found["recovered_0.9"] >= 21  # measured over seeds: 25 to 27 of 32
    assert max(found["chance_random"], found["chance_data"]) < 13
    assert found["fvu"] < 0.2
    assert found["dead_fraction"] < 0.1


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_architecture_learns_and_keeps_a_unit_decoder(architecture):
    x, _ = planted(2000)
    result = train_sae(x, small(architecture, steps=150, sparsity_warmup_steps=20, lr_warmup_steps=10), progress=False)
    assert result.history[-1]["reconstruction"] < 0.6 * float((x - x.mean(0)).square().sum(1).mean())
    torch.testing.assert_close(result.sae.W_dec.norm(dim=1), torch.ones(32))
    assert not result.sae.training


def test_batchtopk_threshold_gives_about_k_latents_at_inference():
    x, _ = planted(8000)
    sae = train_sae(x[:6000], small("batchtopk", steps=400), progress=False).sae
    held_out = evaluate_sae(sae, x[6000:])
    assert held_out["l0"] == pytest.approx(3, rel=0.15)
    torch.testing.assert_close(sae.encode(x[:1]), sae.encode(x[:50])[:1])  # a sample does not depend on its neighbours


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu"])
def test_resuming_from_a_checkpoint_is_exact(architecture, tmp_path):
    x, _ = planted(1000)
    cfg = small(architecture, resample="simple", resample_every=8, dead_after_steps=6, resample_until=1.0)
    whole = train_sae(x, cfg, progress=False, log_every=1)

    class Stop(Exception):
        pass

    def stop_after_17(trainer: SAETrainer, _: dict[str, float]) -> None:
        if trainer.step_number == 17:
            raise Stop

    file = tmp_path / "run.pt"
    with pytest.raises(Stop):
        train_sae(x, cfg, progress=False, checkpoint=file, checkpoint_every=5, on_step=stop_after_17)
    resumed = train_sae(x, cfg, progress=False, checkpoint=file, checkpoint_every=5, log_every=1)
    assert resumed.history == whole.history[15:]
    for name, one in resumed.sae.state_dict().items():
        torch.testing.assert_close(one, whole.sae.state_dict()[name], atol=0, rtol=0)
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(ValueError, match="another configuration"):
        train_sae(x, cfg.replace(lr=1.0), progress=False, checkpoint=file)


def test_tensors_memory_maps_and_iterators_train_alike(tmp_path):
    x, _ = planted(1000)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    cfg = small(steps=10)
    from_tensor = train_sae(x, cfg, progress=False).sae
    from_map = train_sae(mapped, cfg, progress=False).sae
    from_function = train_sae(lambda: batches(x, 128), cfg, progress=False).sae
    torch.testing.assert_close(from_function.W_dec, from_tensor.W_dec, atol=0, rtol=0)
    torch.testing.assert_close(
        from_map.W_dec, from_tensor.W_dec, atol=1e-4, rtol=0
    )  # same rows, summed in another order
    short = train_sae(iter([x[:128]] * 4), cfg, progress=False, log_every=1)
    assert short.history[-1]["step"] == 4
    with pytest.raises(ValueError, match="gave nothing"):
        train_sae(iter([]), cfg, progress=False)
    with pytest.raises(ValueError, match="d_in=16"):
        train_sae(x, cfg.replace(d_in=8), progress=False)
    with pytest.raises(ValueError, match="flatten"):
        next(batches(x[None], 10))


def test_an_epoch_visits_every_sample_once_and_skipping_is_exact():
    x = torch.arange(100.0)[:, None]
    stream = [batch for batch, _ in zip(batches(x, 20, seed=3), range(10))]
    assert sorted(torch.cat(stream[:5]).flatten().tolist()) == list(range(100))
    assert not torch.equal(stream[0], stream[5])
    torch.testing.assert_close(next(batches(x, 20, seed=3, start=7)), stream[7])
    halves = [next(batches(x, 20, seed=3, start=7, part=(rank, 2))) for rank in range(2)]
    torch.testing.assert_close(torch.cat(halves).sort(0).values, stream[7].sort(0).values)


def test_schedules():
    trainer = SAETrainer(small(steps=100, lr=1.0, lr_warmup_steps=10, lr_decay_share=0.2, sparsity_warmup_steps=4))
    rates = [trainer.learning_rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert 0 < rates[100] <= 0.05
    scales = []
    for _ in range(5):
        scales.append(trainer.sparsity_scale())
        trainer.step(planted(64)[0])
    assert scales == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_scaled_inputs_give_the_same_autoencoder_in_other_units():
    x, _ = planted(2000)
    cfg = small("standard", normalize_input=True, steps=60)
    a, b = (train_sae(x * factor, cfg, progress=False).sae for factor in (1.0, 64.0))
    torch.testing.assert_close(b.W_dec, a.W_dec, atol=1e-4, rtol=0)
    torch.testing.assert_close(b.encode(x * 64) / 64, a.encode(x), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("method", ["simple", "loss_weighted"])
def test_resampling_replaces_dead_latents_and_resets_their_moments(architecture, method):
    x, _ = planted(500)
    trainer = SAETrainer(small(architecture))
    for _ in range(5):
        trainer.step(x)
    sae, optimizer = trainer.sae, trainer.optimizer
    dead = torch.zeros(32, dtype=torch.bool)
    dead[[3, 30]] = True
    before = {name: one.detach().clone() for name, one in sae.named_parameters()}
    chosen = resample_dead_latents(
        sae,
        dead,
        x,
        optimizer=optimizer,
        method=method,
        generator=torch.Generator().manual_seed(0),
        stand_ins={"W_enc": trainer.encoder_rows},
    )
    assert chosen.tolist() == [3, 30]
    torch.testing.assert_close(sae.W_dec[~dead], before["W_dec"][~dead], atol=0, rtol=0)
    torch.testing.assert_close(sae.W_enc[:, ~dead], before["W_enc"][:, ~dead], atol=0, rtol=0)
    torch.testing.assert_close(sae.W_dec[dead].norm(dim=1), torch.ones(2))
    assert float((sae.W_dec[3] @ sae.W_dec[30]).detach().abs()) < 0.999  # one vector each, not one for all
    scale = sae.W_enc[:, dead].norm(dim=0) / before["W_enc"][:, ~dead].norm(dim=0).mean()
    torch.testing.assert_close(scale, torch.full((2,), 1.0 if sae.cfg.uses_k else 0.2))
    for name, own in sae.named_parameters():
        one = trainer.encoder_rows if name == "W_enc" else own
        for moment in (optimizer.state[one]["exp_avg"], optimizer.state[one]["exp_avg_sq"]):
            if name != "b_dec":
                assert float(moment[dead].abs().max()) == 0, name
            assert float(moment.abs().max()) > 0 or name in ("log_threshold", "r_mag"), name
    trainer.step(x)  # and training goes on


def test_loss_weighted_resampling_draws_by_squared_loss():
    """Chi-square over three groups of inputs whose losses are 1, 2 and 3: draws in proportion 1 : 4 : 9."""
    sae = SAE(SAEConfig(d_in=3, d_sae=1400, architecture="standard", b_dec_init="zeros"))
    sae.b_enc.data.fill_(-100)  # everything dead: the loss is the squared length
    x = torch.eye(3) * torch.tensor([1.0, 2.0, 3.0]).sqrt()
    resample_dead_latents(sae, torch.ones(1400, dtype=torch.bool), x, generator=torch.Generator().manual_seed(0))
    counts = sae.W_dec.argmax(1).bincount().double()
    expected = torch.tensor([1.0, 4.0, 9.0]).double() * 100
    assert float(((counts - expected).square() / expected).sum()) < 18.4  # 2 degrees of freedom, p = 0.0001


def test_auxk_revives_dead_latents():
    x, _ = planted(4000)
    dead_share = {}
    for coefficient in (0.0, 1 / 32):
        cfg = small(d_sae=64, steps=300, dead_after_steps=25, aux_coefficient=coefficient, batch_size=256)
        trainer = SAETrainer(cfg)
        trainer.sae.W_enc.data[:, 32:] *= 0.02  # half of the latents are too weak to be among the top 3
        for batch, _ in zip(batches(x, 256), range(300)):
            metrics = trainer.step(batch)
        dead_share[coefficient] = metrics["dead_fraction"]
    assert dead_share[0.0] == 0.5
    assert dead_share[1 / 32] < 0.36


def test_nan_is_found_at_once_and_the_message_says_what_to_do():
    x, _ = planted(200)
    trainer = SAETrainer(small())
    trainer.step(x)
    before = trainer.sae.W_dec.detach().clone()
    bad = x.clone()
    bad[17, 3] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"1 of 200 rows \(first: row 17\)"):
        trainer.step(bad)
    torch.testing.assert_close(trainer.sae.W_dec, before, atol=0, rtol=0)
    with pytest.raises(TrainingDiverged, match="normalize_input=True"):
        trainer.step(x * 1e25)
    trainer.sae.b_enc.data[0] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"b_enc .*lower lr"):
        trainer.step(x)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_many_at_once_equal_one_after_another(architecture):
    x, _ = planted(1000)
    cfgs = [
        small(
            architecture,
            seed=seed,
            aux_coefficient=0.0,
            fast=False,
            l1_coefficient=0.1 * (seed + 1),
            l0_coefficient=0.1 * (seed + 1),
        )
        for seed in range(3)
    ]
    many = ManySAEs(cfgs)
    ones = [SAETrainer(cfg) for cfg in cfgs]
    for batch, _ in zip(batches(x, 128), range(12)):
        together = many.step(batch)
        apart = [trainer.step(batch) for trainer in ones]
        torch.testing.assert_close(together["loss"], torch.tensor([m["loss"] for m in apart]), atol=1e-4, rtol=1e-4)
    for sae, trainer in zip(many.saes, ones):
        torch.testing.assert_close(sae.W_dec, trainer.sae.W_dec, atol=2e-3, rtol=0)
        torch.testing.assert_close(sae.W_enc, trainer.sae.W_enc, atol=5e-3, rtol=0)


def test_many_resamples_and_returns_autoencoders_that_work(tmp_path):
    x, directions = planted(4000)
    cfgs = [
        small(seed=s, steps=500, resample="loss_weighted", resample_every=100, dead_after_steps=50) for s in range(4)
    ]
    result = train_many(x, cfgs, progress=False)
    recovered = [evaluate_sae(sae, x, true_directions=directions)["recovered_0.9"] for sae in result.saes]
    assert sum(recovered) / 4 >= 14  # measured 17.5 after these few steps; chance is about 10
    torch.testing.assert_close(result.saes[1].W_dec.norm(dim=1), torch.ones(32))
    again = SAE.load(result.saes[2].save(tmp_path / "two"))
    torch.testing.assert_close(again.encode(x[:50]), result.saes[2].encode(x[:50]))
    with pytest.raises(ValueError, match="may differ only"):
        ManySAEs([small(), small(lr=1.0)])


WORKER = """
import json, sys, torch
torch.set_num_threads(1)
from course_utils.sae import SAEConfig, distributed, evaluate_sae, train_sae
distributed.start()
x = torch.load(sys.argv[1])
cfg = SAEConfig(d_in=16, d_sae=32, k=3, steps=60, batch_size=128, lr=3e-3, dead_after_steps=20)
result = train_sae(x, cfg, progress=False)
total = distributed.mean(sum(one.detach().double().sum() for one in result.sae.parameters()))
own = sum(one.detach().double().sum() for one in result.sae.parameters())
if distributed.rank() == 0:
    found = {"fvu": evaluate_sae(result.sae, x)["fvu"], "same": abs(float(total - own)), "n": distributed.world_size()}
    json.dump(found, open(sys.argv[2], "w"))
distributed.stop()
"""


def test_two_processes_train_the_same_autoencoder_as_one(tmp_path):
    """Each process takes half of every batch; gradients are averaged, so the result is one process's, within rounding."""
    import json

    x, _ = planted(1000)
    torch.save(x, tmp_path / "x.pt")
    (tmp_path / "worker.py").write_text(WORKER)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(tmp_path / "worker.py"), str(tmp_path / "x.pt"), str(tmp_path / "two.json")]
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((tmp_path / "two.json").read_text())
    cfg = SAEConfig(d_in=16, d_sae=32, k=3, steps=60, batch_size=128, lr=3e-3, dead_after_steps=20)
    one = evaluate_sae(train_sae(x, cfg, progress=False).sae, x)["fvu"]
    assert two["n"] == 2
    assert two["same"] < 1e-9  # both processes hold the same weights
    assert two["fvu"] == pytest.approx(one, rel=0.01)
