"""Make the labelled customer messages again: `python -m course_utils.assets.build_messages` (seconds, no network).

Each message says whether it asks for a refund, reports a delay, is angry, raises the price, states the order's value, and is
polite; any number of these may hold at once. Training and held-out messages share no template.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from course_utils.assets.message_grammar import (
    AMOUNT_FORMS,
    CLOSINGS,
    CONCEPTS,
    GREETINGS,
    HELDOUT,
    LINKS,
    NEUTRAL_HELDOUT,
    NEUTRAL_TRAIN,
    SLOTS,
    TRAIN,
)
from course_utils.io import atomic_write, sha256, write_json

HERE = Path(__file__).parent
SEED = 20260102
COUNTS = {"train": 3000, "heldout": 1000}
NONE_SHARE = 0.15  # messages to which no concept applies
CONCEPT_RATE = 0.33  # chance of each concept in the others
COUNTER_RATE = 0.5  # chance that a concept that does not apply is mentioned all the same

ONES = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
        "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def make_message(rng: random.Random, split: str) -> dict[str, Any]:
    """One message: text, the concepts that hold, and the order's value in dollars where the text states it."""
    pools, neutral = (TRAIN, NEUTRAL_TRAIN) if split == "train" else (HELDOUT, NEUTRAL_HELDOUT)
    if rng.random() < NONE_SHARE:
        holds: list[str] = []
    else:
        while not (holds := [concept for concept in CONCEPTS if rng.random() < CONCEPT_RATE]):
            pass
    value = _amount(rng)
    slots = {
        name: rng.choice(choices) for name, choices in SLOTS.items()
    }  # one product, one city: a message is about one thing
    sentences: list[str] = []
    for concept in CONCEPTS:
        if concept in holds:
            amount = value if concept == "order_value" else _amount(rng)
            sentences.append(_say(rng, rng.choice(pools[concept].express), slots, amount))
        elif rng.random() < COUNTER_RATE:
            sentences.append(_say(rng, rng.choice(pools[concept].counter), slots, _amount(rng)))
    if not sentences or rng.random() < 0.6:
        sentences.append(_say(rng, rng.choice(neutral), slots, value))
    rng.shuffle(sentences)
    return {
        "text": _compose(rng, sentences, slots),
        "labels": holds,
        "order_value": value if "order_value" in holds else None,
    }


def _compose(rng: random.Random, sentences: list[str], slots: dict[str, str]) -> str:
    parts = [sentences[0]]
    for sentence in sentences[1:]:
        link = rng.choice(LINKS)
        proper = sentence.split()[0].rstrip(",.'s") in {*SLOTS["weekday"], *SLOTS["name"], *SLOTS["month"], "I"}
        body = sentence[0].lower() + sentence[1:] if link and not proper else sentence
        parts.append(link + body)
    text = (rng.choice(["\n", " ", " "])).join(parts)
    # exclamation marks and capital letters are sprinkled without regard to the labels
    if rng.random() < 0.25:
        text = re.sub(r"\.(?=\s|$)", lambda m: "!" if rng.random() < 0.4 else m.group(), text)
    greeting, closing = (rng.choice(pool).format(**slots) for pool in (GREETINGS, CLOSINGS))
    text = f"{greeting} {text}".strip() + (f"\n{closing}" if closing else "")
    return text.lower() if rng.random() < 0.15 else text


def _say(rng: random.Random, template: str, slots: dict[str, str], amount: int) -> str:
    """Fill in one template: choices first, then slots."""
    text = re.sub(r"\[([^\]]*)\]", lambda match: rng.choice(match.group(1).split("|")), template)
    lower = max(5, round(amount * rng.uniform(0.6, 0.9)))
    money = {"amount": _write_amount(rng, amount), "amount2": _write_amount(rng, lower)}
    text = text.format(**slots, **money)
    return text[0].upper() + text[1:]


def _amount(rng: random.Random) -> int:
    """Dollars, spread evenly over the logarithm from 8 to 3,000, rounded as prices are."""
    raw = 8 * (3000 / 8) ** rng.random()
    return round(raw) if raw < 100 else round(raw / 5) * 5


def _write_amount(rng: random.Random, amount: int) -> str:
    return rng.choice(AMOUNT_FORMS).format(a=f"{amount:,}", words=number_in_words(amount))


