"""Lesson 09's checks: what an empty, copied or pasted portfolio earns and is told; the held-back text; removal at single positions."""

from __future__ import annotations

import copy
import json
import re
import time

import numpy as np
import pytest
import torch

from course_utils import exercises, lessons
from course_utils.exercises.lesson_09 import _REFERENCE
from course_utils.features import held_back
from course_utils.features.held_back import ENOUGH, WINDOW, author_latents, load_held_back, pattern_says, split_open
from course_utils.io import sha256

FIVE = exercises.get("09.4")


def graded(change, seed=3):
    """The verdict on the worked example after `change(findings)`, made anew each time the check asks."""

    def handed_in():
        found = copy.deepcopy(FIVE.reference())
        change(found)
        return found

    return FIVE.grade(handed_in, seed)


@pytest.mark.parametrize("empty", [{"author": "", "latents": []}, {"author": "Ada", "latents": []}])
def test_an_empty_portfolio_earns_nothing(empty):
    verdict = FIVE.grade(lambda: empty)
    assert verdict.score == 0


def test_a_copied_portfolio_earns_nothing_under_another_name():
    verdict = graded(lambda found: found.update(author="Grace Hopper"))
    assert verdict.score == 0
    assert verdict.diagnosis == "latents_of_another_author"


def test_pasted_numbers_are_told_so():
    verdict = graded(
        lambda found: [r.update(score=r["score"] + 0.4, support=50 * r["support"]) for r in found["latents"]]
    )
    assert 0 < verdict.score < verdict.max_score
    assert verdict.diagnosis == "pasted_numbers"
    assert "pasted" in verdict.feedback[0]


def test_a_list_of_sentences_is_no_explanation():
    verdict = graded(lambda found: found["latents"][0].update(pattern="a|" * 150))
    assert "a list, not an explanation" in str(verdict)


def test_a_missing_field_is_named():
    verdict = graded(lambda found: found["latents"][0].pop("control"))
    assert "lacks control" in str(verdict)


def test_one_bad_explanation_among_many_costs_nothing_but_its_claim():
    """Six honest ones and one that fails: five are asked for."""
    verdict = graded(lambda found: found["latents"][-1].update(pattern=r"qqq$", score=0.5))
    assert verdict.passed, str(verdict)


ENDLESS = r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)\1\2\3x\7[!0]"


def test_a_pattern_that_backtracks_without_end_is_stopped_and_told_so():
    started = time.process_time()
    verdict = graded(lambda found: found["latents"][1].update(pattern=ENDLESS))
    assert time.process_time() - started < 5
    assert 0 < verdict.score < verdict.max_score
    assert "latent 4226: this pattern backtracks without end" in str(verdict)
    with pytest.raises(TimeoutError, match="backtracks without end"):
        pattern_says(ENDLESS, ["the quick brown fox jumps over the lazy dog and runs far away " * 2])


def test_the_pattern_of_the_report_is_quick():
    started = time.process_time()
    assert not pattern_says(r"(\w+\s?)*$!", ["the quick brown fox jumps over the lazy dog and runs away"] * 60).any()
    assert time.process_time() - started < 1


def rare_latent():
    firings = load_held_back().firings["middle"]
    return next(i for i in author_latents(FIVE.reference()["author"]) if 0 < len(firings[i]) < ENOUGH)


def test_a_rare_latent_is_left_out_and_named():
    def one_of_five(found):
        found["latents"] = found["latents"][:5]
        found["latents"][0]["latent"] = rare_latent()

    verdict = graded(one_of_five)
    assert f"latent {rare_latent()} fires strongly only" in str(verdict)
    passed = {case.name.split()[1] for case in verdict.cases if case.passed}
    assert {"scores", "effects"} <= passed
    verdict = graded(lambda found: found["latents"].append({**found["latents"][0], "latent": rare_latent()}))
    assert verdict.passed, str(verdict)


