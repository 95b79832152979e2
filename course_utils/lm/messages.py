"""The labelled customer messages: texts, which concepts hold in each, and how far one token gives a label away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from course_utils.io import sha256
from course_utils.lm.corpus import ASSETS


@dataclass(frozen=True)
class Messages:
    """Customer messages with known concepts.

    Attributes:
        texts: the messages.
        labels: `[messages, concepts]`; the last column, `none`, is true where no other is.
        concepts: names of the columns: refund, delay, anger, price, order_value, politeness, none.
        order_values: the order's value in dollars where the text states it, otherwise NaN.
        ids: one name a message.
    """

    texts: list[str]
    labels: Bool[Tensor, "messages concepts"]
    concepts: tuple[str, ...]
    order_values: list[float]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def label(self, concept: str) -> Bool[Tensor, " messages"]:
        """One concept's column.

        Errors:
            KeyError: no such concept.
        """
        if concept not in self.concepts:
            raise KeyError(f"no concept {concept!r}; there are: {', '.join(self.concepts)}")
        return self.labels[:, self.concepts.index(concept)]

    def tokens(
        self, model: Any, *, template: str = "{}", context: int | None = None
    ) -> tuple[Int[Tensor, "messages context"], Bool[Tensor, "messages context"]]:
        """Token ids padded on the right, BOS first, and the mask of what is text (BOS included, padding not).

        Args:
            model: a model or its tokenizer.
            template: text around each message, `{}` standing for it.
            context: cut longer messages to this many tokens; None takes the longest message's length.
        """
        tokenizer = getattr(model, "tokenizer", None) or model
        texts = [template.replace("{}", text) for text in self.texts]
        rows = [[tokenizer.bos_token_id, *ids] for ids in tokenizer(texts, add_special_tokens=False).input_ids]
        width = max(len(row) for row in rows) if context is None else context
        ids = torch.full((len(rows), width), tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row[:width])
            mask[i, : len(row)] = True
        return ids, mask


def load_messages(split: str = "train", *, max_messages: int | None = None) -> Messages:
    """The shipped messages of one split. Held-out messages share no sentence template with training ones.

    Args:
        split: `"train"` (3,000), `"heldout"` (1,000) or `"all"`.
        max_messages: only the first so many (they are in random order).

    Errors:
        ValueError: no such split.

    Example:
        >>> messages = load_messages("heldout")
        >>> messages.concepts[-1], len(messages)
        ('none', 1000)
    """
    if split not in ("train", "heldout", "all"):
        raise ValueError(f'no split {split!r}: use "train", "heldout" or "all"')
    rows = [row for row in _rows() if split in ("all", row["split"])][:max_messages]
    concepts = tuple(messages_manifest()["concepts"])
    labels = torch.tensor([[c in row["labels"] for c in concepts] + [not row["labels"]] for row in rows])
    values = [float("nan") if row["order_value"] is None else float(row["order_value"]) for row in rows]
    return Messages([r["text"] for r in rows], labels.bool(), (*concepts, "none"), values, [r["id"] for r in rows])


@cache
def messages_manifest() -> dict[str, Any]:
    """How the messages were made, how often each concept holds, and the best single token for each."""
    return json.loads((ASSETS / "messages.json").read_text(encoding="utf-8"))


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    import zstandard

    path = ASSETS / "messages.jsonl.zst"
    if not path.exists() or sha256(path) != messages_manifest()["sha256"]:
        raise FileNotFoundError(
            f"{path} is missing or not the file that messages.json describes: check the course out again, or make it again "
            "with `python -m course_utils.assets.build_messages`"
        )
    raw = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read()
    return tuple(json.loads(line) for line in raw.splitlines())


def best_single_token(token_ids: Sequence[Sequence[int]], labels: Sequence[bool]) -> tuple[int, float]:
    """The token whose mere presence, or absence, tells a label best, and its AUC.

    For a yes/no predictor the area under the ROC curve is `1/2 + (true positive rate - false positive rate) / 2`.
    """
    truth = np.asarray(labels, dtype=bool)
    size = max(max(ids, default=0) for ids in token_ids) + 1
    present = np.zeros((2, size))
    for ids, label in zip(token_ids, truth, strict=True):
        present[int(label), np.unique(np.asarray(ids, dtype=np.int64))] += 1
    gap = present[1] / max(truth.sum(), 1) - present[0] / max((~truth).sum(), 1)
    best = int(np.abs(gap).argmax())
    return best, float(0.5 + abs(gap[best]) / 2)