def number_in_words(number: int) -> str:
    """A number below 10,000 in English words.

    Example:
        >>> number_in_words(1245)
        'one thousand two hundred and forty-five'
    """
    words = []
    if number >= 1000:
        words.append(f"{ONES[number // 1000]} thousand")
    if hundreds := number % 1000 // 100:
        words.append(f"{ONES[hundreds]} hundred")
    if rest := number % 100:
        small = ONES[rest] if rest < 20 else f"{TENS[rest // 10]}-{ONES[rest % 10]}".rstrip("-")
        words.append(f"and {small}" if words else small)
    return " ".join(words)


def messages(split: str, count: int, seed: int = SEED) -> Iterator[dict[str, Any]]:
    """`count` different messages of a split."""
    rng = random.Random(f"{seed}-{split}")
    seen: set[str] = set()
    while len(seen) < count:
        message = make_message(rng, split)
        if message["text"] not in seen:
            seen.add(message["text"])
            yield {"id": f"{split}-{len(seen) - 1:04d}", "split": split, **message}


REPLIES = {
    "refund": ("We will return the payment to your card within five days.", "Your refund is on its way."),
    "delay": ("I have asked the courier where your parcel is.", "It should reach you by the end of the week."),
    "anger": ("I understand how frustrating this is.", "You are right to be disappointed, and I am sorry."),
    "price": ("I have checked what the item should cost.", "We can match that offer."),
    "order_value": ("I can see your order and its total.", "Thank you for such a generous order."),
    "politeness": ("Thank you for your kind message.", "It is a pleasure to help."),
}


def chat_documents(seed: int, documents: int = 60, each: int = 20) -> Iterator[tuple[str, str]]:
    """Texts for the corpus: training messages of another seed, half of them as chats with a short reply."""
    rng = random.Random(f"{seed}-chat")
    rows = list(messages("train", documents * each, seed=seed))
    for number in range(documents):
        parts = []
        for row in rows[number * each : (number + 1) * each]:
            if number % 2:
                said = [rng.choice(REPLIES[label]) for label in row["labels"]] or [
                    "Thank you for your message, I will check."
                ]
                reply = " ".join(said)
                parts.append(f"<|im_start|>user\n{row['text']}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>")
            else:
                parts.append(row["text"])
        yield f"messages-{number:02d}", ("\n" if number % 2 else "\n\n---\n\n").join(parts)


def build(folder: Path) -> dict[str, Any]:
    """Write `messages.jsonl.zst` and `messages.json` (the manifest) into `folder`; return the manifest."""
    rows = [row for split, count in COUNTS.items() for row in messages(split, count)]
    raw = io.BytesIO()
    for row in rows:
        raw.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
    with atomic_write(folder / "messages.jsonl.zst", "wb") as file:
        file.write(zstandard.ZstdCompressor(level=22).compress(raw.getvalue()))
    manifest = {
        "command": "python -m course_utils.assets.build_messages",
        "seed": SEED,
        "concepts": list(CONCEPTS),
        "messages": COUNTS,
        "rates": {
            split: {c: round(sum(c in r["labels"] for r in rows if r["split"] == split) / n, 3) for c in CONCEPTS}
            for split, n in COUNTS.items()
        },
        "best_single_token": _giveaways(rows),
        "sha256": sha256(folder / "messages.jsonl.zst"),
        "licence": "CC0-1.0",
    }
    write_json(folder / "messages.json", manifest)
    return manifest


def _giveaways(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For each concept the token whose presence (or absence) tells most, with its AUC on each split."""
    from transformers import AutoTokenizer

    from course_utils.lm.messages import best_single_token
    from course_utils.lm.model import fetch_model

    tokenizer = AutoTokenizer.from_pretrained(fetch_model())
    ids = [tokenizer(row["text"], add_special_tokens=False).input_ids for row in rows]
    found = {}
    for concept in (*CONCEPTS, "none"):
        labels = [concept in row["labels"] if concept != "none" else not row["labels"] for row in rows]
        table = {}
        for split in COUNTS:
            part = [i for i, row in enumerate(rows) if row["split"] == split]
            token, auc = best_single_token([ids[i] for i in part], [labels[i] for i in part])
            table[split] = {"token": tokenizer.decode([token]), "auc": round(auc, 3)}
        found[concept] = table
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the labelled customer messages again from their grammar.")
    parser.add_argument("--folder", type=Path, default=HERE, help="where to write (default: the package's assets)")
    print(json.dumps(build(parser.parse_args().folder), indent=1))


if __name__ == "__main__":
    main()
