"""Training on the bundled model from end to end, the files it writes, the shipped SAEs, and the two commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from course_utils.lm import (
    ModelUnavailable,
    available_saes,
    collect_activations,
    load_corpus,
    load_model,
    load_sae,
    train_from_corpus,
)
from course_utils.lm import train_lm_sae as module
from course_utils.lm.commands import assets, shipped_files, train
from course_utils.lm.saes import SAES


@pytest.fixture(scope="module")
def bundled():
    try:
        return load_model()
    except ModelUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def own_cache(bundled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, in which the bundled model is the user's."""
    from course_utils.lm import model_folder

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2-135m").symlink_to(model_folder())
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.model
def test_from_text_to_a_saved_sae_with_its_card(own_cache: Path, tmp_path: Path) -> None:
    options = {
        "tokens": 2048, "context": 64, "sources": ["moby-dick"], "k": 8, "expansion": 2, "epochs": 8, "batch_size": 256,
        "heldout_tokens": 512, "loss_tokens": 256, "progress": False, "out": tmp_path / "saes", "command": "make it so",
    }  # fmt: skip
    hooks = ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"]
    results = train_from_corpus(hooks, **options)
    for hook, result in zip(hooks, results, strict=True):
        assert result.sae.cfg.d_sae == 1152
        assert result.metrics["l0"] <= 8
        assert 0 < result.metrics["fvu"] < 1
        again = load_sae(result.folder)
        assert again.cfg.hook_name == hook
        assert again.cfg.metadata["model_name"] == "smollm2-135m"
        x = torch.randn(4, 576)
        assert torch.allclose(again.decode(again.encode(x)), result.sae.decode(result.sae.encode(x)), atol=0.05)
        card = (result.folder / "README.md").read_text()
        for text in (
            "make it so",
            "moby-dick 100.0%",
            "loss recovered against mean ablation",
            "loss recovered against zero",
        ):
            assert text in card
        figures = json.loads((result.folder / "metrics.json").read_text())
        assert figures["fvu"] == pytest.approx(result.metrics["fvu"], rel=1e-5)
    index = module.write_index(tmp_path / "saes")
    assert [entry["hook_name"] for entry in index.values()] == hooks
    second = train_from_corpus(hooks[:1] + hooks[1:], **options)
    # the time recorded with the activations, so equal only if they come from the cache
    assert second[0].seconds["collect"] == results[0].seconds["collect"]
    assert second[0].metrics["fvu"] == pytest.approx(results[0].metrics["fvu"], rel=1e-3)


@pytest.mark.model
def test_a_further_round_goes_on_from_the_weights_and_the_card_tells_both(own_cache: Path, tmp_path: Path) -> None:
    options = {
        "hook_names": "blocks.28.hook_resid_post", "tokens": 1024, "context": 64, "sources": ["moby-dick"], "k": 8,
        "expansion": 2, "batch_size": 256, "heldout_tokens": 256, "loss_tokens": 128, "progress": False,
    }  # fmt: skip
    first = train_from_corpus(steps=20, **options)[0]
    before = first.sae.W_dec.detach().clone()
    second = train_from_corpus(steps=2, lr=1e-5, start=first.sae, finetune_steps=1, out=tmp_path, **options)[0]
    assert torch.nn.functional.cosine_similarity(before, second.sae.W_dec, dim=1).min() > 0.99
    card = (second.folder / "README.md").read_text()
    assert "1. 20 steps of 256" in card
    assert "2. 2 steps of 256" in card
    assert "3. End to end: 1 steps" in card
    assert load_sae(second.folder).cfg.metadata["rounds"] == second.sae.cfg.metadata["rounds"]
    with pytest.raises(ValueError, match="k = 8, asked for is 4"):
        train_from_corpus(steps=2, start=second.sae, **{**options, "k": 4})


def test_every_shipped_sae_has_a_recipe_whose_last_round_is_on_its_card() -> None:
    assert set(module.SHIPPED_ROUNDS) == set(module.SHIPPED)
    middle = next(name for name, entry in available_saes().items() if entry["alias"] == "middle")
    card, rounds = (SAES / middle / "README.md").read_text(), module.SHIPPED_ROUNDS["middle"]
    for number, one in enumerate(rounds, 1):
        assert f"{number}. {one['steps']:,} steps of 2,048" in card
    assert f"End to end: {rounds[-1]['finetune_steps']} steps" in card


def test_an_unknown_architecture_is_refused_before_anything_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "collect_parts", lambda *args, **kwargs: pytest.fail("began to collect"))
    with pytest.raises(ValueError, match="no architecture 'foo'; there are: standard"):
        train_from_corpus(architecture="foo")


