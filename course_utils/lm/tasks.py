"""Prompts for two small tasks a language model can be studied on: whom the gift goes to, and which year comes after.

Every prompt comes as a pair, clean and corrupt, that differs in one token, so that activations can be moved from one run to
the other position by position. All prompts of one call have the same number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NAMES = (
    "Mary", "John", "Tom", "Anna", "Paul", "Kate", "James", "Sarah", "Peter", "Lucy",
    "Mark", "Emma", "David", "Alice", "Jack", "Rose", "Henry", "Jane", "Robert", "Susan",
)  # fmt: skip
GIFTS = ("book", "ring", "ball", "letter", "drink", "key", "hat", "cup", "gift")
IOI_TEMPLATES = (
    "When {A} and {B} went to the store, {S} gave a {gift} to",
    "After {A} and {B} went to the park, {S} handed the {gift} to",
    "While {A} and {B} were at the school, {S} offered a {gift} to",
)
EVENTS = ("war", "siege", "voyage", "drought", "strike", "trial", "festival", "plague", "journey", "project")
YEARS_TEMPLATE = "The {event} lasted from the year {century}{tens}{units} to the year {century}"


@dataclass(frozen=True)
class TaskPrompts:
    """Prompts of one task, all of one length, with their corrupt twins."""

    tokens: Int[Tensor, "prompts context"]
    corrupt: Int[Tensor, "prompts context"]
    """The same prompts with one token exchanged, so that another answer is right."""
    answer: Int[Tensor, " prompts"]
    """Indirect objects: the right name's token. Years: the starting year's tens digit, 0 to 9."""
    wrong: Int[Tensor, " prompts"]
    """Indirect objects: the other name's token. Years: the tens digit of the corrupt year."""
    roles: tuple[str, ...]
    """What stands at each position, for the axis of a figure: the first prompt's tokens."""
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> TaskPrompts:
        tokens, corrupt, answer, wrong = (part[rows] for part in (self.tokens, self.corrupt, self.answer, self.wrong))
        return TaskPrompts(tokens, corrupt, answer, wrong, self.roles, self.texts[rows])

    @property
    def first_difference(self) -> int:
        """The first position at which clean and corrupt differ in any prompt; nothing before it can matter."""
        return int((self.tokens != self.corrupt).any(dim=0).nonzero()[0])


def one_token_words(tokenizer: Any, words: Sequence[str]) -> list[str]:
    """Those of `words` that are a single token with a space in front."""
    return [word for word in words if len(_ids(tokenizer, " " + word)) == 1]


def ioi_prompts(tokenizer: Any, n: int, seed: int = 0, *, template: int = 0) -> TaskPrompts:
    """Indirect-object identification (Wang et al. 2022): "When A and B went to the store, B gave a gift to" -> " A".

    Half of the prompts name the indirect object first, half second. The corrupt twin lets the *other* person give, so
    answer and wrong exchange places.

    Args:
        template: which of `IOI_TEMPLATES`.
    """
    rng = np.random.default_rng(seed)
    names, gifts = one_token_words(tokenizer, NAMES), one_token_words(tokenizer, GIFTS)
    clean, corrupt, answer, wrong = [], [], [], []
    for i in range(n):
        right, giver = (names[j] for j in rng.choice(len(names), size=2, replace=False))
        first, second = (right, giver) if i % 2 == 0 else (giver, right)
        fill = {"A": first, "B": second, "gift": gifts[rng.integers(len(gifts))]}
        clean.append(IOI_TEMPLATES[template].format(S=giver, **fill))
        corrupt.append(IOI_TEMPLATES[template].format(S=right, **fill))
        answer.append(_ids(tokenizer, " " + right)[0])
        wrong.append(_ids(tokenizer, " " + giver)[0])
    return _pack(tokenizer, clean, corrupt, answer, wrong)


def greater_than_prompts(tokenizer: Any, n: int, seed: int = 0) -> TaskPrompts:
    """Years (Hanna et al. 2023): "The war lasted from the year 1745 to the year 17" -> a digit of at least 4.

    Digits are single tokens in the bundled model's vocabulary, so the answer is the tens digit, where the original has both
    digits in one token. Tens run from 2 to 8, so that there are digits above and below. The corrupt twin starts in the
    first decade of the same century (1705), after which every digit from 1 on is right.

    Errors:
        ValueError: the tokenizer joins digits.
    """
    if len(digit_tokens(tokenizer).unique()) != 10 or len(_ids(tokenizer, "1745")) != 4:
        raise ValueError("this tokenizer joins digits into one token: the task is written for single digits")
    rng = np.random.default_rng(seed)
    clean, corrupt, tens = [], [], []
    for _ in range(n):
        fill = {
            "event": EVENTS[rng.integers(len(EVENTS))],
            "century": int(rng.integers(14, 20)),
            "units": int(rng.integers(2, 9)),
        }
        tens.append(int(rng.integers(2, 9)))
        clean.append(YEARS_TEMPLATE.format(tens=tens[-1], **fill))
        corrupt.append(YEARS_TEMPLATE.format(tens=0, **fill))
    return _pack(tokenizer, clean, corrupt, tens, [0] * n)


def digit_tokens(tokenizer: Any) -> Int[Tensor, " ten"]:
    """Token ids of the digits 0 to 9."""
    return torch.tensor([_ids(tokenizer, str(digit))[0] for digit in range(10)])


def logit_difference(
    logits: Float[Tensor, "prompts vocab"], answer: Int[Tensor, " prompts"], wrong: Int[Tensor, " prompts"]
) -> Float[Tensor, " prompts"]:
    """Logit of the right answer minus logit of the wrong one: above 0 means right."""
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, answer] - logits[rows, wrong]


def mass_above_minus_below(
    logits: Float[Tensor, "prompts vocab"], digits: Int[Tensor, " ten"], tens: Int[Tensor, " prompts"]
) -> Float[Tensor, " prompts"]:
    """Probability of digits above `tens` minus probability of digits below it (Hanna et al. 2023); equal counts for neither."""
    probability = logits.softmax(dim=-1)[:, digits]
    side = torch.sign(torch.arange(10, device=logits.device) - tens[:, None])
    return (probability * side).sum(dim=-1)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def _pack(tokenizer: Any, clean: list[str], corrupt: list[str], answer: list[int], wrong: list[int]) -> TaskPrompts:
    rows = [[[tokenizer.bos_token_id, *_ids(tokenizer, text)] for text in texts] for texts in (clean, corrupt)]
    lengths = {len(row) for part in rows for row in part}
    if len(lengths) != 1:
        raise ValueError(
            f"prompts of {sorted(lengths)} tokens: a word of this task is several tokens for this tokenizer"
        )
    tokens, other = (torch.tensor(part) for part in rows)
    roles = tuple(tokenizer.decode([i]) for i in rows[0][0])
    return TaskPrompts(tokens, other, torch.tensor(answer), torch.tensor(wrong), roles, tuple(clean))
