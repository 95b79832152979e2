"""Loss recovered: 1 for a perfect SAE, 0 for the mean, by tokens and not by batches, on the positions an SAE is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from course_utils.lm import evaluate_on_model, load_model, loss_recovered
from course_utils.lm.corpus import PackedTokens
from course_utils.lm.evaluate import LossRecovered

HOOK, BOS = "blocks.1.hook_resid_post", 1


class Fixed:
    """An "SAE" whose reconstruction is a given function."""

    def __init__(self, rebuild: Any) -> None:
        self.rebuild = rebuild
        self.W_dec = torch.eye(32)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return self.rebuild(x)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random GPT-2 that has been taught to repeat the last token, so that ablations cost something."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=60, n_positions=32))
    optimizer = torch.optim.Adam(gpt2.parameters(), lr=1e-2)
    gpt2.train(False)
    for _ in range(60):
        ids = torch.randint(2, 60, (16, 1)).expand(-1, 10)
        gpt2(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("repeats")
    gpt2.save_pretrained(folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    ids = torch.randint(2, 60, (10, 1), generator=torch.Generator().manual_seed(3)).repeat(1, 12)
    ids[:, 0] = BOS
    return ids


def measure(model: Any, sae: Any, tokens: torch.Tensor, **options: Any) -> LossRecovered:
    return loss_recovered(model, sae, packed(tokens), HOOK, progress=False, **options)


def packed(tokens: torch.Tensor) -> PackedTokens:
    return PackedTokens(tokens, ["x"] * len(tokens), ["x/0"] * len(tokens), BOS)


def test_a_perfect_reconstruction_recovers_everything(model, tokens) -> None:
    found = measure(model, Fixed(lambda x: x), tokens)
    assert found.spliced == pytest.approx(found.clean, abs=1e-5)
    assert found.versus_mean == pytest.approx(1, abs=1e-4)
    assert found.versus_zero == pytest.approx(1, abs=1e-4)
    assert found.clean < min(found.mean, found.zero)
    assert found.tokens == 10 * 10, "BOS is not replaced, and nothing follows the last token"


def test_an_sae_that_returns_the_mean_recovers_nothing(model, tokens) -> None:
    _, cache = model.run_with_cache(tokens)
    mean = cache[HOOK][:, 1:].flatten(0, 1).mean(0)
    found = measure(model, Fixed(lambda x: mean.expand_as(x)), tokens)
    assert found.versus_mean == pytest.approx(0, abs=1e-3)
    assert measure(model, Fixed(torch.zeros_like), tokens).versus_zero == pytest.approx(0, abs=1e-6)


def test_clean_loss_is_the_mean_over_tokens_whatever_the_batch_size(model, tokens) -> None:
    logits = model(tokens)
    expected = torch.nn.functional.cross_entropy(logits[:, 1:-1].flatten(0, 1), tokens[:, 2:].flatten()).item()
    noisy = Fixed(lambda x: 0.8 * x)
    results = [measure(model, noisy, tokens, batch_size=size) for size in (1, 3, 10)]
    for found in results:
        assert found.clean == pytest.approx(expected, abs=1e-5)
        assert found.spliced == pytest.approx(results[0].spliced, abs=1e-5)


def test_padding_neither_counts_nor_is_replaced(model, tokens) -> None:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:5, 7:] = False
    sae = Fixed(lambda x: 0.7 * x)
    options = {"attention_mask": mask, "mean": torch.zeros(32)}
    results = [measure(model, sae, torch.where(mask, tokens, fill), **options) for fill in (0, 33)]
    assert results[0] == results[1]
    assert results[0].tokens == 5 * 10 + 5 * 5, "of the six tokens after BOS in a short row, the last foretells padding"


def test_massive_tokens_keep_their_activation(model, tokens) -> None:
    weight = model.embed.weight
    old = weight[59].clone()
    try:
        weight[59] = 200 * old
        marked = tokens.clone()
        marked[2, 4] = 59
        seen = []
        measure(model, Fixed(lambda x: (seen.append(x.norm(dim=-1).max()), x)[1]), marked)
    finally:
        weight[59] = old
    _, cache = model.run_with_cache(tokens)
    assert max(seen) < 10 * cache[HOOK][:, 1:].norm(dim=-1).median()


def test_every_figure_of_a_model_card_at_once(model, tokens, tmp_path: Path) -> None:
    from course_utils.sae import SAE, SAEConfig

    sae = SAE(SAEConfig(d_in=32, d_sae=64, k=4, metadata={"hook_name": HOOK}))
    m = evaluate_on_model(model, sae, packed(tokens), progress=False)
    assert {"l0", "fvu", "cosine", "dead_fraction", "loss_clean", "loss_versus_mean", "loss_versus_zero"} <= set(m)
    assert m["activations"] == 10 * 11
    with pytest.raises(ValueError, match="hook_name"):
        loss_recovered(model, Fixed(lambda x: x), tokens)


def test_the_ratios_are_the_right_way_up() -> None:
    found = LossRecovered(clean=3.0, spliced=3.2, zero=12.0, mean=10.0, tokens=1)
    assert found.versus_zero == pytest.approx(8.8 / 9)
    assert found.versus_mean == pytest.approx(6.8 / 7)
