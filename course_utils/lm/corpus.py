"""The shipped text: documents with source tags, and their tokens packed into sequences that each start with BOS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from course_utils import settings
from course_utils.io import atomic_write, sha256

ASSETS = Path(__file__).resolve().parent.parent / "assets"
Split = Literal["train", "heldout", "all"]


@dataclass(frozen=True)
class Document:
    """One text. `id` starts with its source: `moby-dick/chapter_42`."""

    id: str
    source: str
    split: str
    text: str


@dataclass(frozen=True)
class PackedTokens:
    """Tokens ready for a model: no padding anywhere, BOS at position 0 of every sequence.

    Attributes:
        tokens: `[sequences, context]`, int64.
        sources: the source of each sequence (a sequence never mixes two sources).
        documents: the id of the document in which each sequence starts.
        bos: the BOS token's id. It also stands between two short documents that share a sequence; skip positions by
            `tokens != bos`, not only position 0.
    """

    tokens: Int[Tensor, "sequences context"]
    sources: list[str]
    documents: list[str]
    bos: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_tokens(self) -> int:
        """Tokens that are text (BOS not counted)."""
        return int((self.tokens != self.bos).sum())

    def of(self, *sources: str) -> PackedTokens:
        """Only the sequences of these sources."""
        rows = [i for i, source in enumerate(self.sources) if source in sources]
        return self._take(rows)

    def _take(self, rows: Sequence[int]) -> PackedTokens:
        return PackedTokens(
            self.tokens[list(rows)], [self.sources[i] for i in rows], [self.documents[i] for i in rows], self.bos
        )


class Corpus(Sequence[Document]):
    """A list of documents that can be turned into tokens.

    Example:
        >>> corpus = load_corpus("heldout", sources=["moby-dick"])
        >>> corpus[0].source
        'moby-dick'
    """

    def __init__(self, documents: Sequence[Document], key: str = "") -> None:
        self.documents = list(documents)
        self.key = key

    def __len__(self) -> int:
        return len(self.documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def __getitem__(self, index: Any) -> Any:
        return Corpus(self.documents[index]) if isinstance(index, slice) else self.documents[index]

    @property
    def sources(self) -> list[str]:
        """The sources that occur, in alphabetical order."""
        return sorted({document.source for document in self.documents})

    def pack(
        self, tokenizer: Any, *, context: int = 128, max_tokens: int | None = None, seed: int | None = 0
    ) -> PackedTokens:
        """Cut the documents' tokens into sequences of `context` tokens, each beginning with BOS.

        Documents of one source follow one another, with BOS between them; what is left over at the end of a source (less
        than one sequence) is dropped, so there is no padding. Every sequence begins with BOS because the model was trained
        so: its first position collects attention and has an enormous norm, and it should not fall on a word.

        Args:
            tokenizer: a Hugging Face tokenizer, or a model that has one as `.tokenizer`.
            context: tokens a sequence, BOS included.
            max_tokens: stop after about this many tokens. Sequences are shuffled first, so every source keeps its share.
            seed: order of the sequences; None keeps documents together and in order.

        Errors:
            ValueError: when not even one sequence fits.
        """
        tokenizer = getattr(tokenizer, "tokenizer", None) or tokenizer
        bos = tokenizer.bos_token_id
        if bos is None:
            raise ValueError("this tokenizer has no BOS token: set tokenizer.bos_token (often to its EOS token) first")
        body = context - 1
        if body < 1:
            raise ValueError(f"context = {context} leaves no room for text after BOS: use at least 2")
        ids = self._token_ids(tokenizer)
        sequences: list[np.ndarray] = []
        sources: list[str] = []
        names: list[str] = []
        for source in self.sources:
            rows = [i for i, document in enumerate(self.documents) if document.source == source]
            stream = np.concatenate([np.append(ids[i], bos) for i in rows])[:-1]
            starts = np.cumsum([0] + [len(ids[i]) + 1 for i in rows])
            for begin in range(0, len(stream) - body + 1, body):
                sequences.append(stream[begin : begin + body])
                sources.append(source)
                names.append(self.documents[rows[int(np.searchsorted(starts, begin, side="right")) - 1]].id)
        if not sequences:
            raise ValueError(f"the documents are too short for one sequence of {context} tokens: use a smaller context")
        table = np.empty((len(sequences), context), dtype=np.int64)
        table[:, 0], table[:, 1:] = bos, np.stack(sequences)
        order = np.arange(len(table)) if seed is None else np.random.default_rng(seed).permutation(len(table))
        if max_tokens is not None:
            order = order[: max(1, max_tokens // context)]
        packed = PackedTokens(torch.from_numpy(table), sources, names, bos)
        return packed._take(order.tolist())

    def _token_ids(self, tokenizer: Any) -> list[np.ndarray]:
        """Each document's token ids; those of a whole shipped split are kept in the cache folder (2 MB, saves ten seconds)."""
        if not self.key:
            return _encode(tokenizer, self.documents)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        spelled = backend.to_str() if backend is not None else f"{type(tokenizer)}{len(tokenizer)}"
        name = hashlib.sha256(f"{self.key}{spelled}".encode()).hexdigest()[:24]
        path = settings.cache() / "tokens" / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                if len(stored["ends"]) == len(self.documents):
                    return np.split(stored["ids"].astype(np.int64), stored["ends"][:-1])
        except (OSError, ValueError, KeyError):
            pass
        ids = _encode(tokenizer, self.documents)
        try:
            with atomic_write(path, "wb") as file:
                ends = np.cumsum([len(one) for one in ids])
                np.savez_compressed(file, ids=np.concatenate(ids).astype(np.uint32), ends=ends)
        except OSError:  # a folder that cannot be written only costs the speed
            pass
        return ids


