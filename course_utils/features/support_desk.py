"""The support desk: what does a customer complain about, according to the model, and what do latents change about it?

A model of 135 million parameters hardly answers yes/no questions about these messages (area under the ROC curve 0.53 to 0.65
in four prompts tried). What it can do better, and what is studied here, is to go on with "The customer complains about
the", on messages to which exactly one of four topics applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from course_utils.features.patching import last_logits, resid_at
from course_utils.lm.messages import load_messages

TOPICS = ("refund", "delay", "anger", "price")
WORDS = {
    "refund": (" refund",),
    "delay": (" delay", " delivery"),
    "anger": (" service", " customer"),
    "price": (" price", " cost"),
}
"""What stands for a topic after `AFTER`: the words' probabilities are added up."""
BEFORE, AFTER = "Customer message:", "\nThe customer complains about the"


@dataclass(frozen=True)
class TopicMessages:
    """Messages inside the prompt that asks for their topic, padded on the right."""

    tokens: Int[Tensor, "messages context"]
    in_message: Bool[Tensor, "messages context"]
    """The tokens of the message itself: where to read latents and where to steer."""
    last: Int[Tensor, " messages"]
    """The position at which the model says the topic."""
    topic: Int[Tensor, " messages"]
    """Index into `TOPICS`."""
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)


def topic_messages(tokenizer: Any, split: str, n: int, *, max_tokens: int = 48) -> TopicMessages:
    """The first `n` shipped messages of a split that carry exactly one of the four topics and are at most `max_tokens` long."""
    messages = load_messages(split)
    labels = torch.stack([messages.label(topic) for topic in TOPICS], dim=1)
    short = [len(tokenizer(text, add_special_tokens=False).input_ids) <= max_tokens for text in messages.texts]
    kept = ((labels.sum(dim=1) == 1) & torch.tensor(short)).nonzero()[:, 0].tolist()[:n]
    topics = labels[kept].int().argmax(dim=1).tolist()
    return _in_prompt(tokenizer, [messages.texts[i] for i in kept], topics)


def _in_prompt(tokenizer: Any, texts: list[str], topics: list[int]) -> TopicMessages:
    before = [tokenizer.bos_token_id, *tokenizer(BEFORE, add_special_tokens=False).input_ids]
    after = tokenizer(AFTER, add_special_tokens=False).input_ids
    bodies = [tokenizer(" " + text, add_special_tokens=False).input_ids for text in texts]
    width = len(before) + max(map(len, bodies)) + len(after)
    tokens = torch.full((len(texts), width), tokenizer.pad_token_id or 0, dtype=torch.long)
    inside = torch.zeros(len(texts), width, dtype=torch.bool)
    last = []
    for i, body in enumerate(bodies):
        row = [*before, *body, *after]
        tokens[i, : len(row)] = torch.tensor(row)
        inside[i, len(before) : len(before) + len(body)] = True
        last.append(len(row) - 1)
    return TopicMessages(tokens, inside, torch.tensor(last), torch.tensor(topics), tuple(texts))


def topic_tokens(tokenizer: Any) -> list[list[int]]:
    """Token ids of each topic's words."""
    return [[tokenizer(word, add_special_tokens=False).input_ids[0] for word in WORDS[topic]] for topic in TOPICS]


@torch.no_grad()
def read_messages(
    model: Any, messages: TopicMessages, hook_name: str, batch_size: int = 24
) -> Float[Tensor, "messages context d"]:
    """The residual stream of all messages at the hook point, computed once; steering starts from here."""
    return torch.cat([resid_at(model, rows, hook_name) for rows in messages.tokens.split(batch_size)])


@torch.no_grad()
def steered_logits(
    model: Any,
    messages: TopicMessages,
    x: Float[Tensor, "messages context d"],
    vector: Float[Tensor, " d"],
    hook_name: str,
    batch_size: int = 24,
) -> Float[Tensor, "messages vocab"]:
    """Logits at the topic's position with `vector` added on the tokens of each message, and nowhere else."""
    found = []
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        pushed = x[rows] + messages.in_message[rows, :, None] * vector.to(x)
        found.append(last_logits(model, pushed, hook_name, at=messages.last[rows], tokens=messages.tokens[rows]))
    return torch.cat(found)


def message_latents(
    sae: Any, x: Float[Tensor, "messages context d"], messages: TopicMessages
) -> Float[Tensor, "messages d_sae"]:
    """Each latent's largest activation inside each message."""
    rows = [sae.encode(row[keep]).amax(dim=0) for row, keep in zip(x, messages.in_message)]
    return torch.stack(rows).detach()
