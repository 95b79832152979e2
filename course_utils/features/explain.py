"""Score an explanation of a latent as what it is: a prediction about text nobody has looked at yet.

Detection scoring (Paulo et al. 2024, "Automatically Interpreting Millions of Features in Large Language Models"): show a
judge contexts in which the latent fires and contexts in which it does not, let it tell them apart by the explanation alone,
and report balanced accuracy beside what the same answers score on shuffled labels. The judge is any function of the texts:
a rule written in Python, or a language model behind an address you choose.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from course_utils.features.stream import LatentBatch, latent_stream

Judge = Callable[[Sequence[str]], Sequence[float]]
"""Takes texts, returns for each a yes (1, True) or no (0, False), or a probability."""


@dataclass(frozen=True)
class DetectionSet:
    """Labelled contexts of one latent."""

    texts: list[str]
    fires: np.ndarray
    """Boolean: does the latent fire anywhere in the text?"""
    places: list[tuple[int, int]]
    """Where each text begins: (sequence, position)."""


@dataclass(frozen=True)
class ExplanationScore:
    """How well an explanation tells texts in which a latent fires from texts in which it does not."""

    balanced_accuracy: float
    """Mean of sensitivity and specificity: 0.5 for a coin, for "always" and for "never"."""
    low: float
    high: float
    """Bootstrap interval of the balanced accuracy."""
    shuffled: float
    shuffled_high: float
    """The same answers against shuffled labels: mean, and the 97.5% point, which a real explanation should beat."""
    sensitivity: float
    specificity: float
    n: int

    @property
    def beats_chance(self) -> bool:
        return self.balanced_accuracy > self.shuffled_high


def balanced_accuracy(fires: Sequence[bool] | np.ndarray, said: Sequence[bool] | np.ndarray) -> float:
    """Mean of the share of firing texts called firing and the share of silent texts called silent."""
    fires, said = np.asarray(fires, bool), np.asarray(said, bool)
    return float((said[fires].mean() + (~said[~fires]).mean()) / 2)


def score_explanation(
    judge: Judge,
    texts: Sequence[str] | DetectionSet,
    fires: Sequence[bool] | np.ndarray | None = None,
    *,
    written_from: Collection[str] = (),
    repeats: int = 1000,
    interval: float = 0.95,
    seed: int = 0,
) -> ExplanationScore:
    """Score a judge (an explanation made executable) on held-out texts.

    Args:
        judge: `texts -> answers`; answers above 0.5 count as "fires".
        texts: held-out texts, or a `DetectionSet` from `detection_set`, which brings its labels.
        fires: for each text, whether the latent fires in it.
        written_from: the texts the explanation was written from; if any of them is among `texts` the score would mean
            nothing, and a ValueError says so.
        repeats: bootstrap samples and label shuffles.

    Example:
        >>> texts = ["the river bank", "a calm sea", "deep river", "two cats", "tax law", "river and sea"] * 5
        >>> score = score_explanation(mentions("river"), texts, ["river" in t for t in texts])
        >>> score.balanced_accuracy, round(score.shuffled, 1), score.beats_chance
        (1.0, 0.5, True)
    """
    if isinstance(texts, DetectionSet):
        fires, texts = texts.fires, texts.texts
    labels = np.asarray(fires, dtype=bool)
    if labels.shape != (len(texts),):
        raise ValueError(f"one label for each text, please: {len(texts)} texts, labels of shape {labels.shape}")
    if labels.all() or not labels.any():
        raise ValueError("need texts in which the latent fires and texts in which it does not")
    overlap = set(texts) & set(written_from)
    if overlap:
        raise ValueError(
            f"{len(overlap)} of the {len(texts)} texts were used to write the explanation: score it on held-out text"
        )
    answers = np.asarray(list(judge(texts)), dtype=float)
    if answers.shape != labels.shape:
        raise ValueError(f"the judge must give one answer for each text: {len(texts)} texts, answers {answers.shape}")
    said = answers > 0.5
    random = np.random.default_rng(seed)
    yes, no = said[labels], said[~labels]
    boot = [(random.choice(yes, len(yes)).mean() + 1 - random.choice(no, len(no)).mean()) / 2 for _ in range(repeats)]
    shuffled = [balanced_accuracy(random.permutation(labels), said) for _ in range(repeats)]
    tail = (1 - interval) / 2
    return ExplanationScore(
        balanced_accuracy=balanced_accuracy(labels, said),
        low=float(np.quantile(boot, tail)),
        high=float(np.quantile(boot, 1 - tail)),
        shuffled=float(np.mean(shuffled)),
        shuffled_high=float(np.quantile(shuffled, 0.975)),
        sensitivity=float(yes.mean()),
        specificity=float(1 - no.mean()),
        n=len(labels),
    )


def held_out_split(
    tokens: Int[Tensor, "sequences context"], fraction: float = 0.3, seed: int = 0
) -> tuple[Int[Tensor, "a context"], Int[Tensor, "b context"]]:
    """Split sequences at random into those to look at and those to score on."""
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    cut = len(tokens) - max(1, round(len(tokens) * fraction))
    return tokens[order[:cut].sort().values], tokens[order[cut:].sort().values]


def detection_set(
    model: Any,
    sae: Any,
    tokens: Int[Tensor, "sequences context"],
    latent: int,
    n: int = 40,
    *,
    window: int = 24,
    threshold: float = 0.0,
    hook_name: str | None = None,
    seed: int = 0,
) -> DetectionSet:
    """Half firing, half silent contexts of a latent, drawn from held-out `tokens`; fewer when the latent is rare.

    Sequences are cut into windows of `window` tokens; a window fires when the latent exceeds `threshold` anywhere in it.
    """
    stream = latent_stream(model, sae, tokens, [latent], hook_name=hook_name)
    return detection_set_from(stream, model.tokenizer, n, window=window, threshold=threshold, seed=seed)


def detection_set_from(
    stream: Any, tokenizer: Any, n: int = 40, *, window: int = 24, threshold: float = 0.0, seed: int = 0
) -> DetectionSet:
    """`detection_set` over a stream of one latent's batches. Repeated windows are used once."""
    firing: dict[tuple[int, ...], tuple[int, int]] = {}
    silent: dict[tuple[int, ...], tuple[int, int]] = {}
    batch: LatentBatch
    for batch in stream:
        peak = batch.acts[..., 0]
        for start in range(1, batch.tokens.shape[1] - window + 1, window):
            part = batch.tokens[:, start : start + window].tolist()
            on = (peak[:, start : start + window] > threshold).any(dim=1).tolist()
            for row, (ids, fires) in enumerate(zip(part, on, strict=True)):
                (firing if fires else silent).setdefault(tuple(ids), (batch.first_sequence + row, start))
    random = np.random.default_rng(seed)
    silent = {ids: place for ids, place in silent.items() if ids not in firing}
    each = min(n // 2, len(firing), len(silent))
    if each < 2:
        raise ValueError(
            f"too few contexts to score on: {len(firing)} windows in which the latent fires, {len(silent)} in which it does "
            "not; use more held-out text"
        )
    chosen: list[tuple[tuple[int, ...], tuple[int, int], bool]] = []
    for pool, fires in ((firing, True), (silent, False)):
        items = list(pool.items())
        chosen += [(*items[i], fires) for i in random.choice(len(items), each, replace=False)]
    order = random.permutation(len(chosen))
    return DetectionSet(
        [tokenizer.decode(list(chosen[i][0])) for i in order],
        np.array([chosen[i][2] for i in order]),
        [chosen[i][1] for i in order],
    )


def mentions(*words: str, whole: bool = True) -> Judge:
    """A rule that says yes to texts with any of `words` in them (upper and lower case alike).

    Example:
        >>> list(mentions("sea")(["The Sea", "seams"]))
        [True, False]
    """
    edge = r"\b" if whole else ""
    pattern = re.compile("|".join(edge + re.escape(word) + edge for word in words), re.IGNORECASE)
    return lambda texts: [bool(pattern.search(text)) for text in texts]


@dataclass(frozen=True)
class LanguageModelJudge:
    """A judge that asks a language model behind an OpenAI-compatible address whether each text fits a description.

    Optional: nothing in the course needs it, and nothing is sent anywhere unless you make one. Texts go out in small batches;
    the model answers with a JSON list of 0 and 1.

    Args:
        explanation: what the latent is said to respond to.
        base_url: for example "http://localhost:11434/v1".
        model: the model's name at that address.
        api_key: sent as a bearer token when given.
    """

    explanation: str
    base_url: str
    model: str
    api_key: str | None = None
    batch: int = 10
    timeout: float = 60.0

    def __call__(self, texts: Sequence[str]) -> list[float]:
        answers: list[float] = []
        for start in range(0, len(texts), self.batch):
            answers += self._ask(list(texts[start : start + self.batch]))
        return answers

    def prompt(self, texts: Sequence[str]) -> str:
        """What the model is asked."""
        return (
            "A unit inside a language model is said to respond to: "
            f"{self.explanation}\n\nFor each numbered text decide whether it contains that. Answer with a JSON list of "
            f"{len(texts)} numbers, 1 for yes and 0 for no, and nothing else.\n\n"
            + "\n".join(f"{i + 1}. {json.dumps(text, ensure_ascii=False)}" for i, text in enumerate(texts))
        )

    def _ask(self, texts: list[str]) -> list[float]:
        body = {
            "model": self.model,
            "temperature": 0,
            "messages": [{"role": "user", "content": self.prompt(texts)}],
        }
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        address = self.base_url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                reply = json.load(response)["choices"][0]["message"]["content"]
        except (urllib.error.URLError, TimeoutError) as error:
            raise RuntimeError(f"no answer from the judge at {address}: {error}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RuntimeError(f"{address} did not answer like an OpenAI-compatible server: {error!r}") from error
        return _read_answers(reply, len(texts))


def _read_answers(reply: str, n: int) -> list[float]:
    found = re.search(r"\[[\d\s,.]*\]", reply or "")
    try:
        answers = [float(x) for x in json.loads(found.group(0))] if found else []
    except ValueError:
        answers = []
    if len(answers) != n or any(not 0 <= a <= 1 for a in answers):
        raise RuntimeError(f"the judge should answer with a list of {n} zeros and ones, it said: {reply[:200]!r}")
    return answers