def load_corpus(
    split: Split = "train", *, sources: str | Sequence[str] | None = None, max_documents: int | None = None
) -> Corpus:
    """The shipped documents, in a fixed shuffled order (any prefix is a fair sample).

    Args:
        split: `"train"`, `"heldout"` (other documents, never trained on) or `"all"`. A text and its translations fall on
            the same side.
        sources: only these, for example `["moby-dick", "python"]`; see `corpus_sources()`. A name that ends with `*`
            stands for all that begin so: `"handbook-*"`.
        max_documents: at most this many.

    Errors:
        ValueError: for a split or source that does not exist.

    Example:
        >>> corpus = load_corpus("heldout", sources=["python"])
        >>> packed = corpus.pack(load_model(), context=128)     # doctest: +SKIP
    """
    if split not in ("train", "heldout", "all"):
        raise ValueError(f'no split {split!r}: use "train", "heldout" or "all"')
    documents = [d for d in _documents() if split in ("all", d.split)]
    key = f"{_checksum()}-{split}"
    if sources is not None:
        wanted = _expand([sources] if isinstance(sources, str) else sources)
        documents = [d for d in documents if d.source in wanted]
        key += "-" + "-".join(sorted(wanted))
    if max_documents is not None:
        documents, key = documents[:max_documents], ""
    return Corpus(documents, key)


@cache
def corpus_sources() -> dict[str, dict[str, Any]]:
    """Every source with its description, licence, credit, and its documents and tokens in each split."""
    return json.loads((ASSETS / "corpus.json").read_text(encoding="utf-8"))["sources"]


def _expand(sources: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for name in sources:
        matching = {s for s in corpus_sources() if s == name or (name.endswith("*") and s.startswith(name[:-1]))}
        if not matching:
            raise ValueError(f"no source {name!r}; there are: {', '.join(corpus_sources())}")
        found |= matching
    return found


@cache
def _documents() -> tuple[Document, ...]:
    import zstandard

    path = ASSETS / "corpus.jsonl.zst"
    expected = json.loads((ASSETS / "corpus.json").read_text(encoding="utf-8"))["sha256"]
    if not path.exists() or _checksum() != expected:
        raise FileNotFoundError(
            f"{path} is missing or not the file that corpus.json describes: check the course out again, or rebuild it with "
            "`python -m course_utils.assets.build_corpus`"
        )
    lines = zstandard.ZstdDecompressor().decompress(path.read_bytes()).splitlines()
    return tuple(Document(**json.loads(line)) for line in lines)


@cache
def _checksum() -> str:
    return sha256(ASSETS / "corpus.jsonl.zst")


def _encode(tokenizer: Any, documents: Sequence[Document]) -> list[np.ndarray]:
    texts = [document.text for document in documents]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    return [np.asarray(one, dtype=np.int64) for one in encoded]
