"""Text held back for checking portfolios: where latents fire on it and what removing them does, so that claims can be re-measured.

The check of lesson 09 must not load a language model. So this file's asset holds, for about 20,000 tokens of held-out text on
which no lesson shows a latent, the places where each latent of the three shipped SAEs fires strongly, and for latents of the
middle SAE what removing them there does to the next token's log-probabilities. `python -m course_utils.assets.build_evidence`
makes it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regex
from jaxtyping import Bool, Int

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "evidence"
STRONG = 0.25
"""A latent fires strongly where its activation exceeds this share of its largest activation on the text at hand."""
WINDOW = 16
"""Tokens a pattern sees: the token in question and those before it."""
SHARES = 5
"""Each author may choose from one latent in so many, so that two portfolios rarely study the same ones."""
ENOUGH = 20
"""Strong firings a latent needs in the held-back text to be scored on it."""
PATIENCE, PATIENCE_PER_TEXT = 0.3, 0.003
"""Seconds that matching a pattern may take, as a whole and for each text: patterns are written by learners."""


@dataclass(frozen=True)
class Effect:
    """What removing a latent did where it fires strongly in the held-back text."""

    tokens: Int[np.ndarray, " k"]
    """Token ids that lost the most log-probability, the largest loss first."""
    support: np.ndarray
    """Mean loss in nats, for each of them: how much the latent supports the token."""
    control: float
    """97.5% of all tokens change by less than this when a random direction of the same length is removed (a mean over as many
    places; measured at three and scaled)."""
    places: int


@dataclass(frozen=True)
class HeldBack:
    """The held-back text and what was measured on it."""

    words: list[str]
    """Text of each token that occurs."""
    tokens: Int[np.ndarray, "sequences context"]
    """Indices into `words`; position 0 of each sequence is BOS."""
    firings: dict[str, list[np.ndarray]]
    """SAE alias -> for each latent the flat positions where it fires strongly."""
    effects: dict[int, Effect]

    def contexts(
        self, latent: int, n: int, rng: np.random.Generator, alias: str = "middle"
    ) -> tuple[list[str], Bool[np.ndarray, " texts"]]:
        """Up to `n` texts that end where the latent fires strongly and as many that end where it does not, and which is which.

        Errors:
            ValueError: the latent fires strongly fewer than `ENOUGH` times in this text.
        """
        firing = self.firings[alias][latent]
        if len(firing) < ENOUGH:
            raise ValueError(f"latent {latent} fires strongly only {len(firing)} times in the held-back text")
        silent = np.setdiff1d(self.places, firing)
        each = min(n, len(firing))
        chosen = np.concatenate([rng.choice(firing, each, replace=False), rng.choice(silent, each, replace=False)])
        return [self.text(int(place)) for place in chosen], np.arange(2 * each) < each

    @functools.cached_property
    def places(self) -> Int[np.ndarray, " places"]:
        """Flat positions of all tokens but each sequence's first."""
        grid = np.arange(self.tokens.size).reshape(self.tokens.shape)
        return grid[:, 1:].ravel()

    def text(self, place: int) -> str:
        """The text of the last `WINDOW` tokens up to and including a flat position."""
        row, position = divmod(place, self.tokens.shape[1])
        return "".join(self.words[i] for i in self.tokens[row, max(1, position - WINDOW + 1) : position + 1])


def author_latents(author: str, d_sae: int = 4608) -> list[int]:
    """The latents that an author's portfolio may study: one in five, drawn from the name.

    Example:
        >>> mine, yours = set(author_latents("Ada")), set(author_latents("Emmy"))
        >>> len(mine) > 800, len(mine & yours) < 300
        (True, True)
    """
    name = " ".join(author.lower().split())
    return [i for i in range(d_sae) if zlib.crc32(hashlib.sha256(f"{name}:{i}".encode()).digest()) % SHARES == 0]


def split_open(rows: Sequence[str]) -> tuple[list[int], list[int]]:
    """Row numbers of packed sequences (given each row's source, in the corpus' own order) that are open, and held back.

    Of every source the last third is held back. Use it with `corpus.pack(model, context=64, seed=None)`.

    Example:
        >>> split_open(["a", "a", "a", "b", "b", "b"])
        ([0, 1, 3, 4], [2, 5])
    """
    shown: list[int] = []
    kept: list[int] = []
    for source in dict.fromkeys(rows):
        mine = [i for i, name in enumerate(rows) if name == source]
        cut = len(mine) - len(mine) // 3
        shown, kept = shown + mine[:cut], kept + mine[cut:]
    return shown, kept


def pattern_says(pattern: str, texts: Sequence[str]) -> Bool[np.ndarray, " texts"]:
    """For each text, whether the regular expression is found in it.

    Errors:
        TimeoutError: the pattern backtracks without end: it needs more than `PATIENCE` seconds of CPU time and
            `PATIENCE_PER_TEXT` for each text, some hundred times what an ordinary one takes.
        regex.error: it is no regular expression.
    """
    compiled = regex.compile(pattern)
    end = time.process_time() + PATIENCE + PATIENCE_PER_TEXT * len(texts)
    found = []
    for text in texts:
        try:
            found.append(compiled.search(text, timeout=max(end - time.process_time(), 1e-3)) is not None)
        except TimeoutError:
            raise TimeoutError(f"this pattern backtracks without end: {pattern!r}") from None
    return np.array(found, dtype=bool)


@functools.cache
def load_held_back() -> HeldBack:
    """The shipped evidence, read once.

    Errors:
        FileNotFoundError: the asset is missing, or not the file that `evidence.json` describes.
    """
    from course_utils.io import sha256

    path, note = FOLDER / "evidence.npz", FOLDER / "evidence.json"
    if not path.exists() or sha256(path) != json.loads(note.read_text(encoding="utf-8"))["sha256"]:
        raise FileNotFoundError(
            f"{path} is missing or not the file that evidence.json describes: check the course out again, or rebuild it "
            "with `python -m course_utils.assets.build_evidence`"
        )
    with np.load(path, allow_pickle=False) as stored:
        data = {name: stored[name] for name in stored.files}
    words = json.loads(bytes(data["words"]).decode("utf-8"))
    firings = {}
    for alias in ("early", "middle", "late"):
        low, high = data[f"{alias}_steps"].astype(np.int64)
        # steps along one long list of latent * size + place
        places = np.cumsum(low + 256 * high)
        latents, where = np.divmod(places, data["tokens"].size)
        firings[alias] = np.split(where, np.searchsorted(latents, np.arange(1, int(data["d_sae"]))))
    effects = {
        int(latent): Effect(ids.astype(np.int64), support.astype(float), float(control), int(places))
        for latent, ids, support, control, places in zip(
            data["effect_latents"],
            data["effect_tokens"],
            data["effect_support"],
            data["effect_control"],
            data["effect_places"],
        )
    }
    return HeldBack(words, data["tokens"].astype(np.int64), firings, effects)
