"""The shipped corpus and messages: sources, licences, splits, packing with BOS, labels that no single word gives away."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from course_utils.assets.build_corpus import clean, pieces, split_of
from course_utils.assets.build_messages import make_message, messages, number_in_words
from course_utils.assets.message_grammar import CONCEPTS, HELDOUT, NEUTRAL_HELDOUT, NEUTRAL_TRAIN, TRAIN
from course_utils.lm import best_single_token, corpus_sources, load_corpus, load_messages, messages_manifest
from course_utils.lm.corpus import ASSETS, Corpus, Document


class Words:
    """A tokenizer that gives every distinct word a number; BOS is 1."""

    bos_token_id, pad_token_id = 1, 0

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, texts: list[str], **options: object) -> object:
        ids = [[self.known.setdefault(word, len(self.known) + 10) for word in text.split()] for text in texts]
        return type("Encoding", (), {"input_ids": ids})

    def __len__(self) -> int:
        return len(self.known)


def documents(*texts: str, source: str = "a") -> Corpus:
    return Corpus([Document(f"{source}/{i}", source, "train", text) for i, text in enumerate(texts)])


# ---------------------------------------------------------------- corpus


def test_the_corpus_has_the_promised_size_variety_and_licences() -> None:
    manifest = json.loads((ASSETS / "corpus.json").read_text())
    total = sum(manifest["tokens"].values())
    assert 2e6 < total < 4e6
    assert 0.08 < manifest["tokens"]["heldout"] / total < 0.15
    assert (ASSETS / "corpus.jsonl.zst").stat().st_size < 5e6
    sources = corpus_sources()
    wanted = {"speeches", "moby-dick", "scripture", "python", "html", "glosses", "facts", "dialogue", "handbook-fr-FR"}
    assert wanted <= set(sources)
    licences = (ASSETS / "LICENSES.md").read_text(encoding="utf-8")
    for name, source in sources.items():
        assert source["licence"], name
        assert source["credit"], name
        assert f"| {name} |" in licences
        assert min(source["tokens"].values()) > 0, f"{name} has no held-out text"


def test_documents_carry_their_source_and_the_splits_share_none() -> None:
    train, held = load_corpus("train"), load_corpus("heldout")
    assert len(train) + len(held) == len(load_corpus("all"))
    assert {d.id for d in train}.isdisjoint(d.id for d in held)
    assert {d.text for d in train}.isdisjoint(d.text for d in held)
    assert all(d.id.startswith(f"{d.source}/") for d in train)
    # the pieces of one long document, and a page's translations and its markup, fall on the same side
    whole = lambda d: re.sub(r"#\d+$", "", d.id.split("/", 1)[1])  # noqa: E731
    family = [
        {whole(d) for d in part if d.source.startswith("handbook-") or d.source == "html"} for part in (train, held)
    ]
    assert family[0].isdisjoint(family[1])
    for source in train.sources:
        names = [{whole(d) for d in part if d.source == source} for part in (train, held)]
        assert names[0].isdisjoint(names[1]), source


def test_sources_are_chosen_by_name_or_star_and_misspelt_ones_named() -> None:
    assert load_corpus("heldout", sources="moby-dick").sources == ["moby-dick"]
    assert all(s.startswith("handbook-") for s in load_corpus("heldout", sources=["handbook-*"]).sources)
    assert len(load_corpus("train", max_documents=7)) == 7
    with pytest.raises(ValueError, match="moby-dick"):
        load_corpus(sources=["moby"])
    with pytest.raises(ValueError, match="heldout"):
        load_corpus("test")  # type: ignore[arg-type]


def test_a_prefix_of_the_corpus_is_a_fair_sample() -> None:
    first = load_corpus("train", max_documents=300)
    assert len(first.sources) > 15


def test_packing_puts_bos_first_loses_no_token_and_never_mixes_sources() -> None:
    corpus = Corpus([*documents("a b c d e", "f g h i j k l"), *documents("m n o p q r", source="z")])
    words = Words()
    packed = corpus.pack(words, context=5, seed=None)
    name = {number: word for word, number in words.known.items()} | {1: "|"}
    assert ["".join(name[int(t)] for t in row) for row in packed.tokens] == ["|abcd", "|e|fg", "|hijk", "|mnop"]
    assert packed.sources == ["a", "a", "a", "z"]
    assert packed.documents == ["a/0", "a/0", "a/1", "z/0"]
    assert packed.n_tokens == int((packed.tokens != 1).sum()) == 15
    assert len(packed.of("z")) == 1


def test_packing_is_shuffled_by_seed_and_cut_by_max_tokens() -> None:
    corpus = documents(" ".join(f"w{i}" for i in range(400)))
    ordered, shuffled, again = (corpus.pack(Words(), context=11, seed=s).tokens for s in (None, 3, 3))
    assert torch.equal(shuffled, again)
    assert not torch.equal(ordered, shuffled)
    assert torch.equal(ordered.unique(dim=0), shuffled.unique(dim=0))
    assert len(corpus.pack(Words(), context=11, max_tokens=110)) == 10
    with pytest.raises(ValueError, match="at least 2"):
        corpus.pack(Words(), context=1)
    with pytest.raises(ValueError, match="smaller context"):
        corpus.pack(Words(), context=1000)


def test_building_blocks_of_the_corpus() -> None:
    assert clean("a\r\nb\x00 \n\n\n\n\nc\u00a0d") == "a\nb\n\n\nc d"
    long = "\n\n".join("word " * 500 for _ in range(60))
    parts = list(pieces("x", long))
    assert all(len(text) <= 40_000 for _, text in parts)
    assert "".join("".join(text.split()) for _, text in parts) == "".join(long.split())
    held = [split_of("f", str(i)) == "heldout" for i in range(4000)]
    assert abs(np.mean(held) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 4000)


# ---------------------------------------------------------------- messages


def test_messages_cover_every_concept_and_their_combinations() -> None:
    for split, count in (("train", 3000), ("heldout", 1000)):
        found = load_messages(split)
        assert len(found) == count == len(set(found.texts))
        assert found.concepts == (*CONCEPTS, "none")
        rates = found.labels.float().mean(0)
        assert ((rates[:-1] > 0.2) & (rates[:-1] < 0.45)).all()
        assert 0.1 < rates[-1] < 0.2
        assert torch.equal(found.label("none"), ~found.labels[:, :-1].any(1))
        together = found.labels[:, :-1].float().T @ found.labels[:, :-1].float()
        assert (together > 0.03 * count).all(), "every pair of concepts occurs together"
        stated = ~torch.tensor(found.order_values).isnan()
        assert torch.equal(stated, found.label("order_value"))
    with pytest.raises(KeyError, match="refund"):
        found.label("refunds")
    with pytest.raises(ValueError, match="heldout"):
        load_messages("test")


def test_training_and_held_out_messages_share_no_template() -> None:
    def templates(pools: dict, neutral: tuple) -> set[str]:
        return {t for pool in pools.values() for t in (*pool.express, *pool.counter)} | set(neutral)

    assert templates(TRAIN, NEUTRAL_TRAIN).isdisjoint(templates(HELDOUT, NEUTRAL_HELDOUT))
    assert set(load_messages("train").texts).isdisjoint(load_messages("heldout").texts)


def test_no_single_token_gives_a_label_away() -> None:
    words = Words()
    for split in ("train", "heldout"):
        found = load_messages(split)
        ids = words([re.sub(r"([^\w])", r" \1 ", text.lower()) for text in found.texts]).input_ids  # type: ignore[attr-defined]
        for concept in found.concepts:
            _, auc = best_single_token(ids, found.label(concept).tolist())
            assert auc < 0.8, f"{concept} on {split}: {auc:.3f}"
    stated = messages_manifest()["best_single_token"]
    assert max(row["auc"] for table in stated.values() for row in table.values()) < 0.8


def test_best_single_token_finds_a_giveaway_whether_present_or_absent() -> None:
    token, auc = best_single_token([[1, 7], [7], [2], [1]], [True, True, False, False])
    assert (token, auc) == (7, 1.0)
    assert best_single_token([[7], [7], [2], [1]], [False, False, True, True]) == (7, 1.0)


def test_messages_are_made_again_from_the_seed() -> None:
    assert [m["text"] for m in messages("heldout", 20)] == load_messages("heldout", max_messages=20).texts
    import random

    made = [make_message(random.Random(i), "train") for i in range(300)]
    for message in made:
        assert not re.search(r"[\[\]{}|]", message["text"]), message["text"]
        if message["order_value"] is not None:
            value, text = message["order_value"], message["text"].lower()
            assert f"{value:,}" in text or number_in_words(value) in text


def test_message_tokens_are_padded_on_the_right_and_masked() -> None:
    found = load_messages("heldout", max_messages=5)
    ids, mask = found.tokens(Words())
    lengths = [len(text.split()) + 1 for text in found.texts]
    assert mask.sum(1).tolist() == lengths
    assert (ids[:, 0] == 1).all()
    assert (ids[~mask] == 0).all()
    assert found.tokens(Words(), template="Q: {} A:")[1].sum(1).tolist() == [n + 2 for n in lengths]
    assert found.tokens(Words(), context=4)[0].shape == (5, 4)