def test_failures_name_their_latents_with_numbers():
    def spoil(found):
        found["latents"] = found["latents"][:5]
        found["latents"][1].update(pattern=r"\bthe$", score=0.8, promotes=[7, 11, 13], support=0.5)

    said = str(graded(spoil))
    assert re.search(r"latent 4226: pattern 0\.\d\d \(needs 0\.70\), score stated 0\.80", said)
    assert "latent 4226: support stated 0.50, measured 0.00" in said


@pytest.mark.parametrize("sentence", ["", "Words about it.", "A sentence that says what it {}."])
def test_invented_records_earn_nothing(sentence):
    def invented():
        firings = load_held_back().firings["middle"]
        mine = [i for i in author_latents("Ada") if len(firings[i]) >= ENOUGH][:5]
        rest = {"pattern": "the$", "score": 0.5, "promotes": [1, 2, 3], "support": 0.05, "control": 0.01}
        return {
            "author": "Ada",
            "latents": [{"latent": i, "explanation": sentence.format(f"is, {i}"), **rest} for i in mine],
        }

    assert FIVE.grade(invented).score == 0


def test_a_good_pattern_needs_a_sentence():
    def silent(found):
        for record in found["latents"]:
            record.update(explanation="file")

    assert "the explanation has 1 words (5 needed)" in str(graded(silent))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "a dictionary with no keys"),
        ([], "this is a list"),
        ({"author": "Ada", "latents": 3}, "`latents` is of type int"),
        ({"author": "Ada", "latents": ["one"]}, "record 0 is of type str"),
        ({"author": "Ada", "latents": []}, "no record is handed in"),
    ],
)
def test_another_shape_is_told_in_one_sentence(wrong, told):
    verdict = FIVE.grade(lambda: wrong)
    assert verdict.score == 0
    assert str(verdict).count(told) == 1
    assert "KeyError" not in str(verdict)
    assert "max()" not in str(verdict)


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ([" he", " she", "x"], "a list of token ids"),
        ([16981, 18403], "2 tokens named, asked are three to ten"),
        ([16981, 16981, 16981], "3 tokens, only 1 of them different"),
        ([60000, 1, 2], "60000 is no token id"),
    ],
)
def test_wrong_tokens_are_named(tokens, told):
    def change(found):
        found["latents"] = found["latents"][:5]
        found["latents"][0]["promotes"] = tokens

    assert told in str(graded(change))


def test_too_many_records_are_told():
    assert "20 at most" in str(graded(lambda found: found.update(latents=found["latents"] * 4)))


def test_training_at_one_minus_p_is_told():
    from course_utils import toy

    phase = exercises.get("09.1")

    def swapped(seed):
        found = phase.reference(seed)
        p = torch.tensor(found["feature_probability"])
        config = toy.ToyModelConfig(12, 4, len(p), 1 - p[:, None], 0.9 ** torch.arange(12))
        run = toy.train_toy_model(config, steps=400, lr=1e-2, seed=seed, progress=False)
        return {**found, "W": run.W, "b": run.model.b.detach()}

    assert "fit data whose features are active with probability 1 - p" in str(phase.grade(swapped))


def test_names_are_compared_without_case_and_spaces():
    assert author_latents("  Ada   LOVELACE ") == author_latents("Ada Lovelace")
    assert len(set(author_latents("Ada Lovelace")) & set(author_latents("Emmy Noether"))) < 300


def test_the_held_back_text_and_the_open_text_do_not_meet():
    sources = ["a"] * 10 + ["b"] * 4
    shown, kept = split_open(sources)
    assert sorted(shown + kept) == list(range(14))
    assert kept == [7, 8, 9, 13]


