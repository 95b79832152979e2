"""Collecting activations: the right numbers from the right place, BOS and padding out, files that survive, fair shuffling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from course_utils.lm import ActivationBuffer, HookReader, collect_activations, load_model, open_activations
from course_utils.lm import activations as module
from course_utils.lm.activations import layer_of
from course_utils.lm.corpus import PackedTokens

LAYERS, D, BOS = 4, 32, 1
HOOKS = [
    "blocks.2.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.2.hook_mlp_out", "blocks.2.mlp.hook_post",
    "blocks.2.hook_attn_out", "blocks.2.attn.hook_z",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A four-layer GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    GPT2LMHeadModel(GPT2Config(n_layer=LAYERS, n_embd=D, n_head=4, vocab_size=120, n_positions=64)).save_pretrained(
        folder
    )
    return load_model(folder)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    ids = torch.randint(2, 119, (20, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = BOS
    ids[3, 6] = BOS  # between two documents
    return ids


def collect(model: Any, tokens: torch.Tensor, hook: Any, **options: Any) -> Any:
    return collect_activations(model, tokens, hook, **{"bos": BOS, "batch_size": 3, "progress": False, **options})


@pytest.mark.parametrize("hook", HOOKS)
def test_values_are_those_of_a_full_forward_pass_without_bos(model, tokens, hook) -> None:
    found = collect(model, tokens, hook)
    _, cache = model.run_with_cache(tokens)
    expected = cache[hook].flatten(2)[tokens != BOS]
    assert found.acts.shape == expected.shape
    assert torch.allclose(found.acts, expected, atol=1e-5)
    assert torch.equal(found.tokens_of(tokens), tokens[tokens != BOS])
    assert found.dropped == {"bos": 21, "padding": 0, "massive": 0}
    assert not found.acts.requires_grad


def test_bos_can_be_kept_on_purpose(model, tokens) -> None:
    assert len(collect(model, tokens, HOOKS[0], drop_bos=False)) == tokens.numel()


def test_several_hook_points_come_from_one_pass_and_stay_aligned(model, tokens, monkeypatch) -> None:
    calls = []
    original = HookReader.__call__
    monkeypatch.setattr(HookReader, "__call__", lambda self, ids: (calls.append(len(ids)), original(self, ids))[1])
    found = collect(model, tokens, ["blocks.1.hook_resid_post", "blocks.0.hook_mlp_out"])
    assert sum(calls) == len(tokens) + 1  # one sequence is read first to learn the widths
    for name, one in found.items():
        assert torch.allclose(one.acts, collect(model, tokens, name).acts, atol=1e-6)
        assert torch.equal(one.tokens_of(tokens), tokens[tokens != BOS])


def test_the_forward_pass_goes_no_deeper_than_needed(model) -> None:
    assert HookReader(model, ["blocks.2.hook_resid_pre"]).stop_at_layer == 2, "what enters block 2 is what left block 1"
    assert HookReader(model, ["blocks.0.hook_resid_pre"]).stop_at_layer == 1
    assert HookReader(model, ["blocks.2.attn.hook_z", "blocks.0.hook_mlp_out"]).stop_at_layer == 3
    assert HookReader(model, ["ln_final.hook_normalized"]).stop_at_layer is None
    assert [layer_of(n) for n in ("blocks.11.hook_resid_post", "hook_embed", "unembed.hook_out")] == [11, -1, None]
    with pytest.raises(KeyError, match="hook_dict"):
        HookReader(model, ["blocks.9.hook_resid_post"])
    ran = []
    model.run_with_hooks(
        torch.tensor([[1, 2]]), fwd_hooks=[("blocks.3.hook_resid_pre", lambda a, hook: ran.append(1))], stop_at_layer=3
    )
    assert not ran


def test_padding_is_left_out_and_changes_nothing(model, tokens) -> None:
    lengths = torch.randint(2, 13, (len(tokens),), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(12)[None] < lengths[:, None]
    padded = torch.where(mask, tokens, 0)
    other = torch.where(mask, tokens, 77)
    a, b = (collect(model, ids, HOOKS[0], attention_mask=mask) for ids in (padded, other))
    assert torch.allclose(a.acts, b.acts, atol=1e-6)
    whole = collect(model, tokens, HOOKS[0])
    rows = mask[whole.sequence.long(), whole.position.long()]
    assert torch.allclose(a.acts, whole.acts[rows], atol=1e-6)
    assert a.dropped["padding"] == int((~mask).sum())
    assert a.dropped["bos"] == int(((tokens == BOS) & mask).sum())
    with pytest.raises(ValueError, match="pad on the right"):
        collect(model, tokens, HOOKS[0], attention_mask=mask.flip(1))
    with pytest.raises(ValueError, match="attention_mask has shape"):
        collect(model, tokens, HOOKS[0], attention_mask=mask[:5])
    with pytest.raises(ValueError, match=r"\[sequences, context\]"):
        collect(model, tokens[0], HOOKS[0])


def test_massive_tokens_are_left_out_at_every_hook_point_and_counted(model, tokens) -> None:
    embedding = model.embed.weight
    old = embedding[50].clone()
    marked = torch.where(tokens == 50, 51, tokens)
    marked[4, 5] = marked[9, 2] = 50
    try:
        embedding[50] = old.sign() * 100
        found = collect(model, marked, ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"])
        kept = collect(model, marked, "blocks.0.hook_resid_post", max_norm_ratio=None)
    finally:
        embedding[50] = old
    for one in found.values():
        assert one.dropped["massive"] == 2
        assert 50 not in one.tokens_of(marked)
        assert one.acts.norm(dim=1).max() < 10 * one.median_norm
    assert (kept.tokens_of(marked) == 50).sum() == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_files_hold_what_memory_would_and_open_again_without_the_model(model, tokens, tmp_path: Path, dtype) -> None:
    inside = collect(model, tokens, HOOKS[1], dtype=dtype)
    on_disk = collect(model, tokens, HOOKS[1], dtype=dtype, path=tmp_path / "acts")
    opened = open_activations(tmp_path / "acts")
    for found in (on_disk, opened):
        assert found.acts.dtype == inside.acts.dtype == getattr(torch, dtype)
        assert torch.equal(found.acts, inside.acts)
        assert torch.equal(found.sequence, inside.sequence)
        assert torch.equal(found.position, inside.position)
    size = (tmp_path / "acts" / f"{HOOKS[1]}.bin").stat().st_size
    assert size == len(inside) * D * inside.acts.element_size()


def test_an_interrupted_run_goes_on_where_it_stopped(model, tokens, tmp_path: Path, monkeypatch) -> None:
    whole = collect(model, tokens, HOOKS[1])
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    original, seen = HookReader.__call__, []

    def stops_after_four(self: HookReader, ids: torch.Tensor) -> Any:
        seen.append(len(ids))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return original(self, ids)

    monkeypatch.setattr(HookReader, "__call__", stops_after_four)
    with pytest.raises(KeyboardInterrupt):
        collect(model, tokens, HOOKS[1], path=tmp_path / "acts")
    with pytest.raises(FileNotFoundError, match="interrupted"):
        open_activations(tmp_path / "acts")
    assert json.loads((tmp_path / "acts" / "meta.json").read_text())["state"]["sequences_done"] == 9
    seen[:] = [0] * 10
    resumed = collect(model, tokens, HOOKS[1], path=tmp_path / "acts")
    assert sum(seen[10:]) == 1 + len(tokens) - 9
    assert torch.allclose(resumed.acts, whole.acts, atol=1e-6)
    assert torch.equal(resumed.position, whole.position)
    seen[:] = [0] * 10
    assert len(collect(model, tokens, HOOKS[1], path=tmp_path / "acts")) == len(whole)
    assert sum(seen[10:]) == 1, "a finished run is not run again"


def test_a_folder_made_with_other_settings_is_not_mixed_in(model, tokens, tmp_path: Path) -> None:
    collect(model, tokens, HOOKS[1], path=tmp_path)
    with pytest.raises(ValueError, match="other dtype"):
        collect(model, tokens, HOOKS[1], path=tmp_path, dtype="bfloat16")
    with pytest.raises(ValueError, match="other tokens"):
        collect(model, tokens[:10], HOOKS[1], path=tmp_path)
    weight = model.blocks[0].mlp.out.weight
    old = weight.clone()
    try:
        weight.mul_(1.01)
        with pytest.raises(ValueError, match="other model"):
            collect(model, tokens, HOOKS[1], path=tmp_path)
    finally:
        weight.copy_(old)
    assert len(collect(model, tokens[:10], HOOKS[1], path=tmp_path, resume=False)) < 120
    with pytest.raises(KeyError, match="holds no"):
        open_activations(tmp_path, "blocks.0.hook_mlp_out")
    with pytest.raises(FileNotFoundError, match="collect_activations"):
        open_activations(tmp_path / "nowhere")


def test_max_rows_stops_early(model, tokens, tmp_path: Path) -> None:
    found = collect(model, tokens, HOOKS[1], max_rows=50, path=tmp_path)
    assert torch.allclose(found.acts, collect(model, tokens, HOOKS[1]).acts[:50], atol=1e-6)


def test_shuffled_reading_gives_every_row_once_in_another_order_each_seed(model, tokens) -> None:
    found = collect(model, tokens, HOOKS[1])
    seen = torch.cat(list(found.shuffled(16, seed=0)))
    assert torch.equal(seen.sort(0).values, found.acts.sort(0).values)
    first, second = (next(found.shuffled(16, seed=s)) for s in (0, 1))
    assert not torch.equal(first, second)


def test_the_buffer_gives_every_activation_once_an_epoch_and_mixes_sequences(model, tokens) -> None:
    many = tokens.repeat(8, 1)
    many[:, 1] = torch.arange(len(many)) % 100 + 10
    found = collect(model, many, HOOKS[1])
    packed = PackedTokens(many, ["x"] * len(many), ["x/0"] * len(many), BOS)
    buffer = ActivationBuffer(model, packed, HOOKS[1], batch_size=32, capacity=600, sequences_per_pass=8, epochs=1)
    batches = list(buffer)
    again = list(buffer.stream())
    two = torch.cat(list(ActivationBuffer(model, packed, HOOKS[1], batch_size=32, capacity=600, epochs=2)))
    got = torch.cat(batches)
    assert got.shape == found.acts.shape
    assert torch.allclose(got.double().sum(0), found.acts.double().sum(0), atol=1e-2)
    assert len(two) == 2 * len(found)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True)), (
        "the same every time, so runs can resume"
    )
    # which sequence each row of the first batches came from: neighbours in the text rarely share a batch
    nearest = torch.cdist(batches[0], found.acts).argmin(1)
    assert len(set(found.sequence[nearest].tolist())) > 16
    with pytest.raises(ValueError, match="two batches"):
        ActivationBuffer(model, many, HOOKS[1], batch_size=512, capacity=600)


def test_an_sae_trains_on_the_buffer(model, tokens) -> None:
    from course_utils.sae import SAEConfig, train_sae

    buffer = ActivationBuffer(model, tokens, HOOKS[1], batch_size=64, capacity=256)
    result = train_sae(buffer.stream, SAEConfig(d_in=D, d_sae=64, k=4, steps=30, batch_size=64), progress=False)
    assert np.isfinite(result.history[-1]["loss"])
    assert result.history[-1]["reconstruction"] < result.history[0]["reconstruction"]


def test_low_precision_forward_is_close(model, tokens) -> None:
    exact, low = (collect(model, tokens, HOOKS[1], precision=p).acts for p in ("float32", "bfloat16"))
    error = (exact - low).square().sum() / (exact - exact.mean(0)).square().sum()
    assert 0 < error < 1e-3