@pytest.mark.model
def test_workers_share_chunks_that_later_runs_find_again(
    own_cache: Path, bundled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    corpus = load_corpus("heldout", sources="moby-dick")
    packed = corpus.pack(bundled, context=32, max_tokens=32 * 6)
    hooks = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    two = module.collect_parts("smollm2-135m", packed, hooks, "float32", 2, progress=False)
    assert [len(parts) for parts in two.values()] == [3, 3]
    shorter = corpus.pack(bundled, context=32, max_tokens=32 * 4)
    monkeypatch.setattr(module, "_run_workers", lambda *args: pytest.fail("everything is there already"))
    again = module.collect_parts("smollm2-135m", shorter, hooks[:1], "float32", 1, progress=False)[hooks[0]]
    monkeypatch.undo()
    direct = collect_activations(bundled, shorter, hooks, progress=False)[hooks[0]]
    found = torch.cat([part.acts.float() for part in again])
    assert torch.allclose(found, direct.acts, rtol=0.01, atol=0.01 * direct.median_norm)


def test_the_shipped_saes_are_small_described_and_read_by_name() -> None:
    shipped = available_saes()
    assert {entry["alias"] for entry in shipped.values()} == {"early", "middle", "late"}
    assert sum(path.stat().st_size for path in SAES.rglob("*") if path.is_file()) <= 45e6
    for name, entry in shipped.items():
        sae = load_sae(entry["alias"])
        assert sae.cfg.hook_name == entry["hook_name"]
        assert sae.cfg.d_sae >= 8 * 576
        assert (SAES / name / "README.md").read_text().startswith(f"# {name}")
        x = torch.randn(3, 576) * 5
        assert sae.encode(x).shape == (3, sae.cfg.d_sae)
        assert torch.equal(load_sae(name).W_dec, sae.W_dec)
    with pytest.raises(KeyError, match="middle"):
        load_sae("midle")


def test_the_shipped_saes_are_as_good_as_the_course_promises() -> None:
    middle = next(entry for entry in available_saes().values() if entry["alias"] == "middle")
    assert middle["dead_fraction"] < 0.01
    assert middle["loss_versus_mean"] > 0.985
    assert middle["fvu"] < 0.14
    assert 31 <= middle["l0"] <= 32


@pytest.mark.model
def test_the_shipped_middle_sae_does_on_held_out_text_what_its_card_says(bundled) -> None:
    from course_utils.sae import evaluate_sae

    stated = next(entry for entry in available_saes().values() if entry["alias"] == "middle")
    packed = load_corpus("heldout").pack(bundled, context=256, max_tokens=16 * 256)
    found = collect_activations(bundled, packed, stated["hook_name"], progress=False, batch_size=4)
    measured = evaluate_sae(load_sae("middle"), found.acts)
    # 4,096 tokens of the 16 thousand and more behind the card: sequences differ more than tokens do
    assert measured["fvu"] == pytest.approx(stated["fvu"], rel=0.15)
    assert measured["cosine"] == pytest.approx(stated["cosine"], abs=0.01)


def test_sae_lens_reads_the_shipped_saes() -> None:
    sae_lens = pytest.importorskip("sae_lens")
    ours = load_sae("middle")
    folder = next(SAES / name for name, entry in available_saes().items() if entry["alias"] == "middle")
    theirs = sae_lens.SAE.load_from_disk(str(folder), dtype="float32")
    x = torch.randn(5, 576) * 5 + ours.b_dec
    assert torch.allclose(theirs.encode(x), ours.encode(x), atol=1e-3)
    assert theirs.cfg.metadata.hook_name == ours.cfg.hook_name


def test_a_changed_weight_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from course_utils.lm import saes

    name = next(iter(available_saes()))
    for path in (SAES / name).iterdir():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "saes.json").write_bytes((SAES / "saes.json").read_bytes())
    weights = tmp_path / name / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    monkeypatch.setattr(saes, "SAES", tmp_path)
    with pytest.raises(ValueError, match="check the course out again"):
        load_sae(name)


def test_course_assets_checks_every_shipped_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all(shipped_files().values())
    assert len(shipped_files()) == 3 + len(available_saes())  # corpus, messages, evidence
    monkeypatch.setattr("course_utils.lm.model.fetch_model", lambda quiet=False: tmp_path)
    done = CliRunner().invoke(assets, ["--json"])
    assert done.exit_code == 0
    assert all(json.loads(done.output)["files"].values())

    def unreachable(quiet: bool = False) -> Path:
        raise ModelUnavailable("connect to a network")

    monkeypatch.setattr("course_utils.lm.model.fetch_model", unreachable)
    assert CliRunner().invoke(assets, ["--quiet"]).exit_code == 0, "lessons that need no model stay usable offline"
    failed = CliRunner().invoke(assets)
    assert failed.exit_code == 1
    assert "connect to a network" in failed.output
    assert "Traceback" not in failed.output


def test_course_train_hands_its_options_on_and_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def fake(hooks: list[str], **options: object) -> list:
        seen.update(hooks=hooks, **options)
        return []

    monkeypatch.setattr(module, "train_from_corpus", fake)
    done = CliRunner().invoke(
        train, ["--hook", "blocks.3.hook_mlp_out", "--tokens", "5000", "--lr", "0.002", "--k", "16"]
    )
    assert done.exit_code == 0, done.output
    assert (seen["hooks"], seen["tokens"], seen["lr"], seen["k"]) == (["blocks.3.hook_mlp_out"], 5000, 0.002, 16)

    folder = next(SAES / name for name, entry in available_saes().items() if entry["alias"] == "middle")
    assert CliRunner().invoke(train, ["--start", str(folder), "--finetune-steps", "5"]).exit_code == 0
    assert (seen["start"].cfg.d_sae, seen["finetune_steps"]) == (4608, 5)
    made = []
    monkeypatch.setattr(module, "train_shipped", lambda aliases, **options: made.append((aliases, options)) or [])
    assert CliRunner().invoke(train, ["--shipped", "all", "--workers", "2"]).exit_code == 0
    assert CliRunner().invoke(train, ["--shipped", "late"]).exit_code == 0
    assert [aliases for aliases, _ in made] == [("early", "middle", "late"), ("late",)]
    assert made[0][1]["workers"] == 2

    def wrong(*args: object, **options: object) -> list:
        raise KeyError("the model has no hook point 'x'")

    monkeypatch.setattr(module, "train_from_corpus", wrong)
    failed = CliRunner().invoke(train, ["--hook", "x"])
    assert failed.exit_code == 1
    assert "no hook point" in failed.output