def test_the_evidence_is_what_its_note_describes_and_small():
    note = json.loads((held_back.FOLDER / "evidence.json").read_text(encoding="utf-8"))
    path = held_back.FOLDER / "evidence.npz"
    assert note["sha256"] == sha256(path)
    assert path.stat().st_size < 1_500_000
    held = load_held_back()
    assert {alias: len(found) for alias, found in held.firings.items()} == {"early": 4608, "middle": 4608, "late": 4608}
    for found in held.firings.values():
        assert all((np.diff(places) > 0).all() for places in found[:200])
        assert max(int(places.max()) for places in found if len(places)) < held.tokens.size
    assert len(held.effects) == note["latents_with_effects"] > 2000


def test_the_worked_example_found_its_tokens_on_open_text():
    """Read off the held-back text they would be its own top five, for every latent."""
    effects = load_held_back().effects
    assert any(r["promotes"] != effects[r["latent"]].tokens[: len(r["promotes"])].tolist() for r in _REFERENCE)


def test_contexts_end_where_the_latent_fires():
    held = load_held_back()
    latent = next(i for i, places in enumerate(held.firings["middle"]) if len(places) >= ENOUGH)
    texts, fires = held.contexts(latent, 15, np.random.default_rng(0))
    assert fires.sum() == 15
    assert len(texts) == 30
    assert all(len(text) > 0 for text in texts)
    place = int(held.firings["middle"][latent][0])
    assert held.text(place).endswith(held.words[held.tokens.ravel()[place]])
    assert len(re.findall(r".", held.text(place))) < 40 * WINDOW
    rare = next(i for i, places in enumerate(held.firings["middle"]) if len(places) < ENOUGH)
    with pytest.raises(ValueError, match="fires strongly only"):
        held.contexts(rare, 15, np.random.default_rng(0))


def test_patterns_see_the_end_of_the_text():
    assert pattern_says(r"sea$", ["the sea", "sea air"]).tolist() == [True, False]


def test_every_task_of_the_rubric_is_released_with_its_criteria():
    source = next(source for source in lessons.sources() if source.number == "09")
    nb = lessons.read_notebook(source.path)
    tasks = exercises.get_lesson("09").tasks
    assert len(tasks) == 8
    roles = [lessons.cell_role(cell) for cell in nb.cells]
    for task in tasks:
        cell = nb.cells[roles.index(("task", task.id))]
        assert f"Task {task.id}: {task.title}" in cell.source
        assert all(criterion in cell.source for criterion in task.criteria)
        assert cell.metadata.nbgrader.points == task.points
        assert roles.index(("written", task.id)) == roles.index(("task", task.id)) + 1
    assert len(exercises.for_lesson("09")) >= 4


def test_the_worked_texts_are_not_released():
    source = next(source for source in lessons.sources() if source.number == "09")
    written = [c.source for c in lessons.read_notebook(source.path).cells if lessons.cell_role(c)[0] == "written"]
    released = source.release_path.read_text(encoding="utf-8")
    for text in written:
        for sentence in re.findall(r"[A-Z][^.\n\"\\$]{60,}\.", text):
            assert sentence not in released


@pytest.mark.model
def test_removing_at_one_position_equals_a_hook_on_the_whole_model():
    from course_utils.features.removal import removal_support
    from course_utils.features.steer import ablate_latent
    from course_utils.lm import load_corpus, load_model, load_sae

    model, sae = load_model(), load_sae("middle")
    tokens = load_corpus("heldout").pack(model, context=20, max_tokens=40).tokens
    latent = 2057  # the preposition "in"
    places = torch.tensor([[0, 7], [1, 13]])
    support, controls = removal_support(model, sae, tokens, latent, places, controls=2)
    with torch.no_grad():
        clean = model(tokens).float().log_softmax(-1)
        for k, (row, position) in enumerate(places.tolist()):
            hook = ablate_latent(sae, latent, positions=[position])
            without = model.run_with_hooks(tokens[row : row + 1], fwd_hooks=[(sae.cfg.hook_name, hook)])
            expected = clean[row, position] - without.float().log_softmax(-1)[0, position]
            torch.testing.assert_close(support[k], expected, atol=2e-3, rtol=0)
    assert controls.shape == (2, 2, model.W_U.shape[1])
