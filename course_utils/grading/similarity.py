"""Which submissions share more than chance and the task explain: TF-IDF over runs of tokens (scikit-learn), with the evidence.

What many solve in the same way weighs little (inverse document frequency), and what stands in the lesson itself or its worked
answers counts for nothing, so short standard answers do not make a pair. Renaming everything hides a copy from this search.
Memory stays small: runs are kept as 32-bit hashes.
"""

from __future__ import annotations

import difflib
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

TOKEN = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|\"\"\"|'''|\S")
RUN = 5
"""Tokens in a run."""
THRESHOLD = 0.8
MIN_RARE_RUNS = 25
"""A pair needs this many shared runs that few others have."""
RARE = 3
"""A run is rare if at most this many submissions have it (in a class of more than 30: a tenth)."""


@dataclass(frozen=True)
class Pair:
    """Two submissions, how alike their answers are (0 to 1), and the longest passage they share."""

    first: str
    second: str
    similarity: float
    shared: int
    exercises: tuple[str, ...]
    passage: str

    def sentence(self, other: str) -> str:
        quote = " ".join(self.passage.split())[:160]
        return (
            f"similar to {other}: {self.similarity:.2f}, {self.shared} runs of {RUN} tokens that few others have "
            f"(in {', '.join(self.exercises)}; longest shared passage: `{quote}`)"
        )


def find(answers: dict[str, dict[str, str]], common: Iterable[str] = ()) -> list[Pair]:
    """Pairs of submissions whose answers are alike, the most alike first.

    Args:
        answers: submission id -> exercise id -> source.
        common: texts that everybody was given; runs of tokens in them count for nothing.
    """
    from course_utils.grading.wire import clean

    names = sorted(answers)
    given = _unique([code for text in common for code in runs(text)])
    hashed = [
        np.setdiff1d(_unique([code for text in answers[name].values() for code in runs(text)]), given) for name in names
    ]
    codes, counts = np.unique(np.concatenate([*hashed, np.empty(0, np.uint32)]), return_counts=True)
    rare = codes[counts <= max(RARE, len(names) // 10 if len(names) > 30 else 0)]
    pairs = []
    for i, j, score in _close_pairs(hashed):
        shared = np.intersect1d(np.intersect1d(hashed[i], hashed[j]), rare)
        if len(shared) < MIN_RARE_RUNS:
            continue
        a, b = answers[names[i]], answers[names[j]]
        alike = [key for key in sorted(a.keys() & b.keys()) if len(_shared(a[key], b[key], shared))]
        passage = max((_longest_shared(a[key], b[key]) for key in alike), key=len, default="")
        pairs.append(Pair(names[i], names[j], round(score, 2), len(shared), tuple(alike), clean(passage, 400)))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def runs(source: str) -> list[int]:
    """Hashes of the runs of tokens in a source; comments and names are tokens like any other."""
    found = TOKEN.findall(source[:200_000])
    return [zlib.crc32(" ".join(found[i : i + RUN]).encode("utf-8", "replace")) for i in range(len(found) - RUN + 1)]


def _unique(found: list[int]) -> np.ndarray:
    return np.unique(np.array(found, dtype=np.uint32))


def _shared(a: str, b: str, among: np.ndarray) -> np.ndarray:
    return np.intersect1d(np.intersect1d(_unique(runs(a)), _unique(runs(b))), among)


def _close_pairs(hashed: list[np.ndarray]) -> list[tuple[int, int, float]]:
    """Pairs whose TF-IDF vectors have a cosine of at least THRESHOLD."""
    if sum(len(codes) > 0 for codes in hashed) < 2:
        return []
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfTransformer

    vocabulary, columns = np.unique(np.concatenate(hashed), return_inverse=True)
    starts = np.concatenate([[0], np.cumsum([len(codes) for codes in hashed])])
    counts = csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(hashed), len(vocabulary)))
    matrix = TfidfTransformer().fit_transform(counts)
    found = []
    for start in range(0, len(hashed), 64):  # in slices: the product of a large class is not sparse
        product = (matrix[start : start + 64] @ matrix.T).tocoo()
        close = (product.data >= THRESHOLD) & (product.row + start < product.col)
        rows, others, values = product.row[close] + start, product.col[close], product.data[close]
        found += [(int(i), int(j), float(value)) for i, j, value in zip(rows, others, values)]
    return sorted(found)


def _longest_shared(a: str, b: str) -> str:
    a, b = a[:4000], b[:4000]
    match = difflib.SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return a[match.a : match.a + match.size]
